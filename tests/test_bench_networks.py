"""The suites of whole networks after post-training quantization: what is run, and what the tables say of it."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import pytest

from mrfq.layerwise.recipe import RECIPES
from mrfq.layerwise.spec import parse_levels

BENCH = Path(__file__).parent / "bench"


@pytest.fixture
def networks(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(BENCH))
    import networks

    monkeypatch.setattr(networks, "RESULTS", tmp_path / "networks.json")
    yield networks
    sys.modules.pop("networks", None)


SUITES = tomllib.loads((BENCH / "networks.toml").read_text())


@pytest.mark.parametrize("suite", SUITES)
def test_every_cell_has_a_key_of_its_own_and_names_what_exists(networks, suite) -> None:
    jobs = networks.jobs_of(suite, SUITES[suite])
    assert len({job.key for job in jobs}) == len(jobs)
    for job in jobs:
        assert job.settings["quality"] in RECIPES
        assert str(parse_levels(job.settings["levels"]))
    assert set(SUITES[suite].get("target", {})) <= set(SUITES[suite]["levels"])


def test_tables_show_mean_and_spread_of_what_was_run_and_say_what_was_not(networks) -> None:
    jobs = networks.jobs_of("resnet20", SUITES["resnet20"])
    chosen = [job for job in jobs if job.name == "best" and job.settings["levels"] == "binary-codebook"]
    for job, accuracy in zip(chosen, (85.0, 86.0, 87.0), strict=True):
        networks.keep(job, {"metric": accuracy, "bits_per_weight": 1.08, "seconds": 20.0})
    text = networks.table("resnet20", SUITES["resnet20"])
    assert "86.00 ± 1.00 (20 s)" in text
    assert "1.08" in text
    assert "not run" in text


def test_results_with_other_settings_do_not_count(networks) -> None:
    suite = "resnet20-distilled"
    job = networks.jobs_of(suite, SUITES[suite])[0]
    networks.keep(job, {"metric": 88.0, "bits_per_weight": 1.7, "seconds": 1.0})
    assert "88.00" in networks.table(suite, SUITES[suite])
    other = {**SUITES[suite], "rows": {name: {**row, "distill": 7} for name, row in SUITES[suite]["rows"].items()}}
    assert "88.00" not in networks.table(suite, other)
