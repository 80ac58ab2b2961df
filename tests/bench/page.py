"""Tables between two markers of a page of the docs."""

from __future__ import annotations

from pathlib import Path


def markers(name: str) -> tuple[str, str]:
    """Return the lines between which the tables of that name stand."""
    return f"<!-- {name}: begin -->", f"<!-- {name}: end -->"


def insert_between(page: Path, text: str, name: str) -> None:
    """Put tables between the markers of a page; a number and its spread stay on one line.

    Raises
    ------
    SystemExit
        The page does not have both markers, in order.
    """
    first, last = markers(name)
    head, begin, rest = page.read_text().partition(first)
    _, end, tail = rest.partition(last)
    if not begin or not end:
        raise SystemExit(f"{page} needs a line {first} and after it a line {last}")
    unbroken = text.replace(" ± ", "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}")
    page.write_text(f"{head}{first}\n\n{unbroken}\n\n{last}{tail}")
