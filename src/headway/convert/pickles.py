"""Reading PyTorch checkpoint files, and pickles of numpy arrays, without running anything that is in them.

A `.pth`, `.pkl` or `.pdparams` file is a pickle, and a pickle can name any function to call. This reader knows how to
rebuild tensors, arrays of numbers and plain containers; every other class or function in the file becomes an inert
`Opaque` that only remembers its name. In a `.pdparams` file there is none, and one that names any is refused.

Some checkpoints pickle a whole network instead of its state dict. Its modules are `Opaque` like anything else, and the
tensors are taken out of what they remember; no class of it needs to exist.
"""

import io
import logging
import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from .yolov4 import read_weights

log = logging.getLogger("headway")

_STORAGES = {
    "FloatStorage": torch.float32, "DoubleStorage": torch.float64, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
}  # fmt: skip
_ARRAYS = {
    "f2": torch.float16, "f4": torch.float32, "f8": torch.float64, "i1": torch.int8, "i2": torch.int16,
    "i4": torch.int32, "i8": torch.int64, "u1": torch.uint8, "b1": torch.bool, "u2": torch.uint16,
    "u4": torch.uint32, "u8": torch.uint64,
}  # fmt: skip
# Where a training loop keeps the weights among its optimizer, schedule and epoch; the first that is there is taken.
_PLACES = (
    "state_dict", "model_state_dict", "model", "model_state", "net", "network", "weights", "ema_state_dict",
    "state_dict_ema", "model_ema", "ema_model", "ema", "module",
)  # fmt: skip
_MAX_PLACES = 4  # nested: ema, then module, then state_dict
_NO_NUMBERS = ("O", "S", "U", "V", "M", "m")  # numpy's codes of objects, texts, records and times
_PADDLE = ".pdparams"
_MAX_MODULES = 20_000
_MAX_DEPTH = 100


class Opaque:
    """Something in the file that is neither a tensor nor a plain container. Never the real class.

    state: what the file says it remembers, or None.
    """

    state: Any = None  # of the class, since a pickle may make an object without calling __init__

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def append(self, _: Any) -> None: ...
    def extend(self, _: Any) -> None: ...
    def add(self, _: Any) -> None: ...
    def __setitem__(self, _: Any, __: Any) -> None: ...


def _rebuild_tensor(storage: Tensor, offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
    size, stride = tuple(size), tuple(stride)
    if len(size) != len(stride) or offset < 0 or any(n < 0 for n in (*size, *stride)):
        raise ValueError(f"a tensor of size {size} with strides {stride} at {offset}")
    end = offset + sum((n - 1) * s for n, s in zip(size, stride)) + 1
    if 0 not in size and end > storage.numel():
        raise ValueError(f"a tensor that ends at {end} of a storage of {storage.numel()}")
    return torch.as_strided(storage, size, stride, offset)


def _rebuild_parameter(data: Tensor, *_: Any) -> Tensor:
    return data


class _ArrayType:
    """In place of numpy.dtype: its code ("f4") and byte order."""

    def __init__(self, code: str, *_: Any) -> None:
        self.code, self.order = code.lstrip("<>|="), code[0] if code[:1] in "<>" else "<"

    def __setstate__(self, state: Any) -> None:
        self.order = state[1]


class _Array:
    """In place of numpy.ndarray, with a tensor of the same numbers once its state has come. One of texts or objects has
    none: it may lie beside the weights, as a list of class names does, but not among them."""

    tensor: Tensor | None = None
    code = ""

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, columns_first, content = state
        self.code = getattr(kind, "code", "")
        if self.code[:1] not in _NO_NUMBERS:
            self.tensor = _array_tensor(content, kind, tuple(shape), columns_first)


def _array_tensor(content: Any, kind: Any, shape: tuple[int, ...], columns_first: bool) -> Tensor:
    if not isinstance(kind, _ArrayType) or kind.code not in _ARRAYS or kind.order == ">":
        raise ValueError(f"an array of {getattr(kind, 'code', kind)!r} where little-endian numbers were expected")
    content = bytearray(content.encode("latin1") if isinstance(content, str) else content)
    dtype = _ARRAYS[kind.code]
    if any(n < 0 for n in shape) or math.prod(shape) * dtype.itemsize != len(content):
        raise ValueError(f"an array of shape {shape} in {len(content)} bytes")
    flat = torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)
    if columns_first:
        return flat.view(shape[::-1]).permute(*reversed(range(len(shape))))
    return flat.view(shape)


def _rebuild_array(*_: Any) -> _Array:
    return _Array()


def _array_from_buffer(content: Any, kind: Any, shape: Any, order: str) -> _Array:
    array = _Array()
    array.tensor = _array_tensor(content, kind, tuple(shape), order == "F")
    return array


def _encode(text: str = "", *_: Any) -> bytes:
    """How pickle's older protocols write bytes; without arguments, none."""
    return text.encode("latin1")


_CALLABLES = {
    ("collections", "OrderedDict"): OrderedDict,
    ("builtins", "set"): set,
    ("__builtin__", "set"): set,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _rebuild_parameter,
    ("numpy", "dtype"): _ArrayType,
    ("numpy", "ndarray"): _rebuild_array,
    ("numpy.core.multiarray", "_reconstruct"): _rebuild_array,
    ("numpy.core.numeric", "_frombuffer"): _array_from_buffer,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): _encode,
}


class _Reader(pickle.Unpickler):
    """Unpickler whose only callables are the above and inert stand-ins. archive: None for a bare pickle. closed: no
    stand-ins either."""

    def __init__(
        self, stream: io.BytesIO, archive: zipfile.ZipFile | None = None, prefix: str = "", *, closed: bool = False
    ) -> None:
        super().__init__(stream, encoding="utf-8" if archive else "latin1")
        self._archive, self._prefix, self._closed = archive, prefix, closed
        self._storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        known = _CALLABLES.get((module.replace("numpy._core", "numpy.core"), name))
        if known is not None:
            return known
        if self._closed:
            raise ValueError(f"it names {module}.{name}, where only arrays and text belong")
        if module in ("torch", "torch.storage"):
            return _STORAGES.get(name, Opaque)
        return type(name, (Opaque,), {})

    def persistent_load(self, pid: Any) -> Tensor:
        kind, dtype, key = pid[0], pid[1], str(pid[2])
        if kind != "storage" or not isinstance(dtype, torch.dtype) or self._archive is None:
            raise ValueError(f"a {kind!r} of type {dtype!r} where a tensor storage was expected")
        if key not in self._storages:
            content = self._archive.read(f"{self._prefix}/data/{key}")
            empty = torch.empty(0, dtype=dtype)
            self._storages[key] = torch.frombuffer(bytearray(content), dtype=dtype) if content else empty
        return self._storages[key]


def read_pickle(path: Path) -> Any:
    """The object of a torch.save file or a bare pickle, tensors on the CPU. Raises: CheckpointError when it is none."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [n for n in archive.namelist() if n.endswith("/data.pkl") or n == "data.pkl"]
            if len(names) != 1:
                raise CheckpointError(f"{path} is a zip archive, but not one that torch.save wrote")
            if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
                raise CheckpointError(f"{path} is compressed, which torch.save never does and which may hide any size")
            prefix = names[0].removesuffix("data.pkl").rstrip("/")
            return _Reader(io.BytesIO(archive.read(names[0])), archive, prefix).load()
    except zipfile.BadZipFile:
        return _read_bare(path)
    except CheckpointError:
        raise
    except Exception as error:  # a damaged or hostile pickle can make the reader fail in any way
        raise CheckpointError(f"{path} is damaged or no torch.save file: {type(error).__name__}: {error}") from None


def _read_bare(path: Path) -> Any:
    """A bare pickle by the reader above, and files older than torch 1.6, which begin with a pickled number, by torch's
    own restricted one."""
    try:
        content = _Reader(io.BytesIO(path.read_bytes()), closed=path.suffix == _PADDLE).load()
        if not isinstance(content, int):
            return content
    except Exception as error:  # as above
        raise _unreadable(path, error) from None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, EOFError, RuntimeError, ValueError, KeyError) as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    expected = "paddle.save" if path.suffix == _PADDLE else "torch.save or safetensors"
    return CheckpointError(
        f"{path} is no checkpoint that can be read safely: expected a file of {expected}, and "
        f"reading it as one ended in {type(error).__name__}: {error}"
    )


def _is_module(value: Any) -> bool:
    state = getattr(value, "state", None) if isinstance(value, Opaque) else None
    return isinstance(state, Mapping) and all(isinstance(state.get(k), Mapping) for k in ("_parameters", "_modules"))


def _module_tensors(module: Opaque, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """What the state dict of a pickled network would list, and a last entry of None for each module. Entries that are
    no tensors are passed on for the caller to refuse."""
    if depth > _MAX_DEPTH:
        raise ValueError(f"modules nested deeper than {_MAX_DEPTH} at {prefix[:60]!r}")
    state = module.state
    passing = state.get("_non_persistent_buffers_set", ())
    buffers = state.get("_buffers", {})
    for name, value in (*state["_parameters"].items(), *((k, v) for k, v in buffers.items() if k not in passing)):
        yield f"{prefix}{name}", value
    for name, child in state["_modules"].items():
        if _is_module(child):
            yield from _module_tensors(child, f"{prefix}{name}.", depth + 1)
        else:
            yield f"{prefix}{name}", child
    yield prefix, None


def _unpack_module(module: Opaque) -> dict[str, Tensor]:
    """Raises: ValueError for anything that no training writes into a network."""
    tensors = {}
    for count, (name, value) in enumerate(_module_tensors(module)):
        if count > _MAX_MODULES:
            raise ValueError(f"more than {_MAX_MODULES} modules and tensors")
        if isinstance(value, Tensor):
            tensors[name] = value
        elif value is not None:
            raise ValueError(f"{name!r} is a {type(value).__name__} where a tensor or a module was expected")
    return tensors


def read_upstream(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a foreign checkpoint by key: `.safetensors`, Darknet's `.weights` (one tensor), or a torch.save
    file or pickle of numpy arrays (with `.pdparams` that of paddle.save) whose state dict, or pickled network, lies at
    the top or where a training loop puts it (`_PLACES`). Raises: CheckpointError."""
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path}")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise CheckpointError(f"{path} is no safetensors file: {error}") from None
    if path.suffix == ".weights":
        return read_weights(path)
    content = read_pickle(path)
    for _ in range(_MAX_PLACES):
        places = _PLACES if isinstance(content, Mapping) else ()
        deeper = [key for key in places if isinstance(content.get(key), Mapping) or _is_module(content.get(key))]
        if not deeper:
            break
        if len(deeper) > 1:
            log.info("%s: the weights under %r are taken; it also holds %s", path, deeper[0], ", ".join(deeper[1:]))
        content = content[deeper[0]]
    try:
        read = _unpack_module if _is_module(content) else _tensors_of if isinstance(content, Mapping) else None
        tensors = read(content) if read else {}
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is refused: {error}") from None
    if not tensors:
        raise CheckpointError(f"{path} holds no state dict (looked at the top and under {', '.join(_PLACES)})")
    return tensors


def read_class_names(path: str | Path) -> tuple[str, ...]:
    """The class names that mmdetection and mmyolo write beside the weights (`meta`); of other files none."""
    path = Path(path)
    if path.suffix in (".safetensors", ".weights"):
        return ()
    content = read_pickle(path)
    meta = content.get("meta") if isinstance(content, Mapping) else None
    found = []
    for about in (meta, meta.get("dataset_meta") if isinstance(meta, Mapping) else None):
        found += [about.get(key) for key in ("CLASSES", "classes")] if isinstance(about, Mapping) else []
    names = next((names for names in found if isinstance(names, (list, tuple)) and names), ())
    return tuple(names) if all(isinstance(name, str) for name in names) and len({*names}) == len(names) else ()


def _tensors_of(content: Mapping[Any, Any]) -> dict[str, Tensor]:
    """Those of the mapping itself, arrays of numbers among them; the counter of a running mean does not count.

    Raises: ValueError for an array of anything else.
    """
    tensors = {}
    for key, value in content.items():
        if isinstance(value, _Array):
            if value.tensor is None:
                raise ValueError(f"an array of {value.code!r} where little-endian numbers were expected")
            value = value.tensor
        if isinstance(key, str) and isinstance(value, Tensor) and key != "n_averaged":
            tensors[key] = value
    return tensors
