"""Projections: on the simplex, finite everywhere, with exact pull-backs."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq

from mrfq import InvalidParameterError, LabelSet, projections
from mrfq.projections import (
    Argmax,
    DistanceSoftmax,
    Nearest,
    PiecewiseAffine,
    Relax,
    Shrink,
    Softmax,
    SoftStaircase,
    Sparsemax,
    Tanh,
)

SIMPLEX = [Softmax(), Sparsemax(), Argmax()]
SCALAR = [SoftStaircase(), SoftStaircase("interval"), PiecewiseAffine(), DistanceSoftmax()]
ROUGH = [Nearest(), Relax(), Shrink()]
EVERY = [*SIMPLEX, *SCALAR, *ROUGH, Tanh()]
SMOOTH = [Softmax(), Sparsemax(), *SCALAR, Tanh()]
N = 6
DTYPES = [torch.float32, torch.float64]
seeds = st.integers(0, 2**32 - 1)


def labels_for(projection, dtype=torch.float64):
    """Return two levels for Tanh, else groups of different sizes with uneven levels."""
    if isinstance(projection, Tanh):
        return LabelSet([[-1.0, 1.0], [0.5, 2.0]], [3, N - 3], dtype=dtype)
    return LabelSet([[-1.0, 0.0, 1.0], [0.0, 0.5, 2.0, 3.0], [0.25], [-2.0, 1.0]], [2, 2, 1, 1], dtype=dtype)


def latent_for(projection, seed=0, dtype=torch.float64, size=1.0):
    simplex = isinstance(projection, projections.SimplexProjection)
    shape = (N, labels_for(projection).shape[1]) if simplex else (N,)
    return size * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def name(projection):
    return repr(projection)


# ---- the map --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("projection", EVERY, ids=name)
@given(seed=seeds, beta=st.floats(-3, 12).map(lambda x: 10.0**x), size=st.floats(-3, 6).map(lambda x: 10.0**x))
def test_the_image_is_on_the_simplex_and_finite(projection, dtype, seed, beta, size):
    labels = labels_for(projection, dtype)
    u = projection.forward(latent_for(projection, seed, dtype, size), beta, labels)
    assert u.dtype == dtype
    assert u.shape == labels.shape
    assert bool((u >= 0).all())
    torch.testing.assert_close(
        u.sum(1), torch.ones(N, dtype=dtype), rtol=0, atol=1e-5 if dtype.itemsize == 4 else 1e-12
    )
    assert labels.mask is None or not u[~labels.mask].any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("projection", EVERY, ids=name)
def test_everything_is_finite_at_the_extremes(projection, dtype):
    labels = labels_for(projection, dtype)
    g = torch.randn(labels.shape, generator=torch.Generator().manual_seed(1), dtype=dtype)
    for v in (latent_for(projection, dtype=dtype, size=1e6), torch.zeros_like(latent_for(projection, dtype=dtype))):
        for beta in (1e-6, 1.0, 1e12):
            u = projection.forward(v, beta, labels)
            parts = [u, projection.latent(u, beta, labels), projection.identity(g, u, labels)]
            parts.append(projection.surrogate(g, u, beta, labels))
            if not projection.flat:
                parts.append(projection.exact(g, v, u, beta, labels))
            assert all(bool(part.isfinite().all()) for part in parts)


@pytest.mark.parametrize("projection", EVERY, ids=name)
def test_beta_to_infinity_is_rounding(projection):
    labels, v = labels_for(projection), latent_for(projection, seed=3)
    u = projection.forward(v, 1e12, labels)
    if isinstance(projection, projections.SimplexProjection):
        expected = labels.round(v)
    elif isinstance(projection, Tanh):
        expected = (v > 0).long()
    else:
        expected = labels.nearest(v)
    torch.testing.assert_close(u, labels.one_hot(expected), rtol=0, atol=1e-9)


@pytest.mark.parametrize("projection", SIMPLEX, ids=name)
@given(seed=seeds)
def test_renumbering_labels_commutes(projection, seed):
    v = latent_for(projection, seed)
    labels = LabelSet.shared([0, 1, 2, 3], N)
    place = torch.randperm(4, generator=torch.Generator().manual_seed(seed))
    u = projection.forward(v, 1.3, labels)
    torch.testing.assert_close(projection.forward(v[:, place], 1.3, labels), u[:, place], rtol=0, atol=1e-14)


@pytest.mark.parametrize("projection", SIMPLEX, ids=name)
@given(seed=seeds, shift=st.floats(-10, 10))
def test_adding_a_constant_to_a_row_changes_nothing(projection, seed, shift):
    v, labels = latent_for(projection, seed), labels_for(projection)
    moved = projection.forward(v + shift, 1.3, labels)
    torch.testing.assert_close(moved, projection.forward(v, 1.3, labels), rtol=0, atol=1e-12)


@pytest.mark.parametrize("projection", [*SCALAR, Tanh()], ids=name)
@given(seed=seeds, beta=st.floats(0, 6).map(lambda x: 10.0**x))
def test_scalar_maps_are_monotone_and_stay_between_the_levels(projection, seed, beta):
    labels, v = labels_for(projection), latent_for(projection, seed)
    w, higher = projection.value(v, beta, labels), projection.value(v + 0.1, beta, labels)
    levels = labels.rows()
    assert bool((higher >= w - 1e-12).all())
    assert bool((w >= levels[:, 0] - 1e-12).all())
    assert bool((w <= torch.nan_to_num(levels, nan=-torch.inf).amax(1) + 1e-12).all())


@pytest.mark.parametrize("projection", [Softmax(floor=1e-300), Sparsemax(), Tanh(), PiecewiseAffine()], ids=name)
def test_the_latent_of_an_image_has_that_image(projection):
    labels = labels_for(projection)
    beta = 1.0 if not isinstance(projection, Softmax | Tanh) else 1.7
    u = projection.forward(latent_for(projection, size=0.5), beta, labels)
    again = projection.forward(projection.latent(u, beta, labels), beta, labels)
    torch.testing.assert_close(again, u, rtol=0, atol=1e-9)


@given(seed=seeds, beta=st.floats(-2, 3).map(lambda x: 10.0**x))
def test_sparsemax_is_the_euclidean_projection_found_by_bisection(seed, beta):
    v = latent_for(Sparsemax(), seed)
    u = Sparsemax().forward(v, beta, LabelSet.shared([0, 1, 2, 3], N)).numpy()
    for row, z in zip(u, beta * v.numpy(), strict=True):

        def excess(tau, z=z):
            return np.maximum(z - tau, 0).sum() - 1

        tau = brentq(excess, z.max() - 1 - 1e-9, z.max(), xtol=1e-14)
        np.testing.assert_allclose(row, np.maximum(z - tau, 0), atol=1e-10)


def test_softmax_is_that_of_torch():
    v = latent_for(Softmax())
    u = Softmax().forward(v, 2.5, LabelSet.shared([0, 1, 2, 3], N))
    torch.testing.assert_close(u, torch.softmax(2.5 * v, 1), rtol=1e-14, atol=1e-15)


def test_a_tie_of_argmax_goes_to_the_lowest_label():
    assert Argmax().forward(torch.zeros(1, 3), 1.0, LabelSet.shared([0, 1, 2], 1)).tolist() == [[1, 0, 0]]


# ---- the pulls ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("projection", SMOOTH, ids=name)
def test_the_exact_pull_is_the_finite_difference(projection, beta):
    labels, v = labels_for(projection), latent_for(projection, seed=5, size=0.6)
    g = torch.randn(labels.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    pulled = projection.exact(g, v, projection.forward(v, beta, labels), beta, labels)
    quotient = torch.zeros_like(v)
    for k in range(v.numel()):
        step = torch.zeros_like(v)
        step.view(-1)[k] = 1e-6
        rise = (g * (projection.forward(v + step, beta, labels) - projection.forward(v - step, beta, labels))).sum()
        quotient.view(-1)[k] = rise / 2e-6
    torch.testing.assert_close(pulled, quotient, rtol=1e-6, atol=1e-7)


def by_autograd(function, v, g):
    v = v.clone().requires_grad_()
    return torch.autograd.grad((g * function(v)).sum(), v)[0]


def plain_sparsemax(z):
    ordered, _ = z.sort(1, descending=True)
    rank = torch.arange(1, z.shape[1] + 1)
    rho = (ordered > (ordered.cumsum(1) - 1) / rank).sum(1, keepdim=True)
    return (z - (ordered.cumsum(1).gather(1, rho - 1) - 1) / rho).clamp(min=0)


@pytest.mark.parametrize(
    ("projection", "function"),
    [
        (Softmax(), lambda v, beta: torch.softmax(beta * v, 1)),
        (Sparsemax(), lambda v, beta: plain_sparsemax(beta * v)),
        (Tanh(), lambda v, beta: torch.stack([1 - torch.tanh(beta * v), 1 + torch.tanh(beta * v)], 1) / 2),
    ],
)
@given(seed=seeds, beta=st.floats(0.1, 20))
def test_the_exact_pull_is_autograd_of_an_independent_map(projection, function, seed, beta):
    labels = LabelSet.shared([-1, 1] if isinstance(projection, Tanh) else [0, 1, 2, 3], N)
    v = latent_for(projection, seed)
    g = torch.randn(labels.shape, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    u = projection.forward(v, beta, labels)
    torch.testing.assert_close(u, function(v, beta), rtol=0, atol=1e-12)
    expected = by_autograd(lambda x: function(x, beta), v, g)
    torch.testing.assert_close(projection.exact(g, v, u, beta, labels), expected, rtol=1e-9, atol=1e-9)


@given(seed=seeds, beta=st.floats(0.1, 1000))
def test_the_softmax_jacobian_is_that_of_the_papers(seed, beta):
    labels, v = LabelSet.shared([0, 1, 2, 3], N), latent_for(Softmax(), seed)
    u = Softmax().forward(v, beta, labels)
    g = torch.randn(labels.shape, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64)
    jacobian = beta * (torch.diag_embed(u) - u[:, :, None] * u[:, None, :])
    torch.testing.assert_close(
        Softmax().exact(g, v, u, beta, labels), (jacobian @ g[..., None])[..., 0], rtol=1e-10, atol=1e-9
    )


def test_the_sparsemax_jacobian_is_that_of_the_papers():
    labels, v = LabelSet.shared([0, 1, 2, 3], N), latent_for(Sparsemax())
    u = Sparsemax().forward(v, 1.5, labels)
    g = torch.randn(labels.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    s = (u > 0).double()
    jacobian = 1.5 * (torch.diag_embed(s) - s[:, :, None] * s[:, None, :] / s.sum(1)[:, None, None])
    torch.testing.assert_close(Sparsemax().exact(g, v, u, 1.5, labels), (jacobian @ g[..., None])[..., 0])


def test_the_surrogate_puts_the_identity_in_place_of_the_diagonal():
    labels = LabelSet.shared([0, 1, 2, 3], N)
    u = Softmax().forward(latent_for(Softmax()), 2.0, labels)
    g = torch.randn(labels.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = 2.0 * (torch.eye(4, dtype=torch.float64) - u[:, :, None] * u[:, None, :]) @ g[..., None]
    torch.testing.assert_close(Softmax().surrogate(g, u, 2.0, labels), expected[..., 0])


def test_the_surrogate_of_two_labels_is_that_of_one_latent():
    labels = LabelSet.named("binary", N)
    v = latent_for(Tanh())
    g_w = torch.randn(N, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    u = Tanh().forward(v, 2.0, labels)
    w = labels.mean(u)
    expected = 2.0 * g_w * (1 - w**2 / 2)
    torch.testing.assert_close(Tanh().surrogate(labels.lift(g_w), u, 2.0, labels), expected)


@pytest.mark.parametrize("projection", [*SCALAR, Tanh()], ids=name)
def test_the_identity_pull_of_a_function_of_the_values_is_its_gradient(projection):
    labels = LabelSet.named("binary", N)
    g_w = torch.randn(N, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    u = projection.forward(latent_for(Tanh(), size=0.5), 1.0, labels)
    torch.testing.assert_close(projection.identity(labels.lift(g_w), u, labels), g_w)


def test_argmax_has_no_exact_pull():
    labels, v = LabelSet.shared([0, 1], 1), torch.zeros(1, 2)
    with pytest.raises(InvalidParameterError, match="use pull='identity'"):
        Argmax().exact(v, v, v, 1.0, labels)


def test_projections_say_which_labels_they_take():
    assert "two labels" in Tanh().accepts(LabelSet.named("ternary", 2))
    assert Tanh().accepts(LabelSet.named("binary", 2)) is None
    gap = LabelSet([[0, 1, 2]], [1], mask=torch.tensor([[True, False, True]]))
    assert all("gap" in projection.accepts(gap) for projection in SCALAR)
    assert all(projection.accepts(gap) is None for projection in SIMPLEX)


def test_unknown_forms_are_refused():
    with pytest.raises(InvalidParameterError, match="'sum' or 'interval'"):
        SoftStaircase("stairs")


def test_every_projection_is_tested():
    found = {
        kind
        for kind in vars(projections).values()
        if isinstance(kind, type) and kind.__module__.startswith("mrfq.projections")
    }
    concrete = {kind for kind in found if issubclass(kind, projections.Projection) and not kind.__abstractmethods__}
    assert concrete == {type(projection) for projection in EVERY}


LEVELS = [[-1.0, 1.0], [0.0, 1.0], [-1.0, 0.0, 1.0], [-0.3, 0.1, 0.5, 0.9], [-2.0, -1.0, 1.0, 2.0], [0.5]]


@pytest.mark.parametrize("levels", LEVELS, ids=str)
@pytest.mark.parametrize("projection", [*SCALAR, *ROUGH], ids=name)
@given(seed=seeds, beta=st.floats(0, 6).map(lambda x: 10.0**x))
def test_shared_levels_take_a_short_way_to_the_same_numbers(projection, levels, seed, beta):
    generator = torch.Generator().manual_seed(seed)
    v, g = (
        2 * torch.randn(2, 3, generator=generator, dtype=torch.float64),
        torch.randn(2, 3, generator=generator).double(),
    )
    shared, apart = LabelSet.shared(levels, 6), LabelSet([levels, levels], [2, 4])
    w, expected = projection.value(v, beta, shared), projection.value(v.flatten(), beta, apart)
    torch.testing.assert_close(w.flatten(), expected, rtol=1e-9, atol=1e-9)
    assert torch.equal(projection.value(v, beta, shared, out=torch.empty_like(v)), w)
    if not projection.flat:
        slope = projection.derivative(v, beta, shared).flatten()
        torch.testing.assert_close(slope, projection.derivative(v.flatten(), beta, apart), rtol=1e-6, atol=1e-6 * beta)
    for kind in ("identity", "surrogate") if projection.flat else ("identity", "surrogate", "exact"):
        pulled = projection.pull_value(kind, g, v, w, beta, shared).flatten()
        other = projection.pull_value(kind, g.flatten(), v.flatten(), expected, beta, apart)
        torch.testing.assert_close(pulled, other, rtol=1e-6, atol=1e-6 * beta)


@given(seed=seeds, beta=st.floats(-1, 3).map(lambda x: 10.0**x))
def test_distance_softmax_is_the_softmax_of_all_labels(seed, beta):
    levels = torch.tensor([-2.0, -0.5, 0.0, 1.0, 1.5], dtype=torch.float64)
    v = 2 * torch.randn(6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    u = torch.softmax(-beta * (v[:, None] - levels) ** 2 / 2, 1)
    found = DistanceSoftmax().value(v, beta, LabelSet.shared(levels.tolist(), 6))
    torch.testing.assert_close(found, u @ levels, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shift", [0.0, 5.0])
def test_the_surrogate_does_not_depend_on_where_zero_is(shift):
    g, z = torch.randn(N, dtype=torch.float64), torch.linspace(-0.9, 0.9, N, dtype=torch.float64)
    labels = LabelSet.shared([shift - 1, shift + 1], N)
    pulled = PiecewiseAffine().pull_value("surrogate", g, z + shift, z + shift, 2.0, labels)
    torch.testing.assert_close(pulled, 2 * g * (1 - z**2 / 2))
