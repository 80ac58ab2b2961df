"""The settings of `mrfq train`, from TOML and by name.

Examples
--------
>>> make_settings({"model": "lenet300", "dataset": "digits", "levels": [-1, 1]}).levels
(-1, 1)
"""

from __future__ import annotations

from mrfq.runs.config import Configuration
from mrfq.train.settings import Settings

CONFIGURATION = Configuration(Settings, "a training run", ("model", "dataset"))
read_config, make_settings = CONFIGURATION.read, CONFIGURATION.make
