"""The torch adapter: a network's loss as a labelling problem."""

from __future__ import annotations

import copy
import itertools
import weakref
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import mrfq
from mrfq.errors import CapabilityError, InvalidParameterError, InvalidProblemError, UnknownNameError
from mrfq.nn import NetworkLoss, reestimate
from mrfq.nn.selection import fit_scale
from mrfq.problem import Capability, capabilities
from mrfq.solvers import ICM, BlockICM, Exhaustive, ProximalMeanField

cross_entropy = nn.functional.cross_entropy


def data(m: int = 40, features: int = 5, classes: int = 3, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(m, features, generator=generator, dtype=torch.float64)
    return inputs, inputs[:, :classes].argmax(1)


def mlp(seed: int = 0, *, norm: bool = False, dropout: float = 0.0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers: list[nn.Module] = [nn.Linear(5, 4)]
        layers += [nn.BatchNorm1d(4)] if norm else []
        layers += [nn.Tanh(), *([nn.Dropout(dropout)] if dropout else []), nn.Linear(4, 3)]
        return nn.Sequential(*layers).double()


def random_point(problem: NetworkLoss, seed: int = 0) -> torch.Tensor:
    u = torch.rand(problem.shape, generator=torch.Generator().manual_seed(seed), dtype=problem.dtype)
    mask = problem.label_set.mask
    u = u if mask is None else u.where(mask, 0.0)
    return u / u.sum(1, keepdim=True)


def random_labels(problem: NetworkLoss, count: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(count, problem.shape[:1], generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("labels", ["binary", "ternary", [-1.5, 0.0, 0.25, 2.0]])
@pytest.mark.parametrize("scale", [None, "tensor"])
def test_the_gradient_is_that_of_the_relaxed_energy(labels: Any, scale: Any) -> None:
    problem = NetworkLoss(mlp(), cross_entropy, data(), labels=labels, scale=scale)
    u = random_point(problem)
    _, g = problem.linearize(u)
    direction = torch.randn(problem.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    above, below = (problem.linearize(u + s * direction)[0] for s in (1e-6, -1e-6))
    assert float((above - below) / 2e-6) == pytest.approx(float((g * direction).sum()), rel=1e-6, abs=1e-9)


def test_the_relaxed_energy_at_a_vertex_is_the_energy() -> None:
    problem = NetworkLoss(mlp(norm=True), cross_entropy, data(), labels="ternary")
    labels = random_labels(problem, 3)
    value, _ = problem.linearize(problem.label_set.one_hot(labels))
    assert float(value) == pytest.approx(problem.energy(labels), abs=1e-14)


def test_the_model_and_the_global_generator_are_left_untouched() -> None:
    model = mlp(norm=True, dropout=0.3)
    before = copy.deepcopy(model.state_dict())
    random = torch.random.get_rng_state()
    problem = NetworkLoss(model, cross_entropy, data(), batch_size=8)
    mrfq.solve(problem, "pmf", max_iters=7)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert torch.equal(random, torch.random.get_rng_state())
    assert model.training


@pytest.mark.parametrize("scale", [None, "tensor"])
def test_labels_to_state_and_back(scale: Any) -> None:
    problem = NetworkLoss(mlp(), cross_entropy, data(), labels="2bit", scale=scale)
    labels = random_labels(problem, 4)
    state = problem.state_dict(labels)
    assert torch.equal(problem.labels_of(state), labels)
    fresh = mlp(seed=5)
    fresh.load_state_dict(state)
    assert cross_entropy(fresh(data()[0]), data()[1]).item() == pytest.approx(problem.energy(labels), abs=1e-14)


def test_a_state_that_is_not_discrete_or_not_of_this_network_is_refused() -> None:
    problem = NetworkLoss(mlp(), cross_entropy, data())
    state = problem.state_dict(random_labels(problem, 1))
    with pytest.raises(InvalidProblemError, match=r"weights are not levels, the first one in '2\.weight'"):
        problem.labels_of({**state, "2.weight": state["2.weight"] + 0.5})
    with pytest.raises(InvalidProblemError, match=r"'0\.weight' is missing"):
        problem.labels_of({})
    with pytest.raises(InvalidProblemError, match="has shape"):
        problem.labels_of({**state, "0.weight": torch.ones(2, 2)})


def test_levels_per_parameter_are_ragged_and_masked() -> None:
    problem = NetworkLoss(mlp(), cross_entropy, data(), labels={"*.weight": "ternary", "*.bias": "binary"})
    assert problem.shape == (39, 3)
    mask = problem.label_set.mask
    assert mask is not None
    assert mask.sum(1).tolist() == [3] * 20 + [2] * 4 + [3] * 12 + [2] * 3
    solution = mrfq.solve(problem, "pmf", max_iters=30)
    state = problem.state_dict(solution.labels)
    assert set(state["0.bias"].tolist()) <= {-1.0, 1.0}
    assert set(state["0.weight"].flatten().tolist()) <= {-1.0, 0.0, 1.0}


def test_parameters_are_chosen_by_pattern_or_predicate_and_norms_stay_float() -> None:
    def names(**options: Any) -> list[str]:
        return [s.name for s in NetworkLoss(mlp(norm=True), cross_entropy, data(), **options).segments]

    assert names() == ["0.weight", "0.bias", "3.weight", "3.bias"]
    assert names(parameters=["*.weight"]) == ["0.weight", "1.weight", "3.weight"]
    assert names(parameters=lambda name, p: p.ndim == 2) == ["0.weight", "3.weight"]
    with pytest.raises(UnknownNameError, match=r"unknown parameter '0\.wieght'; did you mean '0\.weight'"):
        names(parameters=["0.wieght"])
    with pytest.raises(InvalidProblemError, match="no parameter"):
        names(parameters=lambda name, p: False)
    with pytest.raises(InvalidProblemError, match=r"no pattern matches parameter '0\.bias'"):
        names(labels={"*.weight": "binary"})


def test_tied_weights_are_one_variable_each() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(5, 5, bias=False)
            self.second = nn.Linear(5, 5, bias=False)
            self.second.weight = self.first.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(torch.tanh(self.first(x)))[:, :3]

    problem = NetworkLoss(Tied().double(), cross_entropy, data())
    assert problem.shape == (25, 2)
    labels = mrfq.solve(problem, "bc", max_iters=5).labels
    network = problem.network(labels)
    assert network.first.weight is network.second.weight
    assert torch.equal(network.first.weight.flatten(), problem.label_set.decode(labels))


def test_batches_of_a_pass_cover_the_data_and_full_gradients_do_not_depend_on_them() -> None:
    whole = NetworkLoss(mlp(), cross_entropy, data())
    u = random_point(whole)
    _, expected = whole.linearize(u)
    inputs, targets = data()
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(inputs, targets), batch_size=7)
    parts: list[Any] = [(inputs[:10], targets[:10]), (inputs[10:], targets[10:])]
    for problem in (
        NetworkLoss(mlp(), cross_entropy, data(), batch_size=7),
        NetworkLoss(mlp(), cross_entropy, loader),
        NetworkLoss(mlp(), cross_entropy, parts),
    ):
        _, g = problem.linearize(u)
        torch.testing.assert_close(g, expected, atol=1e-14, rtol=0)
        rows = torch.cat([problem.batches.shuffled(k)[0] for k in range(problem.batches.count)])
        assert sorted(rows.flatten().tolist()) == sorted(inputs.flatten().tolist())
        assert torch.equal(problem.batches.shuffled(3)[0], problem.batches.shuffled(3)[0])


def test_a_full_batch_problem_adds_up_all_batches_at_every_call() -> None:
    problem = NetworkLoss(mlp(), cross_entropy, data(), batch_size=7, stochastic=False)
    u = random_point(problem)
    assert torch.equal(problem.linearize(u, 0)[1], problem.linearize(u, 5)[1])
    assert problem.energy_calls == 1
    assert NetworkLoss(mlp(), cross_entropy, data(), batch_size=7).energy_calls == 6


def test_draws_decide_the_batch_and_the_dropout() -> None:
    problem = NetworkLoss(mlp(dropout=0.5), cross_entropy, data(), batch_size=8)
    u = random_point(problem)
    assert torch.equal(problem.linearize(u, 4)[1], problem.linearize(u, 4)[1])
    assert not torch.equal(problem.linearize(u, 4)[1], problem.linearize(u, 4 + problem.batches.count)[1])
    labels = problem.label_set.round(u)
    assert problem.energy(labels) == problem.energy(labels), "energies are taken without dropout"


def test_an_interrupted_run_on_mini_batches_resumes_bit_for_bit() -> None:
    problem = NetworkLoss(mlp(norm=True), cross_entropy, data(), batch_size=8)
    options: dict[str, Any] = {"max_iters": 40, "trace_every": 10, "seed": 3}
    whole = mrfq.solve(problem, "pmf", **options)
    half = mrfq.solve(problem, "pmf", callback=lambda row: row["iteration"] == 20, **options)
    assert half.iterations == 20
    resumed = mrfq.solve(problem, "pmf", resume=half, trace_every=10)
    assert torch.equal(resumed.labels, whole.labels)
    assert torch.equal(resumed.relaxed, whole.relaxed)
    assert resumed.trace["energy"] == whole.trace["energy"]


def test_a_solver_that_needs_more_than_a_linearisation_is_refused_with_a_list_of_those_that_fit() -> None:
    problem = NetworkLoss(mlp(), cross_entropy, data())
    assert Capability.SWEEP not in capabilities(problem)
    with pytest.raises(CapabilityError, match=r"NetworkLoss does not offer a site sweep; solvers that fit: .*pmf"):
        mrfq.solve(problem, ICM())


LINEAR = [
    "bc", "block-icm", "entropic-frank-wolfe", "frank-wolfe", "gd-tanh", "md-softmax", "md-softmax-s", "md-staircase-s",
    "md-tanh", "md-tanh-s", "parallel-mean-field", "parq", "pgd", "picm", "pmf", "pmf-primal", "rounding",
]  # fmt: skip


@pytest.mark.parametrize("name", LINEAR)
def test_every_solver_of_the_linearisation_runs_on_a_network_and_is_not_worse_than_rounding(name: str) -> None:
    problem = NetworkLoss(mlp(norm=True), cross_entropy, data(), batch_size=20)
    rounded = mrfq.solve(problem, "rounding").energy
    solution = mrfq.solve(problem, name, max_iters=60)
    assert solution.energy <= rounded
    assert problem.energy(solution.labels) == solution.energy


def test_enumeration_at_once_agrees_with_one_by_one() -> None:
    model = nn.Sequential(nn.Linear(5, 2, bias=False)).double()
    problem = NetworkLoss(model, cross_entropy, (data()[0], data()[1] % 2), scale="tensor")
    labels = torch.cartesian_prod(*[torch.arange(2)] * 10)
    energies = problem.energies(labels)
    assert energies[37].item() == pytest.approx(problem.energy(labels[37]), abs=1e-14)
    solution = mrfq.solve(problem, Exhaustive())
    assert solution.proved
    assert solution.energy == pytest.approx(float(energies.min()), abs=1e-14)
    normed = NetworkLoss(mlp(norm=True), cross_entropy, data())
    few = torch.stack([random_labels(normed, 2, seed) for seed in range(3)])
    assert normed.energies(few).tolist() == [normed.energy(row) for row in few]


def test_curvature_is_the_diagonal_of_the_hessian_on_average() -> None:
    problem = NetworkLoss(mlp(), cross_entropy, data(), probes=4000, parameters=["2.weight"], scale="tensor")
    labels = random_labels(problem, 2)

    def loss(values: torch.Tensor) -> torch.Tensor:
        weight = {"2.weight": (problem.segments[0].scale * values).reshape(3, 4)}
        return cross_entropy(torch.func.functional_call(mlp(), weight, (data()[0],)), data()[1])

    exact = torch.autograd.functional.hessian(loss, problem.label_set.decode(labels)).diagonal()
    torch.testing.assert_close(problem.curvature(labels), exact, atol=float(0.1 * exact.abs().max()), rtol=0)


@pytest.mark.parametrize("curvature", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_block_icm_is_monotone_and_stops_where_no_single_predicted_move_helps(curvature: bool, seed: int) -> None:
    problem = NetworkLoss(mlp(seed), cross_entropy, data(seed=seed), labels="ternary")
    solver = BlockICM(curvature=curvature)
    solution = mrfq.solve(problem, solver, max_iters=5000, trace_every=1)
    assert solution.status.name == "CONVERGED"
    assert all(b <= a for a, b in itertools.pairwise(solution.trace["energy"]))
    variables, targets, _ = solver.proposals(mrfq.Oracle(problem, seed=0), solution.labels)
    for i, label in zip(variables.tolist(), targets.tolist(), strict=True):
        moved = solution.labels.clone()
        moved[i] = label
        assert problem.energy(moved) >= solution.energy


def test_memory_is_no_more_than_two_copies_of_the_relaxed_labelling() -> None:
    problem = NetworkLoss(nn.Linear(200, 50), cross_entropy, (torch.randn(8, 200), torch.arange(8)), labels="4bit")
    u = random_point(problem)
    size = u.numel() * u.element_size()
    alive: dict[int, int] = {}
    peak = 0

    class Count(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal peak
            out = func(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, tuple | list) else [out]:
                storage = tensor.untyped_storage() if isinstance(tensor, torch.Tensor) else None
                if storage is None or storage.nbytes() < size or storage.data_ptr() == u.data_ptr():
                    continue
                key = storage.data_ptr()
                if key not in alive:
                    alive[key] = storage.nbytes()
                    weakref.finalize(storage, alive.pop, key, None)
                peak = max(peak, sum(alive.values()))
            return out

    with Count():
        _, g = problem.linearize(u)
    assert g.shape == u.shape
    assert size <= peak + 1 <= size + 1, "one gradient beside u itself"


def test_batch_norm_statistics_are_re_estimated_on_the_training_data() -> None:
    problem = NetworkLoss(mlp(norm=True), cross_entropy, data(), batch_size=10)
    labels = mrfq.solve(problem, "pmf", max_iters=20).labels
    network = problem.network(labels)
    hidden = network[0](data()[0])
    torch.testing.assert_close(network[1].running_mean, hidden.mean(0).detach())
    assert not network.training
    assert network[1].momentum == 0.1
    kept = problem.network(labels, reestimate_batch_norm=False)
    assert torch.equal(kept[1].running_mean, mlp(norm=True)[1].running_mean)
    reestimate(kept, problem.batches)
    assert torch.equal(kept[1].running_mean, network[1].running_mean)


def test_the_start_is_the_float_network_in_units_of_each_tensors_scale() -> None:
    model = mlp()
    problem = NetworkLoss(model, cross_entropy, data(), labels="binary", scale="tensor")
    weight = model[0].weight.detach().flatten()
    scale = problem.segments[0].scale
    assert scale == pytest.approx(float(weight.abs().mean()))
    mean = problem.label_set.mean(problem.initial())[: len(weight)]
    torch.testing.assert_close(mean, (weight / scale).clamp(-1, 1))


@pytest.mark.parametrize("levels", [[-1.0, 1.0], [-1.0, 0.0, 1.0], [-3.0, -1.0, 1.0, 3.0]])
def test_the_fitted_scale_cannot_be_improved_for_its_own_labels(levels: list[float]) -> None:
    weights = torch.randn(500, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = mrfq.LabelSet.shared(levels, len(weights))
    scale = fit_scale(weights, levels)
    q = labels.decode(labels.nearest(weights / scale))
    errors = [float(((weights - s * q) ** 2).sum()) for s in (scale, 0.99 * scale, 1.01 * scale)]
    assert errors[0] == min(errors)


def test_bad_data_and_options_are_refused_by_name() -> None:
    inputs, targets = data()
    with pytest.raises(InvalidProblemError, match="40 inputs but 39 targets"):
        NetworkLoss(mlp(), cross_entropy, (inputs, targets[:-1]))
    with pytest.raises(InvalidProblemError, match="batch_size must be at least 1"):
        NetworkLoss(mlp(), cross_entropy, (inputs, targets), batch_size=0)
    with pytest.raises(InvalidProblemError, match="not int"):
        NetworkLoss(mlp(), cross_entropy, 3)
    with pytest.raises(InvalidProblemError, match=r"pair \(inputs, targets\)"):
        NetworkLoss(mlp(), cross_entropy, [inputs])
    with pytest.raises(InvalidParameterError, match="scale must be None or 'tensor'"):
        NetworkLoss(mlp(), cross_entropy, (inputs, targets), scale="row")  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="did you mean 'ternary'"):
        NetworkLoss(mlp(), cross_entropy, (inputs, targets), labels="ternery")
    with pytest.raises(InvalidProblemError, match="strictly ascending"):
        NetworkLoss(mlp(), cross_entropy, (inputs, targets), labels=[1.0, -1.0])
    broken = mlp()
    with torch.no_grad():
        broken[0].weight[0, 0] = float("nan")
    with pytest.raises(InvalidProblemError, match=r"'0\.weight' needs finite"):
        NetworkLoss(broken, cross_entropy, (inputs, targets))


def test_a_loss_that_blows_up_stops_the_run_with_the_last_good_labelling() -> None:
    calls = itertools.count()

    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return cross_entropy(outputs, targets) * (float("nan") if next(calls) > 12 else 1.0)

    solution = mrfq.solve(NetworkLoss(mlp(), loss, data()), ProximalMeanField(), max_iters=40, trace_every=1)
    assert solution.status is mrfq.Status.NON_FINITE
    assert len(solution.trace) < 40


def test_a_convolutional_network_of_the_users_own_is_quantized_untouched() -> None:
    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 4, 3, bias=False)
            self.norm = nn.BatchNorm2d(4)
            self.head = nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(torch.relu(self.norm(self.conv(x))).mean((2, 3)))

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Small()
    images = torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    targets = (images[:, 0, :, 1:] - images[:, 0, :, :-1]).abs().mean((1, 2)).gt(1.1).long()
    problem = NetworkLoss(model, cross_entropy, (images, targets), parameters=["conv.weight"])
    solution = mrfq.solve(problem, "pmf", max_iters=100)
    network = problem.network(solution.labels)
    assert set(network.conv.weight.flatten().tolist()) == {-1.0, 1.0}
    assert torch.equal(network.head.weight, model.head.weight)
