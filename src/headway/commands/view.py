"""`headway view ...`: pictures of what a detector does, with the numbers behind them."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from ..files import CHECKPOINTS
from . import common
from .common import Device, UsageError, show, show_json


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What every view is told."""

    checkpoint: Annotated[Positional[Path], arg(metavar="CHECKPOINT")]
    """A checkpoint or run folder of a model that has what is to be seen."""
    out: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """New folder for the results. Default: runs/view, or runs/view-2 and so on when that is taken."""
    device: Device = "auto"
    """auto: CUDA where there is one."""
    json: bool = False
    """Print the numbers as JSON."""

    def load(self) -> Any:
        return common.load_model(str(self.checkpoint), str(common.pick_device(self.device)))

    def folder(self) -> Path:
        return common.new_folder(Path("runs/view")) if self.out is None else common.claim_folder(self.out)

    def report(self, file: Path, numbers: dict[str, Any], text: str) -> int:
        """Write the numbers and print them, as JSON or as `text`."""
        numbers = {"checkpoint": str(self.checkpoint), **numbers}
        common.write_json(file, numbers)
        show_json({"out": file.parent, **numbers}) if self.json else show(text)
        return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotographView(View):
    """A view of what a model does with one photograph."""

    image: Annotated[Path | None, arg(metavar="FILE")] = None
    """The photograph."""
    pixel: Annotated[tuple[str, ...], arg(metavar="X,Y")] = ()
    """Pixels of the photograph to watch, as in `--pixel 320,200 80,90`. Default: the centre of the best detection, else
    of the photograph."""

    def photograph(self) -> tuple[Path, list[tuple[float, float]]]:
        """The image and its pixels to watch. Raises: UsageError."""
        if self.image is None:
            raise UsageError("say what to look at: --image photo.jpg")
        return self.image, [_parse_pixel(text) for text in self.pixel]


def _parse_pixel(text: str) -> tuple[float, float]:
    try:
        x, y = (float(part) for part in text.split(","))
    except ValueError:
        x = y = math.nan
    if not (math.isfinite(x) and math.isfinite(y)):
        raise UsageError(f"--pixel takes X,Y pairs, as in `--pixel 320,200`, got {text!r}")
    return x, y


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewDeform(PhotographView):
    """Draw where deformable convolutions look: the sampling points of chosen pixels on a photograph.

    One layer samples 9 points, two composed 9 x 9, three 9 x 9 x 9. Writes deform.png, and deform.json with the points
    in pixels of the photograph, their weights, and how long the offsets of each layer are.
    """

    layers: int | None = None
    """How many of the last deformable layers to compose. Default: three, or as many as there are."""
    layer: Annotated[tuple[str, ...], arg(metavar="NAME")] = ()
    """The layers themselves, by name or its end (layer4.1.conv2), in any order; a wrong name lists them."""

    def run(self) -> int:
        image, pixels = self.photograph()
        if self.layer and self.layers is not None:
            raise UsageError("--layers counts from the last layer, --layer names them: give one of the two")
        if self.layers is not None and self.layers < 1:
            raise UsageError(f"--layers must be at least 1, got {self.layers}")

        from ..view.deform import record, to_dict
        from ..view.deform_drawing import draw

        recording = record(self.load(), image)
        chain = recording.chain(self.layer or self.layers)
        found = [recording.sample(pixel, chain) for pixel in pixels or [recording.scene.default_pixel()]]
        out = self.folder()
        draw(recording, found, out / "deform.png")
        numbers = to_dict(recording, found)
        lines = [
            f"pixel {s.pixel[0]:g},{s.pixel[1]:g}: {len(s.points)} points of {' <- '.join(s.layers)}" for s in found
        ]
        for layer in numbers["layers"]:
            lines.append(f"{layer['name']}: offsets {layer['mean']:.2f} +- {layer['std']:.2f} pixels of the photograph")
        lines.append(f"drawn: {out / 'deform.png'}")
        return self.report(out / "deform.json", {"image": str(image), **numbers}, "\n".join(lines))


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewImplicit(View):
    """Draw what implicit knowledge has learned: its vectors as bars, per level, with the outputs they act on.

    Writes implicit.png, and implicit.json with every value and the statistics of each vector. The model is a YOLOR, or
    any that was built with `align` or `refine`.
    """

    def run(self) -> int:
        from ..view.implicit import to_dict, vectors
        from ..view.implicit_drawing import draw

        model = self.load()
        found = vectors(model)
        out = self.folder()
        draw(found, out / "implicit.png", f"{model.card.model}: {_name(self.checkpoint.absolute())}")
        numbers = {"model": model.card.model, "vectors": to_dict(found)}
        header = ("layer", "stride", "position", "operator", "model", "values", "mean", "deviation", "mean by role")
        table = common.table(header, [_implicit_row(row) for row in numbers["vectors"]], right=(1, 5, 6, 7))
        return self.report(out / "implicit.json", numbers, f"{table}\ndrawn: {out / 'implicit.png'}")


def _implicit_row(row: dict[str, Any]) -> tuple[object, ...]:
    roles = "  ".join(f"{role} {numbers['mean']:+.3f}" for role, numbers in row["by_role"].items())
    return (
        row["layer"], row["stride"] or "all", row["position"], row["operator"], row["model"], row["channels"],
        f"{row['mean']:+.4f}", f"{row['std']:.4f}", roles,
    )  # fmt: skip


def _name(path: Path) -> str:
    """What a checkpoint is called: its run folder's name, or its own."""
    return path.parent.name if path.name in CHECKPOINTS else path.name if path.is_dir() else path.stem
