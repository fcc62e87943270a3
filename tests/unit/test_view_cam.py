"""Class activation against a score worked out by hand, over the grid of heads, and by deletion on real photographs."""

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import headway
from headway.cli import main
from headway.demo import ASSETS, DATA
from headway.errors import HeadwayError
from headway.types import Candidates
from headway.view.cam import explain, sheet, spread

sys.path.insert(0, str(Path(__file__).parents[1] / "parts"))
from grid import natural, small

PHOTO = (torch.rand(3, 64, 96, generator=torch.Generator().manual_seed(0)) * 255).to(torch.uint8)


class Means(nn.Module):
    """The mean of the red, and of the green, of each 8 x 8 pixels."""

    def forward(self, images: Tensor) -> list[Tensor]:
        return [nn.functional.avg_pool2d(images[:, :2], 8)]


class Corner(nn.Module):
    """One box, and a score that is the sigmoid of 2 red - 3 green of cell (1, 2) plus red of cell (4, 6)."""

    card = {"mean": (0.0, 0.0, 0.0), "std": (255.0, 255.0, 255.0), "input_size": (64, 96), "pad_multiple": 8}  # noqa: RUF012

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, features: list[Tensor], frame: object, targets: object = None) -> Tensor:
        x = features[0]
        return 2 * x[:, 0, 1, 2] - 3 * x[:, 1, 1, 2] + x[:, 0, 4, 6]

    def decode(self, raw: Tensor) -> Candidates:
        boxes = raw.new_tensor([8.0, 0.0, 40.0, 32.0]).expand(len(raw), 1, 4)
        return Candidates(boxes, raw.sigmoid()[:, None], torch.zeros(len(raw), 1, dtype=torch.int64))


def test_heat_is_what_a_cell_adds():
    """Cell (1, 2) adds (2 red - 3 green) s (1 - s), cell (4, 6) red s (1 - s); what is negative is no heat."""
    photo = torch.zeros(3, 64, 96, dtype=torch.uint8)
    photo[0, 8:16, 16:24], photo[1, 8:16, 16:24], photo[0, 32:40, 48:56] = 204, 51, 102  # 0.8, 0.2, 0.4
    model = headway.Detector(Means(), None, Corner(), class_names=["corner"])
    scene, (cam,) = explain(model, photo)
    logit = 2 * 0.8 - 3 * 0.2 + 0.4
    score = 1 / (1 + 2.718281828**-logit)
    assert cam.detection.score == pytest.approx(score, abs=1e-6)
    heat = cam.levels[8].values
    assert heat.shape == (8, 12)
    assert heat[1, 2].item() == pytest.approx((1.6 - 0.6) * score * (1 - score), abs=1e-6)
    assert heat[4, 6].item() == pytest.approx(0.4 * score * (1 - score), abs=1e-6)
    assert int((heat > 0).sum()) == 2
    assert cam.shares == {8: pytest.approx(1.0)}
    assert cam.deletion.share == pytest.approx(32 * 32 / 2 / (64 * 96))
    assert cam.deletion.marked < cam.deletion.random
    (numbers,) = sheet(scene, [cam]).numbers
    assert (numbers["class"], numbers["box"]) == ("corner", [8, 0, 40, 32])
    assert numbers["inside"] == pytest.approx(1 / 1.4, abs=1e-3)  # of the two cells one lies in the box
    photo[1, 8:16, 16:24] = 255
    assert explain(model, photo)[1][0].levels[8].values[1, 2] == 0


@pytest.mark.parametrize(("patches", "expected"), [(False, (8, 16)), (True, (9.5, 17.5))])
def test_a_cell_stays_where_it_is(patches: bool, expected: tuple[float, float]):
    """Cell (2, 4) of stride 32 has its centre at pixel (64, 128), or as a patch at (80, 144); on a grid of stride 8
    that is cell (8, 16), or between cells 9 and 10 (centres at 76 and 84) and 17 and 18."""
    values = torch.zeros(6, 8)
    values[2, 4] = 1
    finer = spread(values, 32, (24, 32), (192, 256), patches=patches)
    y, x = (finer.sum(1 - axis) @ torch.arange(n, dtype=torch.float32) / finer.sum() for axis, n in ((0, 24), (1, 32)))
    assert (y.item(), x.item()) == pytest.approx(expected, abs=1e-4)
    assert finer.max() > 0.7


HEADS = (
    "atss", "cascade_rcnn", "centernet", "deformable_detr", "detr", "efficientdet", "faster_rcnn", "fcos",
    "pafnet_lite", "reppoints", "ttfnet", "yolor",
)  # fmt: skip


@pytest.mark.parametrize("head", HEADS)
def test_any_head(head: str):
    """Of random weights: heat that is finite and not nothing, and a graph that leaves no trace in the model."""
    torch.manual_seed(0)
    case = small(natural(head))
    model = headway.create_model(case.path, class_names=["a", "b", "c"], **case.arguments)
    model.card.input_size, model.card.drop_empty = (64, 96), False  # random weights may predict no area
    model.train()
    scene, cams = explain(model, PHOTO, best=1)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    (cam,) = cams
    assert torch.isfinite(cam.heat.values).all()
    assert cam.heat.values.max() > 0
    assert sum(cam.shares.values()) == pytest.approx(1)
    assert len(cam.levels) == len(model.backbone.levels.strides)
    assert 0 <= cam.deletion.marked <= 1
    json.dumps(sheet(scene, cams).numbers)


def test_deletion_on_real_photographs():
    """Removing what the heat marks lowers the score more than removing as much elsewhere."""
    model = headway.load(ASSETS / "demo.safetensors")
    falls = []
    for photo in sorted((DATA / "val").glob("*.jpg"))[:3]:
        _, cams = explain(model, photo, best=2)
        falls += [
            (cam.deletion.before - cam.deletion.marked, cam.deletion.before - cam.deletion.random) for cam in cams
        ]
    assert len(falls) == 6
    assert all(marked > random for marked, random in falls)
    marked, random = (sum(column) / len(falls) for column in zip(*falls))
    assert marked > 0.1 + 2 * random  # 0.24 and 0.01 when this was written


def test_a_pixel_chooses_the_detection():
    model = headway.load(ASSETS / "demo.safetensors")
    photo = DATA / "val" / "BloodImage_00037.jpg"
    last = model.predict(photo, threshold=0.3)[-1]
    x1, y1, x2, y2 = last.box
    _, (cam,) = explain(model, photo, [((x1 + x2) / 2, (y1 + y2) / 2)])
    assert cam.detection.score >= last.score - 1e-4
    assert cam.detection.box[0] <= (x1 + x2) / 2 <= cam.detection.box[2]
    with pytest.raises(HeadwayError, match="no detection holds the pixel 9999,5"):
        explain(model, photo, [(9999, 5)])


def test_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = [
        str(ASSETS / "demo.safetensors"),
        "--image",
        str(DATA / "val" / "BloodImage_00037.jpg"),
        "--boxes",
        "1",
    ]
    assert main(["view", "cam", *arguments, "--json"]) == 0
    numbers = json.loads(capsys.readouterr().out)
    (row,) = numbers["detections"]
    assert row["without"] < row["elsewhere"] <= 1
    assert {path.name for path in (tmp_path / "runs/view").iterdir()} == {"cam.png", "cam.json"}
    assert main(["view", "cam", *arguments, "--boxes", "0"]) == 2
    assert main(["view", "cam", arguments[0]]) == 2
