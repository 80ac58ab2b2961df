"""`LabelOptimizer`: the same mathematics as the solvers, any levels, discrete at the end."""

import copy

import pytest
import torch
from torch import nn

from mrfq import (
    Geometric,
    InvalidParameterError,
    InvalidProblemError,
    MrfqError,
    Step,
    UnknownNameError,
    solve,
    solvers,
)
from mrfq.labels import integer_levels
from mrfq.nn import METHODS, LabelOptimizer, NetworkLoss, parameter_groups
from mrfq.nn.grids import grid_of
from mrfq.nn.scaling import fit_scale
from mrfq.projections import DistanceSoftmax, PiecewiseAffine, Softmax, Sparsemax, Tanh

GENERATOR = torch.Generator().manual_seed(7)
INPUTS = torch.randn(48, 6, generator=GENERATOR, dtype=torch.float64)
TARGETS = (INPUTS[:, 0] + INPUTS[:, 1] > 0).long()
LABELS = ["binary", "ternary", "2bit", [-0.7, -0.1, 0.4, 1.1, 2.0]]
SCALES = [None, "tensor", "channel", 3]


def network(seed=0, dtype=torch.float64):
    torch.manual_seed(seed)
    layers = nn.Linear(6, 9, bias=False), nn.BatchNorm1d(9, affine=False), nn.ReLU(), nn.Linear(9, 3)
    return nn.Sequential(*layers).to(dtype)


def loss_of(model):
    return nn.functional.cross_entropy(model(INPUTS.to(next(model.parameters()).dtype)), TARGETS)


def train(model, optimizer, steps, losses=None):
    for _ in range(steps):
        optimizer.zero_grad()
        loss = loss_of(model)
        loss.backward()
        optimizer.step()
        if losses is not None:
            losses.append(loss.item())


def sgd(model, rate=0.1, **settings):
    return torch.optim.SGD(model.parameters(), lr=rate, **settings)


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


# ---- the same mathematics as the solvers ----------------------------------------------------------------


IDENTITIES = [
    ("md-tanh-s", Tanh(), "dual", "identity"),
    ("gd-tanh", Tanh(), "dual", "exact"),
    ("pmf", Tanh(), "dual", "surrogate"),
    ("md-tanh", Tanh(), "mirror", "identity"),
]


@pytest.mark.parametrize(("name", "projection", "carry", "pull"), IDENTITIES)
def test_the_optimizer_takes_the_steps_of_the_solver(name, projection, carry, pull):
    """On the same network, from the same point, with growing beta."""
    model, steps, beta = network(), 8, Geometric(1, 5)
    optimizer = LabelOptimizer(sgd(model, 0.3), method=name, steps=steps, schedule=beta)
    problem = NetworkLoss(network(), nn.functional.cross_entropy, (INPUTS, TARGETS), labels="binary")
    start = problem.label_set.interpolate(weights(model))
    solver = solvers.Splitting(projection, carry, pull, beta, Step(0.3), interior=0.0)
    train(model, optimizer, steps)
    u = solve(problem, solver, init=start, max_iters=steps).relaxed
    torch.testing.assert_close(weights(model), problem.label_set.mean(u), rtol=0, atol=1e-12)


@pytest.mark.parametrize("levels", LABELS, ids=str)
def test_one_number_a_weight_is_stable_mirror_descent_on_all_labels(levels):
    """Scores of all labels under plain gradient steps stay on the parabola: `DistanceSoftmax` has the same weights."""
    model, steps, beta = network(), 10, Geometric(1, 20)
    optimizer = LabelOptimizer(sgd(model, 0.3), labels=levels, method="md-softmax-s", steps=steps, schedule=beta)
    lifted_model = network()
    lifted = LabelOptimizer(
        sgd(lifted_model, 0.3),
        labels=levels,
        method="md-softmax-s",
        steps=steps,
        schedule=beta,
        projection=Softmax(),
    )
    assert optimizer._all()[0].v.numel() * len(lifted._all()[0].levels) == lifted._all()[0].v.numel()
    train(model, optimizer, steps)
    train(lifted_model, lifted, steps)
    torch.testing.assert_close(weights(model), weights(lifted_model), rtol=0, atol=1e-12)


@pytest.mark.parametrize("levels", ["binary", "ternary"])
@pytest.mark.parametrize("pull", ["identity", "exact", "surrogate", "surrogate-twice"])
def test_scores_per_label_take_the_steps_of_the_solver(pull, levels):
    model, steps, beta = network(), 8, Geometric(1, 5)
    optimizer = LabelOptimizer(
        sgd(model, 0.1), labels=levels, method="pmf", pull=pull, projection=Softmax(), steps=steps, schedule=beta
    )
    problem = NetworkLoss(network(), nn.functional.cross_entropy, (INPUTS, TARGETS), labels=levels)
    start = torch.cat([latent.u for latent in optimizer._all()])
    solver = solvers.Splitting(Softmax(floor=1e-300), "dual", pull, beta, Step(0.1), interior=0.0)
    train(model, optimizer, steps)
    u = solve(problem, solver, init=start, max_iters=steps).relaxed
    torch.testing.assert_close(weights(model), problem.label_set.mean(u), rtol=0, atol=1e-10)


def test_sparsemax_of_two_labels_is_piecewise_affine():
    one, two = network(), network()
    a = LabelOptimizer(sgd(one), method="pgd", steps=10)
    b = LabelOptimizer(sgd(two, 0.05), method="pgd", steps=10, projection=Sparsemax())
    assert isinstance(a._all()[0].projection, PiecewiseAffine)
    train(one, a, 10)
    train(two, b, 10)  # half the rate: both scores of the pair move
    torch.testing.assert_close(weights(one), weights(two), rtol=0, atol=1e-12)


def test_bc_is_binaryconnect():
    """Against the algorithm of the paper, written out."""
    model, steps = network(), 12
    optimizer = LabelOptimizer(sgd(model, 0.2, momentum=0.9), method="bc")
    latents = [latent.v.clone() for latent in optimizer._all()]
    plain, moments = network(), [torch.zeros_like(v) for v in latents]
    for _ in range(steps):
        with torch.no_grad():
            for p, v in zip(plain.parameters(), latents, strict=True):
                p.copy_(torch.where(v > 0, 1.0, -1.0))
        gradients = torch.autograd.grad(loss_of(plain), list(plain.parameters()))
        for v, m, g in zip(latents, moments, gradients, strict=True):
            m.mul_(0.9).add_(g)
            v.sub_(m, alpha=0.2)
    train(model, optimizer, steps)
    for latent, v in zip(optimizer._all(), latents, strict=True):
        torch.testing.assert_close(latent.v, v, rtol=0, atol=1e-12)


def test_the_primal_form_rescales_the_latent_as_beta_grows():
    """MD-tanh: `v = atanh(w) / beta_k - eta g`, `w = tanh(beta_k v)`, written out as in the paper."""
    model, steps, beta = network(), 6, Geometric(1, 3)
    optimizer = LabelOptimizer(sgd(model, 0.3), method="md-tanh", steps=steps, schedule=beta)
    plain = network()
    with torch.no_grad():
        for p, q in zip(plain.parameters(), model.parameters(), strict=True):
            p.copy_(q)
    for k in range(steps):
        gradients = torch.autograd.grad(loss_of(plain), list(plain.parameters()))
        with torch.no_grad():
            for p, g in zip(plain.parameters(), gradients, strict=True):
                b = beta(k / (steps - 1))
                p.copy_(torch.tanh(b * (torch.atanh(p) / b - 0.3 * g)))
    train(model, optimizer, steps)
    torch.testing.assert_close(weights(model), weights(plain), rtol=0, atol=1e-10)


def test_parq_is_that_of_torchao():
    pytest.importorskip("torchao", reason="torchao is not installed")
    from torchao.prototype.parq.optim import ProxPARQ, QuantOptimizer
    from torchao.prototype.parq.quant import LSBQuantizer

    steps = 12
    theirs, mine = network(dtype=torch.float32), network(dtype=torch.float32)
    groups = [{"params": list(theirs.parameters()), "quant_bits": 1}]
    prox = ProxPARQ(anneal_start=0, anneal_end=steps, steepness=10)
    other = QuantOptimizer(torch.optim.SGD(groups, lr=0.05), LSBQuantizer(), prox, quant_period=1)
    train(theirs, other, steps)
    optimizer = LabelOptimizer(sgd(mine, 0.05), method="parq", scale="tensor", refit_every=1, steps=steps + 1)
    with torch.no_grad():  # theirs takes its first step at the float weights
        for latent, p in zip(optimizer._all(), network(dtype=torch.float32).parameters(), strict=True):
            latent.parameter.copy_(p)
    train(mine, optimizer, steps)
    for a, b in zip(theirs.parameters(), mine.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


# ---- any levels, any scale ------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("levels", LABELS, ids=str)
@pytest.mark.parametrize("name", METHODS)
def test_every_method_ends_on_its_levels(name, levels, scale):
    model = network(dtype=torch.float32)
    every = None if scale is None else 3
    base = torch.optim.Adam(model.parameters(), lr=0.02)
    optimizer = LabelOptimizer(base, labels=levels, method=name, scale=scale, refit_every=every, steps=15)
    losses = []
    train(model, optimizer, 15, losses)
    assert all(torch.isfinite(torch.tensor(losses)))
    optimizer.finalize(model, [(INPUTS.float(), TARGETS)])
    for parameter in model.parameters():
        grid = grid_of(parameter)
        assert grid is not None
        assert grid.exact(parameter)
        assert grid.rows == (1 if scale is None or scale == "tensor" or parameter.ndim == 1 else grid.rows)
    if scale is None:
        allowed = {"binary": 2, "ternary": 3, "2bit": 4}.get(levels if isinstance(levels, str) else "", 5)
        assert len(weights(model).unique()) <= allowed


ANNEALED = [name for name in METHODS if name not in ("mean-field", "md-softmax", "md-tanh", "proxquant", "picm", "bc")]


@pytest.mark.parametrize("levels", LABELS, ids=str)
@pytest.mark.parametrize("name", ANNEALED)
def test_annealed_methods_are_discrete_before_they_are_rounded(name, levels):
    model = network(dtype=torch.float32)
    optimizer = LabelOptimizer(sgd(model, 1e-3), labels=levels, method=name, steps=20)
    before = optimizer.statistics()
    train(model, optimizer, 20)
    after = optimizer.statistics()
    assert after["discrete"] > 0.95
    assert after["entropy"] < 0.05 <= before["entropy"]
    assert after["step"] == 20


def test_training_lowers_the_loss_of_the_quantized_network():
    model = network(dtype=torch.float32)
    optimizer = LabelOptimizer(torch.optim.Adam(model.parameters(), lr=0.03), steps=150)
    with optimizer.quantized():
        before = loss_of(model).item()
    train(model, optimizer, 150)
    optimizer.finalize()
    assert loss_of(model).item() < 0.5 * before


@pytest.mark.parametrize("start", ["weights", "levels"])
def test_the_first_weights_round_to_nearest_levels(start):
    model = network()
    expected = [torch.where(p > 0, 1.0, -1.0).double() for p in model.parameters()]
    optimizer = LabelOptimizer(sgd(model), steps=5, start=start)
    with optimizer.quantized():
        for p, w in zip(model.parameters(), expected, strict=True):
            assert torch.equal(p, w)


def test_latents_start_as_the_weights_or_in_units_of_the_levels():
    first = network()[0].weight.detach()
    for levels, start in (("binary", "weights"), ("ternary", "weights"), ("ternary", "levels")):
        latent = LabelOptimizer(sgd(network()), labels=levels, steps=5, start=start)._all()[0]
        scale = fit_scale(first.flatten(), integer_levels(levels)) if start == "levels" else 1.0
        torch.testing.assert_close(latent.v, first / scale)
    hard = [LabelOptimizer(sgd(network()), labels=levels, method="bc") for levels in ("binary", "ternary")]
    assert torch.equal(hard[0]._all()[0].v, first)
    assert len(weights_of(hard[1]).unique()) == 3  # small weights as they are would all be zero


def weights_of(optimizer):
    return torch.cat([latent.parameter.detach().flatten() for latent in optimizer._all()])


def test_scales_are_fitted_and_refitted():
    model = network()
    first = model[0].weight.detach().clone()
    optimizer = LabelOptimizer(sgd(model, 0.5), method="bc", scale="channel", refit_every=2)
    scales = optimizer._all()[0].scales
    torch.testing.assert_close(scales, first.abs().mean(1))
    before = scales.clone()
    train(model, optimizer, 1)
    assert torch.equal(scales, before)
    train(model, optimizer, 1)
    assert not torch.equal(scales, before)
    torch.testing.assert_close(scales, optimizer._all()[0].v.abs().mean(1))


# ---- the rounded network --------------------------------------------------------------------------------


def test_quantized_is_for_a_while():
    model = network()
    optimizer = LabelOptimizer(sgd(model), labels="ternary", steps=9)
    train(model, optimizer, 3)
    kept = weights(model)
    with optimizer.quantized():
        assert set(weights(model).tolist()) <= {-1.0, 0.0, 1.0}
    assert torch.equal(weights(model), kept)
    with pytest.raises(ZeroDivisionError), optimizer.quantized():
        _ = 1 / 0
    assert torch.equal(weights(model), kept)


def test_finalize_is_for_good():
    model = network()
    optimizer = LabelOptimizer(sgd(model), steps=4)
    train(model, optimizer, 4)
    statistics = model[1].running_mean.clone()
    optimizer.finalize(model, [(INPUTS, TARGETS)])
    assert not torch.equal(model[1].running_mean, statistics)
    assert not model.training
    with pytest.raises(MrfqError, match="finalized"):
        optimizer.step()
    with optimizer.quantized():
        assert set(weights(model).tolist()) == {-1.0, 1.0}
    with pytest.raises(InvalidParameterError, match="both the model and batches"):
        optimizer.finalize(model)


# ---- groups ---------------------------------------------------------------------------------------------


def test_groups_choose_their_own_levels():
    model = nn.Sequential(nn.Linear(6, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Linear(9, 3)).double()
    groups = parameter_groups(model, labels="ternary", parameters=["0.*"])
    groups.append({"params": [model[3].weight], "labels": "2bit", "method": "parq", "scale": "channel"})
    groups[1]["params"] = [p for p in groups[1]["params"] if p is not model[3].weight]
    optimizer = LabelOptimizer(torch.optim.SGD(groups, lr=0.1), steps=6)
    train(model, optimizer, 6)
    optimizer.finalize()
    assert set(model[0].weight.unique().tolist()) <= {-1.0, 0.0, 1.0}
    assert all(len(row.unique()) <= 4 for row in model[3].weight)
    assert len(model[1].weight.unique()) == 9
    assert grid_of(model[1].weight) is None


def test_parameters_can_be_chosen_by_type_and_pattern():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))

    def names(parameters):
        group = parameter_groups(model, parameters=parameters)[0]["params"]
        return [name for name, p in model.named_parameters() if any(p is q for q in group)]

    assert names(None) == ["0.weight", "0.bias", "3.weight", "3.bias"]
    assert names([nn.Conv2d]) == ["0.weight", "0.bias"]
    assert names([nn.Linear, "0.bias"]) == ["0.bias", "3.weight", "3.bias"]
    assert names(lambda name, p: p.ndim > 1) == ["0.weight", "3.weight"]
    with pytest.raises(UnknownNameError, match=r"did you mean '0\.weight'"):
        names(["0.weigth"])
    with pytest.raises(InvalidProblemError, match="no Conv1d"):
        names([nn.Conv1d])


def test_a_copy_goes_on_alike():
    model = network()
    optimizer = LabelOptimizer(torch.optim.Adam(model.parameters(), lr=0.02), labels="ternary", steps=9)
    train(model, optimizer, 4)
    other, copied = copy.deepcopy((model, optimizer))
    train(model, optimizer, 5)
    train(other, copied, 5)
    assert torch.equal(weights(model), weights(other))
    assert copied._all()[0].parameter is other[0].weight


# ---- mistakes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"method": "pmff"}, UnknownNameError, "did you mean 'pmf'"),
        ({"labels": "binry"}, UnknownNameError, "did you mean 'binary'"),
        ({"labels": [1.0, -1.0]}, InvalidProblemError, "strictly ascending"),
        ({"labels": 3}, InvalidParameterError, "a name or a sequence of numbers"),
        ({"steps": 0}, InvalidParameterError, "steps must be a whole number"),
        ({"steps": None}, InvalidParameterError, "give its length, steps="),
        ({"scale": "row"}, InvalidParameterError, "scale must be None, 'tensor', 'channel'"),
        ({"scale": 5}, InvalidParameterError, "groups of 5 weights do not divide the 6 weights of a channel"),
        ({"refit_every": 3}, InvalidParameterError, "refit_every needs a scale"),
        ({"scale": "tensor", "refit_every": 0}, InvalidParameterError, "refit_every must be a whole number"),
        ({"carry": "both"}, InvalidParameterError, "carry must be one of"),
        ({"pull": "half"}, InvalidParameterError, "pull must be one of"),
        ({"method": "bc", "pull": "exact"}, InvalidParameterError, "its derivative is zero"),
        ({"projection": Tanh(), "labels": "ternary"}, InvalidParameterError, "exactly two labels"),
        ({"projection": "tanh"}, InvalidParameterError, "must be a Projection"),
        ({"schedule": "fast"}, InvalidParameterError, "must be a Schedule or a number"),
        ({"pull": "surrogate-twice"}, InvalidParameterError, "one score per label"),
        ({"projection": Softmax(), "pull": "clipped"}, InvalidParameterError, "one number a weight"),
    ],
)
def test_mistakes_are_named(settings, error, message):
    model = network()
    before = weights(model)
    with pytest.raises(error, match=message):
        LabelOptimizer(sgd(model), **{"steps": 10, **settings})
    assert torch.equal(weights(model), before)


def test_parameters_that_cannot_be_quantized_are_refused():
    whole = nn.Parameter(torch.ones(3, dtype=torch.int64), requires_grad=False)
    with pytest.raises(InvalidParameterError, match="floating-point weights"):
        LabelOptimizer(torch.optim.SGD([whole], lr=1.0), method="bc")
    with pytest.raises(InvalidParameterError, match="not finite"):
        LabelOptimizer(torch.optim.SGD([nn.Parameter(torch.tensor([1.0, torch.nan]))], lr=1.0), method="bc")
    with pytest.raises(InvalidParameterError, match=r"needs a torch.optim.Optimizer"):
        LabelOptimizer(network())
    table = nn.Embedding(5, 4, sparse=True)
    optimizer = LabelOptimizer(torch.optim.SGD(table.parameters(), lr=0.1), method="bc")
    table(torch.tensor([1, 2])).sum().backward()
    with pytest.raises(InvalidParameterError, match="sparse=False"):
        optimizer.step()


def test_a_state_of_something_else_is_refused():
    model = network()
    optimizer = LabelOptimizer(sgd(model), steps=5)
    train(model, optimizer, 2)
    kept = weights(model)
    with pytest.raises(InvalidProblemError, match="not a state of a LabelOptimizer"):
        optimizer.load_state_dict(optimizer.base.state_dict())
    small = nn.Linear(2, 2, bias=False)
    other = LabelOptimizer(sgd(small), steps=5)
    with pytest.raises(InvalidProblemError, match="groups of"):
        optimizer.load_state_dict(other.state_dict())
    wide = nn.Sequential(nn.Linear(6, 8, bias=False), nn.Linear(8, 3))
    with pytest.raises(InvalidProblemError, match="a latent of shape"):
        optimizer.load_state_dict(LabelOptimizer(sgd(wide), steps=5).state_dict())
    assert torch.equal(weights(model), kept)
    train(model, optimizer, 3)  # and it still works


def test_distance_softmax_is_the_default_of_mirror_descent():
    assert METHODS["md-softmax-s"].projection == DistanceSoftmax()
