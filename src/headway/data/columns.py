"""Records of very many pictures as a few arrays: no object for a picture, and no copy for a worker.

Forked workers share the arrays as they are, since nothing writes to them. When a worker is spawned, the arrays go once
to a temporary file, which this process and all workers then map into memory. The file is removed with the columns.
"""

from __future__ import annotations

import logging
import os
import tempfile
import weakref
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from .dataset import Record
from .depth import DEEP_SUFFIXES, LOOKED_AT
from .tar import InTar

Array = NDArray[Any]
_ALIGN = 64  # bytes


class Columns(Sequence[Record]):
    """Records in arrays, made one by one.

    folder: of the pictures' names. shards: the tar files by number. rows: the pictures that are records here, in this
    order; None: all. store: `ids` [N] and `sizes` [N, 2] (height, width) of the pictures; `names`, UTF-8, picture i's
    from `name_starts[i]` on; `starts` [N + 1], boxes of picture i are rows starts[i] to starts[i + 1] of `boxes`
    [M, 4], `labels`, `crowd` and `areas` [M]; of pictures in tar shards also `shards`, `offsets` and `lengths` [N].
    """

    def __init__(self, folder: Path, store: Store, shards: Sequence[str] = (), rows: Array | None = None) -> None:
        self.folder, self.store, self.shards = folder, store, tuple(shards)
        self._chosen = None if rows is None else Store({"rows": rows})

    @property
    def rows(self) -> Array | None:
        return None if self._chosen is None else self._chosen["rows"]

    def __len__(self) -> int:
        return len(self.store["ids"] if self.rows is None else self.rows)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        i = self._row(range(len(self))[index])  # raises IndexError, counts from the end
        store, content = self.store, None
        rows = slice(store["starts"][i], store["starts"][i + 1])
        height, width = store["sizes"][i].tolist()
        if self.shards:
            content = InTar(self.shards[store["shards"][i]], int(store["offsets"][i]), int(store["lengths"][i]))
        return Record(
            int(store["ids"][i]), self.folder / self.name(i), (height, width), store["boxes"][rows],
            store["labels"][rows].astype(np.int64), store["crowd"][rows], store["areas"][rows], content=content,
        )  # fmt: skip

    def _row(self, index: int) -> int:
        return index if self.rows is None else int(self.rows[index])

    def first_box(self, index: int) -> int:
        """A number of the first box of a record that no other box has, nor the others of the record."""
        return int(self.store["starts"][self._row(index)])

    def name(self, i: int) -> str:
        """Of picture i, from the folder."""
        first, last = self.store["name_starts"][i : i + 2].tolist()
        return self.store["names"][first:last].tobytes().decode("utf-8", "surrogateescape")

    def take(self, indices: Sequence[int] | Array) -> Columns:
        """The records at `indices`, over the same arrays."""
        rows = np.asarray(indices, np.int64)
        return Columns(self.folder, self.store, self.shards, rows if self.rows is None else self.rows[rows])

    @property
    def sizes(self) -> Array:
        """[N, 2] (height, width) of the records."""
        return self.store["sizes"] if self.rows is None else self.store["sizes"][self.rows]

    @property
    def box_counts(self) -> Array:
        """[N] boxes of each record."""
        counts = np.diff(self.store["starts"])
        return counts if self.rows is None else counts[self.rows]

    def of_boxes(self, name: str) -> Array:
        """`boxes`, `labels`, `crowd` or `areas` of all records, in their order."""
        if self.rows is None:
            return self.store[name]
        counts = self.box_counts
        inside = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return self.store[name][np.repeat(self.store["starts"][self.rows], counts) + inside]

    def deep_paths(self) -> list[Path]:
        """At most `LOOKED_AT` of the files that may have more than 8 bits, evenly taken; none of tar shards."""
        names = self.store["names"].tobytes().lower()
        if self.shards or not any(suffix.encode() in names for suffix in DEEP_SUFFIXES):
            return []
        chosen = range(len(self)) if self.rows is None else self.rows.tolist()
        deep = [i for i in chosen if self.name(i).lower().endswith(DEEP_SUFFIXES)]
        return [self.folder / self.name(i) for i in deep[:: max(1, -(-len(deep) // LOOKED_AT))]]


class Store(Mapping[str, Array]):
    """Arrays by name. Pickled, they are a file that whoever unpickles them maps; where no such file can be written,
    they are copied."""

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        self._arrays = dict(arrays)
        self._file: tuple[str, list[tuple[str, str, tuple[int, ...], int]]] | None = None

    def __getitem__(self, name: str) -> Array:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __reduce__(self) -> Any:
        try:
            return _mapped, self.share()
        except OSError as error:
            logging.getLogger("headway").warning(
                "each worker gets a copy of the annotations: %s cannot be written (%s); set TMPDIR to another folder",
                tempfile.gettempdir(), error.strerror,
            )  # fmt: skip
            return Store, (self._arrays,)

    def share(self) -> tuple[str, list[tuple[str, str, tuple[int, ...], int]]]:
        """(file, name, type, shape and offset of each array in it), written the first time; this process then uses the
        file too. Raises: OSError."""
        if self._file is None:
            handle, path = tempfile.mkstemp(prefix="headway-columns-")
            layout = []
            try:
                with os.fdopen(handle, "wb") as stream:
                    for name, values in self._arrays.items():
                        stream.write(b"\0" * (-stream.tell() % _ALIGN))
                        layout.append((name, values.dtype.str, values.shape, stream.tell()))
                        stream.write(np.ascontiguousarray(values).data)
                self._arrays = dict(_mapped(path, layout))
            except BaseException:
                os.unlink(path)
                raise
            self._file = path, layout
            weakref.finalize(self, _remove, path, os.getpid())
        return self._file


def _mapped(path: str, layout: list[tuple[str, str, tuple[int, ...], int]]) -> Store:
    """The arrays of a file, which stays on the disk until they are asked for."""
    data = np.memmap(path, np.uint8, "r")
    arrays = {}
    for name, kind, shape, offset in layout:
        size = np.dtype(kind).itemsize * int(np.prod(shape))
        arrays[name] = np.asarray(data[offset : offset + size]).view(kind).reshape(shape)
    store = Store(arrays)
    store._file = path, layout
    return store


def _remove(path: str, process: int) -> None:
    if os.getpid() == process:  # and not in a forked worker
        os.unlink(path)


def names_of(texts: Iterable[str]) -> dict[str, Array]:
    """The arrays `names` and `name_starts` of file names."""
    blob, ends = bytearray(), array("q", [0])
    for text in texts:
        blob += text.encode("utf-8", "surrogateescape")
        ends.append(len(blob))
    return {"names": np.frombuffer(blob, np.uint8), "name_starts": np.frombuffer(ends, np.int64)}


class Growing:
    """An array that grows at its end. Large pieces come from the system and go back to it, whereas many small ones that
    stay would keep the memory of what was between them."""

    def __init__(self, like: Array) -> None:
        self._rows, self._count = np.empty((2**16, *like.shape[1:]), like.dtype), 0

    @property
    def rows(self) -> Array:
        return self._rows[: self._count]

    def extend(self, values: Array) -> None:
        count = self._count + len(values)
        if count > len(self._rows):
            rows = np.empty((max(count, 2 * len(self._rows)), *self._rows.shape[1:]), self._rows.dtype)
            rows[: self._count] = self.rows
            self._rows = rows
        self._rows[self._count : count] = values
        self._count = count


def by_picture(image: Array, count: int, columns: Mapping[str, list[Array]]) -> dict[str, Array]:
    """Rows of boxes in the order of their pictures, and `starts`; those of a picture keep their order.

    image: number of the picture of each box; count: pictures; columns: each alone in a list, from which it is taken, so
    that all of them are in memory only once.
    """
    starts = np.zeros(count + 1, np.int64)
    np.cumsum(np.bincount(image, minlength=count), out=starts[1:])
    order = np.argsort(image, kind="stable") if (image[1:] < image[:-1]).any() else None
    arrays = {"starts": starts}
    for name, alone in columns.items():
        column = alone.pop()
        arrays[name] = column if order is None else column[order]
    return arrays
