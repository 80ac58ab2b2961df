"""`LabelSet`: values, relaxed labellings, groups, masks."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mrfq import InvalidProblemError, LabelSet, UnknownNameError
from mrfq.labels import integer_levels

GROUPS = [[-1.0, 1.0], [-2.0, -1.0, 1.0, 2.0], [0.5], [-1.0, 0.0, 1.0]]
SIZES = [3, 2, 1, 4]
values = st.lists(st.floats(-3, 3), min_size=10, max_size=10).map(lambda x: torch.tensor(x, dtype=torch.float64))


def grouped(**options):
    return LabelSet(GROUPS, SIZES, **options)


def rows():
    return [row for row, size in zip(GROUPS, SIZES, strict=True) for _ in range(size)]


@pytest.mark.parametrize(
    ("name", "levels"),
    [
        ("binary", [-1, 1]),
        ("1bit", [-1, 1]),
        ("ternary", [-1, 0, 1]),
        ("2bit", [-2, -1, 1, 2]),
        ("3bit", [-4, -3, -2, -1, 1, 2, 3, 4]),
    ],
)
def test_named_sets_are_the_papers_integers(name, levels):
    assert integer_levels(name) == levels
    assert LabelSet.named(name, 2).levels.tolist() == [levels]


def test_a_four_bit_set_has_sixteen_levels():
    assert len(integer_levels("4bit")) == 16


def test_unknown_sets_are_suggested():
    with pytest.raises(UnknownNameError, match="did you mean 'ternary'"):
        integer_levels("ternry")


def test_shapes_and_masks_follow_from_the_groups():
    labels = grouped()
    assert labels.shape == (10, 4)
    assert labels.mask.sum(1).tolist() == [len(row) for row in rows()]
    assert LabelSet.shared([0, 1], 5).mask is None


def test_decoding_looks_levels_up():
    labels = torch.tensor([0, 1, 0, 3, 1, 0, 2, 1, 0, 2])
    assert grouped().decode(labels).tolist() == [row[a] for row, a in zip(rows(), labels.tolist(), strict=True)]


@given(w=values)
def test_nearest_is_the_nearest_level(w):
    chosen = grouped().nearest(w).tolist()
    for value, row, label in zip(w.tolist(), rows(), chosen, strict=True):
        assert label == int(np.argmin([abs(value - q) for q in row]))


def test_a_tie_goes_to_the_lower_level():
    assert LabelSet.named("binary", 1).nearest(torch.tensor([0.0])).tolist() == [0]


@given(w=values)
def test_interpolation_is_a_distribution_whose_mean_is_the_clipped_value(w):
    labels = grouped()
    u = labels.interpolate(w)
    clipped = [min(max(value, row[0]), row[-1]) for value, row in zip(w.tolist(), rows(), strict=True)]
    assert bool((u >= 0).all())
    torch.testing.assert_close(u.sum(1), torch.ones(10, dtype=torch.float64), rtol=0, atol=1e-15)
    torch.testing.assert_close(labels.mean(u), torch.tensor(clipped, dtype=torch.float64), rtol=0, atol=1e-12)
    assert int((u > 0).sum(1).max()) <= 2
    assert not u[~labels.mask].any()


@given(w=values, seed=st.integers(0, 1000))
def test_the_slope_of_a_function_of_the_values_is_its_gradient(w, seed):
    gradient = torch.randn(10, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    labels = grouped()
    single = torch.tensor([len(row) == 1 for row in rows()])
    expected = gradient.masked_fill(single, 0.0)  # one level leaves nothing to move along
    torch.testing.assert_close(labels.slope(labels.lift(gradient), w), expected, rtol=1e-12, atol=1e-12)


def test_the_slope_is_the_difference_quotient_of_the_interpolation():
    labels = grouped()
    g = torch.randn(10, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    w = torch.tensor([0.3, -0.2, 0.1, -1.5, 1.5, 0.5, -0.3, 0.3, 0.9, -0.9], dtype=torch.float64)
    quotient = (g * (labels.interpolate(w + 1e-6) - labels.interpolate(w - 1e-6))).sum(1) / 2e-6
    torch.testing.assert_close(labels.slope(g, w), quotient, rtol=1e-8, atol=1e-8)


def test_lift_is_the_gradient_of_the_mean():
    labels = grouped()
    u = torch.rand(10, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    gradient = torch.arange(10.0, dtype=torch.float64)
    (found,) = torch.autograd.grad((gradient * labels.mean(u)).sum(), u)
    torch.testing.assert_close(labels.lift(gradient), found)


def test_rounding_ignores_labels_that_do_not_exist():
    u = torch.full((10, 4), 0.25)
    u[:, 3] = 0.5
    assert grouped().round(u).tolist() == [0, 0, 0, 3, 3, 0, 0, 0, 0, 0]


def test_one_hot_and_round_are_inverse():
    labels = torch.tensor([0, 1, 0, 3, 1, 0, 2, 1, 0, 2])
    assert grouped().round(grouped().one_hot(labels)).equal(labels)


def test_a_masked_middle_label_is_not_an_ordered_scale():
    mask = torch.tensor([[True, False, True], [True, True, False]])
    assert not LabelSet([[0, 1, 2]], [2], mask=mask).ordered
    assert LabelSet([[0, 1, 2]], [2], mask=mask[1:].repeat(2, 1)).ordered
    assert LabelSet([[0, 1, 2]], [2], mask=torch.ones(2, 3, dtype=torch.bool)).mask is None


def test_levels_under_a_mask_are_interpolated_up_to_the_last_that_exists():
    mask = torch.tensor([[True, True, False], [True, False, False]])
    labels = LabelSet([[0, 1, 2]], [2], mask=mask)
    u = labels.interpolate(torch.tensor([1.7, 0.4], dtype=torch.float64))
    assert u.tolist() == [[0, 1, 0], [1, 0, 0]]
    assert labels.nearest(torch.tensor([1.9, 1.9])).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([0, 1, 0, 3, 1, 0, 2, 1, 0], r"shape \(10,\)"),
        (torch.zeros(10), "whole numbers"),
        ([0, 2, 0, 0, 0, 0, 0, 0, 0, 0], r"labels\[1\] is 2, but variable 1 has 2 labels"),
        ([0, 0, 0, 0, 4, 0, 0, 0, 0, 0], r"labels\[4\] is 4, but variable 4 has 4 labels"),
        ([0, 0, 0, 0, 0, -1, 0, 0, 0, 0], r"labels\[5\] is -1"),
    ],
)
def test_bad_labellings_are_named(given, message):
    with pytest.raises(InvalidProblemError, match=message):
        grouped().check(given)


@pytest.mark.parametrize(
    ("levels", "sizes", "message"),
    [
        ([[0, 1]], [1, 1], "1 groups of levels but 2 group sizes"),
        ([], [], "0 groups"),
        ([[0, 1], [1, 1]], [1, 1], "group 1 must be strictly ascending"),
        ([[1, 0]], [1], "group 0 must be strictly ascending"),
        ([[0, float("inf")]], [1], "group 0 must be finite"),
        ([[]], [1], "at least one"),
    ],
)
def test_bad_levels_are_named(levels, sizes, message):
    with pytest.raises(InvalidProblemError, match=message):
        LabelSet(levels, sizes)
