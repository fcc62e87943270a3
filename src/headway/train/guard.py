"""Stops a run whose heat map or distances have collapsed, since nothing in the log but a constant number would tell.

The focal loss of heat maps limits scores to 1e-4 .. 1 - 1e-4 and has no gradient beyond (`losses.gaussian_focal`).
When a step throws every score beyond the limit, none comes back: the heat-map loss stays at one number, most often
-ln(1e-4) (1 - 1e-4)^2 = 9.2085 per object (all scores at 1e-4), and validation finds nothing. Users of TTFNet and
CenterNet meet it when they keep the published learning rate on fewer GPUs (PaddleDetection issue 3877).
The distances of TTFNet and PAFNet go through a rectifier: one that is 0 wherever it is learned stays there.
"""

from __future__ import annotations

from ..errors import HeadwayError
from .config import TrainConfig

PATIENCE = 50  # steps; momentum moves the weights on and now and then brings a map back within a few of them


class CollapsedTraining(HeadwayError):  # noqa: N818  (named for what happened)
    """For `PATIENCE` steps scores or distances had no gradient to come back by: training goes on but not ahead."""


class CollapseGuard:
    """Counts consecutive steps whose heat-map loss is stuck, and those with a distance that is closed. Steps without
    objects, in which a map of zeros is right, do not count and do not reset.

    Works with every head that has a loss `heatmap` and the stats `positives` and `stuck`, the part of that loss from
    scores beyond the range with a gradient, and perhaps `closed`, the number of distances that are 0 wherever they
    should be long, with `judged`, the share of batches that have such ones: a step may be the mean of several batches
    or processes, some without objects. A resumed run counts anew.
    """

    def __init__(self, config: TrainConfig, patience: int = PATIENCE) -> None:
        self.config, self.patience = config, patience
        self.stuck_steps = self.closed_steps = 0

    def check(self, values: dict[str, float], epoch: int, step: int) -> None:
        """values: means of one step over processes, as `fit` logs them; epoch and step from 1.

        Raises: CollapsedTraining.
        """
        if "stat/stuck" not in values or values["stat/positives"] == 0:
            return
        loss = values["loss/heatmap"]
        stuck = loss > 0.5 and values["stat/stuck"] > 0.999 * loss  # a map that is right everywhere costs nothing
        self.stuck_steps = self.stuck_steps + 1 if stuck else 0
        judged = values.get("stat/judged", 0)
        if judged and not stuck:  # the heat map's end is told first
            closed = values["stat/closed"] / judged
            self.closed_steps = self.closed_steps + 1 if closed > 0.999 else 0
        where = f"at epoch {epoch}, step {step}"
        if self.stuck_steps >= self.patience:
            raise CollapsedTraining(
                f"the heat map has collapsed: {where} its scores have been beyond the limits of the focal loss for "
                f"{self.stuck_steps} steps (loss/heatmap {loss:.4f}; 9.2085 is every score at 1e-4). There the loss "
                f"has no gradient, so the run does not recover. {self._advice()}, and the heat map's bias at its prior "
                "(heads.heatmap.set_prior) if the model is your own"
            )
        if self.closed_steps >= self.patience:
            raise CollapsedTraining(
                f"the boxes have collapsed: {where} {closed:.0f} of the four distances have been 0 at "
                f"every object for {self.closed_steps} steps. Behind the rectifier there is no gradient, so the run "
                f"does not recover. {self._advice()}, and the distances' bias open at the start "
                "(heads.heatmap.open_distances) if the model is your own"
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
