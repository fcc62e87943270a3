"""`headway view attention` on checkpoints that were never trained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

import headway as library
from headway.cli import main

from .conftest import Run


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    pixels = torch.randint(0, 256, (64, 96, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    Image.fromarray(pixels.numpy()).save(path)
    return path


def test_pictures_and_numbers(headway: Run, checkpoint: Path, photo: Path, tmp_path: Path) -> None:
    result = headway("view", "attention", checkpoint, "--image", photo, "--stride", "16", "--out", "out", "--json")
    assert result.returncode == 0, result.stderr
    numbers = json.loads(result.stdout)
    assert numbers.pop("out") == "out"
    assert json.loads((tmp_path / "out/attention.json").read_text()) == numbers
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "attention.json", "attentions.png", "blocks.png", "gates.png"
    ]  # fmt: skip
    assert [(row["stride"], row["after"]) for row in numbers["sheets"]["attentions"]] == [
        (16, step) for step in ("before", "spatial", "scale", "task")
    ]
    assert (numbers["gates"]["of"], numbers["gates"]["pictures"]) == ("photo.png", 1)
    assert [sum(level["counts"]) for level in numbers["gates"]["levels"]] == [1] * 5  # one block, one picture
    with Image.open(tmp_path / "out/blocks.png") as picture:
        assert picture.width > picture.height / 5  # two columns of five levels
        assert len(picture.convert("RGB").getcolors(10**6)) > 1000


def test_gates_over_a_data_set_for_people(
    checkpoint: Path, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    labels = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "red"}]}
    for number in range(3):
        (tmp_path / "data/val").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"data/val/{number}.png").write_bytes(photo.read_bytes())
        labels["images"].append({"id": number, "file_name": f"{number}.png", "width": 96, "height": 64})
        box = {"id": number, "image_id": number, "category_id": 1, "bbox": [8, 8, 30, 30], "area": 900, "iscrowd": 0}
        labels["annotations"].append(box)
    (tmp_path / "data/annotations").mkdir()
    (tmp_path / "data/annotations/val.json").write_text(json.dumps(labels))
    arguments = [str(checkpoint), "--image", str(photo), "--data", "data", "--limit", "2"]
    assert main(["view", "attention", *arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "blocks"
    assert "gates, mean over 2 picture(s)" in lines
    assert lines[-1] == "drawn: runs/view/blocks.png, runs/view/attentions.png, runs/view/gates.png"


def test_tokens(photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = library.create_model("detr_tiny", num_classes=2, channels=32, encoder_layers=1, decoder_layers=1)
    library.save(model, tmp_path / "detr.safetensors")
    assert main(["view", "attention", "detr.safetensors", "--image", str(photo), "--pixel", "3,4", "90,60"]) == 0
    assert sorted(p.name for p in (tmp_path / "runs/view").glob("*.png")) == [
        "decoder.png", "encoder-1.png", "encoder-2.png", "encoder-heads-1.png", "encoder-heads-2.png"
    ]  # fmt: skip


def test_mistakes(
    checkpoint: Path, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    for arguments, code, expected in (
        ([checkpoint], 2, "say what to look at: --image photo.jpg"),
        ([checkpoint, "--image", photo, "--limit", "3"], 2, "--limit takes a number from 1, of the pictures of --data"),
        ([checkpoint, "--image", photo, "--pixel", "3;4"], 2, "--pixel takes X,Y pairs"),
        ([checkpoint, "--image", photo, "--stride", "12"], 1, "there is no level of stride 12; there are 8, 16"),
        ([checkpoint, "--image", photo, "--out", "full"], 1, "nothing is overwritten"),
        (["nowhere", "--image", photo], 1, "nowhere is no file or folder here"),
    ):
        assert main(["view", "attention", *map(str, arguments)]) == code
        out, err = capsys.readouterr()
        assert (out, len(err.splitlines())) == ("", 1)
        assert expected in err
