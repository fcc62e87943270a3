"""`headway view ...`: pictures of what a detector does, with the numbers behind them."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from ..files import CHECKPOINTS
from . import common
from .common import Device, UsageError, show, show_json

OutPath = Annotated[Path | None, arg(metavar="FOLDER")]


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewDeform:
    """Draw where deformable convolutions look: the sampling points of chosen pixels on a photograph.

    One layer samples 9 points, two composed 9 x 9, three 9 x 9 x 9. Writes deform.png, and deform.json with the points
    in pixels of the photograph, their weights, and how long the offsets of each layer are.
    """

    checkpoint: Annotated[Positional[Path], arg(metavar="CHECKPOINT")]
    """A checkpoint or run folder of a model with deformable layers."""
    image: Annotated[Path | None, arg(metavar="FILE")] = None
    """The photograph."""
    pixel: Annotated[tuple[str, ...], arg(metavar="X,Y")] = ()
    """Pixels of the photograph, as in `--pixel 320,200 80,90`. Default: the centre of the best detection, else of the
    photograph."""
    layers: int | None = None
    """How many of the last deformable layers to compose. Default: three, or as many as there are."""
    layer: Annotated[tuple[str, ...], arg(metavar="NAME")] = ()
    """The layers themselves, by name or its end (layer4.1.conv2), in any order; a wrong name lists them."""
    out: OutPath = None
    """New folder for the results. Default: runs/view, or runs/view-2 and so on when that is taken."""
    device: Device = "auto"
    """auto: CUDA where there is one."""
    json: bool = False
    """Print the numbers as JSON."""

    def run(self) -> int:
        if self.image is None:
            raise UsageError("say what to look at: --image photo.jpg")
        if self.layer and self.layers is not None:
            raise UsageError("--layers counts from the last layer, --layer names them: give one of the two")
        if self.layers is not None and self.layers < 1:
            raise UsageError(f"--layers must be at least 1, got {self.layers}")
        pixels = [parse_pixel(text) for text in self.pixel]

        from ..view.deform import record, to_dict
        from ..view.deform_drawing import draw

        model = common.load_model(self.checkpoint, str(common.pick_device(self.device)))
        recording = record(model, self.image)
        chain = recording.chain(self.layer or self.layers)
        found = [recording.sample(pixel, chain) for pixel in pixels or [recording.scene.default_pixel()]]
        out = view_folder(self.out)
        draw(recording, found, out / "deform.png")
        numbers = {"checkpoint": str(self.checkpoint), "image": str(self.image), **to_dict(recording, found)}
        write_numbers(numbers, out / "deform.json")
        if self.json:
            show_json({"out": out, **numbers})
            return 0
        for sampling in found:
            x, y = sampling.pixel
            show(f"pixel {x:g},{y:g}: {len(sampling.points)} points of {' <- '.join(sampling.layers)}")
        for layer in numbers["layers"]:
            show(f"{layer['name']}: offsets {layer['mean']:.2f} +- {layer['std']:.2f} pixels of the photograph")
        show(f"drawn: {out / 'deform.png'}")
        return 0


def view_folder(out: Path | None) -> Path:
    """The folder of `--out`, or the next free runs/view, runs/view-2 and so on."""
    return common.new_folder(Path("runs/view")) if out is None else common.claim_folder(out)


def write_numbers(numbers: dict[str, Any], path: Path) -> None:
    """What is drawn, as JSON."""
    path.write_text(json.dumps(numbers, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def parse_pixel(text: str) -> tuple[float, float]:
    """ "X,Y" as numbers."""
    try:
        x, y = (float(part) for part in text.split(","))
    except ValueError:
        x = y = math.nan
    if not (math.isfinite(x) and math.isfinite(y)):
        raise UsageError(f"--pixel takes X,Y pairs, as in `--pixel 320,200`, got {text!r}")
    return x, y


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewImplicit:
    """Draw what implicit knowledge has learned: its vectors as bars, per level, with the outputs they act on.

    Writes implicit.png, and implicit.json with every value and the statistics of each vector.
    """

    checkpoint: Annotated[Positional[Path], arg(metavar="CHECKPOINT")]
    """A checkpoint or run folder of a YOLOR, or of any model that was built with `align` or `refine`."""
    out: OutPath = None
    """New folder for the results. Default: runs/view, or runs/view-2 and so on when that is taken."""
    json: bool = False
    """Print the numbers as JSON."""

    def run(self) -> int:
        from ..view.implicit import to_dict, vectors
        from ..view.implicit_drawing import draw

        model = common.load_model(self.checkpoint)
        found = vectors(model)
        out = view_folder(self.out)
        draw(found, out / "implicit.png", f"{model.card.model}: {_name(self.checkpoint.absolute())}")
        numbers = {"checkpoint": str(self.checkpoint), "model": model.card.model, "vectors": to_dict(found)}
        write_numbers(numbers, out / "implicit.json")
        if self.json:
            show_json({"out": out, **numbers})
            return 0
        rows = [_implicit_row(row) for row in numbers["vectors"]]
        header = ("layer", "stride", "position", "operator", "model", "values", "mean", "deviation", "mean by role")
        show(common.table(header, rows, right=(1, 5, 6, 7)))
        show(f"drawn: {out / 'implicit.png'}")
        return 0


def _implicit_row(row: dict[str, Any]) -> tuple[object, ...]:
    roles = "  ".join(f"{role} {numbers['mean']:+.3f}" for role, numbers in row["by_role"].items())
    return (
        row["layer"], row["stride"] or "all", row["position"], row["operator"], row["model"], row["channels"],
        f"{row['mean']:+.4f}", f"{row['std']:.4f}", roles,
    )  # fmt: skip


def _name(path: Path) -> str:
    """What a checkpoint is called: its run folder's name, or its own."""
    if path.is_dir():
        return path.name
    return path.parent.name if path.name in CHECKPOINTS else path.stem
