"""A run on the console: one live line on a terminal, lines elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import ClassVar, Self

from rich.console import Console
from rich.status import Status
from rich.table import Table
from rich.text import Text


class LiveConsole:
    """Shows a run while it goes on. A context manager.

    Parameters
    ----------
    console : Console
        Of the lines; the live line too, if it is a terminal.
    asked : callable
        Whether the run should stop.
    """

    #: what happens first
    opening: ClassVar[str]

    def __init__(self, console: Console, asked: Callable[[], bool] = lambda: False) -> None:
        self.console, self._asked = console, asked
        self._status: Status | None = console.status(self.opening) if console.is_terminal else None
        #: whether there was anything left to do
        self.began = False

    def __enter__(self) -> Self:
        if self._status:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._status:
            self._status.stop()

    def note(self, text: str) -> None:
        """Show what happens, for as long as nothing else does, or as a line."""
        if self._status:
            self._status.update(Text(text))
        else:
            self._say(text)

    def stopping(self) -> bool:
        """Return whether the run should stop."""
        return self._asked()

    def _say(self, text: str) -> None:
        self.console.print(text, markup=False, soft_wrap=True)


def facts(rows: Iterable[tuple[str, str | None]]) -> Table:
    """Return a table of names and what there is to say about them; what is None is left out."""
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in rows:
        if text is not None:
            table.add_row(name, Text(text))
    return table


def duration(seconds: float) -> str:
    """Return a time in the largest units that fit.

    Examples
    --------
    >>> duration(7.26), duration(3725), duration(60)
    ('7.3 s', '1:02:05', '1:00')
    """
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
