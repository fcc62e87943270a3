"""`headway data split` and `stats` on a small COCO data set made here, in this process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from headway.cli import main


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """20 training, 6 validation and 4 test pictures with two boxes each; in training one box of each is a crowd."""
    folder = tmp_path / "photos"
    for split, count in (("train", 20), ("val", 6), ("test", 4)):
        (folder / split).mkdir(parents=True)
        images, annotations = [], []
        for i in range(1, count + 1):
            Image.new("RGB", (40, 30), (i, 0, 0)).save(folder / split / f"{split}{i}.png")
            images.append({"id": i, "file_name": f"{split}{i}.png", "width": 40, "height": 30})
            for k in (0, 1):
                annotations.append({
                    "id": 2 * i + k, "image_id": i, "category_id": 1, "bbox": [2 + 15 * k, 3, 10, 12], "area": 120,
                    "iscrowd": int(k and split == "train"),
                })  # fmt: skip
        content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cell"}]}
        (folder / split / "_annotations.coco.json").write_text(json.dumps(content))
    monkeypatch.chdir(tmp_path)
    return folder


def test_dividing_one_split_keeps_the_others(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Failed before: the test split was left behind, and the old val was replaced without a word."""
    assert main(["data", "split", "photos", "--split", "train", "--out", "out", "--json"]) == 0
    out, log = capsys.readouterr()
    counts = {name: split["images"] for name, split in json.loads(out)["splits"].items()}
    assert counts == {"train": 16, "val": 4, "test": 4}
    assert "the split 'val' there was, of 6 pictures, gives way to the new one of this name" in log


def test_the_table_and_the_picture_count_the_same_boxes(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Failed before: the table counted crowd regions as boxes, and the picture did not."""
    from headway.data.formats.any_format import open_splits
    from headway.data.stats import stats

    assert main(["data", "stats", "photos"]) == 0
    rows = {
        " ".join(words[:-3]): words[-3:] for line in capsys.readouterr().out.splitlines() if (words := line.split())
    }
    assert rows["pictures"] == ["20", "6", "4"]
    assert rows["boxes"] == rows["cell"] == ["20", "12", "8"]
    assert rows["crowd regions"] == ["20", "0", "0"]
    assert [str(stats(data)["boxes"]) for data in open_splits(photos).values()] == rows["boxes"]
