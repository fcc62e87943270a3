"""Settings: what is refused, what survives a round trip, what the recipes say against their published sources."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from headway.errors import HeadwayError
from headway.train import RECIPES, TrainConfig, recipe


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_json_round_trip(name: str, tmp_path: Path) -> None:
    config = recipe(name).changed(out=tmp_path / "run", input_size=(320, 480))
    config.save(tmp_path / "config.json")
    assert TrainConfig.load(tmp_path / "config.json") == config


def test_every_field_is_documented_for_the_command_line() -> None:
    import tyro

    text = tyro.extras.get_parser(TrainConfig).format_help()
    source = Path(sys.modules[TrainConfig.__module__].__file__).read_text()
    for field in fields(TrainConfig):
        after = source.split(f"    {field.name}: ", 1)[1].split("\n", 2)[1]
        assert after.strip().startswith('"""'), field.name
        assert f"--{field.name.replace('_', '-')}" in text


def test_settings_do_not_import_torch() -> None:
    code = "import sys, headway.train; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("epochs", 0, "at least 1"),
        ("batch_size", -1, "at least 1"),
        ("learning_rate", 0.0, "above 0"),
        ("learning_rate", float("nan"), "above 0"),
        ("momentum", 1.0, "[0, 1)"),
        ("ema", 1.0, "[0, 1)"),
        ("optimizer", "adam", "adamw, sgd"),
        ("precision", "int8", "fp32, bf16, fp16"),
        ("preset", "mozaic", "mosaic"),
        ("milestones", (11, 8), "rising"),
        ("input_size", (640, 320), "short <= long"),
        ("scale", (1.4, 0.6), "low <= high"),
        ("cutmix", 1.5, "[0, 1]"),
        ("gridmask", -0.1, "[0, 1]"),
        ("sizes", (320, 16), "at least 32"),
        ("bias_lr_factor", 0.0, "above 0"),
        ("epochs", "12", "at least 1"),
    ],
)
def test_bad_values_are_named(setting: str, value: object, words: str) -> None:
    with pytest.raises(HeadwayError, match=setting) as caught:
        TrainConfig(**{setting: value})
    assert words in str(caught.value)


def test_multistep_needs_milestones() -> None:
    with pytest.raises(HeadwayError, match="milestones"):
        TrainConfig(schedule="multistep")


def test_a_mosaic_takes_no_cutmix() -> None:
    with pytest.raises(HeadwayError, match="set cutmix to 0 or choose another preset"):
        TrainConfig(preset="mosaic", cutmix=0.5)


def test_unknown_settings_and_recipes_name_the_nearest(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"learning_rat": 1.0}))
    with pytest.raises(HeadwayError, match="did you mean learning_rate"):
        TrainConfig.load(path)
    with pytest.raises(HeadwayError, match="did you mean mmdet_1x"):
        recipe("mmdet1x")
    path.write_text("{")
    with pytest.raises(HeadwayError, match="cannot read training settings"):
        TrainConfig.load(path)


def test_linear_rule() -> None:
    """0.01 at 16 images: a quarter of it at 4, and 4 batches of 4 per step are 16 images again."""
    config = recipe("mmdet_1x")
    assert config.scaled_learning_rate == 0.01
    assert config.changed(batch_size=4).scaled_learning_rate == pytest.approx(0.0025)
    assert config.changed(batch_size=4, accumulate=4).scaled_learning_rate == 0.01
    assert config.changed(batch_size=4, base_batch_size=0).scaled_learning_rate == 0.01


def test_differences_leave_out_what_no_weight_depends_on() -> None:
    config = TrainConfig()
    assert config.differences(config.changed(workers=4, out=Path("elsewhere"), save_every=7)) == []
    assert config.differences(config.changed(seed=3, epochs=50)) == ["epochs: 44 -> 50", "seed: 0 -> 3"]
