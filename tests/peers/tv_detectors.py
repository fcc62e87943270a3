"""torchvision detectors with random weights that find many distinct things, and how their detections are compared."""

from collections.abc import Sequence
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

import headway
from headway.convert import from_upstream
from headway.types import Detections

CLASSES = 5
SHORT = 224


def build(name: str, seed: int = 0, **arguments: Any) -> nn.Module:
    """`name` with random weights and statistics. Its own resize leaves pictures alone whose short side is SHORT."""
    torch.manual_seed(seed)
    builder = getattr(torchvision.models.detection, name)
    model = builder(
        weights=None,
        weights_backbone=None,
        num_classes=CLASSES + first_label(name),
        min_size=SHORT,
        max_size=4 * SHORT,
        **arguments,
    )
    _measure_statistics(model)
    return model.eval()


def first_label(name: str) -> int:
    """torchvision's label of our label 0: its two-stage detectors have an output 0 that means background, and its
    one-stage detectors one that is never trained, which we keep."""
    return int(name.startswith("faster"))


def pictures(*sizes: tuple[int, int], seed: int = 1) -> list[Tensor]:
    """Coloured noise from coarse to fine, so that the features of places and scales differ."""
    generator = torch.Generator().manual_seed(seed)
    result = []
    for height, width in sizes:
        layers = [
            nn.functional.interpolate(torch.rand(1, 3, n, n, generator=generator), size=(height, width), mode="bicubic")
            for n in (2, 5, 11, 31, 97)
        ]
        result.append((sum(layers)[0] / len(layers)).clamp(0, 1))
    return result


@torch.no_grad()
def _measure_statistics(model: nn.Module) -> None:
    """Give the batch norms the statistics of a picture, and let residual branches add little: so 50 random layers
    neither fade nor explode, nor make a difference in the last bit a thousand times larger."""
    for name, norm in model.named_modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = 1.0
            low, high = (0.1, 0.3) if name.endswith("bn3") else (0.5, 1.0)
            nn.init.uniform_(norm.weight, low, high)
            nn.init.normal_(norm.bias, std=0.2)
    model.train()
    images, _ = model.transform(pictures((SHORT, 2 * SHORT), (SHORT, 2 * SHORT), seed=2))
    features = list(model.backbone(images.tensors).values())
    if hasattr(model, "roi_heads"):
        model.roi_heads.box_head(torch.cat([nn.functional.adaptive_avg_pool2d(x, 7) for x in features]))
    model.eval()


@torch.no_grad()
def spread(model: nn.Module, aims: dict[str, tuple[float, float]], images: Sequence[Tensor]) -> None:
    """Scale each predictor, so that over `images` all channels have the mean and together the deviation of `aims`."""
    for path, (mean, deviation) in aims.items():
        layer, seen = model.get_submodule(path), []
        hook = layer.register_forward_hook(lambda _, __, x, seen=seen: seen.append(x.transpose(0, 1).flatten(1)))
        model(list(images))
        hook.remove()
        values = torch.cat(seen, 1)
        middle = values.mean(1)
        factor = deviation / (values - middle[:, None]).std()
        layer.weight *= factor
        layer.bias.copy_((layer.bias - middle) * factor + mean)


def ours(model: nn.Module, tag: str, **arguments: Any) -> headway.Detector:
    """The tag's architecture with the weights of `model`."""
    detector = headway.create_model(tag, **arguments)
    detector.load_state_dict(from_upstream(model.state_dict(), "torchvision", detector))
    return detector.eval()


def batch(images: Sequence[Tensor], detector: headway.Detector) -> tuple[Tensor, Tensor]:
    """Pictures padded as the card says, and their sizes."""
    multiple = detector.card.pad_multiple
    height, width = (-(-max(x.shape[i] for x in images) // multiple) * multiple for i in (1, 2))
    padded = torch.tensor(detector.card.pad_value).view(1, 3, 1, 1).repeat(len(images), 1, height, width)
    for row, image in zip(padded, images):
        row[:, : image.shape[1], : image.shape[2]] = image
    return padded, torch.tensor([x.shape[1:] for x in images])


def differences(theirs: dict[str, Tensor], found: Detections, first: int) -> tuple[float, float]:
    """The largest difference of coordinates and of scores between detections paired by label and nearness.

    Raises AssertionError where one has no partner, unless it ties with the last that is kept: of two whose scores
    differ by less than rounding either may be the last.
    """
    assert len(theirs["boxes"]) == len(found), (len(theirs["boxes"]), len(found))
    free = torch.ones(len(found), dtype=torch.bool)
    worst_box = worst_score = 0.0
    last = theirs["scores"].min() + 1e-5
    for box, score, label in zip(theirs["boxes"], theirs["scores"], theirs["labels"]):
        off = (found.boxes - box).abs().amax(1) + (found.scores - score).abs()
        off[~free | (found.labels != label - first)] = torch.inf
        partner = int(off.argmin())
        if off[partner] > 1 and score < last:
            continue
        assert off[partner] < 1, (box, score, label, float(off[partner]))
        free[partner] = False
        worst_box = max(worst_box, float((found.boxes[partner] - box).abs().max()))
        worst_score = max(worst_score, float((found.scores[partner] - score).abs()))
    return worst_box, worst_score
