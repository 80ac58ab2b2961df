"""Our solvers and their peers, pair by pair: differences of energies over seeds, ratios of CPU time."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from peers import PEERS

#: differences below this fraction of the energy are rounding of integers inside peers, or of sums
EQUAL = 1e-6
#: standard errors that seeds explain
ERRORS = 2.0

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Pair:
    """A solver of ours and its peer on one model; percentages of the larger energy, means over seeds."""

    instance: str
    ours: str
    peer: str
    #: energy of ours above the peer's, and its standard error
    percent: float
    error: float
    #: CPU time of ours over the peer's
    ratio: float
    #: CPU time of ours
    seconds: float
    seeds: int
    verdict: Literal["better", "equal", "worse"]
    remark: str = ""


def by_method(rows: Rows, instance: str, method: str) -> Rows:
    """Return the runs of a method on an instance that found labels, in the order of their seeds."""
    chosen = [row for row in rows if (row["instance"], row["method"]) == (instance, method)]
    return sorted((row for row in chosen if row["energy"] is not None), key=lambda row: row["seed"])


def pairs(rows: Rows) -> Iterator[Pair]:
    """Return all pairs that were measured."""
    for instance in dict.fromkeys(row["instance"] for row in rows):
        for peer in PEERS:
            ours, theirs = (by_method(rows, instance, name) for name in (peer.rival, peer.name))
            common = sorted({row["seed"] for row in ours} & {row["seed"] for row in theirs})
            if common:
                ours, theirs = ([row for row in side if row["seed"] in common] for side in (ours, theirs))
                yield compare(instance, peer.rival, peer.name, ours, theirs)


def compare(instance: str, name: str, peer: str, ours: Rows, theirs: Rows) -> Pair:
    """Return the comparison of two lists of runs with the same seeds."""
    scale = max(1e-12, *(abs(statistics.fmean(row["energy"] for row in side)) for side in (ours, theirs)))
    differences = [(a["energy"] - b["energy"]) / scale for a, b in zip(ours, theirs, strict=True)]
    mean, error = statistics.fmean(differences), 0.0
    if len(differences) > 1:
        error = statistics.stdev(differences) / len(differences) ** 0.5
    explained = max(ERRORS * error, EQUAL)
    verdict: Literal["better", "equal", "worse"] = "equal"
    if abs(mean) > explained:
        verdict = "better" if mean < 0 else "worse"
    remarks = []
    if any(b["proved"] and not a["proved"] for a, b in zip(ours, theirs, strict=True)) and _has_bound(ours):
        remarks.append("peer says proved, ours does not")
    if any(a["proved"] and not b["proved"] for a, b in zip(ours, theirs, strict=True)) and _has_bound(theirs):
        remarks.append("ours proved, the peer's not")
    mine, other = (float(np.median([row["cpu"] for row in side])) for side in (ours, theirs))
    ratio = mine / max(other, 1e-9)
    return Pair(
        instance, name, peer, 100 * mean, 100 * error, ratio, mine, len(ours), verdict, remark="; ".join(remarks)
    )


def _has_bound(rows: Rows) -> bool:
    return any(row["bound"] is not None for row in rows)


@dataclass(frozen=True)
class Known:
    """The lowest energy met on an instance with a seed, and whether anybody proved it."""

    energy: float
    proved: bool


def best_known(rows: Rows, reported: dict[str, tuple[float, bool]]) -> dict[tuple[str, int], Known]:
    """Return the lowest energies by instance and seed, from all runs and from what others report."""
    known: dict[tuple[str, int], Known] = {}
    for row in rows:
        if row["energy"] is None:
            continue
        key = row["instance"], row["seed"]
        energy, proved = reported.get(row["instance"], (float("inf"), False))
        before = known.get(key, Known(energy, proved))
        if row["energy"] < before.energy - EQUAL * abs(row["energy"]):
            before = Known(row["energy"], False)
        # A proof of somebody's own labels, by the rounding of their own arithmetic.
        proof = row["proved"] and row["energy"] <= before.energy + EQUAL * max(1.0, abs(row["energy"]))
        known[key] = Known(min(before.energy, row["energy"]), before.proved or proof)
    return known
