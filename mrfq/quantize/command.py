"""What `mrfq quantize` does: settings from a file and from options, the layers, a summary."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from mrfq.commands.interrupt import Interrupt
from mrfq.commands.settings import parse_settings
from mrfq.errors import InvalidParameterError
from mrfq.quantize.config import check_names, make_settings, read_config
from mrfq.quantize.console import ConsoleListener, summary_table
from mrfq.quantize.folder import Folder
from mrfq.quantize.job import quantize_network
from mrfq.quantize.settings import Settings
from mrfq.train.errors import StoppedError

#: what a shell reports for a command that Ctrl-C ended
INTERRUPTED = 130


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    #: settings that have an option of their own, as far as they were given
    options: dict[str, Any]
    #: texts `key=value`
    settings: tuple[str, ...] = ()
    config: Path | None = None
    out: Path = Path("quantized")
    resume: bool = False


def quantize_by_request(request: Request) -> int:
    """Quantize a network, print a summary, and return the exit code.

    Raises
    ------
    MrfqError, OSError
        Anything that ends it early but Ctrl-C; the message says what is left.
    """
    settings = chosen_settings(request)
    console = Console(highlight=False)
    try:
        with Interrupt() as interrupt, ConsoleListener(console, lambda: interrupt.asked) as listener:
            summary = quantize_network(settings, request.out, resume=request.resume, listener=listener)
    except StoppedError as stopped:
        print(f"mrfq: {stopped}", file=sys.stderr)
        return INTERRUPTED
    if not listener.began:
        console.print(f"{request.out}: this network is finished", soft_wrap=True, markup=False)
    console.print(summary_table(summary))
    console.print(f"\nreport: {Folder(request.out).page.resolve()}", soft_wrap=True, markup=False)
    return 0


def chosen_settings(request: Request) -> Settings | None:
    """Return the settings that are asked for; None to resume with those in the folder.

    A file comes first, options change it; when a quantization is resumed, they are compared with its own.
    """
    texts = parse_settings(request.settings)
    check_names(texts, "--set")
    for name in texts.keys() & request.options.keys():
        raise InvalidParameterError(f"--set {name} and --{name.replace('_', '-')}: the same setting; give one of them")
    values = {**(read_config(request.config) if request.config else {}), **texts, **request.options}
    saved = Folder(request.out).saved() if request.resume else None
    if saved is not None:
        return dataclasses.replace(saved, **values) if values else None
    return make_settings(values) if values or not request.resume else None


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
