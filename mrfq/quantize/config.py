"""The settings of `mrfq quantize`, from TOML and by name.

Examples
--------
>>> make_settings({"model": "torch.nn:Linear", "calibration": "digits", "levels": "binary"}).levels
'binary-codebook'
"""

from __future__ import annotations

from mrfq.quantize.settings import Settings
from mrfq.runs.config import Configuration

CONFIGURATION = Configuration(Settings, "quantization", ("model", "calibration"))
read_config, make_settings = CONFIGURATION.read, CONFIGURATION.make
