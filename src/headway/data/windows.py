"""Windows that cover a picture, evenly spread: the tiles of prediction and of a tiled training set. No torch here."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from ..errors import check_number

OVERLAP = 0.2  # of neighbouring tiles, in tiles


class Window(NamedTuple):
    """A part of a picture, in whole pixels of the picture."""

    x1: int
    y1: int
    x2: int
    y2: int

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.y2 - self.y1, self.x2 - self.x1


def spread(length: int, tile: int, overlap: float) -> list[int]:
    """Where tiles begin along one axis: as few as overlap by at least `overlap` tiles, evenly spread, the first at 0
    and the last at the end. An axis that is no longer than a tile has one, at 0.

    Example: spread(1000, 400, 0.2) is [0, 300, 600].
    """
    if length <= tile:
        return [0]
    shared = min(math.ceil(tile * overlap), tile - 1)
    count = math.ceil((length - shared) / (tile - shared))
    return [round(i * (length - tile) / (count - 1)) for i in range(count)]


def windows_of(size: Sequence[int], tile: tuple[int, int], overlap: float = OVERLAP) -> list[Window]:
    """The tiles of a picture of `size` (height, width), row by row; one of the whole picture where it fits into a tile.

    tile: (height, width). No tile is smaller, except along an axis on which the picture itself is.
    """
    height, width = min(size[0], tile[0]), min(size[1], tile[1])
    return [
        Window(x, y, x + width, y + height)
        for y in spread(size[0], tile[0], overlap)
        for x in spread(size[1], tile[1], overlap)
    ]


def check_tiles(tiles: int | bool | None, overlap: float) -> None:
    """Raises: HeadwayError for a side below 32 or an overlap outside 0..0.9."""
    if tiles is not None and not isinstance(tiles, bool):
        check_number("tiles (the side of a tile in pixels)", tiles, 32, whole=True)
    check_number("overlap (of neighbouring tiles, in tiles)", overlap, 0, 0.9)
