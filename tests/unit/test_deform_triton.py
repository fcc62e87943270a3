"""The fused kernels, in Triton's interpreter on the CPU, against torchvision's operator and its gradients."""

import os
import subprocess
import sys

import pytest
import torch

from headway.layers.deform import deform_conv2d, deform_path

pytest.importorskip("triton")  # of PyTorch's builds for Linux

SCRIPT = """
import torch
from torchvision.ops import deform_conv2d
from headway.layers.deform_triton import fused_deform_conv2d

FORMS = [  # B, C, O, H, W, kernel, stride, padding, dilation, mask
    (2, 20, 24, 7, 9, (3, 3), (1, 1), (1, 1), (1, 1), True),
    (1, 16, 130, 6, 8, (3, 3), (2, 2), (1, 1), (1, 1), False),
    (1, 70, 6, 6, 9, (1, 3), (1, 2), (0, 2), (1, 2), True),
]
torch.manual_seed(0)
for batch, channels, outputs, height, width, kernel, stride, padding, dilation, masked in FORMS:
    taps = kernel[0] * kernel[1]
    weight, bias = torch.randn(outputs, channels, *kernel) / 10, torch.randn(outputs)
    image = torch.randn(batch, channels, height, width)
    sides = torch.nn.functional.conv2d(image, weight, None, stride, padding, dilation).shape[2:]
    offset, mask = 3 * torch.randn(batch, 2 * taps, *sides), torch.rand(batch, taps, *sides)
    back, found = torch.randn(batch, outputs, *sides), []
    offset[0, 0, 0, :2] = 100.0
    for operator in (deform_conv2d, fused_deform_conv2d):
        given = [value.clone().requires_grad_() for value in (image, offset, weight, bias, mask)]
        result = operator(*given[:4], stride, padding, dilation, given[4] if masked else None)
        result.backward(back)
        found.append([result.detach(), *(value.grad for value in given[: 5 if masked else 4])])
    for theirs, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)
offset[0, 0, 0, 0] = float("nan")
assert fused_deform_conv2d(image, offset, weight, bias, stride, padding, dilation, mask).isfinite().all()
print("equal")
"""


def test_forward_and_gradients_are_torchvisions() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    command = [sys.executable, "-c", SCRIPT]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert result.stdout == "equal\n", result.stderr[-2000:]


def test_they_are_asked_for_by_the_environment_and_on_cuda_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert deform_path("cuda")[0] == "torchvision"
    monkeypatch.setenv("HEADWAY_DEFORM", "triton")
    assert deform_path("cuda")[0] == "triton"
    assert deform_path("cpu")[0] == "embedding_bag"
    assert deform_path("cuda", exporting=True)[0] == "torchvision"


def test_the_path_computes_in_the_dtype_of_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    """The choice alone, by a stand-in for the kernels: places stay in float32, all else is in the 16-bit type."""
    seen = []

    def kernels(input, offset, weight, bias, stride, padding, dilation, mask):
        seen.append((input.dtype, offset.dtype, weight.dtype, mask.dtype))
        return input.new_zeros(1, 2, 4, 4)

    module = type(sys)("headway.layers.deform_triton")
    module.fused_deform_conv2d = kernels  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "headway.layers.deform_triton", module)
    monkeypatch.setattr("headway.layers.deform._path", lambda *_: ("triton", ""))
    given = torch.zeros(1, 3, 4, 4), torch.zeros(1, 18, 4, 4), torch.zeros(2, 3, 3, 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert deform_conv2d(*given, padding=1, mask=torch.zeros(1, 9, 4, 4)).dtype == torch.bfloat16
    assert seen == [(torch.bfloat16, torch.float32, torch.bfloat16, torch.float32)]
