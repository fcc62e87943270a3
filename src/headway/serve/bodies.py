"""The body of a request -> the bytes of its pictures, within bounds, in memory alone: nothing goes to a disk."""

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from pathlib import PurePath
from typing import Any, NamedTuple, TypeVar

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import File, FormParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from ..errors import HeadwayError, one_line
from .settings import BYTES_AT_ONCE, Settings

T = TypeVar("T")
BODY = "in the request"  # the name of a picture that has none, as in: image in the request is not a picture
_PLAIN = ("application/octet-stream", "application/x-www-form-urlencoded", "")  # the second is what curl says by itself
_NAME_LENGTH = 200


class RefusedError(HeadwayError):
    """A request that is not answered, with its HTTP status."""

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.headers = status, headers or {}


class GoneError(Exception):
    """The client has closed the connection."""


class Upload(NamedTuple):
    """One picture. name: of its file; BODY where it has none."""

    name: str
    data: bytes


class Ledger:
    """Bytes of bodies that are held at the moment. limit: when more come, requests are answered with 503."""

    def __init__(self, limit: int) -> None:
        self.limit, self.held = limit, 0

    def add(self, count: int) -> None:
        """Raises: RefusedError."""
        if self.held + count > self.limit:
            text = f"the service holds {self.held / 2**20:.0f} MiB of pictures and takes no more; ask again in 1 s"
            raise RefusedError(503, text, {"Retry-After": "1"})
        self.held += count


def new_ledger(settings: Settings) -> Ledger:
    """For all requests of a service."""
    return Ledger(max(BYTES_AT_ONCE, 2 * settings.max_bytes))


async def read_body(request: Request, settings: Settings, ledger: Ledger, held: list[int]) -> bytes:
    """The whole body. held: gets each number of bytes that was added to the ledger.

    Raises: RefusedError for one that is empty, too long or encoded; GoneError.
    """
    if request.headers.get("content-encoding", "identity") != "identity":
        encoding = request.headers["content-encoding"]
        raise RefusedError(415, f"the body must come as it is, got Content-Encoding {encoding[:40]!r}")
    announced = request.headers.get("content-length", "")
    too_long = announced.isdigit() and int(announced) > settings.max_bytes
    chunks: list[bytes] = []
    count = 0
    try:
        async for chunk in request.stream():
            count += len(chunk)
            # What is too long is read on a while and forgotten: most clients listen only when they have sent all.
            if too_long or count > settings.max_bytes:
                too_long = True
                chunks.clear()
                if count > 4 * settings.max_bytes:
                    break
                continue
            ledger.add(len(chunk))
            held.append(len(chunk))
            chunks.append(chunk)
    except ClientDisconnect:
        raise GoneError from None
    if too_long:
        size = f"{int(announced):,} bytes" if announced.isdigit() else "more"
        text = f"a body may have {settings.max_bytes:,} bytes, got {size}; send fewer or smaller pictures"
        raise RefusedError(413, text, {"Connection": "close"})
    if not count:
        raise RefusedError(400, "the body is empty: send a picture, or a form with pictures")
    return b"".join(chunks)


def is_form(content_type: str) -> bool:
    """Whether the body is a form. Raises: RefusedError for a kind that is neither a form nor a picture."""
    kind = content_type.split(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return True
    if kind not in _PLAIN and not kind.startswith("image/"):
        raise RefusedError(
            415, f"the body must be a picture (image/*, application/octet-stream) or multipart/form-data, got {kind!r}"
        )
    return False


def split_form(body: bytes, content_type: str, most: int) -> list[Upload]:
    """The files of a form, whatever their fields are called.

    Raises: RefusedError for a form that is damaged, or has no file or too many.
    """
    found: list[Upload] = []

    def keep(file: File) -> None:
        if len(found) >= most:
            raise RefusedError(413, f"a form may hold {most} pictures, got more; send them in several requests")
        file.file_object.seek(0)
        found.append(Upload(_name(file.file_name), file.file_object.read()))

    boundary = parse_options_header(content_type)[1].get(b"boundary", b"")
    if not 0 < len(boundary) <= 70:  # RFC 2046, 5.1.1
        raise RefusedError(400, "multipart/form-data needs a boundary of 1 to 70 characters in its Content-Type")
    size = len(body) + 1
    config: dict[Any, Any] = {"MAX_MEMORY_FILE_SIZE": size, "MAX_BODY_SIZE": size, "MAX_FIELDS": 100}
    try:
        parser = FormParser("multipart/form-data", lambda _: None, keep, boundary=boundary, config=config)
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise RefusedError(400, f"the form is damaged: {one_line(error)}") from None
    if not found:
        raise RefusedError(400, "the form holds no file: add one, as in curl -F images=@photo.jpg")
    return found


def _name(raw: bytes | None) -> str:
    """A file's own name for messages and answers: no folder, nothing that does not print."""
    text = PurePath((raw or b"").decode("utf-8", "replace").replace("\\", "/")).name
    return "".join(character for character in text if character.isprintable())[:_NAME_LENGTH] or BODY


async def while_connected(request: Request, work: Awaitable[T], seconds: float, late: str) -> T:
    """The result of `work`, which is cancelled when its client goes, or after so many seconds.

    Raises: GoneError; RefusedError with status 504, which says `late`; what `work` raises.
    """
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({task, gone}, timeout=max(seconds, 0), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        if gone.done():
            raise GoneError
        raise RefusedError(504, late)
    finally:
        for each in (task, gone):
            each.cancel()
            with suppress(BaseException):
                await each


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
