"""torchvision is imported without torch's compiler, which is there when somebody wants it."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from headway.meta import on_meta_device, undrawn


def run(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("module", ["factory", "predict.predictor", "evaluate", "checkpoint"])
def test_nothing_imports_the_compiler(module: str) -> None:
    """Failed before: torchvision.ops.roi_align imported it for every verb."""
    result = run(f"import sys, headway.{module}; print('torch._dynamo' in sys.modules, 'torchvision' in sys.modules)")
    assert result.stdout.split() == ["False", "True"], result.stderr


def test_the_compiler_is_the_real_one_afterwards() -> None:
    script = """
import headway.vision, sys, torch
assert "torch._dynamo" not in sys.modules
theirs = sys.modules["torchvision.ops.roi_align"]
print(theirs.is_compile_supported("meta"), torch.compile(lambda x: x + 1, backend="eager")(torch.ones(1)).item())
print(torch._dynamo.__file__ is not None, callable(torch._dynamo.utils.is_compile_supported))
"""
    result = run(script)
    assert result.stdout.split() == ["False", "2.0", "True", "True"], result.stderr


def test_the_stand_in_gives_what_else_is_asked_of_it() -> None:
    """As a torchvision release would that takes more from the compiler."""
    script = """
import sys, torch, headway.vision as vision
stand_in = vision._StandIn("torch._dynamo")
stand_in.__path__ = [f"{path}/_dynamo" for path in torch.__path__]
sys.modules["torch._dynamo"] = stand_in
from torch._dynamo import is_compiling
import torch._dynamo.config as config
print(callable(is_compiling), config.__name__)
"""
    result = run(script)
    assert result.stdout.split() == ["True", "torch._dynamo.config"], result.stderr


def test_a_function_that_torchvision_marks_is_not_traced() -> None:
    """`tv_tensors.wrap` breaks the graph, as with the real mark."""
    script = """
import headway.vision, torch, torchvision
from torchvision import tv_tensors
box = tv_tensors.BoundingBoxes(torch.ones(1, 4), format="XYXY", canvas_size=(8, 8))
def run(x):
    return tv_tensors.wrap(x + 1, like=box)
print(type(torch.compile(run, backend="eager")(torch.ones(1, 4))).__name__)
torch._dynamo.reset()
try:
    torch.compile(run, backend="eager", fullgraph=True)(torch.ones(1, 4))
except torch._dynamo.exc.Unsupported as error:
    print("disable" in str(error))
"""
    result = run(script)
    assert result.stdout.split() == ["BoundingBoxes", "True"], result.stderr


def test_a_network_without_memory_needs_neither_compiler_nor_sympy() -> None:
    """Failed before: weights drawn on the meta device imported both, for the strides of every backbone."""
    script = """
import sys
from headway.backbones.timm import feature_strides
print(feature_strides("resnet18"), [m for m in ("torch._dynamo", "sympy") if m in sys.modules])
"""
    result = run(script)
    assert result.stdout.strip() == "(2, 4, 8, 16, 32) []", result.stderr


def test_on_the_meta_device_nothing_is_drawn() -> None:
    state = torch.get_rng_state()
    with on_meta_device():
        layer = torch.nn.Linear(3, 2)
        torch.nn.init.trunc_normal_(layer.weight, std=0.1)
    assert (layer.weight.device.type, tuple(layer.weight.shape)) == ("meta", (2, 3))
    assert torch.equal(state, torch.get_rng_state())


def test_a_network_to_be_filled_draws_nothing_and_ends() -> None:
    """torch's truncated normal draws until every number is within the bounds."""
    state = torch.get_rng_state()
    with undrawn():
        weight = torch.nn.init.trunc_normal_(torch.full((4, 4), 9.0), mean=0.5, std=0.1, a=0.0, b=1.0)
    assert torch.equal(weight, torch.full((4, 4), 0.5))
    assert torch.equal(state, torch.get_rng_state())


def test_folding_needs_no_compiler() -> None:
    script = """
import sys, torch
from headway.layers.fuse import fuse
model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).eval()
print(type(fuse(model)[1]).__name__, "torch._dynamo" in sys.modules)
"""
    result = run(script)
    assert result.stdout.split() == ["Identity", "False"], result.stderr
