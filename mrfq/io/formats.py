"""`read` and `write`: models in files, in the formats of the field and in one of our own."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mrfq.errors import InvalidProblemError, UnknownNameError
from mrfq.files import write_atomically
from mrfq.io.evidence import observe
from mrfq.io.json_files import parse_json, render_json
from mrfq.io.qpbo import parse_qpbo, render_qpbo
from mrfq.io.rudy import parse_rudy, render_rudy
from mrfq.io.text import Text, compressed, compression, load, shown
from mrfq.io.uai import parse_lg, parse_uai, render_lg, render_uai
from mrfq.problem import Problem, SupportsFactors
from mrfq.problems.factor_graph import FactorGraph
from mrfq.problems.pairwise import PairwiseMRF


@dataclass(frozen=True)
class Format:
    """How models are written in files whose names end in one of the suffixes."""

    suffixes: tuple[str, ...]
    parse: Callable[[Text], PairwiseMRF | FactorGraph]
    render: Callable[[SupportsFactors], str]


#: by name
FORMATS = {
    "uai": Format((".uai",), parse_uai, render_uai),
    "lg": Format((".lg",), parse_lg, render_lg),
    "qpbo": Format((".qpbo",), parse_qpbo, render_qpbo),
    "rudy": Format((".rudy", ".rud", ".mc", ".gset"), parse_rudy, render_rudy),
    "json": Format((".json",), parse_json, render_json),
}
_WORD = re.compile(rb"\S+")


def read(
    path: str | Path, *, format: str | None = None, evidence: Mapping[int, int] | str | Path | None = None
) -> PairwiseMRF | FactorGraph:
    """Return the model in a file.

    Parameters
    ----------
    path : str or path
        May end in .gz or .xz.
    format : {"uai", "lg", "qpbo", "rudy", "json"}, optional
        By default what the name says (`.uai`, `.LG`, `.qpbo`, `.rudy` `.rud` `.mc` `.gset`, `.json`), else what the
        content says of UAI and JSON.
    evidence : mapping, str or path, optional
        Observed labels of some variables, or a file of them. All other labels of these variables are forbidden;
        the numbers of the variables and the energies stay those of the file.

    Returns
    -------
    PairwiseMRF or FactorGraph
        A pairwise MRF where no factor has more than two variables and padding all variables to the same number of
        labels takes little memory. Energies are `-ln` of the product of the potentials; for QPBO x'Wx to be minimised,
        or -x'Wx; for rudy minus the weight of the cut.

    Raises
    ------
    FileFormatError
        The file is not what its format says: file, line, what was found, and what was expected.
    UnknownNameError
        No such format.
    OSError
        The file cannot be read.

    Examples
    --------
    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = Path(folder.name) / "coin.uai"
    >>> _ = path.write_text("MARKOV 1  2  1  1 0  2 0.25 0.75")
    >>> read(path)
    PairwiseMRF(1 variables, 2 labels, 0 edges, shared table)
    >>> _ = path.write_text("MARKOV 1  2  1  1 0  3 0.25 0.75")
    >>> try:
    ...     read(path)
    ... except ValueError as error:
    ...     print(str(error).removeprefix(folder.name + "/"))
    coin.uai:1: found '3', expected the number of entries of function 0, 2
    >>> folder.cleanup()
    """
    chosen = _by_name(path, format)
    text = load(path)
    problem = (chosen or _by_content(text)).parse(text)
    return problem if evidence is None else observe(problem, evidence)


def write(problem: Problem, path: str | Path, *, format: str | None = None) -> None:
    """Write a model to a file, atomically; energies survive to 1e-12 of the costs' size.

    Parameters
    ----------
    problem : PairwiseMRF or FactorGraph
        Or anything else that is a sum of cost tables.
    path : str or path
        A name that ends in .gz or .xz asks for compression.
    format : {"uai", "lg", "qpbo", "rudy", "json"}, optional
        By default what the name says. JSON keeps every bit, LG every bit of every cost, and both hold everything
        that a model can be; the others refuse a model that they cannot hold.

    Raises
    ------
    InvalidProblemError
        The format cannot hold this model, the message says why.
    UnknownNameError
        No such format.

    Examples
    --------
    >>> import mrfq, tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = Path(folder.name) / "chain.json.gz"
    >>> chain = mrfq.generators.chain(4, 3, seed=0)
    >>> write(chain, path)
    >>> bool((read(path).unary == chain.unary).all())
    True
    >>> folder.cleanup()
    """
    if not isinstance(problem, SupportsFactors):
        raise InvalidProblemError(f"a file holds cost tables, but {type(problem).__name__} is not made of them")
    chosen = _by_name(path, format)
    if chosen is None:
        raise UnknownNameError("suffix", _suffix(path), _suffixes(), f"{path}: give a format, or another name")
    write_atomically(path, compressed(path, chosen.render(problem)))


def _by_name(path: str | Path, format: str | None) -> Format | None:
    """Return the format that is asked for, or that a file's name says, if it says any."""
    if format is not None and format not in FORMATS:
        raise UnknownNameError("format", format, FORMATS)
    return FORMATS[format] if format is not None else _suffixes().get(_suffix(path))


def _by_content(text: Text) -> Format:
    first = _WORD.search(text.data)
    word = first[0] if first else b""
    if word in (b"MARKOV", b"BAYES"):
        return FORMATS["uai"]
    if word.startswith(b"{"):
        return FORMATS["json"]
    found = shown(word) if first else "an empty file"
    raise text.error(first.start() if first else 0, found, f"MARKOV, BAYES or {{; or a format: {', '.join(FORMATS)}")


def _suffix(path: str | Path) -> str:
    name = Path(path)
    return (name.with_suffix("") if compression(name) else name).suffix.lower()


def _suffixes() -> dict[str, Format]:
    return {suffix: format for format in FORMATS.values() for suffix in format.suffixes}
