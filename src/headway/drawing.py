"""Boxes drawn on a picture: class-coloured frames that stand out on any ground, and labels that avoid each other."""

import colorsys
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
Area = tuple[float, float, float, float]

_GOLDEN = 0.381966  # of the colour circle: each next hue lies farthest from those before it


@cache
def class_colour(label: int) -> Colour:
    """RGB 0..255 of a class; the same class has the same colour everywhere."""
    hue = (0.58 + label * _GOLDEN) % 1.0
    saturation, value = ((0.85, 0.95), (0.55, 1.0), (1.0, 0.7))[label // 8 % 3]
    red, green, blue = (round(255 * v) for v in colorsys.hsv_to_rgb(hue, saturation, value))
    return red, green, blue


def draw_boxes(
    image: Any,
    boxes: Any,
    labels: Any,
    names: Sequence[str],
    scores: Any = None,
    truth: Any = None,
    texts: Sequence[str] | None = None,
) -> Image.Image:
    """A copy of the picture with its boxes, larger ones first, so that small ones stay visible.

    image: PIL picture or [3, H, W] uint8; boxes: [M, 4] xyxy in its pixels, tensor or array; labels: [M].
    names: by label; a label beyond them is shown as its number. scores: [M] 0..1, written behind the name.
    truth: [K, 4] boxes to compare with, dashed in white under the others.
    A box that leaves the picture by more than the picture's longer side is drawn as if it left it by that much.
    texts: what is written at each box in place of the name; None: the name.
    """
    picture = _to_picture(image)
    canvas = ImageDraw.Draw(picture)
    far = max(picture.size)  # a frame of a billion pixels takes minutes
    rows = _array(boxes).reshape(-1, 4).clip(-far, 2 * far)
    label_list = _array(labels).reshape(-1).astype(int).tolist()
    if len(rows) != len(label_list):
        raise ValueError(f"boxes and labels must be of one length, got {len(rows)} and {len(label_list)}")
    side = min(picture.size)
    # Of small objects in a large picture thinner and smaller, or labels would hide them.
    usual = float(np.median((rows[:, 2:] - rows[:, :2]).min(1))) if len(rows) else side
    width = max(1, round(min(side / 240, usual / 15)))
    canvas.font = ImageFont.load_default(max(10, round(min(side / 36, usual / 3))))
    for row in _array(truth).reshape(-1, 4).clip(-far, 2 * far) if truth is not None else ():
        _dashed(canvas, row.tolist(), width)
    order = np.argsort(-(rows[:, 2] - rows[:, 0]) * (rows[:, 3] - rows[:, 1]), kind="stable").tolist()
    for i in order:
        _frame(canvas, rows[i].tolist(), class_colour(label_list[i]), width)
    placed: list[Area] = []
    score_list = None if scores is None else _array(scores).reshape(-1).tolist()
    for i in order:
        label = label_list[i]
        text = names[label] if 0 <= label < len(names) else str(label)
        text = text if texts is None else texts[i]
        text = text if score_list is None else f"{text} {score_list[i]:.2f}"
        _label(canvas, text, rows[i].tolist(), class_colour(label), placed)
    return picture


def _array(values: Any) -> NDArray[Any]:
    """A tensor of any device, an array or a list."""
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)


def _to_picture(image: Any) -> Image.Image:
    if isinstance(image, Image.Image):
        return image.convert("RGB") if image.mode != "RGB" else image.copy()
    pixels = _array(image)
    if pixels.ndim != 3 or pixels.shape[0] != 3 or pixels.dtype != np.uint8:
        raise ValueError(f"image must be a PIL picture or [3, H, W] uint8, got {pixels.shape} {pixels.dtype}")
    return Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))


def _frame(canvas: ImageDraw.ImageDraw, box: list[float], colour: Colour, width: int) -> None:
    """The coloured frame between two dark lines."""
    x1, y1, x2, y2 = map(round, box)
    x2, y2 = max(x2 - 1, x1), max(y2 - 1, y1)
    canvas.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline=(20, 20, 20))
    inner = (x1 + width, y1 + width, x2 - width, y2 - width)
    if inner[2] > inner[0] and inner[3] > inner[1]:
        canvas.rectangle(inner, outline=(20, 20, 20))
    canvas.rectangle((x1, y1, x2, y2), outline=colour, width=width)


def _dashed(canvas: ImageDraw.ImageDraw, box: list[float], width: int) -> None:
    x1, y1, x2, y2 = map(round, box)
    x2, y2 = max(x2 - 1, x1), max(y2 - 1, y1)
    canvas.rectangle((x1, y1, x2, y2), outline=(20, 20, 20), width=width + 1)
    dash = 4 * width + 2
    across = [(x, y, min(x + dash, x2), y) for x in range(x1, x2 + 1, 2 * dash) for y in (y1, y2)]
    down = [(x, y, x, min(y + dash, y2)) for y in range(y1, y2 + 1, 2 * dash) for x in (x1, x2)]
    for line in across + down:
        canvas.line(line, fill="white", width=width)


def _label(canvas: ImageDraw.ImageDraw, text: str, box: list[float], colour: Colour, placed: list[Area]) -> None:
    """Written at the corner of the box where it hides the fewest labels before it, inside the picture."""
    left, top, right, bottom = canvas.textbbox((0, 0), text)
    size = canvas.im.size
    wide, high = right - left + 6, bottom - top + 6
    x1, y1, x2, y2 = box
    corners = [(x1, y1 - high), (x2 - wide, y1 - high), (x1, y1), (x1, y2), (x2 - wide, y2), (x1, y2 - high)]
    inside = [(min(max(x, 0), max(size[0] - wide, 0)), min(max(y, 0), max(size[1] - high, 0))) for x, y in corners]
    areas = [(x, y, x + wide, y + high) for x, y in inside]
    best = min(areas, key=lambda area: sum(_overlap(area, other) for other in placed))
    placed.append(best)
    ground = (round(best[0]), round(best[1]), round(best[2]) - 1, round(best[3]) - 1)
    canvas.rectangle(ground, fill=colour)
    luminance = (0.2126 * colour[0] + 0.7152 * colour[1] + 0.0722 * colour[2]) / 255  # ITU-R BT.709
    fill = "black" if luminance > 0.4 else "white"
    canvas.text((ground[0] + 3 - left, ground[1] + 3 - top), text, fill=fill)


def _overlap(a: Area, b: Area) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
