"""Says once, in one line, when a run does not learn, and what to look at first. It changes nothing in the run."""

from collections.abc import Callable, Mapping
from typing import Any

RANDOM = "random weights"  # what the record of a run says of them
STEPS = 20  # of a new run, over which objects and positives are counted
PATIENCE = 3  # validations in a row
LOW_AP = 0.005


class Watch:
    """Counts what the steps and validations of this process say.

    say: where a line goes. new: whether the run begins here; one that goes on has told of its objects already.
    record: what the run was started with; of it the data set's folder and the weights.
    """

    def __init__(self, say: Callable[[str], None], *, new: bool, record: Mapping[str, Any]) -> None:
        self._say, self._data = say, record.get("data") or "DATA"
        self._random = record.get("weights") == RANDOM
        self._left = STEPS if new else 0
        self._objects = self._positives = 0.0
        self._low: list[float] = []
        self._apart: list[tuple[float, float]] = []

    def step(self, values: dict[str, float]) -> None:
        """values: means of one step. A head that reports no positives, or draws a number of them per image as two
        stages do, is not judged."""
        if not self._left or "stat/positives" not in values or "stat/rpn_positives" in values:
            return
        self._left -= 1
        self._objects += values["stat/objects"]
        self._positives += values["stat/positives"]
        if not self._left:
            self._count()

    def _count(self) -> None:
        self._left = 0
        if self._objects and self._positives < 0.5 * self._objects:
            self._say(
                f"warning: the head learns from {self._positives / self._objects:.2f} positions per object so far, so "
                "most objects are not learned at all: they are too small, or too close together, for this model at "
                "this input size. Raise --input-size, cut the pictures into tiles, or take a model with finer maps"
            )

    def epoch(self, row: dict[str, float | None]) -> None:
        """row: what an epoch gave, with `train_loss`, and of a validation `val_loss` and `ap`. An epoch of fewer than
        `STEPS` steps is judged by those it has."""
        if self._left:
            self._count()
        ap, train_loss, val_loss = (row.get(name) for name in ("ap", "train_loss", "val_loss"))
        if ap is not None:
            self._low = [*self._low, ap] if ap < LOW_AP else []
            if len(self._low) == PATIENCE:
                start = ", the weights it starts from (they are random: --pretrained)" if self._random else ""
                self._say(
                    f"warning: AP is still {ap:.4f} after {PATIENCE} validations. Check in this order: the boxes "
                    f"(`headway data check {self._data}`, and how they lie on training pictures: `headway data augment "
                    f"{self._data}`){start}, whether objects are large enough at this input size (--input-size), the "
                    "learning rate (a third of it), and whether it is only early (few steps so far)"
                )
        if train_loss and val_loss is not None:
            self._apart = [*self._apart, (train_loss, val_loss)] if val_loss > 3 * train_loss else []
            if len(self._apart) == PATIENCE:
                self._say(
                    f"warning: validation loss {val_loss:.3g} is more than three times the training loss "
                    f"{train_loss:.3g}, {PATIENCE} validations in a row. Check in this order: whether validation "
                    f"pictures and labels are of the same kind as those of training (`headway data stats {self._data}`"
                    "), the learning rate (a third of it), a larger --batch-size (batch norms), more augmentation or "
                    "more pictures"
                )
