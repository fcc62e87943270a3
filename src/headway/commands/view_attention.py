"""`headway view attention`: what attention does to a photograph, and the gates of Dynamic Head over a data set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from . import common
from .common import Device, Format, UsageError, show, show_json
from .eval import pick_split
from .view import OutPath, parse_pixel, view_folder, write_numbers

if TYPE_CHECKING:
    from ..detector import Detector
    from ..view.gates import Gates


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewAttention:
    """Draw what attention does to a photograph: the maps of a Dynamic Head before and after every block and attention,
    the gates of its scale attention, and where the tokens of DETR, Swin, ViT and FullHead look.

    Writes one picture per sheet of maps, gates.png where there are scale gates, and attention.json with the numbers.
    """

    checkpoint: Annotated[Positional[Path], arg(metavar="CHECKPOINT")]
    """A checkpoint or run folder of a model with any attention."""
    image: Annotated[Path | None, arg(metavar="FILE")] = None
    """The photograph."""
    pixel: Annotated[tuple[str, ...], arg(metavar="X,Y")] = ()
    """Pixels of the photograph whose tokens are watched, as in `--pixel 320,200 80,90`. Default: the centre of the best
    detection, else of the photograph."""
    stride: int | None = None
    """Of the level of a pyramid to look at closely. Default: the one that fits the best detection."""
    data: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """A data set whose pictures all count for the histograms of the gates. Default: the photograph alone."""
    split: str = "val"
    """Which split of it, where it has several."""
    format: Format | None = None
    """Of the data set. Default: recognised by structure."""
    limit: int | None = None
    """Use at most so many of its pictures, evenly over the split."""
    out: OutPath = None
    """New folder for the results. Default: runs/view, or runs/view-2 and so on when that is taken."""
    device: Device = "auto"
    """auto: CUDA where there is one."""
    json: bool = False
    """Print the numbers as JSON."""

    def run(self) -> int:
        if self.image is None:
            raise UsageError("say what to look at: --image photo.jpg")
        if self.limit is not None and (self.data is None or self.limit < 1):
            raise UsageError(f"--limit takes a number from 1, of the pictures of --data, got {self.limit}")
        pixels = [parse_pixel(text) for text in self.pixel]

        from ..view.attention import look, to_dict
        from ..view.attention_drawing import draw_gates, draw_sheet
        from ..view.gates import gates_to_dict

        model = common.load_model(self.checkpoint, str(common.pick_device(self.device)))
        found = look(model, self.image, pixels, self.stride)
        gates, source = found.gates, self.image.name
        if self.data is not None:
            gates, source = self._gates_of_data(model)
        out = view_folder(self.out)
        for sheet in found.sheets:
            draw_sheet(found.scene, sheet, out / f"{sheet.name}.png")
        numbers: dict[str, Any] = {
            "checkpoint": str(self.checkpoint), "model": model.card.model, "image": str(self.image), **to_dict(found),
        }  # fmt: skip
        drawn = [f"{sheet.name}.png" for sheet in found.sheets]
        if gates:
            numbers["gates"] = {"of": source, **gates_to_dict(gates)}
            draw_gates(gates, out / "gates.png", f"Scale attention of {model.card.model} on {source}")
            drawn.append("gates.png")
        write_numbers(numbers, out / "attention.json")
        if self.json:
            show_json({"out": out, **numbers})
        else:
            show(_text(numbers))
            show(f"drawn: {', '.join(str(out / name) for name in drawn)}")
        return 0

    def _gates_of_data(self, model: Detector) -> tuple[list[Gates], str]:
        from ..data.formats.any_format import open_splits
        from ..view.gates import check_gates, gates_over, spread

        assert self.data is not None
        check_gates(model)
        data = spread(pick_split(open_splits(self.data, format=self.format), self.split), self.limit)
        with common.progress_bar("gates") as progress:
            found = gates_over(model, data, progress)
        return found, f"{data.root.name} {data.name}, {len(data)} pictures"


def _text(numbers: dict[str, Any]) -> str:
    """A table per sheet, and of the gates."""
    tables = []
    for name, rows in numbers["sheets"].items():
        header = tuple(key for key in rows[0] if not isinstance(rows[0][key], (dict, list)))
        lines = [tuple(_shown(row[key]) for key in header) for row in rows]
        right = tuple(i for i, key in enumerate(header) if not isinstance(rows[0][key], str))
        tables.append(f"{name}\n{common.table(header, lines, right=right)}")
    if "gates" in numbers:
        kinds = ("ratio", "finer", "own", "coarser")
        lines = [
            (row["block"], row["level"], *(_shown(row.get(kind, {}).get("mean")) for kind in kinds))
            for row in numbers["gates"]["blocks"]
        ]
        title = f"gates, mean over {numbers['gates']['pictures']} picture(s)"
        tables.append(f"{title}\n{common.table(('block', 'level', *kinds), lines, right=tuple(range(6)))}")
    return "\n\n".join(tables)


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
