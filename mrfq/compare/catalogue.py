"""`mrfq solvers`: what there is, what it needs, when to use it."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mrfq import registry
from mrfq.compare.conform import hints
from mrfq.generators import chain, ferromagnet, frustrated_cycle
from mrfq.plain import to_plain
from mrfq.problem import mismatch
from mrfq.projections import Projection
from mrfq.solver import Solver

#: how to write a parameter without a default, by its type
EXAMPLES: dict[Any, str] = {
    Solver[Any]: "mrfq.solvers.ICM()",
    tuple[Solver[Any], ...]: "(mrfq.solvers.ICM(), mrfq.solvers.ProximalMeanField())",
    Projection: "mrfq.projections.Softmax()",
}


def solver_table() -> RenderableType:
    """Return all solvers with what they need and when to use them."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("solver", no_wrap=True)
    table.add_column("needs", min_width=12)
    table.add_column("what it is, and when to use it", ratio=1)
    for name, kind in registry.all_solvers().items():
        about = Text(summary(kind))
        if kind.use_when:
            about.append(f"\nuse when: {kind.use_when}", style="dim")
        table.add_row(Text(name, style="bold cyan"), needs(kind), about)
    return Group(table, Text("\n`mrfq solvers NAME` shows parameters, defaults and the reference.", style="dim"))


def describe_solver(name: str) -> RenderableType:
    """Return everything about one solver.

    Raises
    ------
    UnknownNameError
        No such solver; the message suggests one.
    """
    kind = registry.get(name)
    title = Text.assemble((name, "bold cyan"), (f"   {kind.__module__}.{kind.__qualname__}", "dim"))
    facts = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column(ratio=1)
    for label, text in (("needs", needs(kind)), ("use when", kind.use_when), ("reference", kind.reference)):
        if text:
            facts.add_row(label, Text(text))
    facts.add_row("example", Text(example(name, kind)))
    return Group(title, Text("\n" + description(kind) + "\n"), _parameters(kind), Text(), facts)


def summary(kind: type[Solver[Any]]) -> str:
    """Return the first line of a solver's documentation."""
    return (inspect.getdoc(kind) or kind.__name__).splitlines()[0]


def description(kind: type[Solver[Any]]) -> str:
    """Return a solver's documentation without its examples, its first paragraphs unwrapped."""
    text = (inspect.getdoc(kind) or "").split("\nExamples\n---")[0].rstrip()
    blocks = text.split("\n\n")
    plain = next((i for i, block in enumerate(blocks) if "\n---" in block), len(blocks))
    text = "\n\n".join([*(" ".join(block.split()) for block in blocks[:plain]), *blocks[plain:]])
    return text.replace(":math:`", "`")


def needs(kind: type[Solver[Any]]) -> str:
    """Return what a problem must offer, and what else is needed, in words."""
    if _required(kind):
        return "what its parts need"
    solver = kind()
    found = sorted(str(capability) for capability in solver.required())
    if mismatch(ferromagnet(2, 2), solver):  # two labels, submodular, tiny: nothing about it can be in the way
        found.append("an optional package")
    elif mismatch(chain(3, 3), solver):
        found.append("two labels")
        if mismatch(frustrated_cycle(3), solver):
            found.append("submodular costs")
    return ", ".join(found) or "any problem"


def example(name: str, kind: type[Solver[Any]]) -> str:
    """Return a line that runs the solver."""
    types = hints(kind)
    parts = [f"{field.name}={EXAMPLES.get(types.get(field.name), '...')}" for field in _required(kind)]
    solver = f"mrfq.solvers.{kind.__name__}({', '.join(parts)})" if parts else f'"{name}"'
    return f"mrfq.solve(problem, {solver}, max_iters=1000, seed=0)"


def inline(value: Any) -> str:
    """Return plain data as it is written in a suite file."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {inline(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(inline(item) for item in value) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    return f'"{value}"' if isinstance(value, str) else "not set" if value is None else str(value)


def _required(kind: type[Solver[Any]]) -> list[dataclasses.Field[Any]]:
    missing = dataclasses.MISSING
    return [f for f in _fields(kind) if f.init and f.default is missing and f.default_factory is missing]


def _fields(kind: type[Solver[Any]]) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ()


def _parameters(kind: type[Solver[Any]]) -> RenderableType:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("parameter", no_wrap=True)
    table.add_column("default", ratio=1)
    for field in _fields(kind):
        if field.default is not dataclasses.MISSING:
            default = inline(to_plain(field.default))
        elif field.default_factory is not dataclasses.MISSING:
            default = inline(to_plain(field.default_factory()))
        else:
            default = "(required)"
        table.add_row(field.name, Text(default))
    return table if _fields(kind) else Text("It has no parameters.")
