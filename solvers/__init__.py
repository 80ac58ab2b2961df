"""The solvers of `mrfq`, one family a file. They depend on the core, never the other way round."""

if __name__ != "mrfq.solvers":
    raise ImportError(f"import the solvers as mrfq.solvers, not as {__name__}")

from mrfq.solvers.annealing import ParallelAnnealing
from mrfq.solvers.auto import Auto
from mrfq.solvers.belief_propagation import MaxProduct, ParallelMaxProduct
from mrfq.solvers.composed import BestOf, Restarts
from mrfq.solvers.elimination import Elimination
from mrfq.solvers.elimination_orders import Order, elimination_order
from mrfq.solvers.enumeration import Exhaustive, Rounding
from mrfq.solvers.factor_messages import SRMP
from mrfq.solvers.frank_wolfe import EntropicFrankWolfe, FrankWolfe
from mrfq.solvers.gptq import GPTQ
from mrfq.solvers.graph_cut import GraphCut
from mrfq.solvers.greedy import Greedy
from mrfq.solvers.integer_program import IntegerProgram
from mrfq.solvers.layer_mean_field import LayerMeanField
from mrfq.solvers.linear_program import LinearProgram
from mrfq.solvers.local_search import BlockICM
from mrfq.solvers.message_passing import TRWS
from mrfq.solvers.mirror_descent import (
    ExponentiatedGradient,
    StableMirrorDescent,
    StableTanhMirrorDescent,
    StaircaseMirrorDescent,
    TanhMirrorDescent,
)
from mrfq.solvers.move_making import AlphaBetaSwap, AlphaExpansion
from mrfq.solvers.pair_moves import PairMoves
from mrfq.solvers.proximal import (
    ParallelMeanField,
    ProjectedGradient,
    ProximalICM,
    ProximalMeanField,
    SoftmaxProjectedGradient,
)
from mrfq.solvers.roof_duality import QPBO, RoofDual, roof_duality
from mrfq.solvers.site import ICM, Gibbs, MeanField, SimulatedAnnealing
from mrfq.solvers.splitting import Splitting
from mrfq.solvers.straight_through import PARQ, BinaryConnect, GradientDescentTanh
from mrfq.solvers.subset_icm import SubsetICM
from mrfq.solvers.tabu import TabuSearch
from mrfq.solvers.toulbar2 import Toulbar2

__all__ = [
    "GPTQ",
    "ICM",
    "PARQ",
    "QPBO",
    "SRMP",
    "TRWS",
    "AlphaBetaSwap",
    "AlphaExpansion",
    "Auto",
    "BestOf",
    "BinaryConnect",
    "BlockICM",
    "Elimination",
    "EntropicFrankWolfe",
    "Exhaustive",
    "ExponentiatedGradient",
    "FrankWolfe",
    "Gibbs",
    "GradientDescentTanh",
    "GraphCut",
    "Greedy",
    "IntegerProgram",
    "LayerMeanField",
    "LinearProgram",
    "MaxProduct",
    "MeanField",
    "Order",
    "PairMoves",
    "ParallelAnnealing",
    "ParallelMaxProduct",
    "ParallelMeanField",
    "ProjectedGradient",
    "ProximalICM",
    "ProximalMeanField",
    "Restarts",
    "RoofDual",
    "Rounding",
    "SimulatedAnnealing",
    "SoftmaxProjectedGradient",
    "Splitting",
    "StableMirrorDescent",
    "StableTanhMirrorDescent",
    "StaircaseMirrorDescent",
    "SubsetICM",
    "TabuSearch",
    "TanhMirrorDescent",
    "Toulbar2",
    "elimination_order",
    "roof_duality",
]
