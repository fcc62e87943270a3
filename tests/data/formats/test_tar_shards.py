"""Tar shards of pictures and boxes: the batches of the same pictures in files, and what is refused."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import builders as make
import numpy as np
import pytest
import torch
from PIL import Image

from headway.data.columns import Columns
from headway.data.formats.any_format import find_dataset, open_dataset, open_splits, write_dataset
from headway.data.formats.check import check
from headway.data.formats.fix import fix
from headway.data.loader import make_loader
from headway.data.open_data import open_data
from headway.errors import DataError
from headway.types import ModelCard

CARD = ModelCard(input_size=(48, 64), class_names=("cat", "dog"), pad_multiple=16)


def jpeg(number: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", make.SIZE, (40 * number % 256, 255 - 7 * number % 256, 90)).save(stream, "JPEG")
    return stream.getvalue()


def entries(boxes: Any, key: str = "category_id") -> list[dict[str, Any]]:
    """Annotations as a shard's JSON has them."""
    value = (lambda label: label + 1) if key == "category_id" else (lambda label: make.NAMES[label])
    return [{"bbox": [x, y, x2 - x, y2 - y], key: value(label)} for (x, y, x2, y2), label in boxes]


def write(path: Path, members: dict[str, bytes | str | list[Any] | dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, value in members.items():
            content = (
                value if isinstance(value, bytes) else (value if isinstance(value, str) else json.dumps(value)).encode()
            )
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def truth_members(form: str) -> list[dict[str, Any]]:
    """The three pictures of `builders`, two in the first shard."""
    pictures: list[dict[str, Any]] = []
    for number, (name, boxes) in enumerate(make.TRUTH.items()):
        key = name.removesuffix(".jpg")
        text: Any = (
            make.rows(boxes) if form == "txt" else entries(boxes, "category_id" if form == "json" else "category")
        )
        if form == "json" and number == 0:
            text = {"annotations": text, "width": make.SIZE[0], "height": make.SIZE[1]}
        pictures.append({f"{key}.jpg": jpeg(number), f"{key}.{'txt' if form == 'txt' else 'json'}": text})
    return [pictures[0] | pictures[1], pictures[2]]


def shards(folder: Path, form: str = "json", names: tuple[str, str] = ("000.tar", "001.tar")) -> Path:
    for name, members in zip(names, truth_members(form)):
        write(folder / name, members)
    if form == "json":
        make.dump(folder / "categories.json", [{"id": 2, "name": "dog"}, {"id": 1, "name": "cat"}])
    elif form == "txt":
        (folder / "classes.txt").write_text("cat\ndog\n")
    return folder


@pytest.mark.parametrize("form", ["json", "names", "txt"])
def test_every_form_of_boxes_gives_the_same_records(tmp_path: Path, form: str) -> None:
    folder = shards(tmp_path / "set", form)
    data = open_dataset(folder)
    assert (data.name, data.format, data.class_names, data.category_ids) == ("all", "tar", ("cat", "dog"), (1, 2))
    assert make.truth(data) == make.EXPECTED
    assert [str(record.path.relative_to(folder)) for record in data.records] == [
        "000.tar/a.jpg",
        "000.tar/b.jpg",
        "001.tar/c.jpg",
    ]
    assert [record.image_id for record in data.records] == [1, 2, 3]
    assert {record.size for record in data.records} == {make.SIZE[::-1]}
    assert not [path for path in folder.rglob("*") if path.suffix == ".jpg"]


@pytest.mark.parametrize("cache", ["none", "ram"])
def test_batches_are_those_of_the_same_pictures_in_files(tmp_path: Path, cache: str) -> None:
    """Augmented by the preset, so that random numbers have to agree too; and by workers of both kinds."""
    packed = open_data(shards(tmp_path / "set"))["all"]
    write_dataset(packed, tmp_path / "files", "coco")
    files = open_data(tmp_path / "files")["all"]
    assert isinstance(packed.records, Columns)
    options: dict[str, Any] = {"batch_size": 3, "train": True, "seed": 3, "cache": cache}
    expected = next(iter(make_loader(files, CARD, **options)))
    for workers, method in ((0, None), (1, "fork"), (1, "spawn")) if cache == "none" else ((0, None),):
        batch = next(iter(make_loader(packed, CARD, workers=workers, start_method=method, **options)))
        assert torch.equal(batch.images, expected.images)
        for mine, theirs in zip(batch.targets, expected.targets):
            assert torch.equal(mine.boxes, theirs.boxes)
            assert torch.equal(mine.labels, theirs.labels)


def test_patterns_single_shards_and_splits(tmp_path: Path) -> None:
    folder = shards(tmp_path / "set")
    assert make.truth(open_splits(f"{folder}/{{000..001}}.tar")["all"]) == make.EXPECTED
    assert make.truth(open_splits(f"{folder}/{{000,001}}.tar")["all"]) == make.EXPECTED
    assert make.truth(open_splits(f"{folder}/*.tar")["all"]) == make.EXPECTED
    assert len(open_splits(folder / "000.tar")["all"]) == 2
    named = shards(tmp_path / "named", names=("train-000.tar", "val-000.tar"))
    assert {name: len(data) for name, data in open_splits(named).items()} == {"train": 2, "val": 1}
    below = shards(tmp_path / "below", names=("train/0.tar", "val/0.tar"))
    assert {name: len(data) for name, data in open_splits(below).items()} == {"train": 2, "val": 1}
    assert open_dataset(below, split="val").class_names == ("cat", "dog")


def test_archives_beside_a_data_set_are_left_alone(tmp_path: Path) -> None:
    """As the downloaded tar file beside what was unpacked from it."""
    write(make.coco(tmp_path / "set") / "download.tar", {"a.jpg": jpeg(0)})
    assert find_dataset(tmp_path / "set").format == "coco"


BOX = {"bbox": [1, 2, 3, 4]}
OK: dict[str, Any] = {"a.jpg": jpeg(0), "a.json": entries(make.TRUTH["a.jpg"])}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no boxes": ({"b.jpg": jpeg(1)}, "no boxes among .jpg; expected KEY.json or KEY.txt"),
    "a class alone": ({"b.jpg": jpeg(1), "b.cls": "3"}, "no boxes among .jpg, .cls (.cls is one class of a"),
    "another form": ({"b.jpg": jpeg(1), "b.xml": "<a/>"}, "no boxes among .jpg, .xml; expected KEY.json or KEY.txt"),
    "both forms": ({"b.jpg": jpeg(1), "b.json": [], "b.txt": ""}, "boxes both in .json and .txt; leave one out"),
    "no picture": ({"b.json": []}, "no picture among .json; expected one, as KEY.jpg"),
    "two pictures": ({"b.jpg": jpeg(1), "b.png": jpeg(2), "b.json": []}, "2 pictures among .jpg, .png, .json"),
    "a dot in the key": ({"b.1.jpg": jpeg(1), "b.1.json": []}, "no picture among .1.jpg, .1.json; expected one"),
    "no JSON": ({"b.jpg": jpeg(1), "b.json": "{"}, "000.tar, b.json: no JSON"),
    "another JSON": ({"b.jpg": jpeg(1), "b.json": {"boxes": []}}, "as \"annotations\", got an object with 'boxes'"),
    "no list": ({"b.jpg": jpeg(1), "b.json": 7}, "got int"),
    "deep JSON": ({"b.jpg": jpeg(1), "b.json": "[" * 100_000}, "000.tar, b.json: no JSON"),
    "an unknown class": ({"b.jpg": jpeg(1), "b.json": [BOX | {"category_id": 9}]}, "category_id 9; categories.json"),
    "an unknown name": ({"b.jpg": jpeg(1), "b.json": [BOX | {"category": "cow"}]}, "category 'cow'; categories.json"),
    "a bad row": ({"b.jpg": jpeg(1), "b.txt": "0 0.5 0.5 0.1"}, "000.tar, b.txt, line 1: '0 0.5 0.5 0.1': expected"),
    "a class number": ({"b.jpg": jpeg(1), "b.txt": "7 0.5 0.5 0.1 0.1"}, "class 7; categories.json: cat, dog"),
    "no picture at all": ({"b.jpg": b"no picture", "b.json": []}, "b.jpg is not a picture, or its header is damaged"),
    "an empty picture": ({"b.jpg": b"", "b.json": []}, "b.jpg"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_a_shard_must_not_hold_is_refused_with_its_place(tmp_path: Path, kind: str) -> None:
    members, message = REFUSED[kind]
    make.dump(tmp_path / "set/categories.json", {"categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]})
    write(tmp_path / "set/000.tar", OK | members)
    with pytest.raises(DataError) as error:
        open_splits(tmp_path / "set")
    assert message in str(error.value), str(error.value)
    assert "\n" not in str(error.value)


SETS: dict[str, tuple[Callable[[Path], object], str]] = {
    "an id without names": (lambda p: write(p / "0.tar", OK), "category_id 1; no categories.json or classes.txt"),
    "compressed": (lambda p: make.dump(p / "0.tar.gz", {}), "0.tar.gz is compressed"),
    "no pictures": (lambda p: write(p / "0.tar", {"a.txt.bak": "x"}), "no picture among .txt.bak"),
    "an empty shard": (lambda p: write(p / "0.tar", {}), "no box in any shard"),
    "a file twice": (lambda p: (write(p / "0.tar", OK), _twice(p / "0.tar")), "holds 'a.jpg' twice"),
    "splits in part": (
        lambda p: (write(p / "train-0.tar", OK), write(p / "1.tar", OK)),
        "train-0.tar is of the split 'train', and 1.tar names none",
    ),
    "bad classes": (
        lambda p: (write(p / "0.tar", OK), make.dump(p / "categories.json", [{"id": 1}])),
        'must be a list of classes, as [{"id": 1, "name": "cat"}]',
    ),
    "a class twice": (
        lambda p: (write(p / "0.tar", OK), (p / "classes.txt").write_text("cat\ncat\n")),
        "must name each class once",
    ),
}  # fmt: skip


def _twice(path: Path) -> None:
    with tarfile.open(path, "a") as tar:
        info = tarfile.TarInfo("a.jpg")
        tar.addfile(info, io.BytesIO(b""))


@pytest.mark.parametrize("kind", SETS)
def test_shards_that_cannot_be_read_as_a_set_are_refused(tmp_path: Path, kind: str) -> None:
    build, message = SETS[kind]
    build(tmp_path / "set")
    with pytest.raises(DataError) as error:
        open_splits(tmp_path / "set")
    assert message in str(error.value), str(error.value)


def test_missing_shards_of_a_pattern_are_told(tmp_path: Path) -> None:
    folder = shards(tmp_path / "set")
    with pytest.raises(DataError, match=r"002.tar does not exist \(8 of 10 shards are missing\)"):
        open_splits(f"{folder}/{{000..009}}.tar")
    with pytest.raises(DataError, match="means 10,000,001 shards; expected at most 1,000,000"):
        open_splits(f"{folder}/{{0..10000000}}.tar")


def test_unusable_boxes_are_left_out_with_a_note_and_many_refused(tmp_path: Path) -> None:
    """One of twelve boxes is empty; then two of three."""
    good = [{"bbox": [i, 2, 3 + i, 4], "category": "cat"} for i in range(11)]
    bad = {"bbox": [1, 2, 0, 4], "category": "cat"}
    write(tmp_path / "set/0.tar", OK | {"a.json": [*good, bad]})
    data = open_dataset(tmp_path / "set")
    assert data.num_boxes == 11
    assert data.notes == ["1 x box of zero area, first in 0.tar, a, annotation 12"]
    write(tmp_path / "lost/0.tar", OK | {"a.json": [good[0], bad, bad]})
    with pytest.raises(DataError, match=r"2 of 3 boxes .* box of zero area, first in 0.tar, a, annotation 2"):
        open_dataset(tmp_path / "lost")


def test_check_reads_shards_and_names_every_fault(tmp_path: Path) -> None:
    folder = shards(tmp_path / "set")
    report = check(folder)
    assert report.ok
    assert (report.format, report.class_names) == ("tar", ("cat", "dog"))
    assert report.splits == {"all": {"images": 3, "boxes": 3, "without_boxes": 1, "crowd": 0}}
    cut = jpeg(5)[:-200]
    faults = {"x.jpg": cut, "x.json": entries([((1, 2, 30, 40), 0)]), "y.jpg": jpeg(6), "z.jpg": b"", "z.json": []}
    faults |= {"v.jpg": jpeg(0), "v.json": {"annotations": [], "width": 640, "height": 480}}
    write(folder / "002.tar", faults)
    (folder / "003.tar").write_bytes(b"no tar")
    kinds = check(folder).by_kind()
    assert {"broken_image", "unreadable_annotation", "empty_image", "wrong_size", "duplicate_image"} <= kinds.keys()
    assert kinds["broken_image"][0].where == "all: 002.tar, x"
    with pytest.raises(DataError, match="is tar shards, which are not mended: headway data convert --to coco"):
        fix(folder, tmp_path / "out")


@pytest.mark.parametrize("form", ["coco", "voc", "yolo"])
def test_shards_can_be_written_as_files(tmp_path: Path, form: str) -> None:
    write_dataset(open_splits(shards(tmp_path / "set")), tmp_path / "files", form)
    written = next(iter(open_splits(tmp_path / "files").values()))
    assert make.truth(written) == make.EXPECTED
    a = next(record for record in written.records if record.path.name == "a.jpg")
    assert a.path.read_bytes() == jpeg(0)
    assert np.array_equal(a.read().numpy(), open_dataset(tmp_path / "set").records[0].read().numpy())
