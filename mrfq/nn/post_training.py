"""Post-training quantization of a network; the work is done in `mrfq.quantize`."""

from mrfq.quantize.distill import distill
from mrfq.quantize.options import Options
from mrfq.quantize.pipeline import quantize

__all__ = ["Options", "distill", "quantize"]
