"""Stops a run whose heat map has collapsed, since nothing in the log but a constant number would tell.

The focal loss of heat maps limits scores to 1e-4 .. 1 - 1e-4 and has no gradient beyond (`losses.gaussian_focal`).
Once every object's score is at the lower limit, no object pulls its score up again: the loss stays at
-ln(1e-4) (1 - 1e-4)^2 = 9.2085 per object and validation finds nothing. Users of TTFNet and CenterNet meet it when
they keep the published learning rate on fewer GPUs (PaddleDetection issue 3877).
"""

from __future__ import annotations

from ..errors import HeadwayError
from .config import TrainConfig

PATIENCE = 50  # steps; momentum and weight decay move the weights a little further, so a few steps prove nothing


class CollapsedTraining(HeadwayError):  # noqa: N818  (named for what happened)
    """Every object's score was at the limit of the loss for `PATIENCE` steps: training goes on without learning."""


class CollapseGuard:
    """Counts consecutive steps without a living object score. Steps without objects do not count and do not reset.

    Works with every head that reports the stats `positives` and, of these, `stuck`: those whose score has left the
    range in which the loss has a gradient. A resumed run counts anew.
    """

    def __init__(self, config: TrainConfig, patience: int = PATIENCE) -> None:
        self.config, self.patience, self.stuck_steps = config, patience, 0

    def check(self, values: dict[str, float], epoch: int, step: int) -> None:
        """values: means of one step over processes, as `fit` logs them; epoch and step from 1.

        Raises: CollapsedTraining.
        """
        if "stat/stuck" not in values or values["stat/positives"] == 0:
            return
        share = values["stat/stuck"] / values["stat/positives"]
        self.stuck_steps = self.stuck_steps + 1 if share > 0.9999 else 0  # 1 but for the rounding of means
        if self.stuck_steps < self.patience:
            return
        config = self.config
        half = "fp16 rounds small scores away: use bf16 or fp32; " if config.precision == "fp16" else ""
        raise CollapsedTraining(
            f"the heat map has collapsed: at epoch {epoch}, step {step} the score of every object has been at the "
            f"lower limit of the focal loss for {self.stuck_steps} steps (loss/heatmap "
            f"{values['loss/heatmap']:.4f}; 9.2085 is all scores at 1e-4). There the loss has no gradient, so the run "
            f"cannot recover. Most often the learning rate is too high for the {config.step_size} images of a step: "
            f"here it is {config.scaled_learning_rate:.3g} (learning_rate {config.learning_rate:.3g} at "
            f"base_batch_size {config.base_batch_size}), warmed up over {config.warmup_steps} steps, gradient norm "
            f"limited to {config.clip_grad:g} (0: not). Start again, without --resume since the saved state may be as "
            f"far gone, with: a learning_rate several times lower, or base_batch_size set to the images per step that "
            f"the rate was made for; warmup_steps of 500 or more; clip_grad 35 or lower; {half}and the heat map's "
            "bias at its prior (heads.heatmap.set_prior) if the model is your own"
        )
