"""`headway.browse.browse` and `headway browse`: what is written, which pictures a run covers, and refusals."""

import json
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scenes import TRUTH, coco, results, row

import headway
from headway import Sample, cli
from headway.browse import browse
from headway.browse.problems import check_by_picture
from headway.browse.runs import join_splits
from headway.data.formats.any_format import open_splits
from headway.data.formats.check import check
from headway.errors import HeadwayError
from headway.evaluate import measure
from headway.evaluate.kinds import KINDS
from headway.evaluate.picture_loss import picture_losses


@pytest.fixture
def photos(tmp_path, monkeypatch) -> Path:
    """photos/ with train and val, whose image ids are the same."""
    monkeypatch.chdir(tmp_path)
    coco(tmp_path / "photos")
    return coco(tmp_path / "photos", "val", {"v.jpg": [([4, 6, 24, 30], 0)]})


def content_of(page: Path) -> dict:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text("utf-8"), re.S)
    return json.loads(found[1])


def boxes_of(content: dict, i: int) -> list[dict]:
    rows = range(content["start"][i], content["start"][i + 1])
    return [{name: column[b] for name, column in content["boxes"].items()} for b in rows]


def test_a_page_without_runs(photos):
    found = browse("photos", out="out")
    assert found.page == Path("out/index.html")
    assert [*found.joined.names] == ["train", "val"]
    content = content_of(found.page)
    assert content["pictures"]["name"] == ["train/a.jpg", "train/b.jpg", "train/c.jpg", "val/v.jpg"]
    assert content["pictures"]["split"] == [0, 0, 0, 1]
    assert content["start"] == [0, 2, 3, 3, 4]
    first, second = boxes_of(content, 0)
    scale = 10_000 / 64
    assert [first[side] for side in ("x1", "y1", "x2", "y2")] == [round(v * scale) for v in TRUTH["a.jpg"][0][0]]
    assert (first["label"], second["label"], first["layer"], first["finding"]) == (0, 1, 0, 0)
    assert content["pictures"]["original"][3] == "../photos/val/v.jpg"
    for i in range(4):
        with Image.open(f"out/pictures/{i}.jpg") as small:
            assert small.size == (64, 48)
    assert json.loads(Path("out/suspects.json").read_text())["suspects"] == []
    assert "http" not in re.sub(r'"http-equiv|http-equiv=|http://www.w3.org/2000/svg', "", found.page.read_text())
    assert not list(Path().glob("runs/*"))
    with pytest.raises(HeadwayError, match="not empty"):
        browse("photos", out="out")


def test_problems_are_those_of_data_check_by_picture(photos):
    file = photos / "annotations" / "train.json"
    content = json.loads(file.read_text())
    first = content["annotations"][0]
    outside = {**first, "id": 90, "image_id": 2, "bbox": [50, 40, 30, 30]}
    content["annotations"] += [{**first, "id": 91}, outside]
    file.write_text(json.dumps(content))
    report, found = check("photos"), check_by_picture("photos")
    by_name = {path.name: {finding.kind for finding in its} for (_, path), its in found.by_picture.items()}
    assert "duplicate_box" in by_name["a.jpg"]
    assert "box_outside" in by_name["b.jpg"]
    assert by_name["c.jpg"] == {"no_boxes"}
    assert sum(map(len, found.by_picture.values())) + found.other == len(report.problems)
    page = content_of(browse("photos", out="out").page)
    kinds = [kind for kind, _, _ in page["kinds"]]
    assert kinds[page["problems"]["2"][0][0]] == "no_boxes"
    (detail,) = [text for kind, text in page["problems"]["1"] if kinds[kind] == "box_outside"]
    assert "(50, 40, 80, 70)" in detail


def test_a_file_counts_for_the_splits_that_it_has_detections_of(photos):
    named = [row(1, [4, 6, 24, 30], 0.9, "v", file_name="photos/val/v.jpg", category_name="dog")]
    found = browse("photos", results(photos / "x.json", named), sure=0.5)
    assert [*found.runs[0].covered] == [1]
    assert [[s.kind for s in judged.suspects] for judged in found.judged] == [[], [], [], ["class"]]
    (mistake,) = found.to_dict()["suspects"]
    assert mistake == {
        "file": "val/v.jpg", "split": "val", "kind": "class", "class": "cat", "other": "dog", "box": [4, 6, 24, 30],
        "score": 0.9, "runs": ["x.json"],
    }  # fmt: skip
    assert found.page is None


def test_numbers_that_two_splits_share_tell_no_picture(photos):
    file = results(photos / "x.json", [row(0, [4, 6, 24, 30], 0.9)])
    with pytest.raises(HeadwayError, match="numbers that the splits train, val share"):
        browse("photos", file)
    assert browse("photos", file, split="val").counts()["unfound"] == 0
    with pytest.raises(HeadwayError, match="no split 'test'"):
        browse("photos", split="test")


def test_a_box_far_outside_fits_the_page(photos):
    """Its columns have 32 bits in the browser. Failed before: the box came back at another place."""
    file = results(photos / "x.json", [row(0, [-4e8, 6, 4e8, 30], 0.9)])
    content = content_of(browse("photos", file, split="val", check=False, out="out").page)
    assert all(abs(value) < 2**31 for column in content["boxes"].values() for value in column)


def test_the_only_split_goes_by_its_own_name(tmp_path):
    found = browse(coco(tmp_path / "photos"), split="val", out=tmp_path / "out")
    assert found.joined.names == ("train",)
    assert [finding.kind for finding in found.problems[2]] == ["no_boxes"]


def test_errors_on_the_page_are_those_of_headway_errors(photos):
    """Two runs over train: one finds a.jpg's boxes as the other class, one finds nothing but a false dog."""
    wrong = [row(1 - label, box, 0.8) for box, label in TRUTH["a.jpg"]]
    files = [results(photos / "x.json", wrong), results(photos / "y.json", [row(1, [40, 0, 50, 6], 0.7, 3)])]
    found = browse("photos", files, split="train", threshold=0.3, out="out")
    content = content_of(found.page)
    for r, run in enumerate(found.runs):
        counted = dict.fromkeys(KINDS, 0)
        for i in range(3):
            for box in boxes_of(content, i):
                name = content["findings"][box["finding"]]
                if box["layer"] == r + 1 and name:
                    counted[name] += 1
        assert counted == run.errors(("cat", "dog")).all.counts
    assert content["pictures"]["cost"] == [[3.6, 1.0, 0.0], [2.0, 1.0, 0.7]]  # missed + scores of wrong ones
    assert content["pictures"]["disagreement"] == [1.6, 0.0, 0.7]
    assert found.counts() == {"lacking": 0, "unfound": 3, "class": 0, "place": 0}
    assert browse("photos", files, split="train", threshold=0.3, agree=1, sure=0.6).counts() == {
        "lacking": 1, "unfound": 1, "class": 2, "place": 0,
    }  # fmt: skip


def test_the_training_loss_is_that_of_each_picture_alone(photos):
    """With the loss of one picture as `measure` gives it, and of a file of results none."""
    torch.manual_seed(0)
    small = {"class_names": ["cat", "dog"], "input_size": (64, 96), "fpn.channels": 32}
    model = headway.create_model("resnet10t/fpn/atss", **small)
    found = browse("photos", [model, results(photos / "x.json", [])], loss=True, out="out", device=None)
    expected = [measure(model, found.joined.data.subset([i], "one"), losses=True).losses["loss"] for i in range(4)]
    assert found.runs[0].losses == pytest.approx(expected, rel=1e-5)
    assert len({round(loss, 3) for loss in expected}) == 4
    content = content_of(found.page)
    assert content["pictures"]["loss"] == [pytest.approx(expected, abs=0.001), None]


def test_the_training_loss_of_a_head_that_samples_is_the_same_again(photos):
    """Failed before: Faster R-CNN drew other proposals each time. What is drawn behind it is what it was without it."""
    torch.manual_seed(0)
    small = {"class_names": ["cat", "dog"], "input_size": (64, 96), "fpn.channels": 32}
    model = headway.create_model("resnet10t/fpn/faster_rcnn", **small)
    data = join_splits(open_splits("photos")).data
    state = torch.get_rng_state()
    losses = picture_losses(model, data)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(7)
    assert picture_losses(model, data).tolist() == losses.tolist()
    assert picture_losses(model, data.subset([2], "one")).tolist() == losses[2:3].tolist()


def test_thresholds_follow_the_run(photos):
    """Right at 0.6 and 0.4, wrong at 0.3: the best F1 is from 0.4 on, and half of the right ones reach 0.5."""
    rows = [row(label, box, 0.6 - 0.2 * k) for k, (box, label) in enumerate(TRUTH["a.jpg"])]
    (run,) = browse("photos", results(photos / "x.json", [*rows, row(0, [0, 0, 9, 9], 0.3)]), split="train").runs
    assert (run.threshold, run.sure) == pytest.approx((0.4, 0.5))
    (run,) = browse("photos", results(photos / "y.json", []), split="train").runs
    assert (run.threshold, run.sure) == (0.5, 0.5)


def test_what_a_browser_does_not_open_has_a_larger_copy(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    coco(
        tmp_path / "photos",
        truth={"deep.tif": [], "turned.jpg": [], "broken.jpg": [], "plain.png": [([1, 1, 9, 9], 0)]},
    )
    train = tmp_path / "photos" / "train"
    Image.new("RGB", (900, 300)).save(train / "deep.tif")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (640, 320)).save(train / "turned.jpg", exif=exif)
    (train / "broken.jpg").write_bytes((train / "turned.jpg").read_bytes()[:700])
    content = content_of(browse("photos", out="out", side=96, check=False).page)
    pictures = content["pictures"]
    at = {Path(name).name: i for i, name in enumerate(pictures["name"])}
    with Image.open(f"out/pictures/{at['deep.tif']}-large.jpg") as large:
        assert large.size == (900, 300)
    with Image.open(f"out/pictures/{at['turned.jpg']}.jpg") as small:
        assert small.size == (48, 96)
    assert (pictures["width"][at["turned.jpg"]], pictures["height"][at["turned.jpg"]]) == (320, 640)
    assert pictures["width"][at["broken.jpg"]] == 0
    assert "broken.jpg" in content["problems"][str(at["broken.jpg"])][0][1]
    assert pictures["original"][at["plain.png"]] == "../photos/train/plain.png"


@pytest.mark.parametrize("data", ["shards", "shards/train-{000..000}.tar"])
def test_tar_shards(photos, data):
    """Failed before: no picture of a shard could be shown."""
    Path("shards").mkdir()
    Path("classes.txt").write_text("cat\ndog\n")
    Path("label.txt").write_text("1 0.5 0.5 0.5 0.5\n")
    with tarfile.open("shards/train-000.tar", "w") as shard:
        for file, name in (("photos/train/a.jpg", "a.jpg"), ("label.txt", "a.txt")):
            shard.add(file, name)
    Path("classes.txt").rename("shards/classes.txt")
    found = browse(data, out="out")
    content = content_of(found.page)
    assert (content["pictures"]["original"], content["problems"]) == (["pictures/0-large.jpg"], {})
    with Image.open("photos/train/a.jpg") as whole, Image.open("out/pictures/0-large.jpg") as copy:
        assert (content["pictures"]["width"], content["pictures"]["height"]) == ([whole.width], [whole.height])
        assert np.abs(np.asarray(copy).astype(int) - np.asarray(whole)).mean() < 3


def test_a_dataset_of_ones_own(tmp_path):
    class Own:
        class_names = ("cat",)

        def __len__(self):
            return 2

        def __getitem__(self, i):
            picture = torch.full((3, 20, 30), 100 * i, dtype=torch.uint8)
            return Sample(picture, np.array([[1.0, 2, 11, 12]]), np.array([0]))

    content = content_of(browse(Own(), out=tmp_path / "out").page)
    assert content["pictures"]["original"] == ["pictures/0-large.jpg", "pictures/1-large.jpg"]
    assert content["pictures"]["name"] == ["Own[0]", "Own[1]"]
    assert content["problems"] == {}


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ({"agree": 0}, "agree must be"),
        ({"threshold": 1.5}, "threshold must be"),
        ({"sure": -1}, "sure must be"),
        ({"side": 3}, "side must be"),
        ({"runs": "gone.json"}, "gone.json"),
        ({"runs": ["x.json", "x.json"]}, "named twice"),
        ({"loss": True}, "got no run: name a checkpoint"),
        ({"runs": ["x.json", "a.onnx"], "loss": True}, "got x.json, a.onnx: name a checkpoint"),
    ],
)
def test_what_cannot_be_meant(photos, arguments, what):
    with pytest.raises(HeadwayError, match=what):
        browse("photos", out="out", **arguments)


def test_the_command(photos, capsys):
    file = str(results(photos / "x.json", [row(1, [4, 6, 24, 30], 0.9)]))
    assert cli.main(["browse", "photos"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["split", "pictures", "labels", "with", "problems"]
    assert lines[2].split() == ["train", "3", "3", "0"]
    assert lines[-1] == f"page: {Path('runs/browse/index.html')}"
    assert cli.main(["browse", "photos", file, "--split", "val", "--no-check", "--threshold", "0.3"]) == 0
    shown = capsys.readouterr().out
    assert "one run is enough, from score 0.50 on" in shown
    assert re.search(r"runs say another class +1", shown)
    assert cli.main(["browse", "photos", file, "--split", "val", "--no-check", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["page"] == str(Path("runs/browse-3/index.html"))
    assert cli.main(["browse", "nowhere"]) == 1
    assert "nowhere does not exist" in capsys.readouterr().err
