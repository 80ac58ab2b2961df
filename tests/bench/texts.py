"""Text that comes with Python and Debian: texts to calibrate on, and disjoint ones to measure on.

The documentation topics of `pydoc`, the docstrings of the standard library's modules, and, where there are any, the
licences under /usr/share/common-licenses. A source (a topic, a module, a family of licences) belongs to one half only,
by a hash of its name; what is left of the held-out half shares no eight consecutive words with the other. Everything is
a function of the Python release and a seed; `fingerprint` tells whether two machines had the same texts.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import pydoc_data.topics
import re
import sysconfig
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np

LICENCES = Path("/usr/share/common-licenses")
#: of the standard library: no prose, or not installed everywhere
LEFT_OUT = {"test", "tests", "site-packages", "dist-packages", "idlelib", "lib2to3", "pydoc_data", "ensurepip"}
#: words in a row that no held-out sentence shares with the calibration half, and words of a sentence
SHARED_WORDS, SHORTEST, LONGEST = 8, 5, 60
#: one source in so many is held out
HELD_OUT_EVERY = 4
Half = dict[str, list[str]]


def documents() -> Iterator[tuple[str, str]]:
    """Yield every source with its text."""
    for name, text in pydoc_data.topics.topics.items():
        yield f"topic {name}", text
    library = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(library.rglob("*.py")):
        parts = path.relative_to(library).parts
        if not LEFT_OUT.intersection(parts):
            yield f"module {'.'.join(parts)}", docstrings(path.read_bytes())
    licences = (path for path in sorted(LICENCES.glob("*")) if path.is_file() and not path.is_symlink())
    for path in licences:
        yield f"licence {path.name.split('-')[0]}", path.read_text(errors="ignore")


def docstrings(source: bytes) -> str:
    """Return the docstrings of a module and of all that it defines; nothing is imported."""
    owners = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = (ast.get_docstring(node) for node in ast.walk(ast.parse(source)) if isinstance(node, owners))
    return "\n\n".join(text for text in found if text)


def sentences_of(text: str) -> Iterator[str]:
    """Yield the sentences of the paragraphs of a text that are prose, not code, grammar or tables."""
    for block in re.split(r"\n\s*\n", inspect.cleandoc(text)):
        paragraph = re.sub(r"[`*]+", "", " ".join(block.split()))
        for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z\"'(])", paragraph):
            if _is_prose(sentence):
                yield sentence


def _is_prose(sentence: str) -> bool:
    letters = sum(character.isalpha() or character.isspace() for character in sentence)
    return (
        SHORTEST <= len(sentence.split()) <= LONGEST
        and sentence[0].isupper()
        and sentence[-1] in ".!?"
        and letters >= 0.85 * len(sentence)
        and ">>>" not in sentence
    )


def words_of(sentence: str) -> tuple[str, ...]:
    """Return the words without case and punctuation."""
    return tuple(re.findall(r"[a-z0-9]+", sentence.lower()))


def runs_of(words: tuple[str, ...]) -> set[tuple[str, ...]]:
    """Return all runs of eight words; of fewer words the whole."""
    return {words[i : i + SHARED_WORDS] for i in range(max(1, len(words) - SHARED_WORDS + 1))}


@cache
def halves() -> tuple[Half, Half]:
    """Return sentences by source, each sentence once: those to calibrate on, and those held out."""
    calibration: Half = {}
    held_out: Half = {}
    known: set[tuple[str, ...]] = set()
    for name, text in documents():
        half = held_out if is_held_out(name) else calibration
        for sentence in sentences_of(text):
            if (words := words_of(sentence)) not in known:
                known.add(words)
                half.setdefault(name, []).append(sentence)
    seen = {run for found in calibration.values() for sentence in found for run in runs_of(words_of(sentence))}
    apart = {
        name: [sentence for sentence in found if seen.isdisjoint(runs_of(words_of(sentence)))]
        for name, found in held_out.items()
    }
    return calibration, apart


def is_held_out(source: str) -> bool:
    """Return whether a source is one to measure on."""
    return int(hashlib.sha256(source.encode()).hexdigest(), 16) % HELD_OUT_EVERY == 0


def passages(half: Half, words: int) -> list[str]:
    """Return runs of sentences of one source, each as long as it takes to have that many words; shorter ends go."""
    found: list[str] = []
    for sentences in half.values():
        passage: list[str] = []
        for sentence in sentences:
            passage.append(sentence)
            if sum(len(part.split()) for part in passage) >= words:
                found.append(" ".join(passage))
                passage = []
    return found


def drawn(texts: Sequence[str], count: int, seed: int) -> list[str]:
    """Return that many of the texts, without repetition.

    Raises
    ------
    ValueError
        There are fewer.
    """
    if count > len(texts):
        raise ValueError(f"{count} texts asked for, there are {len(texts)}")
    return [texts[i] for i in np.random.default_rng(seed).permutation(len(texts))[:count]]


def calibration_texts(count: int = 160, *, seed: int = 0, words: int = 100) -> list[str]:
    """Return a draw of texts to calibrate on; about 1.35 tokens of MiniLM a word."""
    return drawn(passages(halves()[0], words), count, seed)


def calibration_sentences(count: int = 1600, *, seed: int = 0) -> list[str]:
    """Return a draw of single sentences to calibrate on, about 22 tokens of MiniLM each."""
    return drawn([sentence for found in halves()[0].values() for sentence in found], count, seed)


def held_out_texts(count: int = 160, *, seed: int = 0, words: int = 100) -> list[str]:
    """Return a draw of texts from sources that no calibration text comes from."""
    return drawn(passages(halves()[1], words), count, seed)


def held_out_sentences(count: int = 512, *, seed: int = 0) -> list[str]:
    """Return a draw of single sentences from sources that no calibration text comes from."""
    return drawn([sentence for found in halves()[1].values() for sentence in found], count, seed)


def fingerprint(texts: Sequence[str]) -> str:
    """Return twelve digits that stand for the texts and their order."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:12]
