"""The deformable convolution that OpenVINO computes in bfloat16, against torchvision's."""

import numpy as np
import openvino
import pytest
import torch
from openvino import opset15 as op
from torchvision.ops import deform_conv2d

from headway.runtime.openvino_deform import sample_by_rows

FORMS = [
    ((3, 3), (1, 1), (1, 1), (1, 1), True), ((3, 3), (2, 2), (1, 1), (1, 1), False),
    ((1, 3), (1, 2), (0, 2), (1, 2), True), ((5, 5), (1, 1), (0, 0), (1, 1), True),
]  # fmt: skip


@pytest.mark.parametrize(("kernel", "stride", "padding", "dilation", "masked"), FORMS)
@pytest.mark.parametrize("reach", [0.7, 20.0])  # pixels: within the picture, and far out of it
def test_it_samples_as_torchvision_does(kernel, stride, padding, dilation, masked, reach):
    torch.manual_seed(0)
    taps = kernel[0] * kernel[1]
    weight = torch.randn(6, 5, *kernel)
    image, offset, mask = (op.parameter([-1, n, -1, -1], np.float32) for n in (5, 2 * taps, taps))
    layer = op.deformable_convolution(
        image, offset, op.constant(weight.numpy()), stride, padding, padding, dilation, mask if masked else None,
        "EXPLICIT", 1, 1, True,
    )  # fmt: skip
    model = openvino.Model([op.relu(layer)], [image, offset, mask][: 3 if masked else 2])
    sample_by_rows(model)
    assert "DeformableConvolution" not in {node.get_type_name() for node in model.get_ops()}
    run = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1})
    for batch, height, width in ((1, 9, 12), (2, 6, 7)):  # one compiled model for all sizes
        pixels = torch.randn(batch, 5, height, width)
        sides = torch.nn.functional.conv2d(pixels, weight, None, stride, padding, dilation).shape[2:]
        offsets, scale = reach * torch.randn(batch, 2 * taps, *sides), torch.rand(batch, taps, *sides)
        expected = deform_conv2d(pixels, offsets, weight, None, stride, padding, dilation, scale if masked else None)
        found = run([each.numpy() for each in (pixels, offsets, scale)[: 3 if masked else 2]])[0]
        np.testing.assert_allclose(found, expected.relu().numpy(), atol=3e-5)


def test_several_groups_stay_as_they_are():
    image, offset = (op.parameter([1, n, 4, 4], np.float32) for n in (4, 36))
    kernel = op.constant(np.ones((2, 4, 3, 3), np.float32))
    layer = op.deformable_convolution(
        image, offset, kernel, [1, 1], [1, 1], [1, 1], [1, 1], None, "EXPLICIT", 1, 2, True
    )
    model = openvino.Model([layer], [image, offset])
    sample_by_rows(model)
    assert "DeformableConvolution" in {node.get_type_name() for node in model.get_ops()}
