"""Time of the parts of a quantization on one large layer: on a GPU, and on the CPU beside it, in one run.

    python tests/bench/layers_gpu.py --size 4096 --threads 16 --docs docs/benchmarks.md

Wall seconds, the median of three after one that does not count (which compiles). "torch operations" are the sweeps
without Triton.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import layers_speed
import numba
import torch
from layers_measure import relative_error
from page import insert_between

from mrfq.layerwise.recipe import quantize_layer
from mrfq.layerwise.refit import LayerFit
from mrfq.layerwise.spec import parse_levels
from mrfq.layerwise.tables import start_table
from mrfq.problems import layer_sweeps
from mrfq.problems.layer_solve import gptq_columns
from mrfq.problems.layer_sweeps import Columns, Sweep

RECIPES = ("gptq", "balanced", "best")


def seconds(action: Callable[[], object], repeats: int = 3) -> float:
    """Return the median wall time of a call, after one that does not count."""
    times = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        action()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


def parts(target: torch.Tensor, gram: torch.Tensor, levels: str) -> dict[str, float]:
    """Return the time of each part of a recipe, on the device of the layer."""
    spec = parse_levels(levels)
    table = start_table(spec, target, gram.diagonal())
    columns = Columns.prepare(target, gram, table.values)
    labels = gptq_columns(columns)
    sweep, fit = Sweep.at_labels(columns, labels), LayerFit(target, gram)
    own = columns.restore(labels)
    return {
        "start of the codebooks": seconds(lambda: start_table(spec, target, gram.diagonal())),
        "GPTQ": seconds(lambda: gptq_columns(columns)),
        "a sweep of ICM": seconds(lambda: sweep.run("argmin")),
        "a sweep of mean-field": seconds(lambda: sweep.run("softmax", 4.0)),
        "a re-fit": seconds(lambda: fit.refit(table, own)),
    }


def recipes(target: torch.Tensor, gram: torch.Tensor, levels: str, names: list[str]) -> dict[str, Any]:
    """Return time and error of whole recipes, each run once after what compiled in `parts`."""
    found = {}
    for name in names:
        began = time.perf_counter()
        made = quantize_layer(target, gram, parse_levels(levels), name)
        if target.is_cuda:
            torch.cuda.synchronize()
        taken = time.perf_counter() - began
        found[f"`{name}`"] = taken, relative_error(made.weight, target, gram)
    return found


def main() -> None:
    """Measure, and print or file the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--levels", default="3bit-codebook")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--recipe", action="append", choices=RECIPES)
    parser.add_argument("--docs", type=Path, help="page with the markers for the table")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    numba.set_num_threads(min(options.threads, numba.config.NUMBA_NUM_THREADS))
    gram, target = layers_speed.synthetic_gram(options.size), layers_speed.synthetic_weight(options.size, options.size)
    names = options.recipe or list(RECIPES)
    columns = {f"CPU, {options.threads} threads": (target, gram)}
    if torch.cuda.is_available():
        columns[torch.cuda.get_device_name()] = target.cuda(), gram.cuda()
    times = {title: parts(*layer, options.levels) for title, layer in columns.items()}
    whole = {title: recipes(*layer, options.levels, names) for title, layer in columns.items()}
    if torch.cuda.is_available():
        usual, layer_sweeps.visit_of = layer_sweeps.visit_of, lambda block: layer_sweeps._composed
        times["the same, torch operations"] = parts(*list(columns.values())[-1], options.levels)
        layer_sweeps.visit_of = usual
    text = table(options, times, whole)
    print(text)
    if options.docs:
        insert_between(options.docs, text, "layers-gpu")


def table(options: argparse.Namespace, times: dict[str, dict[str, float]], whole: dict[str, dict[str, Any]]) -> str:
    """Return the table: a row for each part and recipe, a column for each device."""
    lines = [f"| {' | '.join(['', *times])} |", f"|{' --- |' * (len(times) + 1)}"]
    for part in next(iter(times.values())):
        lines.append(f"| {part} | {' | '.join(f'{found[part]:.3f}' for found in times.values())} |")
    for name in next(iter(whole.values())):
        cells = [
            f"{whole[title][name][0]:.2f} [{whole[title][name][1]:.5f}]" if title in whole else "" for title in times
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    title = f"**{options.size} x {options.size}, `{options.levels}`**, seconds; in brackets the relative error."
    return title + "\n\n" + "\n".join(lines)


if __name__ == "__main__":
    main()
