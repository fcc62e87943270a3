"""Records in arrays: the same answers as those of objects, and arrays that workers share."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headway.data.columns import Columns, Store, by_picture, names_of
from headway.data.dataset import DetectionData, Record
from headway.data.prepared import DetectionDataset
from headway.data.sampler import GroupedBatchSampler
from headway.train.check import share_of_small
from headway.train.state import describe_data
from headway.train.suggest import suggest


def columns(pictures: int = 9, boxes: int = 20) -> Columns:
    random = np.random.default_rng(0)
    corners = random.uniform(0, 40, (boxes, 4)).astype(np.float32)
    corners[:, 2:] += corners[:, :2] + 1
    values = {
        "boxes": corners, "labels": random.integers(0, 3, boxes).astype(np.int32), "crowd": random.random(boxes) < 0.2,
        "areas": random.uniform(1, 9, boxes).astype(np.float32),
    }  # fmt: skip
    arrays = {
        "ids": np.arange(pictures) * 7 + 1, "sizes": random.integers(80, 120, (pictures, 2)).astype(np.int32),
        **names_of(f"{i:03d} ü.{'png' if i % 3 == 2 else 'jpg'}" for i in range(pictures)),
        **by_picture(random.integers(0, pictures - 1, boxes), pictures, {name: [v] for name, v in values.items()}),
    }  # fmt: skip
    return Columns(Path("folder"), Store(arrays))


def data(records: Any) -> DetectionData:
    return DetectionData("train", Path("folder"), "coco", records, ("a", "b", "c"), (1, 2, 3))


@pytest.mark.parametrize("rows", [None, [4, 1, 8, 8], []])
def test_arrays_answer_as_the_records_do(rows: list[int] | None) -> None:
    """As they are; and a part of them in another order."""
    mine = data(columns()) if rows is None else data(columns()).subset(rows, "train")
    theirs = data([*mine.records])
    assert isinstance(mine.records, Columns)
    for name in ("num_boxes", "num_crowd", "most_boxes", "in_memory"):
        assert getattr(mine, name) == getattr(theirs, name), name
    np.testing.assert_array_equal(mine.box_counts(), theirs.box_counts())
    for name in ("boxes", "labels", "crowd", "areas"):
        np.testing.assert_array_equal(mine.of_boxes(name), theirs.of_boxes(name), name)
    assert describe_data(mine) == describe_data(theirs)
    if rows != []:
        assert share_of_small(mine, (32, 32)) == share_of_small(theirs, (32, 32))
        assert suggest(mine) == suggest(theirs)
        assert GroupedBatchSampler(mine, 2).global_batches() == GroupedBatchSampler(theirs, 2).global_batches()


def test_sixteen_bit_files_are_looked_for_by_name() -> None:
    found = columns()
    assert [path.name for path in found.deep_paths()] == ["002 ü.png", "005 ü.png", "008 ü.png"]
    assert [path.name for path in found.take([8, 0, 2]).deep_paths()] == ["008 ü.png", "002 ü.png"]
    assert found.take([0, 1]).deep_paths() == []


def test_numbers_of_boxes_are_their_own() -> None:
    part = columns().take([3, 0, 5])
    taken = [number for i in range(3) for number in range(part.first_box(i), part.first_box(i) + len(part[i].boxes))]
    assert len({*taken}) == len(taken) == part.box_counts.sum()


def _about(dataset: DetectionDataset, pipe: Any) -> None:
    """What a worker has, and how large the process's own, unshared memory is."""
    rollup = Path("/proc/self/smaps_rollup")
    lines = rollup.read_text().splitlines() if rollup.exists() else []
    private = sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty"))
    record: Record = dataset.data.records[1]
    pipe.send((record.image_id, record.boxes.tolist(), record.path, private))
    pipe.close()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_worker_gets_no_copy(method: str) -> None:
    """Two million boxes are 58 MB. A process with them has less than 20 MB more of its own than one with twenty."""
    private = []
    for boxes in (20, 2_000_000):
        dataset = DetectionDataset(data(columns(1000, boxes)), transform=_keep)
        context = multiprocessing.get_context(method)
        pipe, other = context.Pipe(duplex=False)
        worker = context.Process(target=_about, args=(dataset, other))
        worker.start()
        image_id, corners, path, own = pipe.recv()
        worker.join()
        private.append(own)
        record = dataset.data.records[1]
        assert (image_id, corners, path) == (record.image_id, record.boxes.tolist(), record.path)
        if method == "spawn":
            assert len(pickle.dumps(dataset)) < 5_000
    if private[0]:
        assert private[1] - private[0] < 20_000


def _keep(image: Any, target: Any) -> Any:
    return image, target


def test_the_file_goes_with_the_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    found = columns()
    boxes = found[3].boxes.tolist()
    other = pickle.loads(pickle.dumps(found))
    assert len([*tmp_path.iterdir()]) == 1
    assert other[3].boxes.tolist() == found[3].boxes.tolist() == boxes
    assert pickle.loads(pickle.dumps(other))[8].image_id == found[8].image_id
    assert len([*tmp_path.iterdir()]) == 1
    child = os.fork()
    if child == 0:
        del found, other
        os._exit(0)
    os.waitpid(child, 0)
    assert len([*tmp_path.iterdir()]) == 1
    del found
    assert not [*tmp_path.iterdir()]
    assert other[3].boxes.tolist() == boxes


def test_where_no_file_can_be_written_there_is_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    found = columns()
    assert pickle.loads(pickle.dumps(found))[3].boxes.tolist() == found[3].boxes.tolist()
    assert "each worker gets a copy of the annotations" in caplog.text
