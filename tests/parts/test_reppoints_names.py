"""What is of RepPoints alone: equal points, and the names of mmdetection."""

import grid
import pytest
import torch
from grid import images_of, target

import headway
from headway.convert import from_upstream
from headway.errors import CheckpointError


def test_points_that_all_lie_in_one_place_train():
    """A head whose first points are its biases, and those all equal: the standard deviation's derivative would be
    infinite there."""
    model = grid.compose(grid.small("toy/fpn/reppoints"))
    for layer in (model.head.pts_init, model.head.pts_refine):
        torch.nn.init.zeros_(layer.weight)
    losses = model.loss(model(images_of(1)), [target([[10, 20, 60, 80], [0, 0, 96, 64]])])
    losses.total.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
    assert model.head.pts_init.weight.grad.any()


HEAD_NAMES = {
    "pts_init_conv": "reppoints_pts_init_conv", "pts_init": "reppoints_pts_init_out",
    "cls_conv": "reppoints_cls_conv", "cls": "reppoints_cls_out",
    "pts_refine_conv": "reppoints_pts_refine_conv", "pts_refine": "reppoints_pts_refine_out",
}  # fmt: skip


def upstream_name(key: str) -> str:
    """Our key -> mmdetection's, written out by hand."""
    parts = key.split(".")
    if parts[0] == "backbone":
        return "backbone." + ".".join(parts[2:])
    if parts[0] == "neck":
        index = int(parts[2]) + (3 if parts[1] == "extras" else 0)
        place = "lateral_convs" if parts[1] == "laterals" else "fpn_convs"
        return f"neck.{place}.{index}.{'gn' if parts[3] == 'norm' else 'conv'}.{parts[-1]}"
    if key == "head.moment":
        return "bbox_head.moment_transfer"
    if parts[1] in ("cls_tower", "box_tower"):
        tower = "cls_convs" if parts[1] == "cls_tower" else "reg_convs"
        return f"bbox_head.{tower}.{parts[2]}.{'gn' if parts[3] == 'norm' else 'conv'}.{parts[-1]}"
    return f"bbox_head.{HEAD_NAMES[parts[1]]}.{parts[2]}"


@pytest.mark.parametrize("tag", ["mmdet", "mmdet_gn"])
def test_mmdetection_names_fill_every_key_and_no_more(tag):
    torch.manual_seed(0)
    model = headway.create_model(f"reppoints_r50_fpn.{tag}", backbone="resnet18", num_classes=2, channels=32)
    ours = {key: torch.randn(value.shape) for key, value in model.state_dict().items() if value.is_floating_point()}
    upstream = {upstream_name(key): value for key, value in ours.items()}
    assert len(upstream) == len(ours)
    converted = from_upstream(upstream, "mmdet", model)
    model.load_state_dict(converted)
    assert all(torch.equal(converted[key], value) for key, value in ours.items())
    upstream["bbox_head.reppoints_cls_conv.bias"] = torch.zeros(32)
    with pytest.raises(CheckpointError, match=r"model lacks: bbox_head\.reppoints_cls_conv\.bias"):
        from_upstream(upstream, "mmdet", model)
