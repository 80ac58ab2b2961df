"""Image data sets: readers of untrusted files, divisions, and batches that depend on their number alone."""

import contextlib
import gzip
import hashlib
import os
import pickle
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mrfq.errors import FileFormatError, InvalidParameterError, InvalidProblemError, UnknownNameError
from mrfq.nn import digits
from mrfq.nn.images import DATASETS, IMAGENET, Augment, ImageBatches, ImageData, Split, cifar, load_images, mnist
from mrfq.nn.images.idx import DTYPES, read_idx
from mrfq.nn.images.mosaic import read_mosaic
from mrfq.nn.images.numpy_pickle import read_pickle
from mrfq.nn.images.splits import divide
from mrfq.nn.images.statistics import channel_statistics

DATA = Path(os.environ.get("MRFQ_DATA", "")) / "data"
needs_data = pytest.mark.skipif(
    "MRFQ_DATA" not in os.environ or not DATA.is_dir(), reason="MRFQ_DATA names no folder with data/"
)
LARGEST = 2**20


# ---- IDX ------------------------------------------------------------------------------------------------


def idx(array, code=0x08):
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, code, array.ndim, *array.shape)
    return header + array.astype(DTYPES[code]).tobytes()


@pytest.mark.parametrize("code", DTYPES)
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0, 5), (2, 1, 3, 2)])
def test_an_idx_file_is_read_plain_or_compressed_whatever_its_name(tmp_path, code, shape):
    size = int(np.prod(shape))
    array = np.asarray(np.arange(size).reshape(shape) * 7 - (0 if code == 0x08 else 9), dtype=DTYPES[code])
    for name, data in (("plain.gz", idx(array, code)), ("compressed", gzip.compress(idx(array, code), mtime=0))):
        (tmp_path / name).write_bytes(data)
        found = read_idx(tmp_path / name)
        assert found.dtype == np.dtype(DTYPES[code]).newbyteorder("=")
        np.testing.assert_array_equal(found, array, strict=False)
        assert found.shape == shape


@pytest.mark.parametrize("compress", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_a_file_that_is_cut_anywhere_or_longer_is_refused(tmp_path, compress):
    data = compress(idx(np.arange(24).reshape(2, 3, 4)))
    path = tmp_path / "a"
    for stop in range(len(data)):
        path.write_bytes(data[:stop])
        with pytest.raises(FileFormatError):
            read_idx(path)
    path.write_bytes(compress(idx(np.arange(24).reshape(2, 3, 4)) + b"x"))
    with pytest.raises(FileFormatError, match="found more bytes, expected 24 bytes, as the header says"):
        read_idx(path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "header: found the bytes of an empty file"),
        (b"PK\3\4aaaa", "header: found the bytes 50 4b 03 04"),
        (b"\0\0\x0a\1\0\0\0\1a", "a type"),
        (b"\0\0\x08\xff", "255 axes, expected at most 64"),
        (b"\0\0\x08\2\0\0\0\1", "sizes of 2 axes"),
        (b"\0\0\x08\1\x7f\xff\xff\xffabc", "too few bytes, expected 2,147,483,647"),
        (b"\0\0\x0e\2\xff\xff\xff\xff\xff\xff\xff\xff", "at most 2,147,483,648"),
        (gzip.compress(b"\0\0\x08\1\x7f\xff\xff\xffabc", mtime=0), "too few bytes"),
        (gzip.compress(idx(np.arange(9)), mtime=0)[:-3] + b"abc", "broken gzip data"),
    ],
)
def test_a_wrong_idx_file_is_refused_with_the_reason(tmp_path, data, message):
    path = tmp_path / "a"
    path.write_bytes(data)
    with pytest.raises(FileFormatError, match=message) as caught:
        read_idx(path)
    assert caught.value.path == str(path)


def test_no_more_is_decompressed_than_the_header_says(tmp_path):
    path = tmp_path / "bomb"
    path.write_bytes(gzip.compress(b"\0\0\x08\1\0\0\0\4" + bytes(2**25), mtime=0))
    tracemalloc.start()
    with pytest.raises(FileFormatError, match="more bytes"):
        read_idx(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**22


# ---- MNIST ----------------------------------------------------------------------------------------------

SMALL = {"train": 12, "test": 5}


@pytest.fixture
def small_mnist(monkeypatch):
    """The images and labels of the two parts, and a function that writes their files."""
    monkeypatch.setattr(mnist, "COUNTS", SMALL)
    random = np.random.default_rng(0)
    parts = {
        part: (random.integers(0, 256, (n, 28, 28), dtype=np.uint8), random.integers(0, 10, n, dtype=np.uint8))
        for part, n in SMALL.items()
    }

    def write(folder, names="{}-{}-idx{}-ubyte.gz"):
        folder.mkdir(parents=True, exist_ok=True)
        for part, prefix in (("train", "train"), ("test", "t10k")):
            for kind, array in zip(("images", "labels"), parts[part], strict=True):
                name = names.format(prefix, kind, array.ndim)
                data = idx(array)
                (folder / name).write_bytes(gzip.compress(data, 1) if name.endswith(".gz") else data)

    return parts, write


@pytest.mark.parametrize("inner", ["", "mnist", "MNIST/raw"])
@pytest.mark.parametrize("names", ["{}-{}-idx{}-ubyte.gz", "{}-{}-idx{}-ubyte", "{}-{}.idx{}-ubyte"])
def test_mnist_is_found_under_its_usual_names(tmp_path, small_mnist, inner, names):
    parts, write = small_mnist
    write(tmp_path / inner, names)
    for split, (images, labels) in zip(mnist.read_mnist(tmp_path), parts.values(), strict=True):
        assert split.images.dtype == torch.uint8
        np.testing.assert_array_equal(split.images[:, 0].numpy(), images)
        assert split.labels.tolist() == labels.tolist()


def test_a_wrong_folder_says_what_was_sought_and_what_is_there(tmp_path, small_mnist):
    for name in range(15):
        (tmp_path / f"{name:02}.txt").touch()
    with pytest.raises(InvalidParameterError) as caught:
        load_images("mnist", tmp_path)
    for part in (str(tmp_path), "train-images-idx3-ubyte.gz", "t10k-labels", "MNIST/raw/", "00.txt", "and 3 more"):
        assert part in str(caught.value)
    small_mnist[1](tmp_path / "mnist")
    (tmp_path / "mnist" / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(InvalidParameterError, match=r"mnist has some files .* but lacks t10k-labels-idx1-ubyte\.gz"):
        load_images("mnist", tmp_path)
    with pytest.raises(InvalidParameterError, match="is not there"):
        load_images("mnist", tmp_path / "nowhere")
    with pytest.raises(InvalidParameterError, match="is not a folder"):
        load_images("mnist", tmp_path / "00.txt")
    with pytest.raises(InvalidParameterError, match="needs the folder"):
        load_images("mnist")


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("train-images-idx3-ubyte.gz", np.zeros((11, 28, 28)), r"shape \(11, 28, 28\), expected uint8 of shape \(12"),
        ("t10k-images-idx3-ubyte.gz", np.zeros((5, 28, 27)), r"expected uint8 of shape \(5, 28, 28\)"),
        ("t10k-labels-idx1-ubyte.gz", np.zeros(6), r"expected uint8 of shape \(5,\)"),
        ("t10k-labels-idx1-ubyte.gz", np.array([1, 2, 10, 3, 11]), "label 2: found 10, expected 0 to 9"),
    ],
)
def test_files_that_are_not_mnists_are_refused(tmp_path, small_mnist, name, array, message):
    small_mnist[1](tmp_path)
    (tmp_path / name).write_bytes(gzip.compress(idx(array), mtime=0))
    with pytest.raises(FileFormatError, match=message):
        mnist.read_mnist(tmp_path)


# ---- pickles --------------------------------------------------------------------------------------------


def old(value):
    """Return the instructions with which Python 2 wrote a value, protocol 2."""
    match value:
        case bytes() if len(value) < 256:
            return b"U" + struct.pack("<B", len(value)) + value
        case bytes():
            return b"T" + struct.pack("<i", len(value)) + value
        case int() if value < 256:
            return b"K" + struct.pack("<B", value)
        case int():
            return b"M" + struct.pack("<H", value)
        case list():
            return b"](" + b"".join(map(old, value)) + b"e"
        case dict():
            return b"}(" + b"".join(old(key) + old(entry) for key, entry in value.items()) + b"u"
        case np.ndarray():
            make = b"cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\0\x85U\x01b\x87R"
            dtype = b"cnumpy\ndtype\nU\x02u1K\0K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
            shape = b"".join(map(old, value.shape)) + b"\x86"
            return make + b"(K\x01" + shape + dtype + b"\x89" + old(value.tobytes()) + b"tb"
    raise AssertionError(value)


def refusal(folder, data, largest=LARGEST):
    (folder / "a").write_bytes(data)
    with pytest.raises(FileFormatError) as caught:
        read_pickle(folder / "a", largest)
    return str(caught.value)


def test_pickles_of_python_2_are_read(tmp_path):
    array = np.arange(600, dtype=np.uint8).reshape(200, 3)
    (tmp_path / "a").write_bytes(b"\x80\x02" + old({b"data": array, b"labels": [1, 300], b"batch_label": b"x"}) + b".")
    found = read_pickle(tmp_path / "a", LARGEST)
    np.testing.assert_array_equal(found.pop(b"data"), array, strict=True)
    assert found == {b"labels": [1, 300], b"batch_label": b"x"}


@pytest.mark.parametrize("dtype", ["uint8", ">i4", "<f8", "float32", "bool"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_plain_data_and_arrays_of_python_3_are_read(tmp_path, dtype, order):
    array = np.asarray(np.arange(6).reshape(2, 3), dtype=dtype, order=order)
    shared = [1, -70000, 2**70, 2.5]
    value = {
        "a": shared,
        "b": (shared, None, True, False, ()),
        3: "héé\ud800",
        "c": (1, 2, 3, 4),
        "d": b"\xff\0",
        "e": {},
    }
    (tmp_path / "a").write_bytes(pickle.dumps({"array": array, **value}, protocol=2))
    found = read_pickle(tmp_path / "a", LARGEST)
    np.testing.assert_array_equal(found.pop("array"), array, strict=True)
    assert found == value
    assert found["a"] is found["b"][0]


class Evil:
    def __reduce__(self):
        return os.mkdir, ("evil",)


def test_nothing_in_a_pickle_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for protocol in range(6):
        refusal(tmp_path, pickle.dumps({"data": Evil()}, protocol=protocol))
    assert not (tmp_path / "evil").exists()
    assert "the name 'posix.mkdir'" in refusal(tmp_path, b"\x80\x02cposix\nmkdir\nU\x04evil\x85R.")
    pickle.loads(pickle.dumps(Evil(), protocol=2))
    assert (tmp_path / "evil").exists()  # the pickle was one that does something


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "byte 0: found the end of the file"),
        (b"\x80\x02", "byte 2: found the end of the file"),
        (b"K\1K\2.", "more or less than one value"),
        (b".", "more or less than one value"),
        (b"(K\1.", "more or less than one value"),
        (b"0.", r"the instruction b'0'"),
        (b"S'\\q'\n.", r"the instruction b'S'"),
        (b"e.", "needs a mark"),
        (b"K\1K\2a.", "needs a list"),
        (b"K\1(e.", "needs a list"),
        (b"}K\1\x85s.", "needs a dict"),
        (b"}(K\1u.", "a key without a value"),
        (b"K\1s.", "takes a value where there is none"),
        (b"}]K\1s.", "a key of type list"),
        (b"h\7.", "the stored value 7"),
        (b"q\7.", "takes a value"),
        (b"X\2\0\0\0\xff\xff.", "a text that is not UTF-8"),
        (b"T\xff\xff\xff\xff.", "the end of the file"),
        (b"T\xff\xff\xff\x7fabc.", "the end of the file"),
        (b"cnumpy\nndarray", "a name without an end"),
        (b"cnumpy\nndarray\n.", "half made"),
        (b"cnumpy\nndarray\n)R.", "a call of numpy.ndarray"),
        (b"K\1)R.", "a call of no function"),
        (b"cnumpy\ndtype\nU\2O8K\0K\1\x87R.", "an array of 'O8'"),
        (b"cnumpy\ndtype\nU\2u1K\0K\1\x87R(K\3U\1?tb.", "without a byte order"),
        (b"cnumpy\ndtype\nU\2u1K\0K\1\x87RNb.", "without a byte order"),
        (b"cnumpy\ndtype\nU\2u1K\0K\1\x87R.", "half made"),
        (b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85U\1b\x87R.", "half made"),
        (b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85U\1b\x87RNb.", "not in bytes"),
        (b"c_codecs\nencode\nX\2\0\0\0\xc4\x80X\6\0\0\0latin1\x86R.", "beyond Latin-1"),
        (b"]q\0h\0a.", "nested too deep"),
        (b"(" * 30 + b"t" * 30 + b".", "nested too deep"),
    ],
)
def test_broken_pickles_are_refused_with_the_reason(tmp_path, data, message):
    assert message in refusal(tmp_path, data)


def test_an_array_must_have_the_bytes_of_its_shape(tmp_path):
    whole = old(np.zeros((2, 3), dtype=np.uint8)) + b"."
    assert "an array of shape (2, 200) with 6 bytes" in refusal(tmp_path, whole.replace(b"K\2K\3\x86", b"K\2K\xc8\x86"))
    assert "shape is not numbers" in refusal(tmp_path, whole.replace(b"K\2K\3\x86", b"K\2N\x86"))


def test_a_pickle_cannot_ask_for_more_memory_than_it_has_bytes(tmp_path):
    text = b"X" + struct.pack("<I", 10**5) + b"a" * 10**5
    again = b"h\0h\1h\2\x86Ra"
    data = b"c_codecs\nencode\nq\0" + text + b"q\1X\6\0\0\0latin1q\2" + b"]" + again * 5000 + b"."
    tracemalloc.start()
    assert "again and again" in refusal(tmp_path, data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * len(data)
    assert "expected at most 100" in refusal(tmp_path, data, largest=100)


def test_lists_that_are_shared_over_and_over_take_no_time(tmp_path):
    doubled = b"]q\0" + b"".join(b"](h" + bytes([i]) + b"h" + bytes([i]) + b"eq" + bytes([i + 1]) for i in range(18))
    (tmp_path / "a").write_bytes(b"(" + doubled + b"t.")
    assert len(read_pickle(tmp_path / "a", LARGEST)) == 19


PICKLE = (
    b"\x80\x02"
    + old({b"data": np.arange(6, dtype=np.uint8).reshape(2, 3), b"labels": [1, 300], b"c": b"x" * 300})
    + b"."
)
EDITS = st.lists(
    st.tuples(st.integers(0, len(PICKLE) - 1), st.integers(0, 3), st.binary(max_size=4)), min_size=1, max_size=4
)
ON_FILES = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture]}


@settings(max_examples=400, **ON_FILES)
@given(edits=EDITS)
def test_a_changed_pickle_is_read_or_refused(tmp_path, edits):
    data = PICKLE
    for place, cut, new in edits:
        data = data[:place] + new + data[place + cut :]
    (tmp_path / "a").write_bytes(data)
    with contextlib.suppress(FileFormatError):
        read_pickle(tmp_path / "a", LARGEST)


@settings(max_examples=100, **ON_FILES)
@given(
    data=st.binary(max_size=60)
    | st.lists(st.sampled_from([PICKLE[i : i + 9] for i in range(0, len(PICKLE), 9)]), max_size=9).map(b"".join)
)
def test_junk_is_refused(tmp_path, data):
    (tmp_path / "a").write_bytes(data)
    with contextlib.suppress(FileFormatError):
        read_pickle(tmp_path / "a", LARGEST)


# ---- CIFAR-10 -------------------------------------------------------------------------------------------

TILES = 2


def write_binary(folder, name, images, labels):
    records = np.concatenate([labels[:, None], images.reshape(len(images), -1)], axis=1)
    (folder / f"{name}.bin").write_bytes(records.tobytes())


def write_python_2(folder, name, images, labels):
    content = {b"data": images.reshape(len(images), -1), b"labels": labels.tolist(), b"batch_label": b"a batch"}
    (folder / name).write_bytes(b"\x80\x02" + old(content) + b".")


def write_python_3(folder, name, images, labels):
    content = {"data": images.reshape(len(images), -1), "labels": labels.tolist()}
    (folder / name).write_bytes(pickle.dumps(content, protocol=2))


def write_mosaic(folder, name, images, labels):
    image = pytest.importorskip("PIL.Image")
    mosaic = images.reshape(TILES, TILES, 3, 32, 32).transpose(0, 3, 1, 4, 2).reshape(32 * TILES, 32 * TILES, 3)
    image.fromarray(mosaic).save(folder / f"{name}.webp", lossless=True)
    (folder / f"{name}.labels").write_bytes(labels.tobytes())


FORMATS = {
    "cifar-10-batches-bin": write_binary,
    "cifar-10-batches-py": write_python_2,
    ".": write_python_3,
    "cifar10": write_mosaic,
}


@pytest.fixture
def small_cifar(monkeypatch):
    """Random images and labels of the six files, and a function that writes them."""
    monkeypatch.setattr(cifar, "TILES", TILES)
    random = np.random.default_rng(1)
    n = TILES**2
    parts = {
        name: (random.integers(0, 256, (n, 3, 32, 32), dtype=np.uint8), random.integers(0, 10, n, dtype=np.uint8))
        for name in (*cifar.TRAIN, cifar.TEST)
    }

    def write(folder, writer):
        folder.mkdir(exist_ok=True)
        for name, (images, labels) in parts.items():
            writer(folder, name, images, labels)

    return parts, write


@pytest.mark.parametrize("inner", FORMATS)
def test_cifar_10_is_read_in_every_format(tmp_path, small_cifar, inner):
    parts, write = small_cifar
    write(tmp_path / inner, FORMATS[inner])
    train, test = cifar.read_cifar10(tmp_path)
    expected = [np.concatenate([parts[name][i] for name in cifar.TRAIN]) for i in (0, 1)]
    for split, (images, labels) in ((train, expected), (test, parts[cifar.TEST])):
        np.testing.assert_array_equal(split.images.numpy(), images, strict=True)
        assert split.labels.tolist() == labels.tolist()


def with_entry(**entries):
    return lambda images, labels: pickle.dumps({"data": images.reshape(4, -1), "labels": labels.tolist()} | entries, 2)


@pytest.mark.parametrize(
    ("writer", "name", "content", "message"),
    [
        (write_binary, "test_batch.bin", lambda x, y: b"\0" * (4 * 3073 - 1), "found 12,291 bytes, expected 12,292"),
        (write_binary, "test_batch.bin", lambda x, y: b"\x0a" * (4 * 3073), "label 0: found 10, expected 0 to 9"),
        (write_python_3, "test_batch", lambda x, y: b"\x80\x02N.", "found a NoneType, expected a dictionary"),
        (write_python_3, "test_batch", lambda x, y: b"\x80\x02}.", "no entry 'data'"),
        (write_python_3, "test_batch", with_entry(data=None), "data: found no array"),
        (write_python_3, "test_batch", with_entry(data=np.zeros((4, 3072))), "float64 of shape"),
        (write_python_3, "test_batch", with_entry(data=np.zeros((3, 3072), np.uint8)), r"found uint8 of shape \(3"),
        (write_python_3, "test_batch", with_entry(labels=[1, 2, 3]), "found 3 of them, expected a list of 4"),
        (write_python_3, "test_batch", with_entry(labels=[1, 2, 3, -1]), "label 3: found -1, expected 0 to 9"),
        (write_python_3, "test_batch", with_entry(labels=[1, [], 3, 1]), "label 1: found list"),
        (write_mosaic, "test_batch.labels", lambda x, y: b"\1\2\3", "found 3 bytes, expected 4"),
        (write_mosaic, "test_batch.labels", lambda x, y: b"\1\2\3\xff", "label 3: found 255"),
        (write_mosaic, "test_batch.webp", lambda x, y: b"GIF89a", "header: found .* expected a lossless WebP image"),
        (write_mosaic, "test_batch.webp", lambda x, y: b"", "its size: found 0 bytes"),
    ],
)
def test_files_that_are_not_cifars_are_refused(tmp_path, small_cifar, writer, name, content, message):
    parts, write = small_cifar
    write(tmp_path, writer)
    (tmp_path / name).write_bytes(content(*parts[cifar.TEST]))
    with pytest.raises(FileFormatError, match=message):
        cifar.read_cifar10(tmp_path)


def test_mosaics_are_refused_before_they_are_decoded_or_when_broken(tmp_path, small_cifar):
    image = pytest.importorskip("PIL.Image")
    small_cifar[1](tmp_path, write_mosaic)
    path = tmp_path / "test_batch.webp"
    whole = path.read_bytes()
    for stop in range(0, len(whole), 211):
        path.write_bytes(whole[:stop])
        with pytest.raises(FileFormatError):
            read_mosaic(path, 32, TILES, TILES)
    path.write_bytes(whole)
    with pytest.raises(FileFormatError, match="found 64x64 pixels, expected 96x64"):
        read_mosaic(path, 32, TILES, TILES + 1)
    image.new("RGBA", (64, 64), (1, 2, 3, 4)).save(path, lossless=True, exact=True)
    with pytest.raises(FileFormatError):
        read_mosaic(path, 32, TILES, TILES)


def test_a_partly_copied_cifar_says_what_is_missing(tmp_path, small_cifar):
    small_cifar[1](tmp_path, write_binary)
    (tmp_path / "data_batch_3.bin").unlink()
    with pytest.raises(InvalidParameterError, match=r"the binary version but lacks data_batch_3\.bin; it holds data_"):
        cifar.read_cifar10(tmp_path)


# ---- data sets ------------------------------------------------------------------------------------------


def test_the_digits_are_those_of_the_benchmark():
    data = load_images("digits")
    for name, (inputs, labels) in digits.load().items():
        split = data.split(name)
        assert torch.equal(split.images.flatten(1) / data.maximum, inputs)
        assert torch.equal(split.labels, labels)
    assert (data.classes, data.shape, data.maximum, data.name) == (10, (1, 8, 8), 16, "digits")


def test_a_validation_split_is_fixed_and_a_partition():
    n = 60_000
    data = Split(torch.zeros(n, 1, 1, 1, dtype=torch.uint8), torch.arange(n))
    train, validation = divide(data, 10_000, seed=0)
    assert validation.labels[-5:].tolist() == [45891, 52416, 42613, 43567, 2732]
    assert torch.equal(torch.cat([train.labels, validation.labels]).sort().values, torch.arange(n))
    assert not torch.equal(divide(data, 10_000, seed=1)[1].labels, validation.labels)
    assert len(divide(data, 0, seed=0)[1]) == 0
    for wrong in (-1, n, 0.5, True):
        with pytest.raises(InvalidParameterError, match="validation: must be a number of images from 0 to 59999"):
            divide(data, wrong, seed=0)
    with pytest.raises(InvalidParameterError, match="seed"):
        divide(data, 1, seed=-1)


def test_sizes_of_the_validation_split_can_be_chosen(tmp_path, small_mnist):
    small_mnist[1](tmp_path)
    data = load_images("mnist", tmp_path, validation=5)
    assert [len(data.split(name)) for name in ("train", "validation", "test")] == [7, 5, 5]
    with pytest.raises(InvalidParameterError, match="validation"):
        load_images("mnist", tmp_path)
    both = load_images("digits", validation=0)
    assert (len(both.train), len(both.validation)) == (1078 + 359, 0)


def test_unknown_names_are_refused_with_a_suggestion():
    with pytest.raises(UnknownNameError, match="did you mean 'cifar10'"):
        load_images("cifar-10")
    with pytest.raises(UnknownNameError, match="did you mean 'validation'"):
        load_images("digits").split("valid")
    assert list(DATASETS) == ["digits", "mnist", "cifar10"]


def test_statistics_are_those_of_the_training_images_to_the_last_digit():
    data = load_images("digits")
    pixels = data.train.images.double() / 16
    assert data.mean == pytest.approx([float(pixels.mean())], rel=1e-12)
    assert data.std == pytest.approx([float(pixels.std(correction=0))], rel=1e-12)
    images = torch.randint(0, 256, (20, 3, 5, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, std = channel_statistics(images)
    np.testing.assert_allclose(mean, (images.double() / 255).mean((0, 2, 3)), rtol=1e-14)
    np.testing.assert_allclose(std, (images.double() / 255).std((0, 2, 3), correction=0), rtol=1e-12)


def test_normalisation_can_be_given(tmp_path, small_cifar):
    small_cifar[1](tmp_path, write_binary)
    data = load_images("cifar10", tmp_path, validation=0, normalise=IMAGENET)
    assert (data.mean, data.std) == IMAGENET
    images, _ = next(iter(ImageBatches(data, "test", 4, seed=0)))
    mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in IMAGENET)
    torch.testing.assert_close(images, (data.test.images / 255 - mean) / std, rtol=1e-5, atol=1e-5)
    for wrong in (((0.5,), (0.2,)), ((0, 0, 0), (1, 0, 1)), ((0, 0, float("nan")), (1, 1, 1)), ((), ())):
        with pytest.raises(InvalidParameterError, match="normalise: must be 3 means and 3 positive"):
            load_images("cifar10", tmp_path, validation=0, normalise=wrong)


def test_images_without_contrast_cannot_be_normalised():
    with pytest.raises(InvalidProblemError, match="channel 1 is 0 everywhere"):
        channel_statistics(torch.tensor([[0, 0], [1, 0]], dtype=torch.uint8).reshape(2, 2, 1, 1))
    with pytest.raises(InvalidProblemError, match="none"):
        channel_statistics(torch.zeros(0, 1, 2, 2, dtype=torch.uint8))


def test_a_split_has_images_and_as_many_labels():
    with pytest.raises(InvalidProblemError, match="must be uint8"):
        Split(torch.zeros(2, 1, 3, 3), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(InvalidProblemError, match=r"must be int64 \(2,\)"):
        Split(torch.zeros(2, 1, 3, 3, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64))


# ---- batches --------------------------------------------------------------------------------------------

N, C, H, W = 23, 2, 6, 5


def made(n=N):
    """Random images, whose labels are their numbers."""
    images = torch.randint(1, 256, (n, C, H, W), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    split = Split(images, torch.arange(n))
    return ImageData("made", n, (C, H, W), split, split.head(0), split, *channel_statistics(images))


def pixels(data, inputs):
    """Return normalised images as the whole numbers they were."""
    mean, std = (torch.tensor(values).reshape(-1, 1, 1) for values in (data.mean, data.std))
    return ((inputs * std + mean) * data.maximum).round().to(torch.uint8)


@pytest.mark.parametrize("size", [1, 4, 7, 22, 23, 100])
def test_the_fixed_order_covers_every_image_once_in_batches_of_near_equal_size(size):
    data = made()
    batches = ImageBatches(data, "train", size, seed=0, augment=Augment(shift=2, flip=True))
    found = list(batches)
    assert len(found) == batches.fixed_count == -(-N // min(size, N))
    assert torch.equal(torch.cat([labels for _, labels in found]), data.train.labels)
    assert torch.equal(pixels(data, torch.cat([inputs for inputs, _ in found])), data.train.images)
    sizes = {len(labels) for _, labels in found}
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= size
    for index in (-1, batches.fixed_count):
        with pytest.raises(InvalidParameterError, match="index"):
            batches.fixed(index)


@pytest.mark.parametrize("size", [1, 4, 7, 23, 100])
def test_shuffled_passes_have_full_batches_and_no_image_twice(size):
    data = made()
    batches = ImageBatches(data, "train", size, seed=3)
    full = min(size, N)
    assert batches.count == N // full
    orders = []
    for epoch in range(3):
        drawn = [batches.shuffled(epoch * batches.count + index) for index in range(batches.count)]
        assert all(len(labels) == full for _, labels in drawn)
        order = torch.cat([labels for _, labels in drawn])
        assert len(order.unique()) == batches.count * full
        for inputs, labels in drawn:
            assert torch.equal(pixels(data, inputs), data.train.images[labels])
        orders.append(order.tolist())
    assert orders[0] != orders[1] != orders[2]


@pytest.mark.parametrize("augment", [None, Augment(shift=1), Augment(crop=3, flip=True), Augment(flip=True)])
def test_a_shuffled_batch_depends_on_seed_and_number_alone(augment):
    data, state = made(), torch.random.get_rng_state()
    batches = ImageBatches(data, "train", 5, seed=7, augment=augment)
    forward = [batches.shuffled(draw) for draw in range(12)]
    other = ImageBatches(data, "train", 5, seed=7, augment=augment)
    for draw in (11, 0, 7, 3, 3, 8):
        for a, b in zip(forward[draw], other.shuffled(draw), strict=True):
            assert torch.equal(a, b)
    different = ImageBatches(data, "train", 5, seed=8, augment=augment)
    assert any(not torch.equal(different.shuffled(draw)[1], forward[draw][1]) for draw in range(4))
    assert torch.equal(state, torch.random.get_rng_state())


def moved(image, down, right):
    """Return an image moved by some pixels, zeros moved in."""
    result = torch.zeros_like(image)
    for row in range(H):
        for column in range(W):
            if 0 <= row - down < H and 0 <= column - right < W:
                result[:, row, column] = image[:, row - down, column - right]
    return result


@pytest.mark.parametrize("augment", [Augment(shift=1), Augment(crop=1, flip=True), Augment(flip=True)])
def test_augmented_images_are_all_the_shifts_and_mirrorings_about_equally_often(augment):
    data = made(4)
    reach = range(-augment.reach, augment.reach + 1)
    possible = [
        {
            tuple(moved(image.flip(-1) if flip else image, down, right).flatten().tolist()): (down, right, flip)
            for down in reach
            for right in reach
            for flip in (False, True)[: 1 + augment.flip]
        }
        for image in data.train.images
    ]
    seen = dict.fromkeys(possible[0].values(), 0)
    batches, draws = ImageBatches(data, "train", 4, seed=0, augment=augment), 40 * len(seen)
    for draw in range(draws):
        inputs, labels = batches.shuffled(draw)
        for image, label in zip(pixels(data, inputs), labels.tolist(), strict=True):
            seen[possible[label][tuple(image.flatten().tolist())]] += 1
    assert sum(seen.values()) == 4 * draws
    assert all(110 < times < 215 for times in seen.values()), seen  # 160 on average, four standard deviations


def test_images_of_a_batch_move_independently_of_each_other():
    data = made(16)
    inputs, labels = ImageBatches(data, "train", 16, seed=0, augment=Augment(shift=2)).shuffled(0)
    kept = (pixels(data, inputs) == data.train.images[labels]).flatten(1).all(1)
    assert 0 <= int(kept.sum()) < 6


def test_a_part_of_a_split_can_be_batched():
    data = made()
    assert len(torch.cat([labels for _, labels in ImageBatches(data, data.train.head(9), 4, seed=0)])) == 9


def test_batches_say_what_is_wrong_with_their_settings():
    data = made()
    with pytest.raises(InvalidProblemError, match="made, validation: has no images"):
        ImageBatches(data, "validation", 4, seed=0)
    with pytest.raises(InvalidProblemError, match=r"images of shape \(1, 8, 8\)"):
        ImageBatches(data, load_images("digits").train, 4, seed=0)
    with pytest.raises(UnknownNameError, match="split 'training'"):
        ImageBatches(data, "training", 4, seed=0)
    with pytest.raises(InvalidParameterError, match="batch_size"):
        ImageBatches(data, "train", 0, seed=0)
    with pytest.raises(InvalidParameterError, match="less than the 5 pixels"):
        ImageBatches(data, "train", 4, seed=0, augment=Augment(crop=5))
    for wrong in (-1, 2**40, 1.0):
        with pytest.raises(InvalidParameterError, match="seed"):
            ImageBatches(data, "train", 4, seed=wrong)


@pytest.mark.parametrize("wrong", [{"shift": -1}, {"crop": 1.5}, {"flip": 1}, {"shift": True}, {"shift": 1, "crop": 2}])
def test_wrong_augmentations_are_refused(wrong):
    with pytest.raises(InvalidParameterError, match=next(iter(wrong))):
        Augment(**wrong)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_batches_on_a_gpu_are_those_of_the_cpu_and_wait_for_nothing():
    augment = Augment(crop=2, flip=True)
    on_cpu = ImageBatches(load_images("digits"), "train", 50, seed=0, augment=augment)
    on_gpu = ImageBatches(load_images("digits", device="cuda"), "train", 50, seed=0, augment=augment)
    on_gpu.shuffled(0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        drawn = [on_gpu.shuffled(draw) for draw in range(on_gpu.count)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for draw, (inputs, labels) in enumerate(drawn):
        expected, targets = on_cpu.shuffled(draw)
        torch.testing.assert_close(inputs.cpu(), expected)
        assert torch.equal(labels.cpu(), targets)


# ---- the real files -------------------------------------------------------------------------------------


@needs_data
def test_mnist_itself():
    train, test = mnist.read_mnist(DATA)
    content = struct.pack(">IIII", 0x803, 60_000, 28, 28) + train.images.numpy().tobytes()
    assert hashlib.md5(content).hexdigest() == "6bbc9ace898e44ae57da46a324031adb"
    assert train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert torch.bincount(test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    data = load_images("mnist", DATA)
    assert (len(data.train), len(data.validation), len(data.test)) == (50_000, 10_000, 10_000)
    assert data.mean == pytest.approx((0.1307,), abs=1e-3)
    assert data.std == pytest.approx((0.3081,), abs=1e-3)


@needs_data
def test_cifar_10_itself():
    pytest.importorskip("PIL.Image")
    data = load_images("cifar10", DATA)
    assert (len(data.train), len(data.validation), len(data.test)) == (45_000, 5_000, 10_000)
    counts = torch.bincount(data.train.labels) + torch.bincount(data.validation.labels)
    assert counts.tolist() == [5000] * 10
    assert torch.bincount(data.test.labels).tolist() == [1000] * 10
    assert data.mean == pytest.approx((0.4914, 0.4822, 0.4465), abs=1e-3)


@needs_data
def test_a_mosaic_holds_the_bytes_of_the_official_file():
    pytest.importorskip("PIL.Image")
    folder = DATA / "cifar10"
    images = read_mosaic(folder / "data_batch_1.webp", 32, 100, 100)
    labels = np.fromfile(folder / "data_batch_1.labels", np.uint8)
    records = np.concatenate([labels[:, None], images.reshape(len(images), -1)], axis=1)
    assert hashlib.md5(records.tobytes()).hexdigest() == "5dd7e06a14cb22eb9f671a540d1b7c25"
