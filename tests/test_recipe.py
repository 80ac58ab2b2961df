"""Recipes for layers: each is at least as good as what it begins with, row by row; errors; seeds."""

import itertools

import pytest
import torch

from mrfq.errors import InvalidParameterError, InvalidProblemError, UnknownNameError
from mrfq.layerwise.bound import layer_bound
from mrfq.layerwise.recipe import QUALITIES, RECIPES, Quantized, Recipe, named_recipe, quantize_layer
from mrfq.layerwise.refit import row_energies
from mrfq.layerwise.spec import LevelSpec, parse_levels
from mrfq.layerwise.tables import start_table
from mrfq.problems.layer_solve import gptq, nearest


def layer(rows=10, columns=72, *, rank=None, outlier=1.0, seed=0):
    """Return a target and a Gram matrix, float32; one input may be larger than the others by a factor."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(rank or 4 * columns, columns, generator=generator)
    inputs = inputs @ torch.randn(columns, columns, generator=generator) / columns**0.5
    inputs[:, 3] *= outlier
    return torch.randn(rows, columns, generator=generator), inputs.T @ inputs / len(inputs)


LEVELS = ["3bit", "2bit-uniform", "ternary-symmetric-g24", "binary", "4bit-pow2"]
LAYERS = {"plain": {}, "singular": {"rank": 20}, "outlier": {"outlier": 300.0}, "one-row": {"rows": 1}}


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("kind", LAYERS)
def test_no_row_is_worse_than_with_gptq(levels, kind):
    target, gram = layer(**LAYERS[kind])
    made = {name: quantize_layer(target, gram, parse_levels(levels), name) for name in RECIPES}
    start = made["gptq"].energies
    slack = 1e-6 * start + 1e-9 * start.sum()
    for name in ("fast", "balanced", "best", "icm", "mean-field", "annealing"):
        assert bool((made[name].energies <= start + slack).all()), name
    # its first descent is shorter than that of ICM alone, which shows where annealing finds nothing better
    assert made["mean-field"].energies.sum() <= made["icm"].energies.sum() * 1.01
    assert torch.equal(made["fast"].labels, made["gptq"].labels)


def test_better_qualities_are_better():
    totals = dict.fromkeys(("nearest", *QUALITIES), 0.0)
    for seed, levels in itertools.product(range(3), LEVELS):
        target, gram = layer(seed=seed)
        for name in totals:
            totals[name] += float(quantize_layer(target, gram, parse_levels(levels), name).energies.sum())
    assert totals["nearest"] > totals["fast"] > totals["balanced"] > totals["best"]


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("levels", LEVELS)
def test_energies_are_those_of_the_weights(name, levels):
    target, gram = layer()
    made = quantize_layer(target, gram, parse_levels(levels), name)
    error = made.weight.double() - target.double()
    torch.testing.assert_close(made.energies, ((error @ gram.double()) * error).sum(1), rtol=1e-9, atol=0)
    assert made.labels.dtype == torch.uint8
    assert made.labels.shape == target.shape
    assert int(made.labels.max()) < parse_levels(levels).count
    assert torch.equal(made.weight, made.table.decode(made.labels))
    assert str(made.table.spec) == str(parse_levels(levels))
    torch.testing.assert_close(made.energies, row_energies(made.table.values, made.labels, target, gram))


def test_solvers_alone_keep_the_label_sets_they_start_with():
    target, gram = layer()
    spec = parse_levels("2bit")
    table = start_table(spec, target, gram.diagonal())
    for name in ("nearest", "gptq", "icm", "mean-field", "annealing"):
        assert torch.equal(quantize_layer(target, gram, spec, name).table.values, table.values), name
    assert torch.equal(quantize_layer(target, gram, spec, "nearest").labels, nearest(target, table.values))
    assert torch.equal(quantize_layer(target, gram, spec, "gptq").labels, gptq(target, gram, table.values))
    natural = quantize_layer(target, gram, spec, named_recipe("gptq", order="natural", damping=0.1))
    assert torch.equal(natural.labels, gptq(target, gram, table.values, damping=0.1, order="natural"))
    assert not torch.equal(quantize_layer(target, gram, spec, "balanced").table.values, table.values)


@pytest.mark.parametrize("levels", ["binary", "ternary"])
def test_the_best_is_above_the_bound_on_its_own_label_sets(levels):
    target, gram = layer(rows=4, columns=40)
    made = quantize_layer(target, gram, parse_levels(levels), "best")
    bound = layer_bound(target, gram, made.table.values)
    assert bool((bound <= made.energies).all())
    assert float(bound.sum()) > 0.2 * float(made.energies.sum())


def test_a_seed_is_a_run():
    target, gram = layer()
    spec = parse_levels("2bit")
    first, again, other = (quantize_layer(target, gram, spec, "annealing", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.labels, again.labels)
    assert not torch.equal(first.labels, other.labels)
    one, two = (quantize_layer(target, gram, spec, "best", seed=seed) for seed in (1, 2))
    assert torch.equal(one.labels, two.labels)
    assert torch.equal(one.table.values, two.table.values)


def test_inputs_are_not_changed():
    target, gram = layer()
    copies = target.clone(), gram.clone()
    quantize_layer(target, gram, parse_levels("2bit"), "best")
    assert torch.equal(target, copies[0])
    assert torch.equal(gram, copies[1])


@pytest.mark.parametrize("quality", QUALITIES)
def test_degenerate_layers(quality):
    spec = parse_levels("ternary")
    for target, gram in (
        (torch.zeros(2, 4), torch.eye(4)),
        (torch.ones(2, 4), torch.zeros(4, 4)),
        (torch.randn(1, 1, generator=torch.Generator().manual_seed(0)), torch.ones(1, 1)),
        (torch.tensor([[0.5, -0.5, 0.5, 1.0]]), torch.ones(4, 4)),
    ):
        made = quantize_layer(target, gram, spec, quality)
        assert isinstance(made, Quantized)
        assert bool(made.weight.isfinite().all())
        assert float(made.energies.abs().max()) < 1e-5
    dead_target, dead_gram = layer(columns=24)
    dead_gram[5], dead_gram[:, 5] = 0.0, 0.0
    made = quantize_layer(dead_target, dead_gram, spec, quality)
    assert bool((made.energies <= quantize_layer(dead_target, dead_gram, spec, "gptq").energies * (1 + 1e-6)).all())


def test_double_precision_layers_are_taken():
    target, gram = layer()
    single = quantize_layer(target, gram, parse_levels("2bit"), "balanced")
    double = quantize_layer(target.double(), gram.double(), parse_levels("2bit"), "balanced")
    assert float(double.energies.sum()) == pytest.approx(float(single.energies.sum()), rel=1e-3)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"target": torch.zeros(4)}, InvalidProblemError, "a layer needs a target"),
        ({"gram": torch.eye(3)}, InvalidProblemError, "a layer needs a target"),
        (
            {"gram": torch.full((4, 4), float("nan"))},
            InvalidProblemError,
            "Gram matrix has an entry that is not finite",
        ),
        ({"target": torch.full((2, 4), float("inf"))}, InvalidProblemError, "target has an entry that is not finite"),
        ({"spec": LevelSpec(2, group=3)}, InvalidParameterError, "3"),
        ({"recipe": "bestt"}, UnknownNameError, "did you mean 'best'"),
        ({"gram": -torch.eye(4)}, InvalidProblemError, "not positive semi-definite"),
    ],
)
def test_what_cannot_be_quantized_is_refused(change, error, message):
    parts = {"target": torch.randn(2, 4), "gram": torch.eye(4), "spec": LevelSpec(2), "recipe": "fast", **change}
    with pytest.raises(error, match=message):
        quantize_layer(**parts)


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"solver": "gtpq"}, UnknownNameError),
        ({"sweeps": 0}, InvalidParameterError),
        ({"descent": 1.5}, InvalidParameterError),
        ({"refits": -1}, InvalidParameterError),
        ({"beta": (3.0, 1.0)}, InvalidParameterError),
        ({"beta": (0.0, 1.0)}, InvalidParameterError),
        ({"damping": -0.1}, InvalidParameterError),
        ({"order": "sideways"}, InvalidParameterError),
    ],
)
def test_impossible_recipes_are_refused(wrong, error):
    with pytest.raises(error):
        Recipe(**wrong)
    with pytest.raises(error):
        named_recipe("best", **wrong)
