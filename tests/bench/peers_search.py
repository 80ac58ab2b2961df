"""Peers that search: dwave-samplers and toulbar2."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from classical_found import Found, quadratic_form


def _bqm(problem: Any) -> tuple[Any, float]:
    import dimod

    form = quadratic_form(problem)
    began = time.process_time()
    i, j = form.edges.T
    model = dimod.BinaryQuadraticModel.from_numpy_vectors(
        form.linear, (i, j, form.quadratic), form.constant, dimod.BINARY, variable_order=range(len(form.linear))
    )
    return model.spin, time.process_time() - began


def _best(samples: Any, build: float) -> Found:
    record, order = samples.record, np.argsort(np.array(samples.variables))
    sample = record.sample[int(record.energy.argmin())][order]
    return Found((sample > 0).astype(np.int64), build=build)


def dwave_annealing(
    problem: Any, seed: int, effort: float, reads: int = 1, betas: tuple[float, float] | None = None, **settings: Any
) -> Found:
    """dwave-samplers' simulated annealing; the effort is the number of sweeps of all reads together.

    `betas` is the range of inverse temperatures, in units of one over the typical field of a spin's neighbours; the
    sampler's own choice by default.
    """
    from dwave.samplers import SimulatedAnnealingSampler

    model, build = _bqm(problem)
    began = time.process_time()
    sweeps = max(int(effort) // reads, 1)
    if betas is not None:
        _, (_, _, couplings), _ = model.to_numpy_vectors()
        field = math.sqrt(2 * float((couplings**2).sum()) / problem.shape[0]) or 1.0
        settings["beta_range"] = (betas[0] / field, betas[1] / field)
    build += time.process_time() - began
    sampler = SimulatedAnnealingSampler()
    return _best(sampler.sample(model, num_reads=reads, num_sweeps=sweeps, seed=seed, **settings), build)


def dwave_tabu(problem: Any, seed: int, effort: float) -> Found:
    """dwave-samplers' tabu search; the effort is its time limit in milliseconds."""
    from dwave.samplers import TabuSampler

    model, build = _bqm(problem)
    return _best(TabuSampler().sample(model, timeout=max(int(effort), 1), seed=seed), build)


def dwave_greedy(problem: Any, seed: int, effort: float) -> Found:
    """dwave-samplers' steepest descent; the effort is the number of random starts."""
    from dwave.samplers import SteepestDescentSampler

    model, build = _bqm(problem)
    sparse = len(problem.edges) < 8 * problem.shape[0]
    sampler = SteepestDescentSampler()
    return _best(sampler.sample(model, num_reads=max(int(effort), 1), seed=seed, large_sparse_opt=sparse), build)


# ---- exact search -------------------------------------------------------------------------------------


def toulbar2(problem: Any, seed: int, effort: float) -> Found:
    """pytoulbar2 with six decimals; the effort is its limit of CPU seconds."""
    from pytoulbar2 import CFN, tb2

    factors = problem.factors()
    began = time.process_time()
    top = 1.0 + sum(float(np.ptp(table[np.isfinite(table)])) for _, table in factors if np.isfinite(table).any())
    lows = sum(float(table.min()) for _, table in factors)
    with _silence():
        network = CFN(top + lows, resolution=6, seed=seed + 1)
        for i, count in enumerate(problem.cardinalities.tolist()):
            network.AddVariable(f"x{i}", range(count))
        try:
            for scope, table in factors:
                costs = np.where(np.isfinite(table), table, table.min() + top)
                if scope:
                    network.AddFunction(list(scope), costs.ravel().tolist())
            build = time.process_time() - began
            network.Option.limited = False
            result = network.Solve(timeLimit=math.ceil(effort))
        except tb2.Contradiction:
            return Found(None, math.inf, True)
        finally:
            network.CFN.timerStop()
        finished, bound = not network.Option.limited, float(network.GetDDualBound())
    constant = sum(float(table) for scope, table in factors if not scope)
    labels = None if result is None else np.array(result[0], dtype=np.int64)
    value = result[1] if finished and result is not None else bound
    return Found(labels, constant + float(value), finished and result is not None, build)


@contextmanager
def _silence() -> Iterator[None]:
    """Send what C++ prints to nowhere."""
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)
