"""An exported file with 8-bit weights and activations, refused where it costs AP.

Weighted layers (convolutions, linear layers) compute in int8, weights per channel, activations by the ranges that the
calibration pictures show. Decoding and selection stay float, and so do what the head names in `predictors` and the
layers that say where a deformable convolution reads.
"""

import json
import logging
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ..data.dataset import DetectionData
from ..errors import HeadwayError, check_number
from ..files import write_atomically
from ..progress import say
from ..runtime import Runtime
from ..types import ModelCard

WEIGHTED = ("Conv", "Gemm", "MatMul")


def quantize(file: Path, out: Path, data: DetectionData, *, pictures: int = 128, depthwise: bool = True) -> bool:
    """Write `file`, an exported one, as int8 to `out`, calibrated on the first `pictures` of `data`.

    depthwise: False leaves depthwise convolutions in float, which int8 costs the most. Returns whether there are any.
    """
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    runtime = Runtime(file)
    model = onnx.load(file)
    _fold_transposes(model)
    floats = [f"model.{name}." for name in runtime.info.get("floats", ())]
    chosen = _weighted_nodes(model, floats)
    deep = _depthwise_nodes(model)
    chosen = [name for name in chosen if depthwise or name not in deep]
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)  # the tool advises a pass that our files do not need
    try:
        with tempfile.TemporaryDirectory() as folder:
            raw = Path(folder) / "int8.onnx"
            quantize_static(
                model, str(raw), _Reader(runtime, data, pictures), quant_format=QuantFormat.QDQ, per_channel=True,
                activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, nodes_to_quantize=chosen,
                op_types_to_quantize=list(WEIGHTED), calibrate_method=CalibrationMethod.MinMax,
                # Means over the pictures: FCOS on BCCD has AP .386 in float, .381 so, .374 by the greatest of all.
                extra_options={"CalibMovingAverage": True},
            )  # fmt: skip
            model = onnx.load(raw)
    finally:
        logging.getLogger().setLevel(level)
    info = {**runtime.info, "precision": "int8", "calibration": [data.name, min(pictures, len(data))]}
    for note in model.metadata_props:
        if note.key == "headway.export":
            note.value = json.dumps(info)
    write_atomically(out, model.SerializeToString())
    return bool(deep)


def splits_for_int8(
    data: Any, card: ModelCard, nms: bool, pictures: int, max_drop: float
) -> tuple[DetectionData, DetectionData]:
    """(the pictures to calibrate on, those to measure AP on) of a data set, before anything slow is done.

    Raises: HeadwayError for a wrong option, without the tools, or for a data set that the model does not know.
    """
    from ..evaluate.api import open_data_splits
    from ..evaluate.run import match_classes
    from ..files import pick_split

    check_number("calibrate", pictures, 1, whole=True)
    check_number("max_drop", max_drop, 0)
    if not nms:
        raise HeadwayError("int8 is measured by its final detections: export it with suppression")
    if find_spec("onnxruntime") is None or find_spec("sympy") is None:
        raise HeadwayError("int8 needs onnxruntime's tools: pip install 'headway[export]'")
    splits = open_data_splits(data)
    learned = splits["train"] if "train" in splits else next(iter(splits.values()))
    measured = pick_split(splits, next((name for name in ("val", "test") if name in splits), learned.name))
    for split in (learned, measured):
        match_classes(card.class_names, split)
        if not len(split):
            raise HeadwayError(
                f"the split {split.name!r} is empty: int8 calibrates on some pictures, measures on others"
            )
    return learned, measured


def to_int8(
    file: Path, between: Path, learned: DetectionData, measured: DetectionData, pictures: int, max_drop: float
) -> dict[str, Any]:
    """Put the int8 file in place of a float one. between: the ONNX graph of an OpenVINO file.

    Where AP falls by more than `max_drop`, depthwise convolutions are left in float.
    Returns: precision, ap, ap_int8 and float_depthwise. Raises: HeadwayError where AP falls by more even so; the file
    stays.
    """
    from ..evaluate.api import evaluate

    say(f"calibrating on {min(pictures, len(learned))} pictures of {learned.name} ...")
    before = evaluate(Runtime(file), measured)
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        whole, exact = Path(folder) / "int8.onnx", Path(folder) / "exact.onnx"
        shutil.copyfile(between if between.exists() else file, exact)
        for depthwise in (True, False):
            some = quantize(exact, whole, learned, pictures=pictures, depthwise=depthwise)
            if between.exists():
                from .openvino import from_onnx

                from_onnx(whole, file)
            else:
                whole.replace(file)
            after = evaluate(Runtime(file), measured)
            if max_drop >= before.AP - after.AP or not some:
                break
            if depthwise:
                say(f"AP {before.AP:.4f} in float, {after.AP:.4f} in int8: depthwise convolutions stay float then ...")
    say(f"AP on {len(measured)} pictures of {measured.name}: {before.AP:.4f} in float, {after.AP:.4f} in int8")
    if not max_drop >= before.AP - after.AP:  # NaN too
        raise HeadwayError(
            f"int8 takes AP from {before.AP:.4f} to {after.AP:.4f}, a drop above {max_drop:g}: calibrate on more "
            f"pictures, allow a larger drop, or keep to float; the file is {file}"
        )
    return {"precision": "int8", "ap": before.AP, "ap_int8": after.AP, "float_depthwise": not depthwise}


class _Reader:
    """What the calibration asks for: the inputs of one run after another, then None."""

    def __init__(self, runtime: Runtime, data: DetectionData, pictures: int) -> None:
        self._inputs = self._each(runtime, data, pictures)

    @staticmethod
    def _each(runtime: Runtime, data: DetectionData, pictures: int) -> Iterator[dict[str, Any]]:
        white, count = runtime.card.get("white") or data.white(), runtime.batch or 1
        for record in data.records[:pictures]:
            image, size = runtime.prepare(record.sample(white).image.permute(1, 2, 0).numpy())
            yield {"images": np.stack([image] * count), "sizes": np.array([size] * count)}

    def get_next(self) -> dict[str, Any] | None:
        return next(self._inputs, None)


def _weighted_nodes(model: Any, floats: Sequence[str]) -> list[str]:
    """Names of the nodes that multiply by a stored weight, but for those of `floats`, the beginnings of weights."""
    stored = {tensor.name for tensor in model.graph.initializer}
    return [
        node.name
        for node in model.graph.node
        if node.op_type in WEIGHTED and node.input[1] in stored and not node.input[1].startswith(tuple(floats))
    ]


def _depthwise_nodes(model: Any) -> set[str]:
    """Names of the convolutions with one channel of the input for each of their groups."""
    one = {tensor.name for tensor in model.graph.initializer if len(tensor.dims) == 4 and tensor.dims[1] == 1}
    groups = {node.name: next((a.i for a in node.attribute if a.name == "group"), 1) for node in model.graph.node}
    return {n.name for n in model.graph.node if n.op_type == "Conv" and n.input[1] in one and groups[n.name] > 1}


def _fold_transposes(model: Any) -> None:
    """A linear layer is stored as a transposed weight: turn it in the file, so that it counts as a weight."""
    from onnx import numpy_helper

    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in list(model.graph.node):
        if node.op_type == "Transpose" and node.input[0] in stored:
            turn = next((list(a.ints) for a in node.attribute if a.name == "perm"), None)
            values = np.ascontiguousarray(np.transpose(numpy_helper.to_array(stored[node.input[0]]), turn))
            name = f"{node.input[0]}.turned"
            for other in model.graph.node:
                for i, given in enumerate(other.input):
                    if given == node.output[0]:
                        other.input[i] = name
            if name not in stored:
                stored[name] = numpy_helper.from_array(values, name)
                model.graph.initializer.append(stored[name])
            model.graph.node.remove(node)
