"""The parts of a job -> predictions.json, failed.jsonl, summary.json, and predictions.parquet on request.

Parts are read line by line in the order of the plan, so that the result is the same whoever made them, and no larger in
memory for more of them.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..errors import HeadwayError
from ..files import open_atomically
from .plan import UNFINISHED_FOLDERS, Plan
from .runners import missing_shards
from .sources import need

_LEFT = 86400.0  # seconds after which nobody writes to what is not finished
_ROWS = 4_000  # of a Parquet row group
_AGAIN = "remove it, and run the job's command again"


def rows_of(plan: Plan) -> Iterator[dict[str, Any]]:
    """The row of each picture of the plan, in order.

    Raises: HeadwayError for a part that is damaged or of another length.
    """
    for shard in range(plan.shards):
        size = plan.size_of(shard)
        with plan.part(shard).open("rb") as lines:
            for number, line in enumerate(lines):
                if number == size:
                    continue
                try:
                    yield json.loads(line)
                except ValueError:
                    raise HeadwayError(f"{plan.part(shard)} is damaged in line {number + 1}: {_AGAIN}") from None
        if number != size:
            raise HeadwayError(f"{plan.part(shard)} holds {number} rows, expected {size}: {_AGAIN}")


def merge(
    plan: Plan, *, parquet: bool = False, progress: Callable[[int, int], None] = lambda done, total: None
) -> dict[str, Any]:
    """Write the results of a job whose parts are all there; the content of summary.json.

    Raises: HeadwayError while parts are missing, and without pyarrow for `parquet`.
    """
    if left := missing_shards(plan):
        raise HeadwayError(
            f"{plan.folder} lacks {len(left)} of {plan.shards} shards (the first is {left[0]}): run the job's command "
            "again, then merge"
        )
    summary: dict[str, Any] = {"pictures": plan.count, "failed": 0, "detections": 0, "best": 0.0}
    summary |= {"capped": 0, "cap": 0}
    tagged = False
    with (
        open_atomically(plan.folder / "predictions.json") as results,
        open_atomically(plan.folder / "failed.jsonl") as failed,
        open_atomically(plan.folder / "tags.json") as tags,
        _table(plan.folder / "predictions.parquet" if parquet else None) as table,
    ):
        between, between_tags = b"[", b"{"
        for number, row in enumerate(rows_of(plan), 1):
            if number % 1000 == 0 or number == plan.count:
                progress(number, plan.count)
            if table is not None:
                table.add(row)
            if "error" in row:
                failed.write(json.dumps(row).encode() + b"\n")
                summary["failed"] += 1
                continue
            for detection in coco_rows(row):
                results.write(between + b"\n" + json.dumps(detection).encode())
                between = b","
            summary["detections"] += len(row["detections"])
            if "capped" in row:
                summary |= {"capped": summary["capped"] + 1, "cap": len(row["detections"])}
            summary["best"] = max(summary["best"], row["best"])
            if "tags" in row:
                pair = f"{json.dumps(row['file_name'])}: {json.dumps(row['tags'])}"
                tags.write(between_tags + b"\n" + pair.encode())
                between_tags, tagged = b",", True
        results.write(b"\n]\n" if between == b"," else b"[]\n")
        tags.write(b"\n}\n")
    if not tagged:
        (plan.folder / "tags.json").unlink(missing_ok=True)  # another process may merge too
    with open_atomically(plan.folder / "summary.json") as stream:
        stream.write(json.dumps(summary | {"fingerprint": plan.fingerprint}, indent=1).encode() + b"\n")
    _remove_unfinished(plan.folder)
    return summary


def _remove_unfinished(folder: Path) -> None:
    """What processes that were killed left of plans, parts and results. A process that runs writes to its own."""
    before = time.time() - _LEFT
    for path in [*folder.glob(".*"), *folder.glob("pictures/*/.*.part")]:
        with suppress(OSError):
            if max(p.stat().st_mtime for p in [path, *path.glob("*")]) >= before:
                continue
            if path.name.startswith(UNFINISHED_FOLDERS):
                shutil.rmtree(path)
            elif path.suffix == ".part":
                path.unlink()


def coco_rows(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """COCO's results of a picture, with the keys of `headway predict`'s predictions.json."""
    for d in row["detections"]:
        yield {
            "image_id": row["image_id"], "category_id": d["category_id"], "bbox": d["bbox"], "score": d["score"],
            "file_name": row["file_name"], "category_name": d["category_name"],
        }  # fmt: skip


class _Table:
    """predictions.parquet, a row a detection. A picture without any, and one that failed, has a row
    with nothing in the other columns."""

    def __init__(self, writer: Any, schema: Any) -> None:
        self._writer, self._schema = writer, schema
        self._rows: list[dict[str, Any]] = []

    def add(self, row: dict[str, Any]) -> None:
        base = {key: row.get(key) for key in ("file_name", "width", "height", "error")}
        base["image_id"] = str(row["image_id"])
        for d in row.get("detections") or [None]:
            box = dict(zip("xywh", d["bbox"])) if d else {}
            self._rows.append(base | box | {key: d and d[key] for key in ("category_id", "category_name", "score")})
        if len(self._rows) >= _ROWS:
            self.flush()

    def flush(self) -> None:
        import pyarrow

        if self._rows:
            self._writer.write_table(pyarrow.Table.from_pylist(self._rows, schema=self._schema))
        self._rows = []


@contextmanager
def _table(path: Path | None) -> Iterator[_Table | None]:
    """The table that `path` becomes when all of it is written; None without a path. Raises: HeadwayError."""
    if path is None:
        yield None
        return
    need("pyarrow.parquet", "--parquet", "parquet")
    import pyarrow.parquet

    text, number, real = pyarrow.string(), pyarrow.int64(), pyarrow.float64()
    schema = pyarrow.schema({
        "file_name": text, "image_id": text, "width": number, "height": number, "category_id": number,
        "category_name": text, "x": real, "y": real, "w": real, "h": real, "score": real, "error": text,
    })  # fmt: skip
    with open_atomically(path) as stream, pyarrow.parquet.ParquetWriter(stream, schema) as writer:
        table = _Table(writer, schema)
        yield table
        table.flush()
