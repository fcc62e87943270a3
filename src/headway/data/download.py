"""The bytes of a picture that is no file: behind a URL that the caller gave, or in an open file."""

import re
import time
from http.client import HTTPException
from typing import Any, TypeGuard
from urllib.error import URLError
from urllib.request import Request, urlopen

from ..errors import DataError

MAX_BYTES = 64 * 2**20
TIMEOUT = 20.0  # seconds
_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)


def is_url(source: object) -> TypeGuard[str]:
    return isinstance(source, str) and _URL.match(source) is not None


def download(url: str, max_bytes: int = MAX_BYTES) -> bytes:
    """The bytes behind a URL, at most `max_bytes`, in at most `TIMEOUT` seconds.

    Raises: DataError for another scheme than http, https and file, for more bytes, more time, and a failed download.
    """
    if url.split(":", 1)[0].lower() not in ("http", "https", "file"):
        raise DataError(f"{url} cannot be opened: expected http, https or file; download the picture first")
    limit = f"the limit of {max_bytes / 2**20:g} MiB; download it and give the path"
    content, deadline = bytearray(), time.monotonic() + TIMEOUT
    try:
        with urlopen(Request(url, headers={"User-Agent": "headway"}), timeout=TIMEOUT) as response:
            while block := response.read1(2**16):
                content += block
                if len(content) > max_bytes:
                    raise DataError(f"{url} is larger than {limit}")
                if time.monotonic() > deadline:
                    raise DataError(f"{url} took longer than {TIMEOUT:g} s; download it and give the path")
    except (URLError, HTTPException, OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        reason = " ".join(str(getattr(error, "reason", "") or error).split())[:200]
        raise DataError(f"{url} cannot be downloaded: {reason or type(error).__name__}; check the address") from None
    return bytes(content)


def content_of(stream: Any, where: str) -> bytes:
    """All bytes of an open file. Raises: DataError for one that was opened to read text."""
    content = stream.read()
    if not isinstance(content, bytes):
        raise DataError(f"{where} must be a file opened to read bytes (mode 'rb'), it gives {type(content).__name__}")
    return content
