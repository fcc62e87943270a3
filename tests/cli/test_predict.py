"""`headway predict`, `convert`, `models`, `bench` and `doctor` on real files."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

import headway as library
from headway import profile
from headway.precision import BF16_COST

from .conftest import Run

ROOT = Path(__file__).parents[2]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Four pictures, one of them grey, and a broken one, in `tmp_path/in`."""
    folder = tmp_path / "in"
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    for name, (width, height) in {"a.jpg": (120, 90), "b.png": (90, 120), "c.jpg": (120, 90)}.items():
        pixels = torch.randint(0, 256, (height, width, 3), generator=generator, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(folder / name)
    Image.new("L", (70, 50), 128).save(folder / "grey.png")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 not a picture")
    return folder


def test_a_broken_file_is_reported_and_the_rest_done(headway: Run, checkpoint: Path, pictures: Path) -> None:
    result = headway("predict", checkpoint, pictures, "--threshold", 0.001, "--out", "out")
    assert result.returncode == 1
    skipped = [line for line in result.stderr.splitlines() if line.startswith("skipped: ")]
    assert len(skipped) == 1
    assert "broken.jpg" in skipped[0]
    assert re.fullmatch(r"\d+ detections in 4 of 5 pictures: out\n", result.stdout)
    out = pictures.parent / "out"
    assert sorted(p.name for p in out.iterdir()) == ["a.jpg", "b.jpg", "c.jpg", "grey.jpg", "predictions.json"]
    with Image.open(out / "b.jpg") as drawn:
        assert drawn.size == (90, 120)
    rows = json.loads((out / "predictions.json").read_text())
    assert {Path(row["file_name"]).name for row in rows} == {"a.jpg", "b.png", "c.jpg", "grey.png"}
    assert len({row["image_id"] for row in rows}) == 4
    names = {1: "red", 2: "white"}
    for row in rows:
        width, height = {"a.jpg": (120, 90), "b.png": (90, 120), "c.jpg": (120, 90), "grey.png": (70, 50)}[
            Path(row["file_name"]).name
        ]
        x, y, w, h = row["bbox"]
        assert 0 <= x < x + w <= width + 0.01
        assert 0 <= y < y + h <= height + 0.01
        assert row["score"] > 0.001
        assert names[row["category_id"]] == row["category_name"]


def test_globs_and_json_and_nothing_overwritten(headway: Run, checkpoint: Path, pictures: Path) -> None:
    arguments = ("predict", checkpoint, "in/*.png", "--no-pictures", "--json", "--threshold", 0.001)
    first, second = headway(*arguments), headway(*arguments)
    assert (first.returncode, second.returncode) == (0, 0), first.stderr
    answers = [json.loads(first.stdout), json.loads(second.stdout)]
    assert [a["out"] for a in answers] == ["runs/predict", "runs/predict-2"]
    assert answers[0]["predictions"] == answers[1]["predictions"] != []
    assert {row["file_name"] for row in answers[0]["predictions"]} == {"in/b.png", "in/grey.png"}
    assert [p.name for p in (pictures.parent / "runs/predict").iterdir()] == ["predictions.json"]
    refused = headway("predict", checkpoint, "in/a.jpg", "--out", "runs/predict")
    assert refused.returncode == 1
    assert "runs/predict exists and is not empty; nothing is overwritten" in refused.stderr


def test_no_folder_is_made_for_nothing(headway: Run, checkpoint: Path, tmp_path: Path) -> None:
    result = headway("predict", checkpoint, "gone.jpg")
    assert (result.returncode, result.stderr) == (1, "headway: there is no file or folder gone.jpg\n")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("inputs", "message", "code"),
    [
        (["clip.MP4"], "video clip.MP4 cannot be opened (Invalid data found", 1),
        (["MODEL", "clip.MP4"], "video clip.MP4 cannot be opened (Invalid data found", 1),
        (["MODEL", "films"], "films holds no picture, but clip.mp4: a video; name it by itself, as in", 1),
        (["MODEL", "photo.dng"], "photo.dng is no picture: the raw file of a camera; export it as JPEG or TIFF", 1),
        (["MODEL", "folder"], "folder holds no picture, but scan.czi: a microscope's or scanner's own file; export", 1),
    ],
)
def test_what_is_no_picture_is_named_by_its_kind(headway: Run, checkpoint: Path, tmp_path: Path, inputs, message, code):
    """Failed before: a video was a damaged checkpoint, and of a raw file the preview inside was read."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "films").mkdir()
    for name in ("clip.MP4", "folder/scan.czi", "films/clip.mp4"):
        (tmp_path / name).write_bytes(b"no picture")
    Image.new("RGB", (9, 9)).save(tmp_path / "photo.dng", format="TIFF")
    result = headway("predict", *(checkpoint if word == "MODEL" else word for word in inputs))
    assert (result.returncode, message in result.stderr) == (code, True), result.stderr


def test_nothing_found_tells_the_highest_score(headway: Run, checkpoint: Path, pictures: Path) -> None:
    """Failed before: "0 detections", and no word of what to do."""
    first = headway("predict", checkpoint, "in/a.jpg", "--threshold", 0.99)
    assert (first.returncode, first.stdout) == (0, "0 detections in 1 picture: runs/predict\n")
    advice = re.fullmatch(
        r"nothing scores above 0.99; the highest score is (\S+): try --threshold (\S+)\n", first.stderr
    )
    assert advice is not None, first.stderr
    assert float(advice[2]) < float(advice[1]) < 0.99
    second = headway("predict", checkpoint, "in/a.jpg", "--threshold", advice[2], "--json")
    assert len(json.loads(second.stdout)["predictions"]) > 0


@pytest.mark.parametrize(("of_validation", "advised"), [(None, 0.2), (0.137, 0.13), (0.3, 0.2)])
def test_the_threshold_of_validation_is_advised_where_something_passes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], of_validation: float | None, advised: float
) -> None:
    """Nothing above 0.3 and the best 0.25: 0.8 times that is 0.2, unless validation found a threshold below."""
    from headway.commands.predict import _Results
    from headway.types import ModelCard

    card = ModelCard(metrics={} if of_validation is None else {"threshold": of_validation})
    results = _Results(tmp_path, card, 0.3, 100, [Path("a.jpg")])
    results.best = 0.25
    results.advise()
    assert capsys.readouterr().err == (
        f"nothing scores above 0.3; the highest score is 0.250: try --threshold {advised:g}\n"
    )


def test_the_cap_and_the_classes_are_options(headway: Run, checkpoint: Path, pictures: Path) -> None:
    arguments = ("predict", checkpoint, "in/a.jpg", "--threshold", 0.001, "--json")
    everything = json.loads(headway(*arguments, "--max-detections", 100000).stdout)["predictions"]
    result = headway(*arguments, "--classes", "white", "--max-detections", 2)
    rows = json.loads(result.stdout)["predictions"]
    assert [row["score"] for row in rows] == [r["score"] for r in everything if r["category_name"] == "white"][:2]
    assert "1 picture with the 2 detections that are kept: --max-detections keeps more" in result.stderr
    assert "there is no class 'withe'; did you mean white" in headway(*arguments, "--classes", "withe").stderr


def test_an_interruption_keeps_what_is_done(
    checkpoint: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Failed before: no JSON was written."""
    from headway.cli import main
    from headway.predict import Predictor

    whole = Predictor.predict_paths

    def interrupted(self, paths):
        yield from list(whole(self, paths))[:2]
        raise KeyboardInterrupt

    monkeypatch.setattr(Predictor, "predict_paths", interrupted)
    monkeypatch.chdir(pictures.parent)
    code = main(["predict", str(checkpoint), "in/a.jpg", "in/b.png", "in/c.jpg", "--threshold", "0.001"])
    assert code == 130
    assert "interrupted after 2 of 3 pictures; runs/predict holds those" in capsys.readouterr().err
    rows = json.loads(Path("runs/predict/predictions.json").read_text())
    assert {row["file_name"] for row in rows} == {"in/a.jpg", "in/b.png"}


def test_same_names_get_different_pictures() -> None:
    from headway.commands.predict import free_names

    paths = [Path("a/x.jpg"), Path("b/x.png"), Path("b/X.jpg"), Path("c/x-2.jpg")]
    assert list(free_names(paths).values()) == ["x.jpg", "x-2.jpg", "X-3.jpg", "x-2-2.jpg"]


def test_sub_folders_stay_sub_folders() -> None:
    """Failed before: every picture was written into one folder."""
    from headway.commands.predict import free_names

    paths = [Path("in/x.jpg"), Path("in/day/x.jpg"), Path("in/day/x.png"), Path("other/x.jpg")]
    assert list(free_names(paths, ["in", "other/x.jpg"]).values()) == ["x.jpg", "day/x.jpg", "day/x-2.jpg", "x-2.jpg"]


def test_the_id_of_a_picture_is_never_that_of_another() -> None:
    """Failed before: pictures were numbered 1, 2, 3, which are the ids of other pictures in the data set's own file."""
    from headway.commands.predict import image_ids

    paths = [Path("a/000000000139.jpg"), Path("a/cell.png"), Path("a/7.jpg"), Path("b/7.jpg")]
    assert list(image_ids(paths).values()) == [139, "cell", "a/7.jpg", "b/7.jpg"]


def test_predictions_are_evaluated_by_file_name(headway: Run, checkpoint: Path, pictures: Path) -> None:
    """The detections as ground truth, under ids 31 and 30 and with other category ids: AP is 1.

    Failed before: there was no `--results`, and the ids were 1 and 2."""
    result = headway(
        "predict", checkpoint, "in/a.jpg", "in/b.png", "--threshold", 0.001, "--out", "out", "--nms-iou", 0.1
    )
    assert result.returncode == 0, result.stderr
    rows = json.loads((pictures.parent / "out/predictions.json").read_text())
    ids, categories = {"a.jpg": 31, "b.png": 30}, {"white": 4, "red": 9}
    truth = [
        {"id": i, "image_id": ids[Path(row["file_name"]).name], "category_id": categories[row["category_name"]],
         "bbox": row["bbox"], "area": row["bbox"][2] * row["bbox"][3], "iscrowd": 0}
        for i, row in enumerate(rows, 1)
    ]  # fmt: skip
    images = [{"id": 30, "file_name": "b.png", "width": 90, "height": 120},
              {"id": 31, "file_name": "a.jpg", "width": 120, "height": 90}]  # fmt: skip
    names = [{"id": i, "name": name} for name, i in categories.items()]
    (pictures / "truth.json").write_text(json.dumps({"images": images, "annotations": truth, "categories": names}))
    result = headway("eval", "--results", "out/predictions.json", "--data", "in/truth.json", "--json")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["ap"] == pytest.approx(1, abs=1e-6)
    assert found["detections"] == found["boxes"] == len(rows) > 0
    assert (Path(pictures.parent) / "runs/eval/report.html").is_file()
    both = headway("eval", checkpoint, "--results", "out/predictions.json", "--data", "in/truth.json")
    assert (both.returncode, "not both" in both.stderr) == (2, True)


MMDET = (  # our names to mmdetection 3.3.0's, for one-stage ATSS
    (r"backbone\.body\.(.+)", r"backbone.\1"),
    (r"neck\.laterals\.(\d)\.(.+)", r"neck.lateral_convs.\1.conv.\2"),
    (r"neck\.outputs\.(\d)\.(.+)", r"neck.fpn_convs.\1.conv.\2"),
    (r"neck\.extras\.0\.(.+)", r"neck.fpn_convs.3.conv.\1"),
    (r"neck\.extras\.1\.(.+)", r"neck.fpn_convs.4.conv.\1"),
    (r"head\.cls_tower\.(\d)\.conv\.(.+)", r"bbox_head.cls_convs.\1.conv.\2"),
    (r"head\.cls_tower\.(\d)\.norm\.(.+)", r"bbox_head.cls_convs.\1.gn.\2"),
    (r"head\.box_tower\.(\d)\.conv\.(.+)", r"bbox_head.reg_convs.\1.conv.\2"),
    (r"head\.box_tower\.(\d)\.norm\.(.+)", r"bbox_head.reg_convs.\1.gn.\2"),
    (r"head\.(cls|centerness)\.(weight|bias)", r"bbox_head.atss_\1.\2"),
    (r"head\.box\.(weight|bias)", r"bbox_head.atss_reg.\1"),
    (r"head\.scales\.(\d)", r"bbox_head.scales.\1.scale"),
)


def to_mmdet(key: str) -> str:
    (name,) = [re.sub(pattern, target, key) for pattern, target in MMDET if re.fullmatch(pattern, key)]
    return name


def test_convert_gives_back_every_weight(headway: Run, tmp_path: Path) -> None:
    """A checkpoint as mmdetection writes it, with its optimizer and meta beside the weights."""
    torch.manual_seed(0)
    model = library.create_model("atss_r18_fpn", class_names=["red", "white"]).eval()
    state = {to_mmdet(key): value for key, value in model.state_dict().items()}
    torch.save({"meta": {"epoch": 12}, "state_dict": state, "optimizer": {"lr": 0.01}}, tmp_path / "theirs.pth")
    arguments = (
        "convert",
        "theirs.pth",
        "--source",
        "mmdet",
        "--model",
        "atss_r18_fpn",
        "--class-names",
        "red",
        "white",
    )
    result = headway(*arguments, "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["parameters"] == profile.count_parameters(model)
    converted = library.load(tmp_path / "atss_r18_fpn.safetensors")
    assert converted.card.class_names == ("red", "white")
    for key, value in model.state_dict().items():
        assert torch.equal(converted.state_dict()[key], value), key
    again = headway(*arguments)
    assert again.returncode == 1
    assert "atss_r18_fpn.safetensors exists; give another --out, or --overwrite" in again.stderr


def test_convert_refuses_what_does_not_fit(headway: Run, tmp_path: Path) -> None:
    torch.save({"state_dict": {"backbone.conv1.weight": torch.zeros(1)}}, tmp_path / "other.pth")
    result = headway("convert", "other.pth", "--source", "mmdet", "--model", "atss_r18_fpn")
    assert result.returncode == 1
    assert "keys of another shape: backbone.conv1.weight" in result.stderr
    assert not list(tmp_path.glob("*.safetensors"))


def test_models(headway: Run) -> None:
    result = headway("models", "atss_r18", "--json")
    rows = {row["name"]: row for row in json.loads(result.stdout)}
    assert set(rows) == {"atss_r18_fpn", "atss_r18_fpn_dyhead"}
    model = library.create_model("atss_r18_fpn_dyhead")
    assert rows["atss_r18_fpn_dyhead"]["parameters"] == sum(p.numel() for p in model.parameters())
    assert rows["atss_r18_fpn_dyhead"]["macs"] == profile.count_macs(model, model.card.input_size)

    row = headway("models", "atss_r50_fpn_d").stdout.splitlines()[2]
    assert re.search(r"39\.07 M\s+235\.\d+ G\s+800x1333\s+\.mmdet \(AP 0\.433\)", row), row

    lines = headway("models", "atss_r50_fpn_dyhead", "--size", 800, 1280).stdout.splitlines()
    assert lines[0] == "atss_r50_fpn_dyhead = resnet50/fpn/dyhead/atss"
    assert next(line for line in lines if line.startswith("all")).split() == ["all", "39.07", "M", "225.01", "G"]


def test_bench_adds_up(headway: Run, checkpoint: Path) -> None:
    result = headway("bench", checkpoint, "--size", 64, 96, "--batch", 2, "--repeats", 3, "--threads", 1, "--json")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert (found["size"], found["batch"], found["threads"]) == ([64, 96], 2, 1)
    assert set(found["parts_ms"]) == set(profile.PARTS)
    assert found["images_per_s"] == pytest.approx(2000 / found["latency_ms"]["median"])
    assert 0 < found["deform_ms"] < found["parts_ms"]["neck"]
    assert found["peak_memory_mib"] > 100  # torch alone takes more


def test_bench_for_people(headway: Run) -> None:
    result = headway("bench", "retinanet_r18_fpn", "--size", 64, 64, "--repeats", 1)
    assert result.returncode == 0, result.stderr
    for word in ("latency", "throughput", "peak memory", "14.53 M parameters", *profile.PARTS):
        assert word in result.stdout
    assert "deformable" not in result.stdout


def test_what_doctor_says_of_bf16_is_what_was_measured() -> None:
    rows = json.loads((ROOT / "benchmarks" / "results" / "formats.json").read_text())
    expected = (round(max(row["fp32"] - row["bf16"] for row in rows.values()), 4), len(rows))
    assert expected == BF16_COST
    assert BF16_COST[0] <= 0.002


def test_doctor_finds_this_environment_sound(headway: Run) -> None:
    result = headway("doctor", "--json")
    assert result.returncode == 0, result.stdout
    found = {row["name"]: row for row in json.loads(result.stdout)}
    assert found["torch"]["value"] == torch.__version__.split("+")[0] or found["torch"]["value"] == torch.__version__
    assert found["deformable convolution"]["value"].split(":")[0] in ("embedding_bag", "torchvision")
    assert all(row["ok"] for row in found.values())


def test_doctor_says_what_to_do_about_a_broken_operator(tmp_path: Path) -> None:
    """An operator that raises, as torchvision's do beside a torch they were not built for."""
    import subprocess
    import sys

    script = """
import sys
import torchvision.ops
from headway.cli import main
def broken(*arguments):
    raise RuntimeError("operator torchvision::nms does not exist")
torchvision.ops.nms = broken
sys.exit(main(["doctor"]))
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 1
    row = next(line for line in result.stdout.splitlines() if "torchvision nms" in line)
    assert "FAILED" in row
    assert "does not exist" in row
    assert "reinstall both together" in result.stdout
