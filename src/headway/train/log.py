"""What a run tells: a bar or plain lines on stderr, metrics.jsonl, TensorBoard when asked, and the curve picture."""

import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..errors import HeadwayError
from ..progress import Pace, can_draw, duration

METRICS = "metrics.jsonl"


class RunLog:
    """The output of one run; a silent one for every process but the first.

    total: optimizer steps of the whole run; done: of those, finished before; kept_bytes: length of metrics.jsonl to
    keep when a run goes on (later rows describe steps that will be done again).
    """

    def __init__(
        self, folder: Path, total: int, *, done: int = 0, kept_bytes: int = 0, tensorboard: bool = False,
        silent: bool = False, clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self.path, self.total, self.silent = folder / METRICS, total, silent
        self.board = board_writer()(str(folder / "tensorboard")) if tensorboard and not silent else None
        self._file: Any = None
        if not silent:
            self._file = self.path.open("ab")
            os.truncate(self.path, min(kept_bytes, self.path.stat().st_size))
        self._console = Console(stderr=True, quiet=silent)
        self._bar: Progress | None = None
        self._clock, self._pace = clock, Pace(clock)
        self._times: list[float] = []
        if can_draw(self._console) and not silent:
            self._bar = Progress(
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[text]}"),
                TimeRemainingColumn(), console=self._console,
            )  # fmt: skip
            self._task = self._bar.add_task("training", total=total, completed=done, text="")
            self._bar.start()

    @property
    def bytes(self) -> int:
        """Length of metrics.jsonl."""
        return self.path.stat().st_size if self.path.exists() else 0

    def say(self, text: str) -> None:
        """One line for people."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def tick(self, epoch: int, epochs: int, step: int, loss: float, images_per_s: float) -> None:
        """Show one finished step; without a bar, a line now and then. After three, say how long the rest takes."""
        text = f"loss {loss:.4f}  {images_per_s:.1f} img/s"
        if self._bar is not None:
            self._bar.update(self._task, completed=step, description=f"epoch {epoch + 1}/{epochs}", text=text)
        elif self._pace.due(step, self.total):
            left = self._pace.left(step, self.total)
            self.say(f"epoch {epoch + 1}/{epochs}  step {step}/{self.total}  {text}  {left}")
        if len(self._times) < 3:
            self._times.append(self._clock())
            if len(self._times) == 3 and step < self.total:
                self._estimate(self.total - step)

    def validating(self) -> Callable[[int, int], None]:
        """What a validation calls with (pictures done, of how many)."""
        pace = Pace(self._clock)

        def tell(done: int, total: int) -> None:
            if self._bar is not None:
                self._bar.update(self._task, text=f"validating {done}/{total}")
            elif pace.due(done, total):
                self.say(f"validating {done}/{total}  {pace.left(done, total)}")

        return tell

    def _estimate(self, steps: int) -> None:
        """By the second and third step; the first also loads kernels."""
        seconds = (self._times[2] - self._times[0]) / 2 * steps
        faster = "" if seconds < 3600 else "; shorter by fewer --epochs, a smaller --input-size or a GPU"
        self.say(f"the remaining {steps} steps take about {duration(seconds)}, without validations{faster}")

    def row(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """Append one row to metrics.jsonl (and TensorBoard). kind: "step" or "epoch"."""
        if self.silent:
            return
        rounded = {k: float(f"{v:.7g}") if isinstance(v, float) else v for k, v in values.items()}
        self._file.write((json.dumps({"kind": kind, "step": step, **rounded}) + "\n").encode())
        self._file.flush()
        if self.board is not None:
            for name, value in values.items():
                if isinstance(value, (int, float)):
                    self.board.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        """Stop the bar and flush the files."""
        if self._bar is not None:
            self._bar.stop()
        if self._file is not None:
            self._file.close()
        if self.board is not None:
            self.board.close()


def board_writer() -> Any:
    """TensorBoard's SummaryWriter. Raises: HeadwayError when it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise HeadwayError(
            f"tensorboard is not installed ({error}): `pip install 'headway[tensorboard]'`, or train without "
            "--tensorboard (metrics.jsonl and curve.png are always written)"
        ) from None
    return SummaryWriter


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl; a last line cut off by a kill is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def draw_curve(folder: Path) -> Path | None:
    """Draw <folder>/curve.png from its metrics.jsonl: losses, AP and learning rate over steps. None without rows."""
    from matplotlib.figure import Figure

    rows = read_rows(folder / METRICS)
    steps, epochs = ([r for r in rows if r["kind"] == kind] for kind in ("step", "epoch"))
    if not steps:  # a run shorter than one row of steps
        steps = [{"step": r["step"], "loss": r["train_loss"]} for r in epochs if "train_loss" in r]
    if not steps:
        return None
    figure = Figure(figsize=(13, 4), layout="constrained")
    loss_axes, score_axes, rate_axes = figure.subplots(1, 3)
    # Of DETR's decoder layers only the last one's terms: eighteen lines would say no more than three.
    terms = [k for k in steps[-1] if k.startswith("loss/") and not re.search(r"_\d+$", k)]
    _line(loss_axes, steps, "loss", "training loss", color="black", linewidth=1.5)
    for term in terms:
        _line(loss_axes, steps, term, term.removeprefix("loss/"), linewidth=1)
    _line(loss_axes, epochs, "val_loss", "validation loss", color="crimson", marker="o", markersize=3)
    top = max((r["loss"] for r in steps[len(steps) // 20 :]), default=1.0)
    loss_axes.set(title="loss", ylim=(0, 1.1 * max([top, *(r["val_loss"] for r in epochs if r.get("val_loss"))])))
    for key in ("ap", "ap50", "ap75"):
        _line(score_axes, epochs, key, key.upper(), marker="o", markersize=3)
    best = max((r for r in epochs if r.get("ap") is not None), key=lambda r: r["ap"], default=None)
    if best is not None:
        score_axes.axvline(best["step"], color="grey", linestyle=":", label=f"best AP {best['ap']:.3f}")
        highest = max(r[key] for r in epochs for key in ("ap", "ap50", "ap75") if r.get(key) is not None)
        score_axes.set_ylim(0, min(1.0, max(0.01, 1.15 * highest)))
    else:
        score_axes.text(0.5, 0.5, "no validation", ha="center", transform=score_axes.transAxes, color="grey")
    score_axes.set_title("validation AP")
    _line(rate_axes, steps, "lr", "learning rate")
    rate_axes.set_title("learning rate")
    for axes in (loss_axes, score_axes, rate_axes):
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize="small")
    temporary = folder / ".curve.part.png"
    figure.savefig(temporary, dpi=110)
    os.replace(temporary, folder / "curve.png")
    return folder / "curve.png"


def _line(axes: Any, rows: list[dict[str, Any]], key: str, label: str, **style: Any) -> None:
    points = [(r["step"], r[key]) for r in rows if r.get(key) is not None]
    if points:
        axes.plot(*zip(*points), label=label, **style)


class Meter:
    """Images per second over the last minute or so, without the time of validations and saves."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock, self._started, self._rate = clock, clock(), 0.0

    def start(self) -> None:
        """Begin timing a step (its data loading included)."""
        self._started = self._clock()

    def stop(self, images: int) -> tuple[float, float]:
        """(seconds of this step, smoothed images per second)."""
        seconds = self._clock() - self._started
        now = images / max(seconds, 1e-9)
        self._rate = now if self._rate == 0 else 0.9 * self._rate + 0.1 * now
        self._started = self._clock()
        return seconds, self._rate
