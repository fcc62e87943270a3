"""Which pictures the sources of a job mean: folders to the bottom, globs, lists, COCO files, tar shards, and addresses
of storage.

Pictures come one by one in any order and may come twice; `plan` sorts them. Nothing here holds all of them.
"""

import codecs
import glob
import json
import math
import os
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from ..data.download import is_url
from ..data.formats.tar_layout import shards_at
from ..data.image import SUFFIXES
from ..data.tar import COMPRESSED, InTar, members_of
from ..errors import DataError, HeadwayError, one_line
from ..predict.files import is_image_name, other_kind, path_of
from ..progress import say

_LISTS = (".txt", ".lst", ".list")
_COLUMNS = ("path", "file_name", "url", "image", "location")  # of a Parquet list, the first that is there
_WEB = ("http://", "https://")
_EXPECTED = "expected files with a picture's ending, in it or below it"
_SHARD = re.compile(r"\.tar(?=/)", re.IGNORECASE)


class Listed(NamedTuple):
    """location: as the user wrote it, a path or an address; size: bytes, None where nobody asked; id: of the data set,
    None where there is none."""

    location: str
    size: int | None
    id: int | str | None = None


def list_pictures(sources: Iterable[str]) -> Iterator[Listed]:
    """The pictures of each source. A file named outright is taken whatever its ending and even if it is missing, so
    that its row says so; of folders, patterns and storage those with a picture's ending.

    Raises: DataError for a source that is missing, that is a video or another file that is no picture, or without any
        picture; HeadwayError without the package that reads it.
    """
    for source in sources:
        found = _of_source(source)
        first = next(found, None)
        if first is None:
            folder = Path(source)
            shards = folder.is_dir() and shards_at(folder)
            raise DataError(
                f"{source} holds no picture; " + (f"name its tar shards, as '{folder}/*.tar'" if shards else _EXPECTED)
            )
        yield first
        yield from found


def _of_source(source: str) -> Iterator[Listed]:
    path, suffix = path_of(source), Path(source).suffix.lower()
    if source.startswith(_WEB):
        return iter([Listed(source, None)])
    if is_url(source):
        return _of_storage(source)
    if path.is_dir():
        return _below(str(path))
    if suffix in _LISTS and path.is_file():
        return _of_lines(path)
    if source.lower().endswith((".tar", *COMPRESSED)):
        return chain.from_iterable(map(_of_shard, shards_at(path) or []))
    if suffix == ".parquet" and path.is_file():
        return _of_parquet(path)
    if suffix == ".json" and path.is_file():
        return _of_coco(path)
    if not path.exists() and any(character in source for character in "*?["):
        matches = glob.iglob(source, recursive=True, include_hidden=True)
        return (_stat(match) for match in matches if is_image_name(match) and os.path.isfile(match))
    if kind := other_kind(path):
        raise DataError(f"{path} is no picture: {kind}")
    if suffix in (*_LISTS, ".parquet", ".json") or not (path.exists() or is_image_name(path)):
        raise DataError(f"there is no file or folder {path}")
    return iter([_stat(str(path))])


def _stat(location: str, image_id: int | str | None = None) -> Listed:
    try:
        return Listed(location, os.stat(location).st_size, image_id)
    except (OSError, ValueError):  # the row of the picture will say so
        return Listed(location, None, image_id)


def _below(folder: str) -> Iterator[Listed]:
    """Every picture at any depth. Folders that are links are not entered, as they may lead back."""
    waiting = [folder]
    while waiting:
        at = waiting.pop()
        try:
            with os.scandir(at) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    elif is_image_name(entry.name) and entry.is_file():
                        yield _stat(str(Path(entry.path)))
        except OSError as error:
            if at == folder:
                raise DataError(f"the folder {at} cannot be read: {error.strerror}") from None
            say(f"passed over: the folder {at} cannot be read: {error.strerror}")


def _of_lines(path: Path) -> Iterator[Listed]:
    """A path or address a line. A path that does not lead on from the current folder starts at the list's own."""
    with path.open("rb") as stream:
        wide = stream.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # as PowerShell writes lists
    with path.open(encoding="utf-16" if wide else "utf-8-sig", errors="surrogateescape") as lines:
        for line in lines:
            if text := line.strip():
                yield Listed(text, None) if is_url(text) else _stat(_beside(path, text))


def _beside(path: Path, text: str) -> str:
    """`text` from the current folder, or from that of the file `path` where it exists there alone."""
    text = str(Path(text))
    other = path.parent / text
    return text if os.path.isabs(text) or os.path.exists(text) or not os.path.exists(other) else str(other)


def _of_shard(shard: Path) -> Iterator[Listed]:
    """The pictures in a tar file, as SHARD.tar/NAME."""
    for name, content in _members(str(shard)).items():
        if name.lower().endswith(SUFFIXES) and not name.rpartition("/")[2].startswith("."):
            yield Listed(f"{shard}/{name}", content.size)


@lru_cache(maxsize=2)
def _members(shard: str) -> dict[str, InTar]:
    """The last one or two shards; a plan has the pictures of a shard together."""
    return {member.name: InTar(shard, member.offset, member.size) for member in members_of(Path(shard))}


def _of_parquet(path: Path) -> Iterator[Listed]:
    """Column path, file_name, url, image or location; beside it size (bytes) and image_id where they are there."""
    parquet = need("pyarrow.parquet", "a Parquet list", "parquet")
    try:
        file = parquet.ParquetFile(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is no Parquet file ({error}); write it again") from None
    names = file.schema_arrow.names
    column = next((name for name in _COLUMNS if name in names), None)
    if column is None:
        raise DataError(
            f"{path} has no column {', '.join(_COLUMNS)}, but {', '.join(names[:8])}: rename the one of paths"
        )
    more = [name for name in ("size", "image_id") if name in names]
    for batch in file.iter_batches(batch_size=8192, columns=[column, *more]):
        for row in batch.to_pylist():
            text, size, image_id = row[column], row.get("size"), _id_of(row.get("image_id"), path)
            if not isinstance(text, str):
                raise DataError(f"{path}: column {column} must hold texts, got {text!r}; leave such rows out")
            if size != size:  # pandas writes NaN for a size that is not known
                size = None
            if is_url(text) or size is not None:
                yield Listed(text, size, image_id)
            else:
                yield _stat(_beside(path, text), image_id)


def _of_coco(path: Path) -> Iterator[Listed]:
    """The pictures of an annotation file, under its ids."""
    from ..data.formats.coco_layout import image_folders
    from ..data.formats.folder import Folder

    try:
        entries = json.loads(path.read_text(encoding="utf-8-sig"))["images"]
        named = [(str(entry["file_name"]), entry["id"]) for entry in entries]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{path} is no COCO file: expected a list 'images' of file_name and id ({error!r})") from None
    root = path.parent.parent if path.parent.name.lower() == "annotations" else path.parent
    sample = [name for name, _ in named[:: max(1, len(named) // 256)]]
    base = image_folders(Folder(root), path, path.stem, sample)[0] if named else root
    for name, stated in named:
        image_id = _id_of(stated, path)
        yield Listed(name, None, image_id) if is_url(name) else _stat(str(base / name), image_id)


def _id_of(stated: object, path: Path) -> int | str | None:
    """The id of a picture that a list states; None for a missing one, which pandas writes as NaN. Raises: DataError."""
    if isinstance(stated, float):  # of a column of integers in which some are missing
        stated = None if math.isnan(stated) else int(stated) if stated.is_integer() else stated
    if stated is None or (isinstance(stated, (int, str)) and not isinstance(stated, bool)):
        return stated
    raise DataError(f"{path}: the id of a picture must be an integer or a text, got {stated!r}; correct it")


def _of_storage(address: str) -> Iterator[Listed]:
    """Below an address as s3://bucket/folder, or matching a pattern; folder after folder, so that a bucket of many is
    never held whole."""
    fsspec = need("fsspec", f"storage as {address}", "cloud")
    try:
        system, root = fsspec.core.url_to_fs(address, use_listings_cache=False)
        if any(character in root for character in "*?["):
            files: Iterable[dict[str, Any]] = system.glob(root, detail=True).values()
        elif system.isfile(root):
            yield Listed(address, system.size(root))
            return
        else:
            files = chain.from_iterable(found.values() for _, _, found in system.walk(root, detail=True))
        for entry in files:
            if entry["type"] == "file" and is_image_name(entry["name"]):
                yield Listed(system.unstrip_protocol(entry["name"]), entry.get("size"))
    except (OSError, ImportError, ValueError) as error:
        raise DataError(f"{address} cannot be listed: {one_line(error)}") from None


def file_of(path: str) -> str:
    """The tar shard of a picture in one; else the path itself."""
    ends = (found.end() for found in _SHARD.finditer(path))
    return next((path[:end] for end in ends if os.path.isfile(path[:end])), path)


def read_bytes(location: str, root: str = "") -> bytes | str:
    """What reading a picture starts from: the bytes of storage, or the path or web address itself. root: the folder in
    which the job was planned, from which relative paths lead."""
    if location.startswith(_WEB):
        return location
    if not is_url(location):
        path = os.path.join(root, location)
        shard = file_of(path)
        if shard == path:
            return path
        if (content := _members(shard).get(path[len(shard) + 1 :])) is None:
            raise DataError(f"image {location} is not in its tar shard; plan the job anew")
        return content()
    fsspec = need("fsspec", f"storage as {location}", "cloud")
    try:
        system, path = fsspec.core.url_to_fs(location)
        return bytes(system.cat_file(path))
    except FileNotFoundError:
        raise DataError(f"image {location} does not exist; check the address") from None


def need(module: str, what: str, extra: str) -> Any:
    """An optional package. Raises: HeadwayError without it, with the extra that brings it."""
    from importlib import import_module

    try:
        return import_module(module)
    except ImportError:
        raise HeadwayError(f"{what} needs {module.split('.')[0]}: pip install 'headway[{extra}]'") from None
