"""What was found in one picture: items, filters, mapping back to the picture, and the forms of other tools."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from headway.errors import HeadwayError
from headway.types import Detection, Detections, Meta


@pytest.fixture
def detections() -> Detections:
    return Detections(
        boxes=torch.tensor([[10.0, 20, 30, 60], [0, 0, 5, 5], [50, 50, 70, 80]]),
        scores=torch.tensor([0.9, 0.5, 0.25]),
        labels=torch.tensor([1, 0, 2]),
        names=("cat", "dog"),
        extras={"row": torch.tensor([7, 8, 9])},
    )


@pytest.mark.parametrize("index", [0, 2, -1, np.int64(1), torch.tensor(2)])
def test_an_integer_gives_one_detection(detections, index):
    """Failed before: `found[0]` was a Detections of length one, and iterating gave tuples without the label."""
    one = detections[index]
    assert isinstance(one, Detection)
    assert one == list(detections)[int(index)]


def test_iterating_gives_detections_and_numbers_the_nameless(detections):
    assert list(detections) == [
        ((10, 20, 30, 60), pytest.approx(0.9), 1, "dog"),
        ((0, 0, 5, 5), 0.5, 0, "cat"),
        ((50, 50, 70, 80), 0.25, 2, "2"),
    ]
    assert [d.name for d in detections[1:]] == ["cat", "2"]


def test_filters(detections):
    assert [d.name for d in detections[detections.scores > 0.4]] == ["dog", "cat"]
    assert [d.name for d in detections.filter(threshold=0.4)] == ["dog", "cat"]
    assert [d.name for d in detections.filter(threshold=0.25)] == ["dog", "cat"]  # exclusive
    assert [d.name for d in detections.filter(classes=["cat", 2])] == ["cat", "2"]
    assert [d.name for d in detections.filter(threshold=0.6, classes=[0, 1])] == ["dog"]
    assert detections.filter(classes=[0]).extras["row"].tolist() == [8]
    assert len(detections.filter(classes=[])) == 0


@pytest.mark.parametrize(
    ("classes", "message"),
    [(["dgo"], "there is no class 'dgo'; did you mean dog"), ("dog", r"classes is a list.*write \['dog'\]")],
)
def test_unknown_classes_are_refused(detections, classes, message):
    with pytest.raises(HeadwayError, match=message):
        detections.filter(classes=classes)


def test_repr_is_one_short_line(detections):
    assert repr(detections) == "<3 detections (1 dog, 1 cat, 1 2), best 0.90>"
    detections.source = "a.jpg"
    assert repr(detections[:0]) == "<no detections in a.jpg>"
    assert repr(detections[:1]) == "<1 detection in a.jpg (1 dog), best 0.90>"


def test_to_yolo_is_centre_and_size_in_shares_of_the_picture(detections):
    """Of 100 x 200 (height x width): centre (20, 40) is 0.1 and 0.4, size (20, 40) is 0.1 and 0.4."""
    detections.size = (100, 200)
    first, second, _ = detections.to_yolo().splitlines()
    assert first == "1 0.100000 0.400000 0.100000 0.400000 0.900000"
    assert second == "0 0.012500 0.025000 0.025000 0.050000 0.500000"
    assert detections.to_yolo((200, 200)).splitlines()[0] == "1 0.100000 0.200000 0.100000 0.200000 0.900000"
    assert detections[:0].to_yolo() == ""


def test_to_yolo_agrees_with_supervision(detections, tmp_path):
    """supervision's own writer, which leaves the scores out."""
    supervision = pytest.importorskip("supervision")
    detections.size = (100, 200)
    theirs = supervision.DetectionDataset(
        ["cat", "dog", "2"],
        {"a.jpg": np.zeros((100, 200, 3), np.uint8)},
        {"a.jpg": detections.to_supervision()},
    )
    theirs.as_yolo(annotations_directory_path=str(tmp_path))
    ours = np.array([list(map(float, line.split()[:5])) for line in detections.to_yolo().splitlines()])
    np.testing.assert_allclose(ours, np.loadtxt(tmp_path / "a.txt"), atol=1e-5)


def test_to_json(detections):
    detections.source, detections.size = "a.jpg", (90, 80)
    detections.tags = torch.tensor([0.25, 0.75])
    found = json.loads(detections.to_json())
    assert (found["image"], found["size"], found["tags"]) == ("a.jpg", [90, 80], {"dog": 0.75, "cat": 0.25})
    assert found["detections"][0] == {"box": [10, 20, 30, 60], "score": 0.9, "label": 1, "name": "dog"}
    assert len(found["detections"]) == 3


def test_plot_draws_on_the_picture_it_came_from(detections, tmp_path):
    """A dark frame on a white picture at the box's edges, and nothing outside of the boxes."""
    Image.new("RGB", (80, 90), "white").save(tmp_path / "a.png")
    best = detections[:1]
    with pytest.raises(HeadwayError, match="do not know their picture"):
        best.plot()
    best.source = str(tmp_path / "a.png")
    drawn = best.plot()
    assert drawn.size == (80, 90)
    assert max(drawn.getpixel((9, 40))) < 100
    assert drawn.getpixel((70, 80)) == (255, 255, 255)
    white = torch.full((3, 90, 80), 255, dtype=torch.uint8)
    for other in (white, Image.open(tmp_path / "a.png"), tmp_path / "a.png"):
        assert detections[:1].plot(other).tobytes() == drawn.tobytes()


@pytest.mark.parametrize("name", ["deep/a.jpg", "a.png", "a.json", "a.txt"])
def test_save_goes_by_the_ending(detections, tmp_path, name):
    detections.source, detections.size = torch.full((3, 90, 80), 255, dtype=torch.uint8), (90, 80)
    path = detections.save(tmp_path / name)
    if name.endswith("json"):
        assert path.read_text() == detections.to_json()
    elif name.endswith("txt"):
        assert path.read_text() == detections.to_yolo()
    else:
        assert Image.open(path).size == (80, 90)


def test_what_cannot_be_written_is_refused(detections, tmp_path):
    with pytest.raises(HeadwayError, match=r"the ending of a.xlsx must be .json, .txt or a picture's"):
        detections.save(tmp_path / "a.xlsx")
    with pytest.raises(HeadwayError, match=r"give size=\(H, W\)"):
        detections.to_yolo()


@pytest.mark.parametrize(
    "index",
    [slice(0, 2), torch.tensor([True, True, False]), torch.tensor([0, 1]), [0, 1], np.array([True, True, False])],
)
def test_detections_take_any_index(detections, index):
    some = detections[index]
    assert torch.equal(some.scores, detections.scores[:2])
    assert some.extras["row"].tolist() == [7, 8]
    assert some.names == ("cat", "dog")


@pytest.mark.parametrize("index", [3, -4])
def test_a_detection_that_is_not_there_is_an_index_error(detections, index):
    with pytest.raises(IndexError):
        detections[index]


def test_a_slice_may_go_backwards(detections):
    assert detections[::-1].scores.tolist() == detections.scores.tolist()[::-1]
    assert detections[:0:-2].extras["row"].tolist() == detections.extras["row"].tolist()[:0:-2]


def test_to_original_inverts_the_affine_and_clips(detections):
    """input = original * (2, 4) + (4, 8), so x: (10 - 4) / 2 = 3, y: (20 - 8) / 4 = 3, x2: 13, y2: 13. The second box
    starts at (0 - 4) / 2 = -2 -> 0 and ends at .5 and -.75 -> 0. The third, 23 to 33 and 10.5 to 18, is cut at the
    picture's 30 x 15."""
    meta = Meta(1, "a.jpg", (15, 30), (2.0, 4.0, 4.0, 8.0))
    boxes = detections.to_original(meta).boxes
    assert boxes.tolist() == [[3, 3, 13, 13], [0, 0, 0.5, 0], [23, 10.5, 30, 15]]
    assert detections.boxes[0].tolist() == [10, 20, 30, 60]
    assert (detections.to_original(meta).source, detections.to_original(meta).size) == ("a.jpg", (15, 30))


def test_to_coco_is_xywh_with_the_data_sets_ids(detections):
    rows = detections.to_coco("img", category_ids=[11, 22, 33])
    assert rows[0] == {"image_id": "img", "category_id": 22, "bbox": [10, 20, 20, 40], "score": 0.9}
    assert [r["category_id"] for r in detections.to_coco(5)] == [2, 1, 3]
    assert json.loads(json.dumps(rows)) == rows
    with pytest.raises(HeadwayError, match="label 2 has no category: 2 ids were given"):
        detections.to_coco("img", category_ids=[11, 22])


def test_to_supervision(detections):
    supervision = pytest.importorskip("supervision")
    result = detections.to_supervision()
    assert isinstance(result, supervision.Detections)
    assert result.xyxy.tolist() == detections.boxes.tolist()
    assert list(result.data["class_name"]) == ["dog", "cat", "2"]
    assert len(detections[:0].to_supervision()) == 0


def test_to_pandas(detections):
    pytest.importorskip("pandas")
    frame = detections.to_pandas()
    assert list(frame.columns) == ["x1", "y1", "x2", "y2", "score", "label", "name"]
    assert frame.loc[0, "y2"] == 60
    assert list(frame["name"]) == ["dog", "cat", "2"]
