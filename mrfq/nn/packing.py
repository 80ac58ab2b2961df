"""Labels as bits: whole numbers below L in little more than log2 L bits each.

Digits of radix L are joined into words, and words written one after the other, lowest bit first. The word holds
`sum_k label_k L^k`. Where L is a power of two a word is one label; otherwise as many as it takes to waste less than
0.2 % (29 ternary digits in 46 bits), within 128 bits. Numbers wider than the machine's are kept in limbs of 32 bits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from mrfq.errors import InvalidProblemError

#: bits of the longest word
LONGEST = 128
#: the relative waste at which no longer word is sought
WASTE = 0.002
LIMB = 32
#: words that are worked on together; of eight words the bits fill whole bytes
CHUNK = 2**13


@dataclass(frozen=True)
class Word:
    """How many digits of which radix share how many bits.

    Raises
    ------
    InvalidProblemError
        Numbers of that many digits do not fit, or the word is too long.

    Examples
    --------
    >>> Word(3, 5, 8).tail(2)
    4
    """

    radix: int
    digits: int
    bits: int

    def __post_init__(self) -> None:
        small = 2 <= self.radix < 2**LIMB and 1 <= self.digits <= self.bits <= LONGEST
        if not small or self.radix**self.digits > 2**self.bits:
            raise InvalidProblemError(f"{self.digits} digits of radix {self.radix} do not fit into {self.bits} bits")

    def tail(self, digits: int) -> int:
        """Return how many bits a shorter word takes, the last one."""
        return int(self.radix**digits - 1).bit_length()

    def size(self, count: int) -> int:
        """Return how many bytes `count` labels take."""
        full, rest = divmod(count, self.digits)
        return -(-(full * self.bits + self.tail(rest)) // 8)


@lru_cache
def best_word(levels: int) -> Word:
    """Return the word for labels below `levels`; a single level takes a bit all the same.

    Examples
    --------
    >>> best_word(2), best_word(3)
    (Word(radix=2, digits=1, bits=1), Word(radix=3, digits=29, bits=46))
    """
    radix = max(levels, 2)
    best, least = Word(radix, 1, (radix - 1).bit_length()), math.inf
    for digits in range(1, LONGEST + 1):
        bits = int(radix**digits - 1).bit_length()
        if bits > LONGEST or least < WASTE:
            break
        waste = bits / (digits * math.log2(radix)) - 1
        if waste < least:
            best, least = Word(radix, digits, bits), waste
    return best


def byte_word(levels: int) -> Word:
    """Return the word of one label that lies within a byte, or fills two or four of them: 1, 2, 4, 8, 16 or 32 bits.

    Examples
    --------
    >>> byte_word(2), byte_word(3), byte_word(32)
    (Word(radix=2, digits=1, bits=1), Word(radix=3, digits=1, bits=2), Word(radix=32, digits=1, bits=8))
    """
    radix = max(levels, 2)
    return Word(radix, 1, 2 ** ((radix - 1).bit_length() - 1).bit_length())


def pack(labels: np.ndarray, word: Word) -> bytes:
    """Return labels, whole numbers of shape (n,) from 0 to `radix` - 1, as bytes.

    Examples
    --------
    >>> pack(np.array([1, 0, 0, 1, 1, 1, 1, 1, 1]), best_word(2)).hex()
    'f901'
    """
    full = len(labels) // word.digits * word.digits
    words = labels[:full].reshape(-1, word.digits)
    parts = [_bits(words[start : start + CHUNK], word.radix, word.bits) for start in range(0, len(words), CHUNK)]
    rest = labels[full:].reshape(1, -1)
    parts.append(_bits(rest, word.radix, word.tail(rest.shape[1])))
    return b"".join(np.packbits(part, bitorder="little").tobytes() for part in _aligned(parts))


def unpack(data: bytes, count: int, word: Word) -> np.ndarray:
    """Return `count` labels, int64, from bytes made by `pack`.

    Raises
    ------
    InvalidProblemError
        Not as many bytes as that takes, or a word that stands for no labels.

    Examples
    --------
    >>> unpack(bytes.fromhex("f901"), 9, best_word(2)).tolist()
    [1, 0, 0, 1, 1, 1, 1, 1, 1]
    """
    if len(data) != word.size(count):
        raise InvalidProblemError(f"{count} labels take {word.size(count)} bytes, not {len(data)}")
    full, rest = divmod(count, word.digits)
    labels = np.empty(count, dtype=np.int64)
    words = labels[: full * word.digits].reshape(full, word.digits)
    buffer = np.frombuffer(data, dtype=np.uint8)
    for start in range(0, full, CHUNK):
        chunk = words[start : start + CHUNK]
        chunk[:] = _digits(_cut(buffer, start * word.bits, len(chunk), word.bits), word.radix, word.digits)
    last = _cut(buffer, full * word.bits, 1, word.tail(rest))
    labels[full * word.digits :] = _digits(last, word.radix, rest)[0]
    return labels


def _aligned(parts: list[np.ndarray]) -> list[np.ndarray]:
    """Return the bits with the last two parts joined: all others fill whole bytes."""
    return [*parts[:-2], np.concatenate(parts[-2:])]


def _bits(words: np.ndarray, radix: int, width: int) -> np.ndarray:
    """Return the bits of words given by their (n, digits), joined."""
    limbs = np.zeros((-(-width // LIMB), len(words)), dtype=np.uint64)
    for k in reversed(range(words.shape[1])):
        carry = words[:, k].astype(np.uint64)
        for limb in limbs[: _limbs(radix, words.shape[1] - k)]:
            carry += limb * np.uint64(radix)
            limb[:] = carry & np.uint64(2**LIMB - 1)
            carry >>= np.uint64(LIMB)
    octets = np.ascontiguousarray(limbs.T.astype("<u4")).view(np.uint8)[:, : -(-width // 8)]
    return np.unpackbits(octets, axis=1, bitorder="little")[:, :width].ravel()


def _cut(buffer: np.ndarray, start: int, count: int, width: int) -> np.ndarray:
    """Return the (count, width) bits from bit `start` on."""
    octets = buffer[start // 8 : -(-(start + count * width) // 8)]
    return np.unpackbits(octets, bitorder="little")[start % 8 :][: count * width].reshape(count, width)


def _digits(bits: np.ndarray, radix: int, digits: int) -> np.ndarray:
    """Return the (n, digits) of words given by their (n, width) bits."""
    count, width = bits.shape
    octets = np.zeros((count, -(-width // LIMB) * 4), dtype=np.uint8)
    octets[:, : -(-width // 8)] = np.packbits(bits, axis=1, bitorder="little")
    limbs = np.ascontiguousarray(octets.view("<u4").T).astype(np.uint64)
    found = np.empty((digits, count), dtype=np.uint64)
    for k in range(digits):
        remainder = np.zeros(count, dtype=np.uint64)
        for limb in limbs[: _limbs(radix, digits - k)][::-1]:
            remainder <<= np.uint64(LIMB)
            remainder |= limb
            limb[:] = remainder // np.uint64(radix)
            remainder -= limb * np.uint64(radix)
        found[k] = remainder
    if limbs.any():
        raise InvalidProblemError(f"a word that does not stand for {digits} digits of radix {radix}")
    return found.T


@lru_cache(maxsize=4096)
def _limbs(radix: int, digits: int) -> int:
    """Return how many limbs hold all numbers of that many digits."""
    return -(-int(radix**digits - 1).bit_length() // LIMB)
