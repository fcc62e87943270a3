"""Whether an exported file finds what its model finds: sets of detections, since equal scores have no order."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..boxes import pairwise_iou
from ..data.batch import to_model_input
from ..detector import Detector
from ..errors import HeadwayError
from ..progress import say
from ..runtime import Found, Runtime
from ..types import Batch

_IOU, _SCORE, _PIXELS = 0.99, 1e-4, 0.01


def compare(path: Path, model: Detector, pictures: int | Sequence[Any]) -> dict[str, Any]:
    """Run both over pictures (a number: of the shipped ones), on the same pixels; see `Exported.report`.

    Every detection of the one that scores more than the card's threshold must be one of the other: of its class, at
    IoU 0.99, its score within 1e-4. Left out are those within 1e-4 of the threshold, or of the last score of a full
    list. Raises: HeadwayError.
    """
    runtime, card = opened(path), model.card
    inputs = [runtime.prepare(pixels) for pixels in _read(runtime, pictures)]
    limit: dict[str, Any] = {"max_detections": card.max_detections}
    if not runtime.info["nms"]:
        limit = {"max_detections": 1_000_000, "nms_iou": None}
    compared = np.zeros((0, 2))
    for (image, size), ours in zip(inputs, runtime.run(inputs)):
        batch = Batch(torch.from_numpy(image[None]), torch.tensor([size]), [], [], card.pad_value)
        (found,) = model.detect(to_model_input(batch, "cpu"), batch.sizes, **limit)
        theirs = Found(found.boxes.numpy(), found.scores.numpy(), found.labels.numpy(), ours.names)
        full = [x.scores[-1] for x in (ours, theirs) if len(x.scores) >= limit["max_detections"]]
        least = max([card.score_threshold, *full]) + _SCORE
        for one, other, whose in ((theirs, ours, "model"), (ours, theirs, "file")):
            errors = _errors(one, other, one.scores > least)
            if lost := int(np.isinf(errors[:, 0]).sum()):
                raise HeadwayError(
                    f"{path} does not find what its model finds: of {len(errors)} detections of the {whose} in a "
                    f"picture of {size[0]}x{size[1]}, {lost} have no partner at IoU {_IOU} and score within {_SCORE}"
                )
            compared = np.concatenate([compared, errors])
    if not len(compared):
        say(f"warning: nothing scores above the threshold of {card.score_threshold:g}, so nothing was compared")
    box_error, score_error = compared.max(0, initial=0).tolist()
    return {
        "pictures": len(inputs), "detections": len(compared) // 2, "box_error": box_error, "score_error": score_error
    }  # fmt: skip


def opened(path: Path) -> Runtime:
    """A file that this process has written."""
    if ".pt2" not in path.suffixes:
        return Runtime(path)
    from .pt2 import Pt2Engine

    return Runtime(path, engine=Pt2Engine(path))


def _read(runtime: Runtime, pictures: int | Sequence[Any]) -> list[NDArray[np.uint8]]:
    """The pixels of each; of the shipped pictures every second one on its side, where the file takes any size."""
    if not isinstance(pictures, int):
        return [runtime.read(picture) for picture in pictures]
    shipped = sorted((Path(__file__).parents[1] / "assets" / "bccd-mini").glob("*/*.jpg"), reverse=True)  # val first
    pixels = [runtime.read(path) for path in shipped[:pictures]]
    if runtime.size is None:
        pixels[1::2] = [np.ascontiguousarray(x.swapaxes(0, 1)) for x in pixels[1::2]]
    return sorted(pixels, key=np.shape)  # those of one shape run as one batch


def _errors(one: Found, other: Found, chosen: NDArray[np.bool_]) -> NDArray[Any]:
    """Differences in pixels and in score of each chosen detection of `one` to its counterpart in `other`, [N, 2];
    infinite where there is none."""
    a, b = one.boxes[chosen].astype("f8"), other.boxes.astype("f8")
    iou = pairwise_iou(torch.from_numpy(a), torch.from_numpy(b)).numpy()
    pixels, scores = np.abs(a[:, None] - b).max(-1), np.abs(one.scores[chosen][:, None] - other.scores)
    same = (one.labels[chosen][:, None] == other.labels) & (scores <= _SCORE)
    same &= (iou >= _IOU) | (pixels <= _PIXELS)  # a box without area has no IoU
    return np.stack([np.where(same, x, np.inf).min(1, initial=np.inf) for x in (pixels, scores)], 1)
