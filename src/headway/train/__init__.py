"""Training: settings, schedules by name, and the loop in `headway.train.fit`.

Importing this package does not import torch, so that `headway train --help` answers at once.
"""

from .config import TrainConfig
from .recipes import RECIPES, recipe

__all__ = ["RECIPES", "TrainConfig", "recipe"]
