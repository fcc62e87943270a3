"""`headway view scaling`: what width, depth and resolution cost."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import arg

from ..errors import HeadwayError
from . import common
from .common import Device, Precision, UsageError, show, show_json


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewScaling:
    """Scale EfficientDet-D0 in width, in depth, in resolution and in all three at once, and draw what each costs.

    A step about doubles the multiply-adds. Beside them stand the published D1, D2 and so on. Writes scaling.png, and
    scaling.json with the factors, parameters, multiply-adds and latency of every network.
    """

    steps: int = 3
    """How far to go, 1 to 7. Seven take minutes a network on a CPU: use --repeats 0 there."""
    repeats: int = 3
    """Timed calls of each network, after one that is not timed; 0 times nothing."""
    precision: Precision = "fp32"
    """Of the timed networks."""
    device: Device = "auto"
    """auto: CUDA where there is one."""
    threads: int = 0
    """Threads of the CPU; 0: torch's own choice."""
    out: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """New folder for the results. Default: runs/view, or runs/view-2 and so on when that is taken."""
    json: bool = False
    """Print the numbers as JSON."""

    def run(self) -> int:
        for name, low, high in (("steps", 1, 7), ("repeats", 0, 1000), ("threads", 0, 1024)):
            if not low <= getattr(self, name) <= high:
                raise UsageError(f"--{name} must be from {low} to {high}, got {getattr(self, name)}")

        import torch

        from .. import __version__
        from ..view.scaling import measure, plan, to_dict
        from ..view.scaling_drawing import draw

        if self.threads:
            torch.set_num_threads(self.threads)
        device = common.pick_device(self.device)
        if self.precision == "fp16" and device.type == "cpu":
            raise HeadwayError("fp16 needs a GPU; use --precision bf16 or fp32 on the CPU")
        out = common.new_folder(Path("runs/view")) if self.out is None else common.claim_folder(self.out)
        with common.progress_bar("networks") as progress:
            points = measure(
                plan(self.steps), device, repeats=self.repeats, precision=self.precision, progress=progress
            )
        on_cpu = f"CPU, threads: {torch.get_num_threads()}"
        where = torch.cuda.get_device_name(device) if device.type == "cuda" else on_cpu
        timed = f", {where}, {self.precision}" if self.repeats else ""
        draw(points, out / "scaling.png", f"EfficientDet-D0 made larger{timed}")
        numbers: dict[str, Any] = {"version": __version__, "device": where, "precision": self.precision}
        numbers |= {"repeats": self.repeats, "networks": to_dict(points)}
        (out / "scaling.json").write_text(json.dumps(numbers, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        if self.json:
            show_json({"out": out, **numbers})
            return 0
        header = ("scaled", "step", "width", "depth", "picture", "parameters", "GMAC", "ms", "ms a GMAC")
        show(common.table(header, [_row(row) for row in numbers["networks"]], right=(1, 2, 3, 5, 6, 7, 8)))
        show(f"drawn: {out / 'scaling.png'}")
        return 0


def _row(row: dict[str, Any]) -> tuple[object, ...]:
    width, depth = (f"{row[key]:.2f}" if row[key] else "-" for key in ("width", "depth"))
    gmacs, ms = row["macs"] / 1e9, None if row["latency"] is None else 1e3 * row["latency"]
    name = "not" if row["step"] == 0 else row["line"]
    picture = f"{row['size'][0]}x{row['size'][1]}"
    timing = ("-", "-") if ms is None else (f"{ms:.1f}", f"{ms / gmacs:.1f}")
    return (name, row["step"], width, depth, picture, f"{row['parameters']:,}", f"{gmacs:.2f}", *timing)
