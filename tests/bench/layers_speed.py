"""CPU time and peak memory of recipes on one large synthetic layer, each in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from layers_moments import Layer
from torch import Tensor

Found = TypeVar("Found")

#: how fast the eigenvalues fall: the k-th is k^-DECAY, so that the condition number of 4096 inputs is 2e5
DECAY = 1.5


def synthetic_gram(columns: int, seed: int = 0) -> Tensor:
    """Return a Gram matrix (C, C) with the spectrum of real layers: power law, few inputs much larger than the rest.

    Random orthogonal directions with eigenvalues k^-1.5, then inputs scaled by a log-normal factor: the largest
    diagonal entry is some 30 times the mean.
    """
    generator = torch.Generator().manual_seed(seed)
    directions = torch.linalg.qr(torch.randn(columns, columns, generator=generator)).Q
    spectrum = torch.arange(1, columns + 1, dtype=torch.float32) ** -DECAY
    scale = torch.exp(0.7 * torch.randn(columns, generator=generator))
    half = scale[:, None] * directions * spectrum.sqrt()
    return half @ half.T / float((half * half).sum()) * columns


def synthetic_weight(rows: int, columns: int, seed: int = 0) -> Tensor:
    """Return weights (R, C) with somewhat heavier tails than a normal distribution."""
    generator = torch.Generator().manual_seed(seed + 1)
    chi = torch.randn(8, rows, columns, generator=generator).square_().mean(0)
    return torch.randn(rows, columns, generator=generator) / chi.sqrt()


def synthetic_layer(size: int) -> Layer:
    """Return a layer of size inputs and outputs."""
    gram = synthetic_gram(size)
    return Layer("synthetic", synthetic_weight(size, size), gram, gram)


def memory(line: str) -> float:
    """Return what Linux says of the memory of this process, MB: `VmRSS` now, `VmHWM` the most so far."""
    status = Path("/proc/self/status").read_text()
    found = next(words for words in status.splitlines() if words.startswith(line))
    return int(found.split()[1]) * 1024 / 1e6


def in_own_process(script: Path, size: int, levels: str, recipe: str) -> dict[str, Any]:
    """Return what `measured` finds in a new process."""
    command = [sys.executable, str(script), "--speed-of", recipe, "--speed", str(size), "--levels", levels]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{recipe} on {size} x {size}: {done.stderr.strip().splitlines()[-1:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def timed(action: Callable[[], Found]) -> tuple[Found, float, float]:
    """Return what a function returns, its CPU seconds, and the most memory above that before it, MB."""
    Path("/proc/self/clear_refs").write_text("5")  # the most so far is what there is now
    before, began = memory("VmRSS"), time.process_time()
    found = action()
    return found, time.process_time() - began, memory("VmHWM") - before


def table(rows: list[dict[str, Any]]) -> str:
    """Return the table, relative to the first row, GPTQ."""
    base = rows[0]
    lines = ["| recipe | CPU s | of GPTQ's | MB more | error of GPTQ's |", "| --- | --- | --- | --- | --- |"]
    lines += [
        f"| {row['recipe']} | {row['seconds']:.1f} | {row['seconds'] / base['seconds']:.1f} | {row['megabytes']:.0f} "
        f"| {row['error'] / base['error']:.3f} |"
        for row in rows
    ]
    title = f"**{base['size']} x {base['size']}, `{base['levels']}`**, one thread; weights and Gram matrix not counted."
    return title + "\n\n" + "\n".join(lines)
