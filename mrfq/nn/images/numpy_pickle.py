"""Pickles of plain data and numpy arrays, read without running anything.

CIFAR-10's "python version" are pickles of protocol 2, written by Python 2: a dictionary of byte strings, lists, whole
numbers and one array. A pickle is a program for a stack machine, and `pickle.load` lets it call any function. The
machine here knows the 32 instructions that such files need. It imports nothing: the name of a function stays a name,
and the four names that stand for an array, its type and a byte string are the only ones that it takes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mrfq.errors import FileFormatError
from mrfq.nn.images.pickle_machine import Machine
from mrfq.nn.images.pickle_tokens import Tokens
from mrfq.nn.images.pickled_arrays import RefusedError


def read_pickle(path: str | Path, largest: int) -> Any:
    """Return the plain data in a pickle: dictionaries, lists, tuples, byte strings, texts, numbers and numpy arrays.

    Texts of Python 2 are returned as byte strings.

    Parameters
    ----------
    path : str or path
    largest : int
        Bytes that the file may have.

    Raises
    ------
    FileFormatError
        Too large, broken, or a pickle that would do anything else than make such data.
    OSError
        The file cannot be read.

    Examples
    --------
    >>> import pickle, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "a").write_bytes(pickle.dumps({"labels": [3, 5]}, protocol=2))
    ...     read_pickle(folder + "/a", largest=1000)
    {'labels': [3, 5]}
    """
    with open(path, "rb") as file:
        size = Path(path).stat().st_size
        data = file.read(size) if size <= largest else b""
    if len(data) < size:
        raise FileFormatError(str(path), "its size", f"{size:,} bytes", f"at most {largest:,}")
    machine, tokens = Machine(letters=size), Tokens(data)
    try:
        for instruction, argument in tokens:
            machine.run(instruction, argument)
        return machine.result()
    except RefusedError as error:
        where = f"byte {tokens.position}"
        raise FileFormatError(str(path), where, str(error), "a pickle of plain data and numpy arrays") from error
