"""The Dynamic Head paper's tables: what they count at full size, and that AP is added to them, once."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "dyhead_tables.py"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    command = [sys.executable, str(SCRIPT), "--results", str(folder), "--only", "depth", "forms", "--threads", "1"]
    subprocess.run(command, env=ENVIRONMENT, check=True, timeout=600)
    return folder


@pytest.fixture
def photos(tmp_path):
    """Two splits of eight pictures of noise, a box in each, in COCO's format."""
    root = tmp_path / "photos"
    (root / "annotations").mkdir(parents=True)
    numbers = range(1, 9)
    for split in ("train", "val"):
        (root / split).mkdir()
        for number in numbers:
            noise = np.random.default_rng(number).integers(0, 256, (48, 64, 3), np.uint8)
            Image.fromarray(noise).save(root / split / f"{number}.png")
        images = [{"id": number, "file_name": f"{number}.png", "width": 64, "height": 48} for number in numbers]
        boxes = [{"id": number, "image_id": number, "category_id": 1, "bbox": [8, 8, 24, 24], "area": 576, "iscrowd": 0}
                 for number in numbers]  # fmt: skip
        content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "red"}]}
        (root / "annotations" / f"{split}.json").write_text(json.dumps(content))
    return root


def structure(results, table):
    return json.loads((results / "dyhead_tables.json").read_text())["structure"][table]


def test_depth_costs_what_the_paper_says(results):
    """arXiv 2106.08322, table 2: two blocks -63.45 and six +21.5 GFLOPs less the baseline's towers. By hand, 800x1344:
    cells of P3 to P7 16800 + 4200 + 1050 + 273 + 77 = 22400; eight 3x3 convolutions of 256 channels on each of them
    22400 x 8 x 9 x 256^2 = 105.696 G. A block: mid 22400, low 22400 - 16800 (what has a finer level), high 22400 -
    16800 (the coarser levels themselves) cells of 9 x 256^2, and 22400 x 27 x 9 x 256 of offsets = 21.21 G."""
    rows = structure(results, "depth")
    baseline = rows["no block: two towers of four convolutions"]
    assert baseline["tower_macs"] == 22400 * 8 * 9 * 256**2
    assert baseline["parameters"] == 32_295_322  # mmdetection's ATSS
    cells = 22400 + 2 * (22400 - 16800)
    block = cells * 9 * 256**2 + 22400 * 27 * 9 * 256
    for count in (1, 2, 4, 6, 8, 10):
        row = rows[f"released: {count} block{'s' if count > 1 else ''}"]
        assert row["parameters"] == 39_071_682 - (6 - count) * 1_916_508  # mmdetection's DyHead, and one block of it
        assert row["block"]["sampling"] + row["block"]["offset"] == block
        gates = 5 * (256 * 64 + 64 * 1024) + 13 * 256  # of 5 levels the task's, of 13 maps the scale's
        assert row["tower_macs"] == count * (block + gates)
    for count, published in ((2, -63.45e9), (6, 21.5e9)):
        less = rows[f"released: {count} blocks"]["tower_macs"] - baseline["tower_macs"]
        assert less == pytest.approx(published, rel=0.004)


def test_the_forms_differ_as_their_equations_do(results):
    """The paper's form: L S K C^2 + 27 S K C on S = 1050 cells of the median level P5, five levels."""
    rows = structure(results, "forms")
    paper, flat = rows["paper's form"]["block"], rows["released form, flat"]["block"]
    assert paper["sampling"] == 5 * 1050 * 9 * 256**2
    assert paper["offset"] == 1050 * 27 * 9 * 256
    first = rows["released form, upsample_first"]["block"]
    finer_cells = 16800 + 4200 + 1050 + 273  # every level with a coarser one: the convolution is at its own size
    assert first["sampling"] - flat["sampling"] == (finer_cells - (22400 - 16800)) * 9 * 256**2
    authors = rows["released form, flat, the authors' start and biases"]
    assert authors["parameters"] == 39_071_682 + 6 * 3 * 256
    text = (results / "dyhead_tables.md").read_text()
    assert "| paper's form | 46,151,280 | +7,079,598 | 128.01 | -108.30 |" in text
    assert "## Depth" in text
    assert "## Ablation" not in text, "only what was asked for"


@pytest.mark.slow
def test_ap_is_added_once_and_kept(results, photos, tmp_path):
    folder = shutil.copytree(results, tmp_path / "results")
    command = [sys.executable, str(SCRIPT), "--data", str(photos), "--runs", str(tmp_path / "runs"), "--results",
               str(folder), "--only", "forms", "--seeds", "0", "--size", "96", "--epochs", "1",
               "--threads", "1"]  # fmt: skip
    subprocess.run(command, env=ENVIRONMENT, check=True, timeout=600)
    logs = sorted((tmp_path / "runs" / "small").glob("*/metrics.jsonl"))
    assert len(logs) == 6
    before = [log.read_text() for log in logs]
    content = json.loads((folder / "dyhead_tables.json").read_text())
    assert set(content["runs"]["small"]) == {log.parent.name.removesuffix("-seed0") for log in logs}
    assert content["structure"] == json.loads((results / "dyhead_tables.json").read_text())["structure"]

    subprocess.run([*command, "--note", "eight pictures"], env=ENVIRONMENT, check=True, timeout=600)
    assert [log.read_text() for log in logs] == before
    text = (folder / "dyhead_tables.md").read_text()
    assert "AP of the small models: eight pictures" in text
    assert text.count("| released form, crop | 0 | 1 | ") == 1
    assert text.count("| released: 2 blocks | 0 | 1 | ") == 1, "the same network stands in another table as well"
