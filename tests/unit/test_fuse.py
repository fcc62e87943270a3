"""`headway.fuse` folds a norm only where nothing else reads the convolution in front of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
from torch import Tensor, nn

import headway

PICTURE = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))


class Block(nn.Module):
    """A convolution and its norm, put together by `join(y, bn(y))`."""

    def __init__(self, join: Callable[[Tensor, Tensor], object]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.bn, self.join = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), join
        lively(self)

    def forward(self, x: Tensor) -> object:
        y = self.conv(x)
        return self.join(y, self.bn(y))


def lively(model: nn.Module) -> None:
    """Norms that do something."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)


def norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


def agree(model: nn.Module, other: nn.Module) -> None:
    with torch.no_grad():
        torch.testing.assert_close(other(PICTURE), model(PICTURE), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "join",
    [
        lambda y, z: z + y,
        lambda y, z: torch.cat([y, z], dim=1),
        lambda y, z: (y, z),
        lambda y, z: {"raw": [y], "normed": z},
        lambda y, z: z * torch.sigmoid(y).mean(),
        lambda y, z: z + y[:, :1],
        lambda y, z: z + torch.from_numpy(y.numpy().copy()),
    ],
    ids=["added", "concatenated", "returned", "in a dictionary", "a gate", "a slice", "by numpy"],
)
def test_a_norm_whose_input_is_read_elsewhere_stays(join: Callable[[Tensor, Tensor], object]) -> None:
    """The first three failed before: `bn(y) + y` was off by half its size."""
    model = Block(join).eval()
    folded = headway.fuse(model)
    assert norms(folded) == 1
    agree(model, folded)


def test_a_norm_whose_input_is_read_by_nobody_else_goes() -> None:
    """Shapes and types may be looked at."""
    model = Block(lambda y, z: z.reshape(y.shape).to(y.dtype)).eval()
    folded = headway.fuse(model)
    assert norms(folded) == 0
    agree(model, folded)
    assert norms(model) == 1


def test_a_convolution_that_is_not_linear_in_its_weight(caplog: pytest.LogCaptureFixture) -> None:
    """timm's StdConv2d standardises its weight in every call, so a scale folded into it is lost."""
    torch.manual_seed(0)
    model = nn.Sequential(timm.layers.StdConv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    lively(model)
    with caplog.at_level("WARNING"):
        folded = headway.fuse(model)
    assert norms(folded) == 1
    assert "Sequential: folded batch norms change the result" in caplog.text
    agree(model, folded)


@pytest.mark.parametrize("name", ["ghostnet_100", "resnet18", "mobilenetv3_small_050", "tf_efficientnet_lite0"])
def test_backbones_of_timm(name: str) -> None:
    """GhostNet returns a map that its next block normalises: it failed before."""
    torch.manual_seed(0)
    model = timm.create_model(name, features_only=True).eval()
    lively(model)
    folded = headway.fuse(model)
    assert norms(folded) < norms(model) / 4
    agree(model, folded)


def test_hooks_see_each_call_once_and_what_they_saw_before() -> None:
    """Hooks are not called by the probe, and keep the values of what they watch."""
    model = Block(lambda y, z: z).eval()
    seen: list[Tensor] = []
    model.conv.register_forward_hook(lambda module, inputs, output: seen.append(output))
    folded = headway.fuse(model)
    assert seen == []
    agree(model, folded)
    assert len(seen) == 2
    torch.testing.assert_close(seen[0], seen[1])


@pytest.mark.parametrize("build", [True, False], ids=["built and folded", "folded alone"])
def test_under_inference_mode(build: bool) -> None:
    """Failed before for a model that was built so: RuntimeError on version counters."""
    model = None if build else Block(lambda y, z: z).eval()
    with torch.inference_mode():
        model = model or Block(lambda y, z: z).eval()
        folded = headway.fuse(model)
        assert norms(folded) == 0
        agree(model, folded)
    agree(model, folded)


def test_the_copy_keeps_its_number_format_and_wants_no_gradient() -> None:
    model = Block(lambda y, z: z).eval().to(torch.bfloat16)
    folded = headway.fuse(model)
    assert {p.dtype for p in folded.parameters()} == {torch.bfloat16}
    assert not any(p.requires_grad for p in folded.parameters())
    assert all(p.requires_grad for p in model.parameters())
