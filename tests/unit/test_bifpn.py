"""BiFPN and what else EfficientDet brought: plan, fusion, sizes, initial weights, anchors, loss."""

import pytest
import timm
import torch
from timm.layers import create_pool2d
from torch import nn

import headway
from headway.assign import NEGATIVE, max_iou
from headway.backbones.efficientnet import EfficientNetBackbone
from headway.errors import HeadwayError
from headway.heads.parts import SeparableTower
from headway.losses import huber_of_nonzero
from headway.models.scaling import compound_scaling
from headway.necks.bifpn import BiFPN, cell_plan, halve
from headway.priors import shaped_anchors
from headway.types import Levels, Priors


def halving(*channels: int) -> Levels:
    """Maps of these channels, from stride 8 on."""
    return Levels(tuple(8 * 2**i for i in range(len(channels))), channels)


# ----------------------------------------------------------------------------------------------------------- neck
def test_the_plan_is_the_published_one():
    """P3..P7 are 0..4, then the nodes in order: P6'(3,4)=5, P5'(2,5)=6, P4'(1,6)=7, P3"(0,7)=8, and so on."""
    assert cell_plan(5) == [
        (3, (3, 4)), (2, (2, 5)), (1, (1, 6)), (0, (0, 7)),
        (1, (1, 7, 8)), (2, (2, 6, 9)), (3, (3, 5, 10)), (4, (4, 11)),
    ]  # fmt: skip


def test_every_use_of_a_backbone_map_has_its_own_projection_in_the_first_cell():
    neck = BiFPN(halving(40, 112, 320))
    assert sum(p.numel() for p in neck.parameters()) == 196_281  # of D0, published
    first, second = neck.cells[0], neck.cells[1]
    used = [key for node in first.nodes for key, part in node.resample.items() if isinstance(part.conv, nn.Conv2d)]
    assert sorted(used) == ["0", "1", "1", "2", "2"]
    assert not any(isinstance(part.conv, nn.Conv2d) for node in second.nodes for part in node.resample.values())
    assert [len(node.weights) for node in first.nodes] == [2, 2, 2, 2, 3, 3, 3, 2]


@pytest.mark.parametrize(
    ("fusion", "weights", "expected"),
    [
        ("fast", [1.0, 3.0, -2.0], [1 / 4.0001, 3 / 4.0001, 0.0]),
        ("fast", [-1.0, -1.0, -1.0], [0.0, 0.0, 0.0]),
        ("softmax", [0.0, 0.6931471806, 0.0], [0.25, 0.5, 0.25]),
        ("sum", None, [1.0, 1.0, 1.0]),
    ],
)
def test_fusion(fusion, weights, expected):
    """A node that passes on what it has fused: SiLU, a convolution and a norm that change nothing are put in."""
    node = (
        BiFPN(halving(8, 8, 8), channels=8, levels=3, cells=1, fusion=fusion).cells[0].nodes[2]
    )  # of the middle level, three inputs
    node.act = node.conv = node.norm = nn.Identity()
    if weights is None:
        assert node.weights is None
    else:
        node.weights.data = torch.tensor(weights)
    maps = [torch.rand(1, 8, 4, 4), torch.rand(1, 8, 4, 4), torch.rand(1, 8, 8, 8)]
    finer = halve(maps[2])
    total = expected[0] * maps[0] + expected[1] * maps[1] + expected[2] * finer
    torch.testing.assert_close(node(maps), total)


@pytest.mark.parametrize("size", [(64, 96), (33, 47), (1, 1), (2, 5)])
def test_sizes_are_halved_rounded_up(size):
    neck = BiFPN(halving(4, 6, 8), channels=8, levels=6, cells=2).eval()
    sizes = [size]
    for _ in range(5):
        sizes.append(tuple(-(-side // 2) for side in sizes[-1]))
    maps = [torch.rand(2, c, *s) for c, s in zip((4, 6, 8), sizes)]
    with torch.no_grad():
        assert [tuple(x.shape) for x in neck(maps)] == [(2, 8, *s) for s in sizes]
        x = torch.rand(1, 3, *size) - 2
        for symmetric, padding in ((False, "same"), (True, "")):
            assert torch.equal(halve(x, symmetric), create_pool2d("max", 3, stride=2, padding=padding)(x))


def test_a_neck_without_cells_is_refused():
    with pytest.raises(ValueError, match="at least one cell, got 0"):
        BiFPN(halving(4, 6, 8), channels=8, cells=0)


# ------------------------------------------------------------------------------------------------- head and losses
def test_levels_share_convolutions_but_not_norms():
    tower = SeparableTower(8, 2, 3, act=nn.SiLU, norm=nn.BatchNorm2d, bias=True).eval()
    x = torch.rand(1, 8, 5, 5)
    with torch.no_grad():
        same = tower(x, 0), tower(x, 2)
        tower.norms[1][2].weight.fill_(0.5)
        assert torch.equal(*same)
        assert torch.equal(tower(x, 0), same[0])
        assert not torch.allclose(tower(x, 2), same[1])


def test_huber_of_nonzero():
    """d = 0.04: 0.0008. d = 0.3: 0.1 (0.3 - 0.05) = 0.025. A target of exactly 0 counts nothing, whatever is said."""
    predicted = torch.tensor([[0.54, 1.3, 7.0, -1.0]])
    target = torch.tensor([[0.5, 1.0, 0.0, -1.0]])
    torch.testing.assert_close(huber_of_nonzero(predicted, target), torch.tensor([0.0258]))


def test_a_box_is_rescued_by_its_first_best_anchor_and_the_first_box_wins():
    """Anchors 0 and 1 are equal and lie half on box 0 (IoU 1/3), as on its twin 1; box 2 touches nothing."""
    anchors = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10], [50, 50, 60, 60]])
    priors = Priors(anchors, torch.full((3,), 8.0), (3,))
    boxes = torch.tensor([[5.0, 0, 15, 10], [5, 0, 15, 10], [90, 90, 95, 95]])
    assert max_iou(priors, boxes, negative_iou=0.5, ties=False).tolist() == [0, NEGATIVE, NEGATIVE]
    assert max_iou(priors, boxes, negative_iou=0.5).tolist() == [1, 1, NEGATIVE]
    assert max_iou(priors, boxes[:0], ties=False).tolist() == [NEGATIVE] * 3


def test_anchors():
    """The first of D0 are the 32 pixel square at (4, 4) and the 44.8 x 22.4 one."""
    priors = shaped_anchors([(2, 3)], [8], torch.device("cpu"), shapes=[(4.0, 4.0), (5.6, 2.8)])
    assert priors.boxes.shape == (12, 4)
    torch.testing.assert_close(priors.boxes[0], torch.tensor([-12.0, -12, 20, 20]))
    torch.testing.assert_close(priors.boxes[1], torch.tensor([-18.4, -7.2, 26.4, 15.2]))
    torch.testing.assert_close(priors.boxes[-2], torch.tensor([4.0, -4, 36, 28]))


# --------------------------------------------------------------------------------------------------------- scaling
@pytest.mark.parametrize(("name", "width", "depth"), [("b0", 1.0, 1.0), ("b4", 1.4, 1.8), ("b7", 2.0, 3.1)])
def test_a_scaled_efficientnet_is_timms(name, width, depth):
    with torch.device("meta"):
        expected = timm.create_model(f"tf_efficientnet_{name}", features_only=True, out_indices=(2, 3, 4))
        backbone = EfficientNetBackbone(width=width, depth=depth)
    assert backbone.channels == tuple(expected.feature_info.channels())
    assert backbone.strides == (8, 16, 32)
    shapes = {key: value.shape for key, value in backbone.body.state_dict().items()}
    assert shapes == {key: value.shape for key, value in expected.state_dict().items()}


def test_a_scaled_efficientnet_computes_what_timms_does():
    expected = timm.create_model("tf_efficientnet_b0", features_only=True, out_indices=(2, 3, 4)).eval()
    backbone = EfficientNetBackbone().eval()
    backbone.body.load_state_dict(expected.state_dict())
    images = torch.randn(1, 3, 65, 97)
    with torch.no_grad():
        for mine, theirs in zip(backbone(images), expected(images)):
            torch.testing.assert_close(mine, theirs)


def test_factors_that_build_nothing_are_refused():
    with pytest.raises(HeadwayError, match=r"width and depth must be from 0\.1 to 8, got 0 and 1"):
        headway.create_model("efficientdet_scaled", width=0.0)


def test_the_formula_and_its_exceptions():
    """64 x 1.35^c: 64, 86.4, 116.6, 157.5, 212.6, 287.0, 387.4, 523.0 to multiples of 8."""

    def column(key: str, published: bool, default: object = None) -> list:
        rows = [compound_scaling(c, published=published)[1] for c in range(9 if published else 8)]
        return [row.get(key, default) for row in rows]

    assert column("bifpn.channels", False) == [64, 88, 120, 160, 216, 288, 384, 520]
    assert column("cells", False) == [3, 4, 5, 6, 7, 8, 9, 10]
    assert column("tower_depth", False) == [3, 3, 3, 4, 4, 4, 5, 5]
    assert [h for h, _ in column("input_size", False)] == [512, 640, 768, 896, 1024, 1152, 1280, 1408]
    assert column("bifpn.channels", True) == [64, 88, 112, 160, 224, 288, 384, 384, 384]
    assert column("cells", True) == [3, 4, 5, 6, 7, 7, 8, 8, 8]
    assert column("tower_depth", True) == [3, 3, 3, 4, 4, 4, 5, 5, 5]
    assert [h for h, _ in column("input_size", True)] == [512, 640, 768, 896, 1024, 1280, 1280, 1536, 1536]
    assert column("fusion", True, "fast") == ["fast"] * 6 + ["sum"] * 3
    assert column("anchor_scale", True, 4.0) == [4.0] * 7 + [5.0, 4.0]
    assert column("bifpn.levels", True, 5) == [5] * 8 + [6]
    sizes = [0, 1, 2, 3, 4, 5, 6, 6, 7]
    assert [compound_scaling(c)[0] for c in range(9)] == [f"tf_efficientnet_b{n}/bifpn/efficientdet" for n in sizes]
    assert compound_scaling(7, published=False)[0] == "tf_efficientnet_b7/bifpn/efficientdet"
    with pytest.raises(ValueError, match=r"0\.\.8 \(8 is D7x\), got 9"):
        compound_scaling(9)
