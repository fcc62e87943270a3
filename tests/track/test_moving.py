"""The generator of videos with identities, benchmarks/moving.py, on pictures made here."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from headway.data.formats.any_format import open_splits
from headway.track.formats import read_tracks

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "moving.py"
spec = importlib.util.spec_from_file_location("moving", SCRIPT)
moving = sys.modules["moving"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(moving)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Three pictures with two hexagons each, as a COCO file with polygons."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        (folder / split).mkdir()
        (folder / "annotations").mkdir(exist_ok=True)
        content = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "thing"}]}
        for image in range(1, 4):
            pixels = rng.integers(0, 256, (12, 16, 3), np.uint8).repeat(15, 0).repeat(15, 1)
            Image.fromarray(pixels).save(folder / split / f"{image}.jpg")
            content["images"].append({"id": image, "file_name": f"{image}.jpg", "width": 240, "height": 180})
            for x in (10, 130):
                polygon = [x + 20, 20, x + 60, 20, x + 80, 70, x + 60, 120, x + 20, 120, x, 70]
                content["annotations"].append({
                    "id": 2 * image + (x > 10), "image_id": image, "category_id": 1, "iscrowd": 0, "area": 6000,
                    "bbox": [x, 20, 80, 100], "segmentation": [polygon],
                })  # fmt: skip
        (folder / "annotations" / f"{split}.json").write_text(json.dumps(content))
    return folder


def write(photos, out):
    moving.write_split(photos, out, "val", clips=3, frames=24, seed=0)
    return out


def test_the_same_files_in_every_run(photos, tmp_path):
    first, second = write(photos, tmp_path / "a"), write(photos, tmp_path / "b")
    names = sorted(path.relative_to(first) for path in first.rglob("*.*"))
    assert len(names) == 3 * 24 + 3 + 1
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in names)


def test_what_is_annotated_is_what_is_seen(photos, tmp_path):
    out = write(photos, tmp_path / "a")
    content = json.loads((out / "annotations" / "val.json").read_text())
    assert [video["kind"] for video in content["videos"]] == ["cross", "turn", "free"]
    for entry in content["annotations"]:
        x, y, width, height = entry["bbox"]
        assert 0 <= x < x + width <= 256
        assert 0 <= y < y + height <= 192
        assert 0.25 <= entry["visibility"] <= 1
    frame_of = {image["id"]: image["frame_id"] for image in content["images"]}
    place = {(e["video_id"], e["track_id"], frame_of[e["image_id"]]): e["bbox"][0] for e in content["annotations"]}
    for video in (1, 2):  # objects 1 and 2 are those that meet
        assert {(video, t, f) in place for t in (1, 2) for f in (0, 23)} == {True}
        assert not any((video, t, f) in place for t in (1, 2) for f in (11, 12)), "hidden in the middle"
        began, ended = (place[video, 1, f] < place[video, 2, f] for f in (0, 23))
        assert (began == ended) == (video == 2), "they walk on in the first clip and turn in the second"


def test_the_library_reads_it(photos, tmp_path):
    out = write(photos, tmp_path / "a")
    data = open_splits(out / "annotations" / "val.json")["val"]
    videos, names = read_tracks(out / "annotations" / "val.json")
    assert names == data.class_names == ("object",)
    assert [len(tracks) for tracks in videos.values()] == [
        len(read_tracks(out / "mot" / f"{name}.txt")[0][""]) for name in videos
    ]
    shown = {int(number) for record in data.records for number in record.ids}
    assert len(shown) == sum(len({*tracks.ids.tolist()}) for tracks in videos.values())
