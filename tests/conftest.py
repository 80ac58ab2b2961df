"""Settings and tables shared by the tests."""

import copy
import os

os.environ.setdefault("MPLBACKEND", "agg")

import pytest
import torch
from hypothesis import HealthCheck, settings

from mrfq import LabelSet, Oracle, Step, projections, registry, solvers

settings.register_profile(
    "mrfq", deadline=None, max_examples=30, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("mrfq")
torch.set_num_threads(1)

COMPOSED = {"splitting", "restarts", "best-of"}
#: every registered solver with its defaults, and the settings that take another path through the code
SOLVERS = {name: kind() for name, kind in registry.all_solvers().items() if name not in COMPOSED} | {
    "exhaustive-chunks": solvers.Exhaustive(chunk=7),
    "icm-random": solvers.ICM(order="random"),
    "icm-colour": solvers.ICM(order="colour"),
    "mean-field-fixed-beta": solvers.MeanField(beta=2.0),
    "mean-field-colour": solvers.MeanField(order="colour"),
    "gibbs-random": solvers.Gibbs(order="random"),
    "annealing-colour": solvers.SimulatedAnnealing(order="colour"),
    "flooding-undamped": solvers.ParallelMaxProduct(damping=0.0),
    "graph-cut-scipy": solvers.GraphCut(backend="scipy"),
    "expansion-random": solvers.AlphaExpansion(order="random"),
    "swap-random": solvers.AlphaBetaSwap(order="random"),
    "qpbo-scipy": solvers.QPBO(patience=1, backend="scipy"),
    "milp-no-proof": solvers.IntegerProgram(proof=0),
    "toulbar2-short": solvers.Toulbar2(backtracks=1),
    "parallel-annealing-three": solvers.ParallelAnnealing(chains=3, sweeps=5),
    "greedy-plain": solvers.Greedy(noise=0.0),
    "tabu-short": solvers.TabuSearch(tenure=1, patience=3, strength=1.0),
    "subset-icm-single": solvers.SubsetICM(size=1, patience=1),
    "pgd-momentum": solvers.ProjectedGradient(rate=Step(0.1, momentum=0.9)),
    "splitting-exact": solvers.Splitting(projections.Sparsemax(), "dual", "exact", 2.0, 0.1),
    "restarts-icm": solvers.Restarts(solvers.ICM(order="random"), starts=3),
    "restarts-pmf": solvers.Restarts(solvers.ProximalMeanField(), starts=3),
    "best-of-three": solvers.BestOf((solvers.ICM(), solvers.ProximalMeanField(), solvers.SimulatedAnnealing())),
    "best-of-nested": solvers.BestOf((solvers.Restarts(solvers.BlockICM(), 2), solvers.FrankWolfe())),
}


@pytest.fixture(params=SOLVERS)
def solver(request):
    return SOLVERS[request.param]


@pytest.fixture
def random():
    """A seeded torch generator."""
    return torch.Generator().manual_seed(0)


class Quadratic:
    """`1/2 w Q w - c w` of the values w, with its curvature: like a layer's output error, and nothing else."""

    dtype, device = torch.float64, torch.device("cpu")
    curvature_calls = 1

    def __init__(self, labels="binary", n=6, seed=0):
        random = torch.Generator().manual_seed(seed)
        self.label_set = LabelSet.named(labels, n)
        self.shape = self.label_set.shape
        root = torch.randn(n, n, generator=random, dtype=torch.float64)
        self.Q = root @ root.T / n
        self.c = torch.randn(n, generator=random, dtype=torch.float64)

    def of_values(self, w):
        return 0.5 * w @ self.Q @ w - self.c @ w

    def gradient(self, w):
        return self.Q @ w - self.c

    def energy(self, labels):
        return float(self.of_values(self.label_set.decode(labels)))

    def linearize(self, u, draw=None):
        w = self.label_set.mean(u)
        return self.of_values(w), self.label_set.lift(self.gradient(w))

    def curvature(self, labels):
        return self.Q.diagonal().clone()


def trajectory(problem, solver, start, steps):
    """Return the states (copied) of a run, the first included, without the loop around it."""
    oracle = Oracle(problem, seed=0)
    oracle.horizon = steps
    state = solver.init(oracle, start)
    states = [copy.deepcopy(state)]
    for _ in range(steps):
        state = solver.step(oracle, state)
        oracle.iteration += 1
        states.append(copy.deepcopy(state))
    return states
