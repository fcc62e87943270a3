"""A model with tags and embeddings from training to evaluation and prediction, in real processes."""

import json

import pytest


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """COCO data of six small pictures in two splits."""
    import numpy as np
    from PIL import Image

    root = tmp_path_factory.mktemp("photos")
    (root / "annotations").mkdir()
    generator = np.random.default_rng(0)
    for split in ("train", "val"):
        (root / split).mkdir()
        images, annotations = [], []
        for number in range(1, 5):
            Image.fromarray(generator.integers(0, 256, (64, 64, 3), np.uint8)).save(root / split / f"{number}.png")
            images.append({"id": number, "file_name": f"{number}.png", "width": 64, "height": 64})
            for label in (1, 2)[: 1 + number % 2]:
                box = {"bbox": [4 + 30 * (label - 1), 6, 24, 30], "area": 720, "iscrowd": 0}
                annotations.append({"id": len(annotations) + 1, "image_id": number, "category_id": label, **box})
        content = {"images": images, "annotations": annotations,
                   "categories": [{"id": 1, "name": "red"}, {"id": 2, "name": "white"}]}  # fmt: skip
        (root / "annotations" / f"{split}.json").write_text(json.dumps(content))
    return root


def test_from_training_to_prediction(headway, photos, tmp_path):
    result = headway(
        "train", "yolor_s", "--data", photos, "--set", "width=0.125", "tags=true", "embedding=16", "--out", "run",
        "--epochs", 1, "--batch-size", 4, "--input-size", 64, 64, "--device", "cpu", "--json",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    epoch = next(row for row in rows if row["kind"] == "epoch")
    assert {"ap", "tag_map", "rank1", "retrieval_map"} <= set(epoch)

    result = headway("eval", "run", "--data", photos, "--out", "report", "--device", "cpu")
    assert result.returncode == 0, result.stderr
    assert "tag" in result.stdout
    assert ["retrieval", "queries", "gallery", "rank-1", "mAP"] in [line.split() for line in result.stdout.splitlines()]
    assert any(line.split()[:3] == ["objects", "6", "6"] for line in result.stdout.splitlines())
    content = json.loads((tmp_path / "report" / "tasks.json").read_text())
    assert content["tags"]["white"]["images"] == 2
    assert content["tags"]["red"] == {"ap": None, "images": 4}  # every picture has it
    assert 0 <= content["rank1"] <= 1

    result = headway("predict", "run", photos / "val", "--out", "found", "--no-pictures", "--device", "cpu", "--json")
    assert result.returncode == 0, result.stderr
    tags = json.loads((tmp_path / "found" / "tags.json").read_text())
    assert json.loads(result.stdout)["tags"] == tags
    assert len(tags) == 4
    for scores in tags.values():
        assert set(scores) == {"red", "white"}
        assert list(scores.values()) == sorted(scores.values(), reverse=True)


def test_a_model_with_tags_alone(headway, photos, tmp_path):
    result = headway(
        "train", "yolor_s", "--data", photos, "--set", "width=0.125", "tags=true", "detect=false", "--out", "run",
        "--epochs", 1, "--batch-size", 2, "--input-size", 64, 64, "--device", "cpu",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "tag_map" in (tmp_path / "run" / "metrics.jsonl").read_text()
    assert (tmp_path / "run" / "best.safetensors").is_file()
    result = headway("eval", "run", "--data", photos, "--out", "report", "--device", "cpu")
    assert result.returncode == 0, result.stderr
    assert "AP by size" not in result.stdout


def test_a_batch_that_does_not_hold_two_views_evenly(headway, photos):
    result = headway(
        "train", "yolor_s", "--data", photos, "--set", "width=0.125", "embedding=4", "--out", "run", "--batch-size", 3,
        "--epochs", 1, "--device", "cpu",
    )  # fmt: skip
    assert result.returncode != 0
    assert "multiple of the 2 views" in result.stderr


def test_a_model_without_tasks_writes_none(headway, checkpoint, photos, tmp_path):
    result = headway("predict", checkpoint, photos / "val", "--out", "found", "--no-pictures", "--device", "cpu")
    assert result.returncode == 0, result.stderr
    assert not (tmp_path / "found" / "tags.json").exists()
