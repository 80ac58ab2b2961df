"""Solvers: what each of them promises beyond the common contract."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import Quadratic, trajectory
from scipy.optimize import minimize

from mrfq import (
    Constant,
    Geometric,
    InvalidParameterError,
    PairwiseMRF,
    Status,
    generators,
    projections,
    solve,
    solvers,
)
from mrfq.start import starting_point
from mrfq.testing import LogCosh, exact_energy

ORDERS = ["fixed", "random", "colour"]


def single_changes(problem, labels):
    """Yield every labelling that differs from `labels` in one place."""
    for i, a in itertools.product(*map(range, problem.shape)):
        if a != labels[i]:
            changed = labels.clone()
            changed[i] = a
            yield i, a, changed


def falls(energies, slack=1e-10):
    return all(later <= earlier + slack for earlier, later in itertools.pairwise(energies))


# ---- exact ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 7, 2**13])
def test_enumeration_finds_the_optimum_and_proves_it(chunk):
    for problem in (generators.potts_graph(6, 3, seed=1), LogCosh("ternary"), Quadratic("binary")):
        solution = solve(problem, solvers.Exhaustive(chunk=chunk))
        assert solution.energy == exact_energy(problem) == solution.lower_bound
        assert solution.proved
        assert solution.status is Status.OPTIMAL


def test_enumeration_looks_at_existing_labels_only():
    mask = np.array([[1, 0, 1], [0, 1, 0], [1, 1, 1]], dtype=bool)
    problem = PairwiseMRF(np.array([[5.0, 0.0, 4.0], [0.0, 9.0, 0.0], [3.0, 2.0, 1.0]]), mask=mask)
    solution = solve(problem, "exhaustive")
    assert solution.labels.tolist() == [2, 1, 2]
    assert solution.oracle_calls == 7  # six labellings, and the best of them once more


def test_rounding_is_the_start():
    problem = generators.potts_grid(3, 3, 3)
    start = torch.rand(9, 3, generator=torch.Generator().manual_seed(0))
    start = start / start.sum(1, keepdim=True)
    assert solve(problem, "rounding", init=start).labels.equal(start.argmax(1))


# ---- ICM ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("make", [generators.potts_grid, generators.spin_glass, generators.denoising])
def test_icm_ends_where_no_single_change_helps(make, order):
    problem = make(5, 5, seed=3)
    solution = solve(problem, solvers.ICM(order=order), init="random")
    assert solution.status is Status.CONVERGED
    assert falls(solution.trace["energy"], slack=0)
    assert all(problem.energy(x) >= solution.energy - 1e-12 for _, _, x in single_changes(problem, solution.labels))


def test_icm_by_colour_is_icm_in_the_order_of_the_colours():
    problem = generators.potts_graph(20, 3, seed=2)
    labels = torch.randint(3, (20,), generator=torch.Generator().manual_seed(0))
    by_colour, in_turn = labels.clone(), labels.clone()
    for _ in range(3):
        problem.sweep(by_colour, "argmin", order="colour")
        problem.sweep(in_turn, "argmin", order=torch.cat(problem.independent_sets))
        assert by_colour.equal(in_turn)


# ---- mean-field -----------------------------------------------------------------------------------------


def free_energies(problem, states, beta):
    return [float(problem.linearize(s.u)[0] - torch.special.entr(s.u).sum() / beta) for s in states]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("beta", [0.3, 2.0, 20.0])
def test_the_free_energy_of_sequential_mean_field_never_rises(order, beta):
    problem = generators.spin_glass(5, 5, field=0.3, seed=2)
    start = starting_point(problem, "random", torch.Generator().manual_seed(0))
    states = trajectory(problem, solvers.MeanField(beta=beta, order=order), start, 15)
    assert falls(free_energies(problem, states, beta))


def test_the_free_energy_is_an_upper_bound_of_minus_log_z():
    problem, beta = generators.chain(5, 3, seed=3), 1.5
    energies = [problem.energy(torch.tensor(x)) for x in itertools.product(range(3), repeat=5)]
    log_z = float(torch.logsumexp(-beta * torch.tensor(energies, dtype=torch.float64), 0))
    start = starting_point(problem, None, torch.Generator().manual_seed(0))
    states = trajectory(problem, solvers.MeanField(beta=beta), start, 10)
    assert all(value >= -log_z / beta for value in free_energies(problem, states, beta))


def test_mean_field_is_exact_without_edges():
    problem = PairwiseMRF(np.random.default_rng(0).standard_normal((5, 3)))
    solution = solve(problem, solvers.MeanField(beta=1.7))
    torch.testing.assert_close(solution.relaxed, torch.softmax(-1.7 * problem.unary, 1))
    assert solution.status is Status.CONVERGED


@pytest.mark.parametrize("solver", [solvers.MeanField(beta=2.0), solvers.MeanField(beta=2.0, order="colour")])
def test_the_relaxed_energy_in_the_trace_is_that_of_the_relaxed_labelling(solver):
    problem = generators.potts_grid(4, 4, 3, seed=1)
    solution = solve(problem, solver, max_iters=6)
    assert solution.trace["relaxed_energy"][-1] == pytest.approx(
        float(problem.linearize(solution.relaxed)[0]), abs=1e-10
    )
    mean_entropy = float(torch.special.entr(solution.relaxed).sum()) / 16
    assert solution.trace["entropy"][-1] == pytest.approx(mean_entropy, abs=1e-10)


def test_damping_makes_parallel_mean_field_converge_where_it_oscillates():
    repelling = PairwiseMRF.ising(np.zeros(2), -1.0, [[0, 1]])
    start = np.array([[0.6, 0.4], [0.55, 0.45]])
    raw, damped = (
        solve(repelling, solvers.ParallelMeanField(beta=2.0, damping=d), init=start, max_iters=200) for d in (0.0, 0.8)
    )
    assert raw.status is Status.ITERATION_LIMIT
    assert raw.trace["changed"][-5:] == [2] * 5
    assert damped.status is Status.CONVERGED


# ---- block ICM ------------------------------------------------------------------------------------------


def predicted_gain(problem, labels, i, a, *, curvature):
    w = problem.label_set.decode(labels)
    move = float(problem.label_set.levels[0, a] - w[i])
    gain = -float(problem.gradient(w)[i]) * move
    return gain - 0.5 * float(problem.Q[i, i]) * move**2 if curvature else gain


@pytest.mark.parametrize("curvature", [False, True])
@pytest.mark.parametrize("levels", ["binary", "ternary", "2bit"])
@pytest.mark.parametrize("seed", range(4))
def test_block_icm_falls_and_ends_where_no_predicted_single_change_helps(levels, curvature, seed):
    problem = Quadratic(levels, n=8, seed=seed)
    solution = solve(problem, solvers.BlockICM(curvature=curvature), init="random", seed=seed)
    assert solution.status is Status.CONVERGED
    assert falls(solution.trace["energy"], slack=0)
    for i, a, x in single_changes(problem, solution.labels):
        predicted = predicted_gain(problem, solution.labels, i, a, curvature=curvature)
        assert predicted <= 1e-12 or problem.energy(x) >= solution.energy


def test_block_icm_tries_the_second_best_label_too():
    problem = Quadratic("ternary", n=1)
    problem.Q, problem.c = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    # From -1 the slope promises most at +1, which gains nothing; 0 is the minimum.
    solution = solve(problem, solvers.BlockICM(), init=np.array([0]))
    assert solution.labels.tolist() == [1]


def test_with_exact_curvature_block_icm_ends_at_a_local_minimum():
    problem = Quadratic("2bit", n=8, seed=5)
    solution = solve(problem, solvers.BlockICM(curvature=True), init="random")
    assert all(problem.energy(x) >= solution.energy - 1e-12 for _, _, x in single_changes(problem, solution.labels))


def test_block_icm_on_a_multilinear_energy_ends_where_icm_would():
    problem = generators.potts_grid(4, 4, 3, seed=1)
    solution = solve(problem, solvers.BlockICM(), init="random")
    assert solve(problem, "icm", init=solution.labels.numpy()).energy == solution.energy


def test_a_larger_first_block_needs_fewer_calls_far_from_the_minimum():
    problem = PairwiseMRF(np.random.default_rng(0).random((200, 2)))
    calls = [solve(problem, solvers.BlockICM(fraction=f), init="random").oracle_calls for f in (0.01, 1.0)]
    assert calls[1] < calls[0]


# ---- sampling -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ORDERS)
def test_gibbs_visits_labellings_as_often_as_boltzmann_says(order):
    problem, beta, sweeps = generators.frustrated_cycle(4, field=0.5, seed=2), 0.7, 8_000
    generator = torch.Generator().manual_seed(0)
    labels, counts = torch.zeros(4, dtype=torch.int64), np.zeros(16)
    place = torch.tensor([8, 4, 2, 1])
    for sweep in range(sweeps):
        given = torch.randperm(4, generator=generator) if order == "random" else {"colour": "colour"}.get(order)
        problem.sweep(labels, "sample", beta=beta, order=given, generator=generator)
        counts[int(labels @ place)] += sweep % 4 == 0  # thinned, so that draws are nearly independent
    energies = np.array([problem.energy(torch.tensor(x)) for x in itertools.product((0, 1), repeat=4)])
    law = np.exp(-beta * (energies - energies.min()))
    expected = counts.sum() * law / law.sum()
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    assert chi_square < 37.7  # 99.9 % of the law with 15 degrees of freedom


def test_gibbs_at_a_high_beta_is_icm_without_ties():
    problem = generators.spin_glass(5, 5, field=0.1, seed=3)
    labels = torch.randint(2, (25,), generator=torch.Generator().manual_seed(1))
    other = labels.clone()
    problem.sweep(labels, "argmin")
    problem.sweep(other, "sample", beta=1e12, generator=torch.Generator().manual_seed(0))
    assert labels.equal(other)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("order", ["fixed", "colour"])
def test_annealing_finds_the_ground_state_of_small_glasses(seed, order):
    problem = generators.spin_glass(3, 4, seed=seed)
    solution = solve(problem, solvers.SimulatedAnnealing(order=order), max_iters=200, seed=seed)
    assert solution.energy == pytest.approx(exact_energy(problem), abs=1e-12)


def test_annealing_chooses_its_temperatures_on_the_scale_of_the_costs():
    problem = generators.spin_glass(4, 4, seed=0)
    scaled = PairwiseMRF(1000 * problem.unary, problem.edges, problem.tables, weights=1000 * problem.weights)
    one, other = (solve(p, "annealing", max_iters=30) for p in (problem, scaled))
    np.testing.assert_allclose(np.array(one.trace["beta"]), 1000 * np.array(other.trace["beta"]))
    assert one.labels.equal(other.labels)


def test_a_hard_constraint_does_not_set_the_temperature():
    glass = generators.potts_graph(12, 3, seed=1)
    unary = glass.unary.clone()
    unary[0, 1] = math.inf
    hard = PairwiseMRF(unary, glass.edges, glass.tables, weights=glass.weights)
    one, other = (solve(p, "annealing", max_iters=30).trace["beta"] for p in (glass, hard))
    assert other[1] == pytest.approx(one[1], rel=1.0)


# ---- first-order methods --------------------------------------------------------------------------------

CONVEX = Quadratic("binary", n=8, seed=1)


@pytest.mark.parametrize(
    "solver",
    [solvers.ProjectedGradient(0.1), solvers.ExponentiatedGradient(1.0, 0.2), solvers.TanhMirrorDescent(1.0, 0.2)],
)
def test_descent_methods_with_small_steps_never_raise_a_convex_relaxed_energy(solver):
    start = starting_point(CONVEX, "random", torch.Generator().manual_seed(0))
    states = trajectory(CONVEX, solver, start, 60)
    assert falls([float(CONVEX.linearize(s.u)[0]) for s in states])


def test_methods_for_convex_energies_reach_the_minimum_of_the_box():
    box = minimize(
        lambda w: float(CONVEX.of_values(torch.from_numpy(w))),
        np.zeros(8),
        jac=lambda w: CONVEX.gradient(torch.from_numpy(w)).numpy(),
        bounds=[(-1, 1)] * 8,
    )
    for solver in (solvers.ProjectedGradient(0.1), solvers.ExponentiatedGradient(1.0, 0.2), solvers.FrankWolfe()):
        solution = solve(CONVEX, solver, max_iters=1000)
        assert float(CONVEX.linearize(solution.relaxed)[0]) == pytest.approx(box.fun, abs=1e-2)


def test_a_fixed_point_is_called_converged():
    solution = solve(CONVEX, solvers.ProjectedGradient(0.1), max_iters=5000)
    assert solution.status is Status.CONVERGED
    assert solution.iterations < 5000


ANNEALED = ["pmf", "md-softmax-s", "md-tanh-s", "md-staircase-s", "bc", "parq"]


@pytest.mark.parametrize("name", ANNEALED)
def test_annealed_methods_beat_rounding_on_quadratic_problems(name):
    problems = [Quadratic("binary", n=12, seed=seed) for seed in range(6)]
    start = [torch.linalg.solve(p.Q, p.c) for p in problems]
    init = [p.label_set.interpolate(w) for p, w in zip(problems, start, strict=True)]
    found = [solve(p, name, init=u, max_iters=200).energy for p, u in zip(problems, init, strict=True)]
    rounded = [solve(p, "rounding", init=u).energy for p, u in zip(problems, init, strict=True)]
    assert sum(found) < sum(rounded)


def test_a_new_solver_is_a_composition():
    mine = solvers.Splitting(projections.Softmax(), "dual", "surrogate", Geometric(1, 1e4), 0.1)
    named = solvers.ProximalMeanField(rate=0.1)
    problem = generators.chain(5, 3, seed=1)
    one, other = (solve(problem, s, max_iters=30) for s in (mine, named))
    assert one.relaxed.equal(other.relaxed)
    assert one.trace["energy"] == other.trace["energy"]


@pytest.mark.parametrize("schedule", [2.0, 2, Constant(2.0), Geometric(2, 2)])
def test_a_number_is_a_constant_schedule(schedule):
    problem = generators.chain(5, 3, seed=1)
    base = solve(problem, solvers.MeanField(beta=2.0))
    torch.testing.assert_close(solve(problem, solvers.MeanField(beta=schedule)).relaxed, base.relaxed)


# ---- compositions of solvers ----------------------------------------------------------------------------


def test_restarts_are_no_worse_than_one_run():
    for seed in range(5):
        problem = generators.spin_glass(6, 6, seed=seed)
        assert solve(problem, solvers.Restarts(solvers.ICM(), 20)).energy <= solve(problem, solvers.ICM()).energy


def test_every_restart_runs_to_its_end():
    problem = generators.spin_glass(5, 5, seed=1)
    single = solve(problem, "icm")
    many = solve(problem, solvers.Restarts(solvers.ICM(), 4))
    assert many.trace["energy"][: single.iterations + 1] == pytest.approx(single.trace["energy"], abs=1e-10)
    assert many.status is Status.CONVERGED


def test_every_restart_sees_its_part_of_the_budget_as_its_whole_run():
    problem = generators.chain(6, 3, seed=1)
    beta = solve(problem, solvers.Restarts(solvers.ParallelMeanField(Geometric(1, 100)), 3), max_iters=30).trace["beta"]
    for run in range(3):
        part = beta[1 + 10 * run : 11 + 10 * run]
        assert part[0] < 1.2
        assert part == sorted(part)
        assert part[-1] > 60


def test_every_restart_counts_its_own_iterations():
    # Frank-Wolfe's first step is 1: it jumps to a vertex, wherever it starts.
    solution = solve(CONVEX, solvers.Restarts(solvers.FrankWolfe(), 2), max_iters=20)
    entropies = solution.trace["entropy"]
    assert entropies[1] == pytest.approx(0, abs=1e-12)
    assert entropies[11] == pytest.approx(0, abs=1e-12)


def test_best_of_runs_each_in_turn():
    problem = generators.spin_glass(6, 6, seed=1)
    parts = (solvers.ICM(), solvers.SimulatedAnnealing())
    both = solve(problem, solvers.BestOf(parts), max_iters=200)
    assert both.energy <= solve(problem, "icm").energy
    assert both.iterations == 200


def test_a_composition_of_compositions_runs():
    inner = solvers.Restarts(solvers.ICM(), 3)
    nested = solvers.BestOf((inner, solvers.Restarts(solvers.ProximalMeanField(), 2)))
    assert solve(generators.spin_glass(4, 4), nested, max_iters=60).iterations == 60


def test_best_of_asks_every_part_whether_the_problem_fits():
    reason = solvers.BestOf((solvers.ICM(), solvers.ProximalMeanField())).accepts(LogCosh("binary"))
    assert reason == "ICM: LogCosh does not offer a site sweep"


# ---- parameters -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: solvers.ICM(order="backwards"), "ICM: order must be 'fixed', 'random' or 'colour'"),
        (lambda: solvers.MeanField(order="x"), "MeanField: order"),
        (lambda: solvers.Gibbs(beta=-1.0), "Gibbs: beta must be positive"),
        (lambda: solvers.Exhaustive(limit=0), "Exhaustive: limit must be positive"),
        (lambda: solvers.BlockICM(fraction=0.0), "BlockICM: fraction must be positive"),
        (lambda: solvers.Splitting(projections.Softmax(), "both"), "carry must be one of primal, mirror, dual, none"),
        (lambda: solvers.Splitting(projections.Softmax(), pull="half"), "pull must be one of"),
        (lambda: solvers.Splitting(projections.Argmax(), pull="exact"), "its Jacobian is zero"),
        (lambda: solvers.Restarts(solvers.ICM(), 0), "starts must be positive"),
        (lambda: solvers.Restarts("icm"), "inner must be a solver"),
        (lambda: solvers.BestOf(()), "non-empty"),
        (lambda: solvers.BestOf((solvers.ICM,)), "non-empty sequence of solvers"),
        (lambda: solve(CONVEX, solvers.BinaryConnect(rate=-1.0)), "rate must be positive"),
    ],
)
def test_bad_parameters_are_named(make, message):
    with pytest.raises(InvalidParameterError, match=message):
        make()


def test_solvers_compare_and_replace_by_their_parameters():
    assert solvers.ICM() == solvers.ICM()
    assert replace(solvers.ICM(), order="random") != solvers.ICM()
    assert hash(solvers.ICM()) == hash(solvers.ICM())
