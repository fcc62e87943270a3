"""`headway view attention`: what attention does to a photograph, and the gates of Dynamic Head over a data set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import arg

from ..files import pick_split
from . import common
from .common import Format, UsageError
from .view import PhotographView

if TYPE_CHECKING:
    from ..detector import Detector
    from ..view.gates import Gates


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewAttention(PhotographView):
    """Draw what attention does to a photograph: the maps of a Dynamic Head before and after every block and attention,
    the gates of its scale attention, and where the tokens of DETR, Swin and ViT look.

    Writes one picture per sheet of maps, gates.png where there are scale gates, and attention.json with the numbers.
    """

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

    def run(self) -> int:
        image, pixels = self.photograph()
        if self.limit is not None and (self.data is None or self.limit < 1):
            raise UsageError(f"--limit takes a number from 1, of the pictures of --data, got {self.limit}")

        from ..view.attention import look, to_dict
        from ..view.attention_drawing import draw_gates, draw_sheet
        from ..view.gates import gates_to_dict

        model = self.load()
        found = look(model, image, pixels, self.stride)
        gates, source = found.gates, image.name
        if self.data is not None:
            gates, source = self._gates_of_data(model)
        out = self.folder()
        drawn = [out / f"{sheet.name}.png" for sheet in found.sheets]
        for sheet, path in zip(found.sheets, drawn):
            draw_sheet(found.scene, sheet, path)
        numbers: dict[str, Any] = {"model": model.card.model, "image": str(image), **to_dict(found)}
        if gates:
            numbers["gates"] = {"of": source, **gates_to_dict(gates)}
            drawn.append(out / "gates.png")
            draw_gates(gates, drawn[-1], f"Scale attention of {model.card.model} on {source}")
        text = f"{_text(numbers)}\ndrawn: {', '.join(map(str, drawn))}"
        return self.report(out / "attention.json", numbers, text)

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
    sheets = dict(numbers["sheets"])
    if "gates" in numbers:
        sheets[f"gates, mean over {numbers['gates']['pictures']} picture(s)"] = [
            {"block": row["block"], "level": row["level"]}
            | {kind: row.get(kind, {}).get("mean") for kind in ("ratio", "finer", "own", "coarser")}
            for row in numbers["gates"]["blocks"]
        ]
    tables = []
    for name, rows in sheets.items():
        header = [key for key, value in rows[0].items() if not isinstance(value, (dict, list))]
        right = [i for i, key in enumerate(header) if not isinstance(rows[0][key], str)]
        lines = [[_shown(row[key]) for key in header] for row in rows]
        tables.append(f"{name}\n{common.table(header, lines, right=right)}")
    return "\n\n".join(tables)


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
