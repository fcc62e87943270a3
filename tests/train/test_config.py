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
        ("bias_warmup", -1.0, "at least 0"),
        ("momentum_warmup", 1.0, "[0, 1)"),
        ("ema_warmup", -1, "at least 0"),
        ("perspective", 0.5, "[0, 0.4]"),
        ("rotate", 200.0, "[0, 180]"),
        ("mixup", 1.5, "[0, 1]"),
        ("mosaic9", 0.5, "belong to preset yolo"),
        ("nesterov", True, "settings of SGD"),
        ("momentum_warmup", 0.8, "settings of SGD"),
        ("schedule_epochs", 9, "cosine_epochs"),
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


@pytest.mark.parametrize("preset", ["mosaic", "yolo"])
def test_a_mosaic_takes_no_cutmix(preset: str) -> None:
    with pytest.raises(HeadwayError, match="set cutmix to 0 or choose another preset"):
        TrainConfig(preset=preset, cutmix=0.5)


def test_a_part_must_fit_into_its_schedule() -> None:
    with pytest.raises(HeadwayError, match="30 epochs from epoch 425 on do not fit into a schedule of 450"):
        recipe("yolor_finetune_25e").changed(epochs=30)
    with pytest.raises(HeadwayError, match="nesterov needs a momentum"):
        recipe("yolor_300e").changed(momentum=0.0)


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


@pytest.mark.parametrize(
    ("name", "images", "steps", "drops", "sizes"),
    [
        ("ttfnet_1x", 128, 11_000, (9 / 12, 11 / 12), ()),
        ("ttfnet_10x", 128, 110_000, (90 / 120, 110 / 120), (512,)),
        ("pafnet_1x", 96, 15_000, (11_250 / 15_000, 13_750 / 15_000), tuple(range(416, 673, 32))),
        ("pafnet_10x", 144, 97_700, (80 / 120, 110 / 120), tuple(range(416, 673, 32))),
        ("pafnet_lite_20x", 96, 293_000, (160 / 240, 220 / 240), tuple(range(320, 513, 32))),
        ("centernet_140e", 128, 128_000, (90 / 140, 120 / 140), (512,)),
    ],
)
def test_heat_map_recipes_are_the_published_lengths(
    name: str, images: int, steps: int, drops: tuple[float, float], sizes: tuple[int, ...]
) -> None:
    """COCO's 117,266 training pictures with boxes give the steps that the sources state or imply, within 3%; the drops
    as shares of the length."""
    config = recipe(name)
    assert config.step_size == config.base_batch_size == images
    assert config.epochs * 117_266 / images == pytest.approx(steps, rel=0.03)
    assert tuple(m / config.epochs for m in config.milestones) == pytest.approx(drops, abs=0.01)
    assert tuple(side for side in config.sizes if side % 32 == 0) == config.sizes
    assert set(sizes) == set(config.sizes)


@pytest.mark.parametrize(
    ("name", "images", "steps", "drops"),
    [
        ("swin_1x", 16, 88_000, (8 / 12, 11 / 12)),
        ("swin_3x", 16, 264_000, (27 / 36, 33 / 36)),
        ("dyhead_swin_t_2x", 32, 90_000, (60_000 / 90_000, 80_000 / 90_000)),
        ("dyhead_swin_l_2x", 16, 176_000, (16 / 24, 22 / 24)),
        ("vitdet_100e", 64, 184_375, (163_889 / 184_375, 177_546 / 184_375)),
    ],
)
def test_recipes_on_swin_and_vit_are_the_published_lengths(
    name: str, images: int, steps: int, drops: tuple[float, float]
) -> None:
    """As above; the drops at whole epochs."""
    config = recipe(name)
    assert config.step_size == config.base_batch_size == images
    assert config.epochs * 117_266 / images == pytest.approx(steps, rel=0.025)
    assert tuple(m / config.epochs for m in config.milestones) == pytest.approx(drops, abs=0.015)
    assert (config.optimizer, config.decay_norm_and_bias) == ("adamw", False)


def test_efficientdets_recipe_is_that_of_the_paper() -> None:
    """arXiv 1911.09070, 5.1: at 128 images the rate rises to 0.16 in the first epoch."""
    config = recipe("efficientdet_300e").changed(batch_size=128)
    assert (config.scaled_learning_rate, config.warmup_epochs, config.warmup_steps) == (0.16, 1.0, 0)
    assert config.scaled_learning_rate * config.warmup_factor == pytest.approx(0.016)  # 0.008 at 64
    assert (config.weight_decay, config.ema, config.decay_norm_and_bias) == (4e-5, 0.9998, False)
    assert recipe("efficientdet_600e").differences(recipe("efficientdet_300e")) == ["epochs: 600 -> 300"]


def test_one_gpu_takes_an_eighth_of_the_rate() -> None:
    """PaddleDetection's advice for PAFNet on one of its eight GPUs of 18 images."""
    assert recipe("pafnet_10x").changed(batch_size=18).scaled_learning_rate == pytest.approx(0.015 / 8)


def test_linear_rule() -> None:
    """0.01 at 16 images: a quarter of it at 4, and 4 batches of 4 per step are 16 images again."""
    config = recipe("mmdet_1x")
    assert config.scaled_learning_rate == 0.01
    assert config.changed(batch_size=4).scaled_learning_rate == pytest.approx(0.0025)
    assert config.changed(batch_size=4, accumulate=4).scaled_learning_rate == 0.01
    assert config.changed(batch_size=4, base_batch_size=0).scaled_learning_rate == 0.01


def test_the_rate_of_adamw_follows_the_root_of_the_images() -> None:
    """Malladi et al., arXiv 2205.10287: with the noise of the gradients half as large, the square root of the rate."""
    config = recipe("deformable_detr_50e")
    assert (config.optimizer, config.step_size, config.scaled_learning_rate) == ("adamw", 32, 2e-4)
    assert config.changed(batch_size=8).scaled_learning_rate == pytest.approx(1e-4)
    assert config.changed(batch_size=8, accumulate=16).scaled_learning_rate == pytest.approx(4e-4)
    assert config.changed(batch_size=8, base_batch_size=0).scaled_learning_rate == 2e-4


def test_yolo_rates_do_not_depend_on_the_batch_but_the_decay_does() -> None:
    """The loss is a sum over images. Decay 5e-4 at 64: an eighth of it at 8 images, all of it at 8 batches of 8."""
    config = recipe("yolor_300e")
    assert (config.scaled_learning_rate, config.scaled_weight_decay) == (0.01, 5e-4)
    assert config.changed(batch_size=8).scaled_learning_rate == 0.01
    assert config.changed(batch_size=8).scaled_weight_decay == pytest.approx(5e-4 / 8)
    assert config.changed(batch_size=8, accumulate=8).scaled_weight_decay == 5e-4
    assert recipe("mmdet_1x").changed(batch_size=4).scaled_weight_decay == 1e-4


def test_differences_leave_out_what_no_weight_depends_on() -> None:
    config = TrainConfig()
    assert config.differences(config.changed(workers=4, out=Path("elsewhere"), save_every=7)) == []
    assert config.differences(config.changed(seed=3, epochs=50)) == ["epochs: 60 -> 50", "seed: 0 -> 3"]
