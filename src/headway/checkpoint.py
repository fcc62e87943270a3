"""Checkpoints: safetensors with a JSON header from which the network is rebuilt. Nothing in a file is run."""

import json
import os
import struct
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from .arguments import places
from .detector import Detector
from .errors import CheckpointError, HeadwayError
from .factory import create_model, plan_of, renamed, split_path, without_weights
from .files import write_atomically
from .meta import on_meta_device, undrawn
from .registry import registered_here
from .resolve import is_exported, resolve_model
from .types import ModelCard

_FORMAT = "1"
_MAX_HEADER = 64 * 2**20
_DTYPES = {"F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL"}


def save(model: Detector, path: str | os.PathLike[str], *, dtype: torch.dtype | None = None) -> Path:
    """Write `model` as one safetensors file whose header holds its card. The file appears whole or not at all.

    A Detector put together by hand is written too; `load` then needs the same network. Of parts that do not come with
    headway the file names the modules, which `load` never imports by itself.
    dtype: store floating tensors in this type (float16 halves the file); loading returns float32.
    Raises: CheckpointError for another ending than .safetensors, and for a card that JSON cannot hold.
    """
    from safetensors.torch import save as to_bytes

    if not isinstance(model, Detector):
        raise CheckpointError(f"save takes a Detector, got {type(model).__name__}")
    path = Path(path)
    if path.suffix != ".safetensors":
        raise CheckpointError(f"the file must end in .safetensors, which is what is written, got {path.name!r}")
    tensors = {}
    for key, value in model.state_dict().items():
        if dtype is not None and value.is_floating_point():
            value = value.to(dtype)
        tensors[key] = value.detach().cpu().contiguous()
    header: dict[str, Any] = {"format": _FORMAT, "card": model.card.to_dict()}
    if foreign := _foreign_modules(model.card):
        header["modules"] = foreign
    try:
        text = json.dumps(header)
        ModelCard.from_dict(json.loads(text)["card"])  # nothing is written that `load` would refuse
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"the card cannot be written: {error}") from None
    write_atomically(path, to_bytes(tensors, metadata={"headway": text}))
    return path


def _foreign_modules(card: ModelCard) -> list[str]:
    """The modules that register the model's own parts."""
    if not card.model:
        return []
    parts = split_path(plan_of(card.model, without_weights(card.arguments)).path)
    return sorted({part.module for _, part in parts if not registered_here(part)})


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
    """A file may name a model and arguments of its parts, no more.

    Raises: HeadwayError for a tag, for other arguments, and for implausibly long ones.
    """
    if "." in card.model and "/" not in card.model:
        raise HeadwayError(f"{card.model!r} has a tag")
    if len(json.dumps(card.arguments)) > 4096:
        raise HeadwayError("its arguments are implausibly long")
    if "pretrained" in card.arguments or "class_names" in card.arguments:
        raise HeadwayError("its arguments name what no part takes")
    return without_weights(card.arguments)


def load(
    path: str | os.PathLike[str],
    *,
    model: Detector | None = None,
    device: torch.device | str = "cpu",
    fuse: bool = False,
) -> Detector:
    """A detector from a checkpoint, a run folder, or a published checkpoint by its tag, in eval mode; of an exported
    file its `Runtime`, which has the same `predict`.

    model: the network to fill, for a file of a Detector that was put together by hand. fuse: see `headway.fuse`.

    The network is first built without memory and its keys and shapes compared with the file's, so a hostile or
    wrong file is refused before anything is allocated. Raises: CheckpointError with the reason.
    """
    found = resolve_model(path)
    if found.kind == "tag":
        loaded = create_model(found.name, pretrained=True)
    elif found.path is None:
        raise CheckpointError(
            f"no checkpoint or run folder at {found.name}, and a model of this name has no weights: use "
            "create_model(...) for a new one, or a tag as in atss_r50_fpn.mmdet"
        )
    elif found.path.suffix == ".pt2":
        raise CheckpointError(
            f"{found.path} is a program of torch.export, which PyTorch unpickles: if you trust it, open it yourself by "
            "torch.export.load; headway opens .onnx and .xml files"
        )
    elif is_exported(found.path):
        return import_module(".runtime", __package__).Runtime(found.path)
    else:
        loaded = _load_file(found.path, model)
    loaded = loaded.to(device).eval()
    if fuse:
        from .layers.fuse import fuse as folded

        return folded(loaded)
    return loaded


def _load_file(path: Path, model: Detector | None) -> Detector:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    header = _read_header(path)
    card, shapes = ModelCard.from_dict(header["card"]), _tensor_shapes(path)
    name = card.model or "the given model"
    if model is None:
        arguments = _buildable(path, card, header.get("modules", []))
        try:
            with on_meta_device():
                wanted = create_model(card.model, **arguments).state_dict()
        except Exception as error:  # whatever a backbone raises for such arguments
            raise CheckpointError(f"{path} names a model that cannot be built here: {error}") from None
    else:
        wanted = model.state_dict()
    _compare(path, name, {k: tuple(v.shape) for k, v in wanted.items()}, shapes)
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from None
    bad = [k for k, v in tensors.items() if not _is_finite(v)]
    if bad:
        raise CheckpointError(f"{path} holds NaN or infinite values in {bad[:3]} ({len(bad)} tensors)")
    if model is None:
        with undrawn():
            model = create_model(card.model, **arguments)
        if len(card.class_names) != model.card.num_classes:
            raise CheckpointError(f"{path} names {len(card.class_names)} classes for {model.card.num_classes} outputs")
    model.load_state_dict(tensors)
    model.set_card(card)
    return model


def _is_finite(values: torch.Tensor) -> bool:
    """Without NaN and infinity, in one pass: both would be the smallest or the greatest value."""
    if not values.is_floating_point() or not values.numel():
        return True
    return all(bool(bound.isfinite()) for bound in values.aminmax())


def _buildable(path: Path, card: ModelCard, modules: list[str]) -> dict[str, Any]:
    """The arguments to build the card's model with. Raises: CheckpointError for what only its author can build."""
    if not card.model:
        raise CheckpointError(
            f"{path} holds a Detector that was put together by hand: give the same network, load(path, model=...)"
        )
    try:
        arguments = _safe_arguments(card)
        plan = plan_of(card.model, arguments)
        parts = split_path(plan.path)
        for key in renamed(plan.arguments):
            places(parts, key)
    except HeadwayError as error:
        own = ", ".join(m for m in modules if isinstance(m, str))
        hint = f"; import the module that registers it first ({own}; --plugin on the command line)" if own else ""
        raise CheckpointError(f"{path} names a model that cannot be built here: {error}{hint}") from None
    return arguments


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
