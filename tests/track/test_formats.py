"""Files of tracks: MOTChallenge and COCO-VID, written, read and refused."""

import json

import pytest

from headway.errors import DataError
from headway.track.evaluate import evaluate_tracks
from headway.track.formats import read_tracks, write_coco_vid, write_mot
from headway.track.tracks import Tracks

ROWS = [  # frame, id, x1, y1, x2, y2, score, label
    (1, 2, 10, 20, 30, 60, 0.9, 0), (1, 1, 50, 20, 90, 60.5, 0.8, 1), (1, -1, 0, 0, 5, 5, 0.2, 0),
    (3, 2, 12, 20, 32, 60, 0.7, 0), (4, 1, 52, 21, 92, 61, 0.6, 0), (4, -1, 1, 1, 5, 5, 0.2, 1),
]  # fmt: skip
CATEGORIES = [{"id": 7, "name": "cell"}, {"id": 9, "name": "plate"}]
FRAMES = [{"frame_id": i, "file_name": f"{i}.jpg", "width": 100, "height": 80} for i in range(4)]


def test_motchallenge(tmp_path):
    write_mot(tmp_path / "tracks.txt", Tracks.of_rows(ROWS))
    lines = (tmp_path / "tracks.txt").read_text().splitlines()
    assert lines[0] == "1,1,50.000,20.000,40.000,40.500,0.800000,-1,-1,-1"
    assert [line.split(",")[:2] for line in lines] == [["1", "1"], ["1", "2"], ["3", "2"], ["4", "1"]]
    videos, names = read_tracks(tmp_path / "tracks.txt")
    assert names == ()
    assert videos[""].boxes[1].tolist() == [10, 20, 30, 60]


def test_coco_vid_has_every_detection_once(tmp_path):
    write_coco_vid(tmp_path / "t.json", {"clip.mp4": Tracks.of_rows(ROWS)}, {"clip.mp4": FRAMES}, CATEGORIES)
    content = json.loads((tmp_path / "t.json").read_text())
    images = {image["id"]: image for image in content["images"]}
    got = {(images[a["image_id"]]["frame_id"] + 1, a["track_id"], a["category_id"], a["score"], *a["bbox"])
           for a in content["annotations"]}  # fmt: skip
    assert got == {(f, i, (7, 9)[label], s, x1, y1, x2 - x1, y2 - y1) for f, i, x1, y1, x2, y2, s, label in ROWS}
    assert len(content["annotations"]) == len(ROWS)
    videos, names = read_tracks(tmp_path / "t.json")
    assert names == ("cell", "plate")
    assert sorted(videos["clip.mp4"].ids.tolist()) == sorted(row[1] for row in ROWS)
    assert videos["clip.mp4"].frames.max() == 4


def test_two_names_of_the_same_keys_are_read(tmp_path):
    """mmtracking writes instance_id and frame_id, TAO track_id and frame_index; identities may begin with 0."""
    for track, frame in (("instance_id", "frame_id"), ("track_id", "frame_index")):
        content = {
            "videos": [{"id": 1, "name": "a"}], "categories": CATEGORIES,
            "images": [{"id": 5, "video_id": 1, frame: 0}],
            "annotations": [
                {"id": 1, "image_id": 5, "category_id": 9, track: 0, "bbox": [1, 2, 3, 4]},
                {"id": 2, "image_id": 5, "category_id": 9, track: 1, "bbox": [1, 2, 3, 4], "iscrowd": 1},
            ],
        }  # fmt: skip
        (tmp_path / "a.json").write_text(json.dumps(content))
        videos, _ = read_tracks(tmp_path / "a.json")
        tracks = videos["a"]
        assert [column.tolist() for column in (tracks.known.ids, tracks.frames, tracks.labels)] == [[0], [1], [1]]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1,2,3\n", "line 1"),
        ("1,1,0,0,5,5,1\n1,one,0,0,5,5,1\n", "line 2"),
        ("1,1,nan,0,5,5,1\n", "line 1.* in numbers"),
        ("1,1,0,0,inf,5,1\n", "line 1.* in numbers"),
        ("1,1,0,0,5,5,1\n1,1,9,9,5,5,1\n", "identity 1 has several boxes in frame 1"),
        ('{"images": []}', "no COCO-VID file"),
        ("[1, 2]", "no COCO-VID file"),
        ('{"videos": ', "no COCO-VID file"),
        ("[" * 100_000, "no COCO-VID file"),
        ("1,1,nan,0,5,5,1\n", "line 1"),
        ("1,1,0,0,inf,5,1\n", "line 1"),
        ("1.5,1,0,0,5,5,1\n", "line 1"),
        ("1,1e30,0,0,5,5,1\n", "line 1"),
    ],
)
def test_other_files_are_refused(tmp_path, text, words):
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(DataError, match=words):
        read_tracks(tmp_path / "a.txt")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"annotations": [[1]]}, "no COCO-VID file"),
        ({"annotations": {"a": 1}}, "no COCO-VID file"),
        ({"track_id": float("inf")}, "numbers must be finite"),
        ({"track_id": 1.5}, "frames and identities must be whole numbers, got 1 and 1.5"),
        ({"bbox": [1, 2, float("nan"), 4]}, "numbers must be finite"),
        ({"score": None}, "no COCO-VID file"),
        ({"videos": [{"id": 1, "name": "v"}, {"id": 2, "name": "v"}]}, "two of its videos or categories are named 'v'"),
        ({"categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "a"}]}, "are named 'a'"),
    ],
)
def test_broken_coco_vid_is_refused(tmp_path, change, words):
    row = {"image_id": 1, "category_id": 1, "track_id": 1, "bbox": ["1", 2, "3", 4]}  # numbers as text are numbers
    content = {
        "videos": [{"id": 1, "name": "v"}], "categories": [{"id": 1, "name": "a"}],
        "images": [{"id": 1, "video_id": 1, "frame_id": 0}], "annotations": [row],
    }  # fmt: skip
    (tmp_path / "a.json").write_text(json.dumps(content))
    assert read_tracks(tmp_path / "a.json")[0]["v"].boxes.tolist() == [[1, 2, 4, 6]]
    row |= {key: value for key, value in change.items() if key not in content}
    content |= {key: value for key, value in change.items() if key in content}
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=words):
        read_tracks(tmp_path / "a.json")


def test_bytes_and_a_truth_without_identities_are_refused(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"a.txt cannot be read as text .* tracks are MOTChallenge's .txt"):
        read_tracks(tmp_path / "a.txt")
    (tmp_path / "det.txt").write_text("1,-1,0,0,5,5,1\n")
    with pytest.raises(DataError, match=r"det\.txt has no box with an identity"):
        evaluate_tracks(tmp_path / "det.txt", tmp_path / "det.txt")


def test_videos_that_do_not_fit_are_told(tmp_path):
    (tmp_path / "a.txt").write_text("1,1,0,0,5,5,1\n")
    names = {"a": Tracks.of_rows(ROWS), "b": Tracks.of_rows(ROWS)}
    write_coco_vid(tmp_path / "two.json", names, {"a": FRAMES, "b": FRAMES}, CATEGORIES)
    with pytest.raises(DataError, match=r"a\.txt has the video without a name .*two\.json has not; it has a, b"):
        evaluate_tracks(tmp_path / "two.json", tmp_path / "a.txt")
    with pytest.raises(
        DataError, match=r"two\.json has the video 'a', and .*a\.txt has not; it has one without a name"
    ):
        evaluate_tracks(tmp_path / "a.txt", tmp_path / "two.json")


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(DataError, match=r"no file of tracks at .*gone.txt"):
        read_tracks(tmp_path / "gone.txt")


def coco(tmp_path, name, videos, categories=CATEGORIES):
    path = tmp_path / f"{name}.json"
    tracks = {video: Tracks.of_rows(rows) for video, rows in videos.items()}
    write_coco_vid(path, tracks, dict.fromkeys(videos, FRAMES), categories)
    return path


def test_classes_are_matched_by_name_and_measured_apart(tmp_path):
    """The cell is followed and the plate is not: HOTA 1 and 0. The other file lists the classes the other way round."""
    truth = [(t, i, 20 * i, 10, 20 * i + 10, 30, 1, i) for t in (1, 2, 3) for i in (0, 1)]
    result = [(t, 8, 0, 10, 10, 30, 0.9, 1) for t in (1, 2, 3)]
    scores = evaluate_tracks(
        coco(tmp_path, "truth", {"a": truth}),
        coco(tmp_path, "found", {"b": result}, [{"id": 1, "name": "plate"}, {"id": 2, "name": "cell"}]),
    )
    assert scores.classes["cell"]["HOTA"] == pytest.approx(1)
    assert scores.classes["plate"]["HOTA"] == 0
    assert (scores.summary["IDF1"], scores.summary["FN"]) == (pytest.approx(6 / 9), 3)


def test_videos_and_classes_must_fit(tmp_path):
    two = coco(tmp_path, "truth", {"a": ROWS[:1], "b": ROWS[:1]})
    with pytest.raises(DataError, match=r"has the video 'c', and .* has not; it has a, b"):
        evaluate_tracks(two, coco(tmp_path, "found", {"a": ROWS[:1], "c": ROWS[:1]}))
    other = [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}]
    with pytest.raises(DataError, match=r"has the class 'dog'"):
        evaluate_tracks(two, coco(tmp_path, "dogs", {"a": ROWS[:1], "b": []}, other))


def test_of_a_text_and_a_json_all_boxes_are_of_one_class(tmp_path):
    write_mot(tmp_path / "a.txt", Tracks.of_rows(ROWS))
    scores = evaluate_tracks(coco(tmp_path, "truth", {"a": ROWS}), tmp_path / "a.txt")
    assert scores.summary["HOTA"] == pytest.approx(1)
    assert scores.summary["FN"] == 0
