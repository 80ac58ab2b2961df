"""Quantization as labelling: Markov random fields and neural networks, one core, interchangeable solvers.

Everything is imported on first use, so that `import mrfq` and the command line stay fast.
"""

import lazy_loader as _lazy

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
