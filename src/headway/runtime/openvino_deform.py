"""Deformable convolutions in operators of which OpenVINO computes each in bfloat16.

Its own operator computes in float32 alone. Here a sample is the weighted sum of four rows of the picture as a table
[pixels, channels], and the samples [pixels, taps * C] are multiplied by the weights. Places are integers, from an
offset's whole part alone, so that bfloat16 rounds parts and never a place. In float32 the operator is faster.
"""

from typing import Any

import numpy as np
from openvino import Model
from openvino import opset15 as op
from openvino.utils import replace_node


def sample_by_rows(model: Model) -> None:
    """Replace the model's deformable convolutions of one group."""
    for node in model.get_ordered_ops():
        if node.get_type_name() == "DeformableConvolution":
            facts = node.get_attributes()
            if facts["group"] == facts["deformable_group"] == 1 and facts["bilinear_interpolation_pad"]:
                replace_node(node, _convolution(node, facts))
    model.validate_nodes_and_infer_types()


def _convolution(node: Any, facts: dict[str, Any]) -> Any:
    """Inputs: image [B, C, H, W], offset [B, 2 kh kw, H', W'] as (y, x) of each tap, weight [O, C, kh, kw] and, maybe,
    mask [B, kh kw, H', W']."""
    image, offset, weight, mask = [*node.input_values(), None][:4]
    outputs, channels, kernel_y, kernel_x = weight.get_shape()
    taps = kernel_y * kernel_x
    batch, _, height, width = _sides(image)
    _, _, out_y, out_x = _sides(offset)
    pairs = op.reshape(offset, _shape(batch, taps, 2, out_y, out_x), False)
    pairs = op.transpose(pairs, _ints([0, 3, 4, 1, 2]))  # [B, H', W', taps, 2]
    axes = ((0, [1, -1, 1, 1], out_y, height), (1, [1, 1, -1, 1], out_x, width))
    rows, columns = (
        _neighbours(op.gather(pairs, _ints(axis), _ints(4)), _grid(node, facts, axis, shape, out), side)
        for axis, shape, out, side in axes
    )
    if mask is not None:
        scale = op.transpose(mask, _ints([0, 2, 3, 1]))
        rows = [(place, op.multiply(part, scale)) for place, part in rows]
    first = op.multiply(op.range(_ints(0), batch, _ints(1), "i32"), op.multiply(height, width))
    first = op.reshape(first, _ints([-1, 1, 1, 1]), False)
    table = op.reshape(op.transpose(image, _ints([0, 2, 3, 1])), _ints([-1, channels]), False)
    samples = None
    for y, part_y in rows:
        line = op.add(op.multiply(y, width), first)
        for x, part_x in columns:
            place = op.reshape(op.add(line, x), _ints([-1]), False)
            part = op.reshape(op.multiply(part_y, part_x), _ints([-1, 1]), False)
            found = op.multiply(op.gather(table, place, _ints(0)), part)
            samples = found if samples is None else op.add(samples, found)
    samples = op.reshape(samples, _ints([-1, taps * channels]), False)
    kernel = op.reshape(op.transpose(weight, _ints([0, 2, 3, 1])), _ints([outputs, taps * channels]), False)
    result = op.matmul(samples, kernel, False, True)
    return op.transpose(op.reshape(result, _shape(batch, out_y, out_x, outputs), False), _ints([0, 3, 1, 2]))


def _grid(node: Any, facts: dict[str, Any], axis: int, shape: list[int], out: Any) -> Any:
    """Where each tap lies without an offset, along an axis."""
    kernel_x = node.input_value(2).get_shape()[3]
    taps = np.divmod(np.arange(np.prod(node.input_value(2).get_shape()[2:])), kernel_x)[axis]
    steps = op.multiply(op.range(_ints(0), out, _ints(1), "i32"), _ints(facts["strides"][axis]))
    taps = taps * facts["dilations"][axis] - facts["pads_begin"][axis]
    return op.add(op.reshape(steps, _ints(shape), False), _ints(taps))


def _neighbours(offset: Any, grid: Any, side: Any) -> list[tuple[Any, Any]]:
    """Of both neighbours of a sample along an axis: (place, part); a place outside has no part."""
    whole = op.floor(offset)
    after = op.subtract(offset, whole)
    before = op.subtract(op.constant(np.float32(1)), after)
    place, found = op.add(op.convert(whole, "i32"), grid), []
    for each, part in ((place, before), (op.add(place, _ints(1)), after)):
        inside = op.minimum(op.maximum(each, _ints(0)), op.subtract(side, _ints(1)))
        found.append((inside, op.select(op.equal(each, inside), part, op.constant(np.float32(0)))))
    return found


def _sides(value: Any) -> list[Any]:
    shape = op.shape_of(value, "i32")
    return [op.gather(shape, _ints(i), _ints(0)) for i in range(4)]


def _shape(*sides: Any) -> Any:
    """One axis of several sides, whether numbers or values of the graph."""
    return op.concat([_ints([side]) if isinstance(side, int) else op.unsqueeze(side, _ints(0)) for side in sides], 0)


def _ints(value: Any) -> Any:
    return op.constant(np.array(value, np.int32))
