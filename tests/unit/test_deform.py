"""Deformable convolution against values worked out by hand, plain convolutions and a grid_sample reference."""

import math

import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
import torchvision

from headway.layers import deform_cpu
from headway.layers.deform import DeformableConv2d, DeformConv2d, deform_conv2d, deform_path


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def reference(x, offset, weight, mask, stride=1, padding=0, dilation=1):
    """Sample each tap by grid_sample in pixel coordinates (align_corners=True), then contract taps and channels."""
    height, width = x.shape[2:]
    kernel_height, kernel_width = weight.shape[2:]
    out_height, out_width = offset.shape[2:]
    rows = torch.arange(out_height)[:, None] * stride - padding
    columns = torch.arange(out_width)[None, :] * stride - padding
    result = 0
    for tap in range(kernel_height * kernel_width):
        y = rows + tap // kernel_width * dilation + offset[:, 2 * tap]
        x_ = columns + tap % kernel_width * dilation + offset[:, 2 * tap + 1]
        grid = torch.stack([2 * x_ / (width - 1) - 1, 2 * y / (height - 1) - 1], -1)
        sampled = F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=True)
        if mask is not None:
            sampled = sampled * mask[:, tap : tap + 1]
        result = result + torch.einsum("bchw,oc->bohw", sampled, weight.flatten(2)[:, :, tap])
    return result


@pytest.mark.parametrize(("stride", "padding", "dilation"), [(1, 1, 1), (2, 1, 1), (1, 2, 2)])
@pytest.mark.parametrize("masked", [True, False])
def test_equals_grid_sample_in_double(stride, padding, dilation, masked):
    x, weight = torch.randn(2, 5, 9, 11).double(), torch.randn(4, 5, 3, 3).double()
    height, width = F.conv2d(x, weight, None, stride, padding, dilation).shape[2:]
    offset = 6 * torch.randn(2, 18, height, width).double()
    mask = torch.rand(2, 9, height, width).double() if masked else None
    result = deform_conv2d(x, offset, weight, None, stride, padding, dilation, mask)
    expected = reference(x, offset, weight, mask, stride, padding, dilation)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("groups", "offset_groups", "masked"), [(1, 1, False), (2, 1, True), (1, 2, True), (2, 4, True), (2, 4, False)]
)
def test_gradcheck(groups, offset_groups, masked):
    """Central differences, away from the kinks: offsets keep 0.1 px from whole numbers; some points are outside."""
    offset = torch.randint(-3, 3, (2, 8 * offset_groups, 2, 3)) + 0.1 + 0.8 * torch.rand(2, 8 * offset_groups, 2, 3)
    mask = torch.rand(2, 4 * offset_groups, 2, 3).double().requires_grad_() if masked else None
    x, weight = torch.randn(2, 4, 3, 4).double(), torch.randn(6, 4 // groups, 2, 2).double()
    inputs = [x, offset.double(), weight, torch.randn(6).double()]
    for tensor in inputs:
        tensor.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda *a: deform_conv2d(*a[:4], mask=a[4]), (*inputs, mask), check_batched_grad=False
    )


def test_many_chunks_equal_one(monkeypatch):
    """57 positions of 2304 bytes of columns: one chunk against 57, forward and every gradient."""
    inputs = [torch.randn(3, 64, 1, 19), 6 * torch.randn(3, 18, 1, 19), torch.randn(8, 64, 3, 3), torch.randn(8)]
    mask = torch.rand(3, 9, 1, 19)

    def run():
        leaves = [t.clone().requires_grad_() for t in (*inputs, mask)]
        result = deform_conv2d(*leaves[:4], padding=1, mask=leaves[4])
        return [result, *torch.autograd.grad(result.square().sum(), leaves)]

    whole = run()
    monkeypatch.setattr(deform_cpu, "COLUMN_BYTES", 1)
    for one, many in zip(whole, run(), strict=True):
        torch.testing.assert_close(many, one, rtol=1e-4, atol=2e-3)


def test_whole_offset_shifts_the_input():
    """Adding 1 to every dx (odd channels) reads one column to the right, adding 1 to every dy one row down."""
    x, weight = torch.randn(1, 3, 6, 7), torch.randn(2, 3, 3, 3)
    offset = torch.zeros(1, 18, 6, 7)
    offset[:, 1::2] = 1
    expected = F.conv2d(F.pad(x, (0, 1))[..., 1:], weight, padding=1)
    # The column left of the image is at -1 for the shifted image, but at 0, inside, for a shifted point.
    torch.testing.assert_close(deform_conv2d(x, offset, weight, padding=1)[..., 1:], expected[..., 1:])
    offset = torch.zeros(1, 18, 6, 7)
    offset[:, 0::2] = 1
    expected = F.conv2d(F.pad(x, (0, 0, 0, 1))[..., 1:, :], weight, padding=1)
    torch.testing.assert_close(deform_conv2d(x, offset, weight, padding=1)[..., 1:, :], expected[..., 1:, :])


def test_by_hand():
    """A column of two pixels (10, 20), the tap at (0, 0) displaced by dy: -0.5 -> 5, 0.25 -> 12.5, 1.5 -> 10, 2 -> 0.

    The slope at the whole coordinate 1 is towards the next row, outside: 0 - 20; at -1 towards row 0: 10 - 0.
    """
    x = torch.tensor([10.0, 20.0]).view(1, 1, 2, 1)
    offset = torch.zeros(1, 2, 1, 1, requires_grad=True)
    for dy, value, slope in [(-0.5, 5, 10), (0.25, 12.5, 10), (1.5, 10, -20), (2, 0, 0), (1, 20, -20), (-1, 0, 10)]:
        shift = torch.tensor([float(dy), 0]).view(1, 2, 1, 1)
        result = deform_conv2d(x, (offset + shift).expand(1, 2, 2, 1), torch.ones(1, 1, 1, 1))[0, 0, 0, 0]
        assert result.item() == value
        assert torch.autograd.grad(result, offset)[0][0, 0].item() == slope


def test_zero_offset_is_the_plain_convolution_and_half_mask_is_half():
    x, weight, bias = torch.randn(2, 6, 8, 9), torch.randn(4, 3, 3, 3), torch.randn(4)
    expected = F.conv2d(x, weight, None, 2, 1, 1, groups=2)
    offset, half = torch.zeros(2, 18, 4, 5), torch.full((2, 9, 4, 5), 0.5)
    torch.testing.assert_close(deform_conv2d(x, offset, weight, bias, 2, 1), expected + bias.view(-1, 1, 1))
    torch.testing.assert_close(deform_conv2d(x, offset, weight, None, 2, 1, mask=half), expected / 2)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e30])
def test_points_nowhere_sample_zero_and_have_no_gradient(value):
    x = torch.randn(1, 3, 5, 5, requires_grad=True)
    offset = torch.zeros(1, 18, 5, 5)
    offset[:, 8] = value  # dy of the central tap
    offset.requires_grad_()
    weight = torch.randn(2, 3, 3, 3)
    result = deform_conv2d(x, offset, weight, padding=1)
    hollow = weight.clone()
    hollow[:, :, 1, 1] = 0
    torch.testing.assert_close(result, F.conv2d(x, hollow, padding=1))
    grad_x, grad_offset = torch.autograd.grad(result.sum(), (x, offset))
    assert grad_x.isfinite().all()
    assert (grad_offset[:, 8:10] == 0).all()
    assert grad_offset.isfinite().all()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.02), (torch.float16, 0.002)])
@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision(dtype, tolerance, autocast):
    """Forward and gradients within the type's rounding of float32, relative to the largest value; dtypes kept."""
    full = [torch.randn(2, 16, 9, 11), 2 * torch.randn(2, 18, 9, 11), 0.1 * torch.randn(8, 16, 3, 3), torch.randn(8)]
    full.append(torch.rand(2, 9, 9, 11))
    # What the operator sees must be the same numbers, or rounded offsets would be compared with exact ones.
    full = [t.to(dtype).float().requires_grad_() for t in full]
    low = [t.detach().to(torch.float32 if autocast else dtype).requires_grad_() for t in full]

    def run(leaves):
        result = deform_conv2d(*leaves[:4], padding=1, mask=leaves[4])
        return result, torch.autograd.grad(result.float().sum(), leaves)

    expected, expected_grads = run(full)
    with torch.autocast("cpu", dtype=dtype, enabled=autocast):
        result, grads = run(low)
    assert result.dtype == dtype
    assert (result.float() - expected).abs().max() < tolerance * expected.abs().max()
    for leaf, grad, want in zip(low, grads, expected_grads, strict=True):
        assert grad.dtype == leaf.dtype
        assert (grad.float() - want).abs().max() < tolerance * want.abs().max()


def test_bfloat16_offsets_keep_float32_coordinates():
    """At column 300 bfloat16 steps by 2 pixels: an offset of 0.5 would be lost in a bfloat16 coordinate."""
    x = torch.arange(512.0).expand(1, 1, 2, 512)
    offset = torch.zeros(1, 2, 2, 512, dtype=torch.bfloat16)
    offset[:, 1] = 0.5
    result = deform_conv2d(x, offset, torch.ones(1, 1, 1, 1))
    assert result[0, 0, 0, 300].item() == 300.5


def test_mixed_dtypes_follow_the_input():
    offset, weight = torch.zeros(1, 18, 4, 4), torch.randn(2, 3, 3, 3)
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        assert deform_conv2d(torch.randn(1, 3, 4, 4, dtype=dtype), offset, weight, padding=1).dtype == dtype
    with torch.autocast("cpu", dtype=torch.bfloat16):  # as for any operator, autocast leaves float64 alone
        assert deform_conv2d(torch.randn(1, 3, 4, 4).double(), offset, weight, padding=1).dtype == torch.float64


def test_default_device_does_not_matter():
    x, offset, weight = torch.randn(1, 2, 4, 4), torch.zeros(1, 18, 4, 4, requires_grad=True), torch.randn(2, 2, 3, 3)
    with torch.device("meta"):
        result = deform_conv2d(x, offset, weight, padding=1)
        result.sum().backward()
    torch.testing.assert_close(result, F.conv2d(x, weight, padding=1))


def test_memory_format_does_not_change_the_result():
    x, offset, weight = torch.randn(2, 8, 7, 9), 3 * torch.randn(2, 18, 7, 9), torch.randn(4, 8, 3, 3)
    nhwc = [t.contiguous(memory_format=torch.channels_last) for t in (x, offset, weight)]
    torch.testing.assert_close(
        deform_conv2d(*nhwc, padding=1), deform_conv2d(x, offset, weight, padding=1), rtol=0, atol=0
    )
    assert deform_conv2d(*nhwc, padding=1).is_contiguous(memory_format=torch.channels_last)


def test_empty_batch():
    x, offset = torch.randn(0, 3, 5, 5, requires_grad=True), torch.zeros(0, 18, 5, 5, requires_grad=True)
    weight = torch.randn(2, 3, 3, 3, requires_grad=True)
    result = deform_conv2d(x, offset, weight, padding=1)
    assert result.shape == (0, 2, 5, 5)
    grads = torch.autograd.grad(result.sum(), (x, offset, weight))
    assert grads[0].shape == x.shape
    assert (grads[2] == 0).all()


def test_only_needed_gradients():
    x, offset, weight = torch.randn(1, 3, 5, 5), torch.randn(1, 18, 5, 5), torch.randn(2, 3, 3, 3)
    leaves = {"input": x, "offset": offset, "weight": weight, "bias": torch.randn(2), "mask": torch.rand(1, 9, 5, 5)}
    everything = {name: leaf.clone().requires_grad_() for name, leaf in leaves.items()}
    deform_conv2d(**everything, padding=1).square().sum().backward()
    for name, leaf in leaves.items():
        alone = {**leaves, name: leaf.clone().requires_grad_()}
        deform_conv2d(**alone, padding=1).square().sum().backward()
        torch.testing.assert_close(alone[name].grad, everything[name].grad, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input": torch.randn(4, 6, 6)}, r"input must have 4 dimensions, got shape \(4, 6, 6\)"),
        ({"input": torch.randn(1, 5, 6, 6)}, r"C = 5 of the input"),
        ({"input": torch.randn(1, 4, 1, 6), "padding": 0}, r"output would be -1x4"),
        ({"offset": torch.zeros(1, 17, 6, 6)}, r"2 \* G \* 9 channels .* got 17"),
        ({"offset": torch.zeros(1, 54, 6, 6)}, r"divisor of the 4 input channels, got 54"),
        ({"offset": torch.zeros(1, 18, 6, 5)}, r"offset must be \(1, 18, 6, 6\), .* got \(1, 18, 6, 5\)"),
        ({"offset": torch.zeros(2, 18, 6, 6)}, r"offset must be \(1, 18, 6, 6\)"),
        ({"mask": torch.zeros(1, 18, 6, 6)}, r"mask must be \(1, 9, 6, 6\)"),
        ({"bias": torch.zeros(4)}, r"bias must be \(2,\), got \(4,\)"),
        ({"stride": 0}, r"stride and dilation must be at least 1"),
    ],
)
def test_wrong_shapes_are_explained(change, message):
    arguments = {
        "input": torch.randn(1, 4, 6, 6),
        "offset": torch.zeros(1, 18, 6, 6),
        "weight": torch.randn(2, 4, 3, 3),
        "padding": 1,
    }
    with pytest.raises(ValueError, match=message):
        deform_conv2d(**{**arguments, **change})


def test_path():
    assert deform_path("cpu")[0] == "embedding_bag"
    assert deform_path("cuda:0")[0] == deform_path("cpu", exporting=True)[0] == "torchvision"
    assert all(reason for _, reason in (deform_path("cpu"), deform_path("cuda"), deform_path("cpu", exporting=True)))


def test_given_offsets_layer_starts_as_documented():
    """fan_in = 4 * 9 = 36, so weights are uniform in +-1/6: extremes near it, standard deviation 1/6/sqrt(3)."""
    layer = DeformConv2d(8, 64, 3, padding=1, groups=2, bias=True)
    assert layer.weight.shape == (64, 4, 3, 3)
    assert 0.95 / 6 < layer.weight.abs().max() <= 1 / 6
    assert layer.weight.std().item() == pytest.approx(1 / 6 / math.sqrt(3), rel=0.05)
    assert (layer.bias == 0).all()
    assert DeformConv2d(8, 64, 3).bias is None
    with pytest.raises(ValueError, match="divisible by groups 3"):
        DeformConv2d(8, 64, 3, groups=3)


@pytest.mark.parametrize(("version", "channels", "factor"), [(1, 36, 1.0), (2, 54, 0.5)])
def test_predicting_layer_starts_as_its_plain_convolution(version, channels, factor):
    layer = DeformableConv2d(6, 4, stride=2, groups=2, offset_groups=2, version=version, bias=True)
    assert layer.conv_offset.out_channels == channels
    x = torch.randn(2, 6, 9, 10)
    torch.testing.assert_close(layer(x), factor * F.conv2d(x, layer.conv.weight, None, 2, 1, groups=2))
    layer(x).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())
    with pytest.raises(ValueError, match="version must be 1"):
        DeformableConv2d(6, 4, version=3)


def test_predicted_channels_are_offsets_then_mask():
    """Channel 8 is dy of the central tap, channel 18 + 4 its mask logit."""
    layer = DeformableConv2d(3, 2)
    x = torch.randn(1, 3, 6, 6)
    with torch.no_grad():
        layer.conv_offset.bias[8], layer.conv_offset.bias[18 + 4] = 0.3, 2.0
    offset, mask = torch.zeros(1, 18, 6, 6), torch.full((1, 9, 6, 6), 0.5)
    offset[:, 8], mask[:, 4] = 0.3, 1 / (1 + math.exp(-2))
    torch.testing.assert_close(layer(x), deform_conv2d(x, offset, layer.conv.weight, padding=1, mask=mask))


def _randomised(layer: DeformableConv2d) -> DeformableConv2d:
    torch.nn.init.normal_(layer.conv_offset.weight, std=0.3)
    return layer.eval()


def test_exported_graph_calls_torchvision_and_agrees():
    layer, x = _randomised(DeformableConv2d(6, 4, stride=2, offset_groups=2, bias=True)), torch.randn(2, 6, 15, 18)
    dims = {0: torch.export.Dim("batch"), 2: torch.export.Dim("height", min=3), 3: torch.export.Dim("width", min=3)}
    program = torch.export.export(layer, (x,), dynamic_shapes=(dims,))
    targets = [str(node.target) for node in program.graph.nodes]
    assert any("torchvision.deform_conv2d" in target for target in targets)
    assert not any("embedding_bag" in target for target in targets)
    for images in (x, torch.randn(3, 6, 21, 13)):
        torch.testing.assert_close(program.module()(images), layer(images), rtol=1e-4, atol=1e-5)


def test_compiled_capture_calls_torchvision():
    layer, x = _randomised(DeformableConv2d(6, 4)), torch.randn(1, 6, 9, 9)
    graphs = []

    def record(module, example_inputs):
        graphs.append(module)
        return module.forward

    compiled = torch.compile(layer, backend=record, fullgraph=True)
    torch.testing.assert_close(compiled(x), layer(x), rtol=1e-4, atol=1e-5)
    assert any("deform_conv2d" in str(node.target) for node in graphs[0].graph.nodes)


@pytest.mark.parametrize("version", [1, 2])
def test_onnx_is_valid_and_agrees(version, tmp_path):
    layer = _randomised(DeformableConv2d(6, 4, stride=2, groups=2, offset_groups=2, version=version, bias=True))
    x, path = torch.randn(2, 6, 15, 18), tmp_path / "deform.onnx"
    torch.onnx.export(layer, (x,), path, dynamo=True, opset_version=19, verbose=False)
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert "DeformConv" in [node.op_type for node in model.graph.node]
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    result = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(result), layer(x).detach(), rtol=0, atol=1e-4)


def test_meta_tensors_have_the_right_shape():
    layer = DeformableConv2d(6, 4, stride=2).to("meta")
    assert layer(torch.empty(2, 6, 15, 18, device="meta")).shape == (2, 4, 8, 9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_one_output_channel_has_gradients(dtype):
    generator = torch.Generator().manual_seed(0)
    image, offset, weight = (
        torch.randn(shape, generator=generator).to(dtype).requires_grad_()
        for shape in ((2, 4, 5, 5), (2, 18, 5, 5), (1, 4, 3, 3))
    )
    deform_conv2d(image, offset, weight, padding=1).backward(torch.ones(2, 1, 5, 5, dtype=dtype))
    twin = image.detach().float().requires_grad_()
    torchvision.ops.deform_conv2d(twin, offset.detach().float(), weight.detach().float(), padding=1).sum().backward()
    torch.testing.assert_close(image.grad.float(), twin.grad, atol=0.05 if dtype == torch.bfloat16 else 1e-4, rtol=0.02)
