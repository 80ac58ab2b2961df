"""What a file may ask for. Everything is checked against these limits before it is allocated."""

from __future__ import annotations

#: bytes of a file, after decompression
LARGEST_TEXT = 2**29
#: bytes of a JSON file, whose values take more memory while they are read
LARGEST_JSON = 2**27
#: bytes of memory that decompression may need; xz allows dictionaries of 4 GiB
LARGEST_DICTIONARY = 2**28
#: costs and weights, so that sums of many stay finite
LARGEST_NUMBER = 1e300
#: variables in a factor: what an array can have as axes
LARGEST_ARITY = 32
#: labels of a variable
MOST_LABELS = 2**20
#: variables times most labels, the size of a relaxed labelling, unless the file is large itself
LARGEST_LABELLING = 2**24
#: entries of a model's tables after padding to the most labels, unless the file is large itself
LARGEST_PADDED = 2**22
#: by how much padding may multiply what a large file holds
PADDING = 4
#: variables beyond those that a file's lines have room to name
MOST_ISOLATED = 2**20


def most_labels(n: int, size: int) -> int:
    """Return how many labels the variables may have, n of them in a file of `size` bytes."""
    return min(MOST_LABELS, max(LARGEST_LABELLING, PADDING * size) // n)
