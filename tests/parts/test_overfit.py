"""Every head, some behind Dynamic Head, learns two photographs by heart. DETR, which would need hours, learns two
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
NARROW = {"norm": "eval", "channels": 64}
ARGUMENTS = {
    "atss_r18_fpn_dyhead": {**NARROW, "blocks": 1},
    "fcos_r18_fpn": NARROW,
    "retinanet_r18_fpn": NARROW,
    "reppoints_r18_fpn": NARROW,
    "faster_rcnn_r18_fpn": NARROW,
    "cascade_rcnn_r18_fpn_dyhead_roi": {**NARROW, "blocks": 1},
    "ttfnet_r18": {"norm": "eval"},
    "yolor_s": {"width": 0.125},
    "atss_swin_nano_fpn_dyhead": {**NARROW, "blocks": 1},
    "atss_vit_tiny_dyhead": {"channels": 64, "blocks": 1},
    "efficientdet_tiny": {},
    "deformable_detr_tiny": NARROW,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ARGUMENTS)
def test_learns_two_photographs(name):
    """In at most 200 steps; most heads need 60 to 100, Swin and ViT 140 to 180."""
    torch.manual_seed(0)
    data = open_splits(DATA)["val"].subset([0, 1], "two")
    model = headway.create_model(name, class_names=data.class_names, input_size=(160, 160), **ARGUMENTS[name])
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = max(module.momentum, 0.1)  # YOLO's 0.03 counts on thousands of steps
    batch = next(iter(make_loader(data, model.card, batch_size=2, train=False)))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    for step in range(1, 201):
        model.train()
        optimizer.zero_grad()
        model.loss(model(to_model_input(batch, "cpu"), batch.sizes, batch.targets), batch.targets).total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        if step % 10 == 0 and step > 40:
            metrics = evaluate_model(model.eval(), data, batch_size=2)
            if metrics.ap50 > 0.8:
                return
    pytest.fail(str(metrics.summary()))
