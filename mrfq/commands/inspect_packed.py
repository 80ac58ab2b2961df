"""`mrfq inspect` of a packed network: what its layers are made of, and how small it is."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from mrfq.nn.grids import Grid
from mrfq.nn.packed import read_packed
from mrfq.nn.packed_layout import Stored, version_of
from mrfq.nn.table_grids import RowGrid, VectorGrid
from mrfq.nn.weight_grids import WeightGrid

#: bytes that the published size formula gives a level, and a number that is not packed
PUBLISHED_LEVEL, PUBLISHED_FLOAT = 2, 4
#: levels that are named, or whose frequencies are, and bars of a histogram
NAMED, BARS = 4, 16
HEIGHTS, ASCII_HEIGHTS = "▁▂▃▄▅▆▇█", "_.:-=+*#"


def packed_facts(path: str | Path) -> dict[str, Any]:
    """Return what there is to say about a packed network, as plain data.

    Tied parameters count once. `bits` is log2 of the number of labels, `stored_bits` what the labels take in the
    file, and `all_bits` that with all that they stand for (levels, scales, offsets, codebooks): all three a weight, as
    is `entropy`, in bits, of the frequencies of the labels of a layer. `bits_per_weight` is the mean of `stored_bits`.
    `labels` is the kind of a layer's label sets: "levels" (`levels` lists them), "codebook", "uniform", "symmetric" or
    "power-of-two" of each row or group of columns, or "vectors" of `block` weights.
    `fp32_bytes` has four bytes for every floating-point number, buffers included. `published_bytes` is the formula
    of Stock et al. (ICLR 2020): `sum_l (log2(K_l) n_l / d_l / 8 + 2 k_l)` over the packed layers of n_l weights in
    blocks of d_l, with K_l labels that stand for k_l levels or numbers of codewords, and four bytes for each other
    parameter; scales and offsets count as such, buffers not at all.

    Raises
    ------
    FileFormatError
        The file was cut or changed, or is no packed network.
    OSError
        The file cannot be read.

    Examples
    --------
    >>> import tempfile, torch
    >>> from mrfq.nn.packed import save
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = Path(folder.name) / "model.safetensors"
    >>> save(torch.nn.Linear(80, 10, bias=False).requires_grad_(False).apply(lambda m: m.weight.sign_()), path)
    >>> facts = packed_facts(path)
    >>> facts["parameters"], facts["bits_per_weight"], facts["layers"][0]["levels"]
    (800, 1.0, [-1.0, 1.0])
    >>> folder.cleanup()
    """
    own = [item for item in read_packed(path) if item.kind != "t"]
    layers = [_layer(item, item.grid) for item in own if item.grid is not None]
    rest = [_plain(item) for item in own if item.grid is None]
    quantized = sum(layer["weights"] for layer in layers)
    plain = sum(item["numbers"] for item in rest if item["kind"] == "parameter")
    size, fp32 = Path(path).stat().st_size, sum(_fp32(item) for item in own)
    published = _published(layers, plain)
    return {
        "kind": "packed network",
        "version": version_of(own),
        "parameters": quantized + plain,
        "quantized": quantized,
        "bits_per_weight": _mean(layers, "stored_bits"),
        "all_bits_per_weight": _mean(layers, "all_bits"),
        "entropy": _mean(layers, "entropy"),
        "file_bytes": size,
        "fp32_bytes": fp32,
        "compression": fp32 / size,
        "published_bytes": published,
        "published_compression": PUBLISHED_FLOAT * (quantized + plain) / published if published else None,
        "layers": layers,
        "rest": rest,
    }


def packed_table(facts: dict[str, Any]) -> Group:
    """Return the facts for people."""
    layers: list[Table | Text] = [_layer_table(facts["layers"]), Text()] if facts["layers"] else []
    return Group(*layers, _total_table(facts))


def _layer(item: Stored, grid: WeightGrid) -> dict[str, Any]:
    count = item.value.numel()
    counts = [] if item.histogram is None else item.histogram.tolist()
    labels = 0 if item.word is None else item.word.size(count // grid.block)
    size = labels + grid.side_bytes
    return {
        "name": item.name,
        "shape": list(item.value.shape),
        "weights": count,
        **_label_sets(grid),
        "count": grid.count,
        "block": grid.block,
        "attached": item.kind == "q",
        "bits": math.log2(grid.count) / grid.block,
        "stored_bits": 8 * labels / count if count else 0.0,
        "all_bits": 8 * size / count if count else 0.0,
        "histogram": counts,
        "entropy": entropy(counts) / grid.block,
        "bytes": size,
        "compression": PUBLISHED_FLOAT * count / size,
    }


def _label_sets(grid: WeightGrid) -> dict[str, Any]:
    """Return what the labels of a layer stand for: `numbers` levels or parts of codewords, `scales` and offsets."""
    facts: dict[str, Any] = {"labels": "vectors", "levels": None, "numbers": 0, "scales": 0, "groups": 1, "fit": None}
    if isinstance(grid, Grid):
        scales = 0 if grid.scales is None else grid.rows
        return {**facts, "labels": "levels", "levels": list(grid.levels), "numbers": grid.count, "scales": scales}
    if isinstance(grid, VectorGrid):
        return {**facts, "numbers": grid.codewords.numel()}
    if isinstance(grid, RowGrid):
        spec, stored = grid.table.spec, grid.table.parameters.numel()
        free = "numbers" if spec.kind == "codebook" else "scales"
        return {**facts, "labels": spec.kind, free: stored, "groups": grid.groups, "fit": spec.fit}
    raise TypeError(f"a {type(grid).__name__} in a packed file")


def entropy(counts: Iterable[int]) -> float:
    """Return the entropy of frequencies, in bits.

    Examples
    --------
    >>> entropy([2, 0, 2]), entropy([7])
    (1.0, 0.0)
    """
    counts = [count for count in counts if count]
    total = sum(counts)
    return sum(count / total * math.log2(total / count) for count in counts)


def _plain(item: Stored) -> dict[str, Any]:
    return {
        "name": item.name,
        "kind": {"p": "parameter", "b": "buffer"}[item.kind],
        "shape": list(item.value.shape),
        "numbers": item.value.numel(),
        "dtype": str(item.value.dtype).removeprefix("torch."),
        "bytes": item.value.numel() * item.value.itemsize,
    }


def _fp32(item: Stored) -> int:
    return item.value.numel() * (4 if item.value.is_floating_point() else item.value.itemsize)


def _published(layers: list[dict[str, Any]], plain: int) -> float:
    labels = sum(layer["bits"] * layer["weights"] / 8 + PUBLISHED_LEVEL * layer["numbers"] for layer in layers)
    return float(labels + PUBLISHED_FLOAT * (plain + sum(layer["scales"] for layer in layers)))


def _mean(layers: list[dict[str, Any]], name: str) -> float | None:
    """Return the mean over all packed weights, or None if there are none."""
    total = sum(layer["weights"] for layer in layers)
    return sum(layer[name] * layer["weights"] for layer in layers) / total if total else None


# ---- for people -----------------------------------------------------------------------------------------


def _layer_table(layers: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("layer", overflow="fold", min_width=8)
    for name in ("shape", "levels", "bits", "entropy", "histogram", "ratio"):
        left = name in ("levels", "histogram")
        table.add_column(name, justify="left" if left else "right", no_wrap=True, overflow="crop")
    for layer in layers:
        table.add_row(
            Text(layer["name"]),
            "x".join(map(str, layer["shape"])) or "1",
            _labels(layer),
            f"{layer['stored_bits']:.3g}",
            f"{layer['entropy']:.3g}",
            Histogram(layer["histogram"]),
            f"{layer['compression']:.3g}",
        )
    return table


def _labels(layer: dict[str, Any]) -> str:
    if layer["labels"] == "vectors":
        return f"{layer['count']} vectors of {layer['block']}"
    levels = layer["levels"]
    if levels is None:
        return f"{layer['count']} {layer['labels']}" + (f", {layer['groups']} groups" if layer["groups"] > 1 else "")
    if len(levels) <= NAMED:
        return " ".join(f"{level:.3g}" for level in levels)
    return f"{len(levels)}, {levels[0]:.3g} to {levels[-1]:.3g}"


def _total_table(facts: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    buffers = sum(item["numbers"] for item in facts["rest"] if item["kind"] == "buffer")
    table.add_row("parameters", f"{facts['parameters']:,}, {facts['quantized']:,} of them packed")
    table.add_row("buffers", f"{buffers:,} numbers")
    if facts["quantized"]:
        bits = f"{facts['bits_per_weight']:.4g} bits, {facts['all_bits_per_weight']:.4g} with all they stand for"
        table.add_row("a packed weight", f"{bits}, entropy {facts['entropy']:.4g}")
    table.add_row("file", f"{facts['file_bytes']:,} bytes; fp32 takes {facts['compression']:.4g}x")
    if facts["published_compression"] is not None:
        mebibytes = facts["published_bytes"] / 2**20
        table.add_row("published formula", f"{mebibytes:.4g} MB; fp32 takes {facts['published_compression']:.4g}x")
    return table


class Histogram:
    """Frequencies in percent where they are few, else as bars."""

    def __init__(self, counts: list[int]) -> None:
        step = -(-len(counts) // BARS)
        self.counts = [sum(counts[start : start + step]) for start in range(0, len(counts), step)]
        self.few = len(counts) <= NAMED

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text(self._text(ASCII_HEIGHTS if options.ascii_only else HEIGHTS))

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(*[len(self._text(HEIGHTS))] * 2)

    def _text(self, heights: str) -> str:
        total, highest = max(sum(self.counts), 1), max(*self.counts, 1)
        if self.few:
            return " ".join(f"{100 * count / total:.0f}" for count in self.counts) + " %"
        return "".join(heights[count * (len(heights) - 1) // highest] for count in self.counts)
