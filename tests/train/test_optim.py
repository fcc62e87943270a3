"""Parameter groups, schedules against torch's own, and the running mean against its definition."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, MultiStepLR, SequentialLR

import headway as library
from headway.errors import HeadwayError
from headway.layers.implicit import Implicit
from headway.train import TrainConfig, recipe
from headway.train.optim import (
    ema_decay,
    make_ema,
    make_optimizer,
    make_schedule,
    momentum_at,
    parameter_groups,
    rate_factor,
    warmup_length,
)

from .tiny import make_model


def rates(schedule: object, optimizer: torch.optim.Optimizer, steps: int) -> list[float]:
    values = []
    for _ in range(steps):
        values.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return values


def plain_optimizer(rate: float) -> SGD:
    return SGD([nn.Parameter(torch.zeros(1))], lr=rate)


def test_multistep_with_warmup_equals_torch() -> None:
    """mmdetection runs LinearLR and MultiStepLR at once, each multiplying the rate."""
    config, steps_per_epoch, total = recipe("mmdet_1x").changed(warmup_steps=20), 10, 120
    ours = plain_optimizer(0.01)
    got = rates(make_schedule(ours, total, steps_per_epoch, config), ours, total)

    theirs = plain_optimizer(0.01)
    warm = LinearLR(theirs, start_factor=0.001, total_iters=20)
    steps = MultiStepLR(theirs, [80, 110], gamma=0.1)

    class Both:
        def step(self) -> None:
            warm.step()
            steps.step()

    assert got == pytest.approx(rates(Both(), theirs, total), rel=1e-9)
    assert got[0] == pytest.approx(1e-5)
    assert got[79] == pytest.approx(1e-2)
    assert got[80] == pytest.approx(1e-3)
    assert got[110] == pytest.approx(1e-4)


def test_cosine_with_warmup_equals_torch() -> None:
    config = TrainConfig(warmup_steps=10, warmup_factor=0.01, final_factor=0.05)
    ours = plain_optimizer(0.5)
    got = rates(make_schedule(ours, 100, 10, config), ours, 100)

    theirs = plain_optimizer(0.5)
    warm = LinearLR(theirs, start_factor=0.01, total_iters=10)
    cosine = CosineAnnealingLR(theirs, T_max=90, eta_min=0.025)
    assert got == pytest.approx(rates(SequentialLR(theirs, [warm, cosine], [10]), theirs, 100), rel=1e-6)
    assert rate_factor(100, 100, 10, config) == pytest.approx(0.05)


def test_warmup_takes_at_most_a_quarter_of_the_run() -> None:
    config = TrainConfig(warmup_steps=500)
    assert rate_factor(10, 40, 10, config) == 1.0
    assert rate_factor(9, 40, 10, config) < 1.0


def test_groups_follow_shape_and_place() -> None:
    model = make_model()
    config = TrainConfig(
        weight_decay=0.1, backbone_lr_factor=0.1, learning_rate=1.0, batch_size=8, base_batch_size=16, optimizer="sgd"
    )
    where = {id(p): group for group in parameter_groups(model, config) for p in group["params"]}
    assert len(where) == len(list(model.parameters()))
    kernel, bias, norm = model.backbone.body[0].weight, model.backbone.body[0].bias, model.backbone.body[1].weight
    assert where[id(kernel)]["weight_decay"] == 0.1
    assert where[id(kernel)]["lr"] == pytest.approx(0.05)
    assert where[id(bias)]["weight_decay"] == where[id(norm)]["weight_decay"] == where[id(model.head.scale)][
        "weight_decay"
    ] == 0.0  # fmt: skip
    assert where[id(model.head.classes.weight)]["lr"] == 0.5
    everything = parameter_groups(model, config.changed(decay_norm_and_bias=True))
    assert {group["weight_decay"] for group in everything} == {0.1}


@pytest.mark.parametrize("factor", [1.0, 0.1])
def test_offset_convolutions_can_learn_at_their_own_rate(factor: float) -> None:
    """The factor multiplies the backbone's, 0.5 * 0.1 = 0.05; at 1 the groups are those of a plain model, so that older
    runs resume."""
    model = library.create_model("retinanet_r18_fpn_dyhead", num_classes=2, blocks=1, channels=32, dcn="c5")
    config = TrainConfig(
        learning_rate=1.0, base_batch_size=0, backbone_lr_factor=0.5, offset_lr_factor=factor, weight_decay=0.1
    )
    groups = parameter_groups(model, config)
    names = {id(p): name for name, p in model.named_parameters()}
    rates = {names[id(p)]: (g["lr"], g["weight_decay"], g["name"]) for g in groups for p in g["params"]}
    assert set(rates) == set(names.values())
    offset, ahead = "backbone.body.layer4.1.conv2.conv_offset", "neck.1.blocks.0.spatial.offset"
    if factor == 1.0:
        assert len(groups) == 4
        assert rates[f"{offset}.weight"][0] == 0.5
    else:
        assert len(groups) == 8
        assert rates[f"{offset}.weight"] == (pytest.approx(0.05), 0.1, "backbone, decayed, offsets")
        assert rates[f"{offset}.bias"] == (pytest.approx(0.05), 0.0, "backbone, not decayed, offsets")
        assert rates[f"{ahead}.weight"] == (pytest.approx(0.1), 0.1, "head, decayed, offsets")
        assert {n for n, row in rates.items() if row[2].endswith("offsets")} == {
            n for n in rates if "conv_offset" in n or "spatial.offset" in n
        }
    assert rates["backbone.body.layer4.1.conv2.conv.weight"][0] == 0.5
    assert rates["neck.1.blocks.0.spatial.mid.conv.weight"][0] == 1.0
    assert rates[f"{ahead}.weight"][0] == pytest.approx(factor)


@pytest.mark.parametrize(("model", "blocks"), [
    ("atss_vit_tiny", {"backbone.blocks"}),
    ("atss_swin_nano_fpn_dyhead", {f"backbone.body.layers_{stage}.blocks" for stage in range(4)}),
    ("resnet18/project/detr", {"head.encoder", "head.decoder"}),
    ("resnet18/level_projection/deformable_detr", {"head.encoder", "head.decoder"}),
    ("atss_r18_fpn_dyhead", set()),  # whose attentions are convolutions
])  # fmt: skip
def test_transformer_blocks_learn_at_a_rate_of_their_own(model: str, blocks: set[str]) -> None:
    """All of a block, its norms and its layers between tokens too, and nothing around it. Not where it is published."""
    network = library.create_model(model, num_classes=2)
    names = {id(p): name for name, p in network.named_parameters()}
    for config, factor in ((TrainConfig(), 0.4), (recipe("detr_150e"), 1.0), (recipe("finetune"), 1.0)):
        config = config.changed(learning_rate=1.0, backbone_lr_factor=1.0, offset_lr_factor=1.0, base_batch_size=0)
        groups = parameter_groups(network, config)
        rates = {names[id(p)]: g["lr"] for g in groups for p in g["params"]}
        inside = {name for name in rates if any(name.startswith(f"{block}.") for block in blocks)}
        assert {rates[name] for name in inside} == ({factor} if blocks else set())
        assert {rates[name] for name in rates.keys() - inside} == {1.0}
        assert bool(inside) == bool(blocks)


@pytest.mark.parametrize("form", ["released", "paper"])
def test_what_says_where_to_read_learns_at_a_tenth_by_default(form: str) -> None:
    """The offsets of both forms of Dynamic Head. A published schedule trains all of it at one rate."""
    model = library.create_model("retinanet_r18_fpn_dyhead", num_classes=2, blocks=1, channels=32, form=form)
    names = {id(p): name for name, p in model.named_parameters()}
    for config, factor in ((TrainConfig(), 0.1), (recipe("dyhead_1x"), 1.0), (recipe("dyhead_swin_t_2x"), 1.0)):
        rates = {names[id(p)]: g["lr"] for g in parameter_groups(model, config) for p in g["params"]}
        usual = rates["head.cls.weight"]
        assert [rates[n] for n in rates if ".offset." in n] == pytest.approx([usual * factor] * 2)


def test_deformable_detr_learns_at_its_published_rates() -> None:
    """A tenth for the backbone and wherever it is said where to read (main.py of its authors, lr_backbone and
    lr_linear_proj_mult), decay on everything; at four times the images twice the rates."""
    with torch.device("meta"):
        model = library.create_model("deformable_detr_r50", norm="batch")
    config = recipe("deformable_detr_50e").changed(batch_size=128)
    groups = parameter_groups(model, config)
    names = {id(p): name for name, p in model.named_parameters()}
    rates = {names[id(p)]: group["lr"] for group in groups for p in group["params"]}
    slow = {name for name, rate in rates.items() if rate == pytest.approx(4e-5)}
    assert {round(rate, 9) for name, rate in rates.items() if name not in slow} == {4e-4}
    kinds = {name.split(".")[0 if name.startswith("backbone") else -2] for name in slow}
    assert kinds == {"backbone", "sampling_offsets", "reference_points"}
    assert len([name for name in slow if "sampling_offsets.weight" in name]) == 12
    assert {group["weight_decay"] for group in groups} == {1e-4}


def test_position_tables_are_not_decayed() -> None:
    """Swin's and ViTDet's tables have two dimensions and more; everything else of more than one is decayed."""
    for name in ("atss_swin_nano_fpn", "faster_rcnn_vit_b"):
        with torch.device("meta"):
            model = library.create_model(name)
        groups = parameter_groups(model, TrainConfig(weight_decay=0.05))
        names = {id(p): name for name, p in model.named_parameters()}
        free = {names[id(p)] for g in groups for p in g["params"] if g["weight_decay"] == 0.0 and p.ndim > 1}
        kinds = {name.rsplit(".", 1)[1] for name in free}
        if "swin" in name:
            assert kinds == {"relative_position_bias_table"}
            assert len(free) == 10
        else:
            assert kinds == {"pos_embed", "rel_pos_h", "rel_pos_w"}
            assert len(free) == 25


def test_blocks_of_a_vit_can_learn_at_falling_rates() -> None:
    """ViTDet-B, decay 0.7 over 12 blocks: 0.7 in the last, 0.7^12 in the first, 0.7^13 in front of it, 1 behind."""
    with torch.device("meta"):
        model = library.create_model("faster_rcnn_vit_b")
    config = TrainConfig(
        learning_rate=1.0, base_batch_size=0, layer_lr_factor=0.7, backbone_lr_factor=0.5, attention_lr_factor=1.0
    )
    names = {id(p): name for name, p in model.named_parameters()}
    rates = {names[id(p)]: g["lr"] for g in parameter_groups(model, config) for p in g["params"]}
    assert rates["backbone.blocks.11.mlp.fc1.weight"] == pytest.approx(0.5 * 0.7)
    assert rates["backbone.blocks.0.norm1.bias"] == pytest.approx(0.5 * 0.7**12)
    assert rates["backbone.pos_embed"] == rates["backbone.patch_embed.proj.weight"] == pytest.approx(0.5 * 0.7**13)
    assert {rate for name, rate in rates.items() if not name.startswith("backbone.")} == {1.0}
    with pytest.raises(HeadwayError, match="layer_lr_factor needs a ViT"):
        parameter_groups(make_model(), config)


def test_biases_can_learn_at_their_own_rate() -> None:
    """Twice the rate of what is around them, 2 * 0.1 in the backbone; at 1 there are no groups of their own."""
    model = make_model()
    config = TrainConfig(learning_rate=1.0, base_batch_size=0, backbone_lr_factor=0.1, bias_lr_factor=2.0)
    names = {id(p): name for name, p in model.named_parameters()}
    rates = {names[id(p)]: g["lr"] for g in parameter_groups(model, config) for p in g["params"]}
    for name, rate in rates.items():
        around = 0.1 if name.startswith("backbone.") else 1.0
        assert rate == pytest.approx(around * (2 if name.endswith(".bias") else 1)), name
    assert sum(name.endswith(".bias") for name in rates) >= 4
    assert len(parameter_groups(model, config.changed(bias_lr_factor=1.0))) == 4


@pytest.mark.parametrize("model", ["vector", "network", "factors"])
def test_implicit_parameters_are_never_decayed(model: str) -> None:
    """They have two to four dimensions, so that shape alone would not tell; the convolution beside them is decayed."""
    net = nn.Sequential(nn.Conv2d(3, 4, 1), Implicit(4, "add", model), nn.Sequential(Implicit(4, "mul", model)))
    for decay_everything in (False, True):
        config = TrainConfig(weight_decay=0.1, decay_norm_and_bias=decay_everything)
        decay = {id(p): group["weight_decay"] for group in parameter_groups(net, config) for p in group["params"]}
        assert decay[id(net[0].weight)] == 0.1
        implicit = [*net[1].parameters(), *net[2].parameters()]
        assert any(p.ndim > 1 for p in implicit)
        assert {decay[id(p)] for p in implicit} == {0.0}


def test_yolo_groups_biases_of_their_own() -> None:
    """Three kinds, as published: decayed kernels, norms without decay, biases without decay; each in backbone and head
    here. Their rates start apart, the biases' at ten times the peak."""
    config = recipe("yolor_300e").changed(epochs=16)
    optimizer = make_optimizer(make_model(), config)
    kinds = {g["name"].split(", ", 1)[1]: g["weight_decay"] for g in optimizer.param_groups}
    assert kinds == {"decayed": 5e-4, "not decayed": 0.0, "not decayed, biases": 0.0}
    assert all(g["nesterov"] for g in optimizer.param_groups)
    make_schedule(optimizer, 16 * 2000, 2000, config)
    assert {g["name"].endswith("biases"): g["lr"] for g in optimizer.param_groups} == {False: 0.0, True: 0.1}


def test_yolo_schedule_is_the_published_one() -> None:
    """0.01 (0.2 + 0.8 (1 + cos(pi e / E)) / 2). By hand: the cosine is 0 at epoch 150 of 300, so 0.006; -0.5 at 300 of
    450, so 0.004; the values at 299 and 424 of 450 are those recorded from the published schedule."""
    config, steps = recipe("yolor_300e").changed(warmup_epochs=0.0, warmup_steps=0), 10
    whole = config.changed(epochs=450)

    def rate(epoch: int, config: TrainConfig, step: int = 0) -> float:
        return 0.01 * rate_factor(epoch * steps + step, config.epochs * steps, steps, config)

    assert [rate(e, config) for e in (0, 150)] == pytest.approx([0.01, 0.006], rel=1e-9)
    assert rate(299, config) == pytest.approx(0.0020, abs=5e-6)
    assert rate(299, whole) == pytest.approx(0.004024, abs=5e-7)
    assert rate(424, whole) == pytest.approx(0.002066, abs=5e-7)
    assert rate(150, config, steps - 1) == rate(150, config)  # constant within an epoch
    second, third = recipe("yolor_finetune_125e"), recipe("yolor_finetune_25e")
    assert second.schedule_start + second.epochs == third.schedule_start
    assert rate(0, second) == pytest.approx(0.004)
    assert [rate(e, second) for e in (0, 60, 124)] == pytest.approx([rate(300 + e, whole) for e in (0, 60, 124)])
    assert [rate(e, third) for e in (0, 24)] == pytest.approx([rate(425 + e, whole) for e in (0, 24)])


def test_warmup_in_epochs_of_rates_and_momentum() -> None:
    """3 epochs of 400 steps are 1200, more than the least 1000; halfway the rate is half, that of biases 10 -> 1 and
    momentum 0.8 -> 0.937 are in their middles."""
    config = recipe("yolor_300e")
    run = (300 * 400, 400, config)
    assert warmup_length(*run) == 1200
    assert warmup_length(300 * 100, 100, config) == 1000
    assert rate_factor(600, *run) == pytest.approx(0.5, rel=1e-4)
    assert rate_factor(600, *run, bias=True) == pytest.approx(5.5, rel=1e-4)
    assert rate_factor(1200, *run, bias=True) == rate_factor(1200, *run) == pytest.approx(1.0, rel=1e-3)
    assert [momentum_at(s, *run) for s in (0, 600, 1200, 5000)] == pytest.approx([0.8, 0.8685, 0.937, 0.937])
    assert momentum_at(0, 100, 10, TrainConfig(momentum=0.9)) == 0.9


def test_the_optimizer_takes_the_momentum_of_its_step() -> None:
    """Against a plain SGD whose momentum is set by hand: 4 of 16 steps are warm-up, 0.5, 0.6, 0.7, 0.8, then 0.9."""
    config = TrainConfig(
        optimizer="sgd", learning_rate=0.1, base_batch_size=0, weight_decay=0.0, momentum=0.9, momentum_warmup=0.5,
        nesterov=True, warmup_steps=4, warmup_factor=1.0, final_factor=1.0,
    )  # fmt: skip
    net = nn.Linear(3, 2)
    twin = copy.deepcopy(net)
    ours, plain = make_optimizer(net, config), SGD(twin.parameters(), 0.1, 0.9, nesterov=True)
    schedule = make_schedule(ours, 16, 4, config)
    for step in range(16):
        plain.param_groups[0]["momentum"] = min(0.9, 0.5 + 0.1 * step)
        for model, optimizer in ((net, ours), (twin, plain)):
            model(torch.tensor([[1.0, -2.0, step]])).square().sum().mul(0.01).backward()
            optimizer.step()
            optimizer.zero_grad()
        schedule.step()
    for one, other in zip(net.parameters(), twin.parameters()):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


def test_exponential_warmup_of_the_running_mean() -> None:
    """0.9999 (1 - exp(-n / 2000)) as recorded from the published code: update 1 and update 2000. And by hand over three
    steps with decay 0.5 and 1 step: 0.5 (1 - e^-n) is kept of the mean at update n, but the first, which copies."""
    assert ema_decay(0, 0.9999, 2000) == pytest.approx(0.00049983, abs=1e-8)
    assert ema_decay(1999, 0.9999, 2000) == pytest.approx(0.632057, abs=1e-6)
    net = nn.BatchNorm1d(1)
    ema, expected = make_ema(net, 0.5, 1), 0.0
    for n, value in ((1, 1.0), (2, 4.0), (3, -2.0)):
        with torch.no_grad():
            net.weight.fill_(value)
        ema.update_parameters(net)
        kept = 0.5 * (1 - math.exp(-n)) if n > 1 else 0.0
        expected = kept * expected + (1 - kept) * value
    assert ema.module.weight.item() == pytest.approx(expected, rel=1e-6)


def test_frozen_parameters_stay_out() -> None:
    model = make_model()
    model.backbone.requires_grad_(False)
    groups = parameter_groups(model, TrainConfig())
    assert sum(len(g["params"]) for g in groups) == len(list(model.head.parameters()))
    with pytest.raises(HeadwayError, match="no trainable parameter"):
        make_optimizer(model.requires_grad_(False), TrainConfig())


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_fused_steps_equal_plain_ones_in_channels_last(name: str) -> None:
    """The fused kernels walk over raw memory, which must be right for permuted strides as well."""
    model = make_model(dropout=0.0, frozen_norm=True).train().to(memory_format=torch.channels_last)
    twin = copy.deepcopy(model)
    config = TrainConfig(optimizer=name, learning_rate=0.01, base_batch_size=0, decay_norm_and_bias=True)
    ours = make_optimizer(model, config)
    if name == "sgd":
        plain = SGD(twin.parameters(), lr=0.01, momentum=0.9, weight_decay=0.05, foreach=False)
    else:
        plain = AdamW(twin.parameters(), lr=0.01, weight_decay=0.05, foreach=False)
    images = torch.rand(2, 3, 32, 32).to(memory_format=torch.channels_last)
    for _ in range(4):
        for net, optimizer in ((model, ours), (twin, plain)):
            raw = net(images)
            (raw.logits.square().mean() + raw.sides.square().mean()).backward()
            optimizer.step()
            optimizer.zero_grad()
    for one, other in zip(model.parameters(), twin.parameters()):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


def test_running_mean_follows_its_definition() -> None:
    """By hand: the 0th update copies, the nth keeps min(decay, (1 + n) / (10 + n)): 2/11, 3/12, then the cap 0.3."""
    net = nn.BatchNorm1d(1)
    ema = make_ema(net, 0.3)
    expected = mean_buffer = None
    for kept, value in zip((0.0, 2 / 11, 3 / 12, 0.3, 0.3), (1.0, 4.0, -2.0, 8.0, 0.5)):
        with torch.no_grad():
            net.weight.fill_(value)
            net.running_mean.fill_(-value)
            net.num_batches_tracked.add_(1)
        ema.update_parameters(net)
        expected = value if expected is None else kept * expected + (1 - kept) * value
        mean_buffer = -expected
    assert ema.module.weight.item() == pytest.approx(expected, rel=1e-6)
    assert ema.module.running_mean.item() == pytest.approx(mean_buffer, rel=1e-6)
    assert ema.module.num_batches_tracked.item() == 5
    assert not ema.module.weight.requires_grad
