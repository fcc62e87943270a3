"""What training sees: a sheet of augmented pictures with their boxes."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageOps

from ..drawing import draw_boxes
from .loader import DetectionLoader

_GAP, _GROUND = 6, (255, 255, 255)


def draw_training(
    loader: DetectionLoader, out_png: str | Path, *, epoch: int, count: int = 12, side: int = 480
) -> Path:
    """The first `count` pictures of an epoch (from 0) with their boxes, the very ones that training would see, in rows
    of four on one sheet. side: of each picture's place, in pixels; padding is left out."""
    names = loader.dataset.data.class_names
    loader.set_epoch(epoch)
    pictures = []
    for batch in loader:
        for image, (height, width), target in zip(batch.images, batch.sizes.tolist(), batch.targets):
            pixels = (image[:, :height, :width] * 255).round().byte()
            scale = side / max(height, width)
            picture = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
            shown = picture.resize((max(1, round(width * scale)), max(1, round(height * scale))))
            drawn = draw_boxes(shown, target.boxes * scale, target.labels, names)
            pictures.append(ImageOps.pad(drawn, (side, side), color=_GROUND))
        if len(pictures) >= count:
            break
    pictures = pictures[:count]
    columns = min(4, len(pictures))
    rows = -(-len(pictures) // columns)
    step = side + _GAP
    sheet = Image.new("RGB", (columns * step - _GAP, rows * step - _GAP), _GROUND)
    for number, picture in enumerate(pictures):
        sheet.paste(picture, (number % columns * step, number // columns * step))
    path = Path(out_png)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, format="PNG")
    return path
