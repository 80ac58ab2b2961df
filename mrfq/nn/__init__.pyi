from . import digits as digits
from .batch_norm import reestimate as reestimate
from .loss import NetworkLoss as NetworkLoss
