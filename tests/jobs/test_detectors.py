"""What a job and a call tell an exported file about its pictures."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from headway.commands.predict import Predict
from headway.jobs import Settings
from headway.jobs.detectors import open_detector


class Stub:
    """In place of an exported file; it remembers what white was when it looked."""

    names = ("thing",)
    batch = None
    views: Any = None

    def __init__(self, path: Path, **_: Any) -> None:
        self.card = {"class_names": ["thing"], "category_ids": [1], "white": 1023 if "own" in path.name else None}
        self.white = self.card["white"]

    def most(self, _: int | None, *, tiles: int | bool | None = None) -> int:
        return 100

    def predict_paths(self, paths: list[Path], **_: Any) -> list[int | None]:
        return [self.white] * len(paths)


@pytest.fixture
def deep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Two pictures of 12 bits, one of them dark."""
    monkeypatch.setattr("headway.runtime.Runtime", Stub)
    for name, most in (("bright.png", 4000), ("dark.png", 900)):
        Image.fromarray(np.full((8, 8), most, np.uint16)).save(tmp_path / name)
    for name in ("card.onnx", "own.onnx"):
        (tmp_path / name).touch()
    return sorted(tmp_path.glob("*.png"))


def test_white_is_that_of_all_pictures_where_the_card_knows_none(
    deep: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before, an exported file read the dark picture brighter, by its own values: white 1023."""
    monkeypatch.setattr("headway.commands.predict.check_fixed", lambda *_, **__: None)
    for name, white in (("card.onnx", 4095), ("own.onnx", 1023)):
        detector: Any = open_detector(Settings(model=str(tmp_path / name)), {"white": 4095})
        assert detector.runtime.white == white
        command: Any = SimpleNamespace(
            views=SimpleNamespace(settings=lambda _: {"tiles": None}), precision="fp32", batch_size=1, lowest=0.1,
            classes=(), max_detections=None, device="auto", nms_iou="card",
        )  # fmt: skip
        assert list(Predict._of_file(command, tmp_path / name, deep).predictions) == [white] * 2
