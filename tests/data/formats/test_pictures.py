"""What is drawn or written anew has pictures as its annotations say."""

import json
import shutil

import builders as make
import pytest
from PIL import Image

from headway.cli import main
from headway.data.formats.any_format import open_splits


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return make.coco(tmp_path / "in")


VERBS = [
    ["data", "convert", "in", "--to", "yolo"],
    ["data", "split", "in"],
    ["data", "stats", "in"],
    ["data", "augment", "in", "--input-size", "64", "96"],
]


@pytest.mark.parametrize("command", VERBS, ids=lambda command: command[1])
@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (
            lambda path: Image.new("RGB", (48, 64)).save(path),
            "b.jpg is 48x64, stated 64x48, so its boxes are not",
        ),
        (lambda path: path.write_bytes(b""), "b.jpg is empty (0 bytes)"),
    ],
    ids=["turned", "empty"],
)
def test_a_picture_of_another_size_or_none_is_refused_before_anything_is_written(
    folder, tmp_path, capsys, command, spoil, told
):
    spoil(folder / "train" / "b.jpg")
    assert main(command) == 1
    assert told in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_file_name_that_is_not_utf8_is_told(folder, capsys):
    name = b"caf\xe9.jpg".decode("utf-8", "surrogateescape")
    shutil.move(folder / "train" / "b.jpg", folder / "train" / name)
    file = folder / "annotations" / "train.json"
    content = json.loads(file.read_text())
    content["images"][1]["file_name"] = name
    file.write_text(json.dumps(content))
    assert main(["data", "convert", "in", "--to", "voc"]) == 1
    assert "the file name" in (told := capsys.readouterr().err)
    assert "café.jpg' is not UTF-8" in told


@pytest.mark.parametrize("format", ["coco", "voc", "yolo"])
def test_crowd_regions_that_a_format_cannot_mark_are_told(folder, capsys, format):
    file = folder / "annotations" / "train.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["iscrowd"] = 1
    file.write_text(json.dumps(content))
    assert main(["data", "convert", "in", "--to", format, "--out", "out"]) == 0
    assert ("1 crowd regions are left out" in capsys.readouterr().err) == (format != "coco")
    crowd = sum(int(record.crowd.sum()) for data in open_splits("out").values() for record in data.records)
    assert crowd == (format == "coco")
