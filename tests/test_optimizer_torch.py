"""`LabelOptimizer` is a torch optimiser in earnest: it keeps every promise that training code relies on."""

import copy
import os
import pickle
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, OneCycleLR, ReduceLROnPlateau, SequentialLR
from torch.utils._python_dispatch import TorchDispatchMode

from mrfq import Geometric, InvalidParameterError, MrfqError
from mrfq.io.state_tree import read_state, write_state
from mrfq.nn import METHODS, LabelOptimizer, parameter_groups
from mrfq.nn.grids import grid_of
from mrfq.projections import PiecewiseAffine, Relax, ScalarProjection, Softmax, SoftStaircase, Sparsemax

GENERATOR = torch.Generator().manual_seed(11)
INPUTS = torch.randn(64, 6, generator=GENERATOR, dtype=torch.float64)
TARGETS = (INPUTS[:, 0] * INPUTS[:, 1] > 0).long()
STEPS = 12


def network(seed=0, dtype=torch.float32, norm=True):
    torch.manual_seed(seed)
    layers = nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8) if norm else nn.Identity(), nn.Tanh(), nn.Linear(8, 2)
    return nn.Sequential(*layers).to(dtype)


def loss_of(model, start=0, stop=64):
    inputs = INPUTS[start:stop].to(next(model.parameters()).dtype)
    return nn.functional.cross_entropy(model(inputs), TARGETS[start:stop])


def train(model, optimizer, steps=1, first=0):
    """Take steps over changing batches of 16."""
    for step in range(first, first + steps):
        start = step % 4 * 16
        optimizer.zero_grad()
        loss_of(model, start, start + 16).backward()
        optimizer.step()


def sgd(model, rate=0.1, momentum=0.0, **settings):
    return LabelOptimizer(torch.optim.SGD(model.parameters(), lr=rate, momentum=momentum), **settings)


def latents(optimizer):
    return [latent.v for latent in optimizer._all()]


def same(a, b):
    """Whether nested plain data with tensors is the same, bit for bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


# ---- resume ---------------------------------------------------------------------------------------------

BASES = {
    "sgd": lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9, weight_decay=1e-3),
    "adam": lambda groups: torch.optim.Adam(groups, lr=0.02, weight_decay=1e-3),
}


def through_torch(state, folder):
    torch.save(state, folder / "state.pt")
    return torch.load(folder / "state.pt", weights_only=True)


def through_archive(state, folder):
    write_state(folder / "state.safetensors", "test", 1, state)
    return read_state(folder / "state.safetensors", "test", 1)


def check_resume(folder, base, way=through_torch, finish=False, **settings):
    """Twelve steps are five, a file, a fresh network and optimiser made with other settings, and seven more."""
    model, resumed = network(), network(seed=1)
    groups = parameter_groups(model, parameters=[nn.Linear], **settings)
    optimizer = LabelOptimizer(BASES[base](groups), steps=STEPS)
    train(model, optimizer, 5)
    state = way({"model": dict(model.state_dict()), "optimizer": optimizer.state_dict()}, folder)
    train(model, optimizer, STEPS - 5, first=5)

    fresh = LabelOptimizer(BASES[base](parameter_groups(resumed, parameters=[nn.Linear])), method="bc")
    resumed.load_state_dict(state["model"])
    fresh.load_state_dict(state["optimizer"])
    assert fresh.steps_done == 5
    train(resumed, fresh, STEPS - 5, first=5)
    assert same(dict(model.state_dict()), dict(resumed.state_dict()))
    assert same(optimizer.state_dict(), fresh.state_dict())
    return model, optimizer


@pytest.mark.parametrize("scale", [None, "channel"])
@pytest.mark.parametrize("labels", ["binary", "ternary", "2bit"])
@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("method", METHODS)
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path, method, base, labels, scale):
    every = None if scale is None else 4
    check_resume(tmp_path, base, method=method, labels=labels, scale=scale, refit_every=every)


@pytest.mark.parametrize("method", METHODS)
def test_a_run_resumes_from_an_archive(tmp_path, method):
    check_resume(tmp_path, "adam", through_archive, method=method, labels="ternary", scale=2, refit_every=5)


@pytest.mark.parametrize("projection", [Softmax(), Sparsemax()])
@pytest.mark.parametrize("method", ["md-softmax-s", "md-softmax", "pmf", "mean-field", "proxquant"])
def test_a_run_with_a_score_per_label_resumes(tmp_path, method, projection):
    schedule = Geometric(1, 20)
    settings = {"labels": "2bit", "scale": "channel", "refit_every": 4, "schedule": schedule, "projection": projection}
    check_resume(tmp_path, "sgd", method=method, **settings)


def test_a_state_restores_the_scores_of_a_discrete_network(tmp_path):
    model = network()
    optimizer = sgd(model, labels="ternary", steps=4)
    train(model, optimizer, 4)
    unfinished = copy.deepcopy(optimizer.state_dict())
    optimizer.finalize()
    other = network(seed=1)
    fresh = sgd(other, labels="ternary", steps=4)
    fresh.load_state_dict(through_torch(optimizer.state_dict(), tmp_path))
    assert fresh.finalized
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)
        assert grid_of(q).exact(q)
    fresh.load_state_dict(unfinished)
    assert not fresh.finalized
    assert all(grid_of(p) is None for p in other.parameters())


def test_a_state_is_taken_while_the_network_is_rounded():
    for method in METHODS:
        model = network()
        optimizer = sgd(model, method=method, steps=9)
        train(model, optimizer, 3)
        with optimizer.quantized():
            inside = copy.deepcopy(optimizer.state_dict())
        assert same(inside, optimizer.state_dict()), method


def test_no_steps_while_the_network_is_rounded():
    """They would be lost at the end."""
    model = network()
    optimizer = sgd(model, steps=9)
    train(model, optimizer, 1)
    kept = copy.deepcopy((dict(model.state_dict()), optimizer.state_dict()))
    with optimizer.quantized(), pytest.raises(MrfqError, match="leave quantized"):
        optimizer.step()
    with optimizer.quantized(), pytest.raises(MrfqError, match="inside"), optimizer.quantized():
        pass
    assert same(kept, (dict(model.state_dict()), optimizer.state_dict()))


def test_a_state_brings_a_diverged_run_back():
    model = network()
    optimizer = sgd(model, steps=9)
    train(model, optimizer, 3)
    state = copy.deepcopy({"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    train(model, optimizer, 2, first=3)
    expected = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        for tensor in [*model.parameters(), *latents(optimizer)]:
            tensor.fill_(torch.nan)
    optimizer.load_state_dict(state["optimizer"])
    model.load_state_dict(state["model"])
    train(model, optimizer, 2, first=3)
    assert same(dict(model.state_dict()), dict(expected))


# ---- learning-rate schedulers ---------------------------------------------------------------------------


def sequence(optimizer):
    warm_up, cosine = LinearLR(optimizer, 0.1, total_iters=4), CosineAnnealingLR(optimizer, STEPS)
    return SequentialLR(optimizer, [warm_up, cosine], milestones=[4])


SCHEDULERS = {
    "cosine": lambda optimizer: CosineAnnealingLR(optimizer, STEPS),
    "one-cycle": lambda optimizer: OneCycleLR(optimizer, 0.3, total_steps=STEPS + 1),
    "plateau": lambda optimizer: ReduceLROnPlateau(optimizer, factor=0.5, patience=1, threshold=0.05),
    "sequence": sequence,
}


def scheduled(name, on_base, method="pmf"):
    model = network()
    optimizer = sgd(model, momentum=0.9, method=method, labels="ternary", steps=STEPS)
    scheduler = SCHEDULERS[name](optimizer.base if on_base else optimizer)
    rates = []
    for step in range(STEPS):
        train(model, optimizer, 1, first=step)
        rates.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["momentum"]))
        scheduler.step(*([1.0] if name == "plateau" else []))
    return rates, dict(model.state_dict())


@pytest.mark.parametrize("method", ["pmf", "md-tanh"])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_scheduler_may_hold_either_optimizer(name, method):
    rates, weights = scheduled(name, on_base=False, method=method)
    others, same_weights = scheduled(name, on_base=True, method=method)
    assert rates == others
    assert same(weights, same_weights)
    # The rates are those that torch gives any optimiser, and they are what the latents move by.
    plain = torch.optim.SGD(network().parameters(), lr=0.1, momentum=0.9)
    scheduler, expected, model = SCHEDULERS[name](plain), [], network()
    optimizer = sgd(model, momentum=0.9, labels="ternary", steps=STEPS, method=method)
    for step in range(STEPS):
        plain.step()
        expected.append((plain.param_groups[0]["lr"], plain.param_groups[0]["momentum"]))
        optimizer.param_groups[0].update(lr=expected[-1][0], momentum=expected[-1][1])
        train(model, optimizer, 1, first=step)
        scheduler.step(*([1.0] if name == "plateau" else []))
    assert rates == expected
    assert len(set(rates)) > 2
    assert same(weights, dict(model.state_dict()))


# ---- gradients ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_gradients_accumulate(method):
    whole, halves = network(dtype=torch.float64, norm=False), network(dtype=torch.float64, norm=False)
    first, second = sgd(whole, method=method, steps=6), sgd(halves, method=method, steps=6)
    for _ in range(6):
        first.zero_grad()
        loss_of(whole).backward()
        first.step()
        second.zero_grad()
        for start in (0, 32):
            (0.5 * loss_of(halves, start, start + 32)).backward()
        second.step()
    for a, b in zip(latents(first), latents(second), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


def test_only_the_clipped_gradient_counts():
    model, rate = network(norm=False), 0.1
    optimizer = sgd(model, rate, method="bc")
    for clip, size in (
        (lambda: nn.utils.clip_grad_norm_(model.parameters(), 1e-2), lambda moves: moves.norm()),
        (lambda: nn.utils.clip_grad_value_(model.parameters(), 1e-2), lambda moves: moves.abs().max()),
    ):
        before = [v.clone() for v in latents(optimizer)]
        optimizer.zero_grad()
        loss_of(model).backward()
        assert max(p.grad.abs().max() for p in model.parameters()) > 1e-2
        clip()
        optimizer.step()
        moves = torch.cat([(v - b).flatten() for v, b in zip(latents(optimizer), before, strict=True)])
        assert float(size(moves)) == pytest.approx(rate * 1e-2, rel=1e-4)


@pytest.mark.parametrize("to_none", [True, False])
def test_gradients_of_the_network_are_its_own(to_none):
    model = network()
    optimizer = sgd(model, steps=9)
    train(model, optimizer, 1)
    gradients = [p.grad.clone() for p in model.parameters()]
    optimizer.zero_grad()
    loss_of(model).backward()
    kept = [p.grad for p in model.parameters()]
    values = [g.clone() for g in kept]
    optimizer.step()
    assert all(p.grad is g and torch.equal(g, v) for p, g, v in zip(model.parameters(), kept, values, strict=True))
    assert not same(gradients, values)
    assert all(v.grad is None for v in latents(optimizer))
    optimizer.zero_grad(set_to_none=to_none)
    assert all(p.grad is None if to_none else not p.grad.any() for p in model.parameters())
    before = [v.clone() for v in latents(optimizer)]
    optimizer.step()  # no gradient, or one of zeros: plain SGD stays where it is
    assert same(latents(optimizer), before)


@pytest.mark.parametrize("method", METHODS)
def test_a_frozen_layer_goes_to_its_nearest_levels(method):
    """It gets no gradients, so nothing but the growing beta moves its weights, and rounding them changes no sign."""
    model = network(norm=False)
    model[0].requires_grad_(False)
    first = model[0].weight.clone()
    optimizer = sgd(model, method=method, steps=STEPS)
    far = (model[0].weight.abs() - 1).abs()
    train(model, optimizer, STEPS)
    assert not torch.equal(latents(optimizer)[1], latents(sgd(network(norm=False), method=method, steps=STEPS))[1])
    assert torch.equal(model[0].weight.sign(), first.sign())
    assert ((model[0].weight.abs() - 1).abs() <= far + 1e-6).all()
    optimizer.finalize()
    assert torch.equal(model[0].weight, first.sign())


PULLS = [
    *((method, {}) for method in METHODS),
    *(("pmf", {"projection": projection}) for projection in (SoftStaircase("interval"), PiecewiseAffine(), Relax())),
    *(("mean-field", {"projection": PiecewiseAffine(), "pull": pull}) for pull in ("surrogate", "exact")),
    ("bc", {"pull": "clipped"}),
]


@pytest.mark.parametrize("scale", [None, 2])
@pytest.mark.parametrize("labels", ["binary", "2bit", [-0.7, -0.1, 0.4, 1.1, 2.0]], ids=str)
@pytest.mark.parametrize(("method", "settings"), PULLS)
def test_latents_get_the_gradients_that_the_projection_says(method, settings, labels, scale):
    """Whatever memory is shared on the way."""
    model = network(dtype=torch.float64)
    optimizer = sgd(model, 0.3, method=method, labels=labels, scale=scale, steps=9, **settings)
    seen = []
    optimizer.base.register_step_pre_hook(lambda *_: seen.append([v.grad.clone() for v in latents(optimizer)]))
    train(model, optimizer, 3)
    [kept] = [group for group in optimizer._groups if group.latents]
    held = [(latent.v.clone(), latent.parameter.detach().clone()) for latent in kept.latents]
    train(model, optimizer, 1, first=3)
    beta = kept.beta(0 if kept.method.carry == "mirror" else 2)
    for latent, (v, w), found in zip(kept.latents, held, seen[-1], strict=True):
        if not isinstance(latent.projection, ScalarProjection):
            continue
        factors = 1.0 if latent.scales is None else latent.scales[:, None]
        at, value = (t.view(latent.rows, -1) / factors for t in (v, w))
        g = latent.parameter.grad.view(latent.rows, -1)
        if kept.method.pull == "clipped":
            expected = g * ((at > latent.levels[0]) & (at < latent.levels[-1]))
        else:
            expected = latent.projection.pull_value(kept.method.pull, g, at, value, beta, latent.labels)
        torch.testing.assert_close(found.view(expected.shape), expected, rtol=1e-8, atol=1e-10)


# ---- mixed precision ------------------------------------------------------------------------------------


@pytest.mark.parametrize("fused", [False, True])
def test_a_gradient_scaler_scales_unscales_and_skips(fused):
    plain, scaled = network(), network()
    first, second = (
        LabelOptimizer(torch.optim.Adam(m.parameters(), lr=0.02, fused=fused), steps=8) for m in (plain, scaled)
    )
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    train(plain, first, 6)
    for step in range(6):
        second.zero_grad()
        start = step % 4 * 16
        scaler.scale(loss_of(scaled, start, start + 16)).backward()
        if step % 2:
            scaler.unscale_(second)
            nn.utils.clip_grad_norm_(scaled.parameters(), 1e6)
        scaler.step(second)
        scaler.update()
    assert same(dict(plain.state_dict()), dict(scaled.state_dict()))
    before = copy.deepcopy(second.state_dict())
    scaled[0].weight.grad.fill_(torch.inf)
    scaler.scale(torch.zeros(()))
    scaler.step(second)
    scaler.update()
    assert same(before, second.state_dict())
    assert scaler.get_scale() == 2.0**9


def test_autocast_trains_float32_latents():
    model, exact = network(norm=False), network(norm=False)
    optimizer, reference = (sgd(m, 0.3, method="gd-tanh", schedule=1.0) for m in (model, exact))
    begin = [v.clone() for v in latents(optimizer)]
    for _ in range(20):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(INPUTS.float())
            loss = nn.functional.cross_entropy(logits, TARGETS)
        assert logits.dtype == torch.bfloat16
        loss.backward()
        optimizer.step()
        reference.zero_grad()
        loss_of(exact).backward()
        reference.step()
    for v, w, first in zip(latents(optimizer), latents(reference), begin, strict=True):
        assert v.dtype == torch.float32
        assert 0 < (v - w).norm() < 0.1 * (w - first).norm()


def test_small_steps_add_up_in_a_bfloat16_network():
    """A step of 1/1000 is lost on a bfloat16 weight of 1, and is not lost on its latent."""
    model = nn.Linear(4, 3, bias=False, dtype=torch.bfloat16)
    with torch.no_grad():
        model.weight.fill_(1)
    plain = nn.Parameter(torch.ones_like(model.weight))
    optimizer, other = sgd(model, 1e-3, method="bc"), torch.optim.SGD([plain], lr=1e-3)
    assert torch.equal(model.weight, plain)
    for _ in range(1100):
        model.weight.grad, plain.grad = torch.ones_like(model.weight), torch.ones_like(plain)
        optimizer.step()
        other.step()
    assert torch.equal(plain, torch.ones_like(plain))
    assert torch.equal(model.weight, -torch.ones_like(plain))
    assert model.weight.dtype == torch.bfloat16
    assert latents(optimizer)[0].dtype == torch.float32
    torch.testing.assert_close(latents(optimizer)[0], torch.full((3, 4), -0.1), rtol=0, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("scale", [None, "channel"])
@pytest.mark.parametrize("method", METHODS)
def test_networks_of_any_precision(tmp_path, method, scale, dtype):
    model = network(dtype=torch.float32).to(dtype)
    optimizer = sgd(model, momentum=0.9, method=method, labels=[-0.7, 0.1, 0.4], scale=scale, steps=6)
    train(model, optimizer, 3)
    state = through_torch(optimizer.state_dict(), tmp_path)
    kept = copy.deepcopy(model.state_dict())
    train(model, optimizer, 3, first=3)
    assert all(p.dtype == dtype for p in model.parameters())
    assert all(v.dtype == torch.promote_types(dtype, torch.float32) for v in latents(optimizer))
    other = network().to(dtype)
    fresh = sgd(other, method="bc")
    fresh.load_state_dict(state)
    other.load_state_dict(kept)
    train(other, fresh, 3, first=3)
    optimizer.finalize()
    fresh.finalize()
    assert same(dict(model.state_dict()), dict(other.state_dict()))
    if scale is None:
        levels = torch.tensor([-0.7, 0.1, 0.4], dtype=torch.promote_types(dtype, torch.float32)).to(dtype)
        assert torch.isin(model[0].weight, levels).all()


# ---- closures -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_a_closure_changes_nothing(method):
    plain, closed = network(), network()
    first = sgd(plain, momentum=0.9, labels="ternary", method=method, steps=6)
    second = sgd(closed, momentum=0.9, labels="ternary", method=method, steps=6)
    for _ in range(6):
        first.zero_grad()
        expected = loss_of(plain)
        expected.backward()
        first.step()

        def closure():
            second.zero_grad()
            loss = loss_of(closed)
            loss.backward()
            return loss

        assert torch.equal(second.step(closure), expected)
    assert same(first.state_dict(), second.state_dict())
    assert same(dict(plain.state_dict()), dict(closed.state_dict()))


def test_lbfgs_is_lbfgs_on_the_latents():
    """With the exact pull it is L-BFGS on `v` of `loss(tanh(v))`, line searches and all."""
    model, plain = network(dtype=torch.float64, norm=False), network(dtype=torch.float64, norm=False)

    def lbfgs(parameters):
        return torch.optim.LBFGS(parameters, lr=0.5, max_iter=6, line_search_fn="strong_wolfe")

    optimizer = LabelOptimizer(lbfgs(model.parameters()), method="gd-tanh", schedule=1.0)
    names = [name for name, _ in plain.named_parameters()]
    free = {name: v.clone().requires_grad_() for name, v in zip(names, latents(optimizer), strict=True)}
    reference = lbfgs(list(free.values()))

    def closure():
        optimizer.zero_grad()
        loss = loss_of(model)
        loss.backward()
        return loss

    def reference_closure():
        reference.zero_grad()
        weights = {name: torch.tanh(v) for name, v in free.items()}
        loss = nn.functional.cross_entropy(torch.func.functional_call(plain, weights, INPUTS), TARGETS)
        loss.backward()
        return loss

    losses = [(optimizer.step(closure).item(), reference.step(reference_closure).item()) for _ in range(4)]
    assert losses[-1][0] < 0.7 * losses[0][0]
    for mine, theirs in losses:
        assert mine == pytest.approx(theirs, rel=1e-8)
    for v, u in zip(latents(optimizer), free.values(), strict=True):
        torch.testing.assert_close(v, u.detach(), rtol=1e-6, atol=1e-8)


def test_lbfgs_lowers_the_loss_with_a_mirror_map(tmp_path):
    model = network(norm=False)
    base = torch.optim.LBFGS(model.parameters(), lr=0.3, max_iter=10, line_search_fn="strong_wolfe")
    optimizer = LabelOptimizer(base, method="md-tanh-s", schedule=1.0)

    def closure():
        optimizer.zero_grad()
        loss = loss_of(model)
        loss.backward()
        return loss

    first = optimizer.step(closure).item()
    state = through_torch(optimizer.state_dict(), tmp_path)
    last = [optimizer.step(closure).item() for _ in range(3)]
    assert last[-1] < 0.85 * first
    model = network(norm=False, seed=1)
    base = torch.optim.LBFGS(model.parameters(), line_search_fn="strong_wolfe")
    optimizer = LabelOptimizer(base, method="bc")
    optimizer.load_state_dict(state)
    assert [optimizer.step(closure).item() for _ in range(3)] == last


# ---- base optimisers ------------------------------------------------------------------------------------

OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=1e-2),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "SGD fused": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, fused=True),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.05, amsgrad=True),
    "AdamW fused": lambda p: torch.optim.AdamW(p, lr=0.05, fused=True),
    "AdamW foreach": lambda p: torch.optim.AdamW(p, lr=0.05, foreach=True),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.05),
    "Adadelta": lambda p: torch.optim.Adadelta(p, lr=1.0),
    "Adafactor": lambda p: torch.optim.Adafactor(p, lr=0.05),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.02, momentum=0.5, centered=True),
    "RAdam": lambda p: torch.optim.RAdam(p, lr=0.05),
    "NAdam": lambda p: torch.optim.NAdam(p, lr=0.05),
    "Adamax": lambda p: torch.optim.Adamax(p, lr=0.05, foreach=True),
    "ASGD": lambda p: torch.optim.ASGD(p, lr=0.1),
    "Rprop": lambda p: torch.optim.Rprop(p, lr=0.02),
    "Muon": lambda p: torch.optim.Muon(p, lr=0.1),
}


@pytest.mark.parametrize("scale", [None, 3])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_any_base_optimizer_steps_on_the_latents(name, scale):
    """BinaryConnect with it, written out: gradients at the rounded weights, steps on the float ones."""
    if not hasattr(torch.optim, name.split()[0]) and name != "nesterov":
        pytest.skip(f"this torch has no {name}")
    model = nn.Sequential(nn.Linear(6, 9, bias=False), nn.Tanh(), nn.Linear(9, 2, bias=False))
    plain = copy.deepcopy(model)
    optimizer = LabelOptimizer(OPTIMIZERS[name](model.parameters()), method="bc", scale=scale)
    factors = [latent.grid.scales for latent in optimizer._all()]
    free = [v.clone().view(p.shape) for v, p in zip(latents(optimizer), plain.parameters(), strict=True)]
    reference = OPTIMIZERS[name](free)
    for step in range(STEPS):
        train(model, optimizer, 1, first=step)
        with torch.no_grad():
            for p, v, s in zip(plain.parameters(), free, factors, strict=True):
                signs = torch.where(v > 0, 1.0, -1.0)
                p.copy_(signs if s is None else (signs.view(len(s), -1) * s[:, None]).view(p.shape))
        gradients = torch.autograd.grad(loss_of(plain, step % 4 * 16, step % 4 * 16 + 16), list(plain.parameters()))
        for v, g in zip(free, gradients, strict=True):
            v.grad = g
        reference.step()
    start = latents(LabelOptimizer(OPTIMIZERS[name](copy.deepcopy(plain).parameters()), method="bc"))
    for v, u, s in zip(latents(optimizer), free, start, strict=True):
        torch.testing.assert_close(v.view(u.shape), u, rtol=1e-5, atol=1e-6)
        assert (u - s.view(u.shape)).norm() > 1e-3


# ---- parameter groups -----------------------------------------------------------------------------------


def test_float_groups_move_as_the_base_optimizer_moves_them():
    """Also beside quantized ones: the loss is a sum over two networks, one of them quantized."""
    for base in BASES.values():
        quantized, free, plain = network(), network(seed=1), network(seed=1)
        groups = [
            {"params": list(quantized.parameters()), "labels": "ternary"},
            {"params": list(free.parameters()), "labels": None, "lr": 0.07},
        ]
        optimizer = LabelOptimizer(base(groups), steps=STEPS)
        reference = base([{"params": list(plain.parameters()), "lr": 0.07}])
        for step in range(STEPS):
            start = step % 4 * 16
            optimizer.zero_grad()
            (loss_of(quantized, start, start + 16) + loss_of(free, start, start + 16)).backward()
            optimizer.step()
            train(plain, reference, 1, first=step)
        assert same(dict(free.state_dict()), dict(plain.state_dict()))
        assert not same(dict(free.state_dict()), dict(network(seed=1).state_dict()))
        optimizer.finalize()
        assert same(dict(free.state_dict()), dict(plain.state_dict()))
        assert all(grid_of(p) is None for p in free.parameters())
        assert all(grid_of(p) is not None for p in quantized.parameters())


def test_a_group_is_added_during_the_run(tmp_path):
    model = network(norm=False)
    base = torch.optim.Adam(model[0].parameters(), lr=0.02)
    optimizer = LabelOptimizer(base, steps=STEPS)
    last = copy.deepcopy(model[3].state_dict())
    train(model, optimizer, 3)
    assert same(last, model[3].state_dict())
    group = {"params": [model[3].weight], "labels": "2bit", "method": "parq", "scale": "channel", "lr": 0.05}
    optimizer.add_param_group(group)
    optimizer.add_param_group({"params": [model[3].bias], "labels": None})
    assert optimizer.param_groups is base.param_groups
    assert len(base.param_groups) == 3
    assert [len(group.latents) for group in optimizer._groups] == [1, 1, 0]
    with pytest.raises(ValueError, match="more than one parameter group"):
        optimizer.add_param_group({"params": [model[0].weight]})
    assert len(optimizer._groups) == 3
    train(model, optimizer, 2, first=3)
    state = through_torch({"model": dict(model.state_dict()), "optimizer": optimizer.state_dict()}, tmp_path)
    train(model, optimizer, STEPS - 5, first=5)

    other = network(seed=1, norm=False)
    groups = [{"params": [p]} for p in other.parameters()]
    resumed = LabelOptimizer(torch.optim.Adam(groups), method="bc")
    resumed.load_state_dict(state["optimizer"])
    other.load_state_dict(state["model"])
    train(other, resumed, STEPS - 5, first=5)
    assert same(dict(model.state_dict()), dict(other.state_dict()))
    optimizer.finalize()
    assert set(model[0].weight.unique().tolist()) <= {-1.0, 1.0}
    assert grid_of(model[3].weight).levels == (-2.0, -1.0, 1.0, 2.0)
    assert grid_of(model[3].weight).rows == 2
    assert not same(last["bias"], model[3].bias.detach())


def test_groups_that_do_not_fit_leave_the_network_alone():
    model = network()
    groups = [{"params": [model[0].weight]}, {"params": [model[3].weight], "scale": 5}]
    with pytest.raises(InvalidParameterError, match="do not divide"):
        LabelOptimizer(torch.optim.SGD(groups, lr=0.1), steps=STEPS)
    assert same(dict(model.state_dict()), dict(network().state_dict()))


def test_a_group_that_cannot_be_adopted_leaves_no_trace():
    model = network(norm=False)
    optimizer = LabelOptimizer(torch.optim.SGD(model[0].parameters(), lr=0.1), steps=STEPS)
    with pytest.raises(InvalidParameterError, match="do not divide"):
        optimizer.add_param_group({"params": list(model[3].parameters()), "scale": 5})
    train(model, optimizer, 2)
    assert len(optimizer.param_groups) == len(optimizer._groups) == 1


# ---- other ways of running a network --------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_compiled_training_takes_the_eager_steps():
    if not any(map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++"))):
        pytest.skip("torch.compile needs a C++ compiler")
    model, eager = network(), network()
    optimizer, reference = (sgd(m, momentum=0.9, labels="ternary", steps=STEPS) for m in (model, eager))
    torch._dynamo.reset()
    compiled = torch.compile(model)
    train(compiled, optimizer, 1)
    with torch._dynamo.config.patch(error_on_recompile=True):
        train(compiled, optimizer, STEPS - 1, first=1)
        with optimizer.quantized():
            loss_of(compiled, 0, 16)
    train(eager, reference, STEPS)
    for v, u in zip(latents(optimizer), latents(reference), strict=True):
        torch.testing.assert_close(v, u, rtol=1e-3, atol=1e-4)


IMAGES = torch.randn(8, 4, 4, 4, generator=GENERATOR, dtype=torch.float64)


def convolutions():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 2), nn.Flatten()).double()


def train_on_images(model, optimizer, steps=6):
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(IMAGES), torch.arange(8) % 5).backward()
        optimizer.step()


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("scale", [None, "channel", 2])
@pytest.mark.parametrize("method", METHODS)
def test_channels_last_networks(method, scale, late):
    """Also with an optimiser that walks through the memory of weights and gradients, whatever their order in it."""
    model, other = convolutions(), convolutions()
    if not late:
        other.to(memory_format=torch.channels_last)
    settings = {"method": method, "labels": "ternary", "scale": scale, "steps": 6}
    optimizer = LabelOptimizer(torch.optim.Adam(model.parameters(), lr=0.01), **settings)
    fused = LabelOptimizer(torch.optim.Adam(other.parameters(), lr=0.01, fused=True), **settings)
    other.to(memory_format=torch.channels_last)
    train_on_images(model, optimizer)
    train_on_images(other, fused)
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-8, atol=1e-8)
    optimizer.finalize()
    fused.finalize()
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-8, atol=1e-8)
    assert other[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert not other[0].weight.is_contiguous()


def test_tied_weights_have_one_latent(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = nn.Linear(6, 6, bias=False)
            self.decoder = nn.Linear(6, 6, bias=False)
            self.decoder.weight = self.encoder.weight

        def forward(self, inputs):
            return self.decoder(torch.tanh(self.encoder(inputs)))

    torch.manual_seed(0)
    model = Tied()
    optimizer = sgd(model, method="bc")
    [v] = latents(optimizer)
    before = v.clone()
    loss_of(model).backward()
    optimizer.step()
    first, second = (model.encoder.weight.detach().clone().requires_grad_() for _ in range(2))
    with torch.no_grad():
        for copied in (first, second):
            copied.copy_(torch.where(before > 0, 1.0, -1.0))
    hidden = torch.tanh(nn.functional.linear(INPUTS.float(), first))
    nn.functional.cross_entropy(nn.functional.linear(hidden, second), TARGETS).backward()
    torch.testing.assert_close(v, before - 0.1 * (first.grad + second.grad))
    optimizer.finalize()
    assert model.encoder.weight is model.decoder.weight
    assert grid_of(model.decoder.weight).exact(model.encoder.weight)


# ---- copies, hooks, text --------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [copy.deepcopy, lambda both: pickle.loads(pickle.dumps(both))], ids=["copy", "pickle"])
@pytest.mark.parametrize("scheduler", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_a_copy_goes_on_by_itself(method, scheduler, how):
    model = network()
    optimizer = sgd(model, momentum=0.9, method=method, labels="ternary", scale="channel", refit_every=3, steps=STEPS)
    schedule = CosineAnnealingLR(optimizer, STEPS) if scheduler else None
    train(model, optimizer, 4)
    if schedule is not None:
        schedule.step()
    other, copied = how((model, optimizer))
    kept = copy.deepcopy((dict(model.state_dict()), optimizer.state_dict()))
    train(other, copied, 5, first=4)
    assert same(kept, (dict(model.state_dict()), optimizer.state_dict()))
    train(model, optimizer, 5, first=4)
    assert same(dict(model.state_dict()), dict(other.state_dict()))
    assert same(optimizer.state_dict(), copied.state_dict())
    assert copied.param_groups is copied.base.param_groups


def test_hooks_fire_once_a_step():
    model = network()
    optimizer = sgd(model, steps=9)
    seen = []
    handles = [
        optimizer.register_step_pre_hook(lambda o, args, kwargs: seen.append(("before", o))),
        optimizer.register_step_post_hook(lambda o, args, kwargs: seen.append(("after", o))),
    ]
    train(model, optimizer, 2)
    assert seen == [("before", optimizer), ("after", optimizer)] * 2
    for handle in handles:
        handle.remove()
    train(model, optimizer, 1)
    assert len(seen) == 4


def test_state_hooks_fire():
    optimizer = sgd(network(), steps=9)
    optimizer.register_state_dict_pre_hook(lambda o: seen.append("saving"))
    optimizer.register_state_dict_post_hook(lambda o, state: {**state, "epoch": 3})
    optimizer.register_load_state_dict_pre_hook(lambda o, state: seen.append(state["epoch"]))
    optimizer.register_load_state_dict_post_hook(lambda o: seen.append("loaded"))
    seen = []
    optimizer.load_state_dict(optimizer.state_dict())
    assert seen == ["saving", 3, "loaded"]


def test_its_text_says_what_it_is():
    model = network()
    optimizer = sgd(model, 0.25, labels="ternary", steps=9)
    train(model, optimizer, 2)
    text = repr(optimizer)
    count = sum(p.numel() for p in model.parameters())
    for part in ("LabelOptimizer(SGD", "lr: 0.25", "labels: ternary", "method: pmf", f"{count} quantized", "2 of 9"):
        assert part in text


# ---- several processes ----------------------------------------------------------------------------------

SCRIPT = Path(__file__).with_name("distributed_script.py")


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    """What each of two processes found."""
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        pytest.skip("this torch has no torch.distributed with gloo")
    folder = tmp_path_factory.mktemp("processes")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(SCRIPT)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with (folder / "log").open("w") as log:
        run = subprocess.Popen([*command, str(folder)], env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            code = run.wait(timeout=120)
        finally:
            if run.poll() is None:
                os.killpg(run.pid, signal.SIGKILL)  # torchrun, and the processes it started
                run.wait()
    assert code == 0, (folder / "log").read_text()[-4000:]
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("method", METHODS)
def test_two_processes_take_the_steps_of_one(processes, method):
    import distributed_script

    first, second = (found["ddp"][method] for found in processes)
    assert same(first, second)
    for a, b in zip(first, distributed_script.train(method), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)


def test_sharded_parameters_are_refused(processes):
    for found in processes:
        assert "InvalidParameterError" in found["fsdp"]
        assert "sharded over processes" in found["fsdp"]


# ---- memory and waiting ---------------------------------------------------------------------------------

MILLION = 2**20


def copies(run):
    """Return what calling `run` leaves allocated, and the most it takes meanwhile, in float32 copies of the weights."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        kept = run()
    live = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    del kept
    return live / (4 * MILLION), peak / (4 * MILLION)


def wide():
    torch.manual_seed(0)
    model = nn.Linear(MILLION // 64, 64, bias=False)
    model.weight.grad = torch.randn_like(model.weight)
    return model


def test_memory_is_measured():
    model = wide()
    held, peak = copies(lambda: [model.weight + 1, (model.weight + 1) * 2])
    assert held == pytest.approx(2, abs=0.01)
    assert peak == pytest.approx(3, abs=0.01)
    base = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    assert copies(base.step)[0] == pytest.approx(1, abs=0.01)


WIDE = ("binary", None), ("4bit", None), ("4bit", "channel")
CASES = [(method, *case) for method in METHODS for case in WIDE if method != "pgd" or case[0] == "binary"]


@pytest.mark.parametrize(("method", "labels", "scale"), [*CASES, ("pgd", "ternary", None)])
def test_two_copies_of_the_weights_for_any_number_of_labels(method, labels, scale):
    """A latent and a gradient of it, beside what the base optimiser has; sparsemax of many labels has a score each."""
    model, made = wide(), []
    held, _ = copies(lambda: made.append(sgd(model, 1e-3, method=method, labels=labels, scale=scale, steps=9)))
    [optimizer] = made
    optimizer.step()
    _, peak = copies(optimizer.step)
    state = sum(t.numel() for latent in optimizer._all() for t in latent.state().values() if t is not None) / MILLION
    count = 1 if method != "pgd" or labels == "binary" else len(optimizer._all()[0].levels)
    memory = 1 if method == "mean-field" else 0  # of the weights that it mixes with
    assert count + memory <= state < count + memory + 0.1
    # Temporary tensors of parts of the weights come on top of the two, or of all the scores.
    assert held + peak < (2.5 if count == 1 else 9 * count)


def _indices(args):
    return [t for t in (args[1] if len(args) > 1 and isinstance(args[1], list | tuple) else ()) if t is not None]


class NoWaiting(TorchDispatchMode):
    """Refuse whatever makes a program wait for a GPU: to read a number, to know a shape, to copy numbers there."""

    WAITS = (
        *("_local_scalar_dense", "item", "is_nonzero", "equal"),
        *("nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "repeat_interleave"),
        "lift_fresh",  # numbers of Python that become a tensor
    )

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name.split("::")[1]
        masks = name.startswith("index") and any(t.dtype == torch.bool for t in _indices(args))
        if name in self.WAITS or masks:
            raise AssertionError(f"{name} waits for the device")
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("scale", [None, "channel", 2])
@pytest.mark.parametrize("labels", ["binary", "ternary", [-0.7, -0.1, 0.4, 1.1, 2.0]], ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_a_step_never_waits_for_the_device(monkeypatch, method, labels, scale):
    model = network()
    every = None if scale is None else 2
    optimizer = sgd(model, momentum=0.9, method=method, labels=labels, scale=scale, refit_every=every, steps=8)

    def refuse(self):
        raise AssertionError("a tensor is read")

    for name in ("tolist", "numpy", "cpu", "item", "__bool__", "__float__", "__int__"):
        monkeypatch.setattr(torch.Tensor, name, refuse)
    for _ in range(3):
        optimizer.zero_grad()
        loss_of(model).backward()
        with NoWaiting():
            optimizer.step()


def test_the_guard_against_waiting_sees_waiting():
    ones = torch.ones(3)
    for wait in (
        lambda: bool((ones > 0).any()),
        lambda: ones[ones > 0],
        lambda: ones.sum().item(),
        ones.unique,
        ones.nonzero,
        lambda: torch.equal(ones, ones),
        lambda: torch.tensor([1.0, 2.0]),
    ):
        with pytest.raises(AssertionError, match="waits"), NoWaiting():
            wait()
