"""The identities of the first-order family, the mirror maps and their relatives, to 1e-12: what makes it one family."""

import functools
import itertools

import pytest
import torch
from conftest import Quadratic, trajectory
from hypothesis import given
from hypothesis import strategies as st

from mrfq import Geometric, LabelSet, generators, solvers
from mrfq.projections import Argmax, PiecewiseAffine, Softmax, SoftStaircase, Sparsemax, Tanh
from mrfq.testing import LogCosh

BETA, ETA = 3.0, 0.4
seeds = st.integers(0, 2**32 - 1)
close = functools.partial(torch.testing.assert_close, rtol=0, atol=1e-12)


def random_point(problem, seed=1):
    """Return a relaxed labelling well inside the simplices."""
    scores = torch.rand(problem.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.softmax(scores, 1)


def feasible_points(shape, count=200):
    """Return random relaxed labellings, near vertices and inside."""
    random = torch.Generator().manual_seed(9)
    for k in range(count):
        yield torch.softmax(4 * (k % 5) * torch.randn(shape, generator=random, dtype=torch.float64), 1)


def one_step(problem, solver, u):
    return trajectory(problem, solver, u, 1)[1].u


def us(problem, solver, u, steps=25):
    return torch.stack([state.u for state in trajectory(problem, solver, u, steps)])


def entropy(u):
    return torch.special.entr(u).sum()


PROBLEMS = [
    generators.chain(4, 3, seed=2),
    LogCosh("ternary"),
    Quadratic("binary"),
    generators.spin_glass(2, 3, seed=1),
]
TWO_LABELS = [LogCosh("binary"), Quadratic("binary")]


@pytest.fixture(params=PROBLEMS, ids=lambda problem: f"{type(problem).__name__}-{problem.shape[1]}")
def problem(request):
    return request.param


@pytest.fixture(params=TWO_LABELS, ids=lambda problem: type(problem).__name__)
def two_labels(request):
    return request.param


# ---- the theorem: softmax-projected gradient descent is proximal mean-field -----------------------------


def test_softmax_projected_gradient_is_the_minimiser_of_the_proximal_mean_field_step(problem):
    u = random_point(problem)
    _, g = problem.linearize(u)
    new = one_step(problem, solvers.SoftmaxProjectedGradient(BETA, ETA), u)

    def objective(y):
        return ETA * (g * y).sum() - (u * y).sum() - entropy(y) / BETA

    close(new, torch.softmax(BETA * (u - ETA * g), 1))
    slope = ETA * g - u + (new.log() + 1) / BETA
    close(slope, slope.mean(1, keepdim=True).expand_as(slope))  # KKT: equal on a row, where all are positive
    assert all(objective(y) >= objective(new) - 1e-12 for y in feasible_points(problem.shape))


@pytest.mark.parametrize("beta", [0.1, 1.0, 30.0])
@pytest.mark.parametrize("eta", [0.05, 2.0])
def test_softmax_projected_gradient_is_the_factorised_gibbs_law(beta, eta):
    problem = generators.chain(4, 3, seed=2)
    u = random_point(problem)
    _, g = problem.linearize(u)
    new = one_step(problem, solvers.SoftmaxProjectedGradient(beta, eta), u)
    cost = eta * g - u
    labellings = list(itertools.product(range(3), repeat=4))
    law = torch.softmax(
        torch.tensor([-beta * sum(cost[i, a] for i, a in enumerate(x)) for x in labellings]).double(), 0
    )
    product = torch.stack([torch.stack([new[i, a] for i, a in enumerate(x)]).prod() for x in labellings])
    close(product, law)  # the minimum of KL(U || P) is 0, reached at U = P


@given(seed=seeds)
def test_the_inner_product_is_a_distance_with_a_term_exchanged(seed):
    points = [random_point(PROBLEMS[0], seed + k) for k in range(3)]
    center = points[0]

    def difference(y):
        distance = 0.5 * ((y - center) ** 2).sum() - 0.5 * (y**2).sum()
        return distance + (center * y).sum()

    close(difference(points[1]), difference(points[2]))


def test_proximal_mean_field_becomes_proximal_icm_at_beta_infinity(problem):
    u = random_point(problem)
    soft = one_step(problem, solvers.SoftmaxProjectedGradient(1e12, ETA), u)
    close(soft, one_step(problem, solvers.ProximalICM(ETA), u))
    _, g = problem.linearize(u)
    close(soft, problem.label_set.one_hot((u - ETA * g).argmax(1)))


def test_proximal_mean_field_in_practice_is_dual_with_the_surrogate(problem):
    v = random_point(problem).log() / BETA
    path = us(problem, solvers.ProximalMeanField(BETA, 0.05), random_point(problem))
    for u in path:
        close(u, torch.softmax(BETA * v, 1))
        _, g = problem.linearize(u)
        v = v - 0.05 * BETA * (g - u * (u * g).sum(1, keepdim=True))


def test_the_published_surrogate_projects_twice(problem):
    v = random_point(problem).log() / BETA
    path = us(problem, solvers.ProximalMeanField(BETA, 0.05, pull="surrogate-twice"), random_point(problem))
    for u in path:
        close(u, torch.softmax(BETA * v, 1))
        _, g = problem.linearize(u)
        s = torch.softmax(BETA * u, 1)
        v = v - 0.05 * BETA * (g - s * (s * g).sum(1, keepdim=True))


# ---- projected gradient descent -------------------------------------------------------------------------


@given(seed=seeds, beta=st.floats(0.1, 10))
def test_sparsemax_satisfies_the_variational_inequality(seed, beta):
    z = 2 * torch.randn(5, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    u = Sparsemax().forward(z, beta, LabelSet.shared([0, 1, 2, 3], 5))
    slack = beta * z - u
    vertices = slack - (slack * u).sum(1, keepdim=True)  # <z - u, y - u> at every vertex y
    assert float(vertices.max()) <= 1e-12


def test_projected_gradient_is_the_minimiser_of_its_proximal_step(problem):
    u = random_point(problem)
    _, g = problem.linearize(u)
    new = one_step(problem, solvers.ProjectedGradient(ETA), u)

    def objective(y):
        return ETA * (g * y).sum() + 0.5 * ((y - u) ** 2).sum()

    close(new, Sparsemax().forward(u - ETA * g, 1.0, problem.label_set))
    assert all(objective(y) >= objective(new) - 1e-12 for y in feasible_points(problem.shape))


# ---- mirror descent -------------------------------------------------------------------------------------


def test_exponentiated_gradient_multiplies_by_the_exponential(problem):
    u = random_point(problem)
    path = us(problem, solvers.ExponentiatedGradient(BETA, 0.1), u)
    for new in path[1:]:
        _, g = problem.linearize(u)
        u = u * torch.exp(-BETA * 0.1 * g)
        u = u / u.sum(1, keepdim=True)
        close(new, u)


def test_exponentiated_gradient_is_the_minimiser_of_its_proximal_step(problem):
    u = random_point(problem)
    _, g = problem.linearize(u)
    new = one_step(problem, solvers.ExponentiatedGradient(BETA, ETA), u)

    def objective(y):
        return ETA * (g * y).sum() + (torch.xlogy(y, y) - torch.xlogy(y, u)).sum() / BETA

    assert all(objective(y) >= objective(new) - 1e-12 for y in feasible_points(problem.shape))


def test_the_stable_form_of_softmax_mirror_descent_is_the_primal_one_at_a_fixed_beta(problem):
    u = random_point(problem)
    primal = us(problem, solvers.ExponentiatedGradient(BETA, 0.05), u)
    close(us(problem, solvers.StableMirrorDescent(BETA, 0.05), u), primal)


def test_with_an_annealed_beta_the_two_forms_differ(problem):
    u, schedule = random_point(problem), Geometric(1, 10)
    primal = us(problem, solvers.ExponentiatedGradient(schedule, 0.05), u)
    stable = us(problem, solvers.StableMirrorDescent(schedule, 0.05), u)
    assert float((primal - stable).abs().max()) > 1e-3


def test_tanh_mirror_descent_is_its_primal_formula(two_labels):
    u, eta = random_point(two_labels), 0.1
    path = us(two_labels, solvers.TanhMirrorDescent(BETA, eta), u)
    w = two_labels.label_set.mean(u)
    for new in path[1:]:
        _, g = two_labels.linearize(two_labels.label_set.interpolate(w))
        g_w = (g[:, 1] - g[:, 0]) / 2
        r = (1 + w) / (1 - w) * torch.exp(-2 * BETA * eta * g_w)
        w = (r - 1) / (r + 1)
        close(two_labels.label_set.mean(new), w)


def test_the_stable_form_of_tanh_mirror_descent_is_the_primal_one_at_a_fixed_beta(two_labels):
    u = random_point(two_labels)
    primal = us(two_labels, solvers.TanhMirrorDescent(BETA, 0.05), u)
    close(us(two_labels, solvers.StableTanhMirrorDescent(BETA, 0.05), u), primal)
    close(us(two_labels, solvers.Splitting(Tanh(), "mirror", schedule=BETA, rate=0.05), u), primal)


def test_the_latent_of_tanh_is_the_gradient_of_its_mirror_map():
    w = torch.linspace(-0.95, 0.95, 39, dtype=torch.float64).requires_grad_()
    phi = ((1 + w) * (1 + w).log() + (1 - w) * (1 - w).log()) / (2 * BETA)
    (gradient,) = torch.autograd.grad(phi.sum(), w)
    u = torch.stack([1 - w, 1 + w], 1).detach() / 2
    close(Tanh().latent(u, BETA, LabelSet.named("binary", 39)), gradient)


def test_tanh_on_values_is_softmax_on_two_labels(two_labels):
    labels = two_labels.label_set
    v = torch.randn(labels.shape[0], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    close(Tanh().forward(v, BETA, labels), Softmax().forward(labels.lift(v), BETA, labels))
    u = random_point(two_labels)
    tanh = us(two_labels, solvers.StableTanhMirrorDescent(BETA, 0.05), u)
    close(tanh, us(two_labels, solvers.StableMirrorDescent(BETA, 0.05), u))


def test_gradient_descent_tanh_is_autograd_through_tanh(two_labels):
    u = random_point(two_labels)
    path = us(two_labels, solvers.GradientDescentTanh(BETA, 0.05), u)
    v = (torch.atanh(two_labels.label_set.mean(u)) / BETA).requires_grad_()
    optimizer = torch.optim.SGD([v], lr=0.05)
    for new in path:
        close(two_labels.label_set.mean(new), torch.tanh(BETA * v.detach()))
        w = torch.tanh(BETA * v)
        value = two_labels.linearize(two_labels.label_set.interpolate(w.detach()))[1]
        optimizer.zero_grad()
        (w * (value[:, 1] - value[:, 0]) / 2).sum().backward()
        optimizer.step()


# ---- straight-through -----------------------------------------------------------------------------------


def plain_binary_connect(problem, latent, rate, steps):
    """Return the binary points of BinaryConnect as its paper writes it: one real weight, rounded by its sign."""
    points = []
    for _ in range(steps + 1):
        w = torch.where(latent > 0, 1.0, -1.0).double()
        points.append(w)
        latent = latent - rate * problem.gradient(w)
    return torch.stack(points)


@pytest.mark.parametrize("rate", [0.01, 0.2, 1.0])
def test_proximal_icm_with_kept_latents_is_binary_connect_with_twice_the_rate(rate):
    problem = Quadratic("binary", n=8, seed=3)
    u = random_point(problem)
    path = us(problem, solvers.BinaryConnect(rate / 2), u, steps=60)
    values = torch.stack([problem.label_set.mean(point) for point in path])
    assert values.equal(plain_binary_connect(problem, problem.label_set.mean(u), rate, 60))
    assert len(values.unique(dim=0)) > 1


@pytest.mark.parametrize("rate", [0.01, 0.2, 1.0])
def test_stable_mirror_descent_with_a_sign_is_binary_connect(rate):
    problem = Quadratic("binary", n=8, seed=3)
    u = random_point(problem)
    plain = plain_binary_connect(problem, problem.label_set.mean(u), rate, 60)
    for solver in (
        solvers.Splitting(PiecewiseAffine(), "dual", schedule=1e12, rate=rate),
        solvers.Splitting(SoftStaircase(), "dual", schedule=1e12, rate=rate),
        solvers.Splitting(Argmax(), "dual", rate=rate / 2),
    ):
        values = torch.stack([problem.label_set.mean(point) for point in us(problem, solver, u, steps=60)])
        close(values, plain)


@pytest.mark.parametrize("form", ["tanh", "sum", "interval", "affine"])
@given(v=st.floats(-3, 3))
def test_nothing_but_rounding_is_left_of_scalar_maps_at_beta_infinity(form, v):
    projection = {"tanh": Tanh(), "affine": PiecewiseAffine()}.get(form) or SoftStaircase(form)
    labels, latent = LabelSet.named("binary", 1), torch.tensor([v + (v == 0)], dtype=torch.float64)
    if abs(v) > 1e-9:
        close(projection.value(latent, 1e12, labels), latent.sign())


# ---- mean-field, ICM, Frank-Wolfe -----------------------------------------------------------------------


@pytest.mark.parametrize("damping", [0.0, 0.5])
def test_parallel_mean_field_is_the_composition_without_carry(problem, damping):
    u = random_point(problem)
    path = us(problem, solvers.ParallelMeanField(BETA, damping), u)
    composed = solvers.Splitting(Softmax(), "none", schedule=BETA, rate=1.0, mixing=1 - damping)
    close(us(problem, composed, u), path)
    for old, new in itertools.pairwise(path):
        _, g = problem.linearize(old)
        close(new, damping * old + (1 - damping) * torch.softmax(-BETA * g, 1))


def test_a_mean_field_step_minimises_the_linearised_free_energy(problem):
    u = random_point(problem)
    _, g = problem.linearize(u)
    new = one_step(problem, solvers.ParallelMeanField(BETA, damping=0.0), u)

    def free_energy(y):
        return (g * y).sum() - entropy(y) / BETA

    assert all(free_energy(y) >= free_energy(new) - 1e-12 for y in feasible_points(problem.shape))


def test_frank_wolfe_moves_towards_the_cheapest_labels(problem):
    path = us(problem, solvers.FrankWolfe(), random_point(problem))
    for k, (old, new) in enumerate(itertools.pairwise(path)):
        t = 2 / (k + 2)
        _, g = problem.linearize(old)
        close(new, (1 - t) * old + t * problem.label_set.one_hot(g.argmin(1)))


def test_entropic_frank_wolfe_is_damped_parallel_mean_field(problem):
    u = random_point(problem)
    damped = us(problem, solvers.ParallelMeanField(BETA, damping=0.7), u)
    close(us(problem, solvers.EntropicFrankWolfe(BETA, mixing=0.3), u), damped)


def test_sequential_mean_field_at_beta_infinity_is_icm():
    problem = generators.potts_graph(12, 3, seed=4)
    u = random_point(problem)
    labels = problem.label_set.round(u)
    vertex = problem.label_set.one_hot(labels)
    for _ in range(3):
        problem.sweep(labels, "argmin")
        problem.sweep(vertex, "softmax", beta=1e12)
        close(vertex, problem.label_set.one_hot(labels))


# ---- piecewise-affine maps and staircases ---------------------------------------------------------------

LEVELS = [-1.5, 0.0, 0.5, 2.0]


@given(v=st.floats(-3, 3), r=st.floats(1e-6, 1))
def test_parq_clips_an_affine_map_between_neighbouring_levels(v, r):
    labels = LabelSet.shared(LEVELS, 1)
    w = float(PiecewiseAffine().value(torch.tensor([v], dtype=torch.float64), 1 / r, labels))
    inner = min(max(v, LEVELS[0]), LEVELS[-1])
    low, high = next((a, b) for a, b in itertools.pairwise(LEVELS) if a <= inner <= b)
    center = (low + high) / 2
    expected = min(max(center + (v - center) / r, low), high) if inner == v else inner
    assert w == pytest.approx(expected, abs=1e-9 / r if r < 1e-3 else 1e-12)


@given(v=st.floats(-3, 3), beta=st.floats(0.1, 50))
def test_the_staircase_of_two_levels_is_tanh(v, beta):
    labels, latent = LabelSet.named("binary", 1), torch.tensor([v], dtype=torch.float64)
    close(SoftStaircase().value(latent, beta, labels), torch.tanh(beta * latent))


@given(v=st.floats(-3, 3), beta=st.floats(0.1, 50))
def test_the_staircase_of_three_levels_is_the_ternary_map_of_the_paper(v, beta):
    labels, x = LabelSet.named("ternary", 1), torch.tensor([v], dtype=torch.float64)
    paper = 0.5 * (torch.tanh(beta * (x + 0.5)) + torch.tanh(beta * (x - 0.5)))
    close(SoftStaircase().value(x, beta, labels), paper)


@given(v=st.floats(-1.49, 1.99), beta=st.floats(0.1, 50))
def test_the_interval_staircase_is_the_soft_quantization_function(v, beta):
    x = torch.tensor([v], dtype=torch.float64)
    low, high = next((a, b) for a, b in itertools.pairwise(LEVELS) if a <= v <= b)
    center, half = (low + high) / 2, (high - low) / 2

    def sigma(t):
        return torch.sigmoid(2 * beta * t)

    paper = center + half * (sigma((x - center) / half) - 0.5) / (sigma(torch.tensor(1.0).double()) - 0.5)
    close(SoftStaircase("interval").value(x, beta, LabelSet.shared(LEVELS, 1)), paper, atol=1e-11)


# ---- the lift -------------------------------------------------------------------------------------------


def test_the_lifted_gradient_is_the_chain_rule():
    smooth, quadratic = LogCosh("ternary"), Quadratic("ternary")
    for problem, energy in (
        (smooth, lambda w: (smooth.A @ w - smooth.b).cosh().log().sum()),
        (quadratic, quadratic.of_values),
    ):
        u = random_point(problem).requires_grad_()
        value = energy(problem.label_set.mean(u))
        close(problem.linearize(u.detach()), (value.detach(), torch.autograd.grad(value, u)[0]))
