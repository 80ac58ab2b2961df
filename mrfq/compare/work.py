"""One cell, run by a worker process: the harness evaluates, the solver does not."""

from __future__ import annotations

from typing import Any

import torch

from mrfq import plain
from mrfq.compare.kinds import Instance, instance
from mrfq.compare.records import FAILED, SKIPPED, Record
from mrfq.compare.suite import Cell
from mrfq.generators import chain, potts_grid, spin_glass
from mrfq.kernels import torch_threads
from mrfq.oracle import UNLIMITED
from mrfq.problem import mismatch
from mrfq.solution import Solution
from mrfq.solve import solve
from mrfq.solver import Solver

#: solvers that this process has run before
WARM: set[str] = set()


def run_cell(cell: Cell) -> Record:
    """Return the record of a cell; whatever a problem or a solver raises becomes its status."""
    with torch_threads(1):  # sums depend on the number of threads, results must not depend on --jobs
        try:
            return _run(cell)
        except Exception as error:
            message = str(error).strip().splitlines()
            return Record(": ".join([FAILED, type(error).__name__, *message[:1]]))


def _run(cell: Cell) -> Record:
    made = instance(cell.problem.kind, cell.problem.parameters, cell.seed)
    solver = plain.from_plain(dict(cell.plain))
    reason = mismatch(made.problem, solver)
    if reason:
        record = Record(SKIPPED, skipped_reason=reason)
    else:
        _warm_up(solver)
        limit = UNLIMITED if cell.budget is None else None
        every = cell.problem.trace_every
        record = _record(
            made,
            solve(
                made.problem,
                solver,
                seed=cell.seed,
                max_iters=limit,
                max_oracle_calls=cell.budget,
                trace_every=every,
            ),
        )
    record.needs = sorted(str(capability) for capability in solver.required())
    record.shape = made.problem.shape
    record.tolerance = 1e-9 if made.problem.dtype == torch.float64 else 1e-6
    record.float_metrics = dict(made.float_metrics)
    return record


def _record(made: Instance, solution: Solution) -> Record:
    return Record(
        status=str(solution.status),
        energy=solution.energy,
        lower_bound=solution.lower_bound,
        iterations=solution.iterations,
        oracle_calls=solution.oracle_calls,
        seconds=solution.seconds,
        metrics=dict(made.evaluate(solution.labels)),
        trace=solution.trace.columns,
    )


def _warm_up(solver: Solver[Any]) -> None:
    """Run a solver on tiny problems, so that compilers and lazy imports are not charged to its first cell."""
    if repr(solver) in WARM:
        return
    for problem in (chain(3, 2), potts_grid(2, 2, 2), spin_glass(2, 2)):
        if mismatch(problem, solver) is None:
            solve(problem, solver, max_iters=2)
    WARM.add(repr(solver))
