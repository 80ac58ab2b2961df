"""The tables of `layers.py`: errors relative to GPTQ's, their mean over the layers and the worst layer."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from typing import Any

from layers_measure import RECIPES

Row = dict[str, Any]
BASELINE = "gptq"
#: (recipe, label set, most that the mean of the ratios on held-out inputs may be)
TARGETS = (("mean-field", "same", 0.88), ("best", "codebook", 0.82))
#: recipes that must be no worse than GPTQ on any layer
NEVER_WORSE = ("balanced", "best")
#: CPU time of a recipe relative to GPTQ's, at most
TIMES = (("fast", 2.0), ("balanced", 6.0))
#: sizes that the targets are about
TARGET_SIZES = ("3 bit", "2 bit", "ternary", "binary")


class Results:
    """Rows of one network, by layer, size, label set and recipe."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self.rows = list(rows)
        self._at = {(row["layer"], row["levels"], row["recipe"]): row for row in self.rows}
        found = dict.fromkeys(row["recipe"] for row in self.rows)
        self.recipes = sorted(found, key=lambda name: RECIPES.index(name) if name in RECIPES else len(RECIPES))
        self.sizes = list(dict.fromkeys(row["size"] for row in self.rows))

    def layers(self, size: str) -> list[str]:
        """Return the layers for which GPTQ has been run at a size."""
        found = (row["layer"] for row in self.rows if row["size"] == size and row["recipe"] == BASELINE)
        return list(dict.fromkeys(found))

    def best(self, layer: str, size: str, recipe: str = BASELINE) -> Row | None:
        """Return the row of the label set, of those of a size, on which a recipe has the least calibration error."""
        found = [r for r in self.rows if (r["layer"], r["size"], r["recipe"]) == (layer, size, recipe)]
        return min(found, key=lambda row: float(row["error"]), default=None)

    def same(self, layer: str, size: str, recipe: str) -> tuple[Row | None, Row | None]:
        """Return the row on GPTQ's best label set, and GPTQ's."""
        baseline = self.best(layer, size)
        return self._at.get((layer, baseline["levels"], recipe)) if baseline else None, baseline

    def codebook(self, layer: str, size: str, recipe: str) -> tuple[Row | None, Row | None]:
        """Return the row that starts from the weighted k-means codebook of each row, and GPTQ's on that codebook."""
        levels = f"{size.replace(' ', '')}-codebook"
        return self._at.get((layer, levels, recipe)), self._at.get((layer, levels, BASELINE))

    def own(self, layer: str, size: str, recipe: str) -> tuple[Row | None, Row | None]:
        """Return the row on the recipe's own best label set, and GPTQ's on its own."""
        return self.best(layer, size, recipe), self.best(layer, size)

    def ratios(self, pairing: str, size: str, recipe: str, key: str) -> list[float]:
        """Return the ratio to GPTQ's number for every layer that has both."""
        pair_of: Callable[[str, str, str], tuple[Row | None, Row | None]] = getattr(self, pairing)
        pairs = (pair_of(layer, size, recipe) for layer in self.layers(size))
        return [own[key] / baseline[key] for own, baseline in pairs if own and baseline and baseline[key] > 0]

    def time(self, size: str, recipe: str) -> float | None:
        """Return CPU time relative to GPTQ's on the same machine, each a mean over label sets, over layers of both."""
        own, base = self._seconds(size, recipe), self._seconds(size, BASELINE)
        both = own.keys() & base.keys()
        return sum(own[where] for where in both) / sum(base[where] for where in both) if both else None

    def _seconds(self, size: str, recipe: str) -> dict[tuple[str, str], float]:
        found: dict[tuple[str, str], list[float]] = {}
        for row in self.rows:
            if (row["size"], row["recipe"]) == (size, recipe):
                found.setdefault((row["layer"], row.get("machine", "")), []).append(row["seconds"])
        return {where: statistics.mean(seconds) for where, seconds in found.items()}


def markdown(head: list[str], rows: Iterable[list[str]]) -> str:
    """Return a table."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))


def cell(calibration: list[float], held_out: list[float]) -> str:
    """Return mean ratios on both kinds of inputs, and the worst layer on held-out ones."""
    if not held_out:
        return ""
    return f"{statistics.mean(calibration):.3f} / {statistics.mean(held_out):.3f} (≤ {max(held_out):.2f})"


def recipe_table(results: Results) -> str:
    """Return the table of recipes, in blocks of one size."""
    rows = []
    for size in results.sizes:
        for recipe in results.recipes:
            pairs = [
                [results.ratios(pairing, size, recipe, key) for key in ("error", "held_out")]
                for pairing in ("same", "codebook", "own")
            ]
            if any(held_out for _, held_out in pairs):
                time = results.time(size, recipe)
                texts = [cell(*pair) for pair in pairs]
                measured, all_of = len(pairs[2][1]), len(results.layers(size))
                name = recipe if measured == all_of else f"{recipe} ({measured} layers)"
                rows.append([size, name, *texts, "" if time is None else f"{time:.1f}"])
    head = ["labels", "recipe", "GPTQ's best label set", "codebook", "each one's best label set", "CPU time"]
    return markdown(head, rows)


def label_set_table(results: Results) -> str:
    """Return the table of label sets: GPTQ's error on each relative to its best one, and how often it is the best."""
    rows = []
    for size in results.sizes:
        layers = results.layers(size)
        for levels in dict.fromkeys(row["levels"] for row in results.rows if row["size"] == size):
            found = {r["layer"]: r for r in results.rows if (r["levels"], r["recipe"]) == (levels, BASELINE)}
            pairs = [(found[layer], best) for layer in layers if layer in found and (best := results.best(layer, size))]
            if not pairs:
                continue
            ratios = [[own[key] / best[key] for own, best in pairs] for key in ("error", "held_out")]
            wins = sum(best["levels"] == levels for _, best in pairs)
            bits = statistics.mean(row["bits"] for row in found.values())
            rows.append([f"`{levels}`", f"{bits:.2f}", cell(*ratios), f"{wins} of {len(layers)}"])
    return markdown(["label set", "bits a weight", "GPTQ's error relative to its best", "is its best"], rows)


def verdicts(results: Results) -> str:
    """Return a list of the targets, met or missed, on held-out inputs."""
    lines = []
    sizes = [size for size in TARGET_SIZES if size in results.sizes]
    for recipe, pairing, most in TARGETS:
        found = {size: results.ratios(pairing, size, recipe, "held_out") for size in sizes}
        means = {size: statistics.mean(ratios) for size, ratios in found.items() if ratios}
        where = "GPTQ's best label set" if pairing == "same" else "the codebook that GPTQ is given"
        lines += [_verdict(f"{recipe} on {where}, {size}", value, most) for size, value in means.items()]
    for recipe in NEVER_WORSE:
        for key, words in (("error", "calibration"), ("held_out", "held-out")):
            worst = [max(r) for size in sizes if (r := results.ratios("same", size, recipe, key))]
            if worst:
                lines.append(_verdict(f"{recipe}, worst layer, {words} inputs", max(worst), 1.0))
    for recipe, most in TIMES:
        times = [time for size in sizes if (time := results.time(size, recipe)) is not None]
        if times:
            lines.append(_verdict(f"{recipe}, CPU time", max(times), most))
    return "\n".join(lines)


def _verdict(words: str, value: float, most: float) -> str:
    return f"- {words}: {value:.3f}, at most {most:g}: {'met' if value <= most else '**missed**'}"


def report(model: str, results: Results) -> str:
    """Return all tables of a network."""
    count = len({row["layer"] for row in results.rows})
    words = (
        "Output error relative to GPTQ's, calibration / held-out inputs, mean over the layers (worst layer, held out). "
        "GPTQ's best label set is the one on which GPTQ has the least calibration error, chosen layer by layer."
    )
    tables = "\n\n".join((recipe_table(results), label_set_table(results), verdicts(results)))
    return f"**{model}**, {count} layers. {words}\n\n{tables}"
