"""Speed ratios, each measured side by side in one run: `make bench`.

The sweeps of the library run on any graph, with ragged labels and any tables. They are compared with loops written
by hand for exactly this grid, in the same language (numba). The loop's overhead is everything `solve` does between
the solver's steps: evaluating, keeping the best labelling, the trace.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch

import mrfq
from mrfq.solvers import ICM, MeanField

SIZE, LABELS, WEIGHT, BETA = 100, 16, 1.0, 2.0
ROUNDS = 31


@numba.njit(fastmath={"reassoc", "contract", "arcp", "nsz", "nnan"})
def hand_icm(x: Any, unary: Any, table: Any) -> int:
    """Sweep a grid once: ICM with the given pairwise table, neighbours by index arithmetic."""
    height, width, labels = unary.shape
    costs = np.empty(labels)
    changed = 0
    for i in range(height):
        for j in range(width):
            for a in range(labels):
                costs[a] = unary[i, j, a]
            for di, dj in ((-1, 0), (0, -1), (0, 1), (1, 0)):
                y, z = i + di, j + dj
                if 0 <= y < height and 0 <= z < width:
                    row = table[x[y, z]]
                    for a in range(labels):
                        costs[a] += row[a]
            best = x[i, j]
            for a in range(labels):
                if costs[a] < costs[best]:
                    best = a
            changed += best != x[i, j]
            x[i, j] = best
    return changed


@numba.njit(fastmath={"reassoc", "contract", "arcp", "nsz", "nnan"})
def hand_potts_icm(x: Any, unary: Any, weight: float) -> int:
    """Sweep a grid once: ICM for Potts costs."""
    height, width, labels = unary.shape
    costs = np.empty(labels)
    changed = 0
    for i in range(height):
        for j in range(width):
            for a in range(labels):
                costs[a] = unary[i, j, a]
            for di, dj in ((-1, 0), (0, -1), (0, 1), (1, 0)):
                y, z = i + di, j + dj
                if 0 <= y < height and 0 <= z < width:
                    costs[x[y, z]] -= weight
            best = x[i, j]
            for a in range(labels):
                if costs[a] < costs[best]:
                    best = a
            changed += best != x[i, j]
            x[i, j] = best
    return changed


@numba.njit(fastmath={"reassoc", "contract", "arcp", "nsz", "nnan"})
def hand_mean_field(u: Any, unary: Any, table: Any, weight: float, beta: float, potts: bool) -> float:
    """Sweep a grid once: mean-field for Potts costs (table ignored) or any symmetric table; the largest change."""
    height, width, labels = unary.shape
    costs, mean, new = np.empty(labels), np.empty(labels), np.empty(labels)
    largest = 0.0
    for i in range(height):
        for j in range(width):
            for a in range(labels):
                costs[a] = unary[i, j, a]
                mean[a] = 0.0
            for di, dj in ((-1, 0), (0, -1), (0, 1), (1, 0)):
                y, z = i + di, j + dj
                if 0 <= y < height and 0 <= z < width:
                    for a in range(labels):
                        mean[a] += u[y, z, a]
            if potts:
                for a in range(labels):
                    costs[a] -= weight * mean[a]
            else:
                for b in range(labels):
                    m = mean[b]
                    for a in range(labels):
                        costs[a] += m * table[b, a]
            lowest = costs.min()
            total = 0.0
            for a in range(labels):
                new[a] = math.exp(-beta * (costs[a] - lowest))
                total += new[a]
            for a in range(labels):
                new[a] /= total
                largest = max(largest, abs(new[a] - u[i, j, a]))
                u[i, j, a] = new[a]
    return largest


def side_by_side(ours: Callable[[], Any], theirs: Callable[[], Any], rounds: int = ROUNDS) -> dict[str, float]:
    """Return median milliseconds of both and the median of the pairwise ratios.

    Each timing follows an untimed run of the same code, so that neither pays for the other's use of the cache.
    """
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for run, seconds in zip((ours, theirs), times, strict=True):
            run()
            began = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - began)
    ratios = sorted(a / b for a, b in zip(*times, strict=True))
    return {
        "ours_ms": 1e3 * statistics.median(times[0]),
        "theirs_ms": 1e3 * statistics.median(times[1]),
        "ratio": statistics.median(ratios),
        "ratio_min": ratios[0],
        "ratio_max": ratios[-1],
    }


def model(kind: str) -> tuple[mrfq.PairwiseMRF, np.ndarray, np.ndarray]:
    """Return the grid, its unary costs (height, width, labels) and its table."""
    unary = np.random.default_rng(0).random((SIZE, SIZE, LABELS)) * 4
    if kind == "potts":
        mrf = mrfq.PairwiseMRF.potts_grid(unary, WEIGHT)
    else:
        mrf = mrfq.PairwiseMRF.truncated_linear_grid(unary, WEIGHT, limit=4.0)
    return mrf, unary, mrf.tables[0].numpy()


def bench_icm(kind: str) -> dict[str, float]:
    """Compare sweeps of ICM from the same random labelling, many per timing so that the clock does not matter."""
    mrf, unary, table = model(kind)
    start = torch.randint(LABELS, (mrf.shape[0],), generator=torch.Generator().manual_seed(0))

    def ours() -> torch.Tensor:
        x = start.clone()
        for _ in range(10):
            mrf.sweep(x, "argmin")
        return x

    def theirs() -> np.ndarray:
        x = start.numpy().reshape(SIZE, SIZE).copy()
        for _ in range(10):
            hand_potts_icm(x, unary, WEIGHT) if kind == "potts" else hand_icm(x, unary, table)
        return x

    assert np.array_equal(ours().numpy(), theirs().ravel()), "the two sweeps must agree"
    return side_by_side(ours, theirs)


def bench_mean_field(kind: str) -> dict[str, float]:
    """Compare sweeps of sequential mean-field from the uniform marginals."""
    mrf, unary, table = model(kind)
    start = torch.full(mrf.shape, 1 / LABELS, dtype=torch.float64)

    def ours() -> torch.Tensor:
        u = start.clone()
        for _ in range(5):
            mrf.sweep(u, "softmax", beta=BETA)
        return u

    def theirs() -> np.ndarray:
        u = start.numpy().reshape(SIZE, SIZE, LABELS).copy()
        for _ in range(5):
            hand_mean_field(u, unary, table, WEIGHT, BETA, kind == "potts")
        return u

    assert np.allclose(ours().numpy().ravel(), theirs().ravel(), atol=1e-10), "the two sweeps must agree"
    return side_by_side(ours, theirs)


@dataclass(frozen=True)
class Timed(mrfq.Solver[Any]):
    """A solver that notes when its steps begin and end; what lies between two steps is the loop's."""

    inner: mrfq.Solver[Any]
    begins: list[float] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)

    def required(self) -> frozenset[mrfq.Capability]:
        return self.inner.required()

    def init(self, oracle: mrfq.Oracle, start: torch.Tensor) -> Any:
        return self.inner.init(oracle, start)

    def step(self, oracle: mrfq.Oracle, state: Any) -> Any:
        self.begins.append(time.perf_counter())
        state = self.inner.step(oracle, state)
        self.ends.append(time.perf_counter())
        return state


def bench_loop(solver: mrfq.Solver[Any], kind: str) -> dict[str, float]:
    """Return what the loop does between two steps (evaluation, trace, best-so-far), as a share of a step.

    The median over all iterations of all rounds but the first of each round, with the median round's extremes.
    """
    mrf, _, _ = model(kind)
    rounds = []
    for seed in range(ROUNDS):
        timed = Timed(solver)
        mrfq.solve(mrf, timed, max_iters=30, init="random", seed=seed)
        begins, ends = np.array(timed.begins), np.array(timed.ends)
        rounds.append((begins[2:] - ends[1:-1]) / (ends - begins)[1:-1])
    each = sorted(float(np.median(shares)) for shares in rounds)
    return {"overhead": float(np.median(np.concatenate(rounds))), "overhead_min": each[0], "overhead_max": each[-1]}


def main() -> None:
    """Measure, print a table, and write the figures where --out says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("bench/speed.json"))
    out = parser.parse_args().out
    torch.set_num_threads(1)
    figures: dict[str, Any] = {
        "machine": {"processor": processor(), "python": platform.python_version(), "numba": numba.__version__},
        "settings": {"grid": f"{SIZE}x{SIZE}", "labels": LABELS, "rounds": ROUNDS},
    }
    print(f"{SIZE}x{SIZE} grid, {LABELS} labels, one thread, {processor()}; medians of {ROUNDS} paired rounds\n")
    print(f"{'sweep':34s}{'ours ms':>10s}{'by hand ms':>12s}{'ratio':>8s}{'(min - max)':>16s}   bound")
    for name, bench in (("ICM", bench_icm), ("mean-field", bench_mean_field)):
        for kind in ("potts", "truncated linear"):
            row = figures[f"{name}, {kind}"] = bench(kind)
            spread = f"({row['ratio_min']:.2f} - {row['ratio_max']:.2f})"
            print(f"{name + ', ' + kind:34s}{row['ours_ms']:10.2f}{row['theirs_ms']:12.2f}{row['ratio']:8.2f}", end="")
            print(f"{spread:>16s}   <= 1.20")
    print(f"\n{'share of the loop beside a sweep':34s}{'share':>10s}")
    for name, solver in (("ICM", ICM()), ("mean-field", MeanField(beta=BETA))):
        for kind in ("potts", "truncated linear"):
            row = figures[f"loop, {name}, {kind}"] = bench_loop(solver, kind)
            spread = f"({row['overhead_min']:.1%} - {row['overhead_max']:.1%})"
            print(f"{name + ', ' + kind:34s}{row['overhead']:10.1%}{spread:>20s}   <= 15 %")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(figures, indent=2) + "\n")
    print(f"\nwritten to {out}")


def processor() -> str:
    """Return the processor's name where the system tells it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
