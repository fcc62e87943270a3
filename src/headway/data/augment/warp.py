"""One random map of a picture and its boxes: shift, zoom, turn, shear and tilt, as YOLO trains with after its mosaic.

The published values are facts of WongKinYiu/yolor (hyp files of the main branch); the code is not, and was not read.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from ...boxes import area, clip

MIN_SIDE, MIN_VISIBLE, MAX_ASPECT = 2.0, 0.1, 20.0  # pixels, share of the area, longer by shorter side


def canvas_size(size: Sequence[int], input_size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of the canvas for a picture of `size` (height, width): `input_size` (short, long) along its
    sides, so a square one for a square input size."""
    short, long = input_size
    return (short, long) if size[0] <= size[1] else (long, short)


class RandomWarp(v2.Transform):
    """The picture's centre to that of a canvas, then zoomed, turned, sheared, tilted and shifted at random.

    Whatever the picture's size, the result has `canvas_size`: a mosaic of twice that size is seen at zoom 1 by its
    middle quarter, a single picture fitted to `input_size` whole. Sampled bilinearly.
    scale: range of the zoom, uniform. translate: largest shift along each axis, in sides of the canvas.
    rotate, shear: largest angles in degrees, each axis sheared by its own. perspective: how much the denominator of the
        projection differs from 1 at the picture's border, up to 0.4; 0 for an affine map.
    fill: RGB 0..255 where there is no picture.
    A box becomes the one around its four mapped corners, clipped to the canvas. It is set to zero, for
    SanitizeBoundingBoxes to remove, unless both sides are longer than 2 pixels, more than a tenth of its area is left
    and one side is less than 20 times the other.

    Differs: the area left is compared with the mapped box before clipping, upstream with the original by the zoom.
    """

    def __init__(
        self,
        input_size: tuple[int, int],
        scale: tuple[float, float] = (0.5, 1.5),
        translate: float = 0.1,
        rotate: float = 0.0,
        shear: float = 0.0,
        perspective: float = 0.0,
        *,
        fill: Sequence[float],
    ) -> None:
        super().__init__()
        if not 0 < scale[0] <= scale[1]:
            raise ValueError(f"scale must be (low, high) with 0 < low <= high, got {scale}")
        if not 0 <= perspective <= 0.4:
            raise ValueError(f"perspective must be in [0, 0.4], got {perspective}; beyond, corners may turn over")
        self.input_size, self.scale, self.translate = input_size, scale, translate
        self.rotate, self.shear, self.perspective = rotate, shear, perspective
        self.fill = tuple(round(value) for value in fill)

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """matrix: [3, 3] from pixels of the picture to pixels of the canvas, (x, y, 1) columns."""
        height, width = next(x for x in flat_inputs if isinstance(x, tv_tensors.Image)).shape[-2:]
        canvas = canvas_size((height, width), self.input_size)
        zoom, turn, *others = torch.rand(8, dtype=torch.float64).tolist()
        zoom = self.scale[0] + zoom * (self.scale[1] - self.scale[0])
        turn = math.radians(self.rotate * (2 * turn - 1))
        shear_x, shear_y, tilt_x, tilt_y, shift_x, shift_y = (2 * draw - 1 for draw in others)
        sheared = [math.tan(math.radians(self.shear * draw)) for draw in (shear_x, shear_y)]
        tilted = [self.perspective * tilt_x / (width / 2), self.perspective * tilt_y / (height / 2)]
        cos, sin = zoom * math.cos(turn), zoom * math.sin(turn)
        shift = [(0.5 + self.translate * draw) * side for draw, side in zip((shift_x, shift_y), canvas[::-1])]
        steps = (  # the last is done first
            [[1, 0, shift[0]], [0, 1, shift[1]], [0, 0, 1]],
            [[1, sheared[0], 0], [sheared[1], 1, 0], [0, 0, 1]],
            [[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]],
            [[1, 0, 0], [0, 1, 0], [*tilted, 1]],
            [[1, 0, -width / 2], [0, 1, -height / 2], [0, 0, 1]],
        )
        return {"matrix": np.linalg.multi_dot([np.array(step, np.float64) for step in steps]), "canvas": canvas}

    def transform(self, value: Any, params: dict[str, Any]) -> Any:
        if isinstance(value, tv_tensors.BoundingBoxes):
            boxes = warp_boxes(value.as_subclass(Tensor), params["matrix"], params["canvas"])
            return tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=params["canvas"])
        if isinstance(value, tv_tensors.Image):
            return tv_tensors.Image(warp_image(value, params["matrix"], params["canvas"], self.fill))
        return value


def warp_image(image: Tensor, matrix: NDArray[np.float64], canvas: tuple[int, int], fill: tuple[int, ...]) -> Tensor:
    """[3, H, W] uint8 and a [3, 3] map of its pixels -> [3, *canvas] uint8, bilinear, `fill` outside."""
    picture = Image.fromarray(image.as_subclass(Tensor).permute(1, 2, 0).contiguous().numpy())
    back = np.linalg.inv(matrix)
    back /= back[2, 2]
    height, width = canvas
    straight = not back[2, :2].any()
    warped = picture.transform(
        (width, height),
        Image.Transform.AFFINE if straight else Image.Transform.PERSPECTIVE,
        back.ravel()[: 6 if straight else 8].tolist(),
        Image.Resampling.BILINEAR,
        fillcolor=fill,
    )
    return torch.from_numpy(np.array(warped)).permute(2, 0, 1)


def warp_boxes(boxes: Tensor, matrix: NDArray[np.float64], canvas: tuple[int, int]) -> Tensor:
    """boxes [M, 4] xyxy -> the boxes around their mapped corners, clipped to `canvas` (height, width), [M, 4]; zero for
    those that `RandomWarp` leaves out."""
    corners = boxes.double()[:, [0, 1, 2, 1, 2, 3, 0, 3]].view(-1, 4, 2)
    mapped = torch.cat([corners, corners.new_ones(len(boxes), 4, 1)], 2) @ torch.from_numpy(matrix).T
    points = mapped[..., :2] / mapped[..., 2:]
    whole = torch.cat([points.amin(1), points.amax(1)], 1)
    clipped = clip(whole, whole.new_tensor(canvas))
    sides = clipped[:, 2:] - clipped[:, :2]
    kept = (sides > MIN_SIDE).all(1) & (sides.prod(1) > MIN_VISIBLE * area(whole))
    kept &= sides.amax(1) < MAX_ASPECT * sides.amin(1)
    return (clipped * kept[:, None]).to(boxes.dtype)
