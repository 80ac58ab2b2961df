from . import digits as digits
from .batch_norm import reestimate as reestimate
from .loss import NetworkLoss as NetworkLoss
from .methods import METHODS as METHODS
from .methods import Method as Method
from .methods import make_method as make_method
from .optimizer import LabelOptimizer as LabelOptimizer
from .selection import parameter_groups as parameter_groups
