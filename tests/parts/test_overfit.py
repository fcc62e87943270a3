"""Every head, with and without Dynamic Head, learns two photographs by heart. DETR, which would need hours, learns two
drawings in its own tests."""

from pathlib import Path

import pytest
import torch

import headway
from headway.data.batch import to_model_input
from headway.data.formats.any_format import open_splits
from headway.data.loader import make_loader
from headway.evaluate.run import evaluate_model

DATA = Path(headway.__file__).parent / "assets" / "bccd-mini"
STEPS = 80
SLOW = {
    "reppoints_r18_fpn": 150,
    "reppoints_r18_fpn_dyhead": 150,
    "faster_rcnn_r18_fpn_mdconv": 150,
    "yolor_s": 130,
    "deformable_detr_tiny": 110,
    "atss_swin_nano_fpn_dyhead": 130,
    "atss_vit_tiny_dyhead": 200,
}  # steps


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "atss_r18_fpn_dyhead",
        "fcos_r18_fpn",
        "retinanet_r18_fpn_dyhead",
        "reppoints_r18_fpn",
        "reppoints_r18_fpn_dyhead",
        "faster_rcnn_r18_fpn",
        "faster_rcnn_r18_fpn_mdconv",
        "cascade_rcnn_r18_fpn",
        "cascade_rcnn_r18_fpn_dyhead_roi",
        "ttfnet_r18",
        "ttfnet_r18_dyhead",
        "yolor_s",
        "atss_swin_nano_fpn_dyhead",
        "atss_vit_tiny_dyhead",
        "efficientdet_tiny",
        "deformable_detr_tiny",
    ],
)
def test_learns_two_photographs(name):
    torch.manual_seed(0)
    data = open_splits(DATA)["val"].subset([0, 1], "two")
    arguments = {"norm": "eval", **({"blocks": 1} if "dyhead" in name else {})}
    if name.startswith("yolo"):  # whose norms learn from the two photographs too
        arguments = {"width": 0.125}
    elif name.startswith("efficientdet"):  # likewise
        arguments = {}
    elif "vit" in name:  # without batch norms
        del arguments["norm"]
    elif not name.startswith("ttfnet"):  # whose neck is narrow as published
        arguments["channels"] = 64
    model = headway.create_model(name, class_names=data.class_names, input_size=(240, 240), **arguments)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = max(module.momentum, 0.1)  # YOLO's 0.03 counts on thousands of steps
    batch = next(iter(make_loader(data, model.card, batch_size=2, train=False)))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    model.train()
    for _ in range(SLOW.get(name, STEPS)):
        optimizer.zero_grad()
        model.loss(model(to_model_input(batch, "cpu"), batch.sizes, batch.targets), batch.targets).total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
    metrics = evaluate_model(model.eval(), data, batch_size=2)
    assert metrics.ap50 > 0.8, metrics.summary()
