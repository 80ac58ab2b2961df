"""The JSON format of mrfq: pairwise models and factor graphs, exact to the last bit.

An object with `"format": "mrfq"`, `"version": 1` and a `"kind"`. Costs are numbers, or `"inf"` for what is forbidden;
tables are flat lists, last variable fastest; `"names"` (a list of texts and whole numbers) is optional.

.. code-block:: text

    {"format": "mrfq", "version": 1, "kind": "factors",
     "cardinalities": [2, 3],
     "factors": [{"scope": [0, 1], "table": [0, 1.5, "inf", 2, 0, 0]}, {"scope": [], "table": [-1]}]}

    {"format": "mrfq", "version": 1, "kind": "pairwise", "dtype": "float64",
     "unary": [[0, 1], [2, null]],       # one row a variable; null: there is no such label
     "edges": [[0, 1]],
     "tables": [[0, 5, 5, 0]],           # one for all edges, or one an edge, padded to the same size
     "weights": [1]}                     # of the edges
"""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import torch

from mrfq.errors import FileFormatError, InvalidProblemError
from mrfq.io import limits
from mrfq.io.entries import Entry
from mrfq.io.text import Text, shown
from mrfq.problem import SupportsFactors
from mrfq.problems.factor_graph import FactorGraph
from mrfq.problems.pairwise import PairwiseMRF

VERSION = 1
HEADER = ("format", "version", "kind")
PAIRWISE = ("dtype", "unary", "edges", "tables", "weights")
FACTORS = ("cardinalities", "factors")
DTYPES = {"float64": torch.float64, "float32": torch.float32}


def parse_json(text: Text) -> PairwiseMRF | FactorGraph:
    """Return the model of a JSON file, of the kind that was written."""
    whole = Entry(text.path, "", _decode(text))
    for key, value in (("format", "mrfq"), ("version", VERSION)):
        if whole.entry(key).value != value:
            raise whole.entry(key).error(repr(value))
    keys = whole.entry("kind").one_of({"pairwise": PAIRWISE, "factors": FACTORS})
    whole.only((*HEADER, *keys, "names"))
    try:
        return _pairwise(whole) if keys is PAIRWISE else _factors(whole, len(text.data))
    except InvalidProblemError as error:  # what only the whole model can tell
        raise FileFormatError(
            text.path, "the model", f"entries that do not fit ({error})", "consistent ones"
        ) from error


def render_json(problem: SupportsFactors) -> str:
    """Return the text of a JSON file; names that are neither texts nor whole numbers are written as texts."""
    parts = _pairwise_parts(problem) if isinstance(problem, PairwiseMRF) else _factor_parts(problem)
    names = getattr(problem, "names", None)
    if names is not None and names != list(range(len(names))):
        parts["names"] = [name if type(name) in (str, int) else str(name) for name in names]
    head = {"format": "mrfq", "version": VERSION}
    lines = (f"  {json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in {**head, **parts}.items())
    return "{\n" + ",\n".join(lines) + "\n}\n"


# ---- reading --------------------------------------------------------------------------------------------


def _decode(text: Text) -> Any:
    """Return the value that a JSON text stands for."""
    if len(text.data) > limits.LARGEST_JSON:
        raise text.error(0, f"{len(text.data):,} bytes", f"at most {limits.LARGEST_JSON:,} of JSON")
    try:
        return json.loads(text.data.decode(), parse_constant=_refuse, object_pairs_hook=_unique)
    except UnicodeDecodeError as error:
        raise text.error(error.start, shown(text.data[error.start : error.start + 1]), "UTF-8") from error
    except json.JSONDecodeError as error:
        rest = error.doc[error.pos :].split(maxsplit=1)
        found = shown(rest[0].encode()) if rest else "the end of the file"
        raise FileFormatError(text.path, error.lineno, found, f"JSON ({error.msg})") from error
    except (ValueError, RecursionError) as error:
        raise FileFormatError(text.path, 1, f"JSON that is not acceptable ({error})", "a model") from error


def _refuse(word: str) -> None:
    raise ValueError(f"the constant {word}; what is forbidden is written as the text inf")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} occurs twice")
    return found


def _pairwise(whole: Entry) -> PairwiseMRF:
    dtype = whole.entry("dtype").one_of(DTYPES)
    largest = torch.finfo(dtype).max
    rows = whole.entry("unary").items()
    count = len(rows[0].items()) if rows else 0
    unary = np.array([row.costs(count, largest, absent=True) for row in rows]).reshape(len(rows), count)
    edges = [edge.wholes(2, len(rows) - 1) for edge in whole.entry("edges").items()]
    tables = [table.costs(count**2, largest) for table in whole.entry("tables").items()]
    exists = ~np.isnan(unary)
    return PairwiseMRF(
        np.nan_to_num(unary, posinf=np.inf),
        np.array(edges, dtype=np.int64).reshape(-1, 2),
        np.array(tables).reshape(-1, count, count) if tables else None,
        weights=whole.entry("weights").costs(len(edges), largest),
        mask=None if exists.all() else exists,
        names=_names(whole),
        dtype=dtype,
    )


def _factors(whole: Entry, size: int) -> FactorGraph:
    listed = whole.entry("cardinalities")
    n = len(listed.items())
    counts = listed.wholes(n, limits.most_labels(max(n, 1), size), low=1)
    factors = []
    for item in whole.entry("factors").items():
        item.only(("scope", "table"))
        entry = item.entry("scope")
        scope = entry.wholes(min(len(entry.items()), limits.LARGEST_ARITY), n - 1)
        shape = [counts[i] for i in scope]
        factors.append((scope, item.entry("table").costs(math.prod(shape)).reshape(shape)))
    return FactorGraph(np.array(counts, dtype=np.int64), factors, names=_names(whole))


def _names(whole: Entry) -> list[Any] | None:
    if not whole.has("names"):
        return None
    for item in whole.entry("names").items():
        if type(item.value) not in (str, int):
            raise item.error("a text or a whole number")
    names: list[Any] = whole.entry("names").value
    return names


# ---- writing --------------------------------------------------------------------------------------------


def _pairwise_parts(mrf: PairwiseMRF) -> dict[str, Any]:
    exists = mrf.label_set.mask
    unary = mrf.unary if exists is None else mrf.unary.masked_fill(~exists, torch.nan)
    return {
        "kind": "pairwise",
        "dtype": str(mrf.dtype).removeprefix("torch."),
        "unary": [_plain(row) for row in unary.cpu().numpy()],
        "edges": mrf.edges.tolist(),
        "tables": [_plain(table) for table in mrf.tables.cpu().numpy()],
        "weights": mrf.weights.tolist(),
    }


def _factor_parts(problem: SupportsFactors) -> dict[str, Any]:
    factors = [{"scope": list(scope), "table": _plain(table)} for scope, table in problem.factors()]
    return {"kind": "factors", "cardinalities": problem.cardinalities.tolist(), "factors": factors}


def _plain(costs: np.ndarray) -> list[Any]:
    """Return costs as a flat list; NaN stands for a label that does not exist."""
    values: list[Any] = costs.ravel().tolist()
    if np.isfinite(costs).all():
        return values
    return [value if math.isfinite(value) else None if math.isnan(value) else "inf" for value in values]
