"""effdet's EfficientDets with random weights that find many distinct things, and ours with the same weights."""

from typing import Any

import effdet
import torch
from effdet.bench import DetBenchPredict, DetBenchTrain
from timm.layers import DropPath
from torch import Tensor, nn

import headway
from headway.convert import from_upstream

CLASSES = 90


def build(size: str, image_size: tuple[int, int], seed: int = 0, **changes: Any) -> nn.Module:
    """`tf_efficientdet_<size>` for pictures of `image_size` (height, width); changes: of its configuration."""
    config = effdet.get_efficientdet_config(f"tf_efficientdet_{size}")
    config.image_size = image_size
    config.update(changes)
    torch.manual_seed(seed)
    model = effdet.EfficientDet(config, pretrained_backbone=False)
    _spread(model, pictures(4, image_size))
    return model.eval()


def ours(name: str, theirs: nn.Module, **arguments: Any) -> headway.detector.Detector:
    """The same network through the converter."""
    model = headway.create_model(name, **arguments)
    model.load_state_dict(from_upstream(theirs.state_dict(), "effdet", model))
    model.normalize = nn.Identity()  # theirs gets normalised pictures
    return model.eval()


def pictures(count: int, size: tuple[int, int]) -> Tensor:
    """Coloured noise from coarse to fine, about as normalised pictures are; fewer are the first of many."""
    generator = torch.Generator().manual_seed(1)
    noise = [[torch.randn(1, 3, n, n, generator=generator) for n in (2, 5, 17, 53)] for _ in range(count)]
    return torch.cat([sum(nn.functional.interpolate(x, size=size, mode="bicubic") for x in row) / 2 for row in noise])


def maps(outputs: tuple[list[Tensor], list[Tensor]]) -> tuple[Tensor, Tensor]:
    """Their maps as our rows: classes [B, A, C], and boxes [B, A, 4] with x before y."""
    classes, boxes = (
        torch.cat([x.permute(0, 2, 3, 1).reshape(len(x), -1, width) for x in part], 1)
        for part, width in zip(outputs, (CLASSES, 4))
    )
    return classes, boxes[..., [1, 0, 3, 2]]


def predict_bench(model: nn.Module) -> nn.Module:
    return DetBenchPredict(model).eval()


def train_bench(model: nn.Module) -> nn.Module:
    return DetBenchTrain(model, create_labeler=True)


@torch.no_grad()
def _spread(model: nn.Module, images: Tensor) -> None:
    """Batch norms with the statistics of `images` and scales of their own, fusion weights that differ (one of them
    negative), and predictions scaled so that scores and box codes are about as wide as a trained model's."""
    norms = {module: module.momentum for module in model.modules() if isinstance(module, nn.BatchNorm2d)}
    for name, module in model.named_modules():
        if module in norms:
            module.momentum = 1.0
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.normal_(module.bias, std=0.2)
        if getattr(module, "edge_weights", None) is not None:
            nn.init.uniform_(module.edge_weights, -0.1 if name.endswith("3.combine") else 0.3, 1.5)
    model.train()
    for module in model.modules():
        module.train(not isinstance(module, DropPath))
    outputs = model(images)
    for net, values, deviation, mean in (
        (model.class_net, outputs[0], 1.0, -4.6), (model.box_net, outputs[1], 0.3, 0.0)
    ):  # fmt: skip
        prediction = net.predict.conv_pw
        prediction.weight.mul_(deviation / torch.cat([x.flatten() for x in values]).std())
        prediction.bias.normal_(mean, 0.1)
    for norm, momentum in norms.items():
        norm.momentum = momentum
