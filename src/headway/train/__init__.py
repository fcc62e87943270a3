"""Training: settings, schedules by name, and the loop in `headway.train.fit`.

Importing this package does not import torch, so that `headway train --help` answers at once. It can be called:
`headway.train(model, data)` is `headway.train.api.train`.
"""

from ..callable_package import make_callable
from .config import TrainConfig
from .recipes import RECIPES, recipe

__all__ = ["RECIPES", "TrainConfig", "recipe"]

make_callable(__name__, "api", "train")
