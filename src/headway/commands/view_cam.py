"""`headway view cam`: which pixels raised the score of a detection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import arg

from . import common
from .common import UsageError
from .view import PhotographView


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewCam(PhotographView):
    """Draw which pixels of a photograph raised the score of a detection, for any head.

    Writes cam.png with a row for each detection: the heat of all maps of the backbone, and that of each; and cam.json
    with the numbers. Each row is checked: the score without the hottest pixels, and without as many at random places.
    """

    pixel: Annotated[tuple[str, ...], arg(metavar="X,Y")] = ()
    """Explain the best detection at each of these pixels of the photograph, as in `--pixel 320,200 80,90`. Default: the
    best detections of all."""
    boxes: int = 3
    """How many of the best detections."""

    def run(self) -> int:
        image, pixels = self.photograph()
        if self.boxes < 1:
            raise UsageError(f"--boxes must be at least 1, got {self.boxes}")

        from ..view.attention_drawing import draw_sheet
        from ..view.cam import explain, sheet

        model = self.load()
        scene, cams = explain(model, image, pixels, best=self.boxes)
        drawn, out = sheet(scene, cams), self.folder()
        draw_sheet(scene, drawn, out / "cam.png")
        header = ("class", "score", "without", "elsewhere", "inside", "box")
        rows = [
            (row["class"], *(f"{row[key]:.3f}" for key in header[1:5]), " ".join(f"{v:.0f}" for v in row["box"]))
            for row in drawn.numbers
        ]
        table = common.table(header, rows, right=range(1, 5))
        numbers = {"model": model.card.model, "image": str(image), "detections": drawn.numbers}
        return self.report(out / "cam.json", numbers, f"{table}\ndrawn: {out / 'cam.png'}")
