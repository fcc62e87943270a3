"""`headway.export`: write a detector for another engine, and prove that it finds the same."""

import copy
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ..detector import Detector
from ..errors import DataError, HeadwayError
from ..layers.fuse import fuse
from ..progress import say
from ..resolve import load_model
from ..runtime.engines import weights_of
from .graph import Form, Graph
from .padding import fix_padding, pads_by_size


class Target(NamedTuple):
    """extra: what pip installs; packages: what must be there; write: (graph, path, form, a file for the ONNX
    graph between) -> part of the report."""

    extra: str
    packages: tuple[str, ...]
    write: Callable[[Graph, Path, Form, Path], dict[str, Any]]


def _onnx(graph: Graph, path: Path, form: Form, between: Path) -> dict[str, Any]:
    from .onnx import write_onnx

    return write_onnx(graph, path, form)


def _openvino(graph: Graph, path: Path, form: Form, between: Path) -> dict[str, Any]:
    from .onnx import write_onnx
    from .openvino import from_onnx

    report = write_onnx(graph, between, form)
    from_onnx(between, path)
    return report


def _pt2(graph: Graph, path: Path, form: Form, between: Path) -> dict[str, Any]:
    from .pt2 import write_pt2

    return write_pt2(graph, path, form)


_WRITER = ("onnx", "onnxscript")
TARGETS = {
    ".onnx": Target("export", (*_WRITER, "onnxruntime"), _onnx),
    ".xml": Target("export,openvino", (*_WRITER, "openvino"), _openvino),
    ".pt2": Target("", (), _pt2),
}


class Exported(NamedTuple):
    """path: the file. report: size, batch, nms, opset, seconds; and of the verification: pictures, detections, and the
    greatest differences box_error (pixels) and score_error."""

    path: Path
    report: dict[str, Any]


def export(
    model: Detector | str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    size: tuple[int, int] | None = None,
    batch: int | Literal["dynamic"] = "dynamic",
    nms: bool = True,
    verify: int | Sequence[Any] = 4,
    int8: Any = None,
    calibrate: int = 128,
    max_drop: float = 0.01,
) -> Exported:
    """Write `model` for another engine, and prove that the file finds what the model finds.

    model: a Detector, checkpoint, run folder or tag.
    path: a new file, whose ending says what it is: .onnx; .xml, OpenVINO's, with a .bin file of the weights beside it;
        .pt2, a program of `torch.export`, for PyTorch without headway.
    size: (height, width) of the input, rounded up to the card's `pad_multiple`. None: free, so that a picture is scaled
        and padded as the model itself does; where the exporter cannot, and for .pt2, the card's input size, landscape.
    batch: images per run. nms: False leaves suppression to the reader. `Graph` says what goes in and comes out.
    verify: pictures to compare file and model on, or how many of the shipped ones; 0: the file is not compared.

    int8: a data set (what `headway.evaluate` takes): the file computes in 8 bits, by the ranges that `calibrate`
        pictures of its training split show, and its AP on the validation split may be `max_drop` lower than in float.

    Takes a minute and more. Nothing is overwritten. Raises: HeadwayError; a file whose detections differ from the
    model's is kept as `path`.rejected.
    """
    path, start = Path(path).expanduser(), time.monotonic()
    _check(path, size, batch, int8)
    path.parent.mkdir(parents=True, exist_ok=True)
    found = model if isinstance(model, Detector) else load_model(model)
    model = copy.deepcopy(found).to("cpu").eval()
    splits = None
    if int8 is not None:
        from .quantize import splits_for_int8

        splits = splits_for_int8(int8, model.card, nms, calibrate, max_drop)
    say(f"exporting to {path}, which takes a minute or more ...")
    with tempfile.TemporaryDirectory() as folder:
        between = Path(folder) / "graph.onnx"
        report = _write_and_compare(Graph(fuse(model), nms), model, path, size, batch, verify, between)
        if splits is not None:
            from .quantize import to_int8

            report |= to_int8(rejected(path), between, *splits, calibrate, max_drop)
    for file in files_of(path):
        if file.exists():
            raise HeadwayError(f"{file} has appeared while it was written, and stays; the new file is {rejected(file)}")
    for file in files_of(path):
        rejected(file).rename(file)
    return Exported(path, {**report, "seconds": round(time.monotonic() - start, 1)})


def _write_and_compare(
    graph: Graph, model: Detector, path: Path, size: tuple[int, int] | None, batch: Any, verify: Any, between: Path
) -> dict[str, Any]:
    """Write the file as one that is rejected until all is done: with a free size, else with a fixed one."""
    card, file = model.card, rejected(path)
    height, width = (-(-side // card.pad_multiple) * card.pad_multiple for side in size or card.input_size)
    padded = pads_by_size(model) and not fix_padding(graph.model, card.pad_multiple)
    if padded and size is None:
        say(f"the backbone pads by the picture's size, so the file's input is fixed at {height}x{width}")
    tries_free = size is None and not padded and path.suffix != ".pt2"  # whose program would refuse small sizes later
    for free in (True, False) if tries_free else (False,):
        form = Form((height, width), free, batch)
        report: dict[str, Any] = {"size": None if free else [height, width], "batch": batch, "nms": graph.nms}
        try:
            report |= TARGETS[path.suffix].write(graph, file, form, between)
            if verify:
                from .verify import compare

                say("comparing the file's detections with the model's ...")
                report |= compare(file, model, verify)
            break
        except DataError:  # of a picture to compare on
            for each in files_of(path):
                rejected(each).unlink(missing_ok=True)
            raise
        except HeadwayError as error:
            if not free:
                raise
            say(f"{error}: again with the size fixed at {height}x{width} ...")
    return report


def files_of(path: Path) -> list[Path]:
    """The files that an export writes."""
    return [path, weights_of(path)] if path.suffix == ".xml" else [path]


def rejected(path: Path) -> Path:
    return path.with_name(f"{path.name}.rejected")


def _check(path: Path, size: tuple[int, int] | None, batch: Any, int8: Any) -> None:
    """Raises: HeadwayError."""
    if path.suffix not in TARGETS:
        raise HeadwayError(f"the file must end in {', '.join(TARGETS)}, got {path.name}")
    target = TARGETS[path.suffix]
    missing = [name for name in target.packages if find_spec(name) is None]
    if missing:
        raise HeadwayError(f"export to {path.suffix} needs {', '.join(missing)}: pip install 'headway[{target.extra}]'")
    for file in [each for name in files_of(path) for each in (name, rejected(name))]:
        if file.exists():
            raise HeadwayError(f"{file} exists; nothing is overwritten: name another file or remove it")
    if int8 is not None and path.suffix == ".pt2":
        raise HeadwayError("int8 files end in .onnx or .xml: PyTorch's own program stays in float")
    if batch != "dynamic" and not (isinstance(batch, int) and batch >= 1):
        raise HeadwayError(f"batch must be a number from 1 on or 'dynamic', got {batch!r}")
    if size is not None and not (len(size) == 2 and min(size) >= 1):
        raise HeadwayError(f"size must be (height, width) in pixels, got {size!r}")
