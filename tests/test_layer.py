"""`LayerQuadratic` against sums over weights, `KroneckerQuadratic`, explicit tables, and the conformance suite."""

import itertools

import numpy as np
import pytest
import safetensors.torch
import torch

import mrfq
from mrfq import solvers, testing
from mrfq.compare.kinds import kinds
from mrfq.errors import CapabilityError, FileFormatError, InvalidParameterError, InvalidProblemError
from mrfq.layerwise.instances import layer_file, layer_problem, synthetic_layer
from mrfq.problem import Capability, SupportsLayer, capabilities
from mrfq.problems.kronecker import KroneckerQuadratic
from mrfq.problems.layer import LayerQuadratic


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gram(columns, rank=None, seed=1):
    inputs = normal(rank or 2 * columns, columns, seed=seed)
    return inputs.T @ inputs / len(inputs)


def layer(rows=3, columns=4, groups=2, count=3, *, shared=False, rank=None, dtype=torch.float64):
    values = normal(1 if shared else rows, groups, count, seed=2).sort(2)[0]
    return LayerQuadratic(normal(rows, columns), gram(columns, rank), values, dtype=dtype)


def relaxed(problem, seed=3):
    u = torch.rand(problem.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (u / u.sum(1, keepdim=True)).to(problem.dtype)


LAYERS = {
    "groups": layer,
    "shared": lambda: layer(shared=True, groups=1),
    "shared-groups": lambda: layer(shared=True),
    "one-row": lambda: layer(rows=1),
    "one-column": lambda: layer(columns=1, groups=1),
    "one-weight": lambda: layer(rows=1, columns=1, groups=1),
    "one-level": lambda: layer(count=1),
    "singular": lambda: layer(rank=1),
    "dead-column": lambda: LayerQuadratic(normal(2, 3), torch.diag(torch.tensor([1.0, 0.0, 2.0])), [[[0.0, 1.0]]]),
    "equal-levels": lambda: LayerQuadratic(normal(2, 3), gram(3), [[[-1.0, 0.5, 0.5]], [[0.0, 0.0, 0.0]]]),
    "many-rows": lambda: layer(rows=37, columns=6),
}


@pytest.fixture(params=LAYERS)
def problem(request):
    return LAYERS[request.param]()


# ---- energies -------------------------------------------------------------------------------------------


def by_hand(problem, labels):
    """Return the energy as a sum over pairs of weights, in plain Python."""
    (rows, columns), groups = problem.target.shape, problem.values.shape[1]
    total = 0.0
    for r in range(rows):
        levels = problem.values[r if len(problem.values) > 1 else 0].tolist()
        chosen = labels[r * columns : (r + 1) * columns].tolist()
        error = [levels[j // (columns // groups)][a] - float(problem.target[r, j]) for j, a in enumerate(chosen)]
        total += sum(
            error[i] * float(problem.gram[i, j]) * error[j] for i, j in itertools.product(range(columns), repeat=2)
        )
    return total


def test_the_energy_is_the_sum_over_pairs_of_weights(problem):
    labels = problem.label_set.round(relaxed(problem))
    assert problem.energy(labels) == pytest.approx(by_hand(problem, labels), rel=1e-12)
    torch.testing.assert_close(problem.energies(labels[None]), torch.tensor([problem.energy(labels)]).double())


def test_the_energy_is_the_output_error_on_the_inputs():
    inputs, target = normal(50, 6), normal(4, 6, seed=1)
    problem = LayerQuadratic(target, inputs.T @ inputs / 50, [[[-1.0, 0.0, 1.0]]])
    labels = torch.randint(3, (24,), generator=torch.Generator().manual_seed(0))
    outputs = inputs @ (problem.decode(labels) - target).T
    assert problem.energy(labels) == pytest.approx(float(outputs.square().sum(1).mean()))


def test_it_is_the_kronecker_model_with_independent_outputs(problem):
    other = KroneckerQuadratic(problem.target, problem.gram, torch.eye(len(problem.target)), problem.values)
    u, order = relaxed(problem), torch.randperm(problem.shape[0], generator=torch.Generator().manual_seed(4))
    for one, two in zip(problem.linearize(u), other.linearize(u), strict=True):
        torch.testing.assert_close(one, two)
    torch.testing.assert_close(problem.unary, other.unary)
    torch.testing.assert_close(problem.initial(), other.initial())
    torch.testing.assert_close(problem.curvature(order), other.curvature(order))
    for rule, visits in itertools.product(("argmin", "softmax", "sample"), (None, "colour", order)):
        points = [u.clone() if rule == "softmax" else problem.label_set.round(u) for _ in range(2)]
        reports = [
            model.sweep(point, rule, beta=1.5, order=visits, generator=torch.Generator().manual_seed(5))
            for model, point in zip((problem, other), points, strict=True)
        ]
        torch.testing.assert_close(*points)
        for name in ("energy_change", "changed", "largest_change", "entropy"):
            one, two = (getattr(report, name) for report in reports)
            assert one == pytest.approx(two, rel=1e-9, abs=1e-9), (rule, name)


def test_the_relaxed_energy_is_the_expected_energy():
    problem = layer(rows=2, columns=2)
    u, expected = relaxed(problem), 0.0
    for chosen in itertools.product(range(3), repeat=4):
        probability = float(np.prod([float(u[i, a]) for i, a in enumerate(chosen)]))
        expected += probability * problem.energy(torch.tensor(chosen))
    assert float(problem.linearize(u)[0]) == pytest.approx(expected)


def test_the_gradient_is_the_slope_of_the_relaxed_energy(problem):
    u = relaxed(problem)
    _, gradient = problem.linearize(u)
    for i, a in itertools.product(range(min(problem.shape[0], 8)), range(problem.shape[1])):
        at = [u.clone() for _ in range(2)]
        at[0][i], at[1][i] = 0.0, 0.0
        at[1][i, a] = 1.0
        other = u.clone()
        other[i] = 0.0
        other[i, 0] = 1.0
        slope = float(problem.linearize(at[1])[0] - problem.linearize(other)[0])
        assert slope == pytest.approx(float(gradient[i, a] - gradient[i, 0]), rel=1e-9, abs=1e-9)


def test_changes_of_energy_are_those_of_the_energy(problem):
    old, new = problem.label_set.round(relaxed(problem)), problem.label_set.round(relaxed(problem, 8))
    change, changed = problem.energy_change(old, new)
    assert change == pytest.approx(problem.energy(new) - problem.energy(old), rel=1e-9, abs=1e-9)
    assert changed == int((old != new).sum())


@pytest.mark.parametrize("rule", ["argmin", "sample", "softmax"])
@pytest.mark.parametrize("order", ["fixed", "colour", "random"])
def test_sweeps_report_what_they_did(problem, rule, order):
    u = relaxed(problem)
    point = u.clone() if rule == "softmax" else problem.label_set.round(u)
    start = point.clone()
    random = torch.randperm(len(point), generator=torch.Generator().manual_seed(1))
    visits = {"fixed": None, "colour": "colour", "random": random}[order]
    report = problem.sweep(point, rule, beta=2.0, order=visits, generator=torch.Generator().manual_seed(2))
    value = (lambda x: float(problem.linearize(x)[0])) if rule == "softmax" else problem.energy
    assert report.energy_change == pytest.approx(value(point) - value(start), rel=1e-9, abs=1e-9)
    if rule == "softmax":
        assert report.entropy == pytest.approx(float(torch.special.entr(point).sum()), abs=1e-9)
        assert report.largest_change == pytest.approx(float((point - start).square().sum(1).max().sqrt()))
        assert torch.equal(report.labels, problem.label_set.round(point)) or problem.shape[1] == 1 or has_ties(problem)
    else:
        assert report.exact
        assert report.changed == int((point != start).sum())


def has_ties(problem):
    return bool((problem.values.diff(dim=2) == 0).any()) or bool((problem.gram.diagonal() == 0).any())


def test_mean_field_is_the_softmax_of_the_conditional_costs(problem):
    u = relaxed(problem)
    last = problem.shape[0] - 1
    order = torch.arange(problem.shape[0]).roll(1)  # the last weight comes first
    point = u.clone()
    problem.sweep(point, "softmax", beta=0.7, order=order)
    expected = torch.softmax(-0.7 * problem.linearize(u)[1][last], 0)
    torch.testing.assert_close(point[last], expected)


def test_icm_ends_where_no_single_weight_can_be_improved(problem):
    solution = mrfq.solve(problem, solvers.ICM(), max_iters=100)
    _, costs = problem.linearize(problem.label_set.one_hot(solution.labels))
    chosen = costs.gather(1, solution.labels[:, None])[:, 0]
    assert bool((chosen <= costs.amin(1) + 1e-9).all())


def test_samples_follow_the_boltzmann_law():
    problem = LayerQuadratic([[0.3, -0.2]], [[1.0, 0.6], [0.6, 0.8]], [[[-1.0, 1.0]]])
    labellings = torch.tensor(list(itertools.product(range(2), repeat=2)))
    law = torch.softmax(-0.8 * problem.energies(labellings), 0)
    point, generator, counts = torch.zeros(2, dtype=torch.int64), torch.Generator().manual_seed(0), torch.zeros(4)
    for _ in range(8000):
        problem.sweep(point, "sample", beta=0.8, generator=generator)
        counts[2 * point[0] + point[1]] += 1
    torch.testing.assert_close(counts.double() / 8000, law, atol=0.02, rtol=0)


def test_a_dead_column_keeps_its_labels():
    problem = LAYERS["dead-column"]()
    point = torch.tensor([0, 1, 0, 1, 0, 1])
    problem.sweep(point, "argmin")
    assert point[[1, 4]].tolist() == [1, 0]


def test_single_precision_energies_are_computed_in_double():
    single, double = layer(dtype=torch.float32), layer()
    labels = double.label_set.round(relaxed(double))
    again = LayerQuadratic(single.target.double(), single.gram.double(), single.values.double())
    assert single.energy(labels) == again.energy(labels)
    report = single.sweep(labels.clone(), "argmin")
    assert not report.exact


# ---- exact optima ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["groups", "equal-levels", "dead-column", "one-column", "singular"])
def test_explicit_tables_have_the_same_energies(name):
    problem = LAYERS[name]()
    explicit, labels = problem.pairwise(), problem.label_set.round(relaxed(problem))
    assert explicit.energy(labels) == pytest.approx(problem.energy(labels), rel=1e-9, abs=1e-9)
    one, two = (model.linearize(relaxed(problem))[1] for model in (explicit, problem))
    torch.testing.assert_close(one - one[:, :1], two - two[:, :1])  # a constant is in the costs of one variable


def test_exact_solvers_agree_with_enumeration():
    problem = layer(rows=2, columns=4)
    exact = testing.exact_energy(problem)
    assert mrfq.solve(problem, "exhaustive").energy == pytest.approx(exact, rel=1e-12)
    assert mrfq.solve(problem.pairwise(), "elimination").energy == pytest.approx(exact, rel=1e-9)


def test_rows_are_solved_one_by_one():
    problem = layer(rows=3, columns=4, shared=True)
    parts = [LayerQuadratic(row[None], problem.gram, problem.values) for row in problem.target]
    assert testing.exact_energy(parts[0]) + testing.exact_energy(parts[1]) + testing.exact_energy(
        parts[2]
    ) == pytest.approx(mrfq.solve(problem, "exhaustive").energy)


def test_explicit_tables_that_are_too_large_are_refused():
    problem = LayerQuadratic(normal(1, 300), torch.eye(300), torch.arange(64.0)[None, None])
    with pytest.raises(InvalidParameterError, match="explicit tables would have"):
        problem.pairwise()
    with pytest.raises(CapabilityError, match=r"pairwise\(\) gives a problem that does"):
        mrfq.solve(problem, "trws")


# ---- what is refused ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": [1.0, 2.0]}, "target: a matrix"),
        ({"target": [[1.0, float("nan")]]}, r"target\[0, 1\] is nan"),
        ({"gram": torch.eye(3)}, r"gram: shape \(2, 2\)"),
        ({"gram": [[1.0, 2.0], [2.0, 1.0]]}, "positive semi-definite"),
        ({"gram": [[1.0, 0.5], [0.0, 1.0]]}, "symmetric"),
        ({"values": [[0.0, 1.0]]}, r"values need shape \(1 or 1, groups, levels\)"),
        ({"values": [[[0.0, 1.0]] * 3]}, "3 groups of levels do not divide the 2 columns"),
        ({"values": [[[1.0, 0.0]]]}, r"values\[0, 0, 1\]: levels must be finite and ascend"),
        ({"values": [[[0.0, float("inf")]]]}, "must be finite"),
    ],
)
def test_wrong_parts_are_named(change, message):
    parts = {"target": [[0.5, -0.5]], "gram": torch.eye(2), "values": [[[-1.0, 1.0]]], **change}
    with pytest.raises(InvalidProblemError, match=message):
        LayerQuadratic(**parts)


def test_inputs_are_copied():
    target, metric, values = normal(2, 2), gram(2), normal(1, 1, 2).sort(2)[0]
    problem = LayerQuadratic(target, metric, values)
    before = problem.energy(torch.zeros(4, dtype=torch.int64))
    for tensor in (target, metric, values):
        tensor.zero_()
    assert problem.energy(torch.zeros(4, dtype=torch.int64)) == before


def test_what_a_layer_offers():
    offered = capabilities(layer())
    assert offered == {Capability.SWEEP, Capability.BATCH, Capability.CURVATURE, Capability.LAYER}
    assert isinstance(layer(), SupportsLayer)
    assert Capability.LAYER not in capabilities(KroneckerQuadratic([[0.4]], [[1.0]], [[1.0]], [[[0.0, 1.0]]]))


# ---- instances ------------------------------------------------------------------------------------------


def test_synthetic_layers_have_the_spectrum_that_is_asked_for():
    problem = synthetic_layer(4, 32, "2bit-uniform-g8", condition=500.0, spread=0.0, seed=3)
    spectrum = torch.linalg.eigvalsh(problem.gram)
    assert float(spectrum[-1] / spectrum[0]) == pytest.approx(500, rel=1e-6)
    assert problem.values.shape == (4, 4, 4)
    assert torch.equal(synthetic_layer(4, 32, seed=3).target, problem.target)
    assert not torch.equal(synthetic_layer(4, 32, seed=4).target, problem.target)
    assert synthetic_layer(1, 1, "binary").shape == (1, 2)


@pytest.mark.parametrize(
    "wrong",
    [
        {"rows": 0},
        {"condition": 0.5},
        {"spread": -1.0},
        {"levels": "vector-4x16"},
        {"levels": "2bit-g7"},
        {"levels": "?"},
    ],
)
def test_impossible_synthetic_layers_are_refused(wrong):
    with pytest.raises(InvalidParameterError):
        synthetic_layer(**{"rows": 2, "columns": 8, **wrong})


def test_layers_in_files(tmp_path):
    path = str(tmp_path / "layer.safetensors")
    made = layer(rows=4, columns=4)
    parts = {"target": made.target, "gram": made.gram}
    safetensors.torch.save_file({**parts, "values": made.values.contiguous()}, path)
    problem = layer_file(path)
    labels = torch.zeros(16, dtype=torch.int64)
    assert problem.energy(labels) == made.energy(labels)
    assert layer_file(path, rows=3).shape == (12, 3)
    with pytest.raises(InvalidParameterError, match="levels are needed unless the file has values"):
        layer_file(path, "binary")
    safetensors.torch.save_file(parts, path)
    assert layer_file(path, "binary").shape == (16, 2)
    assert torch.equal(layer_file(path, "2bit").values, layer_problem(made.target, made.gram, "2bit").values)
    with pytest.raises(InvalidParameterError, match="levels are needed"):
        layer_file(path)
    safetensors.torch.save_file({"target": made.target}, path)
    with pytest.raises(FileFormatError, match="'gram'"):
        layer_file(path, "binary")
    safetensors.torch.save_file({**parts, "gram": torch.ones(4, 4, dtype=torch.int64)}, path)
    with pytest.raises(FileFormatError, match="floating-point"):
        layer_file(path, "binary")
    (tmp_path / "layer.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{}      ")
    with pytest.raises(FileFormatError):
        layer_file(path, "binary")


def test_suites_know_layers(tmp_path):
    path = str(tmp_path / "layer.safetensors")
    safetensors.torch.save_file({"target": normal(2, 3), "gram": gram(3)}, path)
    made = kinds()["layer"].make({"rows": 2, "columns": 8}, 1).problem
    assert made.shape == (16, 4)
    assert kinds()["layer-file"].make({"path": path, "levels": "binary"}, 1).problem.shape == (6, 2)
    assert kinds()["layer"].size({"rows": 10**6, "columns": 10**6}) > 10**8


def test_a_layer_of_the_digits_network():
    pytest.importorskip("sklearn")
    from mrfq.nn.digits_layer import digits_layer

    problem = digits_layer(2, "ternary", rows=3, epochs=1)
    assert problem.target.shape == (3, 64)
    assert problem.gram.shape == (64, 64)
    assert float(problem.gram.diagonal().min()) >= 0
    with pytest.raises(InvalidParameterError, match="layer 0, 1 or 2"):
        digits_layer(3)
