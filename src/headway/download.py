"""Files of published weights: fetched when the user names them, kept in a cache, checked.

HEADWAY_CACHE: the folder of the cache. HEADWAY_MIRROR: an address, `https://mirror.example/files` or `file:///mnt/files`;
the file of `https://HOST/PATH` is then fetched from `MIRROR/HOST/PATH` and from nowhere else.
"""

import hashlib
import os
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import urlopen

from .errors import CheckpointError, HeadwayError
from .files import write_atomically

_TIMEOUT = 60.0  # seconds without an answer


def mirror() -> str:
    """The address of the mirror, or nothing."""
    return os.environ.get("HEADWAY_MIRROR", "").rstrip("/")


def address_of(url: str) -> str:
    """Where the file of `url` is fetched: there, or from the mirror."""
    parts = urlsplit(url)
    return f"{mirror()}/{parts.netloc}{parts.path}" if mirror() and parts.scheme in ("http", "https") else url


def cached_name(url: str) -> str:
    """The name in the cache: the address's last part. Hugging Face calls the files of all models alike, so there the
    names of owner and model lead."""
    parts = url.split("/")
    return "--".join([*parts[3:5], parts[-1]]) if "/resolve/" in url else parts[-1]


def fetch(url: str, sha256: str = "", md5: str = "") -> Path:
    """The cached file of `url`, fetched when it is not there. sha256, md5: their first digits, of any number.

    Raises: HeadwayError when it cannot be had; CheckpointError for another checksum, and the file is removed.
    """
    path = Path(os.environ.get("HEADWAY_CACHE", Path.home() / ".cache" / "headway")) / cached_name(url)
    address = address_of(url)
    if not path.exists():
        try:
            with urlopen(address, timeout=_TIMEOUT) as answer:
                content = answer.read()
        except (OSError, ValueError) as error:
            where = f" (HEADWAY_MIRROR is {mirror()})" if address != url else ""
            raise HeadwayError(
                f"could not download {address} ({error}){where}; fetch it elsewhere and give the file: "
                "pretrained=FILE for a detector, backbone.weights=FILE for a backbone"
            ) from None
        write_atomically(path, content)
    for kind, expected in (("sha256", sha256), ("md5", md5)):
        digest = hashlib.new(kind, path.read_bytes(), usedforsecurity=False).hexdigest() if expected else ""
        if not digest.startswith(expected):
            path.unlink()
            raise CheckpointError(f"{address} has {kind} {digest[:16]}..., expected {expected}...; removed it")
    return path
