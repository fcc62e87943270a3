"""What runs an exported file: onnxruntime or OpenVINO, each behind the same three things.

notes: the texts in the file's metadata, by name; shape: of the input `images`, None where an axis is free; and a call
(images, sizes) -> boxes, scores, labels.
"""

from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import CheckpointError, HeadwayError, one_line

Array = NDArray[Any]
EnginePrecision = Literal["auto", "fp32", "bf16", "fp16"]
OUTPUTS = ("boxes", "scores", "labels")
NOTES = ("card", "export")


class Engine(Protocol):
    name: str
    notes: dict[str, str]
    shape: list[int | None]

    def __call__(self, images: Array, sizes: Array) -> list[Array]: ...


class OnnxEngine:
    """A .onnx file on onnxruntime. Raises: CheckpointError for a file that it cannot run."""

    name = "onnxruntime"

    def __init__(self, path: Path, threads: int, precision: EnginePrecision) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise HeadwayError(f"{path} needs onnxruntime: pip install 'headway[export]'") from None
        if precision not in ("auto", "fp32"):
            raise HeadwayError(
                f"{path} computes as it was written, not in {precision}; OpenVINO's files (.xml) have bf16"
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 4
        # A file that keeps tensors elsewhere is refused, whatever it points to: from bytes, they would be looked for in
        # the current folder, and the file itself is a folder that holds nothing.
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path))
        try:
            content = path.read_bytes()
            self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own classes have no common one
            raise CheckpointError(f"{path} is no ONNX file that can be run: {one_line(error)}") from None
        found = self._session.get_modelmeta().custom_metadata_map
        self.notes = {name: found[f"headway.{name}"] for name in NOTES if f"headway.{name}" in found}
        inputs = self._session.get_inputs()
        self.shape = [side if isinstance(side, int) else None for side in inputs[0].shape] if inputs else []

    def __call__(self, images: Array, sizes: Array) -> list[Array]:
        return list(self._session.run(list(OUTPUTS), {"images": images, "sizes": sizes}))


class OpenVinoEngine:
    """A .xml file, with the weights in the .bin file beside it, on OpenVINO's CPU plugin.

    precision: "fp32" is exact; "auto" is OpenVINO's choice, which is bfloat16 where the CPU has it.
    Raises: CheckpointError for files that are missing or that it cannot run.
    """

    name = "OpenVINO"

    def __init__(self, path: Path, threads: int, precision: EnginePrecision) -> None:
        try:
            import openvino
        except ImportError:
            raise HeadwayError(f"{path} needs OpenVINO: pip install 'headway[openvino]'") from None
        weights = weights_of(path)
        if not weights.is_file():
            raise CheckpointError(f"{path} keeps its weights in {weights.name}, which is not there: bring it too")
        if precision == "fp16":
            raise HeadwayError(f"{path} runs on the CPU, which computes in fp32 or bf16, not in fp16")
        options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
        if precision != "auto":
            options["INFERENCE_PRECISION_HINT"] = {"fp32": "f32", "bf16": "bf16"}[precision]
        try:
            content = path.read_bytes()
            if not content.startswith((b"<?xml", b"<net")):  # else other readers have a look, which open further files
                raise ValueError("it does not begin as XML")
            core = openvino.Core()
            model = core.read_model(content, openvino.Tensor(np.fromfile(weights, np.uint8)))
            self.notes = {name: model.get_rt_info(["headway", name]).astype(str)
                          for name in NOTES if model.has_rt_info(["headway", name])}  # fmt: skip
            shape = model.input("images").get_partial_shape()
            self.shape = [side.get_length() if side.is_static else None for side in shape]
            able = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
            if precision == "bf16" or (precision == "auto" and able):
                from .openvino_deform import sample_by_rows

                sample_by_rows(model)
            self._request = core.compile_model(model, "CPU", options).create_infer_request()
        except Exception as error:
            raise CheckpointError(f"{path} is no OpenVINO file that can be run: {one_line(error)}") from None

    def __call__(self, images: Array, sizes: Array) -> list[Array]:
        results = self._request.infer({"images": images, "sizes": sizes}, share_inputs=True)
        return [results[name] for name in OUTPUTS]


ENGINES: dict[str, type[OnnxEngine | OpenVinoEngine]] = {".onnx": OnnxEngine, ".xml": OpenVinoEngine}


def open_engine(path: Path, threads: int, precision: EnginePrecision) -> Engine:
    """By the file's ending, behind which `.rejected` may stand."""
    suffix = next((end for end in reversed(path.suffixes) if end != ".rejected"), "")
    if suffix not in ENGINES:
        raise CheckpointError(f"{path} must end in {' or '.join(ENGINES)}, as `headway export` writes them")
    return ENGINES[suffix](path, threads, precision)


def weights_of(path: Path) -> Path:
    """The file beside an OpenVINO one that holds its weights: photos.bin of photos.xml."""
    stem, rejected = path.name.removesuffix(".rejected"), path.name.endswith(".rejected")
    return path.with_name(f"{stem.removesuffix('.xml')}.bin{'.rejected' if rejected else ''}")
