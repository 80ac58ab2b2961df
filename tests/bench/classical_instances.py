"""What the classical solvers are measured on: generated models, and real ones where `MRFQ_DATA` names a folder."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import mrfq
from mrfq import generators

#: solvers for a grid of many labels, for one of two labels, and for a frustrated model of two labels
MANY_LABELS = ("auto", "trws", "max-product", "expansion", "swap", "icm", "parallel-annealing")
BINARY = ("auto", "graph-cut", "qpbo", "trws", "icm")
FRUSTRATED = ("auto", "parallel-annealing", "tabu", "greedy", "qpbo", "trws", "icm")
#: tabu search is for dense models; dwave-samplers' takes 10 GB for this one
LARGE = tuple(name for name in FRUSTRATED if name != "tabu")
DENSE = (*FRUSTRATED, "toulbar2")
TREE = ("auto", "elimination", "trws", "max-product", "toulbar2")
REAL = ("auto", "toulbar2", "srmp", "trws", "expansion", "graph-cut", "qpbo", "parallel-annealing", "tabu", "greedy")


@dataclass(frozen=True)
class Instance:
    """A model, and how it is used.

    Attributes
    ----------
    kind : str
        The generator, or "real".
    make : callable
        Returns the model of a seed; real models are the same for all.
    solvers : tuple of str
        Ours; their peers follow. One that does not suit the model is left out, with the reason.
    energy : float or None
        That others report, with `status` saying whether it is proved.
    budget : float
        CPU seconds of a search that could go on for ever (annealing, tabu search, greedy starts).
    limit, auto_limit : float
        Seconds of solvers that end by themselves, perhaps late; of `auto`.
    """

    name: str
    kind: str
    make: Callable[[int], Any]
    solvers: tuple[str, ...]
    energy: float | None = None
    status: str = ""
    budget: float = 1.0
    limit: float = 5.0
    auto_limit: float = 20.0


def generated(quick: bool = False) -> list[Instance]:
    """Return the generated models; small ones, with small budgets, to try the harness."""
    side, magnet, glass, leaves = (12, 16, 12, 60) if quick else (100, 128, 64, 5000)
    labels, scale = (5, 0.02) if quick else (16, 1.0)
    grid = {"height": side, "width": side, "labels": labels}

    grids = (
        ("Potts denoising", generators.denoising, {**grid, "noise": 0.2}),
        ("Potts denoising, noisy", generators.denoising, grid),
        ("Potts random", generators.potts_grid, {**grid, "weight": 0.5}),
        ("truncated linear", generators.denoising, {**grid, "table": "truncated-linear"}),
    )
    square = {"height": magnet, "width": magnet}
    return [
        *(
            _model(kind, f"{side}x{side}x{labels}", make, MANY_LABELS, 1.0, scale, **options)
            for kind, make, options in grids
        ),
        _model("ferromagnet", f"{magnet}x{magnet}", generators.ferromagnet, BINARY, 1.0, scale, **square),
        _glass(glass, 2.0, scale, FRUSTRATED),
        _glass(2 * glass, 4.0, scale, LARGE),
        *(_model("dense Ising", str(n), generators.dense_ising, DENSE, 0.05, scale, n=n) for n in (20, 40, 60)),
        _model("tree", f"{leaves}x8", generators.tree, TREE, 1.0, scale, n=leaves, labels=8),
    ]


def _glass(size: int, budget: float, scale: float, solvers: tuple[str, ...]) -> Instance:
    make, square = generators.spin_glass, {"height": size, "width": size}
    return _model("spin glass", f"{size}x{size}", make, solvers, budget, scale, **square)


def _model(
    kind: str,
    size: str,
    make: Callable[..., Any],
    solvers: tuple[str, ...],
    budget: float,
    scale: float,
    **options: Any,
) -> Instance:
    limit, auto_limit = max(5 * scale, 1.0), max(20 * scale, 1.0)
    seeded = partial(_seeded, make, options)
    return Instance(f"{kind} {size}", kind, seeded, solvers, budget=budget * scale, limit=limit, auto_limit=auto_limit)


def _seeded(make: Callable[..., Any], options: dict[str, Any], seed: int) -> Any:
    return make(**options, seed=seed)


def real(data: str | None = None, limit: float = 5.0, auto_limit: float = 60.0) -> list[Instance]:
    """Return the real models of `$MRFQ_DATA/mrf-instances`, none if the variable is not set.

    Raises
    ------
    FileNotFoundError
        The variable names a folder without `mrf-instances/MANIFEST.tsv`.
    """
    data = os.environ.get("MRFQ_DATA") if data is None else data
    if not data:
        return []
    folder = Path(data) / "mrf-instances"
    with (folder / "MANIFEST.tsv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    return [
        Instance(
            name=row["file"],
            kind="real",
            make=partial(_read, folder / row["file"]),
            solvers=REAL,
            energy=float(row["energy"]),
            status=row["status"],
            budget=0.5,
            limit=limit,
            auto_limit=auto_limit,
        )
        for row in rows
    ]


def _read(path: Path, seed: int) -> Any:
    evidence = path.with_name(f"{path.name}.evid")
    return mrfq.read(path, evidence=evidence if evidence.exists() else None)


def instances(quick: bool = False) -> dict[str, Instance]:
    """Return all models, by name."""
    found = real(limit=1.0, auto_limit=2.0) if quick else real()
    return {instance.name: instance for instance in [*generated(quick), *found]}
