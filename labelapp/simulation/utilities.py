"""What simulated labelers prefer: named utilities of an answer, higher is better.

They are the rewards that the trainer knows by name.
"""

from labelapp.trainer_gateway import KNOWN_REWARDS as UTILITIES
from labelapp.trainer_gateway import KnownReward as Utility

__all__ = ["UTILITIES", "Utility"]
