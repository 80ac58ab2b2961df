"""Networks by name, by factory, and with published weights."""

import os
import pickle
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from mrfq.errors import FileFormatError, InvalidParameterError, UnknownNameError
from mrfq.nn.batch_norm import batch_norms
from mrfq.nn.images import IMAGENET, ImageBatches, load_images
from mrfq.nn.models import MODELS, build, factory, load_pretrained
from mrfq.nn.models.resnet import PadShortcut

DATA = Path(os.environ.get("MRFQ_DATA", "")) / "data"
PRETRAINED = DATA / "pretrained"
needs_pretrained = pytest.mark.skipif(
    "MRFQ_DATA" not in os.environ or not PRETRAINED.is_dir(), reason="MRFQ_DATA names no folder with data/pretrained/"
)
NAMES = list(MODELS)
NARROW = [name for name in NAMES if name.startswith("resnet") and name != "resnet18"]


def small(name, seed=0, **settings):
    return build(name, **({"channels": 3, "size": 32, "classes": 10, "seed": seed} | settings))


def equal(a, b):
    return all(torch.equal(p, q) for p, q in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


# ---- by name --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("channels", "size", "classes"), [(3, 32, 10), (1, (34, 40), 7)])
def test_a_network_maps_images_to_logits_and_every_weight_matters(name, channels, size, classes):
    network = build(name, channels=channels, size=size, classes=classes)
    sides = (size, size) if isinstance(size, int) else size
    inputs = torch.randn(4, channels, *sides, generator=torch.Generator().manual_seed(0))
    logits = network(inputs)
    assert logits.shape == (4, classes)
    (logits * torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))).sum().backward()
    for parameter_name, parameter in network.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert bool(parameter.grad.any()), parameter_name
        assert parameter.dtype == torch.float32


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("affine", [None, False, True])
def test_a_bias_is_only_where_no_batch_norm_follows(name, affine):
    network = small(name, affine=affine)
    biased = [key for key, m in network.named_modules() if isinstance(m, nn.Linear | nn.Conv2d) and m.bias is not None]
    assert biased == {"lenet300": [], "lenet5": [], "vgg16": ["fc3"]}.get(name, ["linear"])
    expected = name in NARROW if affine is None else affine
    layers = batch_norms(network)
    assert layers
    assert all(layer.affine == expected for layer in layers)


@pytest.mark.parametrize(
    ("name", "settings", "weights"),
    [
        ("lenet300", {"channels": 1, "size": 28}, 784 * 300 + 300 * 100 + 100 * 10),
        ("lenet5", {"channels": 1, "size": 28}, 20 * 25 + 50 * 20 * 25 + 800 * 500 + 500 * 10),
        ("resnet18", {"affine": True}, 11_173_962),
        ("resnet20", {}, 269_722),
        ("resnet56", {}, 853_018),
    ],
)
def test_networks_have_the_published_numbers_of_weights(name, settings, weights):
    assert sum(p.numel() for p in small(name, **settings).parameters()) == weights


def test_vgg16_has_thirteen_convolutions_and_three_layers():
    network = small("vgg16")
    widths = [m.out_channels for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert widths == [64] * 2 + [128] * 2 + [256] * 3 + [512] * 6
    assert [(m.in_features, m.out_features) for m in network.modules() if isinstance(m, nn.Linear)] == [
        (512, 512),
        (512, 512),
        (512, 10),
    ]


def test_weights_depend_on_the_seed_alone_and_the_global_generator_is_left_alone():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first = small("resnet20", seed=1)
    assert torch.equal(before, torch.random.get_rng_state())
    torch.randn(3)
    assert equal(first, small("resnet20", seed=1))
    assert not equal(first, small("resnet20", seed=2))


def test_the_lenets_accept_what_fits_and_refuse_smaller_images():
    assert build("lenet300", channels=1, size=8, classes=10)(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    assert build("lenet5", channels=1, size=16, classes=10)(torch.zeros(2, 1, 16, 16)).shape == (2, 10)
    with pytest.raises(InvalidParameterError, match="lenet5: needs images of at least 16x16 pixels, got 8x8"):
        build("lenet5", channels=1, size=8, classes=10)
    with pytest.raises(InvalidParameterError, match="vgg16: needs images of at least 32x32 pixels, got 28x40"):
        build("vgg16", channels=1, size=(28, 40), classes=10)


@pytest.mark.parametrize("wrong", [{"channels": 0}, {"size": 0}, {"size": (8, 2.5)}, {"classes": -1}, {"seed": -1}])
def test_wrong_numbers_are_refused(wrong):
    with pytest.raises(InvalidParameterError, match="must be a whole number"):
        small("resnet20", **wrong)


def test_an_unknown_name_is_refused_with_a_suggestion():
    with pytest.raises(UnknownNameError, match="did you mean 'resnet20'"):
        small("resnet-20")


@pytest.mark.parametrize(("size", "stride"), [(6, 2), (7, 2), (5, 1)])
def test_a_shortcut_without_parameters_keeps_every_second_pixel(size, stride):
    x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    y = PadShortcut(3, 8, stride)(x)
    assert y.shape == (2, 8, -(-size // stride), -(-size // stride))
    assert torch.equal(y[:, 2:5], x[:, :, ::stride, ::stride])
    assert not y[:, :2].any()
    assert not y[:, 5:].any()


# ---- the user's own -------------------------------------------------------------------------------------

MODULE = """
import torch
from torch import nn

class Net(nn.Linear):
    def __init__(self, channels, *, size, classes=3, affine=False):
        super().__init__(channels * size * size, classes)
        self.affine = affine

    @classmethod
    def wide(cls):
        return cls(2, size=4)

def anything(**settings):
    net = nn.Identity()
    net.settings = settings
    return net

def needs(width, /, classes): ...
def needs_more(classes, depth): ...
def fails(): raise KeyError("no such thing")
def imports(): import a_module_that_does_not_exist
def nothing(classes): return [classes]
number = 3
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """The name of a module in the current directory, which is not on the path."""
    name = f"own_{tmp_path.name}".replace("-", "_").replace("[", "").replace("]", "")
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    yield name
    sys.modules.pop(name, None)


def test_a_factory_gets_the_arguments_that_it_accepts(module):
    path, state = list(sys.path), torch.random.get_rng_state()
    network = build(f"{module}:Net", channels=2, size=4, classes=5, seed=3)
    assert network.weight.shape == (5, 32)
    assert equal(network, build(f"{module}:Net", channels=2, size=4, classes=5, seed=3))
    assert not equal(network, build(f"{module}:Net", channels=2, size=4, classes=5, seed=4))
    assert build(f"{module}:Net", channels=2, size=4, classes=5, affine=True).affine
    assert build(f"{module}:Net.wide", channels=9, size=9, classes=9).weight.shape == (3, 32)
    assert factory(f"{module}:anything", a=1).settings == {"a": 1}
    assert sys.path == path
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("attribute", "message"),
    [
        ("Nett", "has no 'Nett'; it has Net, anything, fails"),
        ("Net.narrow", "has no 'Net.narrow'"),
        ("number", "must name something to call, not a int"),
        ("nothing", "must return a torch.nn.Module, got list"),
        ("needs", "its parameter 'width' needs a default value"),
        ("needs_more", "its parameter 'depth' needs a default value; it is only given, by name, channels, size"),
        ("fails", r"fails failed: KeyError: 'no such thing' \(own_.*\.py, line 21\)"),
        ("imports", "imports failed: ModuleNotFoundError: No module named 'a_module_that_does_not_exist'"),
        ("", "must have the form 'package.module:factory'"),
        ("a b", "must have the form"),
        ("a:b", "must have the form"),
    ],
)
def test_a_factory_that_does_not_work_is_refused_with_the_reason(module, attribute, message):
    with pytest.raises(InvalidParameterError, match=message):
        build(f"{module}:{attribute}", channels=1, size=8, classes=10)


def test_a_module_that_does_not_work_is_refused_with_the_reason(module, tmp_path):
    with pytest.raises(InvalidParameterError, match="there is no module 'not_there' in"):
        factory("not_there:make")
    with pytest.raises(InvalidParameterError, match=f"there is no module '{module}.inner' in"):
        factory(f"{module}.inner:make")
    (tmp_path / "broken_one.py").write_text("import not_there_either\n")
    with pytest.raises(InvalidParameterError, match="broken_one imports 'not_there_either', which is missing"):
        factory("broken_one:make")
    (tmp_path / "broken_two.py").write_text("x = 1\ny = x +\n")
    with pytest.raises(InvalidParameterError, match="importing broken_two failed: SyntaxError"):
        factory("broken_two:make")
    with pytest.raises(InvalidParameterError, match="must have the form"):
        factory("plain_name")


def test_a_wanted_argument_that_a_factory_lacks_is_an_error(module):
    with pytest.raises(InvalidParameterError, match="has no parameter 'affine'"):
        build(f"{module}:nothing", channels=1, size=8, classes=10, affine=True)


# ---- published weights ----------------------------------------------------------------------------------


def saved(path, network, *, prefix="module.", **others):
    state = {prefix + name: value for name, value in network.state_dict().items()}
    torch.save({"state_dict": state, **others}, path)
    return path


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("zipped", [True, False])
def test_saved_weights_come_back(tmp_path, prefix, zipped):
    source = small("resnet20", seed=1)
    state = {prefix + k: v for k, v in source.state_dict().items() if not k.endswith("num_batches_tracked")}
    content = {"state_dict": state, "best_prec1": 91.0} if prefix else state
    torch.save(content, tmp_path / "a.th", _use_new_zipfile_serialization=zipped)
    target = small("resnet20", seed=2)
    assert load_pretrained(tmp_path / "a.th", target) is target
    assert equal(source, target)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"affine": False}, r"unexpected: bn1\.weight, bn1\.bias, layer1\.0\.bn1\.weight.* and 32 more"),
        ({"classes": 7}, r"of another shape: linear\.bias \(\(10,\), not \(7,\)\), linear\.weight \(\(10, 64\)"),
        ({"name": "resnet32"}, r"missing: layer1\.3\.conv1\.weight"),
    ],
)
def test_weights_of_another_network_are_refused(tmp_path, settings, message):
    path = saved(tmp_path / "a.th", small("resnet20"))
    target = small(settings.pop("name", "resnet20"), **settings)
    before = {name: value.clone() for name, value in target.state_dict().items()}
    with pytest.raises(FileFormatError, match=message):
        load_pretrained(path, target)
    assert all(torch.equal(before[name], value) for name, value in target.state_dict().items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.fill_(float("nan")), "fc3.weight: found numbers that are not finite"),
        (lambda w: w.long(), "fc3.weight: found numbers of type torch.int64, expected torch.float32"),
        (lambda w: w.to(torch.complex64), "found numbers of type torch.complex64"),
        (lambda w: w.to_sparse(), "of another shape: fc3.weight"),
        (lambda w: "weight", "of another shape: fc3.weight"),
    ],
)
def test_weights_that_are_no_numbers_are_refused(tmp_path, change, message):
    network = small("lenet300", size=8)
    state = {**network.state_dict()}
    state["fc3.weight"] = change(state["fc3.weight"].clone())
    torch.save(state, tmp_path / "a.th")
    with pytest.raises(FileFormatError, match=message):
        load_pretrained(tmp_path / "a.th", network)


@pytest.mark.parametrize("content", [[1, 2], {"state_dict": 3}, {1: torch.zeros(2)}, torch.zeros(3)])
def test_files_without_named_tensors_are_refused(tmp_path, content):
    torch.save(content, tmp_path / "a.th")
    with pytest.raises(FileFormatError, match=r"state_dict: found .* expected a dictionary of named tensors"):
        load_pretrained(tmp_path / "a.th", small("lenet300"))


class Evil:
    def __reduce__(self):
        return os.mkdir, ("evil",)


@pytest.mark.parametrize("zipped", [True, False])
def test_nothing_in_a_file_is_run(tmp_path, monkeypatch, zipped):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Evil()}, "a.th", _use_new_zipfile_serialization=zipped)
    Path("b.th").write_bytes(pickle.dumps(Evil()))
    for name in ("a.th", "b.th"):
        with pytest.raises(FileFormatError, match=r"expected a file of torch\.save"):
            load_pretrained(name, small("lenet300"))
    assert not Path("evil").exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_a_broken_file_is_refused(tmp_path, zipped):
    network, path = small("lenet300", size=4, channels=1), tmp_path / "a.th"
    torch.save(network.state_dict(), path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    for stop in range(0, len(whole) - 1, len(whole) // 40):
        path.write_bytes(whole[:stop])
        with pytest.raises(FileFormatError):
            load_pretrained(path, network)


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    network = small("lenet300", size=4, channels=1)
    path = saved(tmp_path / "a.th", network, more=torch.zeros(10**6))
    with pytest.raises(FileFormatError, match=r"its size: found 4,.* bytes, expected at most .* for this network"):
        load_pretrained(path, network)
    with zipfile.ZipFile(tmp_path / "bomb.th", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10**8))
    with pytest.raises(FileFormatError, match="found 100,000,000 bytes"):
        load_pretrained(tmp_path / "bomb.th", network)
    with pytest.raises(FileNotFoundError):
        load_pretrained(tmp_path / "nowhere.th", network)


@needs_pretrained
@pytest.mark.parametrize("name", NARROW)
def test_published_weights_fit(name):
    (path,) = PRETRAINED.glob(f"{name}-*.th")
    network = load_pretrained(path, small(name))
    assert float(network.get_parameter("linear.weight").detach().std()) > 0.1


@needs_pretrained
def test_resnet20_has_its_published_accuracy():
    """91.73 % of all 10,000 test images, which takes half a minute; 915 of the first 1,000."""
    pytest.importorskip("PIL.Image")
    data = load_images("cifar10", DATA, normalise=IMAGENET)
    (path,) = PRETRAINED.glob("resnet20-*.th")
    network = load_pretrained(path, small("resnet20")).eval()
    with torch.no_grad():
        batches = ImageBatches(data, data.test.head(1000), 250, seed=0)
        right = sum(int((network(inputs).argmax(1) == labels).sum()) for inputs, labels in batches)
    assert abs(right - 915) <= 2  # sums in another order may move an image across a boundary
