"""The graph as OpenVINO's two files: .xml, with the card in it, and .bin, the weights.

OpenVINO reads the ONNX graph, but for `DeformConv`, which it has as an operator and cannot read: here it is told how.
"""

import tempfile
from pathlib import Path
from typing import Any

from ..errors import HeadwayError, one_line
from ..files import write_atomically
from ..runtime.engines import NOTES, weights_of


def from_onnx(file: Path, path: Path) -> None:
    """The ONNX `file` of an export -> `path` and the weights beside it. Raises: HeadwayError if it cannot be read."""
    import onnx_ir
    import openvino
    from openvino.frontend.onnx import ConversionExtension

    program = onnx_ir.load(file)
    notes = {name: program.metadata_props[f"headway.{name}"] for name in NOTES}
    core = openvino.Core()
    core.add_extension(ConversionExtension("DeformConv", _deform_conv))
    try:
        model = core.read_model(onnx_ir.to_proto(program).SerializeToString())
    except Exception as error:
        raise HeadwayError(f"OpenVINO does not read this model's graph: {one_line(error)}") from error
    for name, note in notes.items():
        model.set_rt_info(note, ["headway", name])
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        written = Path(folder) / "model.xml"
        openvino.save_model(model, written, compress_to_fp16=False)
        write_atomically(weights_of(path), written.with_suffix(".bin").read_bytes())
        write_atomically(path, written.read_bytes())


def _deform_conv(node: Any) -> Any:
    """ONNX DeformConv (input, weight, offset, bias, mask) as OpenVINO's operator of the same layout."""
    from openvino import opset15 as op

    inputs = [node.get_input(i) for i in range(node.get_input_size())]
    image, weight, offset, bias, mask = [*inputs, None, None][:5]
    pads = node.get_attribute("pads", [0, 0, 0, 0])
    strides, dilations = (node.get_attribute(name, [1, 1]) for name in ("strides", "dilations"))
    groups, offset_groups = (node.get_attribute(name, 1) for name in ("group", "offset_group"))
    result = op.deformable_convolution(
        image, offset, weight, strides, pads[:2], pads[2:], dilations, mask, "EXPLICIT", groups, offset_groups, True
    )
    if bias is not None:
        result = op.add(result, op.reshape(bias, [1, -1, 1, 1], False))
    return result.outputs()
