"""What other packages make of a layer: GPTQ of Intel Neural Compressor, HQQ, AutoRound; extra `peers`.

Each takes a weight matrix and the Gram matrix of its inputs, runs on the CPU with its own grid and its defaults, and
returns the weights that it would multiply with. What had to be arranged for that:

- neural-compressor-pt: its class `GPTQ` is given the Gram matrix where it would have summed it up itself. Its blocks,
  order and damping are left alone; `compare_gptq` gives it any label sets in the place of its own grid.
- HQQ uses no calibration data. Scale and zero point, which it returns in float32, are rounded to the float16 that they
  count as. Groups of one row, and of 64 weights where these divide a row.
- AutoRound tunes transformer blocks of a language model that it walks through itself. Its own parts (`WrapperLinear`:
  rounding and clipping parameters; `SignSGD`; 200 steps, learning rate 1/200 falling to 0, the best step kept) run
  here on the output error of one layer, of which the Gram matrix gives the exact gradient; its own loop draws
  batches of 8 texts and measures the error behind a whole block.

Not compared: gptqmodel (does not install without CUDA), llmcompressor (asks for other versions of transformers and
huggingface_hub than the rest), optimum-quanto (no calibration; in maintenance).
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

AUTO_ROUND_STEPS = 200


@dataclass(frozen=True)
class Copy:
    """What a peer makes of a layer."""

    weight: Tensor
    bits_per_weight: float


@dataclass(frozen=True)
class Peer:
    """A way to quantize a layer that another package offers."""

    package: str
    module: str
    #: label counts that it takes
    counts: tuple[int, ...]
    #: of (weight, gram, labels)
    run: Callable[[Tensor, Tensor, int], Copy]

    def why_not(self) -> str | None:
        """Return the reason why it cannot run, or None."""
        missing = importlib.util.find_spec(self.module) is None
        return f'{self.package} is not installed: pip install "mrfq[peers]"' if missing else None


def _bits(count: int) -> float:
    return {2: 1, 3: 1.58, 4: 2, 8: 3, 16: 4}[count]


@cache
def _imported(module: str) -> Any:
    """Import a module of a peer."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if importlib.util.find_spec("transformers"):
            importlib.import_module("transformers")  # or Neural Compressor fails once somebody else imports it
        found = importlib.import_module(module)
    logging.getLogger("neural_compressor").setLevel(logging.ERROR)  # it reports every layer
    return found


def _hqq(group: int | None) -> Callable[[Tensor, Tensor, int], Copy]:
    def run(weight: Tensor, gram: Tensor, count: int) -> Copy:
        quantizer = _imported("hqq.core.quantize").Quantizer
        size = group if group is not None and weight.shape[1] % group == 0 else weight.shape[1]
        labels, meta = quantizer.quantize(
            weight.clone(), nbits=_bits(count), group_size=size, axis=1, bitpack=False, device="cpu"
        )
        rows = labels.float().reshape(-1, size)
        scale, zero = (meta[name].half().float() for name in ("scale", "zero"))
        bits = torch.tensor(float(count)).log2().item() + 32 / size
        return Copy(((rows - zero) * scale).reshape(weight.shape), bits)

    return run


def _neural_compressor(mse: bool) -> Callable[[Tensor, Tensor, int], Copy]:
    def run(weight: Tensor, gram: Tensor, count: int) -> Copy:
        solver = _gptq_of(weight, gram)
        bits = int(_bits(count))
        settings = {"bits": bits, "sym": False, "perchannel": True, "mse": mse, "dtype": "int"}
        solver.quantizer.configure({**settings, "double_quant_sym": False, "use_double_quant": False})
        copy = solver.fasterquant(weight.clone(), act_order=True)[-1]
        return Copy(copy, bits + (16 + bits) / weight.shape[1])

    return run


def _gptq_of(weight: Tensor, gram: Tensor) -> Any:
    module = _imported("neural_compressor.torch.algorithms.weight_only.gptq")
    with torch.device("meta"):
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    solver = module.GPTQ(layer, weight)
    solver.H, solver.nsamples = gram.clone(), 1
    return solver


def compare_gptq(target: Tensor, gram: Tensor, levels: Tensor, *, damping: float, act_order: bool) -> Tensor:
    """Return the weights that Neural Compressor's GPTQ chooses from given levels.

    Parameters
    ----------
    target : (R, C)
    gram : (C, C)
    levels : (R, L)
        Of each row.
    damping : float
    act_order : bool

    Returns
    -------
    (R, C) float32
    """

    def quantize(x: Tensor, scale: Tensor, zero: Tensor, maximum: int) -> Tensor:
        return levels.gather(1, (x - levels).abs().argmin(1, keepdim=True))

    solver = _gptq_of(target, gram)
    unused = torch.zeros(len(target), 1)
    solver.quantizer = SimpleNamespace(quantize=quantize, ready=lambda: True, scale=unused, zero=unused, maxq=0)
    copy: Tensor = solver.fasterquant(target.clone(), percdamp=damping, act_order=act_order)[-1]
    return copy


def _auto_round(weight: Tensor, gram: Tensor, count: int) -> Copy:
    wrapper = _wrapped(weight, int(_bits(count)))
    sign_sgd = _imported("auto_round.algorithms.quantization.sign_round.sign_sgd").SignSGD
    optimizer = sign_sgd(list(wrapper.params.values()), lr=1 / AUTO_ROUND_STEPS, weight_decay=0, momentum=0)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=AUTO_ROUND_STEPS)
    best, best_error = weight, float("inf")
    for _ in range(AUTO_ROUND_STEPS):
        copy = wrapper._qdq_weight(wrapper.value, wrapper.min_scale, wrapper.max_scale)[0]
        gap = copy - weight
        error = ((gap @ gram) * gap).sum() / gram.diagonal().mean()
        if error.item() < best_error:
            best, best_error = copy.detach().clone(), error.item()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        schedule.step()
    bits = int(_bits(count))
    return Copy(best, bits + (16 + bits) / weight.shape[1])


def _wrapped(weight: Tensor, bits: int) -> Any:
    """Return AutoRound's wrapper of a layer: asymmetric integers, one scale a row."""
    layer: Any = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight = nn.Parameter(weight.clone(), requires_grad=False)
    layer.bits, layer.group_size, layer.sym, layer.data_type = bits, -1, False, "int"
    layer.act_bits, layer.act_data_type, layer.scale_dtype = 16, "float", torch.float16
    wrapper = _imported("auto_round.wrapper").WrapperLinear
    return wrapper(layer, enable_torch_compile=False, device="cpu", iters=AUTO_ROUND_STEPS)


PEERS = {
    "neural-compressor GPTQ": Peer(
        "neural-compressor-pt", "neural_compressor", (4, 8, 16), _neural_compressor(mse=False)
    ),
    "neural-compressor GPTQ, mse": Peer(
        "neural-compressor-pt", "neural_compressor", (4, 8, 16), _neural_compressor(mse=True)
    ),
    "HQQ": Peer("hqq", "hqq", (2, 3, 4, 8, 16), _hqq(None)),
    "HQQ, groups of 64": Peer("hqq", "hqq", (2, 3, 4, 8, 16), _hqq(64)),
    "AutoRound": Peer("auto-round", "auto_round", (4, 8, 16), _auto_round),
}
