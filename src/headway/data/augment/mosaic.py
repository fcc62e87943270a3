"""Pictures joined into one: mosaics (arXiv 2004.10934, section 3.3) and MixUp. More objects and contexts per step.

`join` is the form of preset "mosaic". Differs: the seam lies in the middle quarter of the canvas instead of anywhere,
the tiles keep their ratio and are cut, not squeezed; the zoom that follows (`crop.ZoomCrop`) chooses how much of
the mosaic is seen. `join_anywhere` and `join_nine` are those of preset "yolo".
"""

from collections.abc import Callable, Sequence
from itertools import product

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from .labelled import GREY, ImageTransform, LabelledImage, empty_hidden, joined
from .resize import fit_size
from .warp import canvas_size


class Mosaic:
    """The `Join` of preset "mosaic": every picture with three others, by `join`.

    transform: done to the mosaic. input_size: (short, long) of a tile.
    """

    takes_resized = False

    def __init__(self, transform: ImageTransform, input_size: tuple[int, int]) -> None:
        self.transform, self.input_size = transform, input_size

    def __call__(self, first: LabelledImage, another: Callable[[], LabelledImage]) -> LabelledImage:
        return self.transform(*join([first, *(another() for _ in range(3))], self.input_size))


class YoloMosaics:
    """The `Join` of preset "yolo": four to eighteen pictures make one training picture.

    single: the preset's steps for one picture, of which the first, fitting to `input_size`, is the tiles' and the rest
    are done to the mosaic: the warp, and behind MixUp the others.
    nine: share of the mosaics of nine pictures. mixup: probability that a second mosaic is blended in, see `mix_up`.
    """

    takes_resized = True  # it fits every tile to the input size first

    def __init__(
        self, single: v2.Compose, input_size: tuple[int, int], fill: Sequence[float], nine: float, mixup: float
    ) -> None:
        _, self.warp, *rest = single.transforms
        self.finish = v2.Compose(rest)
        self.input_size, self.fill, self.nine, self.mixup = input_size, fill, nine, mixup

    def __call__(self, first: LabelledImage, another: Callable[[], LabelledImage]) -> LabelledImage:
        canvas = canvas_size(first[0].shape[-2:], self.input_size)
        sample = self._mosaic(first, another, canvas)
        if self.mixup and float(torch.rand(())) < self.mixup:
            sample = mix_up(sample, self._mosaic(another(), another, canvas))
        return self.finish(*sample)

    def _mosaic(
        self, first: LabelledImage, another: Callable[[], LabelledImage], canvas: tuple[int, int]
    ) -> LabelledImage:
        nine = bool(self.nine) and float(torch.rand(())) < self.nine
        samples = [first, *(another() for _ in range(8 if nine else 3))]
        join = join_nine if nine else join_anywhere
        return self.warp(*join(samples, self.input_size, canvas, self.fill))


def join(
    samples: Sequence[LabelledImage],
    input_size: tuple[int, int],
    fill: Sequence[float] = GREY,
    min_visible: float = 0.3,
) -> LabelledImage:
    """Four samples (top left, top right, bottom left, bottom right) around one random seam.

    Each is first scaled to `input_size` (short, long); the canvas is twice the size that the first then has. A tile
    touches the seam with its inner corner and is cut at the canvas' border, its boxes with it; boxes of which less
    than `min_visible` remains become empty (SanitizeBoundingBoxes removes them).
    Draws from torch's global generator.
    """
    high, wide = fit_size(samples[0][0].shape[-2:], input_size)
    seam_y, seam_x = (int((0.75 + 0.5 * draw) * side) for draw, side in zip(torch.rand(2).tolist(), (high, wide)))
    return _lay(samples, [seam_y], [seam_x], (2 * high, 2 * wide), input_size, fill, min_visible)


def join_anywhere(
    samples: Sequence[LabelledImage], input_size: tuple[int, int], canvas: tuple[int, int], fill: Sequence[float]
) -> LabelledImage:
    """Four samples as `join` has them, on twice the `canvas` (height, width), which is of `input_size`'s sides; the
    seam lies anywhere in its middle half along each axis, and a box is only cut, however little of it remains.

    Source: the values of WongKinYiu/yolor (centre in 0.5 to 1.5 of the size, a canvas of twice the size).
    """
    seam_y, seam_x = (int((0.5 + draw) * side) for draw, side in zip(torch.rand(2).tolist(), canvas))
    return _lay(samples, [seam_y], [seam_x], (2 * canvas[0], 2 * canvas[1]), input_size, fill, 0.0)


def join_nine(
    samples: Sequence[LabelledImage], input_size: tuple[int, int], canvas: tuple[int, int], fill: Sequence[float]
) -> LabelledImage:
    """Nine samples in three rows, the first in the middle, on twice the `canvas` (height, width): the part from a
    random place of one of three times its size.

    Two seams along each axis run along the sides of the middle picture; a tile touches them and is cut where it would
    lie on another one.

    The arrangement is the library's own; canvas and crop are the published ones (WongKinYiu/yolor: three sides cut to
    two at a random place).
    """
    middle = fit_size(samples[0][0].shape[-2:], input_size)
    starts = [int((1 - draw) * side) for draw, side in zip(torch.rand(2).tolist(), canvas)]
    rows, columns = ([start, start + side] for start, side in zip(starts, middle))
    ordered = [*samples[1:5], samples[0], *samples[5:]]
    return _lay(ordered, rows, columns, (2 * canvas[0], 2 * canvas[1]), input_size, fill, 0.0)


def _lay(
    samples: Sequence[LabelledImage],
    rows: list[int],
    columns: list[int],
    size: tuple[int, int],
    input_size: tuple[int, int],
    fill: Sequence[float],
    min_visible: float,
) -> LabelledImage:
    """Samples, row by row, in the cells that the seams `rows` and `columns` divide a canvas of `size` (height, width)
    into. A tile touches the seam before it, in the first row and column the one behind it."""
    cells = (len(rows) + 1) * (len(columns) + 1)
    if len(samples) != cells:
        raise ValueError(f"a mosaic is made of {cells} samples, got {len(samples)}")
    canvas = torch.tensor(fill).round().to(torch.uint8).view(3, 1, 1).repeat(1, *size)
    places = product(range(len(rows) + 1), range(len(columns) + 1))
    moved = []
    for (image, target), (row, column) in zip(samples, places):
        scaled = list(fit_size(image.shape[-2:], input_size))
        tile = F.resize(image.as_subclass(Tensor), scaled, antialias=True)
        boxes = F.resize(target["boxes"], scaled)
        top, above, below = _stretch(row, rows, scaled[0], size[0])
        left, before, after = _stretch(column, columns, scaled[1], size[1])
        canvas[:, above:below, before:after] = tile[:, above - top : below - top, before - left : after - left]
        shifted = boxes.as_subclass(Tensor) + torch.tensor([left, top] * 2)
        cut = shifted.maximum(torch.tensor([before, above] * 2)).minimum(torch.tensor([after, below] * 2))
        cut_boxes = tv_tensors.BoundingBoxes(cut, format="XYXY", canvas_size=size)
        moved.append(empty_hidden(cut_boxes, boxes, 1.0, min_visible).as_subclass(Tensor))
    return joined(canvas, torch.cat(moved), [target for _, target in samples])


def _stretch(cell: int, seams: list[int], side: int, canvas: int) -> tuple[int, int, int]:
    """Along one axis: where a tile of `side` starts if nothing cuts it, and the (start, end) that can be seen."""
    low = seams[cell - 1] if cell else 0
    high = seams[cell] if cell < len(seams) else canvas
    start = low if cell else high - side
    first = min(max(start, low), canvas)
    return start, first, max(min(start + side, high, canvas), first)


def mix_up(first: LabelledImage, second: LabelledImage, beta: float = 8.0) -> LabelledImage:
    """Two samples of one size blended, with the boxes of both (arXiv 1710.09412; for detection 1902.04103, whose
    weights by share YOLO leaves out).

    The first's share is drawn from Beta(beta, beta); 8 keeps it near a half. Draws from torch's global generator.
    """
    (image, target), (other, added) = first, second
    if image.shape != other.shape:
        raise ValueError(f"pictures to blend must have one size, got {tuple(image.shape)} and {tuple(other.shape)}")
    share = float(torch.distributions.Beta(beta, beta).sample())
    pixels = image.as_subclass(Tensor).float().lerp_(other.as_subclass(Tensor).float(), 1 - share)
    boxes = torch.cat([target["boxes"].as_subclass(Tensor), added["boxes"].as_subclass(Tensor)])
    return joined(pixels.round_().to(torch.uint8), boxes, [target, added])
