"""`headway train`, `eval` and `data` on a tiny data set made here."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw

import headway as library
from headway.commands.train import parse_arguments
from headway.factory import with_classes

from .conftest import Run

SMALL = ("--input-size", 64, 64, "--batch-size", 4, "--preset", "none", "--device", "cpu")


def make_coco(folder: Path, names: tuple[str, ...] = ("red", "blue"), images: int = 12) -> Path:
    """Pictures of 64 x 64 with one square each, in turn of each class: `folder/all.json` and `folder/images`."""
    (folder / "images").mkdir(parents=True)
    content: dict[str, list[dict[str, object]]] = {"images": [], "annotations": [], "categories": []}
    content["categories"] = [{"id": i + 1, "name": name} for i, name in enumerate(names)]
    for i in range(images):
        picture = Image.new("RGB", (64, 64), (200, 200, 200))
        x, y = 4 + 3 * (i % 8), 30 - 2 * (i % 10)
        label = i % len(names)
        ImageDraw.Draw(picture).rectangle((x, y, x + 23, y + 23), fill=((200, 0, 0), (0, 0, 200), (0, 200, 0))[label])
        picture.save(folder / "images" / f"{i}.png")
        content["images"].append({"id": i + 1, "file_name": f"{i}.png", "width": 64, "height": 64})
        content["annotations"].append(
            {
                "id": i + 1,
                "image_id": i + 1,
                "category_id": label + 1,
                "bbox": [x, y, 24, 24],
                "area": 576,
                "iscrowd": 0,
            }
        )
    (folder / "all.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    ("pair", "expected"),
    [
        ("blocks=4", 4),
        ("task=false", False),
        ("backbone=resnet34", "resnet34"),
        ("dcn=c4,c5", ["c4", "c5"]),
        ('dcn=["c4","c5"]', ["c4", "c5"]),
        ("dcn=c5", "c5"),
        ("input_size=320,640", [320, 640]),
    ],
)
def test_set_takes_json_text_and_lists(pair: str, expected: object) -> None:
    (value,) = parse_arguments([pair]).values()
    assert value == expected


def test_deformable_stages_from_the_command_line(headway: Run, tmp_path: Path) -> None:
    make_coco(tmp_path / "squares")
    arguments = ("train", "retinanet_r18_fpn", "--data", "squares", "--epochs", 1, "--offset-lr-factor", 0.1)
    result = headway(*arguments, "--out", "run", *SMALL, "--set", "dcn=c4,c5", "dcn_version=1", "channels=64")
    assert result.returncode == 0, result.stderr
    card = library.load(tmp_path / "run" / "best.safetensors").card
    assert card.arguments["dcn"] in (("c4", "c5"), ["c4", "c5"])
    result = headway(*arguments, "--out", "other", *SMALL, "--set", "dcn=c6")
    assert (result.returncode, result.stderr.splitlines()[-1]) == (
        1,
        "headway: resnet18/fpn/retinanet: dcn names the stage 'c6'; this backbone has c2, c3, c4, c5",
    )


def test_train_eval_and_fine_tune(headway: Run, tmp_path: Path) -> None:
    make_coco(tmp_path / "squares")
    result = headway("train", "atss_r18_fpn", "--data", "squares", "--out", "run", "--epochs", 1, *SMALL)
    assert result.returncode == 0, result.stderr
    assert "data set squares: coco (" in result.stderr
    assert "there is no val split: 15% of the pictures are held back" in result.stderr
    assert "red" in result.stderr
    assert "learning rate" in result.stderr
    assert "run/best.safetensors" in result.stdout
    assert "MB) serves `headway train run --resume --epochs N`" in result.stderr
    assert "trainable parameters from random weights; input size 64x64" in result.stderr
    for name in ("config.json", "metrics.jsonl", "last.safetensors", "best.safetensors", "curve.png", "command.json"):
        assert (tmp_path / "run" / name).is_file(), name
    card = library.load(tmp_path / "run" / "best.safetensors").card
    assert (card.class_names, card.input_size) == (("red", "blue"), (64, 64))

    again = headway("train", "atss_r18_fpn", "--data", "squares", "--out", "run", *SMALL)
    assert again.returncode == 1
    assert "run exists and is not empty; nothing is overwritten" in again.stderr

    result = headway("eval", "run", "--data", "squares", "--json")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert (found["images"], found["boxes"]) == (12, 12)
    assert 0 <= found["ap50"] <= 1
    assert (tmp_path / found["report"] / "report.html").is_file()

    make_coco(tmp_path / "other", names=("green", "red", "blue"))
    arguments = ("--data", "other", "--out", "tuned", "--epochs", 1, "--val-fraction", 0, "--json")
    result = headway("train", "run", *arguments, *SMALL)
    assert result.returncode == 0, result.stderr
    assert "head.cls.weight, head.cls.bias start anew for the 3 of the data set" in result.stderr
    assert json.loads(result.stdout)["checkpoint"] == "tuned/last.safetensors"
    assert library.load(tmp_path / "tuned/last.safetensors").card.class_names == ("green", "red", "blue")


def test_detr_trains_by_its_recipe_and_is_told_what_constant_norms_need(headway: Run, tmp_path: Path) -> None:
    make_coco(tmp_path / "squares", images=6)
    small = ("backbone=resnet18", "channels=32", "heads=4", "encoder_layers=1", "decoder_layers=2", "queries=10")
    options = ("--input-size", 64, 64, "--batch-size", 3, "--milestones", 1, "--log-every", 1, "--device", "cpu")
    arguments = ("train", "detr_r50", "--data", "squares", "--recipe", "detr_150e", "--epochs", 1, "--out", "run")
    result = headway(*arguments, *options, "--set", *small)
    assert result.returncode == 0, result.stderr
    assert "constants (norm=buffers)" in result.stderr
    assert "--set norm=batch" in result.stderr
    assert '"loss/giou_0"' in (tmp_path / "run" / "metrics.jsonl").read_text()


def test_a_killed_run_goes_on_from_its_folder_alone(headway: Run, tmp_path: Path) -> None:
    make_coco(tmp_path / "squares")
    command = [sys.executable, "-m", "headway.cli", "train", "atss_r18_fpn", "--data", "squares", "--out", "run",
               "--epochs", "3", "--save-every", "1", *map(str, SMALL)]  # fmt: skip
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    limit = time.monotonic() + 240
    while not (tmp_path / "run/best.safetensors").exists() and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL

    result = headway("train", "run", "--resume")
    assert result.returncode == 0, result.stderr
    assert "resumed at epoch" in result.stderr
    epochs = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in epochs if row["kind"] == "epoch"] == [1, 2, 3]


def test_ctrl_c_names_a_command_that_works_and_epochs_make_it_longer(headway: Run, tmp_path: Path) -> None:
    """After Ctrl-C the printed command goes on, and so does the first one with --resume. Then more epochs are trained;
    any other change is refused by name."""
    make_coco(tmp_path / "squares")
    arguments = ["train", "atss_r18_fpn", "--data", "squares", "--out", "run", "--epochs", "2", *map(str, SMALL)]
    arguments += ["--val-fraction", "0.3", "--set", "channels=32"]
    process = subprocess.Popen(
        [sys.executable, "-m", "headway.cli", *arguments],
        cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    limit = time.monotonic() + 240
    while not (tmp_path / "run/state/last.pt").exists() and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    errors = process.communicate()[1]
    assert process.returncode == 1
    assert "Ctrl-C saves the state, and `headway train run --resume` goes on" in errors
    assert errors.splitlines()[-1].endswith("`headway train run --resume` goes on from here")

    result = headway(*arguments, "--resume")
    assert result.returncode == 0, result.stderr
    longer = headway("train", "run", "--resume", "--epochs", 3, "--json")
    assert longer.returncode == 0, longer.stderr
    assert "3 epochs instead of 2" in longer.stderr
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows if row["kind"] == "epoch"] == [1, 2, 3]
    assert json.loads(longer.stdout)["metrics"]

    for change, words in (
        (("--learning-rate", 0.1), "learning_rate: 0.0015 -> 0.1"),
        (("--epochs", 1), "epochs: 3 -> 1"),
        (("--set", "channels=64"), "arguments: {'channels': 32} -> {'channels': 64}"),
        (("--recipe", "mmdet_1x"), "recipe: small -> mmdet_1x"),
        (("--val-fraction", 0.4), "val_fraction: 0.3 -> 0.4"),
    ):
        refused = headway("train", "run", "--resume", *change)
        assert refused.returncode == 1
        assert words in refused.stderr


def test_a_run_resumes_without_the_checkpoint_it_started_from(headway: Run, tmp_path: Path) -> None:
    make_coco(tmp_path / "squares")
    model = library.create_model("atss_r18_fpn", class_names=["red", "blue"], channels=32, input_size=(64, 64))
    start = library.save(model, tmp_path / "start.safetensors")
    arguments = ("train", start, "--data", "squares", "--out", "run", "--epochs", 1, "--val-fraction", 0, *SMALL)
    assert headway(*arguments).returncode == 0
    start.unlink()
    result = headway("train", "run", "--resume", "--epochs", 2)
    assert result.returncode == 0, result.stderr
    assert library.load(tmp_path / "run" / "last.safetensors").card.training["epoch"] == 2


def test_with_classes_keeps_everything_else() -> None:
    torch.manual_seed(0)
    model = library.create_model("retinanet_r18_fpn", class_names=["a", "b"], channels=32, input_size=(96, 128))
    fresh, rebuilt = with_classes(model, ["x", "y", "z"])
    assert rebuilt == ["head.cls.weight", "head.cls.bias"]
    before, after = model.state_dict(), fresh.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before if k not in rebuilt)
    assert after["head.cls.weight"].shape[0] == 3 * 9
    assert (fresh.card.class_names, fresh.card.input_size) == (("x", "y", "z"), (96, 128))
    assert fresh.card.arguments["num_classes"] == 3


def test_eval_names_the_splits_there_are() -> None:
    from headway.errors import HeadwayError
    from headway.files import pick_split

    splits = {"train": object(), "test": object()}
    with pytest.raises(HeadwayError, match="no split 'tset' here, only train, test; did you mean test"):
        pick_split(splits, "tset")  # type: ignore[arg-type]
    assert pick_split({"all": splits["train"]}, "val") is splits["train"]  # type: ignore[dict-item, arg-type]


def test_data_check_convert_split_and_stats(headway: Run, tmp_path: Path) -> None:
    folder = make_coco(tmp_path / "squares")
    result = headway("data", "check", "squares")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "No problems found" in result.stdout

    result = headway("data", "convert", "squares", "--to", "voc", "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["splits"] == {"all": {"images": 12, "boxes": 12}}
    assert len(list((tmp_path / "squares-voc").rglob("*.xml"))) == 12

    result = headway("data", "split", "squares", "--fractions", 0.5, 0.25, 0.25, "--out", "parts", "--json")
    assert result.returncode == 0, result.stderr
    counts = json.loads(result.stdout)["splits"]
    assert {name: part["images"] for name, part in counts.items()} == {"train": 6, "val": 3, "test": 3}

    result = headway("data", "stats", "parts")
    assert result.returncode == 0, result.stderr
    assert ["pictures", "6", "3", "3"] in [line.split() for line in result.stdout.splitlines()]
    assert len(list((tmp_path / "runs/stats").glob("*.png"))) == 3

    content = json.loads((folder / "all.json").read_text())
    content["annotations"][0]["category_id"] = 9
    content["annotations"][1]["bbox"] = [10, 10, -5, 5]
    (folder / "all.json").write_text(json.dumps(content))
    before = (folder / "all.json").read_bytes()
    result = headway("data", "check", "squares", "--json")
    assert result.returncode == 1
    assert {"unknown_category", "box_inverted"} <= set(json.loads(result.stdout)["kinds"])

    result = headway("data", "check", "squares", "--fix")
    assert result.returncode == 0, result.stderr
    assert "box left out" in result.stdout
    assert (folder / "all.json").read_bytes() == before
    assert headway("data", "check", "squares-fixed").returncode == 0
    refused = headway("data", "check", "squares", "--fix")
    assert refused.returncode == 1
    assert "squares-fixed" in refused.stderr


def test_data_augment_draws_what_training_sees(headway: Run, tmp_path: Path) -> None:
    """Six squares on one sheet of two rows; with CutMix and GridMask it is another sheet."""
    make_coco(tmp_path / "squares")
    settings = ("data", "augment", "squares", "--preset", "none", "--input-size", 64, 64, "--count", 6, "--json")
    plain = headway(*settings, "--out", "plain")
    assert plain.returncode == 0, plain.stderr
    shown = {"preset": "none", "cutmix": 0.0, "gridmask": 0.0, "epoch": 30, "epochs": 60}
    assert json.loads(plain.stdout) == {"path": "squares", "out": "plain", **shown}
    mixed = headway(*settings, "--cutmix", 1, "--gridmask", 1, "--epoch", 60, "--out", "mixed")
    assert mixed.returncode == 0, mixed.stderr
    one, other = (Image.open(tmp_path / name / "augment.png") for name in ("plain", "mixed"))
    assert one.size == other.size == (4 * 480 + 5 * 6, 2 * 480 + 3 * 6)
    assert one.tobytes() != other.tobytes()
    yolo = headway(*settings, "--preset", "yolo", "--mosaic9", 1, "--mixup", 1, "--rotate", 20, "--out", "yolo")
    assert yolo.returncode == 0, yolo.stderr
    expected = {"preset": "yolo", "mosaic9": 1.0, "mixup": 1.0, "gridmask": 0.0}
    assert expected.items() <= json.loads(yolo.stdout).items()
    assert "cutmix" not in json.loads(yolo.stdout)
    assert (tmp_path / "yolo" / "augment.png").is_file()
    wrong = headway("data", "augment", "squares", "--cutmix", 2)
    assert wrong.returncode == 1
    assert "cutmix must be in [0, 1], got 2" in wrong.stderr


def test_a_student_learns_from_a_run_folder(headway: Run, tmp_path: Path) -> None:
    make_coco(tmp_path / "squares")
    common = ("--data", "squares", "--epochs", 1, "--log-every", 1, "--val-fraction", 0, *SMALL)
    assert headway("train", "pafnet_lite", *common, "--out", "teacher").returncode == 0
    result = headway("train", "pafnet_lite", *common, "--out", "student", "--teacher", "teacher", "--distill-box", 2)
    assert result.returncode == 0, result.stderr
    assert "heat map 1, box 2" in result.stderr
    rows = [json.loads(line) for line in (tmp_path / "student/metrics.jsonl").read_text().splitlines()]
    assert all(name in rows[0] for name in ("loss/distill_heatmap", "loss/distill_box"))
    assert json.loads((tmp_path / "student/config.json").read_text())["teacher"] == str(
        (tmp_path / "teacher/last.safetensors").resolve()
    )
    wrong = headway("train", "retinanet_r18_fpn", *common, "--out", "other", "--teacher", "teacher")
    assert wrong.returncode == 1
    assert "the student retinanet_r18_fpn has a DenseHead: use CenterNet, TTFNet or PAFNet" in wrong.stderr
