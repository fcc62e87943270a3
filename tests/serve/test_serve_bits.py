"""Answers are those of `model.predict` and of `Runtime` to the bit, whatever else is looked at; and what views say."""

import asyncio
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from fake import client_of
from PIL import Image

import headway
from headway.runtime import Runtime
from headway.serve.checkpoint_engine import CheckpointEngine
from headway.serve.engine import FileEngine
from headway.view.deform import record

sys.path.insert(0, str(Path(__file__).parents[1] / "parts"))
import grid

OPTIONS = [
    {}, {"threshold": 0.01, "max_detections": 3}, {"threshold": 0.01, "classes": ["class1"]}
]  # fmt: skip


def photographs() -> list[bytes]:
    """JPEGs and PNGs of several sizes, some of one padded shape, one that EXIF turns."""
    files = []
    for number, (height, width) in enumerate([(64, 96), (96, 64), (64, 96), (60, 90), (300, 200), (64, 96), (50, 50)]):
        pixels = np.random.default_rng(number).integers(0, 256, (height // 4, width // 4, 3), np.uint8)
        picture, file = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC), BytesIO()
        exif = Image.Exif()
        if number == 2:
            exif[0x0112] = 6
        picture.save(file, "PNG" if number % 3 == 1 else "JPEG", exif=exif)
        files.append(file.getvalue())
    return files


PICTURES = photographs()
FORM = [("images", (f"{number}.jpg", data)) for number, data in enumerate([*PICTURES, PICTURES[0][:300]])]


async def ask_all(engine, **settings) -> list[list[dict]]:
    """For each set of options what was found in each picture, all asked for at the same time, alone and in forms."""
    async with client_of(engine, **settings) as client:
        alone = [client.post("/v1/detect", content=data, params=o) for o in OPTIONS for data in PICTURES]
        forms = [client.post("/v1/detect", files=FORM, params=o) for o in OPTIONS]
        *answers, f1, f2, f3 = await asyncio.gather(*alone, *forms)
        lines = (await client.get("/metrics")).text.splitlines()
        passes, pictures = (
            next(float(line.split()[1]) for line in lines if line.startswith(f"headway_batch_pictures_{name}"))
            for name in ("count", "sum")
        )
    assert {answer.status_code for answer in answers} == {200}, answers[0].text
    rows = [answer.json()["detections"] for answer in answers]
    found = [rows[i : i + len(PICTURES)] for i in range(0, len(rows), len(PICTURES))]
    for one, form in zip(found, (f1, f2, f3)):
        *whole, broken = form.json()["pictures"]
        assert [row["detections"] for row in whole] == one
        assert broken["status"] == 422
    assert passes < pictures  # some went together, be it to be compared
    return found


def rows_of(found) -> list[dict]:
    return [{"box": list(d.box), "score": d.score, "label": d.label, "name": d.name} for d in found]


@pytest.fixture(scope="module")
def model() -> headway.Detector:
    return grid.prepared(grid.small("toy/fpn/dyhead/atss", levels=3))


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    model = grid.prepared(grid.small("toy/upsample/ttfnet"))
    return headway.export(model, tmp_path_factory.mktemp("exported") / "toy.onnx", size=(96, 96), verify=0).path


def test_a_checkpoint_answers_as_predict(model):
    found = asyncio.run(ask_all(CheckpointEngine(model, "toy")))
    expected = [[rows_of(model.predict(data, **options)) for data in PICTURES] for options in OPTIONS]
    assert sum(map(len, expected[1])) > 10
    assert found == expected


def test_an_exported_file_answers_as_runtime(file):
    runtime = Runtime(file)
    found = asyncio.run(ask_all(FileEngine(runtime)))
    expected = [[rows_of(runtime(data, **options)) for data in PICTURES] for options in OPTIONS]
    assert sum(map(len, expected[1])) > 10
    assert found == expected


def test_the_views_of_a_dynamic_head(model):
    engine, before = CheckpointEngine(model, "toy"), model.predict(PICTURES[0])
    assert sorted(engine.views) == ["gates", "sampling"]

    async def main():
        async with client_of(engine) as client:
            paths = ("gates", "sampling?x=30&y=20", "sampling?x=3", "sampling?x=300&y=20")
            return [await client.post(f"/v1/views/{path}", content=PICTURES[0]) for path in paths]

    gates, sampling, half, outside = asyncio.run(main())
    rows = gates.json()["rows"]
    assert [(row["block"], row["level"]) for row in rows] == [(1, level) for level in range(1, len(rows) + 1)]
    assert all(0 <= row["own"] <= 1 for row in rows)
    recording = record(model, PICTURES[0])
    expected = recording.sample((30, 20), recording.chain())
    assert np.abs(np.array(sampling.json()["points"]) - expected.points.numpy()).max() <= 0.0005
    assert (half.status_code, outside.status_code) == (422, 422)
    assert "x and y must come together" in half.text
    assert "pixel 300,20 lies outside the photograph of 96 x 64" in outside.text
    after = model.predict(PICTURES[0])
    assert torch.equal(before.boxes, after.boxes)
    assert torch.equal(before.scores, after.scores)
