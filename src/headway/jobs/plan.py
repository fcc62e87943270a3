"""The plan of a job: its settings, its pictures in a fixed order, and where each shard of them begins.

    JOB/plan.json               settings, numbers, fingerprint
    JOB/pictures-FINGERPRINT.jsonl    a picture a line: [location, size, image id]
    JOB/pictures-FINGERPRINT.index    the byte at which each shard begins in it, as 64-bit integers

Pictures are sorted on the disk (SQLite), so that the memory of a plan does not grow with them.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import struct
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from ..data.depth import DEEP_SUFFIXES, LOOKED_AT, white_of_files
from ..data.download import is_url
from ..errors import DataError, HeadwayError
from ..files import claim_folder, image_id_of, write_atomically
from .sources import Listed

PLAN = "plan.json"
_OURS = ("plan.json", ".plan.json.", "pictures-", ".pictures-", "part-", ".part-", "inflight-")
UNFINISHED_FOLDERS = (".plan.json.", ".pictures-")
_MISTYPED = ("classes", "max_detections", "nms_iou")  # what only a worker finds wrong
_OFFSET = struct.Struct("<q")


class Picture(NamedTuple):
    """One picture of the plan."""

    location: str
    size: int | None
    id: int | str


@dataclass(frozen=True)
class Settings:
    """What decides the rows. model: as named; model_hash: of the file, or the tag; shard_size: None: `size_of_shards`;
    detector: "module:callable" in place of a model, which gets these settings. pictures: whether they are drawn too."""

    model: str = ""
    model_hash: str = ""
    threshold: float = 0.3
    max_detections: int | None = None
    nms_iou: float | str = "card"
    classes: tuple[str, ...] = ()
    batch_size: int = 4
    precision: str = "fp32"
    threads: int = 1
    shard_size: int | None = None
    detector: str = ""
    pictures: bool = False


@dataclass(frozen=True)
class Plan:
    """A plan on the disk. count: pictures; root: the folder from which relative paths lead; white: of 16-bit pictures
    among them, see `data.depth`; common: the folder below which all are, "" where some are no files."""

    folder: Path
    settings: Settings
    count: int
    fingerprint: str
    root: str
    white: int | None = None
    common: str = ""

    @property
    def shard_size(self) -> int:
        return size_of_shards(self.settings, self.count)

    @property
    def shards(self) -> int:
        return -(-self.count // self.shard_size)

    def size_of(self, shard: int) -> int:
        """Pictures of a shard."""
        return min(self.shard_size, self.count - shard * self.shard_size)

    def pictures(self, shard: int) -> list[Picture]:
        """The pictures of a shard, in order."""
        names = self.folder / _pictures(self.fingerprint)
        with names.with_suffix(".index").open("rb") as index, names.open("rb") as lines:
            index.seek(shard * _OFFSET.size)
            lines.seek(_OFFSET.unpack(index.read(_OFFSET.size))[0])
            return [Picture(*json.loads(lines.readline())) for _ in range(self.size_of(shard))]

    def part(self, shard: int) -> Path:
        """The file with the rows of a shard."""
        return self.folder / f"part-{shard:05d}.jsonl"


def size_of_shards(settings: Settings, count: int) -> int:
    """Pictures of a shard where the settings do not say: some 64 shards, of whole batches, of 8 to 256 pictures."""
    if settings.shard_size is not None:
        return settings.shard_size
    batches = -(-max(8, min(256, -(-count // 64))) // settings.batch_size)
    return batches * settings.batch_size


def open_plan(folder: Path) -> Plan | None:
    """The plan of a job's folder; None where there is none. Raises: HeadwayError for one that is damaged."""
    path = folder / PLAN
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        settings = Settings(**content["settings"] | {"classes": tuple(content["settings"]["classes"])})
        found = (content[name] for name in ("pictures", "fingerprint", "root", "white"))
        return Plan(folder, settings, *found, content.get("common", ""))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise HeadwayError(f"{path} is damaged ({error!r}); name another --out, or remove the folder") from None


def make_plan(folder: Path, settings: Settings, pictures: Iterable[Listed], root: str | None = None) -> Plan:
    """The plan of a new job, or that of `folder` where it is the same one.

    root: from which relative paths lead; None: the current folder.
    Several processes may call it at once: they write the same, and the first one's plan stands.
    Raises: HeadwayError where the folder holds something else, or a job with other settings or other pictures;
        DataError where none of the pictures exists.
    """
    known = open_plan(folder)
    foreign = folder.exists() and not (folder.is_dir() and all(p.name.startswith(_OURS) for p in folder.iterdir()))
    if known is None and foreign:
        claim_folder(folder)  # refuses it
    if known is not None:
        try:
            _check_settings(known, settings)
        except HeadwayError:
            same = replace(settings, **{name: getattr(known.settings, name) for name in _MISTYPED})
            if same != replace(known.settings, model=settings.model) or any(folder.glob("part-*")):
                raise
            (folder / PLAN).unlink(missing_ok=True)  # nothing was done yet
            known = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HeadwayError(f"the folder {folder} cannot be made: {error.strerror}; name another --out") from None
    root = os.getcwd() if root is None else root
    with tempfile.TemporaryDirectory(dir=folder, prefix=".pictures-") as scratch:
        base = Path(scratch) / "pictures.jsonl"
        count, fingerprint, ends = _write_pictures(base, settings, pictures)
        if known is None:
            for suffix in (".jsonl", ".index"):
                os.replace(base.with_suffix(suffix), (folder / _pictures(fingerprint)).with_suffix(suffix))
            white = _white_of(folder / _pictures(fingerprint), root)
            plan = Plan(folder, settings, count, fingerprint, root, white, _common_folder(*ends, root))
            if _publish(plan):
                return plan
            known = open_plan(folder)
            assert known is not None
            _check_settings(known, settings)
    if known.fingerprint != fingerprint:
        what = (
            f"{known.count} pictures, and there are {count}"
            if known.count != count
            else "files of other names or sizes"
        )
        raise HeadwayError(f"{folder} was planned with {what}: name another --out for the pictures as they are now")
    return known


def _pictures(fingerprint: str) -> str:
    return f"pictures-{fingerprint[:12]}.jsonl"


def _check_settings(plan: Plan, settings: Settings) -> None:
    """Raises: HeadwayError for the first setting that differs."""
    for name, planned in asdict(plan.settings).items():
        given = getattr(settings, name)
        if name == "model":  # the hash tells whether it is another
            continue
        if planned != given:
            flag = f"--{name.replace('_', '-')}"
            differs = f"{flag} {planned}, got {given}"
            if name == "model_hash":
                differs = f"another model, {plan.settings.model} as it was then, got {settings.model} as it is now"
            raise HeadwayError(f"{plan.folder} is a job with {differs}: name another --out")


def _publish(plan: Plan) -> bool:
    """Write plan.json; False where another process was first."""
    content: dict[str, Any] = {"version": 1, "fingerprint": plan.fingerprint, "pictures": plan.count}
    content |= {"shards": plan.shards, "root": plan.root, "white": plan.white, "common": plan.common}
    content["settings"] = asdict(plan.settings)
    path = plan.folder / PLAN
    with tempfile.TemporaryDirectory(dir=plan.folder, prefix=".plan.json.") as scratch:
        whole = Path(scratch) / PLAN
        write_atomically(whole, (json.dumps(content, indent=1) + "\n").encode())
        try:
            os.link(whole, path)
        except FileExistsError:
            return False
        except OSError:  # a file system without links
            os.replace(whole, path)
    return True


def _write_pictures(base: Path, settings: Settings, pictures: Iterable[Listed]) -> tuple[int, str, tuple[str, str]]:
    """The sorted pictures and the index of their shards; (how many, fingerprint, the first and the last one)."""
    identity = {name: value for name, value in asdict(settings).items() if name != "model"}
    if not settings.pictures:
        del identity["pictures"]  # as of jobs that were planned before there was such a setting
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode())
    offset = known = 0
    first = last = ""
    with closing(sqlite3.connect(base.with_suffix(".db"), isolation_level=None)) as connection:
        count = _collect(connection, pictures)
        shard_size = size_of_shards(settings, count)
        with base.open("wb") as lines, base.with_suffix(".index").open("wb") as index:
            for number, picture in enumerate(_in_order(connection)):
                if number % shard_size == 0:
                    index.write(_OFFSET.pack(offset))
                line = json.dumps(picture).encode() + b"\n"
                first, last = first or picture.location, picture.location
                lines.write(line)
                digest.update(line)
                offset += len(line)
                known += picture.size is not None or is_url(picture.location)
            for stream in (lines, index):
                stream.flush()
                os.fsync(stream.fileno())
    if not known:
        raise DataError("none of the pictures exists; check the names in the list, and from which folder they lead")
    return count, digest.hexdigest(), (first, last)


def _collect(connection: sqlite3.Connection, pictures: Iterable[Listed]) -> int:
    """Put each picture into the database once; how many there are."""
    for pragma in ("journal_mode=OFF", "synchronous=OFF", "cache_size=-32000", "temp_store=FILE"):
        connection.execute(f"PRAGMA {pragma}")
    connection.execute("CREATE TABLE pictures (key BLOB PRIMARY KEY, size, id TEXT) WITHOUT ROWID")
    connection.execute("BEGIN")
    connection.executemany("INSERT OR IGNORE INTO pictures VALUES (?, ?, ?)", map(_row, pictures))
    return int(connection.execute("SELECT COUNT(*) FROM pictures").fetchone()[0])


def _in_order(connection: sqlite3.Connection) -> Iterator[Picture]:
    """By folders and names. An id that two pictures would share becomes the location, as `headway predict` has it."""
    connection.execute("CREATE TABLE often AS SELECT id FROM pictures GROUP BY id HAVING COUNT(*) > 1")
    connection.execute("CREATE UNIQUE INDEX of_often ON often (id)")
    query = "SELECT key, size, p.id, o.id IS NOT NULL FROM pictures p LEFT JOIN often o ON p.id = o.id ORDER BY key"
    for key, size, image_id, shared in connection.execute(query):
        location = os.fsdecode(key.replace(b"\0", b"/"))
        yield Picture(location, size, location if shared else json.loads(image_id))


def _row(picture: Listed) -> tuple[bytes, int | None, str]:
    """Folders sort before what lies beside them, as paths do."""
    location = picture.location
    image_id = image_id_of(location) if picture.id is None else picture.id
    try:
        key = os.fsencode(location)
    except UnicodeEncodeError:
        key = b"\0"
    if b"\0" in key:
        raise DataError(f"{location!a} cannot be the name of a file; correct it in the list of pictures")
    return key.replace(b"/", b"\0"), picture.size, json.dumps(image_id)


def _common_folder(first: str, last: str, root: str) -> str:
    """The folder below which all pictures are, by the first and the last one in order; "" where these are no files."""
    if is_url(first) or is_url(last):
        return ""
    return os.path.commonpath([os.path.dirname(os.path.join(root, location)) for location in (first, last)])


def _white_of(pictures: Path, root: str) -> int | None:
    """By the values of some 64 to 128 of the pictures whose files may have 16 bits, evenly taken, or all of fewer."""
    chosen: list[str] = []
    step = number = 0
    with pictures.open("rb") as lines:
        for line in lines:
            location = json.loads(line)[0]
            if not location.lower().endswith(DEEP_SUFFIXES) or is_url(location):
                continue
            if number % (1 << step) == 0:
                chosen.append(os.path.join(root, location))
            number += 1
            if len(chosen) == 2 * LOOKED_AT:
                chosen, step = chosen[::2], step + 1
    return white_of_files(chosen)
