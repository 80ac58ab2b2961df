"""Recipes for one layer against GPTQ, on real layers, and the time that they take: the tables of `docs/benchmarks.md`.

    python tests/bench/layers.py --model minilm --out bench/layers.json                    # all layers, all label sets
    python tests/bench/layers.py --model resnet20 --data FOLDER --out bench/layers.json
    python tests/bench/layers.py --model minilm --layers "*.0.*" --size ternary --limit 2  # a glance
    python tests/bench/layers.py --peers --out bench/layers.json                           # what other packages do
    python tests/bench/layers.py --speed 4096 --levels 3bit-codebook                       # one large layer
    python tests/bench/layers.py --out bench/layers.json --docs docs/benchmarks.md --tables

Every layer is quantized by itself: its inputs, of which the Gram matrix is taken, and the outputs to be met are those
of the float network. What has been measured is in the file given by `--out` and is not measured again; an interrupted
run goes on. The folder of `--data` holds `cifar10` and `pretrained`. One thread; times are CPU times of the whole call,
starting label set included.

The parts: `layers_moments` (layers and their inputs), `layers_measure` (one row), `layers_speed` (the large layer),
`layers_tables`, `peers_layers` (other packages), `gptq_reference` (what our GPTQ is checked against).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import layers_speed
import minilm
import numba
import torch
from layers_measure import COUNTS, LABEL_SETS, RECIPES, Job, Row, by_recipe, measured, relative_error, warm_up
from layers_moments import NETWORKS, SIZES, Layer, Source, chosen, layers_of
from layers_tables import Results, report
from page import insert_between
from peers_layers import PEERS

from mrfq.compare.export import environment
from mrfq.files import write_atomically


def jobs_of(layers: list[Layer], options: argparse.Namespace) -> Iterator[Job]:
    """Yield what is to be done, layer by layer."""
    runs: list[tuple[str, str, str]] = [
        (size, levels, recipe)
        for size, label_sets in LABEL_SETS.items()
        if not options.size or size in options.size
        for levels in label_sets
        if not options.levels or levels in options.levels
        for recipe in options.recipe or RECIPES
        if recipe in RECIPES
    ]
    if options.peers:
        usable = {name: peer for name, peer in PEERS.items() if not skipped(name)}
        runs = [
            (size, f"{name} {size}", name)
            for size, count in COUNTS.items()
            if not options.size or size in options.size
            for name, peer in usable.items()
            if count in peer.counts
        ]
    for layer in layers:
        for size, levels, recipe in runs:
            yield Job(layer, size, levels, recipe)


def skipped(name: str) -> bool:
    """Say why a peer does not take part, and return whether that is so."""
    reason = PEERS[name].why_not()
    if reason:
        print(f"{name}: left out: {reason}", file=sys.stderr)
    return reason is not None


class File:
    """The rows so far, one line each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[str, Row] = json.loads(path.read_text()) if path.exists() else {}

    def add(self, key: str, row: Row) -> None:
        """Add a row, and write all of them."""
        self.rows[key] = row
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines = (f"{json.dumps(key)}: {json.dumps(row)}" for key, row in self.rows.items())
        write_atomically(self.path, "{\n" + ",\n".join(lines) + "\n}\n")

    def results(self, source: Source) -> Results:
        """Return the rows of a network and data."""
        return Results(row for row in self.rows.values() if row["source"] == asdict(source))

    def sources(self) -> list[Source]:
        """Return the networks and data that there are rows of."""
        return list(dict.fromkeys(Source(**row["source"]) for row in self.rows.values()))


def run(source: Source, file: File, options: argparse.Namespace) -> None:
    """Measure what is not in the file."""
    known = [levels for label_sets in LABEL_SETS.values() for levels in label_sets]
    if unknown := set(options.levels or []).difference(known):
        raise SystemExit(f"unknown label set {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    if source.model != "minilm" and options.data is None:
        raise SystemExit(f"{source.model} needs --data, the folder that holds cifar10 and pretrained")
    if source.model == "minilm" and (reason := minilm.why_not()):
        raise SystemExit(reason)
    layers = chosen(layers_of(source, options.data, options.cache), options.layers, options.limit)
    if not layers:
        raise SystemExit(f"no layer of {source.model} matches {options.layers!r}")
    jobs = [job for job in jobs_of(layers, options) if options.fresh or job.key(source) not in file.rows]
    if not jobs:
        return
    warm_up(jobs)
    for done, job in enumerate(jobs, 1):
        row = measured(job)
        file.add(job.key(source), {"source": asdict(source), **row, "machine": machine()})
        words = f"{row['error']:.4g} / {row['held_out']:.4g}, {row['seconds']:.2f} s"
        print(f"{done}/{len(jobs)} {job.layer.name} {job.levels} {job.recipe}: {words}", flush=True)


def machine() -> str:
    """Return what the figures depend on."""
    return f"{environment()['cpu']}, torch {torch.__version__}, numba {numba.__version__}"


def speed(options: argparse.Namespace) -> str:
    """Return the table of the large layer, each recipe in a process of its own."""
    levels = (options.levels or ["3bit-codebook"])[0]
    names = options.recipe or ["gptq", "fast", "balanced"]
    names = ["gptq", *(name for name in names if name != "gptq")]
    rows = [layers_speed.in_own_process(Path(__file__), options.speed, levels, name) for name in names]
    return layers_speed.table(rows)


def speed_of(recipe: str, size: int, levels: str) -> Row:
    """Return time and memory of a recipe on a large layer, in this process."""
    layer = layers_speed.synthetic_layer(size)
    job = Job(layer, "", levels, recipe)
    warm_up([job])
    (copy, _), seconds, megabytes = layers_speed.timed(lambda: by_recipe(job))
    error = relative_error(copy, layer.weight, layer.gram)
    return {
        "recipe": recipe, "size": size, "levels": levels, "seconds": seconds, "megabytes": megabytes, "error": error,
    }  # fmt: skip


def main() -> None:
    """Measure or tabulate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=NETWORKS, default="minilm")
    parser.add_argument("--data", type=Path, help="folder of the data sets; MiniLM needs none")
    parser.add_argument("--out", type=Path, default=Path("bench/layers.json"), help="file of the rows")
    parser.add_argument("--cache", type=Path, default=Path("bench/moments"), help="folder to keep Gram matrices in")
    parser.add_argument("--layers", metavar="PATTERN", help='names as the shell matches them: "*.output.dense"')
    parser.add_argument("--limit", type=int, help="at most so many layers, spread over the network")
    parser.add_argument("--size", action="append", choices=list(LABEL_SETS), help="only these; repeatable")
    parser.add_argument("--levels", action="append", help="only this label set; repeatable")
    parser.add_argument("--recipe", action="append", choices=RECIPES, help="only this one; repeatable")
    parser.add_argument("--peers", action="store_true", help="other packages instead of recipes")
    parser.add_argument("--calibration", type=int, help="texts or images to calibrate on")
    parser.add_argument("--held-out", type=int, help="texts or images to measure on")
    parser.add_argument("--seed", type=int, default=0, help="of the draw of the calibration data")
    parser.add_argument("--centred", action="store_true", help="covariances instead of second moments")
    parser.add_argument("--fresh", action="store_true", help="measure again what is in the file")
    parser.add_argument("--tables", action="store_true", help="measure nothing")
    parser.add_argument("--docs", type=Path, help="page with the markers for the tables")
    parser.add_argument("--speed", type=int, metavar="SIZE", help="only time and memory on a layer of SIZE x SIZE")
    parser.add_argument("--speed-of", choices=RECIPES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    numba.set_num_threads(1)
    if options.speed_of:
        print(json.dumps(speed_of(options.speed_of, options.speed, options.levels[0])))
    elif options.speed:
        _put(speed(options), options.docs, "layers-speed")
    else:
        usual = SIZES[options.model]
        source = Source(
            options.model, options.calibration or usual[0], options.held_out or usual[1], options.seed, options.centred
        )
        file = File(options.out)
        if not options.tables:
            run(source, file, options)
        sources = file.sources() if options.tables else [source]
        _put("\n\n".join(report(found.model, file.results(found)) for found in sources), options.docs, "layers")


def _put(text: str, page: Path | None, name: str) -> None:
    if page:
        insert_between(page, text, name)
    else:
        sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
