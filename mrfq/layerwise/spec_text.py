"""The written form of label sets: words in, fields out, and back.

It knows the words only; what they mean together is checked by the specifications themselves.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Literal

from mrfq.errors import InvalidParameterError

Kind = Literal["codebook", "uniform", "symmetric", "power-of-two"]
Fit = Literal["min-max", "error", "weighted"]
Precision = Literal["F16", "F32"]

KINDS: dict[str, Kind] = {
    "codebook": "codebook",
    "uniform": "uniform",
    "symmetric": "symmetric",
    "pow2": "power-of-two",
}
FITS: dict[str, Fit] = {"minmax": "min-max", "error": "error", "weighted": "weighted"}
PRECISIONS: dict[str, Precision] = {"f16": "F16", "f32": "F32"}
SIZES = {"binary": 2, "ternary": 3}
WORDS: dict[str, Mapping[str, str]] = {"kind": KINDS, "fit": FITS, "precision": PRECISIONS}

SIZE = re.compile(r"(?:([1-8])bit|([0-9]{1,6})levels)", re.ASCII)
GROUP = re.compile(r"g([0-9]{1,9})", re.ASCII)
VECTOR = re.compile(r"([0-9]{1,6})x([0-9]{1,9})", re.ASCII)
GRAMMAR = (
    "SIZE[-KIND][-FIT][-gN][-f32], with SIZE binary, ternary, 1bit to 8bit or 2levels to 256levels; KIND codebook, "
    "uniform, symmetric or pow2; FIT minmax, error or weighted; N columns that share a label set; or "
    "vector-DIMxCODEWORDS[-f32]"
)


def words_of(text: object) -> list[str]:
    """Return the parts of a specification in lower case.

    Raises
    ------
    InvalidParameterError
        Something else than text.

    Examples
    --------
    >>> words_of("3bit-Power-of-two")
    ['3bit', 'pow2']
    """
    if not isinstance(text, str):
        raise InvalidParameterError(f"levels: {text!r} is not a text such as '3bit-codebook'")
    return text.strip().lower().replace("power-of-two", "pow2").replace("min-max", "minmax").split("-")


def level_fields(text: str) -> dict[str, str | int]:
    """Return the fields of a label set of scalars that a text gives.

    Raises
    ------
    InvalidParameterError
        A part that is not understood, or a field given twice.

    Examples
    --------
    >>> level_fields("4bit-pow2-g64")
    {'count': 16, 'kind': 'power-of-two', 'group': 64}
    """
    first, *rest = words_of(text)
    fields: dict[str, str | int] = {"count": _count(text, first)}
    for part in rest:
        name, value = _field(text, part)
        if name in fields:
            raise InvalidParameterError(f"levels {text!r}: {part!r} gives the {name} a second time")
        fields[name] = value
    return fields


def vector_fields(text: str) -> dict[str, str | int]:
    """Return the fields of a codebook of vectors that a text gives.

    Raises
    ------
    InvalidParameterError
        A part that is not understood.

    Examples
    --------
    >>> vector_fields("vector-4x512-f32")
    {'dim': 4, 'count': 512, 'precision': 'F32'}
    """
    _, *rest = words_of(text)
    match = VECTOR.fullmatch(rest[0]) if rest else None
    if match is None:
        raise InvalidParameterError(f"levels {text!r}: expected a block size and a number of codewords: 'vector-9x256'")
    fields: dict[str, str | int] = {"dim": int(match[1]), "count": int(match[2])}
    if len(rest) > 2 or (len(rest) == 2 and rest[1] not in PRECISIONS):
        raise InvalidParameterError(
            f"levels {text!r}: {'-'.join(rest[1:])!r} is not understood; only '-f32' may follow"
        )
    return fields | ({"precision": PRECISIONS[rest[1]]} if len(rest) == 2 else {})


def level_text(count: int, kind: str, fit: str, group: int | None, precision: str) -> str:
    """Return the text of a label set of scalars, with what is usual left out.

    Examples
    --------
    >>> level_text(8, "uniform", "error", None, "F32")
    '3bit-uniform-error-f32'
    """
    parts = [_size(count), _word(KINDS, kind)]
    parts += [_word(FITS, fit)] if fit != "weighted" else []
    parts += [f"g{group}"] if group is not None else []
    return "-".join(parts + ([_word(PRECISIONS, precision)] if precision != "F16" else []))


def _count(text: str, part: str) -> int:
    if part in SIZES:
        return SIZES[part]
    match = SIZE.fullmatch(part)
    if match is None:
        raise _not_understood(text, part, [*SIZES, "1bit", "2bit", "3bit", "4bit", "8bit", "vector"])
    return 1 << int(match[1]) if match[1] else int(match[2])


def _field(text: str, part: str) -> tuple[str, str | int]:
    for name, words in WORDS.items():
        if part in words:
            return name, words[part]
    if match := GROUP.fullmatch(part):
        return "group", int(match[1])
    raise _not_understood(text, part, [*KINDS, *FITS, *PRECISIONS])


def _not_understood(text: str, part: str, known: list[str]) -> InvalidParameterError:
    close = difflib.get_close_matches(part, known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return InvalidParameterError(f"levels {text!r}: {part!r} is not understood; {hint}levels are {GRAMMAR}")


def _size(count: int) -> str:
    named = {number: name for name, number in SIZES.items()}
    bits = count.bit_length() - 1
    return named.get(count) or (f"{bits}bit" if count == 1 << bits else f"{count}levels")


def _word(words: Mapping[str, str], value: str) -> str:
    return next(word for word, meaning in words.items() if meaning == value)
