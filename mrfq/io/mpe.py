"""Result files: the word `MPE`, the number of variables, and the label of each.

MPE stands for most probable explanation, which is the labelling of lowest energy.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor

from mrfq.files import write_atomically
from mrfq.io.numbers import Numbers
from mrfq.io.text import compressed, load, shown

#: labels are smaller than this
LARGEST_LABEL = 2**53
_WORD = re.compile(rb"\S+")


def read_mpe(path: str | Path) -> Tensor:
    """Return the (n,) int64 labelling of a result file.

    Raises
    ------
    FileFormatError
        Not a result file. A number of samples after the first word must be 1.
    """
    text = load(path)
    header = _WORD.search(text.data)
    if header is None or header[0] != b"MPE":
        found = "an empty file" if header is None else shown(header[0])
        raise text.error(header.start() if header else 0, found, "MPE")
    numbers = Numbers(text, header.end())
    n = numbers.whole("the number of variables", 1, LARGEST_LABEL)
    if numbers.left != n and n == 1:  # one sample
        n = numbers.whole("the number of variables", 1, LARGEST_LABEL)
    labels = numbers.wholes(n, "labels", 0, LARGEST_LABEL)
    numbers.end()
    return torch.from_numpy(labels)


def write_mpe(labels: Tensor, path: str | Path) -> None:
    r"""Write a labelling as a result file.

    Examples
    --------
    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = Path(folder.name) / "model.MPE"
    >>> write_mpe(torch.tensor([0, 2, 1]), path)
    >>> path.read_text(), read_mpe(path).tolist()
    ('MPE\n3 0 2 1\n', [0, 2, 1])
    >>> folder.cleanup()
    """
    words = " ".join(map(str, [len(labels), *labels.tolist()]))
    write_atomically(path, compressed(path, f"MPE\n{words}\n"))
