"""Mutated files: readers may refuse them with `FileFormatError`, or read them; anything else is a bug.

    python tests/bench/fuzz.py --count 20000 --seed 0

prints what happened to each format, and exits with 1 if anything else did.
"""

from __future__ import annotations

import argparse
import gzip
import lzma
import pickle
import random
import re
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from mrfq.errors import FileFormatError
from mrfq.io.evidence import read_evidence
from mrfq.io.formats import read
from mrfq.io.mpe import read_mpe
from mrfq.io.state_tree import read_state, write_state
from mrfq.nn import LabelOptimizer
from mrfq.nn.images.idx import read_idx
from mrfq.nn.images.numpy_pickle import read_pickle
from mrfq.nn.packed import load, save

UAI = b"""MARKOV
3
2 3 1
5
1 0
2 0 1
3 0 1 2
0
2 2 1

2 0.25 0.75
6 1 2 0 4 5.5 6e-3
6
.1 .2 .3
.4 .5 .6
1 2
3 1 1 0
"""
PAIRWISE = b"BAYES 2 2 2 2 1 0 2 0 1  2 .5 .5  4 .1 .9 .3 .7\n"
LG = b"c a comment\nMARKOV\n2\n2 2\n2\n1 0\n2 0 1\n2 0 -1.5\n4 0 -inf 1e30 -2\n"
PAIRWISE_JSON = b"""{"format": "mrfq", "version": 1, "kind": "pairwise", "dtype": "float32", "unary": [[0, 1.5, null],
[2, "inf", -3]], "edges": [[0, 1]], "tables": [[0, 1, 2, 3, 4, 5, 6, 7, 8]], "weights": [2], "names": ["a", 7]}"""
FACTORS_JSON = b"""{"format": "mrfq", "version": 1, "kind": "factors", "cardinalities": [2, 3], "factors": [
{"scope": [1, 0], "table": [0, 1, 2, "inf", 4e0, 5]}, {"scope": [], "table": [-1]}]}"""


def packed_sample() -> bytes:
    """Return a packed network."""
    layer = torch.nn.Linear(6, 4)
    optimizer = LabelOptimizer(
        torch.optim.SGD(layer.parameters(), lr=0.1), labels="ternary", scale="channel", method="bc"
    )
    optimizer.finalize()
    with tempfile.TemporaryDirectory() as folder:
        save(layer, Path(folder, "sample"))
        return Path(folder, "sample").read_bytes()


def state_sample() -> bytes:
    """Return the state of a run."""
    tree = {"step": 3, "rate": 1e-3, "state": {0: {"m": torch.ones(3)}}, "names": ["a", None, (1.5, True)]}
    with tempfile.TemporaryDirectory() as folder:
        write_state(Path(folder, "sample"), "sample", 1, tree)
        return Path(folder, "sample").read_bytes()


#: valid files of every format, by name
SAMPLES = {
    "model.uai": UAI,
    "pairwise.uai": PAIRWISE,
    "model": PAIRWISE,
    "model.LG": LG,
    "model.qpbo": b"3 4\n1 1 2\n1 2 -3.5\n2 3 4\n3 3 1\n",
    "spins.qpbo": b"-3 -2\n1 1 2\n1 2 -3.5\n",
    "model.rudy": b"3 3\n1 2 1\n2 3 -1\n1 3 2.5\n",
    "pairwise.json": PAIRWISE_JSON,
    "factors.json": FACTORS_JSON,
    "model.evid": b"2\n0 1\n1 2\n",
    "sample.evid": b"1\n1 2 0\n",
    "model.MPE": b"MPE\n3 0 2 1\n",
    "model.uai.gz": gzip.compress(UAI, mtime=0),
    "model.uai.xz": lzma.compress(UAI),
    "pairwise.json.gz": gzip.compress(PAIRWISE_JSON, mtime=0),
    "packed.safetensors": packed_sample(),
    "state.safetensors": state_sample(),
    "images-idx3-ubyte": b"\0\0\x08\x03" + b"\0\0\0\x02" * 3 + bytes(range(8)),
    "images-idx3-ubyte.gz": gzip.compress(b"\0\0\x0d\x01\0\0\0\x02" + bytes(8), mtime=0),
    "batch.pickle": pickle.dumps({b"data": np.arange(6, dtype=np.uint8).reshape(2, 3), b"labels": [1, 2]}, protocol=2),
}
#: how files that are not models are read
BINARY: dict[str, Callable[[Path], object]] = {
    "packed.safetensors": load,
    "state.safetensors": lambda path: read_state(path, "sample", 1),
    "images-idx3-ubyte": read_idx,
    "images-idx3-ubyte.gz": read_idx,
    "batch.pickle": lambda path: read_pickle(path, 10_000),
}
#: what is written into files: numbers of all kinds, words, structure, junk
PAYLOADS = (
    *(b" 0 ", b" 1 ", b"-1", b" 2 ", b"9", b" 33 ", b"1000000000000000000", b"99999999999999999999999999", b"0.5"),
    *(
        b"1e400",
        b"-1e400",
        b"1e308",
        b"1e-400",
        b" nan ",
        b" inf ",
        b"-inf",
        b"Infinity",
        b"1_0",
        b"0x10",
        b"1.",
        b"+3",
    ),
    *(
        b"\n",
        b"\r\n",
        b" ",
        b"\t",
        b"\nc",
        b"#",
        b"MARKOV",
        b"BAYES",
        b"MPE",
        b"c",
        b"-",
        b".",
        b"e",
        b"1" * 5000,
        b"9" * 400,
    ),
    *(b"\x00", b"\xff\xfe", b"\xc3\xa9", b"\x1f\x8b", b"\xfd7zXZ\x00", b"{", b"}", b"[", b"]", b",", b":", b'"'),
    *(
        b"null",
        b"true",
        b'"inf"',
        b"NaN",
        b"[" * 5000,
        b'{"a":',
        b"[[]]",
        b'"version": 2,',
        b"\\ud800",
        b"\xe2\x80\xa8",
    ),
)
WORD = re.compile(rb"[^\s,\[\]]+")
EDITS = ("insert", "replace", "delete", "truncate", "repeat", "flip", "swap", "word", "word", "word")


class Edit(NamedTuple):
    """One change: where it happens, as a fraction of the file, and to how many bytes."""

    operation: str
    place: float
    length: int
    payload: bytes


def mutate(data: bytes, edits: Sequence[Edit]) -> bytes:
    """Return the content of a file after some changes."""
    for operation, place, length, payload in edits:
        at = int(place * len(data))
        head, piece, tail = data[:at], data[at : at + length], data[at + length :]
        data = {
            "insert": head + payload + piece + tail,
            "replace": head + payload + tail,
            "delete": head + tail,
            "truncate": head,
            "repeat": head + piece * 3 + tail,
            "flip": head + bytes(b ^ (1 << length % 8) for b in piece[:1]) + piece[1:] + tail,
            "swap": tail + piece + head,
            "word": WORD.sub(
                lambda word, at=at, new=payload: new if word.start() <= at < word.end() else word[0], data
            ),
        }[operation]
    return data


def attempt(folder: Path, name: str, data: bytes) -> str:
    """Write a file, read it, and return what happened: "read" or the name of the exception."""
    path = folder / name
    path.write_bytes(data)
    try:
        if name.endswith(".evid"):
            read_evidence(path)
        elif name.endswith(".MPE"):
            read_mpe(path)
        elif name in BINARY:
            BINARY[name](path)
        else:
            problem = read(path)
            problem.energy(problem.label_set.round(torch.zeros(problem.shape)))
    except FileFormatError as error:
        return "FileFormatError" if str(error).startswith(f"{path}:") else "an error without a place"
    return "read"


def random_edits(source: random.Random) -> list[Edit]:
    """Return one to four changes."""
    return [
        Edit(source.choice(EDITS), source.random(), source.randint(0, 12), source.choice(PAYLOADS))
        for _ in range(source.choice((1, 1, 2, 3, 4)))
    ]


def main() -> None:
    """Mutate, read, count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    source, names = random.Random(options.seed), list(SAMPLES)
    counts: dict[str, Counter[str]] = {name: Counter() for name in names}
    bugs, began = 0, time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.count):
            name = names[number % len(names)]
            data = mutate(SAMPLES[name], random_edits(source))
            try:
                outcome = attempt(Path(folder), name, data)
            except Exception as error:
                outcome = type(error).__name__
                print(f"case {number}, {name}: {data[:200]!r}", file=sys.stderr)
                traceback.print_exc()
            bugs += outcome not in ("read", "FileFormatError")
            counts[name][outcome] += 1
    for name, found in counts.items():
        print(f"{name:24s}" + "  ".join(f"{outcome} {k}" for outcome, k in sorted(found.items())))
    print(f"{options.count} files, seed {options.seed}, {bugs} bugs, {time.perf_counter() - began:.1f} s")
    sys.exit(1 if bugs else 0)


if __name__ == "__main__":
    main()
