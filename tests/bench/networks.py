"""Whole networks after post-training quantization: test accuracy of ResNets, embeddings of MiniLM; tables for the docs.

    python tests/bench/networks.py --data FOLDER                      # quantize whatever has no result yet
    python tests/bench/networks.py --data FOLDER --suite resnet20     # one suite of networks.toml
    python tests/bench/networks.py --data FOLDER --device cuda        # on a GPU; several processes may run at a time
    python tests/bench/networks.py --docs docs/benchmarks.md          # put what there is into the tables

Results are kept in networks.json beside this file; what is in it with the same settings is not run again. The folder
holds the data sets as `mrfq quantize --data` expects them, and `pretrained/` with the float networks.
"""

from __future__ import annotations

import argparse
import copy
import fcntl
import json
import random
import statistics
import sys
import time
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from page import insert_between
from torch import nn

from mrfq.compare.export import environment
from mrfq.files import write_atomically
from mrfq.nn.images import IMAGENET, ImageBatches, ImageData, load_images
from mrfq.nn.models import build, load_pretrained
from mrfq.quantize.calibration import Calibration
from mrfq.quantize.distill import Source, distill
from mrfq.quantize.options import Options
from mrfq.quantize.pipeline import quantize
from mrfq.runs.evaluation import grade, in_order

SUITES, RESULTS = Path(__file__).with_suffix(".toml"), Path(__file__).with_suffix(".json")
PRETRAINED = {"resnet20": "resnet20-12fca82f.th", "resnet56": "resnet56-4bfd9763.th"}
#: calibration images, and how many at a time
IMAGES, BATCH = 1024, 64
#: of MiniLM: inputs like those that it is used on, and measured on
SENTENCES = 1600
Found = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """One network, quantized once."""

    suite: str
    name: str
    settings: dict[str, Any]

    @property
    def key(self) -> str:
        return f"{self.suite}/{self.settings['levels']}/{self.name}/{self.settings['draw']}"


def jobs_of(suite: str, entry: dict[str, Any]) -> list[Job]:
    """Return the jobs of a suite, all rows of a draw before the next draw."""
    common = {"network": entry["network"], **({"float": entry["float"]} if "float" in entry else {})}
    return [
        Job(suite, name, {**common, **own, "levels": levels, "draw": draw})
        for draw in entry["draws"]
        for levels in entry["levels"]
        for name, own in entry["rows"].items()
    ]


@dataclass(frozen=True, eq=False)
class Inputs:
    """A float network, what it is calibrated on, and where distillation takes its batches from if not from there."""

    model: nn.Module
    batches: list[Any]
    source: Source | None = None


@cache
def images(data: str, device: str) -> ImageData:
    return load_images("cifar10", Path(data) / "cifar10", normalise=IMAGENET, device=device)


def run(job: Job, data: str, device: str = "cpu") -> Found:
    """Quantize, and return what was found."""
    settings = dict(job.settings)
    network, draw, steps = settings.pop("network"), settings.pop("draw"), settings.pop("distill", 0)
    own, reach = settings.pop("float", {}), settings.pop("reach", 0.0)
    levels = (*own.items(), ("*", settings.pop("levels")))
    prepare, measure = (_minilm, _embeddings) if network == "minilm" else (_resnet, _accuracy)
    inputs = prepare(network, draw, data, device)
    model, began = copy.deepcopy(inputs.model), time.perf_counter()
    options = Options(levels=levels, seed=draw, baselines=False, **settings)
    report = quantize(model, inputs.batches, options=options)
    tuned: Found = {}
    if steps:
        done = distill(model, inputs.model, inputs.batches, steps, reach=reach, seed=draw, source=inputs.source)
        tuned = {"distillation": [done.before, done.after, done.steps]}
    seconds = time.perf_counter() - began
    held_out = [layer.error_held_out for layer in report.layers]
    return {
        **measure(model, data, device),
        "bits_per_weight": report.bits_per_weight,
        "error_held_out": statistics.mean(e for e in held_out if e is not None),
        **tuned,
        "seconds": seconds,
        "machine": machine(device),
    }


def machine(device: str) -> str:
    """Return what the times depend on."""
    name = torch.cuda.get_device_name() if device.startswith("cuda") else environment()["cpu"]
    return f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def _resnet(network: str, draw: int, data: str, device: str) -> Inputs:
    model = build(network, channels=3, size=32, classes=10).eval()
    load_pretrained(Path(data) / "pretrained" / PRETRAINED[network], model)
    found = images(data, device)
    rows = torch.randperm(len(found.train), generator=torch.Generator().manual_seed(draw))[:IMAGES]
    drawn = found.train.take(rows.to(device))
    batches = [x for x, _ in ImageBatches(found, drawn, BATCH, seed=0)]
    source = Calibration(batches, IMAGES, found, drawn).augmented(Options().held_out, BATCH, draw)
    return Inputs(model.to(device), batches, source)


def _accuracy(model: nn.Module, data: str, device: str) -> Found:
    found = images(data, device)
    return {"metric": grade(model, in_order(found, found.test), 1.0).accuracy}


def _minilm(network: str, draw: int, data: str, device: str) -> Inputs:
    import minilm
    import texts

    model, tokenizer = minilm.load_minilm()
    batches = list(minilm.token_batches(tokenizer, texts.calibration_sentences(SENTENCES, seed=draw), BATCH))
    random.Random(draw).shuffle(batches)  # they come by length, and the last ones are held out
    return Inputs(model.to(device), batches)


def _embeddings(model: nn.Module, data: str, device: str) -> Found:
    import minilm
    import texts

    sentences = texts.held_out_sentences()
    found = minilm.evaluation(model, _reference(device), sentences)
    return {"metric": found["cosine"], "rank_correlation": found["rank_correlation"]}


@cache
def _reference(device: str) -> torch.Tensor:
    import minilm
    import texts

    original, tokenizer = minilm.load_minilm()
    return minilm.embeddings(original.to(device), tokenizer, texts.held_out_sentences())


def results() -> dict[str, Found]:
    """Return what is known, by the key of the job."""
    found: dict[str, Found] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    return found


def keep(job: Job, found: Found) -> None:
    """Add a result to the file, which other processes may do at the same time."""
    with Path(__file__).open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        known = {**results(), job.key: {"settings": job.settings, **found}}
        rows = (f"{json.dumps(key)}: {json.dumps(known[key])}" for key in sorted(known))
        write_atomically(RESULTS, "{\n" + ",\n".join(rows) + "\n}\n")


def table(suite: str, entry: dict[str, Any]) -> str:
    """Return the table of a suite: a row for each solver, a column for each label set."""
    known = results()
    cells: dict[tuple[str, str], list[Found]] = {}
    for job in jobs_of(suite, entry):
        if known.get(job.key, {}).get("settings") == job.settings:
            cells.setdefault((job.name, job.settings["levels"]), []).append(known[job.key])
    head = ["", *(f"{levels}" for levels in entry["levels"])]
    rows = [[name, *(_cell(cells.get((name, levels), [])) for levels in entry["levels"])] for name in entry["rows"]]
    bits = ["bits per weight", *(_bits(cells, levels) for levels in entry["levels"])]
    goals = [entry.get("target", {}).get(levels) for levels in entry["levels"]]
    rows.append(bits)
    if any(goal is not None for goal in goals):
        rows.append(["to reach", *("" if goal is None else f"{goal:g}" for goal in goals)])
    lines = [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
    return f"**{entry['title']}.** {entry.get('words', '')}\n\n" + "\n".join(lines)


def _cell(found: list[Found]) -> str:
    if not found:
        return "not run"
    values, ranks = [f["metric"] for f in found], [f.get("rank_correlation") for f in found]
    digits = 2 if values[0] > 1 else 4
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    rank = f" [{statistics.mean(ranks):.3f}]" if ranks[0] is not None else ""
    return f"{statistics.mean(values):.{digits}f}{spread}{rank} ({min(f['seconds'] for f in found):.0f} s)"


def _bits(cells: dict[tuple[str, str], list[Found]], levels: str) -> str:
    found = [f["bits_per_weight"] for (_, own), fs in cells.items() if own == levels for f in fs]
    return f"{statistics.mean(found):.2f}" if found else ""


def asked_for(job: Job, options: argparse.Namespace) -> bool:
    """Return whether the command line leaves a job in."""
    draw = job.settings["draw"]
    return (
        (options.row is None or job.name in options.row)
        and (options.levels is None or job.settings["levels"] in options.levels)
        and (options.draws is None or draw < options.draws)
        and (options.draw is None or draw in options.draw)
    )


def main() -> None:
    """Quantize or tabulate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder of the data sets; without it nothing is quantized")
    parser.add_argument("--suite", action="append", help="only this suite; repeatable")
    parser.add_argument("--row", action="append", help="only this row; repeatable")
    parser.add_argument("--levels", action="append", help="only these levels; repeatable")
    parser.add_argument("--draws", type=int, help="only so many draws")
    parser.add_argument("--draw", type=int, action="append", help="only this draw; repeatable")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--docs", type=Path, help="page with the markers for the tables")
    options = parser.parse_args()
    suites = tomllib.loads(SUITES.read_text())
    chosen = {name: entry for name, entry in suites.items() if not options.suite or name in options.suite}
    if options.suite and len(chosen) < len(set(options.suite)):
        raise SystemExit(f"unknown suite; there are {', '.join(suites)}")
    torch.set_num_threads(options.threads)
    if options.data:
        for job in (job for name, entry in chosen.items() for job in jobs_of(name, entry)):
            if asked_for(job, options) and results().get(job.key, {}).get("settings") != job.settings:
                found = run(job, options.data, options.device)
                keep(job, found)
                print(f"{job.key}: {found['metric']:.4f} ({found['seconds']:.0f} s)", flush=True)
    text = "\n\n".join(table(name, entry) for name, entry in chosen.items())
    if options.docs:
        insert_between(options.docs, text, "networks")
    else:
        sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
