"""`Auto`: presolve, then the solvers that the structure of each part calls for, then proofs."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor

from mrfq.oracle import Oracle
from mrfq.problem import Capability
from mrfq.solution import Status, meets
from mrfq.solver import Solver, State, positive
from mrfq.solvers.auto_plan import AGAIN, FIRST, MORE, PROOFS, RULES, Attempt, Limits
from mrfq.solvers.factor_messages import Factored
from mrfq.solvers.presolve import ENTRIES, Part, Presolved, presolve, size
from mrfq.solvers.reduced_costs import allowed_labels

#: table entries that inner solvers look at in one step of `Auto`
WORK = 5_000_000
#: fraction of the labels that reduced costs must rule out for a part to be planned anew
FIXED = 0.05
#: parts that are mentioned by name in the notes
MENTIONED = 5
#: seconds that are left to the loop at the end of a time limit
RESERVE = 0.05


@dataclass
class Run:
    """An inner solver at work on a part."""

    part: int
    attempt: Attempt
    oracle: Oracle
    state: State
    steps: int = 0
    before: float = math.inf


@dataclass
class AutoState(State):
    """The presolved model, what is still to do, and what is being done."""

    presolved: Presolved | None = None
    tasks: deque[tuple[int, str]] = field(default_factory=deque)
    run: Run | None = None
    round: int = 0


@dataclass(frozen=True)
class Auto(Solver[AutoState]):
    """The solver that chooses: presolve, a solver for the structure of each part, proofs with the time left.

    Labels that some optimum does without are ruled out and independent parts are separated. Each part is then solved

    * exactly, if its graph is narrow (elimination) or it is submodular with two labels (a minimum cut);
    * else by message passing for a bound, large moves (expansion, roof duality), annealing or tabu search, and exact
      moves of small subsets;
    * then labels are ruled out by their reduced costs, which may make it narrow;
    * then proofs are tried: wide elimination, toulbar2 where it is installed, an integer program where it is small.

    `solution.notes` says what was done and why. Without a time limit the plan is finite and every run of it is the
    same from bit to bit. With one, searches go on in growing rounds, and toulbar2 has what is left.

    Parameters
    ----------
    memory : int
        Bytes that elimination may use.
    proofs : bool
        Whether to go on once a labelling and a bound are found.

    Examples
    --------
    >>> from mrfq import generators, solve
    >>> solution = solve(generators.spin_glass(8, 8, seed=0), Auto())
    >>> solution.proved
    True
    >>> print(solution.notes[-1])
    64 variables, 2 labels: Elimination, exact, as the graph has width 8 (proved)
    """

    needs = frozenset({Capability.FACTORS})
    max_iters = None
    reference = "the solvers it uses; Kappes et al., A Comparative Study of Modern Inference Techniques, IJCV 2015"
    use_when = "you want the lowest energy and a proof, and not to choose"

    memory: int = 2**30
    proofs: bool = True

    def __post_init__(self) -> None:
        positive(self, memory=self.memory)

    def init(self, oracle: Oracle, start: Tensor) -> AutoState:
        return AutoState(labels=oracle.problem.label_set.round(start))

    def step(self, oracle: Oracle, state: AutoState) -> AutoState:
        if state.presolved is None:
            self._begin(oracle, state)
        else:
            work = 0
            while work < WORK and (state.run or state.tasks) and may_go_on(oracle):
                work += self._advance(oracle, state)
            if not state.run and not state.tasks:
                self._think_again(oracle, state)
        self._show(oracle, state)
        return state

    # ---- the plan ---------------------------------------------------------------------------------------

    def _begin(self, oracle: Oracle, state: AutoState) -> None:
        """Presolve, and plan the first round: one rule after another, each for all parts."""
        oracle.calls += 1
        labels = cast(Tensor, state.labels).cpu()
        state.presolved = presolve(cast(Factored, oracle.problem), labels)
        state.notes = list(state.presolved.notes)
        count = len(state.presolved.parts)
        if count > 1:
            state.notes.append(f"presolve: {count} independent parts")
        state.tasks = deque((k, rule) for rule in FIRST for k in range(count))
        if self.proofs:
            state.tasks.extend((k, rule) for rule in PROOFS for k in range(count))

    def _think_again(self, oracle: Oracle, state: AutoState) -> None:
        """Plan another round of searches for what is not proved if there is a time limit and time; else end."""
        assert state.presolved is not None
        unproved = [k for k, part in enumerate(state.presolved.parts) if not part.proved]
        if not unproved:
            state.status = Status.CONVERGED  # the loop calls it optimal where the bound meets the energy
        elif not self.proofs or math.isinf(oracle.seconds_left):
            state.status = Status.CONVERGED
        elif oracle.seconds_left <= RESERVE:
            state.status = Status.TIME_LIMIT
        else:
            state.round += 1
            state.tasks = deque((k, rule) for rule in MORE for k in unproved)

    def _advance(self, oracle: Oracle, state: AutoState) -> int:
        """Take one step of the inner solver, or begin the next task; return the work."""
        assert state.presolved is not None
        if state.run is not None:
            return self._inner_step(oracle, state, state.run)
        number, rule = state.tasks.popleft()
        part = state.presolved.parts[number]
        if part.proved:
            return 0
        if rule == "fix":
            return self._fix(state, number, part)
        seconds = None if math.isinf(oracle.seconds_left) else oracle.seconds_left
        attempt = RULES[rule](part, Limits(self.memory, seconds, state.round))
        if attempt is None:
            return 0
        state.run = self._enter(oracle, number, attempt, part)
        return size(part.problem) if part.problem.shape[0] < 1000 else WORK

    @staticmethod
    def _enter(oracle: Oracle, number: int, attempt: Attempt, part: Part) -> Run:
        """Begin an inner run from the best labelling of a part."""
        seed = int(torch.randint(2**31, (), generator=oracle.generator))
        inner = Oracle(part.problem, seed)
        budget = [calls for calls in (attempt.calls, calls_left(oracle)) if calls is not None]
        inner.horizon, inner.max_calls, inner.deadline = attempt.steps, min(budget, default=None), oracle.deadline
        start = part.problem.label_set.one_hot(part.start(), part.problem.dtype)
        state = attempt.solver.init(inner, start)
        oracle.calls += inner.calls
        return Run(number, attempt, inner, state, before=part.energy)

    def _inner_step(self, oracle: Oracle, state: AutoState, run: Run) -> int:
        assert state.presolved is not None
        part, inner = state.presolved.parts[run.part], run.oracle
        calls = inner.spent = inner.calls
        run.state = run.attempt.solver.step(inner, run.state)
        run.steps = inner.iteration = run.steps + 1
        labels = run.state.labels
        if labels is None:
            labels = part.problem.label_set.round(cast(Tensor, run.state.u))
        part.offer(labels, inner.energy(labels))
        if run.state.bound is not None:
            part.bound = max(part.bound, run.state.bound)
        used = inner.calls - calls
        oracle.calls += used
        spent = inner.max_calls is not None and inner.calls >= inner.max_calls
        out_of_time = oracle.seconds_left <= RESERVE
        if part.proved or run.state.status or run.steps >= run.attempt.steps or spent or out_of_time:
            self._leave(state, run, part)
        return used * (part.problem.shape[0] * part.problem.shape[1])

    def _leave(self, state: AutoState, run: Run, part: Part) -> None:
        """End an inner run, and note what it has brought in terms of the whole model."""
        assert state.presolved is not None
        state.run = None
        whole = state.presolved
        found = f"energy {whole.energy:.6g}" if part.energy < run.before else "no better labelling"
        outcome = "proved" if part.proved else f"{found}, bound {whole.bound:.6g}"
        self._note(state, run.part, part, f"{type(run.attempt.solver).__name__}, {run.attempt.why} ({outcome})")

    def _fix(self, state: AutoState, number: int, part: Part) -> int:
        """Rule labels out by their reduced costs, and plan again for the part if that has helped."""
        entries = size(part.problem)
        if entries > ENTRIES or math.isinf(part.energy):
            return 0
        allowed = allowed_labels(part.problem, part.energy)
        before = int(part.problem.cardinalities.sum())
        removed = before - int(allowed.sum())
        if removed:
            part.shrink(allowed)
            self._note(state, number, part, f"reduced costs rule out {removed} of {before} labels")
            if not part.proved and removed >= FIXED * before:
                state.tasks.extendleft((number, rule) for rule in reversed(AGAIN))
        return 100 * entries

    def _note(self, state: AutoState, number: int, part: Part, text: str) -> None:
        if number < MENTIONED:
            n, count = part.problem.shape
            state.notes.append(f"{n} variables, {count} labels: {text}")
        elif number == MENTIONED and (line := "further parts are treated alike") not in state.notes:
            state.notes.append(line)

    # ---- what the loop sees -----------------------------------------------------------------------------

    @staticmethod
    def _show(oracle: Oracle, state: AutoState) -> None:
        """Put the parts together."""
        presolved = state.presolved
        assert presolved is not None
        state.labels = presolved.expand().to(oracle.problem.device)
        bound = presolved.bound
        if all(part.proved for part in presolved.parts):
            # Sums of parts differ from the energy in the last bits; the bound is then of the energy's kind.
            energy = oracle.energy(state.labels)
            bound = energy if meets(energy, bound) else bound
            state.status = Status.CONVERGED
        state.bound = bound if bound > -math.inf else None


def may_go_on(oracle: Oracle) -> bool:
    """Return whether there are time and calls left."""
    return oracle.seconds_left > RESERVE and calls_left(oracle) != 0


def calls_left(oracle: Oracle) -> int | None:
    """Return how many oracle calls are left of a budget, or None without one."""
    return None if oracle.max_calls is None else max(oracle.max_calls - oracle.calls, 0)
