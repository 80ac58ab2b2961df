"""The embedded benchmark: what the project promises on real data."""

from __future__ import annotations

import statistics

import pytest
import torch

import mrfq
from mrfq.nn import digits

SEEDS = range(5)
EPOCHS = 100


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def test_the_split_is_fixed_disjoint_and_balanced() -> None:
    data = digits.load()
    sizes = {name: len(x) for name, (x, _) in data.items()}
    assert sizes == {"train": 1078, "validation": 359, "test": 360}
    for _, targets in data.values():
        counts = torch.bincount(targets)
        assert len(counts) == 10
        assert int(counts.max() - counts.min()) <= 7 * len(targets) // 360
    assert float(data["train"][0].max()) == 1.0


@pytest.mark.xdist_group("digits")
def test_pmf_and_mirror_descent_end_within_a_point_of_the_float_network_for_binary_weights() -> None:
    accuracies: dict[str, list[float]] = {"float": [], "rounding": [], "pmf": [], "md-softmax-s": []}
    for seed in SEEDS:
        task = digits.digits_task("binary", seed=seed)
        accuracies["float"].append(task.float_metrics["test_accuracy"])
        for name in ("rounding", "pmf", "md-softmax-s"):
            solution = mrfq.solve(task.problem, name, max_oracle_calls=EPOCHS * task.problem.batches.count, seed=seed)
            accuracies[name].append(task.evaluate(solution.labels)["test_accuracy"])
    mean = {name: statistics.fmean(values) for name, values in accuracies.items()}
    assert mean["float"] > 98
    assert mean["pmf"] >= mean["float"] - 1
    assert mean["md-softmax-s"] >= mean["float"] - 1
    assert mean["rounding"] < mean["pmf"] - 5


def test_the_whole_network_is_discrete() -> None:
    task = digits.digits_task("ternary", hidden=(16,), epochs=5)
    solution = mrfq.solve(task.problem, "pmf", max_oracle_calls=50)
    network = task.problem.network(solution.labels)
    assert all(set(p.flatten().tolist()) <= {-1.0, 0.0, 1.0} for p in network.parameters())
    assert task.problem.shape[0] == sum(p.numel() for p in network.parameters())


def test_the_tiny_network_has_an_exact_optimum_that_bounds_every_solver() -> None:
    task = digits.digits_tiny_task(seed=0)
    assert task.problem.shape == (18, 2)
    exact = mrfq.solve(task.problem, "exhaustive")
    assert exact.proved
    for name in ("pmf", "bc", "block-icm", "md-softmax-s"):
        solution = mrfq.solve(task.problem, name, max_oracle_calls=100)
        assert solution.energy >= exact.energy - 1e-9
    assert exact.energy < mrfq.solve(task.problem, "rounding").energy


def test_the_same_seed_gives_the_same_float_network_and_another_seed_another() -> None:
    one, same, other = (digits.digits_task(hidden=(8,), epochs=2, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(one.problem.initial(), same.problem.initial())
    assert not torch.equal(one.problem.initial(), other.problem.initial())
