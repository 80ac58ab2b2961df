"""What `docs/papers.md` says: facts of the papers' methods to 1e-12, its table of methods, its commands."""

import dataclasses
import functools
import itertools
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import torch
import typer
from conftest import Quadratic
from torch import nn
from torch.nn.functional import hardtanh, one_hot
from torch.optim.lr_scheduler import LambdaLR

import mrfq.train.command
from mrfq import Geometric, LabelSet, Linear, projections, schedules
from mrfq.commands.train import train as train_command
from mrfq.labels import integer_levels
from mrfq.nn import METHODS, LabelOptimizer
from mrfq.projections import DistanceSoftmax, Softmax, Sparsemax
from mrfq.train.command import chosen_settings
from mrfq.train.config import make_settings
from mrfq.train.optimizers import make_optimizer

ROOT = Path(__file__).parents[1]
N, STEPS, RATE = 8, 9, 0.1
#: beta of most runs
BETA = Geometric(1, 6)
LABELS = ["binary", "ternary", "2bit"]
close = functools.partial(torch.testing.assert_close, rtol=0, atol=1e-12)


class Energy(nn.Module):
    """A quadratic function of weights that are all its parameters, called with nothing."""

    def __init__(self):
        super().__init__()
        self.problem = Quadratic(n=N, seed=3)
        start = 0.8 * torch.randn(N, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        self.w = nn.Parameter(start)

    def forward(self):
        return self.problem.of_values(self.w)


def gradient(w):
    return Quadratic(n=N, seed=3).gradient(w)


def beta(k, schedule=BETA):
    return schedule(k / (STEPS - 1))


def path(optimizer=torch.optim.SGD, each_step=None, steps=STEPS, **settings):
    """Return the weights before each step of a run of `LabelOptimizer`, and after the last."""
    energy = Energy()
    made = LabelOptimizer(optimizer([energy.w]), **{"schedule": BETA, "start": "weights", "steps": STEPS, **settings})
    scheduler = None if each_step is None else LambdaLR(made, each_step)
    found = [energy.w.detach().clone()]
    for _ in range(steps):
        made.zero_grad()
        energy().backward()
        made.step()
        if scheduler is not None:
            scheduler.step()
        found.append(energy.w.detach().clone())
    return torch.stack(found)


def sgd(rate=RATE, **settings):
    return functools.partial(torch.optim.SGD, lr=rate, **settings)


def adam(rate=RATE, **settings):
    return functools.partial(torch.optim.Adam, lr=rate, **settings)


def start():
    return Energy().w.detach()


# ---- one number a weight --------------------------------------------------------------------------------


@pytest.mark.parametrize("labels", LABELS)
def test_the_primal_form_with_growing_beta_is_the_stable_form_with_a_growing_rate(labels):
    """Exponentiated gradient on all labels, written out; one number a weight; and the stable form at the first beta."""
    q = torch.tensor(integer_levels(labels), dtype=torch.float64)
    u = torch.softmax(-BETA.first * (start()[:, None] - q) ** 2 / 2, 1)
    expected = [u @ q]
    for k in range(STEPS):
        u = u * torch.exp(-beta(k) * RATE * gradient(u @ q)[:, None] * q)
        u = u / u.sum(1, keepdim=True)
        expected.append(u @ q)
    primal = path(sgd(), labels=labels, method="md-softmax")
    stable = path(sgd(), lambda k: beta(k) / BETA.first, labels=labels, method="md-softmax-s", schedule=BETA.first)
    close(primal, torch.stack(expected))
    close(stable, primal)


def change_of_scores(optimizer):
    """Return how much the scores (n, 4) of the labels -2, -1, 1, 2 have changed in a run of stable mirror descent."""
    energy = Energy()
    made = LabelOptimizer(
        optimizer([energy.w]), labels="2bit", method="md-softmax-s", projection=Softmax(), schedule=BETA, steps=STEPS
    )
    v = made._all()[0].v
    first = v.clone()
    for _ in range(STEPS):
        made.zero_grad()
        energy().backward()
        made.step()
    return v - first


def test_adam_on_scores_cannot_tell_labels_of_one_sign_apart():
    """The gradients of the scores are g q, and Adam does not see their size: every score moves by about the rate."""
    change = change_of_scores(adam(eps=1e-300))
    close(change[:, 2], change[:, 3])
    close(change[:, 1], change[:, 0])
    close(change[:, 2], -change[:, 1])
    assert float(change.abs().min()) > 1e-4
    plain = change_of_scores(sgd())
    close(plain[:, 3], 2 * plain[:, 2])


def test_the_first_step_of_adam_on_scores_is_the_rate_for_every_label():
    g = torch.tensor([0.3, -4.0], dtype=torch.float64)
    v = nn.Parameter(torch.zeros(2, 4, dtype=torch.float64))
    v.grad = g[:, None] * torch.tensor(integer_levels("2bit"), dtype=torch.float64)
    adam(0.01, eps=1e-300)([v]).step()
    close(v.detach(), -0.01 * v.grad.sign())


# ---- two labels -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", [sgd(momentum=0.9), adam()], ids=["sgd", "adam"])
@pytest.mark.parametrize("labels", [[-1.0, 1.0], [0.0, 2.0]], ids=str)
@pytest.mark.parametrize(
    ("one", "other"), [("md-softmax-s", "md-tanh-s"), ("md-softmax", "md-tanh"), ("pmf-exact", "gd-tanh")]
)
def test_with_two_labels_two_apart_softmax_is_tanh(one, other, labels, optimizer):
    close(path(optimizer, method=one, labels=labels), path(optimizer, method=other, labels=labels))


def test_with_two_labels_pgd_is_gradient_descent_through_a_hard_tanh():
    found = path(sgd(momentum=0.9), method="pgd")
    v = nn.Parameter(start())
    plain = sgd(momentum=0.9)([v])
    close(found[0], hardtanh(beta(0) * v.detach()))
    for k in range(STEPS):
        plain.zero_grad()
        w = hardtanh(beta(max(k - 1, 0)) * v)
        (w * gradient(w.detach())).sum().backward()
        plain.step()
        close(found[k + 1], hardtanh(beta(k) * v.detach()))
    assert bool((found.abs() == 1).any())
    assert bool((found.abs() < 1).any())


def binary_sparsemax(v, b):
    return Sparsemax().forward(v, b, LabelSet.named("binary", N))


def softmax(v, b):
    return torch.softmax(b * v, 1)


def surrogate(g, v, u, b):
    return b * (g - u * (u * g).sum(1, keepdim=True))


def softmax_jacobian(g, v, u, b):
    return b * u * (g - (u * g).sum(1, keepdim=True))


def sparsemax_jacobian(g, v, u, b):
    support = (u > 0).double()
    return b * support * (g - (support * g).sum(1, keepdim=True) / support.sum(1, keepdim=True))


def clipped_half(g, v, u, b):
    """Half the difference of both gradients, with both signs, where the latents differ by at most 1."""
    half = 0.5 * (g[:, 1] - g[:, 0]) * ((v[:, 1] - v[:, 0]).abs() <= 1)
    return torch.stack([-half, half], 1)


def momentum(rate, **settings):
    return sgd(rate, momentum=0.9, **settings)


def argmax(v, b):
    return one_hot(v.argmax(1), 2).double()


def identity(g, v, u, b):
    return g


#: projection and pull on two latents; what of their difference is the one number; its rate and weight decay, as factors
PUBLISHED = [
    ("pmf", softmax, surrogate, 0.5, momentum, (1, 1)),
    ("pmf-exact", softmax, softmax_jacobian, 0.5, momentum, (0.5, 2)),
    ("pmf-exact", softmax, softmax_jacobian, 0.5, adam, (1, 2)),
    ("pgd", binary_sparsemax, sparsemax_jacobian, 1, momentum, (2, 0.5)),
    ("pgd", binary_sparsemax, sparsemax_jacobian, 1, adam, (2, 0.5)),
    ("picm", argmax, clipped_half, 1, momentum, (2, 0.5)),
    ("picm", argmax, clipped_half, 1, adam, (2, 0.5)),
    ("md-softmax-s", softmax, identity, 0.5, momentum, (1, 1)),
    ("md-softmax-s", softmax, identity, 0.5, adam, (1, 1)),
]


@pytest.mark.parametrize(("method", "project", "pull", "share", "optimizer", "factors"), PUBLISHED)
def test_two_latents_of_the_published_code_are_one_number(method, project, pull, share, optimizer, factors):
    """Two scores a weight, with weight decay, against one number: their difference, or half of it."""
    q, decay = torch.tensor([-1.0, 1.0], dtype=torch.float64), 0.01
    v = nn.Parameter(torch.stack([-start(), start()], 1) / (2 * share))
    published = optimizer(RATE, weight_decay=decay, **small_eps(optimizer))([v])
    expected = [project(v.detach(), beta(0)) @ q]
    for k in range(STEPS):
        b = beta(max(k - 1, 0))
        u = project(v.detach(), b)
        v.grad = pull(gradient(u @ q)[:, None] * q, v.detach(), u, b)
        published.step()
        expected.append(project(v.detach(), beta(k)) @ q)
    mine = optimizer(RATE * factors[0], weight_decay=decay * factors[1], **small_eps(optimizer))
    close(path(mine, method=method), torch.stack(expected))


def small_eps(optimizer):
    """Adam divides by the size of a gradient plus eps, which is no change of scale."""
    return {"eps": 1e-300} if optimizer is adam else {}


def test_the_second_softmax_of_the_published_code_in_one_number():
    """With s = softmax(beta u) the surrogate is `beta g (1 - tanh(beta w / 2)^2 / 2)`, w itself a tanh."""
    labels, b = LabelSet.named("binary", N), 3.0
    g, w = gradient(start()), torch.tanh(b * start())
    u = labels.interpolate(w)
    s = torch.softmax(b * u, 1)
    pulled = Softmax().surrogate(labels.lift(g), s, b, labels)
    t = torch.tanh(b * w / 2)
    close((pulled[:, 1] - pulled[:, 0]) / 2, b * g * (1 - t**2 / 2))
    close(s[:, 1] - s[:, 0], t)


@pytest.mark.parametrize("shift", [0.0, 1.0, 5.0])
def test_the_published_surrogate_depends_on_where_zero_is(shift):
    """For levels s - 1 and s + 1 it is `beta g (1 - z (z + s) / 2)`, which has the wrong sign for large s."""
    labels, b = LabelSet.shared([shift - 1, shift + 1], N), 2.0
    z, g = torch.linspace(-0.9, 0.9, N, dtype=torch.float64), torch.ones(N, dtype=torch.float64)
    u = torch.stack([1 - z, 1 + z], 1) / 2
    pulled = Softmax().surrogate(labels.lift(g), u, b, labels)
    found = (pulled[:, 1] - pulled[:, 0]) / 2
    close(found, b * g * (1 - z * (z + shift) / 2))
    assert bool((found < 0).any()) == (shift == 5)


# ---- without a carry, and with the point itself ---------------------------------------------------------


@pytest.mark.parametrize("labels", [*LABELS, "3bit"])
@pytest.mark.parametrize("b", [0.01, 1.0, 100.0])
def test_mean_field_of_the_linearised_energy_chooses_extreme_levels_only(labels, b):
    q = torch.tensor(integer_levels(labels), dtype=torch.float64)
    g = torch.randn(500, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    u = torch.softmax(-b * g[:, None] * q, 1)
    assert set(u.argmax(1).tolist()) == {0, len(q) - 1}
    mean = DistanceSoftmax(curvature=0.0).value(-g, b, LabelSet.shared(q.tolist(), 500))
    close(mean, u @ q)


def test_a_mean_field_step_moves_towards_an_extreme_level():
    found = path(sgd(1.0), labels="2bit", method="mean-field", schedule=1e9)
    for old, new in itertools.pairwise(found):
        close(new, 0.95 * old - 0.05 * 2 * gradient(old).sign())


@pytest.mark.parametrize("labels", LABELS)
def test_the_steps_of_the_theorem_start_at_the_point(labels):
    """Projected gradient, sparsemax(u - eta g), and proximal mean-field, softmax(beta (u - eta g)), for all labels."""
    q, n = torch.tensor(integer_levels(labels), dtype=torch.float64), LabelSet.named(labels, N)
    cases = [
        (Sparsemax(), 1.0, n.interpolate(start())),
        (Softmax(), 3.0, torch.softmax(3.0 * (start()[:, None] * q - q**2 / 2), 1)),
    ]
    for projection, b, first in cases:
        u = first
        expected = [u @ q]
        for _ in range(STEPS):
            u = projection.forward(u - RATE * gradient(u @ q)[:, None] * q, b, n)
            expected.append(u @ q)
        settings = {"carry": "primal", "pull": "identity", "schedule": b}
        found = path(sgd(), labels=labels, method="pgd", projection=projection, **settings)
        close(found, torch.stack(expected))


def test_proxquant_is_the_proximal_map_of_the_paper_after_every_step():
    w, strength = start(), Linear(0, 0.3)
    found = path(sgd(), method="proxquant", schedule=strength)
    for k in range(STEPS):
        w = w - RATE * gradient(w)
        distance = w.abs() - 1
        w = w.sign() * (1 + distance.sign() * (distance.abs() - beta(k, strength)).clamp(min=0))
        close(found[k + 1], w)


def test_binary_relax_is_the_relaxation_of_the_paper():
    """`w = (v + lambda Q(v)) / (1 + lambda)`, Q the signs times the mean size, which follows the latents."""

    def relaxed(v, strength):
        return (v + strength * v.sign() * v.abs().mean()) / (1 + strength)

    v = start()
    found = path(sgd(), method="binary-relax", scale="tensor", refit_every=1)
    for k in range(STEPS):
        v = v - RATE * gradient(found[k])
        close(found[k + 1], relaxed(v, beta(k)))


# ---- the page -------------------------------------------------------------------------------------------


def text_of(page):
    return (ROOT / "docs" / page).read_text("utf-8")


def cells(row):
    return [cell.strip() for cell in row.strip().strip("|").split(" | ")]


def test_the_table_is_that_of_the_code():
    rows = [
        cells(line)
        for line in text_of("papers.md").split("## The table")[1].split("\n## ")[0].splitlines()
        if line[:3] == "| `"
    ]
    names = vars(projections) | vars(schedules)
    found = {}
    for name, projection, carry, pull, schedule, *_ in rows:
        parts = [eval(text, names) for text in re.findall(r"`([^`]+)`", projection)]
        found[name.strip("`")] = (*parts, carry, pull, eval(schedule.strip("`"), names))
    expected = {}
    for name, made in METHODS.items():
        parts = [made.projection] if made.two is None else [made.projection, made.two]
        expected[name] = (*parts, made.carry, made.pull, schedules.as_schedule(made.schedule))
    assert found == expected


def test_tests_named_on_the_page_exist():
    named = re.findall(r"`tests/(\w+\.py)::(\w+)`", text_of("papers.md"))
    assert named
    files = {file: (ROOT / "tests" / file).read_text("utf-8") for file, _ in named}
    assert [name for file, name in named if f"def {name}(" not in files[file]] == []


def test_every_test_of_a_fact_is_named_on_the_page():
    own = re.findall(r"^def (test_\w+)\(", Path(__file__).read_text("utf-8").split("# ---- the page")[0], re.MULTILINE)
    assert own
    assert [name for name in own if f"`tests/test_papers.py::{name}`" not in text_of("papers.md")] == []


def commands(page):
    """Return the `mrfq train` commands on a page, as lists of words."""
    text = text_of(page).replace("\\\n", " ")
    return [shlex.split(line, comments=True)[2:] for line in re.findall(r"^\$ (mrfq train .*)$", text, re.MULTILINE)]


@pytest.mark.parametrize("page", ["papers.md", "train.md"])
def test_commands_and_settings_on_a_page_make_an_optimizer(page, monkeypatch):
    requests = []
    monkeypatch.setattr(mrfq.train.command, "train_network", lambda request: requests.append(request) or 0)
    app = typer.Typer()
    app.command()(train_command)
    for words in commands(page):
        with pytest.raises(SystemExit, match="0"):
            app(words)
    assert len(requests) == len(commands(page)) > 3
    found = [chosen_settings(request) for request in requests if not (request.resume or request.config)]
    found += [
        make_settings(tomllib.loads(text)) for text in re.findall(r"^```toml\n(.*?)^```", text_of(page), re.M | re.S)
    ]
    for settings in found:
        resolved = dataclasses.replace(settings, device="cpu", parameters=None).resolved()
        made = make_optimizer(nn.Linear(4, 2), resolved, 100)
        assert isinstance(made, LabelOptimizer) == (settings.method != "float")
