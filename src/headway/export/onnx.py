"""A detector as one ONNX graph: uint8 pixels in, final detections out, the model card in the metadata.

Legend: B images, N candidates, G groups, D detections.
"""

import copy
import json
import os
import time
import warnings
from collections.abc import Sequence
from contextlib import redirect_stdout
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from .. import __version__
from ..data.batch import to_model_input
from ..detector import Detector
from ..errors import DataError, HeadwayError
from ..files import write_atomically
from ..layers.fuse import fuse
from ..progress import say
from ..resolve import load_model
from ..select import select_padded
from ..types import Batch
from .quantize import splits_for_int8, to_int8

OPSET = 20  # DeformConv needs 19; under it the exporter writes an invalid file without a word
_ALL = 1_000_000


class Exported(NamedTuple):
    """path: the file. report: size, batch, nms, opset, seconds; and of the verification: pictures, detections, and the
    greatest differences box_error (pixels) and score_error."""

    path: Path
    report: dict[str, Any]


class Graph(nn.Module):
    """images [B, 3, H, W] uint8 RGB and sizes [B, 2] -> boxes [B, D, 4], scores [B, D], labels [B, D], best first.

    Padding, normalisation and selection are inside. Scores of 0 are padding. nms: False leaves out suppression and the
    limit on detections, so that D is the head's number of candidates.
    """

    def __init__(self, model: Detector, nms: bool) -> None:
        super().__init__()
        self.model, self.nms = model, nms

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        card = self.model.card
        pixels = to_model_input(Batch(images, sizes, [], [], card.pad_value), images.device)
        boxes, scores, labels = select_padded(
            self.model.decode(self.model(pixels, sizes)),
            class_threshold=card.score_threshold,
            nms_iou=card.nms_iou if self.nms else None,
            max_detections=card.max_detections if self.nms else _ALL,
            drop_empty=card.drop_empty,
        )
        return boxes, scores, labels


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
    """Write `model` as an ONNX file, and prove that it finds what the model finds.

    model: a Detector, checkpoint, run folder or tag. path: a new file that ends in .onnx.
    size: (height, width) of the input, rounded up to the card's `pad_multiple`. None: free, so that a picture is scaled
        and padded as the model itself does; where the exporter cannot, the card's input size, landscape.
    batch: images per run. nms: False leaves suppression to the reader. `Graph` says what goes in and comes out.
    verify: pictures to compare file and model on, or how many of the shipped ones; 0: the file is not compared.

    int8: a data set (what `headway.evaluate` takes): the file computes in 8 bits, by the ranges that `calibrate`
        pictures of its training split show, and its AP on the validation split may be `max_drop` lower than in float.

    Takes a minute and more. Nothing is overwritten. Raises: HeadwayError; a file whose detections differ from the
    model's is kept as `path`.rejected.
    """
    path, start = Path(path).expanduser(), time.monotonic()
    rejected = path.with_name(f"{path.name}.rejected")
    _check(path, rejected, size, batch)
    found = model if isinstance(model, Detector) else load_model(model)
    model = copy.deepcopy(found).to("cpu").eval()
    splits = None if int8 is None else splits_for_int8(int8, model.card, nms, calibrate, max_drop)
    graph, multiple = Graph(fuse(model), nms), model.card.pad_multiple
    fixed = tuple(-(-side // multiple) * multiple for side in size or model.card.input_size)
    say(f"exporting to {path}, which takes a minute or more ...")
    padded = any(type(module).__name__.endswith("2dSame") for module in model.modules())  # timm's, as TensorFlow pads
    if padded and size is None:
        say(f"the backbone pads by the picture's size, so the file's input is fixed at {fixed[0]}x{fixed[1]}")
    for free_size in (True, False) if size is None and not padded else (False,):
        report: dict[str, Any] = {"size": None if free_size else list(fixed), "batch": batch, "nms": nms}
        try:
            report |= _write(graph, rejected, fixed, report)
            if verify:
                from .verify import compare

                say("comparing the file's detections with the model's ...")
                report |= compare(rejected, model, verify)
            break
        except DataError:  # of a picture to compare on
            rejected.unlink(missing_ok=True)
            raise
        except HeadwayError as error:
            if not free_size:
                raise
            say(f"{error}: again with the size fixed at {fixed[0]}x{fixed[1]} ...")
    if splits is not None:
        report |= to_int8(rejected, *splits, calibrate, max_drop)
    if path.exists():
        raise HeadwayError(f"{path} has appeared while it was written, and stays; the new file is {rejected}")
    return Exported(rejected.rename(path), {**report, "seconds": round(time.monotonic() - start, 1)})


def _write(graph: Graph, path: Path, size: tuple[int, ...], form: dict[str, Any]) -> dict[str, Any]:
    """Write the file with its card; form: its size, batch and nms. Returns its opset. Raises: HeadwayError."""
    program = _trace(graph, size, form["batch"], form["size"] is None)
    opset = program.model.opset_imports[""]
    if opset < 19:
        raise HeadwayError(f"the exporter wrote opset {opset}, expected {OPSET}: update torch and onnxscript")
    predictors = list(getattr(graph.model.head, "predictors", ()))  # which stay float in int8, see `quantize`
    versions = {"predictors": predictors, "opset": opset, "headway": __version__, "torch": torch.__version__}
    notes = {"card": graph.model.card.to_dict(), "export": {**form, **versions}}
    program.model.metadata_props.update({f"headway.{name}": json.dumps(note) for name, note in notes.items()})
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # the paths of the exporting machine's source files
    write_atomically(path, program.model_proto.SerializeToString())
    return {"opset": opset}


def _check(path: Path, rejected: Path, size: tuple[int, int] | None, batch: Any) -> None:
    """Raises: HeadwayError."""
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise HeadwayError(f"export needs {', '.join(missing)}: pip install 'headway[export]'")
    if path.suffix != ".onnx":
        raise HeadwayError(f"the file must end in .onnx, got {path.name}")
    for file in (path, rejected):
        if file.exists():
            raise HeadwayError(f"{file} exists; nothing is overwritten: name another file or remove it")
    if batch != "dynamic" and not (isinstance(batch, int) and batch >= 1):
        raise HeadwayError(f"batch must be a number from 1 on or 'dynamic', got {batch!r}")
    if size is not None and not (len(size) == 2 and min(size) >= 1):
        raise HeadwayError(f"size must be (height, width) in pixels, got {size!r}")


def _trace(graph: Graph, size: tuple[int, ...], batch: int | Literal["dynamic"], free_size: bool) -> Any:
    """The ONNX program. Traced with two pictures and two cells on every map, since the exporter keeps what is 1."""
    count, multiple = 2 if batch == "dynamic" else batch, graph.model.card.pad_multiple
    height, width = (max(side, -(-512 // multiple) * multiple) for side in size) if free_size else size
    inputs = (torch.zeros(count, 3, height, width, dtype=torch.uint8), torch.tensor([(height, width)] * count))
    many: dict[int, Any] = {0: torch.export.Dim("batch")} if batch == "dynamic" else {}
    # Multiples: without them the exporter's formulas for the sizes of maps take minutes. `min` is not checked later.
    sides = {i: multiple * torch.export.Dim(f"side{i}", min=-(-256 // multiple)) for i in (2, 3)} if free_size else {}
    free = ({**many, **sides}, many)
    with torch.no_grad(), warnings.catch_warnings(), redirect_stdout(StringIO()):  # stdout is for results
        warnings.simplefilter("ignore")
        try:
            program = torch.onnx.export(
                graph, inputs, dynamo=True, opset_version=OPSET, dynamic_shapes=free, verbose=False,
                optimize=False,  # engines do it on opening; onnxscript 0.7 loses bounds of Deformable DETR's clips
                input_names=["images", "sizes"], output_names=["boxes", "scores", "labels"],
                custom_translation_table={torch.ops.headway.survivors.default: _survivors},
            )  # fmt: skip
        except torch.onnx.errors.OnnxExporterError as error:
            reason = str(error.__cause__ or error).strip().splitlines()[0][:300]
            form = f"batch={batch} and {'a free' if free_size else 'this'} size"
            raise HeadwayError(f"this model does not export with {form}: {reason}") from error
    assert program is not None
    return program


def _survivors(boxes: Any, scores: Any, groups: Any, iou: float) -> Any:
    """`headway.boxes.survivors` in ONNX: one NonMaxSuppression over images and groups."""
    from onnxscript import opset20 as op

    lowest = op.Constant(value_float=torch.finfo(torch.float32).min)
    each = op.Unsqueeze(scores, [1])  # [B, G, N]
    if groups is not None:
        known = op.Range(0, op.Add(op.ReduceMax(groups, keepdims=0), 1), 1)
        member = op.Equal(op.Unsqueeze(groups, [1]), op.Unsqueeze(known, [0, 2]))
        each = op.Where(member, each, op.Constant(value_float=-torch.inf))
    limit = op.Shape(scores, start=1, end=2)
    chosen = op.NonMaxSuppression(boxes, each, limit, op.Constant(value_float=iou), lowest)  # image, group, candidate
    place = op.Gather(chosen, [0, 2], axis=1)
    none, kept = op.Equal(scores, op.Constant(value_float=torch.nan)), op.Shape(place, start=0, end=1)
    return op.ScatterND(none, place, op.Expand(op.Cast(1, to=9), kept))
