"""One layer, one label set, one recipe or peer: errors on calibration and held-out inputs, bits and CPU time."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import torch
from layers_moments import Layer, Source
from peers_layers import PEERS
from torch import Tensor

from mrfq.layerwise.recipe import quantize_layer
from mrfq.layerwise.spec import LevelSpec, parse_levels

#: label sets by the number of labels; GPTQ's baseline is the best of each
LABEL_SETS = {
    "4 bit": ("4bit-codebook", "4bit-codebook-error", "4bit-uniform", "4bit-uniform-error", "4bit-uniform-minmax"),
    "3 bit": ("3bit-codebook", "3bit-codebook-error", "3bit-uniform", "3bit-uniform-error", "3bit-uniform-minmax"),
    "2 bit": ("2bit-codebook", "2bit-codebook-error", "2bit-uniform", "2bit-uniform-error", "2bit-uniform-minmax"),
    "ternary": (
        "ternary-codebook",
        "ternary-codebook-error",
        "ternary-symmetric",
        "ternary-uniform",
        "ternary-uniform-error",
    ),
    "binary": (
        "binary-codebook",
        "binary-codebook-error",
        "binary-symmetric",
        "binary-uniform",
        "binary-uniform-error",
    ),
}
COUNTS = {"4 bit": 16, "3 bit": 8, "2 bit": 4, "ternary": 3, "binary": 2}
#: GPTQ first, what the others are compared with
RECIPES = ("gptq", "nearest", "icm", "mean-field", "fast", "balanced", "best")
Row = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """One layer, one label set, one recipe (or one peer, which has label sets of its own)."""

    layer: Layer
    size: str
    levels: str
    recipe: str

    def key(self, source: Source) -> str:
        """Return what its row is filed under."""
        settings = " ".join(str(value) for value in asdict(source).values())
        return f"{settings}: {self.layer.name}, {self.levels}, {self.recipe}"


def relative_error(copy: Tensor, weight: Tensor, gram: Tensor) -> float:
    """Return the squared output error relative to the squared output, by the Gram matrix of the inputs."""
    gap, full, metric = (copy - weight).double(), weight.double(), gram.double()
    return float(((gap @ metric) * gap).sum() / ((full @ metric) * full).sum())


def measured(job: Job) -> Row:
    """Quantize a layer, and return its row."""
    layer = job.layer
    began = time.process_time()
    copy, bits = by_peer(job) if job.recipe in PEERS else by_recipe(job)
    seconds = time.process_time() - began
    return {
        "layer": layer.name,
        "shape": list(layer.weight.shape),
        "size": job.size,
        "levels": job.levels,
        "recipe": job.recipe,
        "bits": bits,
        "error": relative_error(copy, layer.weight, layer.gram),
        "held_out": relative_error(copy, layer.weight, layer.held_out),
        "seconds": seconds,
    }


def by_recipe(job: Job) -> tuple[Tensor, float]:
    """Return the weights that a recipe chooses and the bits a weight takes."""
    spec, weight = parse_levels(job.levels), job.layer.weight
    assert isinstance(spec, LevelSpec)
    found = quantize_layer(weight, job.layer.gram, spec, job.recipe, seed=0)
    return found.table.decode(found.labels), spec.bits(*weight.shape) / weight.numel()


def by_peer(job: Job) -> tuple[Tensor, float]:
    """Return the weights that another package chooses and the bits a weight takes."""
    copy = PEERS[job.recipe].run(job.layer.weight.clone(), job.layer.gram, COUNTS[job.size])
    return copy.weight, copy.bits_per_weight


def warm_up(jobs: list[Job]) -> None:
    """Run each kind of job once on a few random weights, so that no compilation is measured."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(256, 64, generator=generator)
    gram = inputs.T @ inputs / 256
    tiny = Layer("tiny", torch.randn(16, 64, generator=generator), gram, gram)
    for size, levels, recipe in dict.fromkeys((job.size, job.levels, job.recipe) for job in jobs):
        measured(Job(tiny, size, levels, recipe))
