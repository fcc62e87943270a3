"""`headway view deform` on a photograph."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

import headway as library

from .conftest import Run

LAYERS = [f"backbone.body.layer{stage}.{i}.conv2" for stage in (3, 4) for i in (0, 1)]


@pytest.fixture(scope="session")
def deformable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small detector whose last two stages are deformable; treat the file as read-only."""
    torch.manual_seed(0)
    model = library.create_model(
        "retinanet_r18_fpn", class_names=["red", "white"], channels=64, dcn=("c4", "c5"), input_size=(96, 128)
    )
    return library.save(model, tmp_path_factory.mktemp("deformable") / "dcn.safetensors")


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    pixels = torch.randint(0, 256, (192, 256, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    Image.fromarray(pixels.numpy()).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_picture_and_numbers(headway: Run, deformable: Path, photo: Path, tmp_path: Path) -> None:
    arguments = ("view", "deform", deformable, "--image", "photo.png", "--pixel", "100,80", "20,30.5", "--layers", 2)
    result = headway(*arguments, "--json")
    assert result.returncode == 0, result.stderr
    numbers = json.loads(result.stdout)
    assert numbers.pop("out") == "runs/view"
    assert json.loads((tmp_path / "runs/view/deform.json").read_text()) == numbers
    assert (numbers["image"], numbers["size"]) == ("photo.png", [256, 192])
    assert [row["name"] for row in numbers["layers"]] == LAYERS[2:]
    assert [row["pixel"] for row in numbers["pixels"]] == [[100.0, 80.0], [20.0, 30.5]]
    for row in numbers["pixels"]:
        assert row["layers"] == LAYERS[:1:-1]
        assert len(row["points"]) == len(row["weights"]) == 81
        assert max(row["weights"]) == pytest.approx(0.25)  # two untrained masks of one half
    # Both layers are on the map of 3 x 4 cells of 64 pixels of the photograph; without offsets the points are whole
    # cells, around the one at (1, 2) whose centre is at 2 * (32.5, 64.5).
    assert numbers["pixels"][0]["center"] == [129.0, 65.0]
    with Image.open(tmp_path / "runs/view/deform.png") as picture:
        width, height = picture.size
        colours = set(zip(*(channel.tobytes() for channel in picture.convert("RGB").split())))
    assert width == 1200
    assert height > 900
    assert {(255, 230, 0), (49, 208, 255)} <= colours  # the dots of both pixels


def test_for_people_and_by_name(headway: Run, deformable: Path, photo: Path, tmp_path: Path) -> None:
    result = headway("view", "deform", deformable, "--image", photo, "--layer", "layer3.1.conv2", "--out", "out")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == f"pixel 128,96: 9 points of {LAYERS[1]}"  # nothing is detected for sure: the middle
    assert lines[1] == f"{LAYERS[1]}: offsets 0.00 +- 0.00 pixels of the photograph"
    assert lines[2] == "drawn: out/deform.png"
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["deform.json", "deform.png"]
    again = headway("view", "deform", deformable, "--image", photo, "--out", "out")
    assert (again.returncode, again.stdout) == (1, "")
    assert "out exists and is not empty; nothing is overwritten" in again.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (["--pixel", "100"], 2, "--pixel takes X,Y pairs, as in `--pixel 320,200`, got '100'"),
        (["--pixel", "nan,3"], 2, "got 'nan,3'"),
        (["--layers", "0"], 2, "--layers must be at least 1, got 0"),
        (["--layers", "1", "--layer", "a"], 2, "give one of the two"),
        (["--pixel", "256,0"], 1, "pixel 256,0 lies outside the photograph of 256 x 192"),
        (
            ["--layers", "5"],
            1,
            f"layers must be from 1 to 4, the deformable layers that follow one another here ({LAYERS[0]}",
        ),
        (["--layer", "layer5.1.conv2"], 1, f"There are {', '.join(LAYERS)}"),
        (["--image", "gone.jpg"], 1, "gone.jpg"),
    ],
)
def test_mistakes_are_one_line(
    headway: Run, deformable: Path, photo: Path, tmp_path: Path, arguments: list[str], code: int, expected: str
) -> None:
    picture = [] if "--image" in arguments else ["--image", "photo.png"]
    result = headway("view", "deform", deformable, *picture, *arguments)
    assert (result.returncode, result.stdout) == (code, "")
    assert expected in result.stderr
    assert result.stderr.startswith("headway: ")
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_what_cannot_be_drawn(headway: Run, photo: Path, deformable: Path, tmp_path: Path) -> None:
    plain = library.create_model("retinanet_r18_fpn", num_classes=2, channels=32, input_size=(96, 128))
    library.save(plain, tmp_path / "plain.safetensors")
    for arguments, code, expected in (
        (("plain.safetensors", "--image", photo), 1, "retinanet_r18_fpn has no deformable layer; train one with --set"),
        (("gone.safetensors", "--image", photo), 1, "no checkpoint or run folder at gone.safetensors"),
        ((deformable,), 2, "say what to look at: --image photo.jpg"),
    ):
        result = headway("view", "deform", *arguments)
        assert (result.returncode, result.stdout) == (code, "")
        assert expected in result.stderr
        assert result.stderr.count("\n") == 1
