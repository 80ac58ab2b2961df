"""Label sets of layers: their texts and bits, fits that are as good as the exact ones, and re-fits that never harm."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mrfq.errors import InvalidParameterError, InvalidProblemError
from mrfq.layerwise import level_kernels, refit_equations
from mrfq.layerwise import refit as refit_module
from mrfq.layerwise.refit import LayerFit, refit, row_energies
from mrfq.layerwise.refit_kernels import cell_sums
from mrfq.layerwise.spec import LevelSpec, VectorSpec, parse_levels
from mrfq.layerwise.tables import Table, decode, start_table

KINDS = ("codebook", "uniform", "symmetric", "power-of-two")
TEXTS = ("binary", "ternary", "3bit", "2bit-uniform", "3bit-uniform", "binary-symmetric", "2bit-symmetric", "3bit-pow2")


def randn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def some_gram(columns, rank=None, seed=1, centre=1.0):
    """Return an ill-conditioned Gram matrix with a common direction, as activations have it."""
    inputs = randn(rank or 3 * columns, columns, seed=seed) * torch.logspace(0, -1.5, columns) + centre
    return inputs.T @ inputs / len(inputs)


def squared_error(table, weights, importance):
    return ((table.decode(table.nearest(weights)) - weights).double() ** 2 * importance.double()).sum(1)


def exact_divisions(weights, importance, count):
    """Return the least weighted squared error of `count` runs of sorted numbers, all divisions tried."""
    order = np.argsort(weights)
    w, h = np.asarray(weights, float)[order], np.asarray(importance, float)[order]

    def error(start, stop):
        mass = h[start:stop].sum()
        return 0.0 if mass == 0 else (h[start:stop] * (w[start:stop] - (h * w)[start:stop].sum() / mass) ** 2).sum()

    cuts = itertools.combinations_with_replacement(range(len(w) + 1), count - 1)
    return min(sum(error(a, b) for a, b in itertools.pairwise((0, *cut, len(w)))) for cut in cuts)


# ---- specifications -------------------------------------------------------------------------------------


@st.composite
def specs(draw):
    kind = draw(st.sampled_from(KINDS))
    most = 128 if kind == "power-of-two" else 256
    fits = ["error", "weighted"] if kind == "codebook" else ["min-max", "error", "weighted"]
    group = draw(st.none() | st.integers(1, 10**6))
    return LevelSpec(
        draw(st.integers(2, most)), kind, group, draw(st.sampled_from(fits)), draw(st.sampled_from(["F16", "F32"]))
    )


@given(specs())
def test_texts_of_label_sets_read_as_the_same(spec):
    assert parse_levels(str(spec)) == spec
    assert parse_levels(f"  {str(spec).upper()} ") == spec


@given(st.integers(1, 99), st.integers(1, 65536), st.sampled_from(["F16", "F32"]))
def test_texts_of_vectors_read_as_the_same(dim, count, precision):
    spec = VectorSpec(dim, count, precision)
    assert parse_levels(str(spec)) == spec


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("3bit-codebook", LevelSpec(8)),
        ("binary", LevelSpec(2)),
        ("1bit-symmetric", LevelSpec(2, "symmetric")),
        ("ternary-symmetric", LevelSpec(3, "symmetric")),
        ("4bit-power-of-two", LevelSpec(16, "power-of-two")),
        ("2bit-uniform-minmax-g64", LevelSpec(4, "uniform", 64, "min-max")),
        ("5levels-uniform-error-f32", LevelSpec(5, "uniform", None, "error", "F32")),
        ("2bit-f16-g8-pow2-min-max", LevelSpec(4, "power-of-two", 8, "min-max")),
        ("vector-9x256", VectorSpec(9, 256)),
        ("vector-4x2048-f32", VectorSpec(4, 2048, "F32")),
    ],
)
def test_parse_levels(text, spec):
    assert parse_levels(text) == spec


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("3bits", "did you mean '3bit'"),
        ("9bit", "'9bit' is not understood"),
        ("", "SIZE"),
        ("3bit-codebok", "did you mean 'codebook'"),
        ("3bit-uniform-symmetric", "gives the kind a second time"),
        ("3bit-g5-g6", "gives the group a second time"),
        ("3bit-g0", "columns of a group is 1 or more"),
        ("3bit-g-5", "'g' is not understood"),
        ("300levels", "2 to 256"),
        ("1levels", "2 to 256"),
        ("999999999levels", "not understood"),
        ("٣bit", "not understood"),
        ("3bit-minmax", "codebook"),
        ("8bit-pow2", "at most 128"),
        ("vector", "vector-9x256"),
        ("vector-9", "vector-9x256"),
        ("vector-0x3", "1 or more"),
        ("vector-2x70000", "1 to 65536"),
        ("vector-2x7-g4", "only '-f32'"),
        ("3bit-vector-2x7", "'vector' is not understood"),
        (3, "not a text"),
    ],
)
def test_bad_texts_are_named(text, message):
    with pytest.raises(InvalidParameterError, match=message):
        parse_levels(text)


@pytest.mark.parametrize(
    "fields",
    [{"kind": "free"}, {"fit": "best"}, {"precision": "F64"}, {"group": 0}, {"group": True}, {"group": 2.0}],
)
def test_bad_fields_are_named(fields):
    with pytest.raises(InvalidParameterError, match=f"{next(iter(fields.values()))}|{next(iter(fields))}"):
        LevelSpec(4, **fields)
    for count in (1, 257, True, 2.0):
        with pytest.raises(InvalidParameterError, match="2 to 256"):
            LevelSpec(count)


def test_bases():
    assert LevelSpec(4).base is None
    assert LevelSpec(3, "uniform").base == (0, 1, 2)
    assert LevelSpec(2, "symmetric").base == (-1, 1)
    assert LevelSpec(3, "symmetric").base == (-1, 0, 1)
    assert LevelSpec(4, "symmetric").base == (-1.5, -0.5, 0.5, 1.5)
    assert LevelSpec(5, "symmetric").base == (-2, -1, 0, 1, 2)
    assert LevelSpec(2, "power-of-two").base == (-1, 1)
    assert LevelSpec(7, "power-of-two").base == (-1, -0.5, -0.25, 0, 0.25, 0.5, 1)
    assert LevelSpec(128, "power-of-two").base[64] == 2.0**-63


@given(specs())
def test_bases_ascend_and_have_the_right_length(spec):
    if spec.base is not None:
        assert len(spec.base) == spec.count
        assert all(a < b for a, b in itertools.pairwise(spec.base))
        if spec.kind != "uniform":
            assert [-q for q in reversed(spec.base)] == list(spec.base)


def test_bits_count_labels_and_label_sets():
    assert parse_levels("3bit").bits(10, 100) == 3000 + 10 * 8 * 16
    assert parse_levels("2bit-uniform-g25").bits(10, 100) == 2000 + 10 * 4 * 2 * 16
    assert parse_levels("ternary-symmetric-f32").bits(10, 100) == pytest.approx(1000 * math.log2(3) + 10 * 32)
    assert parse_levels("vector-4x256").bits(10, 100) == 250 * 8 + 256 * 4 * 16
    assert parse_levels("vector-4x1").bits(10, 100) == 4 * 16


def test_groups_that_do_not_divide_are_refused():
    with pytest.raises(InvalidParameterError, match=r"^fc: groups of 50 columns do not divide 384 columns; 48 and 64"):
        LevelSpec(4, group=50).groups(384, "fc")
    with pytest.raises(InvalidParameterError, match=r"^conv: blocks of 4 weights do not divide 27 columns; 3 and 9"):
        VectorSpec(4, 256).blocks(8, 27, "conv")
    assert LevelSpec(4, group=48).groups(384) == 8


def test_codewords_are_clamped_to_a_quarter_of_the_blocks():
    counts = [VectorSpec(9, 256).clamped(blocks).count for blocks in (1, 4, 8, 100, 1023, 1024, 10**6)]
    assert counts == [1, 1, 2, 16, 128, 256, 256]
    assert VectorSpec(9, 100, "F32").clamped(10**6) == VectorSpec(9, 100, "F32")


# ---- tables ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [*TEXTS, "3bit-g8", "2bit-uniform-g8-f32", "5levels-symmetric-minmax-g4"])
def test_decode_is_the_formula_and_nearest_is_nearest(text):
    weights = randn(5, 16)
    table = start_table(parse_levels(text), weights)
    labels, values = table.nearest(weights), table.values
    assert (labels.dtype, values.dtype) == (torch.uint8, torch.float32)
    width = 16 // values.shape[1]
    for r, j in itertools.product(range(5), range(16)):
        levels = values[r, j // width]
        assert table.decode(labels)[r, j] == levels[int(labels[r, j])]
        assert (levels - weights[r, j]).abs().min() == (levels[int(labels[r, j])] - weights[r, j]).abs()


def test_values_are_rounded_the_same_everywhere():
    parameters = randn(7, 3, 2).abs()
    table = Table(LevelSpec(11, "uniform", precision="F32"), parameters)
    scale, offset = parameters.numpy()[..., :1], parameters.numpy()[..., 1:]
    product = scale * np.arange(11, dtype=np.float32)
    assert np.array_equal(table.values.numpy(), product + offset)


def test_nearest_in_parts_is_nearest(monkeypatch):
    weights = randn(7, 12)
    table = start_table(parse_levels("3bit-g6"), weights)
    whole = table.nearest(weights)
    monkeypatch.setattr("mrfq.layerwise.tables.PART", 24)
    assert torch.equal(table.nearest(weights), whole)


def test_ties_go_to_the_lower_level():
    table = Table(LevelSpec(4, precision="F32"), torch.tensor([[[-1.0, 1.0, 1.0, 3.0]]]))
    assert table.nearest(torch.tensor([[0.0, 1.0, 2.0, 2.1, -9.0]])).tolist() == [[0, 1, 2, 3, 0]]


@pytest.mark.parametrize(
    ("spec", "parameters", "message"),
    [
        (LevelSpec(2), torch.zeros(1, 1, 2), "float16"),
        (LevelSpec(2), torch.zeros(1, 1, 3).half(), r"\(R, G, 2\)"),
        (LevelSpec(2), torch.zeros(2, 2).half(), r"\(R, G, 2\)"),
        (LevelSpec(2), torch.zeros(0, 1, 2).half(), r"\(R, G, 2\)"),
        (LevelSpec(2), torch.tensor([[[0.0, 1.0], [1.0, 0.0]]]).half(), "row 0, group 1 .* descend"),
        (LevelSpec(2), torch.tensor([[[0.0, math.nan]]]).half(), "finite"),
        (LevelSpec(2, "uniform"), torch.tensor([[[1.0, 0.0]], [[-1.0, 0.0]]]).half(), "row 1"),
        (LevelSpec(2, "symmetric"), torch.tensor([[[-1.0]]]).half(), "descend"),
        (LevelSpec(9, "uniform", precision="F32"), torch.tensor([[[1e38, 0.0]]]), "finite"),
    ],
)
def test_bad_tables_are_refused(spec, parameters, message):
    with pytest.raises(InvalidProblemError, match=message):
        Table(spec, parameters)


def test_shapes_that_do_not_fit_are_refused():
    table = start_table(parse_levels("binary-g2"), randn(3, 8))
    for bad in (torch.zeros(2, 8), torch.zeros(3, 6), torch.zeros(24)):
        with pytest.raises(InvalidProblemError, match="do not fit"):
            table.nearest(bad)
        with pytest.raises(InvalidProblemError, match="do not fit"):
            table.decode(bad.byte())
    assert decode(table.values[:1], torch.ones(5, 8).byte()).shape == (5, 8)


# ---- starts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("seed", range(4))
def test_codebooks_of_small_sets_are_exact(count, seed):
    weights, importance = randn(3, 9, seed=seed), randn(3, 9, seed=seed + 50).exp()
    if seed == 3:
        importance[:, ::2] = 0
    table = start_table(LevelSpec(count, precision="F32"), weights, importance)
    best = [exact_divisions(w, h, count) for w, h in zip(weights.numpy(), importance.numpy(), strict=True)]
    assert squared_error(table, weights, importance).numpy() == pytest.approx(best, rel=1e-5, abs=1e-10)


@pytest.mark.parametrize(("count", "limit"), [(2, 1.0005), (8, 1.0005), (16, 1.001), (64, 1.003)])
@pytest.mark.parametrize("heavy", [False, True])
def test_codebooks_of_large_sets_are_as_good_as_exact(count, limit, heavy, monkeypatch):
    torch.manual_seed(0)
    weights = torch.distributions.StudentT(2.5 if heavy else 50.0).sample((6, 1500))
    importance = torch.rand(1500)
    if heavy:
        importance[torch.randperm(1500)[:6]] = 1000
    fast = start_table(LevelSpec(count, precision="F32"), weights, importance)
    rows, exact = weights.double().numpy(), np.empty((6, count))
    for r in range(6):
        w, sums, mean = level_kernels.sort_set(rows[r], importance.double().numpy(), True)
        first = level_kernels.divide(sums, np.arange(1501), count)
        level_kernels.settle(w, sums, first, exact[r])
        exact[r] += mean
    best = Table(fast.spec, torch.from_numpy(exact).float()[:, None])
    ratio = squared_error(fast, weights, importance) / squared_error(best, weights, importance)
    assert ratio.mean() < limit
    assert ratio.max() < 1.01


def brute_force(weights, importance, base, free):
    """Return the least weighted squared error of rounding to a grid, over many ranges, each polished."""
    steps = torch.linspace(0.05, 1, 16, dtype=torch.float64)
    low, high = weights.min(), weights.max()
    if free:
        bottom, top = (low * steps).repeat_interleave(16), (high * steps).repeat(16)
        scale, offset = (top - bottom) / base[-1], bottom
    else:
        scale = max(-low, high) / base[-1] * torch.linspace(0.01, 1.1, 300, dtype=torch.float64)
        offset = torch.zeros_like(scale)
    for _ in range(8):
        levels = scale[:, None] * base + offset[:, None]
        b = base[(weights[None, :, None] - levels[:, None]).abs().argmin(2)]
        mass = importance.sum()
        mean_b, mean_w = (importance * b).sum(1) / mass * free, (importance * weights).sum() / mass * free
        centred = b - mean_b[:, None]
        spread = (importance * centred**2).sum(1)
        scale = torch.where(spread > 1e-12, (importance * centred * weights).sum(1) / spread, scale)
        offset = mean_w - scale * mean_b
        errors = (importance * (scale[:, None] * b + offset[:, None] - weights) ** 2).sum(1)
    return float(errors.min())


@pytest.mark.parametrize("text", ["binary-uniform", "2bit-uniform", "4bit-uniform", "2bit-symmetric", "3bit-pow2"])
def test_grids_are_as_good_as_a_wide_search(text):
    weights, importance = randn(4, 48, seed=3), randn(4, 48, seed=4).mul(2).exp()
    spec = parse_levels(text + "-f32")
    table = start_table(spec, weights, importance)
    base = torch.tensor(spec.base, dtype=torch.float64)
    best = [
        brute_force(w.double(), h.double(), base, spec.kind == "uniform")
        for w, h in zip(weights, importance, strict=True)
    ]
    ratio = squared_error(table, weights, importance) / torch.tensor(best)
    assert ratio.mean() < 1.01
    assert ratio.max() < 1.05


@pytest.mark.parametrize("text", ["2bit-uniform", "3bit-uniform", "2bit-symmetric", "ternary-symmetric", "3bit-pow2"])
def test_better_fits_are_better(text):
    weights = torch.distributions.StudentT(3.0).sample((8, 64))
    importance = torch.rand(64) + 0.01
    tables = {
        fit: start_table(parse_levels(f"{text}-{fit}"), weights, importance) for fit in ("minmax", "error", "weighted")
    }
    plain = {fit: squared_error(table, weights, torch.ones(64)) for fit, table in tables.items()}
    weighted = {fit: squared_error(table, weights, importance) for fit, table in tables.items()}
    slack = 1 + 2e-3  # of float16
    assert bool((plain["error"] <= slack * plain["minmax"]).all())
    assert bool((weighted["weighted"] <= slack * weighted["minmax"]).all())
    assert plain["error"].sum() < plain["weighted"].sum()
    assert weighted["weighted"].sum() < weighted["error"].sum()


def test_unweighted_codebooks_ignore_importance():
    weights, importance = randn(3, 40), torch.rand(40)
    plain = start_table(parse_levels("2bit-error"), weights, importance)
    assert torch.equal(plain.parameters, start_table(parse_levels("2bit"), weights).parameters)
    assert not torch.equal(plain.parameters, start_table(parse_levels("2bit"), weights, importance).parameters)


def test_min_max_reaches_the_ends():
    weights = torch.tensor([[-3.0, 0.5, 5.0, 1.0], [0.25, 0.5, 0.0, 2.0]])
    uniform, binary = (
        start_table(parse_levels(t), weights) for t in ("2bit-uniform-minmax", "binary-symmetric-minmax-g2")
    )
    assert torch.allclose(uniform.values[:, 0, [0, -1]], torch.tensor([[-3.0, 5.0], [0.0, 2.0]]), atol=2e-3)
    assert binary.values[..., -1].tolist() == [[3, 5], [0.5, 2]]


@pytest.mark.parametrize(
    "text", [*TEXTS, "3bit-g1", "2bit-uniform-minmax", "ternary-symmetric-minmax", "8bit", "8bit-uniform"]
)
@pytest.mark.parametrize("value", [0.0, 0.75, -2.0])
def test_constant_rows(text, value):
    weights = torch.full((2, 5), value)
    table = start_table(parse_levels(text), weights, torch.tensor([1.0, 0.0, 2.0, 0.0, 3.0]))
    assert bool((table.values.diff(dim=-1) >= 0).all())
    assert torch.allclose(table.decode(table.nearest(weights)), weights, rtol=2e-3)


@pytest.mark.parametrize("text", TEXTS)
def test_one_column_and_one_row(text):
    for weights in (randn(1, 1), randn(4, 1), randn(1, 7)):
        table = start_table(parse_levels(text), weights, torch.ones(weights.shape[1]))
        assert table.values.shape == (len(weights), 1, parse_levels(text).count)
        if weights.shape[1] == 1:
            assert torch.allclose(table.decode(table.nearest(weights)), weights, rtol=2e-3)


def test_more_levels_than_weights():
    weights = torch.tensor([[3.0, -1.0, 3.0, 2.0]])
    for text in ("4bit", "8bit-f32", "3bit-g2"):
        table = start_table(parse_levels(text), weights, torch.tensor([1.0, 0.0, 1.0, 5.0]))
        assert torch.equal(table.decode(table.nearest(weights))[0, [0, 2, 3]], weights[0, [0, 2, 3]])


def test_columns_without_importance_do_not_count():
    weights = randn(3, 30)
    importance = torch.rand(30)
    importance[::3] = 0
    changed = weights.clone()
    changed[:, ::3] = 100 * randn(3, 10, seed=9)
    for text in TEXTS:
        old, new = (start_table(parse_levels(text), w, importance).parameters for w in (weights, changed))
        assert torch.equal(old, new)


def test_nothing_important_counts_alike():
    weights = randn(3, 30)
    for text in TEXTS:
        plain = start_table(parse_levels(text), weights)
        assert torch.equal(start_table(parse_levels(text), weights, torch.zeros(30)).parameters, plain.parameters)
        assert torch.equal(
            start_table(parse_levels(text), weights, torch.full((3, 30), 7.0)).parameters, plain.parameters
        )


@given(st.sampled_from(TEXTS), st.integers(1, 40), st.integers(0, 99), st.floats(-4, 3))
def test_starts_scale_with_the_weights(text, columns, seed, power):
    weights, importance = randn(2, columns, seed=seed), randn(columns, seed=seed + 1).exp()
    factor = 2.0 ** int(power)
    spec = parse_levels(text + "-f32")
    table, scaled = start_table(spec, weights, importance), start_table(spec, weights * factor, importance / 64)
    assert torch.equal(scaled.parameters, table.parameters * factor)
    assert bool(table.values.isfinite().all())


def test_groups_are_fitted_on_their_own():
    weights, importance = randn(4, 24), torch.rand(4, 24)
    for text in TEXTS:
        grouped = start_table(parse_levels(text + "-g8"), weights, importance)
        for g in range(3):
            part = slice(8 * g, 8 * g + 8)
            alone = start_table(parse_levels(text), weights[:, part], importance[:, part])
            assert torch.equal(grouped.parameters[:, g], alone.parameters[:, 0])


def test_levels_are_rounded_to_float16():
    weights = randn(4, 50)
    half, single = (start_table(parse_levels(text), weights) for text in ("2bit", "2bit-f32"))
    assert half.parameters.dtype == torch.float16
    assert torch.equal(half.parameters, single.parameters.half())
    assert torch.equal(half.values, half.parameters.float())


def test_the_middle_of_a_uniform_set_survives_rounding():
    weights = randn(50, 400) + 3
    half, single = (start_table(parse_levels(text), weights) for text in ("8bit-uniform", "8bit-uniform-f32"))
    middles = (table.values[..., [127, 128]].mean(-1) for table in (half, single))
    assert float((next(middles) - next(middles)).abs().max()) < 2**-11 * 1.01  # half a unit of the offset, below 2


@pytest.mark.parametrize("text", ["2bit", "2bit-uniform", "2bit-symmetric", "2bit-uniform-minmax-g2"])
def test_overflow_of_float16_is_an_error(text):
    weights = randn(3, 4)
    weights[1, 2:] = torch.tensor([3e5, -3e5])
    with pytest.raises(InvalidParameterError, match=r"row 1, .*-f32"):
        start_table(parse_levels(text), weights)
    assert bool(start_table(parse_levels(text + "-f32"), weights).values.isfinite().all())


@pytest.mark.parametrize(
    ("weights", "importance", "message"),
    [
        (torch.zeros(3), None, "weights"),
        (torch.zeros(0, 3), None, "weights"),
        (torch.zeros(2, 3).long(), None, "weights"),
        (torch.tensor([[1.0, math.nan]]), None, r"weights\[0, 1\] is nan"),
        (torch.zeros(2, 3), torch.ones(2), "importance"),
        (torch.zeros(2, 3), torch.tensor([1.0, -1.0, 0.0]), "at least 0"),
        (torch.zeros(2, 3), torch.tensor([1.0, math.inf, 0.0]), "finite"),
    ],
)
def test_bad_weights_are_refused(weights, importance, message):
    with pytest.raises(InvalidProblemError, match=message):
        start_table(LevelSpec(2), weights, importance)


def test_inputs_stay_as_they_are():
    weights, importance = randn(3, 20), torch.rand(20)
    kept = weights.clone(), importance.clone()
    for text in TEXTS:
        start_table(parse_levels(text), weights, importance)
    assert torch.equal(weights, kept[0])
    assert torch.equal(importance, kept[1])


# ---- re-fits --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "columns", "cells"), [(3, 7, 2), (4, 128, 5), (2, 300, 9), (1, 1, 1)])
def test_cell_sums(rows, columns, cells):
    gram = some_gram(columns)
    where = torch.randint(cells, (rows, columns), dtype=torch.int32)
    factors = randn(rows, columns, dtype=torch.float64)
    sums = torch.zeros(rows, cells, cells, dtype=torch.float64)
    cell_sums(gram.numpy(), where.numpy(), factors.numpy(), sums.numpy(), 2)
    design = torch.nn.functional.one_hot(where.long(), cells).double() * factors[:, :, None]
    expected = design.mT @ ((gram + gram.T) / 2).double() @ design
    assert torch.allclose(sums, expected, rtol=1e-6, atol=1e-6 * float(expected.abs().max()))


def layer(text, rows=6, columns=24, seed=0, rank=None):
    target, gram = randn(rows, columns, seed=seed), some_gram(columns, rank, seed + 1)
    gram = (gram + gram.T) / 2
    table = start_table(parse_levels(text), target, gram.diagonal())
    labels = table.nearest(target + 0.5 * randn(rows, columns, seed=seed + 2))
    return table, labels, target, gram


REFITS = [*TEXTS, "2bit-g8", "2bit-uniform-g6", "ternary-symmetric-g4", "3bit-pow2-g12"]


@pytest.mark.parametrize("text", REFITS)
def test_gradient_is_zero_after_a_refit(text):
    table, labels, target, gram = layer(text + "-f32")
    spec, groups = table.spec, table.parameters.shape[1]
    pull = target.double() @ gram.double()
    matrix, right = refit_equations.normal_equations(spec, labels, groups, gram, pull)
    found = refit_equations.least_squares(matrix, right)
    gradient = right - refit_equations.times(matrix, found)
    assert float(gradient.abs().max()) < 1e-5 * float(right.abs().max())


@pytest.mark.parametrize("text", REFITS)
def test_normal_equations_are_the_energy(text):
    table, labels, target, gram = layer(text + "-f32")
    pull = target.double() @ gram.double()
    matrix, right = refit_equations.normal_equations(table.spec, labels, table.parameters.shape[1], gram, pull)
    p = refit_equations.as_vector(table.spec, table.parameters.double())
    energy = (p * (refit_equations.times(matrix, p) - 2 * right)).sum(1) + (pull * target).sum(1)
    assert torch.allclose(energy, row_energies(table.values, labels, target, gram), rtol=1e-5)
    assert torch.equal(refit_equations.as_sets(table.spec, p, table.parameters), table.parameters.double())


@pytest.mark.parametrize("text", REFITS)
def test_both_forms_of_the_normal_equations_agree(text, monkeypatch):
    table, labels, target, gram = layer(text + "-f32")
    given = table.spec, labels, table.parameters.shape[1], gram, target.double() @ gram.double()
    compiled = refit_equations.normal_equations(*given)
    monkeypatch.setattr(refit_equations, "_compiled_sums", refit_equations._composed_sums)
    for one, other in zip(compiled, refit_equations.normal_equations(*given), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("text", REFITS)
def test_a_refit_is_the_minimum(text):
    table, labels, target, gram = layer(text + "-f32")
    fitted, renamed = refit(table, labels, target, gram)
    before, after = (row_energies(t.values, q, target, gram) for t, q in ((table, labels), (fitted, renamed)))
    assert bool((after <= before).all())
    assert after.sum() < 0.99 * before.sum()
    for seed in range(5):  # no way down from there
        noise = 1e-2 * randn(*fitted.parameters.shape, seed=seed)
        worse = fitted.parameters + noise
        if table.spec.base is None:
            worse = worse.sort(-1).values if bool((worse.diff(dim=-1) < 0).any()) else worse
        energies = row_energies(Table(table.spec, worse).values, renamed, target, gram)
        assert bool((energies >= after * (1 - 1e-5)).all())


@given(
    st.sampled_from([*REFITS, "3bit-uniform-f32", "2bit-symmetric-f32", "3bit-f32", "8bit-uniform"]),
    st.integers(0, 10**6),
    st.sampled_from([None, 1, 5]),
    st.floats(0, 2),
)
def test_energy_never_rises(text, seed, rank, noise):
    target, gram = randn(4, 24, seed=seed), some_gram(24, rank, seed + 1)
    table = start_table(parse_levels(text), target, gram.diagonal())
    labels = table.nearest(target + noise * randn(4, 24, seed=seed + 2))
    if seed % 5 == 0:
        target = table.decode(labels)  # nothing to gain
    fitted, renamed = refit(table, labels, target, gram)
    gram = (gram + gram.T) / 2
    before, after = (row_energies(t.values, q, target, gram) for t, q in ((table, labels), (fitted, renamed)))
    scale = row_energies(torch.zeros(1, 1, 1), torch.zeros(4, 24).byte(), target, gram)
    assert bool((after <= before + 1e-12 * scale).all())
    assert bool((fitted.values.diff(dim=-1) >= 0).all())
    assert renamed.dtype == torch.uint8
    again, renamed = refit(fitted, renamed, target, gram)
    assert bool((row_energies(again.values, renamed, target, gram) <= after + 1e-12 * scale).all())


def test_labels_are_renamed_when_levels_change_places():
    target = torch.tensor([[2.0, 2.0, -1.0, -1.0, 0.5]])
    table = Table(LevelSpec(3), torch.tensor([[[-1.0, 0.25, 1.0]]]).half())
    fitted, labels = refit(table, torch.tensor([[0, 0, 2, 2, 1]]).byte(), target, torch.eye(5))
    assert fitted.values.tolist() == [[[-1.0, 0.5, 2.0]]]
    assert labels.tolist() == [[2, 2, 0, 0, 1]]


@pytest.mark.parametrize("text", ["2bit", "2bit-uniform", "2bit-symmetric", "ternary-symmetric-g6", "2bit-uniform-g8"])
def test_label_sets_in_the_wrong_order_are_turned(text):
    table, right, target, gram = layer(text + "-f32")
    wrong = table.spec.count - 1 - right
    one, two = refit(table, right, target, gram), refit(table, wrong, target, gram)
    energies = [row_energies(fitted.values, labels, target, gram) for fitted, labels in (one, two)]
    assert torch.allclose(*energies, rtol=1e-4)
    assert torch.allclose(one[0].values, two[0].values, rtol=0.01, atol=0.01)
    assert torch.equal(one[1], two[1])


def test_levels_without_members_stay():
    table = Table(LevelSpec(4), torch.tensor([[[-2.0, -1.0, 0.5, 1.5]]]).half())
    labels = torch.tensor([[1, 1, 3, 3]]).byte()
    target = torch.tensor([[-1.25, -1.0, 0.0, 0.25]])
    fitted, renamed = refit(table, labels, target, torch.eye(4))
    assert fitted.values.tolist() == [[[-2.0, -1.125, 0.125, 0.5]]]
    assert renamed.tolist() == [[1, 1, 2, 2]]
    dead = torch.diag(torch.tensor([1.0, 1.0, 0.0, 0.0]))  # members that do not count
    fitted, renamed = refit(table, labels, target, dead)
    assert fitted.values.tolist() == [[[-2.0, -1.125, 0.5, 1.5]]]


def test_a_row_whose_levels_would_leave_float16_keeps_them():
    table = Table(LevelSpec(2), torch.tensor([[[-1.0, 1.0]], [[-1.0, 1.0]]]).half())
    target = torch.tensor([[-1e6, 2.0], [-3.0, 2.0]])
    fitted, _ = refit(table, torch.tensor([[0, 1], [0, 1]]).byte(), target, torch.eye(2))
    assert fitted.values[:, 0].tolist() == [[-1.0, 1.0], [-3.0, 2.0]]


@pytest.mark.parametrize("text", ["2bit-g4", "2bit-uniform-g4", "ternary-symmetric-g4"])
def test_many_groups_are_fitted_block_by_block(text, monkeypatch):
    table, labels, target, gram = layer(text + "-f32")
    joint, joint_labels = refit(table, labels, target, gram)
    lowest = row_energies(joint.values, joint_labels, target, gram)
    monkeypatch.setattr(refit_module, "UNKNOWNS", 8)
    monkeypatch.setattr(refit_module, "PART", 50)  # two rows at a time
    energies = [row_energies(table.values, labels, target, gram)]
    for _ in range(12):
        table, labels = refit(table, labels, target, gram)
        energies.append(row_energies(table.values, labels, target, gram))
        assert bool((energies[-1] <= energies[-2] * (1 + 1e-9)).all())
    assert bool((energies[-1] >= lowest * (1 - 1e-4)).all())
    assert bool((energies[0] - energies[-1] >= 0.8 * (energies[0] - lowest)).all())


def test_rows_whose_rounded_levels_are_worse_are_put_back():
    table, labels, target, gram = layer("3bit-uniform-f32", rows=3)
    fit = LayerFit(target, gram)
    worse = table.parameters * 1.37  # a scale of which the levels are rounded
    old = fit.refit(table, labels)[0]
    parameters, renamed = torch.stack([worse[0], old.parameters[1], worse[2]]), labels.clone()
    fit._undo_rises(old, labels, parameters, renamed)
    assert torch.equal(parameters, old.parameters)


def test_slight_asymmetry_is_averaged_out():
    table, labels, target, gram = layer("3bit")
    skew = 1e-6 * randn(24, 24)
    one = refit(table, labels, target, gram + skew - skew.T)
    two = refit(table, labels, target, gram)
    assert torch.allclose(one[0].values, two[0].values, atol=2e-3)


@pytest.mark.parametrize("text", TEXTS)
def test_one_column_is_fitted_exactly(text):
    target, gram = torch.tensor([[0.5], [-0.25]]), torch.tensor([[2.0]])
    table = start_table(parse_levels(text), target * 3)
    fitted, labels = refit(table, table.nearest(target * 3), target, gram)
    assert torch.allclose(fitted.decode(labels), target, rtol=1e-3)


def test_nothing_counts():
    for text in REFITS:
        table, labels, target, _ = layer(text)
        fitted, renamed = refit(table, labels, target, torch.zeros(24, 24))
        assert torch.equal(fitted.parameters, table.parameters)
        assert torch.equal(renamed, labels)


def test_energies_are_precise():
    target, gram = randn(5, 40, dtype=torch.float64), some_gram(40, centre=100.0)
    values, labels = randn(1, 2, 4).sort().values, torch.randint(4, (5, 40)).byte()
    error = decode(values, labels).double().numpy().astype(np.longdouble) - target.numpy().astype(np.longdouble)
    expected = np.einsum("rj,jk,rk->r", error, gram.numpy().astype(np.longdouble), error)
    assert row_energies(values, labels, target, gram).numpy() == pytest.approx(expected.astype(float), rel=1e-10)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": torch.zeros(6, 23)}, r"\(C, C\)"),
        ({"target": torch.full((6, 24), math.nan)}, "target must hold finite"),
        ({"gram": torch.full((24, 24), math.inf)}, "Gram matrix must hold finite"),
        ({"gram": torch.eye(24).long()}, "Gram matrix"),
        ({"labels": torch.zeros(6, 23).byte()}, "do not fit"),
        ({"labels": torch.full((6, 24), 8).byte()}, "0 to 7"),
        ({"labels": torch.full((6, 24), -1)}, "0 to 7"),
        ({"labels": torch.zeros(6, 24)}, "whole numbers"),
        ({"table": start_table(parse_levels("3bit"), randn(5, 24))}, "do not fit"),
        ({"table": start_table(parse_levels("3bit-g2"), randn(6, 10))}, "do not fit"),
    ],
)
def test_bad_layers_are_refused(change, message):
    table, labels, target, gram = layer("3bit")
    given = {"table": table, "labels": labels, "target": target, "gram": gram} | change
    with pytest.raises(InvalidProblemError, match=message):
        refit(**given)
    given["values"] = given.pop("table").values
    with pytest.raises(InvalidProblemError, match=message):
        row_energies(**given)


def test_refits_leave_their_inputs_alone():
    table, labels, target, gram = layer("3bit")
    kept = [tensor.clone() for tensor in (table.parameters, labels, target, gram)]
    refit(table, labels, target, gram)
    assert all(torch.equal(a, b) for a, b in zip(kept, (table.parameters, labels, target, gram), strict=True))
