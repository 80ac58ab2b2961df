"""The report of `mrfq quantize`: its chart, its pictures, and that the page needs nothing else."""

import html
import math
import re
from html.parser import HTMLParser

import pytest
import torch
from torch import nn

from mrfq.layerwise.spec import parse_levels
from mrfq.layerwise.tables import Table
from mrfq.nn.grids import Grid, attach
from mrfq.nn.table_grids import RowGrid, VectorGrid
from mrfq.quantize.figures import OURS, described, error_chart, keys, methods, shortened, value
from mrfq.quantize.folder import Folder
from mrfq.quantize.page import PICTURES, best, pictures, short, tiles, title, write_page
from mrfq.quantize.pictures import HEIGHT, REACH, WIDTH, picture

VOID = {"meta", "link", "br", "path", "circle", "line", "rect", "use", "img"}


def entry(name, error, held_out=None, **baselines):
    return {
        "name": name, "kind": "linear", "shape": [4, 8], "weights": 32, "levels": "binary-codebook",
        "bits_per_weight": 9.0, "error": error, "error_held_out": held_out, "optimality": None, "seconds": 0.5,
        "notes": [],
        "baselines": {key: {"error": pair[0], "error_held_out": pair[1]} for key, pair in baselines.items()},
    }  # fmt: skip


LAYERS = [
    entry("first", 0.02, 0.03, nearest=(0.2, 0.3), gptq=(0.04, 0.05)),
    entry("second <b>", 0.4, 0.5, nearest=(0.9, 1.1), gptq=(0.3, 0.6)),
]


def on_rows(weights, text, seed=0):
    """Return a parameter on a codebook of its rows, and the grid."""
    spec = parse_levels(text)
    generator = torch.Generator().manual_seed(seed)
    groups = spec.groups(weights.shape[1])
    book = torch.randn(len(weights), groups, spec.count, generator=generator).sort(dim=-1).values.half()
    grid = RowGrid(Table(spec, book))
    parameter = nn.Parameter(grid.decode(grid.nearest(weights), tuple(weights.shape)))
    attach(parameter, grid)
    return parameter, grid


def summary(layers, **changes):
    return {
        "model": "mine:net", "calibration": "digits", "levels": "binary", "quality": "balanced", "solver": None,
        "seed": 0, "samples": 1024, "test_accuracy": 90.25, "float_test_accuracy": 92.5, "bits_per_weight": 2.25,
        "packed_bytes": 12_345, "float_bytes": 123_450, "compression": 10.0, "parameters": 128,
        "quantized_parameters": 64, "seconds": 75.0, "ratios": {"gptq": {"error": 0.5, "error_held_out": 0.75}},
        "layers": layers,
        "distillation": None, "notes": ["<script>alert(1)</script>"],
        "command": "mrfq quantize --config config.toml --out F",
        "settings": {"asymmetric": True, "shortcut": True}, "environment": {"mrfq": "0", "device": "cpu"}, **changes,
    }  # fmt: skip


class Checker(HTMLParser):
    """Notes text, and tags that are not closed."""

    def __init__(self):
        super().__init__()
        self.open, self.labels, self.tags = [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag


@pytest.fixture
def page(tmp_path):
    """Return a function that writes a page and returns its text."""

    def write(found, model, original):
        folder = Folder(tmp_path)
        folder.config.write_text('model = "mine:net"\nlevels = "binary"\n')
        write_page(found, model, original, folder)
        return folder.page.read_text("utf-8")

    return write


@pytest.fixture
def networks():
    """A network of two layers and the quantized one; the first has rows of levels, the second codewords."""
    torch.manual_seed(0)
    original = nn.Sequential(nn.Linear(16, 6), nn.Linear(6, 4))
    model = nn.Sequential(nn.Linear(16, 6), nn.Linear(6, 4))
    model[0].weight, _ = on_rows(original[0].weight.detach(), "2bit")
    grid = VectorGrid(torch.randn(8, 3).half())
    model[1].weight = nn.Parameter(grid.decode(grid.nearest(original[1].weight), (4, 6)))
    attach(model[1].weight, grid)
    return model, original


def test_the_page_needs_nothing_else(page, networks):
    text = page(summary([entry("0", 0.02, 0.03), entry("1", 0.1)]), *networks)
    assert "http" not in text.replace("http://www.w3.org", "")
    checker = Checker()
    checker.feed(text)
    assert checker.open == []
    assert not any(tag == "link" or "src" in attributes for tag, attributes in checker.tags)
    drawings = [attributes for tag, attributes in checker.tags if tag == "svg"]
    assert len(drawings) == 1 + 1 + 2  # the key of one method, the chart, two layers
    assert all(a.get("aria-hidden") or (a["role"] == "img" and a["aria-label"]) for a in drawings)
    assert {"Errors", "Weights and levels", "Layers", "Settings"} <= set(re.findall(r"<h2>(.*?)</h2>", text))
    assert "prefers-color-scheme: dark" in text


def test_what_matters_is_on_top(page, networks):
    text = page(summary(LAYERS), *networks)
    plain = html.unescape(re.sub(r"<[^>]+>", " ", text))
    for said in ("90.25 %", "92.50 % before quantization (−2.25)", "12.3 kB", "2.25 bits", "0.75×", "40 %", "1:15"):
        assert said in plain
    tuned = {"steps": 40, "before": 0.125, "after": 0.0625}
    text = page(summary(LAYERS, distillation=tuned), *networks)
    assert "<b>0.0625</b><p>0.125 before" in text
    assert "Distillation came after it" in text
    without = dict(tile[:2] for tile in tiles(summary(LAYERS, test_accuracy=None, float_test_accuracy=None, ratios={})))
    assert set(without) == {"model file", "a quantized weight", "largest error", "time"}


def test_names_and_notes_cannot_break_the_page(page, networks):
    text = page(summary(LAYERS), *networks)
    assert "<script>alert" not in text
    assert "second <b>" not in text
    assert text.count("second &lt;b&gt;") >= 2  # the table and the chart


def test_the_table_has_every_number_and_marks_the_best(page, networks):
    text = page(summary(LAYERS), *networks)
    row = text[text.index('<th scope="row">second') :].split("</tr>")[0]
    cells = re.findall(r'<td class="num( best)?" data-sort="([^"]*)">([^<]*)</td>', row)
    assert [cell[2] for cell in cells] == ["9", "0.4", "0.9", "0.3", "0.5", "1.1", "0.6", "0.50"]
    assert [bool(cell[0]) for cell in cells] == [False, False, False, True, True, False, False, False]
    assert best(LAYERS[0], "error") == OURS
    assert best(entry("a", 0.1), "error") is None
    assert short(None) == "–"


def test_the_optimality_has_a_column_only_where_it_is_known(page, networks):
    assert "ptimality" not in page(summary(LAYERS), *networks)
    layers = [{**LAYERS[0], "optimality": 0.8765}, LAYERS[1]]
    text = page(summary(layers), *networks)
    plain = " ".join(html.unescape(re.sub(r"<[^>]+>", " ", text)).split())
    assert "a lower bound of what any choice among these levels would cost" in plain
    assert "1 proves that none is better" in plain
    heads = re.findall(r"<th scope=\"col\"[^>]*>(.*?)</th>", text)
    rows = re.findall(r'<tr>\s*<th scope="row">(?:first|second).*?</tr>', text, re.DOTALL)
    for row, shown in zip(rows, ('data-sort="0.8765">0.876', 'data-sort="">–'), strict=True):
        cells = re.findall(r"<td[^>]*>[^<]*</td>", row)
        assert len(cells) == len(heads) - 1
        where = next(k for k, head in enumerate(heads) if "optimality" in head) - 1
        assert shown in cells[where]


def test_no_layers_and_errors_of_zero_are_no_mistake(page, networks):
    assert "No layer was quantized" in page(summary([], quantized_parameters=0), *networks)
    assert "<svg" in page(summary([entry("0", 0.0, None)]), *networks)
    text = page(summary([entry("0", None, None), entry("1", 0.5, gptq=(None, None))]), *networks)
    assert 'data-sort="">–</td>' in text
    assert "50 %" in text


def test_the_title_names_the_label_sets():
    layers = [{**entry(str(k), 0.1), "levels": levels} for k, levels in enumerate(["2bit", "2bit", "4bit", "8bit"])]
    assert title(summary(layers[:2])) == "mine:net, 2bit weights"
    assert title(summary(layers[:3])) == "mine:net, 2bit and 4bit weights"
    assert title(summary(layers)) == "mine:net, binary and other weights"


def test_the_chart_has_a_mark_for_every_error():
    for layers, panels in ((LAYERS, 2), ([entry("a", 0.1), entry("b", 0.01)], 1)):
        chart = error_chart(layers)
        marks = len(re.findall(r"<use [^>]*style=\"fill: #", chart))
        assert marks == panels * len(layers) * len(methods(layers))
        assert chart.count("calibration inputs") == 1
        assert chart.count("on held-out inputs") == panels - 1
        assert all(html.escape(layer["name"]) in chart for layer in layers)
    assert "font-family" not in chart
    assert "#010101" not in chart  # colours are the page's


def test_the_chart_says_what_it_shows():
    assert described(LAYERS) == (
        "Relative output error of 2 layers, from 0.02 to 0.4, the largest in second <b>.; against nearest, gptq."
    ) or described(LAYERS).endswith("; against nearest, gptq.")
    assert f'aria-label="{html.escape(described(LAYERS))}"' in error_chart(LAYERS)


def test_many_layers_and_long_names_fit():
    many = [entry(f"encoder.layer.{k}.attention.self.query.of.a.long.name", 0.1 + k / 1000) for k in range(300)]
    chart = error_chart(many)
    height = float(re.search(r'viewBox="0 0 [\d.]+ ([\d.]+)"', chart)[1])
    assert height < 72 * 25
    assert "encoder" not in chart.split("aria-label")[1].split(">", 1)[1]
    assert len(shortened(many[0]["name"])) < 36
    assert shortened(many[0]["name"]).endswith("long.name")


def test_methods_and_keys_agree():
    assert methods(LAYERS) == [OURS, "nearest", "gptq"]
    found = keys(LAYERS)
    assert [key["name"] for key in found] == methods(LAYERS)
    assert len({key["colour"] for key in found}) == len({key["mark"] for key in found}) == 3
    assert math.isnan(value(LAYERS[0], "unknown", "error"))


@pytest.mark.parametrize("text", ["binary", "ternary", "2bit-codebook-g8", "3bit-codebook"])
def test_a_picture_has_a_mark_for_each_level(text):
    weights = torch.randn(5, 16, generator=torch.Generator().manual_seed(1))
    parameter, grid = on_rows(weights, text)
    found = picture("layer", weights, parameter)
    assert len(found.marks) == grid.table.spec.count
    assert sum(mark.share for mark in found.marks) == pytest.approx(1)
    places = [mark.place for mark in found.marks]
    assert places == sorted(places)
    assert all(0 <= mark.low <= mark.place <= mark.high <= 1 for mark in found.marks)
    counts = torch.bincount(grid.nearest(parameter).flatten(), minlength=len(places))
    assert [mark.share for mark in found.marks] == pytest.approx((counts / counts.sum()).tolist())


def test_levels_are_drawn_in_units_of_their_row():
    weights = torch.tensor([[1.0, -1.0], [10.0, -10.0]])
    book = torch.tensor([[[-1.0, 1.0]], [[-10.0, 10.0]]]).half()
    parameter = nn.Parameter(weights.clone())
    attach(parameter, RowGrid(Table(parse_levels("binary"), book)))
    low, high = picture("layer", weights, parameter).marks
    assert (low.place, high.place) == pytest.approx(((REACH - 1) / (2 * REACH), (REACH + 1) / (2 * REACH)))
    assert high.high - high.low == pytest.approx(0)


def test_the_outline_is_as_high_as_the_picture_and_closed():
    weights = torch.randn(4, 400, generator=torch.Generator().manual_seed(2))
    outline = picture("layer", weights, on_rows(weights, "binary")[0]).outline
    heights = [float(y) for y in re.findall(r"V([\d.]+)", outline)]
    assert min(heights) == 0
    assert max(heights) == HEIGHT
    assert outline.endswith(f"V{HEIGHT:g}Z")
    assert f"H{WIDTH:.1f}" in outline


def test_rows_of_zeros_and_vectors_have_pictures():
    zeros = torch.zeros(2, 4)
    parameter = nn.Parameter(zeros.clone())
    attach(parameter, RowGrid(Table(parse_levels("binary"), torch.zeros(2, 1, 2).half())))
    assert all(mark.place == 0.5 for mark in picture("zeros", zeros, parameter).marks)
    grid = VectorGrid(torch.tensor([[0.0], [1.0]]))
    parameter = nn.Parameter(torch.tensor([[0.0, 1.0, 1.0, 0.0]]))
    attach(parameter, grid)
    found = picture("vectors", parameter.detach(), parameter)
    assert len(found.codewords) == 2
    assert len(found.blocks) == 4
    assert found.marks == ()


def test_weights_without_a_table_have_no_picture():
    parameter = nn.Parameter(torch.ones(2, 2))
    assert picture("float", parameter.detach(), parameter) is None
    attach(parameter, Grid((1.0,)))
    assert picture("trained", parameter.detach(), parameter) is None


def test_of_too_many_layers_the_worst_are_drawn():
    original, model = nn.ModuleList(), nn.ModuleList()
    for seed in range(PICTURES + 3):
        original.append(nn.Linear(4, 2, bias=False))
        model.append(nn.Linear(4, 2, bias=False))
        model[seed].weight, _ = on_rows(original[seed].weight.detach(), "binary", seed)
    layers = [entry(str(k), 1.0 + (k % 5)) for k in range(PICTURES + 3)]
    found = [made.name for made in pictures(layers, model, original)]
    assert len(found) == PICTURES
    assert found == sorted(found, key=int)
    left_out = {str(k) for k in range(PICTURES + 3)} - set(found)
    assert all(int(name) % 5 == 0 for name in left_out)
