"""`headway export`: a checkpoint as a file that needs no PyTorch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from .common import UsageError, resolve_model, say, show, show_json


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """Write a model as an ONNX file with its card inside, and prove that the file finds what the model finds."""

    model: Annotated[Positional[str], arg(metavar="MODEL")]
    """A checkpoint or run folder, or a tag."""
    out: Annotated[Path | None, arg(metavar="FILE")] = None
    """The new file, which ends in .onnx."""
    size: Annotated[tuple[int, int] | None, arg(metavar="H W")] = None
    """Fixed height and width of the input. Default: free, as the model scales each picture."""
    batch: int | Literal["dynamic"] = "dynamic"
    """Pictures per run: a number, or any."""
    no_nms: bool = False
    """Give every candidate; suppression is left to the reader."""
    verify: int = 4
    """Pictures on which the file is compared with the model; 0: none."""
    int8: bool = False
    """Compute in 8 bits: smaller and faster, measured on --data, refused where AP falls by more than --max-drop."""
    data: Annotated[Path | None, arg(metavar="FOLDER")] = None
    """For --int8: the data set whose training pictures calibrate it, and whose validation pictures measure it."""
    calibrate: int = 128
    """For --int8: how many training pictures are looked at."""
    max_drop: float = 0.01
    """For --int8: how much lower AP may be than in float."""
    json: bool = False
    """Print what was written as JSON."""

    def run(self) -> int:
        if self.out is None:
            raise UsageError("say what to write: --out FILE.onnx")
        if self.int8 != (self.data is not None):
            raise UsageError("--int8 and --data FOLDER go together: 8 bits are calibrated and measured on pictures")
        resolve_model(self.model)  # what is missing is told before anything slow is imported

        from ..export.onnx import export

        path, report = export(
            self.model, self.out, size=self.size, batch=self.batch, nms=not self.no_nms, verify=self.verify,
            int8=self.data, calibrate=self.calibrate, max_drop=self.max_drop,
        )  # fmt: skip
        if self.json:
            show_json({"path": path, **report})
            return 0
        size = "any size" if report["size"] is None else "{}x{}".format(*report["size"])
        show(f"{path}: {path.stat().st_size / 2**20:.1f} MiB, opset {report['opset']}, {size}, batch {report['batch']}")
        if self.int8:
            show(f"int8: AP {report['ap_int8']:.4f}, in float {report['ap']:.4f}")
        if self.verify:
            first = "before int8, " if self.int8 else ""
            show(
                f"{first}{report['detections']} detections in {report['pictures']} pictures are the model's, within "
                f"{report['box_error']:.1g} pixels and {report['score_error']:.1g} of score"
            )
        say(f'use it: headway.load("{path}").predict("photo.jpg"), or headway.runtime without PyTorch')
        return 0
