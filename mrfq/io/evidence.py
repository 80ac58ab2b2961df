"""Evidence files: variables whose labels have been observed.

A count, then pairs `variable label`, numbered from 0. An older variant puts a number of samples first, which must be 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from mrfq.errors import InvalidProblemError
from mrfq.io.numbers import Numbers
from mrfq.io.text import load
from mrfq.problem import Factor
from mrfq.problems.factor_graph import FactorGraph
from mrfq.problems.pairwise import PairwiseMRF

#: variables and labels are whole numbers up to this, which a float holds exactly
LARGEST_WHOLE = 2**53


def read_evidence(path: str | Path) -> dict[int, int]:
    """Return the observed label of each variable named in an evidence file (`.evid`, may be compressed).

    Raises
    ------
    FileFormatError
        Not an evidence file, more than one sample, or a variable that occurs twice.

    Examples
    --------
    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = Path(folder.name) / "model.evid"
    >>> _ = path.write_text("2  0 1  7 0")
    >>> read_evidence(path)
    {0: 1, 7: 0}
    >>> folder.cleanup()
    """
    return _parse(Numbers(load(path)))


def observe(problem: PairwiseMRF | FactorGraph, evidence: Mapping[int, int] | str | Path) -> PairwiseMRF | FactorGraph:
    """Return the problem with all labels forbidden that contradict evidence: the same variables, the same energies.

    Parameters
    ----------
    problem : PairwiseMRF or FactorGraph
    evidence : mapping, str or path
        From variables to labels, or the file that says so.

    Raises
    ------
    FileFormatError, InvalidProblemError
        A variable or a label that does not exist; the first kind if it is said by a file.
    """
    if isinstance(evidence, Mapping):
        costs = _costs(problem, evidence)
    else:
        numbers = Numbers(load(evidence))
        observed = _parse(numbers)
        for place, (i, a) in enumerate(observed.items()):
            _check(numbers, len(numbers.values) - 2 * (len(observed) - place), i, a, problem)
        costs = _costs(problem, observed)
    return _with_unary(problem, costs) if costs else problem


def _parse(numbers: Numbers) -> dict[int, int]:
    count = numbers.whole("the number of observed variables", 0, LARGEST_WHOLE)
    if numbers.left != 2 * count and count == 1:  # one sample
        count = numbers.whole("the number of observed variables", 0, LARGEST_WHOLE)
    if 2 * count < numbers.left:
        numbers.position += 2 * count
        numbers.end()
    pairs = numbers.wholes(2 * count, "pairs of a variable and its label", 0, LARGEST_WHOLE).tolist()
    observed: dict[int, int] = {}
    for place, (i, a) in enumerate(zip(pairs[::2], pairs[1::2], strict=True)):
        if i in observed:
            raise numbers.error(numbers.position - 2 * (count - place), "each variable once")
        observed[i] = a
    return observed


def _check(numbers: Numbers, place: int, i: int, a: int, problem: PairwiseMRF | FactorGraph) -> None:
    """Raise an error about the file if variable `i` or its label `a` does not exist."""
    n = problem.shape[0]
    if i >= n:
        raise numbers.error(place, f"a variable from 0 to {n - 1}")
    if not _exists(problem, i, a):
        raise numbers.error(place + 1, f"one of the {int(problem.cardinalities[i])} labels of variable {i}")


def _exists(problem: PairwiseMRF | FactorGraph, i: int, a: int) -> bool:
    mask = problem.label_set.mask
    return 0 <= a < problem.shape[1] and (mask is None or bool(mask[i, a]))


def _costs(problem: PairwiseMRF | FactorGraph, evidence: Mapping[int, int]) -> list[Factor]:
    """Return the unary costs that forbid all other labels."""
    n, found = problem.shape[0], []
    for i, a in evidence.items():
        if not 0 <= i < n:
            raise InvalidProblemError(f"evidence on variable {i}, but the variables are numbered 0 to {n - 1}")
        if not _exists(problem, i, a):
            raise InvalidProblemError(f"evidence says that variable {i} has label {a}, which does not exist")
        costs = np.full(int(problem.cardinalities[i]), np.inf)
        costs[a] = 0.0
        found.append(Factor((i,), costs))
    return found


def _with_unary(problem: PairwiseMRF | FactorGraph, costs: list[Factor]) -> PairwiseMRF | FactorGraph:
    if isinstance(problem, FactorGraph):
        return FactorGraph(problem.cardinalities, [*problem.factors(), *costs], names=problem.names)
    unary = problem.unary.clone()
    for (i,), table in costs:
        unary[i, : len(table)] += torch.tensor(table, dtype=unary.dtype)
    return PairwiseMRF(
        unary,
        problem.edges,
        problem.tables,
        weights=problem.weights,
        mask=problem.label_set.mask,
        names=problem.names,
        dtype=problem.dtype,
        device=problem.device,
    )
