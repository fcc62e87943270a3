"""Every picture of a data set decoded and hashed, by this process or by several, and again from where a check stopped.

The state of a check is a file of JSON lines, one for each picture that was looked at, under a key of everything that
the look depends on: its name, size and time of change, and what the annotations state. So a file that changed
meanwhile is looked at again, and a check that goes on says the same to the byte as one that was not stopped.
"""

from __future__ import annotations

import hashlib
import io
import json
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from multiprocessing.connection import wait
from pathlib import Path
from typing import NamedTuple

from ...errors import DataError, HeadwayError
from ...files import lock
from ..image import image_header, verify_image
from .problem_kinds import KINDS, Problem
from .raw import RawBox, RawImage, turned

_CHUNK = 16  # pictures of a task
_SOME = [RawBox(None, -1, "")]  # in place of all boxes of a picture
_AHEAD = 4  # tasks of a worker that wait or are done ahead of their turn
_MARK = '{"state of headway data check": '  # how a state begins
_VERSION = f'{_MARK}"1 {hashlib.sha256(repr(KINDS).encode()).hexdigest()[:8]}"}}'.encode()


class Look(NamedTuple):
    """What a picture shows. size: (height, width) upright, None for none; digest: of its bytes, None for none."""

    size: tuple[int, int] | None
    problems: list[Problem]
    digest: str | None


def inspect_image(image: RawImage) -> tuple[tuple[int, int] | None, list[Problem]]:
    """The picture itself: its (height, width) upright, None for none; is it whole, and of the stated size?"""
    if image.path is None:
        return None, []
    try:
        data = None if image.content is None else image.content()
        size, turn = image_header(image.path, data=data)
        verify_image(image.path, data=data)
    except DataError as error:
        empty = not image.content.size if image.content else image.path.is_file() and image.path.stat().st_size == 0
        return None, [Problem("empty_image" if empty else "broken_image", image.where, str(error))]
    if image.size is None or image.size == size:
        unsaid = turn in (2, 3, 4) or (turn > 1 and size[0] == size[1])  # the stated size is the same either way
        return size, [turned(image, turn)] if image.size and image.boxes and unsaid else []
    detail = f"{image.path.name} is {size[1]}x{size[0]}, stated {image.size[1]}x{image.size[0]}"
    if image.size == size[::-1] and turn > 1:
        detail += " as it is stored: its EXIF orientation turns it"
    return size, [Problem("wrong_size", image.where, detail)]


def digest_of(path: Path) -> str | None:
    """SHA-256 of a file, None for one that is empty or cannot be read."""
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest() if path.stat().st_size else None
    except OSError:
        return None


def look_at(image: RawImage) -> Look:
    size, problems = inspect_image(image)
    if image.content is not None:
        return Look(size, problems, hashlib.sha256(image.content()).hexdigest() if image.content.size else None)
    return Look(size, problems, None if image.path is None else digest_of(image.path))


def look_at_all(images: Sequence[RawImage], workers: int | None = None, state: Path | None = None) -> Iterator[Look]:
    """The look of each picture, in order. workers: processes; None: this one. state: the file that keeps the looks, so
    that the same call goes on after a kill; it is removed when all pictures were looked at.

    Raises: HeadwayError where another process uses the state.
    """
    if state is None:
        yield from _fresh(images, workers)
        return
    with _state(state) as known:
        keys = [_key(image) for image in images]
        left = iter(_fresh([image for image, key in zip(images, keys) if key not in known.looks], workers))
        for key in keys:
            if (look := known.looks.get(key)) is None:
                look = next(left)
                known.add(key, look)
            yield look
    state.unlink(missing_ok=True)


def _fresh(images: Sequence[RawImage], workers: int | None) -> Iterator[Look]:
    return map(look_at, images) if workers is None else _by_processes(images, workers)


def _by_processes(images: Sequence[RawImage], workers: int) -> Iterator[Look]:
    """In order, a few tasks ahead. A process that dies over a picture is the picture's fault where it dies again."""
    waiting = (images[first : first + _CHUNK] for first in range(0, len(images), _CHUNK))
    pool = _pool(workers)
    running: deque[tuple[Sequence[RawImage], Future[list[Look]]]] = deque()
    try:
        while True:
            try:
                for chunk in islice(waiting, max(0, _AHEAD * workers - len(running))):
                    running.append((chunk, _submit(pool, chunk)))
                if not running:
                    return
                looks = running[0][1].result()
                running.popleft()
            except BrokenProcessPool:
                looks = _one_by_one(running.popleft()[0])
                pool.shutdown(wait=False)
                pool = _pool(workers)
                running = deque((chunk, _submit(pool, chunk)) for chunk, _ in running)
            yield from looks
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _pool(workers: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _begin)


def _begin() -> None:
    """Ctrl-C is the first process's to handle; and a worker ends with it, however it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _submit(pool: ProcessPoolExecutor, images: Sequence[RawImage]) -> Future[list[Look]]:
    try:
        return pool.submit(_look_at_these, _bare(images))
    except BrokenProcessPool as error:
        future: Future[list[Look]] = Future()
        future.set_exception(error)
        return future


def _bare(images: Sequence[RawImage]) -> list[RawImage]:
    """Without what a look does not need: of the boxes, whether there are any."""
    return [
        RawImage(i.image_id, i.name, i.path, i.size, i.where, _SOME[: len(i.boxes)], content=i.content) for i in images
    ]


def _look_at_these(images: list[RawImage]) -> list[Look]:
    return [look_at(image) for image in images]


def _one_by_one(images: Sequence[RawImage]) -> list[Look]:
    """Each in a process that may die. Raises: HeadwayError where none can start, which is no picture's fault."""
    looks = []
    pool = _tried_pool()
    for image in images:
        try:
            looks += pool.submit(_look_at_these, _bare([image])).result()
        except BrokenProcessPool:
            pool = _tried_pool()
            detail = f"image {image.path} ended the process that decoded it; copy it again or remove it"
            looks.append(Look(None, [Problem("broken_image", image.where, detail)], None))
    pool.shutdown()
    return looks


def _tried_pool() -> ProcessPoolExecutor:
    """One process, which has done a task already. Raises: HeadwayError where it cannot start."""
    pool = _pool(1)
    try:
        pool.submit(_look_at_these, []).result()
    except BrokenProcessPool:
        raise HeadwayError(
            "the processes that decode pictures end before they see one; a script that starts them needs "
            '`if __name__ == "__main__":`, and each some 100 MB of memory'
        ) from None
    return pool


def _key(image: RawImage) -> str:
    """Of what a look depends on."""
    stamp: tuple[object, ...] = ()
    if image.path is not None:
        file = image.content.shard if image.content else image.path
        try:
            status = os.stat(file)
            stamp = (status.st_size, status.st_mtime_ns)
        except OSError as error:
            stamp = (error.errno,)
    of = (str(image.path), image.content, stamp, image.name, image.size, image.where, bool(image.boxes))
    return hashlib.sha256(repr(of).encode("utf-8", "surrogatepass")).hexdigest()[:24]


class _State:
    """The looks of an earlier check, and those of this one as they come."""

    def __init__(self, stream: io.FileIO) -> None:
        self._stream = stream
        self.looks: dict[str, Look] = {}
        content = stream.readall()
        lines = content.split(b"\n")
        if lines[0] != _VERSION:
            if not (content.startswith(_MARK.encode()) or _VERSION.startswith(content)):
                raise ValueError("no state")
            stream.truncate(0)  # of another version, or cut off in its first line
            stream.write(_VERSION + b"\n")
            return
        stream.truncate(sum(len(line) + 1 for line in lines[:-1]))  # a line that a kill cut off
        for line in lines[1:-1]:
            key, size, problems, digest = json.loads(line)
            self.looks[key] = Look(size and (size[0], size[1]), [Problem(*one) for one in problems], digest)

    def add(self, key: str, look: Look) -> None:
        """Raises: HeadwayError where the disk does not take it."""
        try:
            self._stream.write(json.dumps([key, *look]).encode() + b"\n")
        except OSError as error:
            raise _unwritable(Path(self._stream.name), error) from None


def _unwritable(path: Path, error: OSError) -> HeadwayError:
    return HeadwayError(f"the state of the check, {path}, cannot be written: {error.strerror}; name another --state")


@contextmanager
def _state(path: Path) -> Iterator[_State]:
    if path.exists() and not path.is_file():
        raise HeadwayError(f"{path} is no file, and a state is one: name another --state")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = open(path, "a+b", buffering=0)  # noqa: SIM115
    except OSError as error:
        raise _unwritable(path, error) from None
    with stream:
        if not lock(stream.fileno()):
            raise HeadwayError(f"another check writes to {path} now: wait for it, or name another --state")
        stream.seek(0)
        try:
            known = _State(stream)
        except (ValueError, TypeError, IndexError):
            raise HeadwayError(f"{path} is no state of a check: remove it, or name another --state") from None
        yield known
