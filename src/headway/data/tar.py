"""Plain tar files as a table of members that are read where they lie. Nothing is ever written to the disk.

The headers are read here and not by `tarfile`: that makes an object of every member, takes links and devices for
members too, and reads on in a damaged file as long as it finds a header. Formats: POSIX ustar and pax
(https://pubs.opengroup.org/onlinepubs/9799919799/utilities/pax.html), GNU's long names and binary numbers.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from ..errors import DataError

_BLOCK = 512
_MOST_HEADER = 2**20  # bytes of a long name or of pax records
_OCTAL = b"01234567"
_OPEN = 64  # shards that a process keeps open
_PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst")
_KINDS = {
    b"1": "a link", b"2": "a link", b"3": "a device", b"4": "a device", b"6": "a pipe", b"S": "a file with holes",
}  # fmt: skip


class Member(NamedTuple):
    """name: as stated, without "./" in front; offset: of its content in the tar file; size: bytes."""

    name: str
    offset: int
    size: int


def members_of(shard: Path) -> Iterator[Member]:
    """The files in a tar file, in order; folders are passed over.

    Raises: DataError naming the shard: compressed, no tar, damaged, cut off, or with a member that is no plain file or
        whose name leads out of the archive.
    """
    try:
        with shard.open("rb", buffering=0) as stream:
            yield from _Headers(shard, stream.fileno()).members()
    except OSError as error:
        raise DataError(f"tar shard {shard} cannot be read: {error.strerror}") from None


class _Headers:
    def __init__(self, shard: Path, handle: int) -> None:
        self.shard, self.handle, self.length = shard, handle, os.fstat(handle).st_size
        self.at = 0
        self.stated: dict[str, str] = {}  # by an extended header, for the next member

    def members(self) -> Iterator[Member]:
        while (header := self._next()) is not None:
            kind, size = header[156:157], self._number(header[124:136], "size")
            start = self.at + _BLOCK
            if kind in (b"x", b"g", b"L", b"K"):
                self._extend(kind, start, size)
                self.at = start + -(-size // _BLOCK) * _BLOCK
                continue
            name, size = self._name(header), int(self.stated.get("size", size))
            self._check(name, kind, start, size)
            self.stated = {}
            self.at = start + -(-size // _BLOCK) * _BLOCK
            if kind != b"5":
                yield Member(name, start, size)

    def _next(self) -> bytes | None:
        """The header at `at`; None at the end of the archive, which is two blocks of zeros."""
        header = os.pread(self.handle, _BLOCK, self.at)
        if self.at == 0:
            self._check_start(header)
        if len(header) < _BLOCK:
            raise self._fault("is cut off: it ends without the two empty blocks that close a tar file; copy it again")
        if not header.strip(b"\0"):
            self._check_end()
            return None
        stated = header[148:156].strip(b" \0")
        summed = sum(header) - sum(header[148:156]) + 8 * ord(" ")
        if not stated or stated.strip(_OCTAL) or int(stated, 8) != summed:
            raise self._fault(f"is damaged: the header at byte {self.at} has another checksum; copy it again")
        return header

    def _check_start(self, header: bytes) -> None:
        packed = next((name for mark, name in _PACKED.items() if header.startswith(mark)), None)
        if packed:
            raise self._fault(f"is compressed ({packed}), so no picture can be read by itself; decompress it first")
        if not header:
            raise self._fault("is empty (0 bytes); copy it again")
        if len(header) == _BLOCK and header[257:262] != b"ustar" and header.strip(b"\0"):
            raise self._fault("is no tar file in POSIX or GNU form; write it again, with tar or webdataset")

    def _check_end(self) -> None:
        rest = os.pread(self.handle, 2 * _BLOCK, self.at)
        if len(rest) < 2 * _BLOCK or rest.strip(b"\0"):
            raise self._fault("is cut off: it ends without the two empty blocks that close a tar file; copy it again")
        after = os.pread(self.handle, _BLOCK, self.at + 2 * _BLOCK)
        if after.strip(b"\0"):
            raise self._fault(
                f"goes on behind its end at byte {self.at}, as tar files that were joined by cat; give them one by one"
            )

    def _extend(self, kind: bytes, start: int, size: int) -> None:
        """Remember what an extended header says of the next member."""
        if size > _MOST_HEADER or start + size > self.length:
            raise self._fault(f"is damaged: the extended header at byte {self.at} states {size:,} bytes")
        content = os.pread(self.handle, size, start)
        if kind == b"L":
            self.stated["path"] = _text(content.rstrip(b"\0"))
        elif kind in (b"x", b"g"):
            records = self._records(content)
            wrong = next(
                (key for key in records if key.startswith("GNU.sparse") or (kind == b"g" and key in _OURS)), ""
            )
            if wrong:
                raise self._fault(f"has an extended header {wrong!r}, which is not read; write it anew")
            self.stated |= {key: value for key, value in records.items() if kind == b"x" and key in _OURS}

    def _records(self, content: bytes) -> dict[str, str]:
        """Pax records, each LENGTH KEY=VALUE and a line end."""
        records, at = {}, 0
        while at < len(content):
            digits, space, _ = content[at : at + 20].partition(b" ")
            length = int(digits) if space and digits.isdigit() else 0
            key, equals, value = content[at + len(digits) + 1 : at + length - 1].partition(b"=")
            if length <= len(digits) + 1 or at + length > len(content) or not equals:
                raise self._fault(f"is damaged: the extended header at byte {self.at} has no pax records")
            records[_text(key)] = _text(value)
            at += length
        if not _SIZE.fullmatch(size := records.get("size", "0")):
            raise self._fault(f"is damaged: the extended header at byte {self.at} states the size {size[:40]!a}")
        return records

    def _name(self, header: bytes) -> str:
        name = header[:100].split(b"\0")[0]
        prefix = header[345:500].split(b"\0")[0] if header[257:263] == b"ustar\0" else b""
        text = self.stated.get("path") or _text(prefix + b"/" + name if prefix else name)
        while text.startswith("./"):
            text = text[2:]
        return text

    def _check(self, name: str, kind: bytes, start: int, size: int) -> None:
        """Raises: DataError for a member that is no plain file inside the archive."""
        shown = ascii(name[:120])
        if kind in _KINDS or kind not in (b"0", b"\0", b"5", b"7"):
            raise self._fault(f"holds {_KINDS.get(kind, f'an entry of type {kind!r}')}, {shown}; expected files alone")
        parts = name.replace("\\", "/").split("/")
        if name.startswith(("/", "\\")) or ".." in parts or name[1:2] == ":" or "\0" in name:
            raise self._fault(f"holds {shown}, a name that leads out of the archive; write it again, with plain names")
        if start + size > self.length:
            raise self._fault(
                f"is cut off or damaged: {shown} states {size:,} bytes, and {max(0, self.length - start):,} are left; "
                "copy it again"
            )

    def _number(self, field: bytes, what: str) -> int:
        """Octal digits, or GNU's binary number."""
        if field[0] in (0x80, 0xFF):
            value = int.from_bytes(field[1:], "big")
            if field[0] == 0x80:
                return value
        digits = field.strip(b" \0")
        if not digits:
            return 0
        if digits.strip(_OCTAL):
            raise self._fault(f"is damaged: the header at byte {self.at} states the {what} {ascii(field)[:40]}")
        return int(digits, 8)

    def _fault(self, text: str) -> DataError:
        return DataError(f"tar shard {self.shard} {text}")


_OURS = ("path", "size")  # of pax records
_SIZE = re.compile("[0-9]{1,20}")


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


class InTar(NamedTuple):
    """A member as a source of bytes: call it. A worker that gets one opens the shard by itself."""

    shard: str
    offset: int
    size: int

    def __call__(self) -> bytes:
        """Raises: DataError where the shard is gone or shorter than it was."""
        return self.head(self.size)

    def head(self, count: int) -> bytes:
        """At most so many of its first bytes. Raises: DataError."""
        count, content = min(count, self.size), b""
        try:
            file = _shard(self.shard)
            while len(content) < count:
                more = os.pread(file.handle, count - len(content), self.offset + len(content))
                if not more:
                    raise DataError(f"tar shard {self.shard} is shorter than when it was opened; leave it as it is")
                content += more
        except OSError as error:
            raise DataError(f"tar shard {self.shard} cannot be read: {error.strerror}") from None
        return content


class _Shard:
    """An open file that is closed when it is forgotten."""

    def __init__(self, path: str) -> None:
        self.handle = os.open(path, os.O_RDONLY)

    def __del__(self) -> None:
        if hasattr(self, "handle"):
            os.close(self.handle)


@lru_cache(maxsize=_OPEN)
def _shard(path: str) -> _Shard:
    return _Shard(path)
