"""`mrfq inspect`: what a model looks like to the solvers."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from mrfq.io.formats import read
from mrfq.problem import Factor
from mrfq.problems.reduction import components
from mrfq.solvers.elimination_orders import LIMIT, elimination_order

#: what is said of the width of a model that elimination is hopeless for
GIVEN_UP = f"given up at tables of more than {LIMIT:.0e} entries"
#: differences of costs below this, relative to the largest cost of the table, are rounding
ROUNDING = 1e-12


def inspect_file(file: Path, evidence: Path | None = None) -> dict[str, Any]:
    """Return what there is to say about the model in a file, as plain data.

    `submodular` is None where costs of +inf in larger tables leave it open. `width` is that of the best elimination
    order found, an upper bound of the treewidth, and None if it was given up because its tables grow too large.
    """
    problem = read(file, evidence=evidence)
    factors, counts = problem.factors(), problem.cardinalities
    order = elimination_order(counts.tolist(), [factor.scope for factor in factors])
    parts = components(problem)
    finite = [costs for _, table in factors if (costs := table[np.isfinite(table)]).size]
    return {
        "kind": type(problem).__name__,
        "variables": len(counts),
        "factors": len(factors),
        "labels": {str(k): v for k, v in sorted(Counter(counts.tolist()).items())},
        "arities": {str(k): v for k, v in sorted(Counter(len(factor.scope) for factor in factors).items())},
        "entries": sum(factor.table.size for factor in factors),
        "forbidden": sum(int(np.isinf(factor.table).sum()) for factor in factors),
        "lowest_cost": min((float(costs.min()) for costs in finite), default=None),
        "highest_cost": max((float(costs.max()) for costs in finite), default=None),
        "submodular": submodular(factors),
        "components": len(parts),
        "largest_component": max(map(len, parts)),
        "width": order.width if order.complete else None,
        "largest_joint_table": order.table_size if order.complete else None,
    }


def submodular(factors: list[Factor]) -> bool | None:
    """Return whether every table is submodular in the given order of the labels, or None if that is left open.

    A table is submodular if t(a, b) + t(a+1, b+1) <= t(a, b+1) + t(a+1, b) for any two of its axes (Monge arrays for
    two). With costs of +inf neighbouring labels do not decide that, unless there are only two.

    Examples
    --------
    >>> submodular([Factor((0, 1), np.array([[0.0, 1.0], [1.0, 0.0]]))])
    True
    """
    decided = True
    for _, table in factors:
        finite = np.isfinite(table)
        tolerance = ROUNDING * np.abs(table[finite]).max(initial=0.0)
        for axes in itertools.combinations(range(table.ndim), 2):
            t = np.moveaxis(table, axes, (0, 1))
            with np.errstate(over="ignore"):
                if not np.all(t[:-1, :-1] + t[1:, 1:] <= t[:-1, 1:] + t[1:, :-1] + tolerance):
                    return False
        decided &= bool(finite.all()) or table.ndim < 2 or table.shape == (2, 2)
    return decided or None


def inspect_table(facts: dict[str, Any]) -> Table:
    """Return the facts for people."""
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        unknown = GIVEN_UP if name in ("width", "largest_joint_table") else "unknown"
        table.add_row(name.replace("_", " "), Text(unknown if value is None else _words(value)))
    return table


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{count} x {key}" for key, count in value.items())
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.12g}" if isinstance(value, float) else str(value)
