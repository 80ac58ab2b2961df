"""Sweeps over layers, GPTQ against plain forms of it, the solvers that are made for layers, and lower bounds."""

import itertools

import numpy as np
import pytest
import torch

import mrfq
from mrfq import solvers, testing
from mrfq.errors import CapabilityError, InvalidParameterError, InvalidProblemError
from mrfq.layerwise.bound import layer_bound
from mrfq.layerwise.diagonal_split import diagonal_split, eigenvalue_split
from mrfq.layerwise.instances import synthetic_layer
from mrfq.layerwise.refit import row_energies
from mrfq.problems import layer_solve, layer_sweeps
from mrfq.problems.layer import LayerQuadratic
from mrfq.problems.layer_pairs import pair_descent, strongest_partners
from mrfq.problems.layer_solve import anneal, descend, gptq, icm, mean_field, nearest, plane_factor
from mrfq.problems.layer_sweeps import Columns, Sweep

GPU = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))


def random_layer(rows=5, columns=96, groups=1, count=4, *, rank=None, shared=False, seed=0):
    """Return target, Gram matrix and levels, float32, of correlated inputs of very different sizes."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(rank or 3 * columns, columns, generator=generator)
    inputs = inputs @ torch.randn(columns, columns, generator=generator) / columns**0.5
    inputs = inputs * torch.randn(columns, generator=generator).exp()
    values = torch.randn(1 if shared else rows, groups, count, generator=generator).sort(2)[0]
    return torch.randn(rows, columns, generator=generator), inputs.T @ inputs / len(inputs), values


def energies(layer, labels):
    target, gram, values = layer
    return row_energies(values, labels, target, gram)


# ---- columns and sweeps ---------------------------------------------------------------------------------


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("shared", [False, True])
def test_labels_survive_the_trip_into_the_order_of_the_visits(groups, shared):
    target, gram, values = random_layer(groups=groups, shared=shared)
    columns = Columns.prepare(target, gram, values)
    labels = torch.randint(4, target.shape, generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    assert torch.equal(columns.restore(columns.arrange(labels)), labels)
    decoded = columns.decode(columns.arrange(labels)).T[:, columns.order.argsort()]
    cells = labels.long().view(len(target), groups, -1)
    torch.testing.assert_close(decoded, values.expand(len(target), -1, -1).gather(2, cells).view(target.shape))
    distances = (target[..., None] - values.repeat_interleave(96 // groups, 1)).abs()
    assert torch.equal(nearest(target, values), distances.argmin(2).to(torch.uint8))
    assert bool((gram.diagonal()[columns.order].diff() <= 0).all())


def plain_sweep(columns, mean, rule, sharpness):
    """Visit the columns one by one in double precision, computing everything anew; return means and labels."""
    mean, gram = mean.double(), columns.gram.double()
    labels = torch.zeros(mean.shape, dtype=torch.int64)
    for j in range(len(mean)):
        levels = columns.values[columns.group[j]].double()
        x = mean[j] - gram[j] @ (mean - columns.target) / gram[j, j]
        gaps = (x - levels).square()
        labels[j] = gaps.argmin(0)
        if rule == "softmax":
            mean[j] = (torch.softmax(-sharpness[columns.group[j]] * gaps, 0) * levels).sum(0)
        else:
            mean[j] = levels.gather(0, labels[j][None])[0]
    return mean, labels


@pytest.mark.parametrize("rule", ["argmin", "softmax"])
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("form", ["compiled", "composed"])
@pytest.mark.parametrize("rows", [3, 70])
def test_a_sweep_does_what_the_definition_says(rule, groups, form, rows, monkeypatch):
    if form == "composed":
        monkeypatch.setattr(layer_sweeps, "_compiled", layer_sweeps._composed)
    columns = Columns.prepare(*random_layer(rows=rows, groups=groups))
    sweep = Sweep.at(columns, columns.target)
    expected, labels = plain_sweep(columns, columns.target, rule, 3.0 / columns.spacing.double().square())
    assert sweep.run(rule, 3.0) == 2  # both blocks of at most 64 columns
    torch.testing.assert_close(sweep.mean.double(), expected, atol=1e-3, rtol=0)
    assert float((sweep.labels.long() == labels).double().mean()) > 0.999


@pytest.mark.parametrize("rule", ["argmin", "softmax", "sample"])
def test_both_forms_of_a_sweep_agree(rule, monkeypatch):
    columns = Columns.prepare(*random_layer(rows=20))
    first, second = Sweep.at(columns, columns.target), Sweep.at(columns, columns.target)
    numbers = [torch.Generator().manual_seed(3) for _ in range(2)]
    first.run(rule, 4.0, generator=numbers[0])
    monkeypatch.setattr(layer_sweeps, "_compiled", layer_sweeps._composed)
    second.run(rule, 4.0, generator=numbers[1])
    assert float(((first.mean - second.mean).abs() < 1e-3).double().mean()) > 0.995
    assert float((first.labels == second.labels).double().mean()) > 0.995


@pytest.mark.parametrize("rule", ["argmin", "softmax", "sample"])
def test_the_residual_is_kept_up_to_date(rule):
    columns = Columns.prepare(*random_layer(rows=20))
    sweep = Sweep.at(columns, columns.target)
    for k in range(5):
        sweep.run(rule, 2.0**k, generator=torch.Generator().manual_seed(k))
    exact = columns.gram.double() @ (sweep.mean - columns.target).double()
    assert float((sweep.residual - exact).abs().max()) < 1e-5 * float(columns.gram.abs().max())
    if rule != "softmax":
        assert torch.equal(columns.decode(sweep.labels), sweep.mean)


def test_cold_mean_field_ends_at_labels():
    columns = Columns.prepare(*random_layer(rows=8))
    sweep = Sweep.at(columns, columns.target)
    anneal(sweep, "softmax", 40, (2.0, 1e6))
    torch.testing.assert_close(columns.decode(sweep.labels), sweep.mean, atol=1e-4, rtol=0)


@pytest.mark.parametrize("form", ["compiled", "composed"])
@pytest.mark.parametrize("rule", ["softmax", "sample"])
def test_a_best_value_far_outside_the_levels_takes_the_last_one(form, rule, monkeypatch):
    if form == "composed":
        monkeypatch.setattr(layer_sweeps, "_compiled", layer_sweeps._composed)
    values = torch.tensor([[[-1.4011, -0.7635, 1.2927, 1.3862]]])
    columns = Columns.prepare(torch.linspace(100, 2000, 400)[:, None], torch.eye(1), values)
    sweep = Sweep.at(columns, columns.target)
    sweep.run(rule, 1e6, absolute=True, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(sweep.mean, values[0, 0, 3].expand(1, 400))
    assert bool((sweep.labels == 3).all())


def test_the_temperature_is_in_units_of_the_quantization_step():
    layer = random_layer(rows=4)
    scaled = (layer[0] * 8, layer[1] * 3, layer[2] * 8)
    assert torch.equal(mean_field(*layer), mean_field(*scaled))
    columns = Columns.prepare(*layer)
    levels = torch.linspace(-2, 2, 41)[None, None]
    even = columns.with_values(levels)
    inside = columns.target.clamp(-2, 2)
    spacing = Columns(inside, even.gram, even.values, even.group, even.order).spacing
    torch.testing.assert_close(spacing, torch.full((1, 4), 0.1), atol=0.02, rtol=0)


def test_an_absolute_temperature_is_that_of_the_energy():
    target, gram, values = random_layer(rows=2, columns=12)
    columns = Columns.prepare(target, gram, values)
    sweep = Sweep.at(columns, columns.target)
    sweep.run("softmax", 0.3, absolute=True)
    problem = LayerQuadratic(target, gram, values)
    u = problem.initial()
    # the start is between levels, so begin at values rather than at probabilities: one column by hand
    j = int(columns.order[0])
    levels = problem.values[:, 0]
    costs = problem.gram[j, j] * (target[:, j : j + 1].double() - levels).square()
    expected = (torch.softmax(-0.3 * costs, 1) * levels).sum(1)
    torch.testing.assert_close(sweep.mean[0].double(), expected, atol=1e-4, rtol=1e-4)
    assert u.shape == problem.shape


@pytest.mark.parametrize("form", ["compiled", "composed"])
def test_samples_have_the_frequencies_of_the_law(form, monkeypatch):
    if form == "composed":
        monkeypatch.setattr(layer_sweeps, "_compiled", layer_sweeps._composed)
    rows = 20_000
    target, values = torch.full((rows, 1), 0.2), torch.tensor([[[-1.0, 0.0, 0.5, 2.0]]])
    columns = Columns.prepare(target, torch.eye(1), values)
    sweep = Sweep.at(columns, columns.target)
    sweep.run("sample", 1.7, absolute=True, generator=torch.Generator().manual_seed(0))
    found = torch.bincount(sweep.labels[0].long(), minlength=4) / rows
    law = torch.softmax(-1.7 * (0.2 - values[0, 0]).square(), 0)
    torch.testing.assert_close(found, law, atol=0.015, rtol=0)


def test_sampling_is_repeatable():
    columns = Columns.prepare(*random_layer())
    runs = []
    for seed in (1, 1, 2):
        sweep = Sweep.at(columns, columns.target)
        anneal(sweep, "sample", 3, (1.0, 4.0), torch.Generator().manual_seed(seed))
        runs.append(sweep.labels)
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_icm_never_rises_and_ends_at_a_local_optimum():
    layer = random_layer(rows=12)
    columns = Columns.prepare(*layer)
    sweep = Sweep.at_labels(columns, columns.nearest(columns.target))
    before = energies(layer, columns.restore(sweep.labels))
    while sweep.run("argmin"):
        now = energies(layer, columns.restore(sweep.labels))
        assert bool((now <= before * (1 + 1e-6)).all())
        before = now
    labels = columns.restore(sweep.labels)
    assert torch.equal(labels, icm(*layer, nearest(layer[0], layer[2])))
    for j, a in itertools.product(range(0, 96, 5), range(4)):
        other = labels.clone()
        other[:, j] = a
        assert bool((energies(layer, other) >= before * (1 - 1e-5)).all())


def test_descending_ends_when_nothing_changes():
    columns = Columns.prepare(*random_layer())
    sweep = Sweep.at_labels(columns, columns.nearest(columns.target))
    ran = descend(sweep, 1000)
    assert 1 < ran < 1000
    assert descend(sweep, 1000) == 1
    assert descend(Sweep.at_labels(columns, columns.nearest(columns.target)), 1) == 1


@pytest.mark.parametrize("rule", ["argmin", "softmax", "sample"])
def test_dead_columns_are_left_alone(rule):
    target, gram, values = random_layer(columns=8)
    gram[3], gram[:, 3] = 0.0, 0.0
    columns = Columns.prepare(target, gram, values, torch.arange(8))
    sweep = Sweep.at(columns, columns.target)
    sweep.run(rule, 2.0, generator=torch.Generator().manual_seed(0))
    assert torch.equal(sweep.mean[3], columns.target[3])
    assert torch.equal(sweep.labels[3], columns.nearest(columns.target)[3])


def test_mean_field_can_begin_at_labels():
    layer = random_layer()
    labels = gptq(*layer)
    start = Columns.prepare(*layer, torch.arange(96)).decode(labels.T.contiguous()).T
    found = mean_field(*layer, start=start, sweeps=1, beta=(1e9, 1e9))
    once = icm(*layer, labels, sweeps=1)
    assert float((found == once).double().mean()) > 0.999


@pytest.mark.parametrize("device", [GPU])
def test_other_devices_give_the_same_labels(device):
    layer = random_layer(rows=64, groups=2)
    there = tuple(part.to(device) for part in layer)
    for solver in (gptq, mean_field):
        same = (solver(*layer) == solver(*there).cpu()).double().mean()
        assert float(same) > 0.98, solver
    assert float(energies(layer, mean_field(*there).cpu()).sum()) == pytest.approx(
        float(energies(layer, mean_field(*layer)).sum()), rel=0.02
    )


# ---- GPTQ -----------------------------------------------------------------------------------------------


def plain_gptq(target, gram, values, damping, order):
    """Return the labels of the published algorithm: errors spread by the Cholesky factor of the inverse."""
    weights, matrix = target.double().numpy().copy(), gram.double().numpy()
    columns, groups = weights.shape[1], values.shape[1]
    matrix = matrix + damping * np.diag(matrix).mean() * np.eye(columns)
    visits = np.argsort(-np.diag(matrix), kind="stable") if order == "activation" else np.arange(columns)
    upper = np.linalg.cholesky(np.linalg.inv(matrix[np.ix_(visits, visits)])).T
    labels = np.zeros(weights.shape, dtype=np.uint8)
    levels = values.double().expand(len(weights), -1, -1).numpy()
    for k, j in enumerate(visits):
        own = levels[:, j // (columns // groups)]
        chosen = np.abs(weights[:, j, None] - own).argmin(1)
        labels[:, j] = chosen
        error = (weights[:, j] - own[np.arange(len(weights)), chosen]) / upper[k, k]
        weights[:, visits[k + 1 :]] -= error[:, None] * upper[k, k + 1 :]
    return torch.from_numpy(labels)


@pytest.mark.parametrize("order", ["activation", "natural"])
@pytest.mark.parametrize("damping", [1e-3, 0.01, 0.3])
@pytest.mark.parametrize(
    "shape",
    [{}, {"groups": 4}, {"shared": True}, {"rank": 20}, {"rows": 80, "columns": 70}, {"columns": 1}, {"rows": 1}],
)
def test_gptq_is_the_published_algorithm(order, damping, shape):
    layer = random_layer(**shape)
    found, expected = gptq(*layer, damping=damping, order=order), plain_gptq(*layer, damping, order)
    # a weight that lies half way between levels up to rounding may go either way, and its row with it
    same = (found == expected).all(1)
    assert float(same.double().mean()) > 0.97
    assert bool((found.max(0).values < layer[2].shape[2]).all())


def test_both_forms_of_the_nearest_plane_agree(monkeypatch):
    layer = random_layer(rows=30)
    compiled = gptq(*layer)

    monkeypatch.setattr(layer_sweeps, "_rounded", layer_sweeps._rounded_by_visits)
    monkeypatch.setattr(layer_sweeps, "_compiled", layer_sweeps._composed)
    assert float((gptq(*layer) == compiled).double().mean()) > 0.999


def test_the_factor_is_that_of_the_damped_matrix():
    gram = random_layer(columns=12)[1].double()
    factor = plane_factor(gram, 0.02).double()
    assert bool((factor.triu(1) == 0).all())
    damped = gram + 0.02 * gram.diagonal().mean() * torch.eye(12)
    sizes = torch.linalg.solve_triangular(factor.T, damped, upper=True)
    sizes = torch.linalg.solve_triangular(factor, sizes, upper=False, left=False)
    torch.testing.assert_close(sizes, torch.diag(sizes.diagonal()), atol=1e-5, rtol=0)
    assert bool((sizes.diagonal() > 0).all())


def test_gptq_beats_the_nearest_levels_and_is_exact_without_couplings():
    layer = random_layer(rows=30)
    assert energies(layer, gptq(*layer)).sum() < 0.85 * energies(layer, nearest(layer[0], layer[2])).sum()
    target, _, values = layer
    assert torch.equal(gptq(target, torch.diag(torch.rand(96) + 0.1), values), nearest(target, values))


@pytest.mark.parametrize("damping", [0.0, 0.01])
def test_gptq_takes_singular_and_empty_matrices(damping):
    target, gram, values = random_layer(rank=3)
    for matrix in (gram, torch.zeros(96, 96), torch.ones(96, 96)):
        labels = gptq(target, matrix, values, damping=damping)
        assert labels.shape == target.shape
        assert float(row_energies(values, labels, target, matrix).sum()) >= -1e-6


@pytest.mark.parametrize(
    ("gram", "damping", "error", "message"),
    [
        (torch.full((2, 2), float("nan")), 0.01, InvalidProblemError, "not finite"),
        (torch.tensor([[1.0, 0.0], [0.0, -1e9]]), 0.01, InvalidProblemError, "not positive semi-definite"),
        (torch.eye(2), -0.1, InvalidParameterError, "damping must not be negative"),
    ],
)
def test_gptq_refuses(gram, damping, error, message):
    with pytest.raises(error, match=message):
        gptq(torch.zeros(1, 2), gram, torch.tensor([[[0.0, 1.0]]]), damping=damping)


# ---- solvers of `mrfq.solve` ----------------------------------------------------------------------------

OURS = {
    "gptq": solvers.GPTQ(),
    "gptq-natural": solvers.GPTQ(damping=0.0, order="natural"),
    "layer-mean-field": solvers.LayerMeanField(),
    "layer-mean-field-gptq": solvers.LayerMeanField(start="gptq", descent=0.0),
    "pair-moves": solvers.PairMoves(),
    "pair-moves-gptq": solvers.PairMoves(start="gptq", partners=1),
}


@pytest.mark.parametrize("name", OURS)
def test_solvers_of_layers_keep_every_promise(name):
    report = testing.check_solver(OURS[name], ["layer", "layer-ties", "tree"])
    assert {problem for problem, _ in report.passed} == {"layer", "layer-ties"}


def medium(seed=0, levels="2bit"):
    return synthetic_layer(12, 48, levels, condition=200.0, seed=seed)


def test_gptq_solves_what_the_function_solves():
    problem = medium()
    solution = mrfq.solve(problem, solvers.GPTQ(damping=0.05))
    labels = gptq(problem.target, problem.gram, problem.values, damping=0.05)
    assert torch.equal(solution.labels, labels.view(-1).long())
    assert (solution.iterations, solution.oracle_calls) == (1, 1)
    assert solution.relaxed.shape == problem.shape


def test_each_solver_beats_the_one_before_it():
    totals = dict.fromkeys(("rounding", "gptq", "icm from gptq", "pair-moves", "layer-mean-field"), 0.0)
    for seed in range(4):
        problem = medium(seed, "ternary")
        start = mrfq.solve(problem, solvers.GPTQ())
        totals["rounding"] += mrfq.solve(problem, "rounding").energy
        totals["gptq"] += start.energy
        totals["icm from gptq"] += mrfq.solve(problem, solvers.ICM(), init=start.labels).energy
        totals["pair-moves"] += mrfq.solve(problem, solvers.PairMoves(start="gptq")).energy
        totals["layer-mean-field"] += mrfq.solve(problem, solvers.LayerMeanField()).energy
    assert totals["rounding"] > totals["gptq"] > totals["icm from gptq"] > totals["pair-moves"]
    assert totals["icm from gptq"] > totals["layer-mean-field"]


def test_layer_mean_field_is_the_function_followed_by_icm():
    problem = medium()
    layer = problem.target, problem.gram, problem.values
    solution = mrfq.solve(problem, solvers.LayerMeanField(descent=0.0), max_iters=40, init=problem.initial())
    start = problem.label_set.mean(problem.initial()).view(problem.target.shape)
    labels = mean_field(*layer, start=start, sweeps=40)
    last = problem.label_set.round(solution.relaxed)
    assert float((last == labels.view(-1)).double().mean()) > 0.99
    longer = mrfq.solve(problem, solvers.LayerMeanField(), max_iters=60)
    assert str(longer.status).startswith("converged")
    assert energies(layer, icm(*layer, longer.labels.view(12, 48).to(torch.uint8))).sum() == pytest.approx(
        longer.energy, rel=1e-5
    )


def test_mean_field_from_gptq_needs_no_start():
    problem = medium()
    runs = [
        mrfq.solve(problem, solvers.LayerMeanField(start="gptq"), init=init, max_iters=20) for init in (None, "random")
    ]
    assert torch.equal(runs[0].labels, runs[1].labels)
    assert runs[0].energy < mrfq.solve(problem, solvers.GPTQ()).energy


def test_no_pair_of_weights_can_be_improved_after_pair_moves():
    problem = synthetic_layer(2, 6, "ternary", condition=100.0, seed=5)
    solution = mrfq.solve(problem, solvers.PairMoves(partners=5), init="random")
    assert str(solution.status).startswith("converged")
    others = []
    for i, j in itertools.combinations(range(12), 2):
        for a, b in itertools.product(range(3), repeat=2):
            x = solution.labels.clone()
            x[i], x[j] = a, b
            others.append(x)
    assert float(problem.energies(torch.stack(others)).min()) >= solution.energy * (1 - 1e-9)


def test_pair_moves_find_the_optimum_of_pairs():
    for seed in range(5):
        problem = synthetic_layer(3, 2, "2bit", condition=50.0, seed=seed)
        solution = mrfq.solve(problem, solvers.PairMoves(), init="random")
        assert solution.energy == pytest.approx(testing.exact_energy(problem), rel=1e-9)


def test_pair_moves_know_when_they_are_done_and_what_they_changed():
    problem = medium()
    solution = mrfq.solve(problem, solvers.PairMoves(partners=3))
    energies_of = solution.trace["energy"]
    assert all(b <= a + 1e-12 for a, b in itertools.pairwise(energies_of))
    assert energies_of[-1] == pytest.approx(solution.energy, rel=1e-9)
    assert solution.trace["changed"][-3:] == [0, 0, 0]
    again = mrfq.solve(problem, solvers.PairMoves(partners=3), init=solution.labels)
    assert torch.equal(again.labels, solution.labels)


def test_the_function_descends_as_the_solver_does():
    problem = medium(levels="3bit")
    layer = problem.target, problem.gram, problem.values
    start = gptq(*layer)
    labels = pair_descent(*layer, start)
    assert labels.dtype == torch.uint8
    assert torch.equal(labels.view(-1).long(), mrfq.solve(problem, solvers.PairMoves(start="gptq")).labels)
    assert bool((energies(layer, labels) <= energies(layer, start)).all())
    assert torch.equal(start, gptq(*layer))
    with pytest.raises(InvalidParameterError, match="at least one partner"):
        pair_descent(*layer, start, partners=0)


def test_partners_are_the_strongest_correlations():
    gram = random_layer(columns=20)[1].double()
    partners = strongest_partners(gram, 4)
    correlation = (gram / gram.diagonal().sqrt() / gram.diagonal().sqrt()[:, None]).abs().fill_diagonal_(0)
    assert partners.shape == (4, 20)
    torch.testing.assert_close(correlation.gather(1, partners.T), correlation.sort(1, descending=True)[0][:, :4])
    assert strongest_partners(torch.ones(1, 1), 4).tolist() == [[0]]
    assert strongest_partners(torch.zeros(3, 3), 9).shape == (2, 3)


def test_generic_solvers_work_on_layers():
    problem = synthetic_layer(2, 4, "binary", condition=20.0, seed=2)
    exact = testing.exact_energy(problem)
    for solver in ("icm", "mean-field", "annealing", "gibbs", "pmf", "pgd", "md-softmax-s", "block-icm", "exhaustive"):
        solution = mrfq.solve(problem, solver, max_iters=200)
        assert solution.energy >= exact * (1 - 1e-9), solver
        assert solution.energy <= mrfq.solve(problem, "rounding").energy, solver
    restarts = mrfq.solve(problem, solvers.Restarts(solvers.PairMoves(), starts=10))
    assert restarts.energy == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (solvers.GPTQ, {"damping": -1.0}),
        (solvers.GPTQ, {"order": "sideways"}),
        (solvers.LayerMeanField, {"descent": 1.0}),
        (solvers.LayerMeanField, {"start": "above"}),
        (solvers.PairMoves, {"partners": 0}),
        (solvers.PairMoves, {"start": "above"}),
    ],
)
def test_impossible_settings_are_refused(kind, wrong):
    with pytest.raises(InvalidParameterError, match=kind.__name__):
        kind(**wrong)


def test_layers_of_too_many_levels_are_refused():
    problem = LayerQuadratic([[0.4]], [[1.0]], torch.arange(300.0)[None, None])
    for solver in (solvers.GPTQ(), solvers.LayerMeanField(), solvers.PairMoves(start="gptq")):
        with pytest.raises(CapabilityError, match="300 levels"):
            mrfq.solve(problem, solver)
    assert mrfq.solve(problem, solvers.PairMoves()).energy == pytest.approx(0.16)


# ---- lower bounds ---------------------------------------------------------------------------------------


def exact_rows(target, gram, values):
    """Return the lowest energy of each row, by looking at every labelling."""
    count = values.shape[2]
    labels = torch.tensor(list(itertools.product(range(count), repeat=target.shape[1])))
    rows = []
    for r, row in enumerate(target):
        own = values[r : r + 1] if len(values) > 1 else values
        rows.append(row_energies(own.expand(len(labels), -1, -1), labels, row.expand(len(labels), -1), gram).min())
    return torch.stack(rows)


BOUNDED = {
    "binary": {"count": 2, "columns": 10},
    "ternary": {"count": 3, "columns": 7},
    "eight": {"count": 8, "columns": 4},
    "one-level": {"count": 1, "columns": 6},
    "groups": {"count": 2, "columns": 8, "groups": 4},
    "shared": {"count": 3, "columns": 6, "shared": True},
    "singular": {"count": 3, "columns": 6, "rank": 2},
    "one-column": {"count": 3, "columns": 1},
}


@pytest.mark.parametrize("name", BOUNDED)
@pytest.mark.parametrize("seed", range(3))
def test_no_labelling_is_below_the_bound(name, seed):
    layer = random_layer(rows=6, seed=seed, **BOUNDED[name])
    exact, bound = exact_rows(*layer), layer_bound(*layer)
    assert bool((bound <= exact + 1e-12 * exact.abs()).all())
    assert bound.dtype == torch.float64
    floor = eigenvalue_split(layer[1].double())
    levels = layer[2].double().repeat_interleave(layer[0].shape[1] // layer[2].shape[1], 1)
    classical = (floor[:, None] * (layer[0].double()[..., None] - levels).square()).amin(2).sum(1)
    assert bool((bound >= classical - 1e-9 * exact.abs()).all())
    if name == "one-column":
        torch.testing.assert_close(bound, exact, rtol=1e-6, atol=1e-9)
    if name == "one-level":
        assert bool((bound >= 0.98 * exact).all())


def test_the_bound_is_tight_for_few_levels_and_exact_without_couplings():
    problem = synthetic_layer(8, 10, "binary", condition=20.0, seed=1)
    layer = problem.target, problem.gram, problem.values
    exact = exact_rows(*layer)
    assert float(layer_bound(*layer).sum()) > 0.6 * float(exact.sum())
    gram = torch.diag(torch.rand(10, dtype=torch.float64) + 0.1)
    exact = exact_rows(problem.target, gram, problem.values)
    torch.testing.assert_close(layer_bound(problem.target, gram, problem.values), exact, rtol=1e-2, atol=0)


def test_the_bound_does_not_depend_on_units_and_improves_with_work():
    problem = medium(levels="ternary")
    layer = problem.target, problem.gram, problem.values
    bound = layer_bound(*layer)
    scaled = layer_bound(1e3 * problem.target, 1e-5 * problem.gram, 1e3 * problem.values)
    torch.testing.assert_close(scaled, 10 * bound, rtol=1e-6, atol=1e-9)
    short = layer_bound(*layer, rounds=1, sweeps=1)
    assert bool((bound >= short).all())
    best = mrfq.solve(problem, solvers.LayerMeanField())
    assert float(bound.sum()) < best.energy
    assert float(bound.sum()) > 0.3 * best.energy


def test_the_bound_takes_dead_columns_and_targets_on_levels():
    target, gram, values = random_layer(rows=2, columns=6, count=3)
    gram[2], gram[:, 2] = 0.0, 0.0
    exact = exact_rows(target, gram, values)
    assert bool((layer_bound(target, gram, values) <= exact).all())
    empty = layer_bound(target, torch.zeros(6, 6), values)
    torch.testing.assert_close(empty, torch.zeros(2, dtype=torch.float64))
    on_levels = values[:, 0, [0, 1, 2, 0, 1, 2]]
    assert bool((layer_bound(on_levels, gram, values).abs() < 1e-6 * gram.diagonal().max()).all())


@pytest.mark.parametrize("wrong", [{"rounds": 0}, {"sweeps": 0}])
def test_a_bound_without_work_is_refused(wrong):
    with pytest.raises(InvalidParameterError, match="rounds and sweeps"):
        layer_bound(*random_layer(columns=2), **wrong)
    with pytest.raises(InvalidProblemError, match="groups of levels do not divide"):
        layer_bound(torch.zeros(1, 3), torch.eye(3), torch.tensor([[[0.0, 1.0]] * 2]))


@pytest.mark.parametrize("rank", [None, 5])
def test_what_a_split_leaves_is_semi_definite(rank):
    gram = random_layer(columns=24, rank=rank)[1].double()
    weights = torch.rand(24, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    diagonal = diagonal_split(gram, weights)
    scale = gram.diagonal().rsqrt()
    rest = (gram - torch.diag(diagonal)) * scale * scale[:, None]
    assert float(torch.linalg.eigvalsh(rest)[0]) >= 0
    plain = eigenvalue_split(gram)
    assert float(torch.linalg.eigvalsh((gram - torch.diag(plain)) * scale * scale[:, None])[0]) >= 0
    assert (weights * diagonal).sum() > (weights * plain).sum() or rank


def test_a_split_is_close_to_the_best_one():
    correlation = 0.3
    gram = (1 - correlation) * torch.eye(6, dtype=torch.float64) + correlation
    diagonal = diagonal_split(gram, torch.ones(6, dtype=torch.float64))
    torch.testing.assert_close(diagonal, torch.full((6,), 1 - correlation, dtype=torch.float64), atol=0.02, rtol=0)


def test_layer_solve_has_no_hidden_state():
    layer = random_layer()
    copies = tuple(part.clone() for part in layer)
    labels = gptq(*layer)
    for again in (gptq(*layer), layer_solve.gptq(*copies)):
        assert torch.equal(again, labels)
    icm(*layer, labels)
    mean_field(*layer)
    for part, copy in zip(layer, copies, strict=True):
        assert torch.equal(part, copy)
