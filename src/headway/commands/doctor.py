"""`headway doctor`: is everything here that detection needs, and which fast paths will run."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from .. import __version__
from .common import show, show_json, table

PACKAGES = (
    "torch", "torchvision", "timm", "accelerate", "safetensors", "numpy", "scipy", "pillow", "faster-coco-eval",
    "rich", "tyro", "matplotlib",
)  # fmt: skip


class Finding(NamedTuple):
    """ok: False fails the command. advice: what to do then, or a remark."""

    name: str
    ok: bool
    value: str
    advice: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Doctor:
    """Check the installation: versions, device, which deformable convolution runs and why, torchvision's operators.

    Exits with 1 when something essential is broken, and says what to do about it.
    """

    json: bool = False
    """Print the findings as JSON."""

    def run(self) -> int:
        findings = [*_versions()]
        for name, check in CHECKS.items():
            findings.append(_safely(name, check))
        if self.json:
            show_json([finding._asdict() for finding in findings])
        else:
            rows = [("ok" if f.ok else "FAILED", f.name, f.value) for f in findings]
            show(table(("", "check", "found"), rows))
            broken = [f for f in findings if not f.ok]
            show("\n".join(f"{f.name}: {f.advice}" for f in broken) or "everything that detection needs is here")
        return 0 if all(f.ok for f in findings) else 1


def _safely(name: str, check: Callable[[], Finding]) -> Finding:
    """A check that raises has found something broken."""
    try:
        return check()
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        return Finding(name, False, f"{type(error).__name__}: {reason}", ADVICE[name])


def _versions() -> list[Finding]:
    from importlib.metadata import PackageNotFoundError, version

    findings = [Finding("headway", True, __version__)]
    good = sys.version_info >= (3, 11)
    advice = "headway needs Python 3.11 or newer"
    findings.append(Finding("python", good, f"{platform.python_version()} on {platform.platform()}", advice))
    for package in PACKAGES:
        try:
            findings.append(Finding(package, True, version(package)))
        except PackageNotFoundError:
            findings.append(Finding(package, False, "not installed", f"pip install {package}"))
    return findings


def _device() -> Finding:
    import torch

    threads = f"{torch.get_num_threads()} threads on {os.cpu_count()} cores"
    capability = torch.backends.cpu.get_cpu_capability()
    if torch.cuda.is_available():
        return Finding("device", True, f"{torch.cuda.get_device_name(0)} (CUDA {torch.version.cuda}); CPU {threads}")
    return Finding("device", True, f"cpu {platform.machine()} {capability}, {threads}; no CUDA device")


def _deform() -> Finding:
    import torch

    from ..layers.deform import deform_conv2d, deform_path

    torch.manual_seed(0)
    x, weight = torch.randn(1, 2, 5, 6), torch.randn(3, 2, 3, 3)
    result = deform_conv2d(x, torch.zeros(1, 18, 5, 6), weight, padding=1)
    difference = (result - torch.nn.functional.conv2d(x, weight, padding=1)).abs().max().item()
    path, reason = deform_path("cuda" if torch.cuda.is_available() else "cpu")
    advice = "the deformable convolution gives wrong numbers here: please report it with this table"
    return Finding("deformable convolution", difference < 1e-4, f"{path}: {reason}", advice)


def _nms() -> Finding:
    import torch
    from torchvision.ops import nms

    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 1, 11, 11], [20, 20, 30, 30]])
    kept = nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5).tolist()
    return Finding(
        "torchvision nms", kept == [0, 2], f"keeps {kept} of three boxes, [0, 2] expected", ADVICE["torchvision nms"]
    )


def _torchvision_deform() -> Finding:
    import torch
    from torchvision.ops import deform_conv2d

    ones = torch.ones(1, 1, 3, 3)
    value = float(deform_conv2d(ones, torch.zeros(1, 18, 1, 1), ones))
    return Finding(
        "torchvision deform_conv2d", value == 9, f"gives {value:g}, 9 expected", ADVICE["torchvision deform_conv2d"]
    )


def _bf16() -> Finding:
    import torch

    if torch.cuda.is_available():
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    text = "native" if native else "emulated on this processor, slower than fp32: keep --precision fp32"
    return Finding("bf16", True, text)


def _images() -> Finding:
    """Write a small JPEG and read it back through the reader of the library."""
    import tempfile
    from pathlib import Path

    from PIL import Image, features

    from ..data.image import read_image

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "grey.jpg"
        Image.new("RGB", (16, 8), (128, 128, 128)).save(path)
        pixels = read_image(path)
    good = tuple(pixels.shape) == (3, 8, 16) and abs(float(pixels.float().mean()) - 128) < 2
    formats = [name for name in ("jpg", "zlib", "webp", "avif", "libtiff") if features.check(name)]
    return Finding("image decoders", good, f"JPEG reads; Pillow has {', '.join(formats)}", ADVICE["image decoders"])


CHECKS: dict[str, Callable[[], Finding]] = {
    "device": _device,
    "deformable convolution": _deform,
    "torchvision nms": _nms,
    "torchvision deform_conv2d": _torchvision_deform,
    "bf16": _bf16,
    "image decoders": _images,
}
_PAIR = "torch and torchvision do not match: reinstall both together, `pip install --force-reinstall torch torchvision`"
ADVICE = {
    "device": "torch does not load: `pip install --force-reinstall torch`",
    "deformable convolution": _PAIR,
    "torchvision nms": _PAIR,
    "torchvision deform_conv2d": _PAIR,
    "bf16": "torch cannot say whether bf16 is native: keep --precision fp32",
    "image decoders": "pictures cannot be read: `pip install --force-reinstall pillow torchvision`",
}
