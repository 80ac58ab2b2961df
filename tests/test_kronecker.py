"""`KroneckerQuadratic` against its explicit model, exact enumeration, and the rows of a layer."""

import pytest
import torch

import mrfq
from mrfq import solvers, testing
from mrfq.errors import InvalidParameterError, InvalidProblemError
from mrfq.problems.kronecker import KroneckerQuadratic
from mrfq.problems.layer import LayerQuadratic

DOUBLE = torch.float64


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def gram(size, rank=None, seed=1):
    root = normal(size, rank or 2 * size, seed=seed)
    return root @ root.T / size


SHARED = torch.tensor([[[-1.0, 0.0, 1.5]]])
#: levels by kind: shared by all, one set a row, groups of columns, equal levels
VALUES = {
    "shared": SHARED,
    "rows": normal(3, 1, 3, seed=5).sort(2)[0],
    "groups": normal(3, 2, 3, seed=6).sort(2)[0],
    "shared-groups": normal(1, 2, 3, seed=7).sort(2)[0],
    "ties": torch.tensor([[[-1.0, 0.5, 0.5]]]),
}


def problem_of(values="groups", rows=3, columns=4, **options):
    return KroneckerQuadratic(normal(rows, columns), gram(columns), gram(rows, seed=2), VALUES[values], **options)


def relaxed(problem, seed=4):
    return torch.softmax(normal(*problem.shape, seed=seed), 1)


@pytest.mark.parametrize("values", VALUES)
def test_the_energy_is_the_trace(values):
    problem = problem_of(values)
    labels = torch.randint(3, (problem.shape[0],), generator=torch.Generator().manual_seed(0))
    error = problem.decode(labels) - problem.target
    expected = float((problem.gram_out @ error @ problem.gram_in @ error.T).trace())
    assert problem.energy(labels) == pytest.approx(expected, rel=1e-12)
    torch.testing.assert_close(problem.decode(labels).flatten(), problem.label_set.decode(labels))


@pytest.mark.parametrize("values", VALUES)
def test_it_agrees_with_its_explicit_model(values):
    problem, explicit = problem_of(values), problem_of(values).pairwise()
    labels = torch.randint(3, (20, problem.shape[0]), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(problem.energies(labels), explicit.energies(labels))
    value, costs = problem.linearize(relaxed(problem))
    other, others = explicit.linearize(relaxed(problem))
    torch.testing.assert_close(value, other)
    torch.testing.assert_close(costs - costs[:, :1], others - others[:, :1])
    change, changed = problem.energy_change(labels[0], labels[1])
    assert change == pytest.approx(explicit.energy(labels[1]) - explicit.energy(labels[0]))
    assert changed == int((labels[0] != labels[1]).sum())
    assert problem.energy_change(labels[0], labels[0]) == (0.0, 0)


@pytest.mark.parametrize("shape", [(3, 4), (2, 12)])  # a row shorter and longer than a run of visits
@pytest.mark.parametrize("order", ["fixed", "random"])
@pytest.mark.parametrize("kind", [solvers.ICM, solvers.MeanField, solvers.SimulatedAnnealing])
def test_sweeps_are_those_of_the_explicit_model(kind, order, shape):
    problem = problem_of("shared", *shape)
    beta = {} if kind is solvers.ICM else {"beta": mrfq.Geometric(0.1, 10)}
    options = {"init": relaxed(problem), "max_iters": 8, "seed": 1}
    ours, theirs = (mrfq.solve(p, kind(order=order, **beta), **options) for p in (problem, problem.pairwise()))
    assert torch.equal(ours.labels, theirs.labels)
    torch.testing.assert_close(ours.relaxed, theirs.relaxed)
    for column in ("energy", "relaxed_energy", "entropy"):
        expected = pytest.approx(theirs.trace[column], rel=1e-9, abs=1e-9, nan_ok=True)
        assert ours.trace[column] == expected


def test_reported_changes_are_those_of_the_energy():
    problem = problem_of("shared", 20, 30)
    labels = problem.label_set.round(relaxed(problem))
    for rule in ("argmin", "sample"):
        before, old = problem.energy(labels), labels.clone()
        report = problem.sweep(labels, rule, beta=0.1, generator=torch.Generator().manual_seed(0))
        assert report.exact
        assert report.changed == int((labels != old).sum())
        assert report.energy_change == pytest.approx(problem.energy(labels) - before, rel=1e-9)
    u = relaxed(problem)
    before = float(problem.linearize(u)[0])
    report = problem.sweep(u, "softmax", beta=0.5)
    assert report.energy_change == pytest.approx(float(problem.linearize(u)[0]) - before, rel=1e-9)
    assert torch.equal(report.labels, u.argmax(1))


@pytest.mark.parametrize("values", VALUES)
def test_exact_labels(values):
    problem = problem_of(values, 3, 2)
    exact = mrfq.solve(problem, solvers.Exhaustive())
    assert exact.proved
    assert exact.energy == pytest.approx(mrfq.solve(problem.pairwise(), solvers.Elimination()).energy, rel=1e-10)
    found = mrfq.solve(problem, solvers.Restarts(solvers.ICM(), starts=20), max_iters=200)
    assert found.energy == pytest.approx(exact.energy, rel=1e-10)


def test_separate_outputs_are_the_rows_of_a_layer():
    target, metric = normal(3, 8).float(), gram(8).float()
    values = VALUES["groups"].float()
    coupled = KroneckerQuadratic(target, metric, torch.eye(3), values)
    layer = LayerQuadratic(target, metric, values)
    labels = torch.randint(3, (5, 24), generator=torch.Generator().manual_seed(0))
    for row in labels:
        assert coupled.energy(row) == pytest.approx(layer.energy(row), rel=1e-5)
    u = relaxed(coupled)
    value, costs = coupled.linearize(u)
    other, others = layer.linearize(u.to(layer.dtype))
    assert float(value) == pytest.approx(float(other), rel=1e-5)
    gaps, expected = (g - g[:, :1] for g in (costs, others.double()))
    torch.testing.assert_close(gaps, expected, rtol=1e-4, atol=1e-4)


def test_equal_outputs_make_rows_compensate():
    """With a singular G only the sum of the rows counts, so that one row can make up for what another cannot do."""
    problem = KroneckerQuadratic([[0.5], [0.5]], [[1.0]], [[1.0, 1.0], [1.0, 1.0]], [[[0.0, 1.0]]])
    solution = mrfq.solve(problem, "icm", init=torch.tensor([0, 0]))
    assert solution.energy == 0.0
    assert sorted(solution.labels.tolist()) == [0, 1]


def test_a_run_starts_at_the_target():
    problem = problem_of("shared")
    start = problem.initial()
    inside = problem.target.flatten().clamp(-1, 1.5)
    torch.testing.assert_close(problem.label_set.mean(start), inside)
    assert torch.equal(problem.label_set.round(start), problem.label_set.nearest(problem.target.flatten()))


def test_curvature_is_the_second_derivative():
    problem, labels = problem_of("shared"), torch.zeros(12, dtype=torch.int64)
    step = torch.zeros(3, 4, dtype=DOUBLE)
    step[1, 2] = 1.0
    second = 2 * (problem.gram_out @ step @ problem.gram_in @ step.T).trace()
    torch.testing.assert_close(problem.curvature(labels)[6], second)
    assert mrfq.solve(problem, solvers.BlockICM(curvature=True)).energy < problem.energy(labels)


def test_unary_costs_are_those_of_one_error():
    problem = KroneckerQuadratic([[0.5]], [[2.0]], [[3.0]], [[[0.0, 1.0]]])
    assert problem.unary.tolist() == [[1.5, 1.5]]


CONFORMING = {
    "kronecker": lambda: problem_of("shared", 2, 3),
    "kronecker-groups": lambda: KroneckerQuadratic(normal(2, 2), gram(2), gram(2), normal(2, 2, 3).sort(2)[0]),
    "kronecker-ties": lambda: problem_of("ties", 2, 2),
    "kronecker-singular": lambda: KroneckerQuadratic(normal(2, 2), torch.zeros(2, 2), gram(2, 1), SHARED),
    "kronecker-float32": lambda: problem_of("shared", 2, 3, dtype=torch.float32),
    "kronecker-one-label": lambda: KroneckerQuadratic(normal(2, 2), gram(2), gram(2), [[[0.5]]]),
}


@pytest.mark.parametrize("problem", ["kronecker"])
def test_every_solver_that_fits_keeps_every_promise(solver, problem, monkeypatch):
    monkeypatch.setitem(testing.PROBLEMS, problem, CONFORMING[problem])
    testing.check_solver(solver, [problem])


@pytest.mark.parametrize("site", [solvers.ICM(), solvers.MeanField(), solvers.SimulatedAnnealing(order="random")])
@pytest.mark.parametrize("problem", [name for name in CONFORMING if name not in ("kronecker",)])
def test_site_solvers_keep_every_promise(site, problem, monkeypatch):
    monkeypatch.setitem(testing.PROBLEMS, problem, CONFORMING[problem])
    testing.check_solver(site, [problem])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": [[1.0, float("inf")]]}, r"target\[0, 1\] is inf"),
        ({"gram_in": torch.eye(3)}, r"gram_in: shape \(2, 2\) is needed, got \(1, 3, 3\)"),
        ({"gram_out": [[-1.0]]}, r"gram_out must be positive semi-definite, but entry \(0, 0\) is -1"),
        ({"gram_in": [[1.0, 3.0], [3.0, 1.0]]}, "gram_in .* eigenvalue -2"),
        ({"values": [[0.0, 1.0]]}, r"values need shape \(1 or 1, groups, levels\)"),
        ({"values": [[[0.0, 1.0]] * 3]}, "3 groups of levels do not divide the 2 columns"),
        ({"values": [[[1.0, 0.0]]]}, r"values\[0, 0, 1\]: levels must be finite and ascend"),
        ({"values": [[[0.0, float("nan")]]]}, r"values\[0, 0, 1\]"),
    ],
)
def test_bad_layers_are_refused(change, message):
    parts = {"target": [[1.0, 2.0]], "gram_in": torch.eye(2), "gram_out": [[1.0]], "values": [[[0.0, 1.0]]]} | change
    with pytest.raises(InvalidProblemError, match=message):
        KroneckerQuadratic(*parts.values())


def test_large_explicit_models_are_refused():
    with pytest.raises(InvalidParameterError, match="explicit tables would have"):
        problem_of("shared", 60, 60).pairwise()
