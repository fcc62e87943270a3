"""Model builders by name, and checkpoints: safetensors with a JSON header from which the network is rebuilt.

A builder is a plain function `def retinanet_r50_fpn(*, num_classes: int = 80, ...) -> Detector` with `@register`.
A tag after a dot (`atss_r50_fpn.mmdet`) is a row of `models/weights`.
"""

from __future__ import annotations

import inspect
import json
import os
import struct
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import torch

from .arguments import check_arguments
from .detector import Detector
from .errors import CheckpointError, HeadwayError, nearest
from .layers.implicit import ImplicitModel, Operator, Refinement
from .meta import on_meta_device
from .types import ModelCard

Builder = TypeVar("Builder", bound=Callable[..., Detector])
_BUILDERS: dict[str, Callable[..., Detector]] = {}
_FORMAT = "1"
_MAX_HEADER = 64 * 2**20
_DTYPES = {"F64", "F32", "F16", "BF16", "I64"}
# What every model takes beside its builder's own arguments, see `models.implicit.add_implicit`. A builder with an
# `align` of its own takes all three itself.
_IMPLICIT = {
    name: inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
    for name, default, annotation in (
        ("align", None, Operator | None), ("refine", None, Refinement | None), ("implicit", "vector", ImplicitModel),
    )
}  # fmt: skip


def register(builder: Builder) -> Builder:
    """Make a builder known by its function name. Every argument must be keyword-only and annotated."""
    for name, parameter in inspect.signature(builder).parameters.items():
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY or parameter.annotation is inspect.Parameter.empty:
            raise TypeError(f"{builder.__name__}({name}) must be keyword-only and annotated")
    _BUILDERS[builder.__name__] = builder
    return builder


def register_variant(name: str, builder: Callable[..., Detector], **defaults: Any) -> None:
    """Register `builder` a second time under `name`, with other defaults for some of its arguments."""
    signature = inspect.signature(builder)
    changed = [p.replace(default=defaults.get(k, p.default)) for k, p in signature.parameters.items()]
    if unknown := set(defaults) - set(signature.parameters):
        raise TypeError(f"{builder.__name__} has no arguments {sorted(unknown)}")

    @wraps(builder)
    def build(**arguments: Any) -> Detector:
        return builder(**{**defaults, **arguments})

    build.__name__ = name
    build.__signature__ = signature.replace(parameters=changed)  # type: ignore[attr-defined]
    _BUILDERS[name] = build


def _builders() -> dict[str, Callable[..., Detector]]:
    from . import models  # noqa: F401  (importing it registers every builder)

    return _BUILDERS


def list_models(pattern: str = "") -> list[str]:
    """Names of all models, or of those that contain `pattern`, sorted."""
    return sorted(name for name in _builders() if pattern in name)


def builder_arguments(name: str) -> dict[str, inspect.Parameter]:
    """The arguments that `create_model(name, ...)` takes. Raises: HeadwayError for an unknown name."""
    builders = _builders()
    base = name.split(".", 1)[0]
    if base not in builders:
        raise HeadwayError(f"unknown model {base!r}; {nearest(base, builders)} (`headway models` lists all)")
    own = dict(inspect.signature(builders[base]).parameters)
    return own if "align" in own else own | _IMPLICIT


def create_model(
    name: str,
    *,
    pretrained: bool | str | os.PathLike[str] = False,
    num_classes: int | None = None,
    class_names: Sequence[str] | None = None,
    **arguments: Any,
) -> Detector:
    """Build a detector by name.

    name: a registered model (`list_models()`), with an optional tag: `retinanet_r50_fpn.mmdet`.
    pretrained: with a tag, True loads its published checkpoint from the cache or its url, a path converts a local
        file. Without a tag only False is possible; `backbone_weights=True` asks timm for ImageNet weights.
    num_classes, class_names: either gives the other; default is the builder's (COCO's 80).
    arguments: the builder's, and for every model `align`, `refine` and `implicit`: implicit values on its predictions,
        see `headway.models.implicit.add_implicit`. Published weights are loaded before those are added.
    Raises: HeadwayError for an unknown name, tag, argument or argument type, naming the nearest known ones.
    """
    base, _, tag = name.partition(".")
    parameters = builder_arguments(base)
    row = None
    if tag:
        from .models.weights import find_row

        row = find_row(base, tag)
        arguments = {**row.arguments, **(row.pretrained_arguments if pretrained else {}), **arguments}
    elif pretrained:
        raise HeadwayError(f"{base} has no published checkpoint of its own: name a tag, as in {base}.mmdet")
    if class_names is not None:
        if num_classes not in (None, len(class_names)):
            raise HeadwayError(f"num_classes={num_classes}, but {len(class_names)} class names were given")
        num_classes = len(class_names)
    if num_classes is not None:
        arguments["num_classes"] = num_classes
    hints = {key: parameter.annotation for key, parameter in _IMPLICIT.items()} | get_type_hints(_BUILDERS[base])
    check_arguments(base, {key: hints[key] for key in parameters}, arguments)
    implicit = {} if "align" in inspect.signature(_BUILDERS[base]).parameters else _IMPLICIT
    model = _BUILDERS[base](**{key: value for key, value in arguments.items() if key not in implicit})
    model.card.model, model.card.arguments = base, dict(arguments)
    if arguments.get("backbone_weights"):
        from .backbones.timm import weight_statistics

        model.set_card(replace(model.card, **weight_statistics(str(model.backbone.name))))
    if row is not None:
        row.apply(model)
    if class_names is not None:
        model.card.class_names, model.card.category_ids = tuple(class_names), ()
    if row is not None and pretrained:
        row.load(model, None if pretrained is True else Path(pretrained))
    chosen = {key: arguments.get(key, parameter.default) for key, parameter in implicit.items()}
    if chosen.get("align") or chosen.get("refine"):
        from .models.implicit import add_implicit

        add_implicit(model, **chosen)
    return model


# ---------------------------------------------------------------------------------------------------- checkpoints
def save(model: Detector, path: str | os.PathLike[str], *, dtype: torch.dtype | None = None) -> Path:
    """Write `model` as one safetensors file whose header holds its card. The file appears whole or not at all.

    dtype: store floating tensors in this type (float16 halves the file); loading returns float32.
    """
    from safetensors.torch import save as to_bytes

    path = Path(path)
    if not model.card.model:
        raise CheckpointError("this Detector was not made by create_model, so a file could not rebuild it")
    tensors = {}
    for key, value in model.state_dict().items():
        if dtype is not None and value.is_floating_point():
            value = value.to(dtype)
        tensors[key] = value.detach().cpu().contiguous()
    header = {"format": _FORMAT, "card": model.card.to_dict()}
    write_atomically(path, to_bytes(tensors, metadata={"headway": json.dumps(header)}))
    return path


def write_atomically(path: Path, content: bytes) -> None:
    """Write through a temporary file in the same folder, flushed to disk before it takes the name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def read_card(path: str | os.PathLike[str]) -> ModelCard:
    """The card of a checkpoint, without reading its tensors or importing anything it names.

    Raises: CheckpointError for a file that is missing, no safetensors file, or not written by headway.
    """
    return ModelCard.from_dict(_read_header(Path(path))["card"])


def _read_header(path: Path) -> dict[str, Any]:
    metadata = _raw_header(path).get("__metadata__", {})
    text = metadata.get("headway") if isinstance(metadata, dict) else None
    if text is None:
        raise CheckpointError(f"{path} is a safetensors file, but not headway's; use `headway convert` for others")
    try:
        header = json.loads(text)
        if header["format"] != _FORMAT:
            raise CheckpointError(f"{path} has format {header['format']!r}, this headway reads {_FORMAT!r}; update it")
        ModelCard.from_dict(header["card"])
    except CheckpointError:
        raise
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path} has a damaged headway header: {error}") from None
    return header


def _raw_header(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}")
    size = path.stat().st_size
    with path.open("rb") as stream:
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        plausible = 2 <= length <= min(size - 8, _MAX_HEADER)
        pickled = start[:2] == b"PK" or start[:1] == b"\x80"
        if pickled and not (plausible and stream.read(1) == b"{"):  # a header's length may begin with 0x80 as well
            raise CheckpointError(
                f"{path} is a pickled checkpoint, which could run code when opened; "
                f"convert it once with `headway convert {path.name} --source ...`"
            )
        if not plausible:
            raise CheckpointError(f"{path} is no safetensors file (header of {length} bytes in a file of {size})")
        stream.seek(8)
        try:
            header = json.loads(stream.read(length))
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"{path} has a header that is not JSON: {error}") from None
    if not isinstance(header, dict):
        raise CheckpointError(f"{path} has a header that is not a JSON object")
    return header


def _tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor, from the header alone."""
    shapes = {}
    for key, entry in _raw_header(path).items():
        if key == "__metadata__":
            continue
        dtype, shape = (entry.get("dtype"), entry.get("shape")) if isinstance(entry, dict) else (None, None)
        if str(dtype) not in _DTYPES or not isinstance(shape, list) or not all(isinstance(n, int) for n in shape):
            raise CheckpointError(f"{path} has a tensor {key!r} of type {dtype!r} and shape {shape!r}")
        shapes[key] = tuple(shape)
    return shapes


def _safe_arguments(card: ModelCard) -> dict[str, Any]:
    """A file may name a builder and its own arguments, no more: a tag, `pretrained` or `backbone_weights` would make it
    fetch or read something else."""
    if "." in card.model:
        raise HeadwayError(f"{card.model!r} has a tag")
    if foreign := sorted(set(card.arguments) - set(builder_arguments(card.model))):
        raise HeadwayError(f"{card.model} has no arguments {foreign[:3]}")
    if len(json.dumps(card.arguments)) > 4096:
        raise HeadwayError("its arguments are implausibly long")
    return {key: False if key == "backbone_weights" else value for key, value in card.arguments.items()}


def load(path: str | os.PathLike[str], *, device: torch.device | str = "cpu") -> Detector:
    """Rebuild a detector from a checkpoint written by `save`, in eval mode.

    The network is first built without memory and its keys and shapes compared with the file's, so a hostile or
    wrong file is refused before anything is allocated. Raises: CheckpointError with the reason.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(path)
    card = ModelCard.from_dict(_read_header(path)["card"])
    shapes = _tensor_shapes(path)
    try:
        arguments = _safe_arguments(card)
        with on_meta_device():
            wanted = {k: tuple(v.shape) for k, v in create_model(card.model, **arguments).state_dict().items()}
    except Exception as error:  # whatever a backbone raises for such arguments
        raise CheckpointError(f"{path} names a model that cannot be built here: {error}") from None
    _compare(path, card.model, wanted, shapes)
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from None
    bad = [k for k, v in tensors.items() if v.is_floating_point() and not torch.isfinite(v).all()]
    if bad:
        raise CheckpointError(f"{path} holds NaN or infinite values in {bad[:3]} ({len(bad)} tensors)")
    model = create_model(card.model, **arguments)
    model.load_state_dict(tensors)
    if len(card.class_names) != model.card.num_classes:
        raise CheckpointError(f"{path} names {len(card.class_names)} classes for {model.card.num_classes} outputs")
    model.set_card(card)
    return model.to(device).eval()


def _compare(path: Path, name: str, wanted: dict[str, Any], found: dict[str, Any]) -> None:
    missing = sorted(set(wanted) - set(found))
    unknown = sorted(set(found) - set(wanted))
    wrong = [
        f"{k}: {found[k]} in the file, {wanted[k]} in the model" for k in wanted if found.get(k, wanted[k]) != wanted[k]
    ]
    problems = (("missing", missing), ("unknown", unknown), ("of another shape", wrong))
    if any(rows for _, rows in problems):
        parts = [
            f"{len(rows)} {what} ({', '.join(rows[:3])}{', ...' if len(rows) > 3 else ''})"
            for what, rows in problems
            if rows
        ]
        raise CheckpointError(f"{path} does not fit {name}: {'; '.join(parts)}")
