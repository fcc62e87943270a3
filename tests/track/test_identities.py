"""Identities of a data set's videos, from the file to what a batch learns from."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from headway.data.augment.resize import eval_transform
from headway.data.formats.any_format import open_splits, write_dataset
from headway.data.prepared import DetectionDataset


@pytest.fixture
def videos(tmp_path):
    """Two videos of three frames; in each an object 1, in the first an object 2 in its last two frames, and a box of no
    object."""
    content = {"videos": [{"id": v, "name": f"v{v}"} for v in (1, 2)], "images": [], "annotations": [],
               "categories": [{"id": 1, "name": "thing"}]}  # fmt: skip
    (tmp_path / "all").mkdir()
    for video in (1, 2):
        for frame in range(3):
            image = len(content["images"]) + 1
            name = f"v{video}_{frame}.png"
            Image.fromarray(np.full((40, 60, 3), 40 * image, np.uint8)).save(tmp_path / "all" / name)
            content["images"].append({"id": image, "file_name": name, "width": 60, "height": 40, "video_id": video,
                                      "frame_id": frame})  # fmt: skip
            objects = [1] + [2] * (video == 1 and frame > 0) + [None] * (video == 1 and frame == 0)
            for i, track in enumerate(objects):
                entry = {"id": len(content["annotations"]) + 1, "image_id": image, "category_id": 1,
                         "bbox": [5 + 20 * i + frame, 10, 10, 12], "area": 120, "iscrowd": 0}  # fmt: skip
                content["annotations"].append(entry | ({} if track is None else {"track_id": track}))
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "all.json").write_text(json.dumps(content))
    return tmp_path


def test_one_object_has_one_number(videos):
    ids = [record.ids.tolist() for record in open_splits(videos)["all"].records]
    assert [len(row) for row in ids] == [2, 2, 2, 1, 1, 1]
    assert ids[0][0] == ids[1][0] == ids[2][0]
    assert ids[1][1] == ids[2][1]
    assert ids[3] == ids[4] == ids[5]
    assert len({number for row in ids for number in row}) == 4  # object 1 of the second video is another one


def test_a_rewritten_data_set_keeps_them(videos, tmp_path):
    write_dataset(open_splits(videos), tmp_path / "copy", "coco")
    first, second = (open_splits(folder)["all"].records for folder in (videos, tmp_path / "copy"))
    assert [record.ids.tolist() for record in first] == [record.ids.tolist() for record in second]


def test_a_further_view_is_another_frame_with_an_object_of_the_first(videos):
    data = open_splits(videos)["all"]
    dataset = DetectionDataset(data, eval_transform((40, 60)))
    for index in range(6):
        first = dataset[(0, index, 0)]
        assert first.meta.image_id == index + 1
        seen = set()
        for epoch in range(12):
            other = dataset[(epoch, index, 1)]
            if set(first.target.ids.tolist()) & set(other.target.ids.tolist()):
                seen.add(other.meta.image_id)
        expected = {1, 2, 3} if index < 3 else {4, 5, 6}
        assert seen - {index + 1} == expected - {index + 1}
    again = DetectionDataset(data, eval_transform((40, 60)))[(3, 1, 1)]
    assert torch.equal(again.image, dataset[(3, 1, 1)].image)  # fixed by seed, epoch, index and view


def test_without_identities_every_box_is_its_own(videos):
    file = videos / "annotations" / "all.json"
    content = json.loads(file.read_text())
    for entry in content["annotations"]:
        entry.pop("track_id", None)
    file.write_text(json.dumps(content))
    data = open_splits(videos)["all"]
    assert all(record.ids is None for record in data.records)
    dataset = DetectionDataset(data, eval_transform((40, 60)))
    assert [dataset[(0, 4, view)].target.ids.tolist() for view in (0, 1)] == [[7], [7]]
