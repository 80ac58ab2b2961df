"""The UAI format, potentials of any arity, and its variant `.LG`, which holds their logarithms.

Words between white space: `MARKOV` or `BAYES`; the number of variables; their cardinalities; the number of functions;
the scope of each (how many variables, then the variables, numbered from 0); the table of each (how many entries, then
the entries, last variable fastest). Lines that start with `c` are comments. Costs are E = -ln potential, and -value
in `.LG`; a potential of 0, or a logarithm of -inf, forbids.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mrfq.errors import InvalidProblemError
from mrfq.io.limits import LARGEST_ARITY, LARGEST_NUMBER, LARGEST_PADDED, PADDING, most_labels
from mrfq.io.numbers import Numbers
from mrfq.io.text import Text, shown
from mrfq.problem import Factor, SupportsFactors
from mrfq.problems.factor_graph import FactorGraph
from mrfq.problems.pairwise import PairwiseMRF
from mrfq.problems.reduction import pairwise

#: a cost beyond this has no potential that is a normal double
LARGEST_COST = 700.0
_COMMENT, _WORD = re.compile(rb"^c[^\n]*", re.MULTILINE), re.compile(rb"\S+")


def parse_uai(text: Text) -> PairwiseMRF | FactorGraph:
    """Return the model of a `.uai` file, a `PairwiseMRF` where that takes little more memory."""
    return _model(_parse(text, logarithms=False))


def parse_lg(text: Text) -> PairwiseMRF | FactorGraph:
    """Return the model of a `.LG` file, a `PairwiseMRF` where that takes little more memory."""
    return _model(_parse(text, logarithms=True))


def render_uai(problem: SupportsFactors) -> str:
    """Return the text of a `.uai` file: potentials `exp(-cost)`.

    Raises
    ------
    InvalidProblemError
        A finite cost beyond +-700, whose potential is no normal double. Shifting the table would change energies.
    """
    _check_costs(problem, LARGEST_COST, "UAI potentials exp(-cost)", ".LG or .json")
    return _render(problem, lambda costs: np.exp(-costs))


def render_lg(problem: SupportsFactors) -> str:
    """Return the text of a `.LG` file, exact to the last bit; +inf becomes a logarithm of -inf."""
    _check_costs(problem, LARGEST_NUMBER, "LG files", ".json")
    return _render(problem, lambda costs: 0.0 - costs)


# ---- reading --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Tables:
    """What a file holds, checked, before it becomes a problem."""

    counts: list[int]
    listed: list[Factor]

    @property
    def cardinalities(self) -> Tensor:
        return torch.tensor(self.counts)

    def factors(self) -> list[Factor]:
        return self.listed


def _model(tables: _Tables) -> PairwiseMRF | FactorGraph:
    pairs = [factor.table.size for factor in tables.listed if len(factor.scope) == 2]
    fits = len(pairs) * max(tables.counts) ** 2 <= max(LARGEST_PADDED, PADDING * sum(pairs))
    if fits and all(len(factor.scope) <= 2 for factor in tables.listed):
        return pairwise(tables)
    return FactorGraph(tables.counts, tables.listed)


def _parse(text: Text, logarithms: bool) -> _Tables:
    text = Text(text.path, _COMMENT.sub(b"", text.data))
    header = _WORD.search(text.data)
    if header is None or header[0] not in (b"MARKOV", b"BAYES"):
        found = "an empty file" if header is None else shown(header[0])
        raise text.error(header.start() if header else 0, found, "MARKOV or BAYES")
    numbers = Numbers(text, header.end())
    n = numbers.whole("the number of variables", 1, max(1, numbers.left))
    counts = numbers.wholes(n, "cardinalities", 1, most_labels(n, len(text.data))).tolist()
    m = numbers.whole("the number of functions", 0, numbers.left)
    scopes = [_scope(numbers, n, f) for f in range(m)]
    return _Tables(counts, _factors(numbers, counts, scopes, logarithms))


def _scope(numbers: Numbers, n: int, f: int) -> tuple[int, ...]:
    arity = numbers.whole(f"the number of variables of function {f}", 0, min(n, LARGEST_ARITY))
    scope = tuple(numbers.whole(f"a variable of function {f}", 0, n - 1) for _ in range(arity))
    if len(set(scope)) < arity:
        again = next(k for k in range(arity) if scope[k] in scope[:k])
        raise numbers.error(numbers.position - arity + again, f"each variable once in the scope of function {f}")
    return scope


def _factors(numbers: Numbers, counts: list[int], scopes: Iterable[tuple[int, ...]], logarithms: bool) -> list[Factor]:
    first, places = numbers.position, []
    entry = np.ones(numbers.left, dtype=bool)  # False where a number says how long a table is
    for f, scope in enumerate(scopes):
        shape = tuple(counts[i] for i in scope)
        size = math.prod(shape)
        entry[numbers.position - first : numbers.position - first + 1] = False
        numbers.whole(f"the number of entries of function {f}", size, size)
        numbers.take(size, f"the entries of function {f}")
        places.append((scope, shape, numbers.position - first - size, size))
    numbers.end()
    values = numbers.values[first:]
    costs = _from_logarithms(numbers, values, entry) if logarithms else _from_potentials(numbers, values, entry)
    return [Factor(scope, costs[start : start + size].reshape(shape)) for scope, shape, start, size in places]


def _from_potentials(numbers: Numbers, values: np.ndarray, entry: np.ndarray) -> np.ndarray:
    good = (values >= 0) & (values < np.inf)
    numbers.check(good | ~entry, numbers.position - len(values), "a potential, a finite number of at least 0")
    with np.errstate(divide="ignore"):
        costs: np.ndarray = 0.0 - np.log(values)
    return costs


def _from_logarithms(numbers: Numbers, values: np.ndarray, entry: np.ndarray) -> np.ndarray:
    good = (np.abs(values) <= LARGEST_NUMBER) | (values == -np.inf)
    expected = f"the logarithm of a potential, from {-LARGEST_NUMBER:g} to {LARGEST_NUMBER:g} or -inf"
    numbers.check(good | ~entry, numbers.position - len(values), expected)
    return 0.0 - values


# ---- writing --------------------------------------------------------------------------------------------


def _check_costs(problem: SupportsFactors, largest: float, what: str, instead: str) -> None:
    """Raise `InvalidProblemError` about the first finite cost that is too large in size."""
    for number, (_, table) in enumerate(problem.factors()):
        beyond = np.isfinite(table) & (np.abs(table) > largest)
        if beyond.any():
            raise InvalidProblemError(
                f"factor {number} has the cost {table[beyond][0]:g}, but {what} hold costs from {-largest:g} to "
                f"{largest:g}; write {instead} instead"
            )


def _render(problem: SupportsFactors, convert: Callable[[np.ndarray], np.ndarray]) -> str:
    factors = problem.factors()
    lines = ["MARKOV", str(len(problem.cardinalities)), _words(problem.cardinalities.tolist()), str(len(factors))]
    lines += [_words([len(scope), *scope]) for scope, _ in factors]
    for _, table in factors:
        lines += ["", str(table.size), _words(convert(table).ravel().tolist())]
    return "\n".join(lines) + "\n"


def _words(values: Iterable[float]) -> str:
    return " ".join(map(repr, values))
