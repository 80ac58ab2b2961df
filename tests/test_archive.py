"""Archives: what goes in comes out bit for bit, and whatever was cut, changed or made up is refused."""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import tracemalloc
import zlib

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from mrfq.errors import FileFormatError, InvalidProblemError
from mrfq.io.archive import BLANK, read_archive, write_archive
from mrfq.io.archive_header import DTYPES
from mrfq.io.state_tree import DEEPEST, read_state, write_state

KIND = "example"


def same(a, b):
    """Return whether two trees are the same in type, in value and in every bit."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        plain = a.shape == b.shape and a.dtype == b.dtype
        return plain and bits(a) == bits(b)
    if isinstance(a, dict):
        return list(map(repr, a)) == list(map(repr, b)) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return repr(a) == repr(b)


def bits(tensor):
    return bytes(tensor.contiguous().flatten().view(torch.uint8).tolist()) if tensor.numel() else b""


def signed(header, body, stamp=f"{KIND}/1"):
    """Return a file that anybody can make: any header, any tensors, the right checksum."""
    entries = {"__metadata__": {"mrfq": f"{stamp} sha256:{BLANK}"}, **header}
    text = (entries if isinstance(entries, str) else json.dumps(entries)).encode()
    data = len(text).to_bytes(8, "little") + text + body
    return data.replace(BLANK.encode(), hashlib.sha256(data).hexdigest().encode(), 1)


def with_manifest(manifest, **tensors):
    """Return a file with any bytes as manifest, after some uint8 tensors."""
    header, body = {}, b""
    for name, data in {**tensors, "manifest": manifest}.items():
        places = [len(body), len(body) + len(data)]
        header[name] = {"dtype": "U8", "shape": [len(data)], "data_offsets": places}
        body += data
    return signed(header, body)


def packed(value):
    return zlib.compress(json.dumps(value).encode())


@pytest.fixture
def path(tmp_path):
    return tmp_path / "archive.safetensors"


@pytest.fixture
def sample(path):
    """A small file, as bytes."""
    write_archive(path, KIND, 1, {"a": torch.arange(5.0), "b": torch.tensor([True, False])}, {"steps": 7})
    return path.read_bytes()


# ---- what goes in comes out -----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_every_bit_of_every_dtype_is_kept(path, dtype):
    raw = torch.randint(0, 256, (24 * dtype.itemsize,), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    tensor = (raw % 2 if dtype is torch.bool else raw).view(dtype).reshape(4, 6)
    tensors = {"whole": tensor, "turned": tensor.t(), "part": tensor[1:, ::2], "one": tensor[0, 0], "none": tensor[:0]}
    write_archive(path, KIND, 1, tensors, {})
    found, manifest = read_archive(path, KIND, 1)
    assert manifest == {}
    assert same(dict(sorted(found.items())), {name: value.clone() for name, value in sorted(tensors.items())})


def test_tensors_may_share_memory_need_gradients_or_be_conjugated(path):
    weight = nn.Parameter(torch.randn(3, 2))
    z = torch.randn(3, dtype=torch.complex64)
    tensors = {"a": weight, "b": weight.T, "c": weight[1:], "d": z.conj(), "e": z.conj().imag, "f": weight}
    write_archive(path, KIND, 1, tensors, {})
    found, _ = read_archive(path, KIND, 1)
    assert all(torch.equal(found[name], tensors[name].detach()) for name in tensors)
    assert not any(tensor.requires_grad for tensor in found.values())


def test_the_same_content_is_the_same_file(path, sample):
    write_archive(path, KIND, 1, {"b": torch.tensor([True, False]), "a": torch.arange(5.0)}, {"steps": 7})
    assert path.read_bytes() == sample


def test_other_readers_of_safetensors_see_the_tensors(sample):
    assert torch.equal(safetensors.torch.load(sample)["a"], torch.arange(5.0))


TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(torch.tensor([1.5, -0.0])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(tree=TREES)
def test_a_tree_comes_back_as_it_was(tmp_path_factory, tree):
    path = tmp_path_factory.mktemp("tree") / "state"
    write_state(path, KIND, 1, tree)
    assert same(read_state(path, KIND, 1), tree)


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.SGD, torch.optim.RMSprop])
def test_an_optimizer_resumes_from_a_file(path, kind):
    def start():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))
        options = {"momentum": 0.9} if kind is torch.optim.SGD else {}
        return model, kind(model.parameters(), lr=0.1, **options)

    def steps(model, optimizer, count):
        for _ in range(count):
            optimizer.zero_grad()
            model(torch.ones(2, 3)).square().sum().backward()
            optimizer.step()

    model, optimizer = start()
    steps(model, optimizer, 3)
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "random": torch.get_rng_state()}
    write_state(path, "checkpoint", 1, state)
    draw = torch.rand(3)
    steps(model, optimizer, 3)

    again, other = start()
    found = read_state(path, "checkpoint", 1)
    again.load_state_dict(found["model"])
    other.load_state_dict(found["optimizer"])
    torch.set_rng_state(found["random"])
    assert torch.equal(torch.rand(3), draw)
    steps(again, other, 3)
    assert all(map(torch.equal, again.parameters(), model.parameters()))


def test_the_state_of_python_s_generator_is_a_tree(path):
    write_state(path, KIND, 1, random.getstate())
    assert read_state(path, KIND, 1) == random.getstate()


def test_a_long_manifest_of_one_number_is_written_and_read(path):
    write_state(path, KIND, 1, [0.5] * 600_000)
    assert read_state(path, KIND, 1) == [0.5] * 600_000


# ---- what cannot be written -----------------------------------------------------------------------------


def nested(depth):
    tree = []
    for _ in range(depth):
        tree = [tree]
    return tree


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"a": [1, {2, 3}]}, r"the tree\['a'\]\[1\] is of type set"),
        ({"a": lambda: 0}, "of type function"),
        ({(1, 2): 3}, r"the key \(1, 2\)"),
        ({True: 3}, "the key True"),
        (b"bytes", "of type bytes"),
        (1j, "of type complex"),
        (2**5000, "more than 4096 bits"),
        ({2**5000: 1}, "more than 4096 bits"),
        (nested(DEEPEST), f"deeper than {DEEPEST}"),
        (torch.zeros(2).to_sparse(), "sparse"),
        (torch.zeros(2, device="meta"), "no data"),
        (torch.zeros(2, dtype=torch.complex128), "complex128"),
    ],
)
def test_what_a_file_cannot_hold_is_refused_with_its_place(path, tree, message):
    with pytest.raises(InvalidProblemError, match=message):
        write_state(path, KIND, 1, tree)
    assert not path.exists()


def test_a_tree_that_contains_itself_is_refused(path):
    tree = []
    tree.append(tree)
    with pytest.raises(InvalidProblemError, match="deeper than"):
        write_state(path, KIND, 1, tree)


@pytest.mark.parametrize("manifest", [{"a": math.nan}, {"a": object()}, {("a",): 1}])
def test_a_manifest_must_be_json(path, manifest):
    with pytest.raises(InvalidProblemError, match="JSON"):
        write_archive(path, KIND, 1, {}, manifest)


def test_the_name_of_the_manifest_is_taken_and_kinds_are_names(path):
    with pytest.raises(InvalidProblemError, match="called 'manifest'"):
        write_archive(path, KIND, 1, {"manifest": torch.zeros(1)}, {})
    with pytest.raises(InvalidProblemError, match="kind 'A B'"):
        write_archive(path, "A B", 1, {}, {})


def test_an_interrupted_write_leaves_the_old_file(path, sample, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_archive(path, KIND, 1, {"a": torch.zeros(9)}, {})
    assert path.read_bytes() == sample
    assert list(path.parent.iterdir()) == [path]


# ---- what is refused when it is read --------------------------------------------------------------------


def refused(path, data, kind=KIND, version=1, read=read_archive):
    path.write_bytes(data)
    with pytest.raises(FileFormatError) as caught:
        read(path, kind, version)
    assert str(caught.value).startswith(f"{path}:")
    assert len(str(caught.value)) < 600
    return str(caught.value)


def test_every_changed_byte_is_noticed(path, sample):
    for at in range(len(sample)):
        for change in (1, 32, 255):
            refused(path, sample[:at] + bytes([sample[at] ^ change]) + sample[at + 1 :])


def test_every_cut_is_noticed(path, sample):
    for stop in range(len(sample)):
        refused(path, sample[:stop])
    refused(path, sample + b"\0")


def test_foreign_files_are_refused(path, sample):
    assert "no kind and checksum of mrfq" in refused(path, safetensors.torch.save({"a": torch.zeros(2)}))
    assert "without one" in refused(path, b"")
    assert "without one" in refused(path, b"PK\x03\x04" + bytes(100))
    assert "of kind 'example', expected one of kind 'other'" in refused(path, sample, kind="other")
    assert "version 1, expected version 2" in refused(path, sample, version=2)
    assert "a newer mrfq" in refused(path, sample, version=0)
    torch.save({"a": torch.zeros(2)}, path)
    refused(path, path.read_bytes())


def test_a_missing_file_is_an_os_error(path):
    with pytest.raises(FileNotFoundError):
        read_archive(path, KIND, 1)


def place(dtype, shape, start, stop):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


@pytest.mark.parametrize(
    "header",
    [
        {},
        {"a": place("U8", [2**62], 0, 2**62)},
        {"a": place("U8", [2**70, 0], 0, 0), "b": place("U8", [4], 0, 4)},
        {"a": place("U8", [-4], 0, -4), "b": place("U8", [4], 0, 4)},
        {"a": place("U8", [4], 0, 4), "b": place("U8", [4], 0, 4)},
        {"a": place("U8", [2], 0, 2), "b": place("U8", [1], 3, 4)},
        {"a": place("U8", [3], 0, 3)},
        {"a": place("U8", [4.0], 0, 4)},
        {"a": place("U8", [True, 4], 0, 4)},
        {"a": place("U8", 4, 0, 4)},
        {"a": place("U8", [1] * 100 + [4], 0, 4)},
        {"a": place("F32", [4], 0, 4)},
        {"a": place("P8", [4], 0, 4)},
        {"a": place(["U8"], [4], 0, 4)},
        {"a": {"dtype": "U8", "shape": [4], "data_offsets": [0]}},
        {"a": {"dtype": "U8", "shape": [4], "data_offsets": ["0", "4"]}},
        {"a": {"dtype": "U8", "shape": [4]}},
        {"a": {**place("U8", [4], 0, 4), "more": 1}},
        {"a": None},
        {"a": place("U8", [4], 0, 4)},  # sound, but without a manifest
        {"manifest": place("F32", [1], 0, 4)},
        {"manifest": place("U8", [4], 0, 4)},
        {"\ud800": place("U8", [9], 0, 4)},
        {"a" * 5000: place("U8", [9], 0, 4)},
        {"__metadata__": []},
        {"__metadata__": {"mrfq": 7}},
        {"__metadata__": {"mrfq": f"example/1 sha256:{BLANK}", BLANK: BLANK}, "a": place("U8", [4], 0, 4)},
    ],
    ids=range(27),
)
def test_made_up_headers_are_refused(path, header):
    refused(path, signed(header, b"\0\0\0\0"))


def test_headers_that_are_no_json_are_refused(path):
    for text in (b"{" * 50_000, b'{"a":' * 50_000, b'{"a": nope}', b"{\xff\xfe}", b"[]", b'{"a":1e5}{}'):
        refused(path, len(text).to_bytes(8, "little") + text)


@pytest.mark.parametrize(
    "manifest",
    [
        b"",
        b"{}",
        packed({})[:-1],
        packed({}) + b"\0",
        packed([1]),
        packed("text"),
        zlib.compress(b"[" * 100_000),
        zlib.compress(b'{"a": 1' + b"0" * 6000 + b"}"),
        zlib.compress(b"\xff\xff"),
        zlib.compress(b"{"),
    ],
    ids=range(10),
)
def test_made_up_manifests_are_refused(path, manifest):
    refused(path, with_manifest(manifest))


def test_a_small_file_does_not_fill_the_memory(path):
    bomb = with_manifest(zlib.compress(b'{"a":[' + b"[]," * 30_000_000 + b"0]}", 9))
    assert len(bomb) < 200_000
    tracemalloc.start()
    refused(path, bomb)
    assert tracemalloc.get_traced_memory()[1] < 20 * 2**20
    tracemalloc.stop()


@pytest.mark.parametrize(
    "tree",
    [
        {"y": 1},
        {"d": 1},
        {"d": [[1]]},
        {"d": [[1.5, 1]]},
        {"d": [[True, 1]]},
        {"d": [["a", 1], ["a", 2]]},
        {"d": [[[1], 1]]},
        {"t": {}},
        {"t": 3},
        {"f": "huge"},
        {"f": []},
        {"x": 1},
        {"x": "0"},
        {"x": True},
        {"x": [0]},
        {"x": 0, "t": []},
        {},
        [{"x": 0}, {"x": 0}],
        math.inf,
        nested(DEEPEST + 1),
        nested(300),
        "text, and a tensor that is not named",
    ],
    ids=range(22),
)
def test_made_up_trees_are_refused(path, tree):
    refused(path, with_manifest(packed({"tree": tree}), **{"0": b"1234"}), read=read_state)


def test_a_state_needs_a_tree(path):
    refused(path, with_manifest(packed({"tree": 1, "more": 2})), read=read_state)
    refused(path, with_manifest(packed({})), read=read_state)
