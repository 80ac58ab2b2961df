"""What a command does: settings from a file and from options, the run, a summary."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.table import Table

from mrfq.commands.interrupt import Interrupt
from mrfq.commands.settings import parse_settings
from mrfq.errors import InvalidParameterError
from mrfq.runs.console import LiveConsole
from mrfq.runs.errors import StoppedError
from mrfq.runs.folder import RunFolder
from mrfq.runs.settings import S

#: what a shell reports for a command that Ctrl-C ended
INTERRUPTED = 130

L = TypeVar("L", bound=LiveConsole)


@dataclass(frozen=True)
class RunRequest:
    """What the command line asks for."""

    #: settings that have an option of their own, as far as they were given
    options: dict[str, Any]
    #: texts `key=value`
    settings: tuple[str, ...] = ()
    config: Path | None = None
    out: Path = Path("out")
    resume: bool = False


def settings_of(request: RunRequest, folder: RunFolder[S]) -> S | None:
    """Return the settings that are asked for; None to resume with those of the run in the folder.

    A file comes first, options change it; when a run is resumed, they are compared with its own.
    """
    known = folder.configuration
    texts = parse_settings(request.settings)
    known.check_names(texts, "--set")
    for name in texts.keys() & request.options.keys():
        raise InvalidParameterError(f"--set {name} and --{name.replace('_', '-')}: the same setting; give one of them")
    values = {**(known.read(request.config) if request.config else {}), **texts, **request.options}
    saved = folder.saved() if request.resume else None
    if saved is not None:
        return dataclasses.replace(saved, **values) if values else None
    return known.make(values) if values or not request.resume else None


def carry_out(
    folder: RunFolder[Any],
    live: type[L],
    work: Callable[[L], dict[str, Any]],
    table: Callable[[dict[str, Any]], Table],
    what: str,
) -> int:
    """Do the work while it is shown and Ctrl-C stops it, print its summary as a table, and return the exit code.

    Where there is nothing left to do, it is said that `what` is finished.
    """
    console = Console(highlight=False)
    try:
        with Interrupt() as interrupt, live(console, lambda: interrupt.asked) as shown:
            summary = work(shown)
    except StoppedError as stopped:
        print(f"mrfq: {stopped}", file=sys.stderr)
        return INTERRUPTED
    if not shown.began:
        console.print(f"{folder.path}: {what} is finished", soft_wrap=True, markup=False)
    console.print(table(summary))
    console.print(f"\nreport: {folder.page.resolve()}", soft_wrap=True, markup=False)
    return 0
