"""The demo from end to end, shortened to one epoch."""

import json

import pytest
from PIL import Image

from headway import demo, load


@pytest.mark.slow
def test_demo_writes_a_checkpoint_a_report_and_pictures(tmp_path):
    out = tmp_path / "demo"
    result = demo.main(out, demo.settings(out / "run").changed(epochs=1))
    assert result["ap50"] > 0.6  # the shipped checkpoint has seen this microscope, though not these photographs
    assert load(result["checkpoint"]).card.class_names == ("RBC", "WBC", "Platelets")
    assert "<img" in result["report"].read_text()
    assert json.loads((out / "report" / "report.json").read_text())
    pictures = sorted(result["pictures"].glob("*.png"))
    assert len(pictures) == 8
    width, height = Image.open(pictures[0]).size
    assert (width, height) == (2 * 640 + 8, 480)
