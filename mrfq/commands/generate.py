"""`mrfq generate`: seeded toy models in files."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mrfq.commands.settings import parse_settings
from mrfq.compare.catalogue import inline
from mrfq.compare.kinds import kinds, try_out
from mrfq.errors import UnknownNameError
from mrfq.generators import GENERATORS
from mrfq.io.formats import write
from mrfq.problem import Problem


def generate_file(kind: str, settings: Sequence[str], seed: int, out: Path) -> Problem:
    """Write a model of a kind to a file, in the format that its name says, and return it.

    Raises
    ------
    UnknownNameError, InvalidProblemError, SuiteError
        A kind or a parameter that does not exist, values that make no model, or a format that cannot hold it.
    """
    check_kind(kind)
    parameters = kinds()[kind].resolve("--set", parse_settings(settings))
    problem = try_out(f"mrfq generate {kind}", kind, parameters, seed).problem
    write(problem, out)
    return problem


def check_kind(kind: str) -> None:
    """Raise `UnknownNameError` unless there are models of this kind; all kinds are listed on stderr then."""
    if kind not in GENERATORS:
        Console(stderr=True, highlight=False).print(kind_table())
        raise UnknownNameError("kind of model", kind, GENERATORS)


def kind_table() -> Table:
    """Return all kinds of models with their parameters and defaults."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("kind", no_wrap=True)
    table.add_column("parameters (--set name=value) and what it is", ratio=1)
    for name, make in GENERATORS.items():
        parameters = inspect.signature(kinds()[name].function).parameters.values()
        given = "  ".join(f"{p.name}={inline(p.default)}" for p in parameters if p.name != "seed")
        about = (inspect.getdoc(make) or "").splitlines()[0].removeprefix("Return ")
        table.add_row(Text(name, style="bold cyan"), Text(given).append(f"\n{about}", style="dim"))
    return table
