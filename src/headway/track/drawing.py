"""Frames with the objects that have an identity, each in a colour of its own."""

from typing import Any

from PIL import Image

from ..detections import Detections
from ..drawing import draw_boxes


def draw_tracks(image: Any, found: Detections) -> Image.Image:
    """A copy of the picture with a box, the class and the identity of each tracked object.

    image: PIL picture or [3, H, W] uint8. found: as of `Tracker.update`.
    """
    found = found[found.extras["track"] > 0]
    tracks = found.extras["track"]
    texts = [f"{found.name_of(label)} {track}" for label, track in zip(found.labels.tolist(), tracks.tolist())]
    return draw_boxes(image, found.boxes, tracks, found.names, texts=texts)
