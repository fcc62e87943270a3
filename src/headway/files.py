"""Files and folders: written whole or not at all, made anew and never over another, found by what they hold."""

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path, PurePath
from typing import BinaryIO, TypeVar

from .errors import CheckpointError, HeadwayError, nearest

T = TypeVar("T")

CHECKPOINTS = ("best.safetensors", "last.safetensors")  # of a run folder, in the order of preference


def image_id_of(name: str | PurePath) -> int | str:
    """COCO's id of a picture by its file: the name without its ending, as a number where it is one."""
    stem = PurePath(name).stem
    return int(stem) if stem.isascii() and stem.isdigit() and len(stem) < 19 else stem


def is_new(folder: Path) -> bool:
    """Whether nothing would be overwritten there: no file, and no folder that holds anything."""
    return not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))


def claim_folder(folder: Path, remedy: str = "name another --out or remove it") -> Path:
    """Create `folder`. Raises: HeadwayError when something is there already, with `remedy`, or it cannot be made."""
    with _making(folder):
        taken = not is_new(folder)
        if not taken:
            folder.mkdir(parents=True, exist_ok=True)
    if taken:
        what = "exists and is not empty" if folder.is_dir() else "is a file"
        raise HeadwayError(f"{folder} {what}; nothing is overwritten: {remedy}")
    return folder


def new_folder(folder: Path, *, numbered: bool = False) -> Path:
    """Create `folder`, or folder-2, folder-3, ... where it is taken. numbered: begin with folder-1.

    Raises: HeadwayError when it cannot be made.
    """
    names = (folder if n == 1 and not numbered else folder.with_name(f"{folder.name}-{n}") for n in count(1))
    with _making(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        for name in names:
            if name == folder and name.is_dir() and is_new(name):
                return name
            try:
                name.mkdir()
                return name
            except FileExistsError:  # another process was first
                continue
    raise AssertionError("the numbers do not end")


@contextmanager
def _making(folder: Path) -> Iterator[None]:
    """A file on the way, no permission, a full disk, a name too long: all are told as what the user named."""
    try:
        yield
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise HeadwayError(f"the folder {folder} cannot be made: {reason}; name another with --out") from None


def find_checkpoint(path: Path) -> Path:
    """A checkpoint file, or the best one (else the last) of a run folder. Raises: CheckpointError."""
    if path.is_dir():
        for name in CHECKPOINTS:
            if (path / name).is_file():
                return path / name
        raise CheckpointError(f"{path} is no run folder: it holds neither {' nor '.join(CHECKPOINTS)}")
    if not path.is_file():
        raise CheckpointError(f"no checkpoint or run folder at {path}")
    return path


def pick_split(splits: Mapping[str, T], name: str) -> T:
    """The split called `name`, or the only one. Raises: HeadwayError when there are several, but not that one."""
    if name not in splits and len(splits) > 1:
        raise HeadwayError(f"no split {name!r} here, only {', '.join(splits)}; {nearest(name, splits)}".rstrip("; "))
    return splits[name] if name in splits else next(iter(splits.values()))


def lock(handle: int) -> bool:
    """Whether the open file is now this process's alone; until it is closed, or the process ends, however that ends."""
    try:
        import fcntl
    except ImportError:  # Windows: one process at a time has to do
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def write_atomically(path: Path, content: bytes) -> None:
    """Write through a temporary file in the same folder, flushed to disk before it takes the name."""
    with open_atomically(path) as stream:
        stream.write(content)


@contextmanager
def open_atomically(path: Path) -> Iterator[BinaryIO]:
    """A file to write bytes to, that takes its name when all of it is on the disk, and never after an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
