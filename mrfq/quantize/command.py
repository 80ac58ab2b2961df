"""What `mrfq quantize` does: settings from a file and from options, the layers, a summary."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mrfq.errors import InvalidParameterError
from mrfq.quantize.console import ConsoleListener, summary_table
from mrfq.quantize.folder import Folder
from mrfq.quantize.job import quantize_network
from mrfq.quantize.settings import Settings
from mrfq.runs.command import RunRequest, carry_out, settings_of


@dataclass(frozen=True)
class Request(RunRequest):
    """What the command line asks for."""

    out: Path = Path("quantized")


def quantize_by_request(request: Request) -> int:
    """Quantize a network, print a summary, and return the exit code.

    Raises
    ------
    MrfqError, OSError
        Anything that ends it early but Ctrl-C; the message says what is left.
    """
    settings = chosen_settings(request)

    def work(listener: ConsoleListener) -> dict[str, Any]:
        return quantize_network(settings, request.out, resume=request.resume, listener=listener)

    return carry_out(Folder(request.out), ConsoleListener, work, summary_table, "this network")


def chosen_settings(request: Request) -> Settings | None:
    """Return the settings that are asked for; None to resume with those in the folder."""
    return settings_of(request, Folder(request.out))


def levels_by_pattern(texts: Iterable[str]) -> dict[str, str]:
    """Return the label sets that texts `pattern=levels` give to layers, in their order.

    Raises
    ------
    InvalidParameterError
        A text without an equals sign, or a pattern twice.

    Examples
    --------
    >>> levels_by_pattern(["conv1=float", "layer3.*=2bit"])
    {'conv1': 'float', 'layer3.*': '2bit'}
    """
    found: dict[str, str] = {}
    for text in texts:
        pattern, equals, levels = (part.strip() for part in text.rpartition("="))
        if not (equals and pattern and levels):
            raise InvalidParameterError(f"--levels-for {text}: write it as --levels-for PATTERN=LEVELS")
        if pattern in found:
            raise InvalidParameterError(f"--levels-for {text}: {pattern!r} has {found[pattern]!r} already")
        found[pattern] = levels
    return found
