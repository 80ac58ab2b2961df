"""Public conformance suite: does a solver keep the promises of the `Solver` contract.

`check_solver(MySolver())` checks everything and returns a report. For one test a case::

    @pytest.mark.parametrize("problem", mrfq.testing.PROBLEMS)
    @pytest.mark.parametrize("promise", mrfq.testing.CHECKS)
    def test_my_solver(problem, promise):
        mrfq.testing.check(MySolver(), problem, promise)
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
import math
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mrfq import generators, plain, registry
from mrfq.errors import ConformanceError, UnknownNameError
from mrfq.labels import LabelSet
from mrfq.problem import Problem, mismatch
from mrfq.problems.factor_graph import FactorGraph
from mrfq.problems.layer import LayerQuadratic
from mrfq.problems.pairwise import PairwiseMRF
from mrfq.problems.tables import potts
from mrfq.solution import Solution, Status
from mrfq.solve import solve
from mrfq.solver import Solver

#: raises `ConformanceError`, or returns why it does not apply
Check = Callable[[Solver[Any], Problem], str | None]
STEPS = 6
#: seconds after which a run that makes no oracle calls is given up
PATIENCE = 60.0


class LogCosh:
    """`E = sum_r log cosh(A_r w - b_r)` of the values w: smooth and not multilinear, like a network's loss.

    It has an energy and a linearisation and nothing else: what a solver of networks must do with.
    """

    dtype, device = torch.float64, torch.device("cpu")

    def __init__(self, labels: str, n: int = 4) -> None:
        generator = torch.Generator().manual_seed(0)
        self.label_set = LabelSet.named(labels, n)
        self.shape = self.label_set.shape
        self.A = torch.randn(6, n, generator=generator, dtype=torch.float64)
        self.b = torch.randn(6, generator=generator, dtype=torch.float64)

    def energy(self, labels: Tensor) -> float:
        """Return the energy at the levels of a labelling."""
        return float((self.A @ self.label_set.decode(labels) - self.b).cosh().log().sum())

    def linearize(self, u: Tensor, draw: int | None = None) -> tuple[Tensor, Tensor]:
        """Return the energy at the mean values, and its gradient by the chain rule."""
        residual = self.A @ self.label_set.mean(u) - self.b
        return residual.cosh().log().sum(), self.label_set.lift(self.A.T @ residual.tanh())


def _pairwise(n: int, labels: int, edges: Iterable[tuple[int, int]], **options: Any) -> PairwiseMRF:
    """Return a model with random costs: a table per edge, or one for all edges if `shared`."""
    numbers, pairs = np.random.default_rng(n * labels), np.array(list(edges))
    shape = (labels, labels) if options.pop("shared", False) else (len(pairs), labels, labels)
    tables = numbers.standard_normal(shape) if len(pairs) else None
    return PairwiseMRF(numbers.standard_normal((n, labels)), pairs, tables, **options)


def _factors(counts: list[int], scopes: Iterable[tuple[int, ...]], forbidden: float = 0.0) -> FactorGraph:
    """Return a factor graph with random costs, a fraction of which is forbidden."""
    numbers = np.random.default_rng(len(counts))
    shapes = {scope: tuple(counts[i] for i in scope) for scope in scopes}
    tables = {scope: numbers.standard_normal(shape) for scope, shape in shapes.items()}
    for table in tables.values():
        table[numbers.random(table.shape) < forbidden] = math.inf
    return FactorGraph(counts, tables.items())


def _layer(rows: int, columns: int, labels: int) -> LayerQuadratic:
    """Return a layer with correlated inputs, the last of which is almost a multiple of the first."""
    numbers = np.random.default_rng(rows * columns)
    inputs = numbers.standard_normal((6, columns))
    inputs[:, -1] = 2 * inputs[:, 0] + 0.1 * inputs[:, -1]
    levels = np.sort(numbers.standard_normal((rows, 1, labels)))
    return LayerQuadratic(numbers.standard_normal((rows, columns)), inputs.T @ inputs, levels)


RING = ((0, 1), (2, 1), (2, 3), (3, 0))
RAGGED = np.array([[1, 1, 1], [1, 0, 0], [1, 1, 0], [1, 0, 1]], dtype=bool)
# What is allowed is expensive here: a finite stand-in for +inf that forgets this prefers what is forbidden.
FORBIDDEN_LABELS = [[40.0, math.inf, 41.0], [math.inf, 30.0, math.inf], [0.0, 0.1, math.inf], [5.0, 4.0, 3.0]]
FORBIDDEN_PAIRS = [[20.0, math.inf], [21.0, 20.5]]
# Two inputs that are one, and one that never comes; equal levels, and targets half way between two of them.
TIED_GRAM = [[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
TIED_LEVELS = [[[0.0, 0.0, 1.0]] * 3, [[-1.0, 1.0, 1.0]] * 3]
HUGE = [[1e30, 0.0], [0.0, 1e30], [-1e30, 0.0], [0.0, 2e30]]

#: small named problems, each a case that has broken solvers before; few enough labellings to look at all
PROBLEMS: dict[str, Callable[[], Problem]] = {
    "one-variable": partial(_pairwise, 1, 3, ()),
    "no-edges": partial(_pairwise, 4, 3, ()),
    "one-label": partial(_pairwise, 4, 1, RING),
    "tree": partial(generators.tree, 6, 3, seed=1),
    "chain": partial(generators.chain, 5, 3, seed=1),
    "frustrated-cycle": partial(generators.frustrated_cycle, 5, seed=1),
    "spin-glass": partial(generators.spin_glass, 3, 3, field=0.1, seed=1),
    "grid": partial(generators.denoising, 2, 3, 3, table="truncated-linear", seed=1),
    "asymmetric-table": partial(_pairwise, 4, 3, RING, shared=True),
    "parallel-edges": partial(_pairwise, 3, 2, ((0, 1), (1, 0), (0, 1), (1, 2))),
    "ties": partial(PairwiseMRF, np.zeros((4, 3)), RING, np.zeros((4, 3, 3))),
    "ragged-labels": partial(_pairwise, 4, 3, RING, mask=RAGGED),
    "ragged-ends": partial(_pairwise, 4, 3, RING, mask=RAGGED & [True, True, False]),
    "forbidden-labels": partial(PairwiseMRF, FORBIDDEN_LABELS, RING, potts(3), weights=0.5),
    "forbidden-pairs": partial(PairwiseMRF, np.zeros((4, 2)), RING[:3], FORBIDDEN_PAIRS),
    "infeasible": partial(PairwiseMRF, np.zeros((2, 2)), [[0, 1]], np.full((2, 2), math.inf)),
    "huge-costs": partial(PairwiseMRF, HUGE, RING, 1e30 * potts(2)),
    "float32": partial(_pairwise, 4, 2, RING, dtype=torch.float32),
    "triples": partial(_factors, [2, 3, 1, 2, 2], [(0, 1, 2), (1, 3, 4), (4, 0), (3,), ()]),
    "arity-six": partial(_factors, [2] * 6, [(5, 0, 3, 1, 4, 2), (0, 1, 2), (2, 3)]),
    "clauses": partial(_factors, [3, 2, 3, 2], [(0, 1, 2), (3, 2, 1), (0, 3), (0,)], forbidden=0.2),
    "layer": partial(_layer, 2, 3, 3),
    "layer-ties": partial(LayerQuadratic, [[0.5, 0.5, 7.0], [0.0, 0.0, 0.0]], TIED_GRAM, TIED_LEVELS),
    "smooth-binary": partial(LogCosh, "binary"),
    "smooth-ternary": partial(LogCosh, "ternary"),
}


def _exists(problem: Problem) -> Tensor:
    mask = problem.label_set.mask
    return torch.ones(problem.shape, dtype=torch.bool) if mask is None else mask


def exact_energy(problem: Problem) -> float:
    """Return the lowest energy of a small problem, by looking at every labelling."""
    labellings = itertools.product(*(row.nonzero()[:, 0].tolist() for row in _exists(problem)))
    return min(problem.energy(torch.tensor(x)) for x in labellings)


def _require(condition: bool, broken: str) -> None:
    if not condition:
        raise ConformanceError(broken)


def _run(solver: Solver[Any], problem: Problem, **options: Any) -> Solution:
    return solve(problem, solver, **{"max_iters": STEPS, "seed": 3, **options})


def _same(a: Solution, b: Solution, what: str) -> None:
    """Require two runs to agree in every bit except the time they took."""
    for name in ("labels", "relaxed"):
        _require(torch.equal(getattr(a, name), getattr(b, name)), f"{what}: {name} differ")
    # As text, because NaN differs from itself.
    for name in ("energy", "lower_bound", "status", "iterations", "oracle_calls"):
        one, other = repr(getattr(a, name)), repr(getattr(b, name))
        _require(one == other, f"{what}: {name} is {one} and {other}")
    for name in set(a.trace.columns) - {"seconds"}:
        _require(repr(a.trace[name]) == repr(b.trace[name]), f"{what}: {name} differs in the trace")


def labelling_is_valid(solver: Solver[Any], problem: Problem) -> None:
    """Require labels of the right shape, type and range with their energy, also after no step at all."""
    for option in ("seed=3", "init=uniform", "init=random", "max_iters=0", "time_limit=0"):
        name, value = option.split("=")
        given = {"max_iters": 3, name: value if name == "init" else int(value)}
        solution = _run(solver, problem, **given)
        labels, u, again = solution.labels, solution.relaxed, problem.energy(solution.labels)
        problem.label_set.check(labels)
        _require(labels.dtype == torch.int64, f"labels have type {labels.dtype}, not int64")
        _require(u.shape == problem.shape and u.dtype == problem.dtype, f"relaxed is {u.shape}, {u.dtype}")
        on_simplex = bool((u >= 0).all()) and float((u.sum(1) - 1).abs().max()) < 1e-5
        _require(on_simplex, "a row of relaxed is not on the simplex")
        _require(not bool(u[~_exists(problem)].any()), "relaxed uses labels that do not exist")
        _require(solution.energy == again, f"the energy is {solution.energy!r}, recomputed {again!r}")
        _require(value != "0" or solution.iterations == 0, f"{solution.iterations} steps with {option}")


def bound_exact_energy(solver: Solver[Any], problem: Problem) -> None:
    """Require lower_bound <= exact <= energy at every row of the trace, and that proved implies exact."""
    exact, solution = exact_energy(problem), _run(solver, problem, max_iters=15)
    slack = 0.0 if math.isinf(exact) else 1e-9 * max(1.0, abs(exact))
    lowest = min(e for e in (solution.energy, *solution.trace["energy"]) if not math.isnan(e))
    _require(lowest >= exact - slack, f"an energy of {lowest!r} is below the exact {exact!r}")
    bound = max((b for b in solution.trace["bound"] if not math.isnan(b)), default=-math.inf)
    _require(bound <= exact + slack, f"a lower bound of {bound!r} is above the exact {exact!r}")
    claims = solution.proved or solution.status is Status.OPTIMAL
    _require(not claims or solution.energy <= exact + slack, f"{solution.energy!r} is not the optimum {exact!r}")


def best_energy_never_rises(solver: Solver[Any], problem: Problem) -> None:
    """Require that the column `best_energy` never rises, and ends at the energy of the solution."""
    solution = _run(solver, problem)
    best = solution.trace["best_energy"]
    _require(all(b <= a for a, b in itertools.pairwise(best)), f"best_energy rises: {best}")
    # Along the run energies may be added up from changes; that of the solution is computed anew.
    same = best[-1] == solution.energy or math.isclose(best[-1], solution.energy, rel_tol=1e-9, abs_tol=1e-9)
    _require(same, f"best_energy ends at {best[-1]!r}, not at {solution.energy!r}")


def _global_generators() -> tuple[Any, ...]:
    return random.getstate(), repr(np.random.get_state()), torch.get_rng_state().tolist()  # noqa: NPY002


def same_seed_same_bits(solver: Solver[Any], problem: Problem) -> None:
    """Require runs with one seed to agree in every bit, and to leave the global generators alone."""
    before = _global_generators()
    first = _run(solver, problem, init="random")
    _require(before == _global_generators(), "the state of a global random generator changed")
    random.random(), np.random.random(), torch.rand(1)  # noqa: NPY002
    _same(first, _run(solver, problem, init="random"), "two runs with the same seed")


def _tensors(value: Any, path: str = "problem") -> Iterator[tuple[str, Tensor]]:
    """Yield every tensor inside an object, with the path to it."""
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, dict | list | tuple):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _tensors(item, f"{path}.{key}")
    elif hasattr(value, "__dict__"):
        yield from _tensors(vars(value), path)


def inputs_are_not_changed(solver: Solver[Any], problem: Problem) -> None:
    """Require that no tensor of the problem, nor the array a run starts from, is written to."""
    _run(solver, problem, max_iters=1)  # lets lazily prepared parts of the problem come into being
    u = (_exists(problem) / _exists(problem).sum(1, keepdim=True)).to(problem.dtype)
    inputs: dict[str, Any] = {"labels": problem.label_set.round(u), "u": u, "problem": problem}
    before = {path: tensor.clone() for path, tensor in _tensors(inputs)}
    for init in (inputs["labels"].numpy(), u):
        _run(solver, problem, init=init, max_iters=3)
    for path, tensor in _tensors(inputs):
        same = path not in before or torch.equal(tensor.nan_to_num(0.5), before[path].nan_to_num(0.5))
        _require(same, f"{path} was changed")


def resumed_is_uninterrupted(solver: Solver[Any], problem: Problem) -> None:
    """Require a run that is stopped half way and resumed to be the uninterrupted run, bit for bit."""
    whole = _run(solver, problem)
    part = _run(solver, problem, callback=lambda row: row["iteration"] >= STEPS // 2)
    for _ in range(2):  # resuming must not use the earlier solution up
        _same(whole, _run(solver, problem, max_iters=None, resume=part), "uninterrupted and resumed")


def callback_stops(solver: Solver[Any], problem: Problem) -> str | None:
    """Require a true return value of the callback to end the run at once, with the status saying so."""
    if _run(solver, problem).iterations < 2:
        return "it ends after one step by itself"
    solution = _run(solver, problem, callback=lambda row: True)
    stopped = solution.status is Status.STOPPED and solution.iterations == 1
    _require(stopped, f"{solution.iterations} steps and the status {solution.status!r}")
    return None


def budgets_are_respected(solver: Solver[Any], problem: Problem) -> None:
    """Require that no step begins after a budget is used up, and that a budget of calls ends every run."""
    for limit in (1, 5):
        solution = _run(solver, problem, max_iters=None, max_oracle_calls=limit, time_limit=PATIENCE)
        calls = solution.trace["oracle_calls"]
        _require(solution.status is not Status.TIME_LIMIT, "steps without any oracle call never end")
        _require(all(c < limit for c in calls[:-1]), f"a step began after a budget of {limit}: {calls}")
    _require(_run(solver, problem, max_iters=3).iterations <= 3, "more steps than max_iters")


def solver_is_plain_data(solver: Solver[Any], problem: Problem) -> str | None:
    """Require a frozen dataclass that no run changes; a registered one must survive a trip through JSON."""
    frozen = dataclasses.is_dataclass(solver) and type(solver).__dataclass_params__.frozen
    _require(frozen, f"{type(solver).__name__} is not a frozen dataclass")
    before = copy.deepcopy(solver)
    _run(solver, problem)
    _require(before == solver, "solving changed the solver's hyper-parameters")
    if type(solver) not in registry.all_solvers().values():
        return "it is not registered, so it has no name in plain data"
    again = plain.from_plain(json.loads(json.dumps(plain.to_plain(solver))))
    _require(again == solver, f"{solver} comes back from plain data as {again}")
    return None


#: promises by name
CHECKS: dict[str, Check] = {
    "labelling-is-valid": labelling_is_valid,
    "bound-exact-energy": bound_exact_energy,
    "best-energy-never-rises": best_energy_never_rises,
    "same-seed-same-bits": same_seed_same_bits,
    "inputs-are-not-changed": inputs_are_not_changed,
    "resumed-is-uninterrupted": resumed_is_uninterrupted,
    "callback-stops": callback_stops,
    "budgets-are-respected": budgets_are_respected,
    "solver-is-plain-data": solver_is_plain_data,
}


@dataclass
class Report:
    """What was checked: the pairs (problem, promise) that hold, and why others do not apply. It prints."""

    passed: list[tuple[str, str]]
    skipped: dict[tuple[str, str], str]

    def __str__(self) -> str:
        lines = [f"{len(self.passed)} promises kept, {len(self.skipped)} not applicable"]
        return "\n".join([*lines, *(f"  {p}, {c}: {why}" for (p, c), why in self.skipped.items())])


def check(solver: Solver[Any], problem: str, promise: str) -> str | None:
    """Check one promise on one problem, by name; return why it does not apply, or None if it is kept."""
    for kind, name, known in (("problem", problem, PROBLEMS), ("promise", promise, CHECKS)):
        if name not in known:
            raise UnknownNameError(kind, name, known)
    model = PROBLEMS[problem]()
    try:
        return mismatch(model, solver) or CHECKS[promise](solver, model)
    except Exception as error:
        detail = str(error) if isinstance(error, ConformanceError) else repr(error)
        where = f"{type(solver).__name__} breaks the promise {promise!r} on the problem {problem!r}"
        raise ConformanceError(f"{where}: {detail}") from error


def check_solver(
    solver: Solver[Any], problems: Iterable[str] = tuple(PROBLEMS), promises: Iterable[str] = tuple(CHECKS)
) -> Report:
    """Check promises on small problems, all by default; the first that is broken raises `ConformanceError`.

    Examples
    --------
    >>> from mrfq import registry
    >>> print(check_solver(registry.make("icm"), ["tree", "smooth-binary"], ["labelling-is-valid"]))
    1 promises kept, 1 not applicable
      smooth-binary, labelling-is-valid: LogCosh does not offer a site sweep
    """
    reasons = {case: check(solver, *case) for case in itertools.product(problems, promises)}
    skipped = {case: why for case, why in reasons.items() if why is not None}
    return Report([case for case in reasons if case not in skipped], skipped)
