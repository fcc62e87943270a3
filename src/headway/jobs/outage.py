"""Whether the place that pictures come from is still there. A share that is gone is no picture's fault."""

from __future__ import annotations

import errno
import os
import threading
from itertools import islice

from ..data.download import is_url
from ..errors import DataError, one_line
from .sources import file_of, need

_PROBE = 10.0  # seconds in which a folder must answer
_NEIGHBOURS = 8  # entries of a folder that are looked at

# What reading one file gives where it is damaged, and every file where its share or disk is gone.
OF_FILES = {
    errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.ENETUNREACH,
    errno.ENODEV, errno.ENXIO,
}  # fmt: skip


def errno_of(error: BaseException | None) -> int | None:
    """The system's number of an error, or of one that it came from; None where there is none."""
    while error is not None:
        if isinstance(error, OSError) and error.errno:
            return error.errno
        error = error.__cause__ or error.__context__
    return None


def is_storage(location: str) -> bool:
    """Whether it is an address of a bucket, which can be asked; of web addresses each may be another server's."""
    return is_url(location) and not location.startswith(("http://", "https://"))


def gone(location: str, root: str, common: str, error: BaseException | None = None) -> str | None:
    """Why the place of a picture is not there; None where it is, and the picture alone is at fault.

    root: the folder from which relative paths lead. common: the folder below which all pictures of the job are.
    error: of the reading; without the system's number it is of the picture's content, and nothing is asked.
    A folder that does not answer in time counts as gone.
    """
    local = not is_url(location)
    if isinstance(error, DataError) and not local:
        return None
    if not (local or is_storage(location)) or (local and error is not None and errno_of(error) is None):
        return None
    path = os.path.join(root, location) if local else location
    answers: list[str | None] = []

    def ask() -> None:
        answers.append(_of_folder(file_of(path), common) if local else _of_storage(path))

    thread = threading.Thread(target=ask, daemon=True)  # a dead mount may never answer
    thread.start()
    thread.join(_PROBE)
    return answers[0] if answers else f"{os.path.dirname(path)} does not answer"


def _of_folder(path: str, common: str) -> str | None:
    """A picture that was deleted has a folder with others, or one that was deleted with it while the job's own folder
    is there. An unmounted share leaves an empty folder, or none."""
    folder, missing = os.path.dirname(path), ""
    while True:
        try:
            with os.scandir(folder) as entries:
                others = [entry.path for entry in islice(entries, _NEIGHBOURS) if entry.path != path]
            break
        except (FileNotFoundError, NotADirectoryError):
            missing, folder = folder, os.path.dirname(folder)
            if missing == folder:
                return f"there is no {missing}"
        except OSError as error:
            return f"{folder} cannot be read: {error.strerror}"
    if missing:
        return f"there is no {missing}" if not others or _is_in(common, missing) else None
    if not others:
        return f"{folder} is empty" if not os.path.exists(path) and _is_in(common, folder) else None
    return _of_neighbours(folder, others)


def _of_neighbours(folder: str, others: list[str]) -> str | None:
    """Where no other file of the folder can be read either, why."""
    why = ""
    for other in others:
        try:
            if os.path.isdir(other):
                continue
            with open(other, "rb") as stream:
                stream.read(1)
            return None
        except OSError as error:
            if error.errno not in OF_FILES:
                return None
            why = f"no file in {folder} can be read: {error.strerror}"
    return why or None


def _of_storage(address: str) -> str | None:
    fsspec = need("fsspec", f"storage as {address}", "cloud")
    try:
        system, path = fsspec.core.url_to_fs(address)
        system.info(path)
    except FileNotFoundError:
        return None
    except Exception as error:
        return f"{address.rpartition('/')[0]} does not answer: {one_line(error)}"
    return None


def _is_in(inner: str, outer: str) -> bool:
    return inner == outer or inner.startswith(outer.rstrip(os.sep) + os.sep)
