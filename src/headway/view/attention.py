"""Where a model with attention looks on a photograph: the maps of Dynamic Head (arXiv 2106.08322, figure 5) and
the attention of the tokens of DETR, Swin and ViT.

`look` runs the photograph once and returns sheets, tables of heat maps for `attention_drawing`. `attention_pyramid` and
`attention_tokens` compute them; the gates of the scale attention are in `gates`.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from ..detector import Detector
from ..errors import HeadwayError
from ..predict import ImageLike
from .attention_pyramid import watch_pyramids
from .attention_tokens import watch_tokens
from .gates import Gates, watched_gates
from .scene import Point, Scene, Sheet, Watcher, run_photograph


class Look(NamedTuple):
    """One photograph. gates: of its scale attentions; none for a model without."""

    scene: Scene
    sheets: list[Sheet]
    gates: list[Gates]


@torch.no_grad()
def look(model: Detector, image: ImageLike, pixels: Sequence[Point] = (), stride: int | None = None) -> Look:
    """Run `image` (a path or a [3, H, W] uint8 tensor) through `model` as in prediction and see its attention.

    pixels: (x, y) of the photograph whose tokens are watched; none: the centre of the best detection, else of the
        photograph. stride: of the level of a pyramid that is looked at closely; None: as fits the best detection.
    Raises: HeadwayError for a model without attention and for pixels or strides that are not there; DataError for a
        picture that cannot be read.
    """
    with Watcher() as watcher:
        pyramids, tokens = watch_pyramids(model, watcher), watch_tokens(model, watcher)
        if stride is not None and tokens and not pyramids:
            raise HeadwayError("a stride picks a level of Dynamic Head, and this model has none; leave it out")
        if not pyramids and not tokens:
            raise HeadwayError(
                f"{model.card.model or 'this model'} has no attention to look at; train one with a Dynamic Head "
                "(`headway train atss_r18_fpn_dyhead`), DETR, or one on Swin or ViT"
            )
        with watched_gates(model) as gates:
            scene = run_photograph(model, image)
    chosen = list(pixels) or [scene.default_pixel()]
    return Look(scene, [sheet for finish in pyramids + tokens for sheet in finish(scene, chosen, stride)], gates)


def to_dict(found: Look) -> dict[str, Any]:
    """Plain numbers for a JSON file: the detections, and those of every sheet."""
    scene = found.scene
    objects = [
        {"box": [round(v, 2) for v in item.box], "score": round(item.score, 4), "class": item.name}
        for item in scene.confident()
    ]
    return {
        "size": [int(scene.image.shape[2]), int(scene.image.shape[1])],
        "objects": objects,
        "sheets": {sheet.name: sheet.numbers for sheet in found.sheets},
    }
