"""Stops a run whose head says for many steps in a row that it cannot learn any more.

A head with a method `health(values) -> list[str] | None` is asked after every step; each entry is "what: evidence".
`heads.heatmap` has one: beyond its limits the focal loss of heat maps has no gradient, so a run that a step threw there
goes on with a constant loss and finds nothing. Users of TTFNet and CenterNet meet it when they keep the published
learning rate on fewer GPUs (PaddleDetection issue 3877).
"""

from typing import Any

from ..errors import HeadwayError
from .config import TrainConfig

PATIENCE = 50  # steps; momentum moves the weights on and now and then brings a map back within a few of them


class CollapsedTraining(HeadwayError):  # noqa: N818  (named for what happened)
    """For `PATIENCE` steps the head had no gradient to recover by: training goes on but not ahead."""


class HealthGuard:
    """Counts consecutive steps with the same complaint. Steps that cannot tell neither count nor reset, and a resumed
    run counts anew."""

    def __init__(self, head: Any, config: TrainConfig, patience: int = PATIENCE) -> None:
        self.health = getattr(head, "health", None)
        self.config, self.patience = config, patience
        self.steps: dict[str, int] = {}

    def check(self, values: dict[str, float], epoch: int, step: int) -> None:
        """values: means of one step over processes, as `fit` logs them; epoch and step from 1.

        Raises: CollapsedTraining.
        """
        complaints = None if self.health is None else self.health(values)
        if complaints is None:
            return
        self.steps = {what: self.steps.get(what, 0) + 1 for what in (text.partition(":")[0] for text in complaints)}
        for text in complaints:
            what, _, evidence = text.partition(": ")
            if self.steps[what] >= self.patience:
                raise CollapsedTraining(
                    f"{what}: at epoch {epoch}, step {step}, for {self.patience} steps {evidence}. The run does not "
                    f"recover. {self._advice()}"
                )

    def _advice(self) -> str:
        config = self.config
        half = "; bf16 or fp32, since fp16 rounds small scores away" if config.precision == "fp16" else ""
        return (
            f"Most often the learning rate is too high for the {config.step_size} images of a step: here it is "
            f"{config.scaled_learning_rate:.3g} (learning_rate {config.learning_rate:.3g} at base_batch_size "
            f"{config.base_batch_size}), warmed up over {config.warmup_steps} steps, the gradient's norm limited to "
            f"{config.clip_grad:g} (0: not). Start again, without --resume since the saved state may be as far gone, "
            "with: a learning_rate several times lower, or base_batch_size set to the images per step that the rate "
            f"was made for; warmup_steps of 500 or more; clip_grad of 35 or less{half}"
        )
