"""What training sees: a sheet of augmented pictures with their boxes."""

from pathlib import Path

from PIL import ImageOps
from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image
from torchvision.utils import make_grid

from ..drawing import draw_boxes
from .loader import DetectionLoader


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
            scale = side / max(height, width)
            shown = to_pil_image(image[:, :height, :width]).resize(
                (max(1, round(width * scale)), max(1, round(height * scale)))
            )
            drawn = draw_boxes(shown, target.boxes * scale, target.labels, names)
            pictures.append(ImageOps.pad(drawn, (side, side), color="white"))
        if len(pictures) >= count:
            break
    sheet = make_grid([pil_to_tensor(picture) for picture in pictures[:count]], nrow=4, padding=6, pad_value=255)
    path = Path(out_png)
    path.parent.mkdir(parents=True, exist_ok=True)
    to_pil_image(sheet).save(path, format="PNG")
    return path
