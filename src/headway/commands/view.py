"""`headway view ...`: pictures of what a detector does, with the numbers behind them."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

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
        pixels = [_pixel(text) for text in self.pixel]

        from .. import registry
        from ..view.deform import record, to_dict
        from ..view.deform_drawing import draw

        model = registry.load(common.find_checkpoint(self.checkpoint), device=str(common.pick_device(self.device)))
        recording = record(model, self.image)
        chain = recording.chain(self.layer or self.layers)
        found = [recording.sample(pixel, chain) for pixel in pixels or [recording.default_pixel()]]
        out = common.new_folder(Path("runs/view")) if self.out is None else common.claim_folder(self.out)
        draw(recording, found, out / "deform.png")
        numbers = {"checkpoint": str(self.checkpoint), "image": str(self.image), **to_dict(recording, found)}
        (out / "deform.json").write_text(json.dumps(numbers, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
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


def _pixel(text: str) -> tuple[float, float]:
    """ "X,Y" as numbers."""
    try:
        x, y = (float(part) for part in text.split(","))
    except ValueError:
        x = y = math.nan
    if not (math.isfinite(x) and math.isfinite(y)):
        raise UsageError(f"--pixel takes X,Y pairs, as in `--pixel 320,200`, got {text!r}")
    return x, y
