"""Tensors and a manifest in one safetensors file that notices any changed byte.

The header holds one entry of metadata, ``"mrfq": "KIND/VERSION sha256:DIGEST"``: what the file is for, and the SHA-256
of the whole file with the 64 characters of the digest as zeros. The manifest is JSON, compressed by zlib, in the
bytes of the tensor `manifest`. Nothing is unpickled, and no size is believed before it has been checked.
"""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from mrfq.errors import InvalidProblemError
from mrfq.files import write_atomically
from mrfq.io import limits
from mrfq.io.archive_header import DTYPES, Header, parse_header

#: the name of the tensor that holds the manifest
MANIFEST = "manifest"
#: in the place of the digest while the digest is taken
BLANK = "0" * 64
#: by how much compression may shorten a manifest that is longer than 1 MiB, so that no small file fills the memory
SHORTENING = 20
_STAMP = re.compile(r"(?P<kind>[a-z-]+)/(?P<version>\d{1,9}) sha256:(?P<digest>[0-9a-f]{64})")


def write_archive(
    path: str | Path, kind: str, version: int, tensors: Mapping[str, Tensor], manifest: Mapping[str, Any]
) -> None:
    """Write tensors and a manifest to a file, atomically.

    Parameters
    ----------
    path : str or path
    kind : str
        What the file is for, small letters and dashes.
    version : int
        Of the layout of this kind of file.
    tensors : mapping of str to Tensor
        On any device, of any shape; every bit is kept. The name "manifest" is taken.
    manifest : mapping
        What JSON can hold, finite numbers only.

    Raises
    ------
    InvalidProblemError
        A tensor whose dtype or layout has no place in a safetensors file, or a manifest that is no JSON or too long.

    Examples
    --------
    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = Path(folder.name) / "moments.safetensors"
    >>> write_archive(path, "example", 1, {"moments": torch.tensor([0.5, 2.0])}, {"steps": 7})
    >>> read_archive(path, "example", 1)
    ({'moments': tensor([0.5000, 2.0000])}, {'steps': 7})
    >>> folder.cleanup()
    """
    stamp = f"{kind}/{version} sha256:{BLANK}"
    if _STAMP.fullmatch(stamp) is None:
        raise InvalidProblemError(f"archive: kind {kind!r} or version {version} is not a name, a whole number")
    if MANIFEST in tensors:
        raise InvalidProblemError(f"archive: no tensor may be called {MANIFEST!r}")
    text = torch.frombuffer(bytearray(_compressed(_rendered(manifest))), dtype=torch.uint8)
    stored = {**_storable(tensors), MANIFEST: text}
    data = safetensors.torch.save(stored, {"mrfq": stamp})
    at = data.index(BLANK.encode())
    digest = hashlib.sha256(data).hexdigest().encode()
    write_atomically(path, data[:at] + digest + data[at + len(digest) :])


def read_archive(
    path: str | Path, kind: str, version: int, device: str | torch.device = "cpu"
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and the manifest of a file that `write_archive` has written.

    Parameters
    ----------
    path : str or path
    kind, version
        What the file must be.
    device : str or torch.device
        Of the tensors.

    Raises
    ------
    FileFormatError
        The file was cut or changed, is of another kind or version, or none of ours.
    OSError
        The file cannot be read.
    """
    data = Path(path).read_bytes()
    header = parse_header(str(path), data)
    _check_stamp(header, data, kind, version)
    try:
        tensors = safetensors.torch.load(data)
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise header.error("the header", f"what safetensors refuses ({error})", "a safetensors file") from error
    if MANIFEST not in tensors or tensors[MANIFEST].dtype != torch.uint8:
        raise header.error("the header", "no manifest", "bytes called 'manifest'")
    manifest = _parsed(header, tensors.pop(MANIFEST).numpy().tobytes())
    return {name: tensor.to(device) for name, tensor in tensors.items()}, manifest


def _check_stamp(header: Header, data: bytes, kind: str, version: int) -> None:
    stamp = _STAMP.fullmatch(header.stamp or "")
    if stamp is None:
        raise header.error("the header", "no kind and checksum of mrfq", f"a file of kind {kind!r} written by mrfq")
    if stamp["kind"] != kind:
        raise header.error("the header", f"a file of kind {stamp['kind']!r}", f"one of kind {kind!r}")
    if int(stamp["version"]) != version:
        hint = " (a newer mrfq wrote it)" if int(stamp["version"]) > version else ""
        raise header.error("the header", f"version {stamp['version']}{hint}", f"version {version}")
    digest, start = stamp["digest"].encode(), header.start
    if data.count(digest, 0, start) != 1:
        raise header.error("the header", "the checksum more than once", "it once")
    check = hashlib.sha256(data[:start].replace(digest, BLANK.encode()))
    check.update(memoryview(data)[start:])
    if check.hexdigest() != stamp["digest"]:
        raise header.error("the checksum", "a file that was changed after it was written", "the bytes as written")


def _storable(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return contiguous tensors on the CPU that share no memory."""
    found: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_meta or tensor.dtype not in DTYPES.values():
            what = "no data" if tensor.is_meta else f"{tensor.dtype}, {tensor.layout}"
            raise InvalidProblemError(f"tensor {name!r} ({what}) has no place in a safetensors file")
        plain = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
        pointer = plain.untyped_storage().data_ptr()
        found[name] = plain.clone() if pointer in storages else plain
        storages.add(pointer)
    return found


def _rendered(manifest: Mapping[str, Any]) -> bytes:
    try:
        text = json.dumps(dict(manifest), allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidProblemError(f"archive: a manifest that JSON cannot hold ({error})") from error
    if len(text) > limits.LARGEST_JSON:
        raise InvalidProblemError(f"archive: a manifest of {len(text):,} bytes; at most {limits.LARGEST_JSON:,}")
    return text


def _compressed(text: bytes) -> bytes:
    short = zlib.compress(text, 9)
    return short if len(text) <= _longest(len(short)) else zlib.compress(text, 0)


def _longest(size: int) -> int:
    """Return how long a manifest may be that takes `size` bytes in a file."""
    return min(limits.LARGEST_JSON, 2**20 + SHORTENING * size)


def _parsed(header: Header, data: bytes) -> dict[str, Any]:
    stream, longest = zlib.decompressobj(), _longest(len(data))
    try:
        text = stream.decompress(data, longest)
    except zlib.error as error:
        raise header.error("the manifest", f"broken zlib data ({error})", "JSON compressed by zlib") from error
    if not stream.eof or stream.unused_data:
        raise header.error("the manifest", "zlib data of another length", f"one stream of at most {longest:,}")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise header.error("the manifest", f"no JSON ({type(error).__name__})", "a JSON object") from error
    if not isinstance(value, dict):
        raise header.error("the manifest", "another JSON value", "a JSON object")
    return value
