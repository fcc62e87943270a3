"""The graph as ONNX, with its card in the metadata."""

import warnings
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import torch

from ..errors import HeadwayError, one_line
from ..files import write_atomically
from .graph import Form, Graph

OPSET = 20  # DeformConv needs 19; under it the exporter writes an invalid file without a word


def write_onnx(graph: Graph, path: Path, form: Form) -> dict[str, Any]:
    """Write the file. Returns its opset. Raises: HeadwayError."""
    from onnxscript.optimizer import fold_constants, remove_unused_nodes

    program = trace(graph, form)
    opset = program.model.opset_imports[""]
    fold_constants(program.model)  # else OpenVINO does not know the ranks
    remove_unused_nodes(program.model)
    notes = graph.notes(form, opset=opset)
    program.model.metadata_props.update({f"headway.{name}": note for name, note in notes.items()})
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # the paths of the exporting machine's source files
    write_atomically(path, program.model_proto.SerializeToString())
    return {"opset": opset}


def trace(graph: Graph, form: Form) -> Any:
    """The ONNX program. Raises: HeadwayError where the exporter cannot."""
    multiple = graph.model.card.pad_multiple
    with torch.no_grad(), warnings.catch_warnings(), redirect_stdout(StringIO()):  # stdout is for results
        warnings.simplefilter("ignore")
        try:
            program = torch.onnx.export(
                graph, form.example(multiple), dynamo=True, opset_version=OPSET, verbose=False,
                dynamic_shapes=form.dynamic_shapes(multiple),
                optimize=False,  # onnxscript 0.7 loses bounds of Deformable DETR's clips
                input_names=["images", "sizes"], output_names=["boxes", "scores", "labels"],
                custom_translation_table={torch.ops.headway.survivors.default: _survivors},
            )  # fmt: skip
        except torch.onnx.errors.OnnxExporterError as error:
            reason = one_line(error.__cause__ or error, 300)
            size = "a free" if form.free else "this"
            raise HeadwayError(
                f"this model does not export with batch={form.batch} and {size} size: {reason}"
            ) from error
    assert program is not None
    opset = program.model.opset_imports[""]
    if opset < 19:
        raise HeadwayError(f"the exporter wrote opset {opset}, expected {OPSET}: update torch and onnxscript")
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
