"""`headway export`: a checkpoint as a file that needs no PyTorch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from .common import UsageError, resolve_model, say, show, show_json, table

SUFFIXES = {"onnx": ".onnx", "openvino": ".xml", "pt2": ".pt2"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """Write a model for another engine, with its card inside, and prove that the file finds what the model finds."""

    model: Annotated[Positional[str], arg(metavar="MODEL")] = ""
    """A checkpoint or run folder, or a tag; with --formats a path of parts too, or nothing."""
    to: Literal["onnx", "openvino", "pt2"] | None = None
    """What to write: ONNX, OpenVINO (.xml, and .bin beside it), or a program of torch.export. Default: what --out ends
    in, else onnx."""
    out: Annotated[Path | None, arg(metavar="FILE")] = None
    """The new file, which ends in .onnx, .xml or .pt2. Default: MODEL's name in export/ beside the checkpoint."""
    formats: bool = False
    """Only print what can be written of which head, or of MODEL's."""
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
    """A data set whose validation pictures the file is compared on, instead of the shipped ones. With --int8 its
    training pictures calibrate the file, and its validation pictures measure AP."""
    calibrate: int = 128
    """For --int8: how many training pictures are looked at."""
    max_drop: float = 0.01
    """For --int8: how much lower AP may be than in float."""
    json: bool = False
    """Print what was written as JSON."""

    def run(self) -> int:
        if self.formats:
            return self._show_formats()
        if not self.model:
            raise UsageError("name a checkpoint, run folder or tag: headway export runs/photos --out photos.onnx")
        if self.int8 and self.data is None:
            raise UsageError("--int8 needs --data FOLDER: 8 bits are calibrated and measured on pictures")
        out = self._target(resolve_model(self.model).path)  # what is missing is told before anything slow is imported

        from ..export.api import export

        path, report = export(
            self.model, out, size=self.size, batch=self.batch, nms=not self.no_nms, verify=self._pictures(),
            int8=self.data if self.int8 else None, calibrate=self.calibrate, max_drop=self.max_drop,
        )  # fmt: skip
        if self.json:
            show_json({"path": path, **report})
            return 0
        opset = f", opset {report['opset']}" if "opset" in report else ""
        size = "any size" if report["size"] is None else "{}x{}".format(*report["size"])
        show(f"{path}: {path.stat().st_size / 2**20:.1f} MiB, {size}, batch {report['batch']}{opset}")
        if self.int8:
            show(f"int8: AP {report['ap_int8']:.4f}, in float {report['ap']:.4f}")
        if self.verify:
            first = "before int8, " if self.int8 else ""
            show(
                f"{first}{report['detections']} detections in {report['pictures']} pictures are the model's, within "
                f"{report['box_error']:.1g} pixels and {report['score_error']:.1g} of score"
            )
        if path.suffix == ".pt2":
            say(f'use it: torch.export.load("{path}").module(), after `import headway` where suppression is in it')
        else:
            say(f'use it: headway predict {path} PICTURES, or headway.load("{path}").predict("photo.jpg")')
        return 0

    def _target(self, checkpoint: Path | None) -> Path:
        """The new file. Raises: UsageError where --out and --to differ."""
        suffix = SUFFIXES[self.to or "onnx"]
        if self.out is not None:
            if self.to is not None and self.out.suffix != suffix:
                raise UsageError(f"--to {self.to} writes a file that ends in {suffix}, got --out {self.out}")
            return self.out
        if checkpoint is None:
            return Path(f"{self.model}{suffix}")
        return checkpoint.parent / "export" / f"{checkpoint.stem}{suffix}"

    def _pictures(self) -> int | list[Path]:
        """What to compare on: pictures of the data set, or how many of the shipped ones."""
        if self.data is None or not self.verify:
            return self.verify
        from ..data.open_data import open_data
        from ..files import pick_split

        splits = open_data(self.data)
        chosen = pick_split(splits, "val" if "val" in splits else "train")
        if not len(chosen):
            raise UsageError(f"the split {chosen.name!r} of {self.data} has no picture to compare on: leave out --data")
        return [record.path for record in chosen.records[: self.verify]]

    def _show_formats(self) -> int:
        from ..export.support import rows_of

        rows = rows_of(self.model)
        if self.json:
            show_json(rows)
        else:
            show(table(("head", *SUFFIXES), [(head, *row.values()) for head, row in rows.items()]))
            say("each file is compared with its model before it gets its name; --int8 files are measured as well")
        return 0
