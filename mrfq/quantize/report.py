"""What a quantization found out: about every layer, about the whole, and while it goes on."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class LayerReport:
    """One layer that was quantized.

    Attributes
    ----------
    name : str
        Of the module; the first one where several share the weight.
    kind : str
        "linear", "conv1d", "conv2d", "conv3d" or "embedding".
    shape : tuple of int
        Of the weight.
    levels : str
        The label set, as `parse_levels` reads it.
    bits_per_weight : float
        Codebooks and scales included.
    error : float
        Mean squared error of the outputs over their variance, on the calibration inputs, after scale and shift. The
        outputs are those that the layer aims at: the float network's, corrected for the shortcut, by default.
    error_held_out : float or None
        The same on calibration batches that were held out; None if there were none.
    optimality : float or None
        How far from optimal the labels are at most, in [0, 1]: a lower bound of the energy of all labellings with the
        same levels over the energy of these labels, on the target and in the metric of the solver, before scale and
        shift. The energy is at most 1 / optimality times the least possible one, and 1 proves that it is the least.
        None if it was not asked for, and for codewords, embeddings and layers of more than 1024 columns.
    baselines : dict of str to dict
        The same two numbers for other solvers on the same target and label set, `{"gptq": {"error": ..,
        "error_held_out": ..}}`.
    seconds : float
        Of the forward passes, the moments and the solver.
    notes : list of str
        What is worth knowing, in sentences.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    levels: str
    bits_per_weight: float
    error: float
    error_held_out: float | None
    optimality: float | None = None
    baselines: dict[str, dict[str, float | None]] = field(default_factory=dict)
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)


@dataclass
class Report:
    """A network that was quantized.

    Attributes
    ----------
    layers : list of LayerReport
        In the order in which they were quantized.
    seconds : float
        All of it, the parts of an interrupted run included.
    bits_per_weight : float
        Of all quantized weights together, codebooks and scales included.
    notes : list of str
        What stayed float and why, and the like.
    """

    layers: list[LayerReport]
    seconds: float
    bits_per_weight: float
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Progress:
    """What a callback is told.

    Attributes
    ----------
    stage : int
        From 1: the stage that is worked on, or that is done if there is a layer; 0 before the first.
    stages : int
        All of them; layers with the same inputs are one stage.
    layer : LayerReport or None
        A layer that has just been quantized, or read from an interrupted run.
    message : str
    """

    stage: int
    stages: int
    layer: LayerReport | None
    message: str
