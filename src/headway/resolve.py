"""What a text means where a model is asked for: a file, a run folder, a tag, a published name, or a path of parts.

Files decide first, and without importing torch. Whether a name or a part is known is for `create_model` to say.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeGuard

from .errors import HeadwayError
from .files import find_checkpoint

if TYPE_CHECKING:
    from .detector import Detector

_SUFFIXES = (
    ".safetensors", ".pth", ".pt", ".pkl", ".ckpt", ".weights", ".pdparams", ".bin", ".json", ".yaml", ".onnx", ".xml",
    ".pt2",
)  # fmt: skip


class ModelName(NamedTuple):
    """kind: "file" (`path` is the checkpoint), "tag" (`atss_r50_fpn.mmdet`), "name" (`atss_r50_fpn`), or "parts"
    (`resnet18/fpn/atss`)."""

    kind: Literal["file", "tag", "name", "parts"]
    name: str
    path: Path | None = None


def resolve_model(name: str | os.PathLike[str]) -> ModelName:
    """What `name` means.

    What exists is a file or run folder. What does not is one too if it is a Path, has the ending of a file or begins
    with `/`, `.` or `~`, or if its folder exists. Else a text with `/` is a path of parts, one with a dot a tag.
    Raises: HeadwayError for a file or folder that is missing, and for a folder without a checkpoint.
    """
    if not isinstance(name, (str, os.PathLike)):
        raise HeadwayError(f"a model is named by a text or a path, got {name!r}")
    text, path = str(name), Path(name).expanduser()
    if path.exists() or _looks_like_file(name):
        return ModelName("file", text, find_checkpoint(path))
    if "/" in text:
        return ModelName("parts", text)
    return ModelName("tag" if "." in text else "name", text)


def _looks_like_file(name: str | os.PathLike[str]) -> bool:
    if not isinstance(name, str):
        return True
    folder = Path(name).parent
    return (
        name.endswith(_SUFFIXES) or name.startswith(("/", ".", "~")) or "\\" in name
        or ("/" in name and folder.is_dir())
    )  # fmt: skip


def is_path(name: str) -> bool:
    """Whether a name means a file or folder. Raises: HeadwayError for one that is missing."""
    return resolve_model(name).kind == "file"


def is_exported(path: Path | None) -> TypeGuard[Path]:
    """Whether `path` is a file that `headway.export` writes, by its ending."""
    return path is not None and path.suffix in (".onnx", ".xml")


def load_model(name: str | os.PathLike[str], device: Any = "cpu", *, random: bool = False) -> Detector:
    """A detector in eval mode: of a checkpoint, a run folder, or a tag (its published weights, fetched once).

    random: take published names and paths of parts too, with random weights.
    Raises: HeadwayError as `resolve_model`, and for a name that has no weights.
    """
    found = resolve_model(name)
    if is_exported(found.path):
        raise HeadwayError(
            f"{found.path} is an exported file: predict, eval, bench and headway.load(...) open it; name a checkpoint"
        )
    if found.path is not None or found.kind == "tag":
        from .checkpoint import load

        return load(found.name if found.path is None else found.path, device=device)
    if random:
        from .factory import create_model

        return create_model(found.name).to(device).eval()
    raise HeadwayError(
        f"{found.name} is no file or folder here, and as a model it has no weights: name a checkpoint, a run folder, "
        "or a tag as in atss_r50_fpn.mmdet (`headway models` lists them)"
    )
