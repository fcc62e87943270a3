"""What a plan holds: the pictures of every kind of source, each once, in one order, and what is refused later."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import fsspec
import pyarrow
import pyarrow.parquet
import pytest

from headway.errors import DataError, HeadwayError
from headway.jobs import Plan, Settings, make_plan, merge
from headway.jobs.plan import open_plan
from headway.jobs.runners import close_part, closing_line, missing_shards, shards_of
from headway.jobs.sources import Listed, list_pictures, read_bytes


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """in/b.jpg, in/a/x.png, in/a-b/x.png and files that are no pictures; the current folder is theirs."""
    monkeypatch.chdir(tmp_path)
    for name in ("in/b.jpg", "in/a/x.png", "in/a-b/x.png", "in/notes.txt", "in/a/.hidden", "in/7.JPG"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"12345")
    return tmp_path


EVERYTHING = ["in/7.JPG", "in/a/x.png", "in/a-b/x.png", "in/b.jpg"]  # as sorted(Path) has it


def planned(*sources: str, out: str = "job", **settings: object) -> list[tuple[str, int | None, int | str]]:
    plan = make_plan(Path(out), Settings(**settings), list_pictures(sources))
    return [tuple(picture) for shard in range(plan.shards) for picture in plan.pictures(shard)]


def test_a_folder_to_the_bottom_in_the_order_of_paths(desk: Path) -> None:
    """An id that two pictures would share is the location, as `headway predict` has it."""
    rows = planned("in", shard_size=3)
    assert [location for location, _, _ in rows] == EVERYTHING == [str(p) for p in sorted(map(Path, EVERYTHING))]
    assert {size for _, size, _ in rows} == {5}
    assert [image_id for _, _, image_id in rows] == [7, "in/a/x.png", "in/a-b/x.png", "b"]


def test_sources_that_overlap_give_each_picture_once(desk: Path) -> None:
    assert [location for location, _, _ in planned("in", "in/*.jpg", "in/**/x.png", "in/b.jpg")] == EVERYTHING


@pytest.mark.parametrize(
    ("pattern", "found"), [("in/*", ["in/7.JPG", "in/b.jpg"]), ("in/**/*.png", ["in/a/x.png", "in/a-b/x.png"])]
)
def test_patterns(desk: Path, pattern: str, found: list[str]) -> None:
    assert [location for location, _, _ in planned(pattern)] == found


def test_a_text_list_leads_from_here_or_from_its_own_folder(desk: Path) -> None:
    (desk / "in/list.txt").write_text("in/b.jpg\n\na/x.png\nmemory://far/y.png\nin/gone.jpg\n")
    assert planned("in/list.txt") == [
        ("in/a/x.png", 5, "x"), ("in/b.jpg", 5, "b"), ("in/gone.jpg", None, "gone"), ("memory://far/y.png", None, "y"),
    ]  # fmt: skip


def test_a_parquet_list_may_state_size_and_id(desk: Path) -> None:
    table = {"file_name": ["in/b.jpg", "memory://far/y.png"], "size": [5, 99], "image_id": [31, 30]}
    pyarrow.parquet.write_table(pyarrow.table(table), "list.parquet")
    assert planned("list.parquet") == [("in/b.jpg", 5, 31), ("memory://far/y.png", 99, 30)]
    pyarrow.parquet.write_table(pyarrow.table({"name": ["in/b.jpg"]}), "other.parquet")
    with pytest.raises(DataError, match=r"other.parquet has no column path, .*, but name"):
        planned("other.parquet", out="other")


def test_a_coco_file_gives_its_pictures_under_its_ids(desk: Path) -> None:
    images = [{"id": 31, "file_name": "b.jpg"}, {"id": 30, "file_name": "a/x.png"}]
    (desk / "annotations").mkdir()
    (desk / "annotations/in.json").write_text(json.dumps({"images": images, "annotations": [], "categories": []}))
    assert planned("annotations/in.json") == [("in/a/x.png", 5, 30), ("in/b.jpg", 5, 31)]
    (desk / "bad.json").write_text("{}")
    with pytest.raises(DataError, match=r"bad.json is no COCO file: expected a list 'images'"):
        planned("bad.json", out="bad")


def test_storage_by_folder_pattern_and_file(desk: Path) -> None:
    """fsspec's own memory, and a local folder by address; both are read through the same call as s3://."""
    memory = fsspec.filesystem("memory")
    for name in ("b.jpg", "a/x.png", "a/notes.txt"):
        memory.pipe_file(f"/far/{name}", b"123")
    try:
        expected = [("memory:///far/a/x.png", 3, "x"), ("memory:///far/b.jpg", 3, "b")]
        assert planned("memory://far") == expected
        assert planned("memory://far/*.jpg", out="pattern") == expected[1:]
        assert planned("memory://far/b.jpg", out="file") == [("memory://far/b.jpg", 3, "b")]
        assert read_bytes(planned("memory://far")[0][0]) == b"123"
        with pytest.raises(DataError, match=r"memory://far/gone.jpg does not exist"):
            read_bytes("memory://far/gone.jpg")
    finally:
        memory.rm("/far", recursive=True)
    local = planned(f"local://{desk}/in", out="local")
    assert [location.removeprefix(f"file://{desk}/") for location, _, _ in local] == EVERYTHING
    assert read_bytes(local[0][0]) == b"12345"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("gone", "there is no file or folder gone"),
        ("gone.txt", "there is no file or folder gone.txt"),
        ("clip.mp4", "clip.mp4 is no picture: a video"),
        ("empty", "empty holds no picture"),
        ("in/*.webp", "in/.*webp holds no picture"),
        ("nosuch://bucket/a", "nosuch://bucket/a cannot be listed: Protocol not known"),
    ],
)
def test_what_holds_no_picture_is_refused(desk: Path, source: str, message: str) -> None:
    (desk / "empty").mkdir()
    with pytest.raises(DataError, match=message):
        planned(source)
    assert not open_plan(desk / "job")


def test_the_same_job_is_opened_again_and_another_one_refused(desk: Path) -> None:
    settings = Settings(model="m", model_hash="1")
    first = make_plan(Path("job"), settings, list_pictures(["in"]))
    assert make_plan(Path("job"), replace(settings, model="elsewhere/m"), list_pictures(["in/*", "in"])) == first
    for change, message in (
        ({"threshold": 0.4}, "job is a job with --threshold 0.3, got 0.4: name another --out"),
        ({"model_hash": "2"}, "job is a job with another model, m as it was then, got m as it is now"),
        ({"classes": ("red",), "precision": "bf16"}, r"with --classes \(\), got \('red',\)"),
    ):
        with pytest.raises(HeadwayError, match=message):
            make_plan(Path("job"), replace(settings, **change), list_pictures(["in"]))
    (desk / "in/b.jpg").write_bytes(b"1234567")
    with pytest.raises(HeadwayError, match="job was planned with files of other names or sizes: name another --out"):
        make_plan(Path("job"), settings, list_pictures(["in"]))
    (desk / "in/b.jpg").unlink()
    with pytest.raises(HeadwayError, match="job was planned with 4 pictures, and there are 3: name another --out"):
        make_plan(Path("job"), settings, list_pictures(["in"]))


def test_a_folder_of_something_else_is_left_alone(desk: Path) -> None:
    with pytest.raises(HeadwayError, match="in exists and is not empty; nothing is overwritten"):
        planned("in", out="in")
    assert sorted(path.name for path in (desk / "in").iterdir()) == ["7.JPG", "a", "a-b", "b.jpg", "notes.txt"]


def test_a_folder_that_cannot_be_made_is_told(desk: Path) -> None:
    with pytest.raises(HeadwayError, match=r"in/b.jpg/job cannot be made: Not a directory; name another --out"):
        make_plan(Path("in/b.jpg/job"), Settings(), list_pictures(["in"]))


def test_a_list_of_nothing_that_exists_is_refused(desk: Path) -> None:
    (desk / "list.txt").write_text("gone/a.jpg\ngone/b.jpg\n")
    with pytest.raises(DataError, match="none of the pictures exists"):
        planned("list.txt")


def test_names_that_are_no_utf8_come_back(desk: Path) -> None:
    name = b"in/\xff.jpg"
    with open(name, "wb") as stream:
        stream.write(b"1")
    (row,) = [row for row in planned("in") if row[1] == 1]
    assert Path(row[0]).read_bytes() == b"1"


def test_shards_of_an_array() -> None:
    assert [*shards_of("1/3", 8)] == [0, 3, 6]
    assert [*shards_of("3/3", 8)] == [2, 5]
    assert sorted(n for k in range(1, 17) for n in shards_of(f"{k}/16", 100)) == [*range(100)]
    assert not [*shards_of("9/16", 4)]
    for text in ("0/3", "4/3", "3", "a/b", "1/0", "1/²"):
        with pytest.raises(HeadwayError, match=r"--shard is K/N with K in 1..N, as in 3/16"):
            shards_of(text, 8)


@pytest.mark.parametrize("damage", ["cut", "other", "empty", "gone"])
def test_a_part_that_is_not_whole_is_done_again(desk: Path, damage: str) -> None:
    plan = make_plan(Path("job"), Settings(), list_pictures(["in"]))
    assert missing_shards(plan) == [0]
    assert missing_shards(plan, shards_of("2/2", plan.shards)) == []  # an array of more entries than shards
    content = close_part(["{}"] * 4, plan.fingerprint, 0)
    plan.part(0).write_bytes(content)
    assert closing_line(plan, 0) == {"shard": 0, "done": 4, "failed": 0, "fingerprint": plan.fingerprint}
    if damage == "gone":
        plan.part(0).unlink()
    else:
        changed = {"cut": content[:-9], "other": close_part(["{}"], "another plan", 0), "empty": b""}[damage]
        plan.part(0).write_bytes(changed)
    assert missing_shards(plan) == [0]
    with pytest.raises(HeadwayError, match=r"job lacks 1 of 1 shards \(the first is 0\)"):
        merge(plan)


def test_a_merge_removes_what_killed_processes_left(desk: Path) -> None:
    """But not what somebody may be writing now, nor what is not a job's."""
    plan = make_plan(Path("job"), Settings(), list_pictures(["in"]))
    plan.part(0).write_bytes(close_part([text_of(p) for p in plan.pictures(0)], plan.fingerprint, 0))
    old = [".pictures-a/pictures.db", ".predictions.json.a.part", "pictures/00000/.1-a.jpg.b.part", ".mine"]
    new = [".pictures-b/pictures.db", ".predictions.json.b.part"]
    for name in old + new:
        path = plan.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for path in [plan.folder / name for name in [*old, ".pictures-a"]]:
        os.utime(path, (0, 0))
    merge(plan)
    assert [name for name in old + new if (plan.folder / name).exists()] == [".mine", *new]


def test_a_part_that_was_damaged_is_told(desk: Path) -> None:
    plan = make_plan(Path("job"), Settings(), list_pictures(["in"]))
    rows = ["{" if number == 0 else "{}" for number in range(plan.count)]
    plan.part(0).write_bytes(close_part(rows, plan.fingerprint, 0))
    with pytest.raises(HeadwayError, match=r"part-00000.jsonl is damaged in line 1: remove it, and run the job's"):
        merge(plan)


def test_lists_with_names_that_cannot_be_and_lists_of_powershell(desk: Path) -> None:
    Path("long.txt").write_text(f"in/b.jpg\n{'x' * 5000}.jpg\n")
    assert [(row[0][:8], row[1]) for row in planned("long.txt")] == [("in/b.jpg", 5), ("xxxxxxxx", None)]
    Path("wide.txt").write_text("in/b.jpg\n", encoding="utf-16")
    assert [row[0] for row in list_pictures(["wide.txt"])] == ["in/b.jpg"]
    Path("zero.txt").write_text("in\0b.jpg\n")
    with pytest.raises(DataError, match=r"'in\\x00b.jpg' cannot be the name of a file; correct it in the list"):
        planned("zero.txt", out="zero")
    with pytest.raises(DataError, match=r"the name of a source is empty"):
        planned("", out="none")


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ('[{"id": [1], "file_name": "a.jpg"}]', r"the id of a picture must be an integer or a text, got \[1\]"),
        ('[{"id": 1, "file_name": "\\ud800.jpg"}]', r"\\ud800.jpg' cannot be the name of a file"),
        ("[" * 100_000, r"odd.json is no COCO file"),
    ],
)
def test_a_coco_file_that_states_nonsense_is_refused(desk: Path, images: str, message: str) -> None:
    Path("odd.json").write_text(f'{{"images": {images}}}')
    with pytest.raises(DataError, match=message):
        make_plan(Path("job"), Settings(), list_pictures(["odd.json"]))


def test_a_parquet_list_of_pandas_may_lack_ids(desk: Path) -> None:
    table = {"path": ["in/a.jpg", "in/b.jpg"], "image_id": [7.0, float("nan")], "size": [10.0, float("nan")]}
    pyarrow.parquet.write_table(pyarrow.table(table), "list.parquet")
    assert [row[2] for row in list_pictures(["list.parquet"])] == [7, None]
    Path("junk.parquet").write_bytes(b"junk")
    with pytest.raises(DataError, match=r"junk.parquet is no Parquet file"):
        [*list_pictures(["junk.parquet"])]


def peak_of(count: int, out: Path) -> int:
    """Bytes of Python's at most while `count` pictures are planned, their parts read and merged."""

    def listed() -> Iterator[Listed]:
        for number in range(count):
            yield Listed(f"far/{number % 100:03d}/{number:08d}.jpg", 1000 + number)

    tracemalloc.start()
    plan = make_plan(out, Settings(shard_size=500), listed())
    for shard in range(plan.shards):
        plan.part(shard).write_bytes(close_part([text_of(p) for p in plan.pictures(shard)], plan.fingerprint, shard))
    assert merge(plan, parquet=True)["detections"] == count
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def text_of(picture: tuple[str, int | None, int | str]) -> str:
    detection = {"category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5, "category_name": "thing"}
    row = {"file_name": picture[0], "image_id": picture[2], "width": 9, "height": 9, "best": 0.5}
    return json.dumps(row | {"detections": [detection]})


def test_memory_does_not_grow_with_the_pictures(tmp_path: Path) -> None:
    """30,000 rows, held as objects, would take 30 MB; two groups of a table, the one that is written and the next, take
    7."""
    command = [sys.executable, __file__, "30000", str(tmp_path / "job")]  # away from what other tests have left
    peak = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert int(peak) < 12 * 2**20


def test_merges_at_once_disturb_none(desk: Path) -> None:
    """As of an array whose last tasks end together: each gives the whole result."""
    plan = make_plan(Path("job"), Settings(), list_pictures(["in"]))
    plan.part(0).write_bytes(close_part([text_of(picture) for picture in plan.pictures(0)], plan.fingerprint, 0))
    with ThreadPoolExecutor(4) as pool:
        summaries = [*pool.map(lambda _: merge(plan, parquet=True), range(8))]
    assert summaries == summaries[:1] * 8
    assert len(pyarrow.parquet.read_table(plan.folder / "predictions.parquet")) == 4
    assert not [path.name for path in plan.folder.iterdir() if path.name.startswith(".")]


def test_a_mistyped_option_does_not_bind_a_job_that_has_done_nothing(desk: Path) -> None:
    make_plan(Path("job"), Settings(classes=("RCB",)), list_pictures(["in"]))
    plan = make_plan(Path("job"), Settings(classes=("RBC",)), list_pictures(["in"]))
    assert plan.settings.classes == ("RBC",)
    plan.part(0).write_bytes(close_part(["{}"] * 4, plan.fingerprint, 0))
    with pytest.raises(HeadwayError, match="is a job with --classes"):
        make_plan(Path("job"), Settings(classes=("WBC",)), list_pictures(["in"]))


def test_what_cannot_be_a_job_is_told(desk: Path) -> None:
    with pytest.raises(HeadwayError, match=r"in/b\.jpg"):
        make_plan(Path("in/b.jpg"), Settings(), list_pictures(["in"]))
    pyarrow.parquet.write_table(pyarrow.table({"path": ["in/b.jpg", None]}), "list.parquet")
    with pytest.raises(DataError, match="column path must hold texts, got None"):
        [*list_pictures(["list.parquet"])]


def test_a_parquet_table_has_every_picture(desk: Path) -> None:
    plan: Plan = make_plan(Path("job"), Settings(), list_pictures(["in"]))
    rows = [text_of(picture) for picture in plan.pictures(0)]
    rows[1] = json.dumps(json.loads(rows[1]) | {"detections": []})
    rows[2] = json.dumps({"file_name": plan.pictures(0)[2].location, "image_id": 5, "error": "no picture"})
    plan.part(0).write_bytes(close_part(rows, plan.fingerprint, 0))
    merge(plan, parquet=True)
    table = pyarrow.parquet.read_table(plan.folder / "predictions.parquet").to_pylist()
    assert [row["file_name"] for row in table] == EVERYTHING
    assert [row["score"] for row in table] == [0.5, None, None, 0.5]
    assert [row["error"] for row in table] == [None, None, "no picture", None]
    assert [table[0][key] for key in ("x", "y", "w", "h", "image_id", "category_name")] == [1, 2, 3, 4, "7", "thing"]


if __name__ == "__main__":
    peak_of(100, Path(sys.argv[2] + "-small"))  # with what is imported
    print(peak_of(int(sys.argv[1]), Path(sys.argv[2])))
