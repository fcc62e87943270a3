"""`headway view ...`: pictures of what a detector does, with the numbers behind them."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from ..errors import HeadwayError
from . import common
from .common import Device, Format, UsageError, say, show, show_json
from .eval import pick_split

if TYPE_CHECKING:
    from ..data.dataset import DetectionData
    from ..detector import Detector

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

        model = common.load_checkpoint(self.checkpoint, str(common.pick_device(self.device)))
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
class ViewCascade:
    """Compare detectors trained at different IoUs, and the stages of a cascade, on labelled pictures.

    Draws AP over IoU thresholds; what each stage makes of boxes jittered to an IoU; and the proposals' IoU before each
    stage. Writes cascade.png, and the numbers as cascade.json.
    """

    checkpoints: Annotated[Positional[tuple[Path, ...]], arg(metavar="CHECKPOINT ...")]
    """Checkpoints or run folders; those without stages take part in AP only."""
    data: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """The data set: a folder, or a COCO annotation file."""
    split: str = "val"
    """Which split of it, where it has several."""
    format: Format | None = None
    """Of the data set. Default: recognised by structure."""
    names: Annotated[tuple[str, ...], arg(metavar="NAME")] = ()
    """What to call the checkpoints, in their order. Default: their run folders or files."""
    limit: int | None = None
    """Use at most so many pictures, evenly over the split."""
    seed: int = 0
    """Of the jittered boxes."""
    out: OutPath = None
    """New folder for the results. Default: runs/view, or runs/view-2 and so on when that is taken."""
    device: Device = "auto"
    """auto: CUDA where there is one."""
    json: bool = False
    """Print the numbers as JSON."""

    def run(self) -> int:
        names = self._names()
        if self.data is None:
            raise UsageError("say what to measure on: --data FOLDER")
        if self.limit is not None and self.limit < 1:
            raise UsageError(f"--limit must be at least 1, got {self.limit}")
        if self.seed < 0:
            raise UsageError(f"--seed must be at least 0, got {self.seed}")

        from .. import __version__
        from ..data.formats.any_format import open_splits
        from ..evaluate.run import match_classes
        from ..view import cascade
        from ..view.cascade_drawing import draw

        device = common.pick_device(self.device)
        models = [common.load_checkpoint(path, str(device)) for path in self.checkpoints]
        if not any(map(cascade.has_stages, models)):
            raise HeadwayError(
                f"no stages to look at in {', '.join(m.card.model for m in models)}: give at least one Faster or "
                "Cascade R-CNN (`headway train cascade_rcnn_r18_fpn`); `headway eval` measures the AP of any model"
            )
        data = cascade.spread(pick_split(open_splits(self.data, format=self.format), self.split), self.limit)
        cascade.check_labelled(data)
        for model in models:
            match_classes(model.card.class_names, data)
        out = common.new_folder(Path("runs/view")) if self.out is None else common.claim_folder(self.out)
        rows = []
        for name, path, model in zip(names, self.checkpoints, models):
            rows.append({"name": name, "checkpoint": str(path), "model": model.card.model})
            rows[-1] |= self._measure(name, model, data)
        about = {"name": data.name, "root": str(data.root), "images": len(data), "boxes": data.num_boxes}
        numbers = {"version": __version__, "data": about, "seed": self.seed, **cascade.bins(), "models": rows}
        draw(rows, out / "cascade.png", f"{data.root.name} {data.name}: {len(data)} pictures, {data.num_boxes} boxes")
        (out / "cascade.json").write_text(json.dumps(numbers, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        if self.json:
            show_json({"out": out, **numbers})
        else:
            show(_cascade_text(rows))
            show(f"drawn: {out / 'cascade.png'}")
        return 0

    def _names(self) -> list[str]:
        if not self.checkpoints:
            raise UsageError("give at least one checkpoint or run folder")
        names = list(self.names) or [_name(path.absolute()) for path in self.checkpoints]
        if len(names) != len(self.checkpoints):
            raise UsageError(f"--names needs one name per checkpoint, got {len(names)} for {len(self.checkpoints)}")
        if len(set(names)) < len(names):
            raise UsageError(f"two checkpoints are called {max(names, key=names.count)!r}: tell them apart by --names")
        return names

    def _measure(self, name: str, model: Detector, data: DetectionData) -> dict[str, Any]:
        from ..view import cascade

        with common.progress_bar(f"{name}: AP") as progress:
            ap = cascade.ap_by_iou(model, data, progress)
        if not cascade.has_stages(model):
            say(f"{name}: {model.card.model} has no stages, so it takes part in AP only")
            return cascade.to_dict(ap, None)
        with common.progress_bar(f"{name}: stages") as progress:
            return cascade.to_dict(ap, cascade.watch_stages(model, data, seed=self.seed, progress=progress))


def _name(path: Path) -> str:
    """What a checkpoint is called: its run folder's name, or its own."""
    if path.is_dir():
        return path.name
    return path.parent.name if path.name in common.CHECKPOINTS else path.stem


def _cascade_text(rows: list[dict[str, Any]]) -> str:
    """AP of each model, then what each stage does to boxes of three IoUs and what comes to it."""

    def shown(value: float | None) -> str:
        return "-" if value is None else f"{value:.3f}"

    scores = [(row["name"], *(shown(row[key]) for key in ("ap", "ap50", "ap75"))) for row in rows]
    text = common.table(("model", "AP", "AP50", "AP75"), scores, right=(1, 2, 3))
    stages = []
    for row in rows:
        for line, coming in zip(row.get("localisation", ()), row.get("proposals", ())):
            moves = [f"{shown(line['input'][i])} > {shown(line['output'][i])}" for i in (4, 8, 12)]
            positives = coming["positives"][f"{line['iou']:g}"]
            stages.append((row["name"], line["stage"], f"{line['iou']:g}", *moves, f"{positives:.1f}"))
    header = ("model", "stage", "trained at", "IoU before > after", "", "", "positives a picture")
    return f"{text}\n\n{common.table(header, stages, right=(6,))}"


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

        model = common.load_checkpoint(self.checkpoint)
        found = vectors(model)
        out = common.new_folder(Path("runs/view")) if self.out is None else common.claim_folder(self.out)
        draw(found, out / "implicit.png", f"{model.card.model}: {_name(self.checkpoint.absolute())}")
        numbers = {"checkpoint": str(self.checkpoint), "model": model.card.model, "vectors": to_dict(found)}
        (out / "implicit.json").write_text(json.dumps(numbers, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
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
