"""`--tiles`, `--overlap` and `--tta` on the command line, and `headway data convert --tiles`, in this process."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from headway.cli import main
from headway.data.formats.any_format import open_splits

from .test_data_split import photos as photos  # 40 x 30 pixels, two boxes of 10 x 12 each


@pytest.fixture
def large(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (150, 220, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "large.png")
    return tmp_path / "large.png"


def printed(capsys: pytest.CaptureFixture[str], *command: object) -> str:
    code = main([*map(str, command)])
    out, log = capsys.readouterr()
    assert code == 0, log
    return out


def test_predict_in_tiles(checkpoint: Path, large: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Random weights give many weak boxes; in tiles there are other ones, and more."""
    rows = {}
    for name, options in {
        "plain": (),
        "tiles": ("--tiles",),
        "64": ("--tiles", 64),
        "tta": ("--tta", "flip,0.8"),
    }.items():
        common = ("--threshold", 0.001, "--no-pictures", "--json", "--out", tmp_path / name)
        rows[name] = json.loads(printed(capsys, "predict", checkpoint, large, *options, *common))["predictions"]
    assert len({json.dumps(found) for found in rows.values()}) == 4
    assert 0 < len(rows["plain"]) < len(rows["64"])
    for row in rows["64"]:
        x, y, w, h = row["bbox"]
        assert 0 <= x < x + w <= 220.01
        assert 0 <= y < y + h <= 150.01


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--tiles", "8"), "--tiles (the side of a tile in pixels) must be a whole number at least 32, got 8"),
        (("--overlap", "1"), "--overlap (of neighbouring tiles, in tiles) must be a number in 0..0.9, got 1.0"),
        (("--overlap", "0.5"), "--overlap is of tiles: say --tiles too, or leave it out"),
        (("--tta", "turn"), "--tta is a list of 'flip' and of scales from 0.1 to 4, as in flip,0.83,1.17; got 'turn'"),
        (("--tiles", "--workers", "2", "--out", "job"), "a job looks at each picture once"),
    ],
)
def test_wrong_options_are_usage_errors(
    checkpoint: Path, large: Path, options: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", str(checkpoint), str(large), *options]) == 2
    assert said in capsys.readouterr().err


def test_eval_prints_both_rows_and_the_price(
    checkpoint: Path, tmp_path: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import headway

    model = headway.load(checkpoint)
    model.card.class_names = ("cell", "other")
    headway.save(model, tmp_path / "cells.safetensors")
    command = ("eval", tmp_path / "cells.safetensors", "--data", photos, "--tiles", 32, "--tta", "flip")
    out = printed(capsys, *command, "--out", tmp_path / "a")
    assert re.search(r"^views +AP +AP50 +AP75 +small +medium +large +AR$", out, re.M)
    assert re.search(r"^plain +\d\.\d{4}", out, re.M)
    assert re.search(r"^tiles 32, flip +\d\.\d{4}", out, re.M)
    assert re.search(r"s a picture plain, \d+\.\d\d s with tiles 32, flip: \d+\.\d times the time$", out, re.M)
    answer = json.loads(printed(capsys, *command, "--out", tmp_path / "b", "--json"))
    assert {"ap", "price", "plain"} <= set(answer)
    assert 0 <= answer["plain"]["ap"] <= 1


def test_bench_times_the_views(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = json.loads(printed(capsys, "bench", checkpoint, "--tiles", "--size", 130, 190, "--repeats", 1, "--json"))
    assert answer["views"] == 3 * 3 + 1  # of 96 x 64 over 190 x 130
    assert set(answer["latency_ms"]) == {"plain", "tiles"}
    assert answer["price"] > 0
    assert main(["bench", str(checkpoint), "--train", "--tta", "flip"]) == 2
    assert "leave out --tiles and --tta" in capsys.readouterr().err
    out = printed(capsys, "bench", checkpoint, "--tta", "flip", "--repeats", 1)
    assert re.search(r"2 views take \d+\.\d times the time of one", out)


@pytest.mark.parametrize("to", ["coco", "yolo"])
def test_a_data_set_in_tiles(photos: Path, tmp_path: Path, to: str, capsys: pytest.CaptureFixture[str]) -> None:
    """40 x 30 in tiles of 32: two, at 0 and 8. The boxes 2..12 and 17..27, of which the second tile shows 4 of 10
    columns of the first: enough. With an overlap of 0.9 there are four, at 0, 3, 5 and 8."""
    out = tmp_path / "tiled"
    assert main(["data", "convert", str(photos), "--to", to, "--overlap", "0.5"]) == 2
    assert "--overlap is of tiles" in capsys.readouterr().err
    printed(capsys, "data", "convert", photos, "--to", to, "--tiles", 32, "--out", out)
    splits = open_splits(out)
    assert {name: len(data) for name, data in splits.items()} == {"train": 40, "val": 12, "test": 8}
    first, second = splits["val"].records[:2]
    assert [first.size, second.size] == [(30, 32), (30, 32)]
    np.testing.assert_allclose(first.boxes, [[2, 3, 12, 15], [17, 3, 27, 15]], atol=0.01)
    np.testing.assert_allclose(second.boxes, [[0, 3, 4, 15], [9, 3, 19, 15]], atol=0.01)
    assert first.path.suffix == ".png"
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".tiles")]
    whole = tmp_path / "whole"
    printed(capsys, "data", "convert", photos, "--to", to, "--tiles", "--out", whole)
    assert {name: len(data) for name, data in open_splits(whole).items()} == {"train": 20, "val": 6, "test": 4}
