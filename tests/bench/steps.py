"""The price of a training step with `LabelOptimizer`, against its base optimiser on the float network: `make bench`.

All variants take turns in one process with one thread, in random order, each for a block of steps, as a training run
has its tensors in the caches and not those of others. A block counts by its median without the first steps; the table
has medians over the blocks, and of the ratios within a round. torchao's PARQ takes part if it is installed.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mrfq.nn import LabelOptimizer, models

#: labels and method, and the ratio that must not be exceeded, where there is one
VARIANTS: dict[str, list[tuple[str, str, float | None]]] = {
    "lenet300": [
        ("binary", "pmf", 1.25),
        ("binary", "md-tanh-s", 1.25),
        ("binary", "bc", None),
        ("binary", "parq", None),
        ("ternary", "pmf", None),
        ("ternary", "parq", None),
        ("4bit", "pmf", 1.6),
        ("4bit", "parq", None),
        ("4bit", "md-tanh-s", None),
        ("4bit", "md-softmax-s", None),
    ],
    "resnet20": [("binary", "pmf", 1.05), ("ternary", "pmf", 1.05), ("4bit", "pmf", 1.05)],
}
#: batch size, image channels and side, rounds, steps of a block, steps of it that do not count
SHAPES = {"lenet300": (100, 1, 28, 31, 25, 5), "resnet20": (128, 3, 32, 9, 3, 1)}
Stepper = Callable[[], None]


def adam(model: nn.Module) -> torch.optim.Optimizer:
    """Return the base optimiser of all variants."""
    return torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)


def torchao_parq(model: nn.Module, bits: int) -> torch.optim.Optimizer:
    """Return torchao's PARQ with its defaults, least-squares levels per tensor fitted every 10 steps."""
    from torchao.prototype.parq.optim import ProxPARQ, QuantOptimizer
    from torchao.prototype.parq.quant import LSBQuantizer

    group = {"params": list(model.parameters()), "quant_bits": bits}
    base = torch.optim.Adam([group], lr=1e-3, fused=True)
    optimizer: torch.optim.Optimizer = QuantOptimizer(base, LSBQuantizer(), ProxPARQ(0, 10**6))
    return optimizer


def stepper(name: str, wrap: Callable[[nn.Module], torch.optim.Optimizer]) -> Stepper:
    """Return a function that takes one training step on a fixed batch."""
    batch, channels, size = SHAPES[name][:3]
    model = models.build(name, channels=channels, size=size, classes=10, seed=0).train()
    optimizer = wrap(model)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(batch, channels, size, size, generator=generator)
    targets = torch.randint(0, 10, (batch,), generator=generator)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()

    return step


def steppers(name: str) -> dict[str, Stepper]:
    """Return the variants for a network, the float one first."""

    def labelled(labels: str, method: str) -> Callable[[nn.Module], torch.optim.Optimizer]:
        return lambda model: LabelOptimizer(adam(model), labels=labels, method=method, steps=10**6)

    found = {"float": stepper(name, adam)}
    for labels, method, _ in VARIANTS[name]:
        found[f"{labels} {method}"] = stepper(name, labelled(labels, method))
    try:
        import torchao.prototype.parq.optim  # noqa: F401
    except ImportError:
        return found
    for labels, bits in (("binary", 1), ("ternary", 0), ("4bit", 4)):
        found[f"{labels} parq of torchao"] = stepper(name, lambda model, bits=bits: torchao_parq(model, bits))  # type: ignore[misc]
    return found


def block(step: Stepper, steps: int, warm_up: int) -> float:
    """Return the median seconds of a step, taken one after the other."""
    times = []
    for _ in range(steps):
        began = time.perf_counter()
        step()
        times.append(time.perf_counter() - began)
    return statistics.median(times[warm_up:])


def measure(name: str, quick: bool) -> list[dict[str, Any]]:
    """Return a row for each variant: median time of a step, and ratio to the float steps of the same round."""
    variants = steppers(name)
    seconds: dict[str, list[float]] = {key: [] for key in variants}
    rounds, steps, warm_up = SHAPES[name][3:]
    order = random.Random(0)
    for _ in range(2 if quick else rounds):
        for key in order.sample(list(variants), len(variants)):
            seconds[key].append(block(variants[key], steps, warm_up))
    bounds = {f"{labels} {method}": bound for labels, method, bound in VARIANTS[name]}
    rows = []
    for key, times in seconds.items():
        ratios = [a / b for a, b in zip(times, seconds["float"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        row = {"network": name, "variant": key, "ms": 1e3 * statistics.median(times), "ratio": middle}
        rows.append({**row, "quartiles": [low, high], "bound": bounds.get(key)})
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as a Markdown table."""
    lines = ["| network | labels and method | ms a step | ratio | quartiles | bound |", "|---|---|---|---|---|---|"]
    for row in rows:
        bound = "" if row["bound"] is None else f"{row['bound']:.2f}"
        low, high = row["quartiles"]
        cells = [
            row["network"],
            row["variant"],
            f"{row['ms']:.2f}",
            f"{row['ratio']:.2f}",
            f"{low:.2f}-{high:.2f}",
            bound,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print the table, and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="write the rows as JSON")
    parser.add_argument("--quick", action="store_true", help="a few steps only")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [row for name in VARIANTS for row in measure(name, options.quick)]
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, one thread\n")
    print(table(rows))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
