"""A data set cut into tiles, to train on objects that are small in large pictures."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from ..errors import check_number
from .dataset import DetectionData, Record
from .windows import OVERLAP, Window, check_tiles, windows_of

VISIBLE = 0.3  # share of a box that its tile must show
_JPEG = (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo")


def tile_splits(
    splits: Mapping[str, DetectionData],
    folder: Path,
    tile: int,
    overlap: float = OVERLAP,
    *,
    visible: float = VISIBLE,
) -> dict[str, DetectionData]:
    """Every picture of every split as its tiles, whose files are written into `folder`.

    Tiles lie as in prediction (`windows_of`). Of a JPEG they are JPEGs of quality 95 with full colour, else PNGs. A
    picture that fits into a tile stays as it is, and its file where it is.
    visible: a box of which a tile shows a smaller share becomes a crowd region there: neither an object nor background.
        Other boxes are clipped to the tile.

    Raises: HeadwayError for a tile below 32 pixels, or a share outside 0..1; DataError for a picture that cannot be
    read.
    """
    check_tiles(tile, overlap)
    check_number("visible", visible, 0, 1)
    result = {}
    for name, data in splits.items():
        white = data.white()
        records: list[Record] = []
        for number, record in enumerate(data.records):
            place = folder / name / str(number)  # of its own: files of different folders may have one name
            records += _tiles_of(record, place, (tile, tile), overlap, visible, white)
        numbered = [replace(record, image_id=i) for i, record in enumerate(records, 1)]
        result[name] = replace(data, records=numbered)
    return result


def _tiles_of(
    record: Record, folder: Path, tile: tuple[int, int], overlap: float, visible: float, white: int | None
) -> Iterator[Record]:
    pixels: Tensor | None = None
    if record.size is None or record.source is not None or max(record.size) > min(tile):
        pixels = record.sample(white).image
    windows = [] if pixels is None else windows_of(pixels.shape[1:], tile, overlap)
    if pixels is None or (len(windows) == 1 and record.source is None):
        yield record
        return
    folder.mkdir(parents=True)
    suffix = ".jpg" if record.path.suffix.lower() in _JPEG else ".png"
    for window in windows:
        path = folder / f"{record.path.stem}_{window.x1}_{window.y1}{suffix}"
        part = pixels[:, window.y1 : window.y2, window.x1 : window.x2]
        options = {"quality": 95, "subsampling": 0} if suffix == ".jpg" else {}
        Image.fromarray(part.permute(1, 2, 0).numpy()).save(path, **options)
        yield part_of(record, window, path, visible)


def part_of(record: Record, window: Window, path: Path, visible: float = VISIBLE) -> Record:
    """The boxes of a record that reach into a window, in pixels of the window; the picture is the file at `path`.

    The area of a clipped box shrinks by the share of it that is seen.
    """
    start = np.float32([window.x1, window.y1] * 2)
    height, width = window.size
    boxes = np.clip(record.boxes - start, 0, np.float32([width, height, width, height]))
    sides, whole = boxes[:, 2:] - boxes[:, :2], record.boxes[:, 2:] - record.boxes[:, :2]
    kept = (sides > 0).all(1)
    share = sides.prod(1) / np.maximum(whole.prod(1), 1e-9)
    crowd = record.crowd | (share < visible)
    return replace(
        record, path=path, size=window.size, boxes=boxes[kept], labels=record.labels[kept], crowd=crowd[kept],
        areas=(record.areas * share)[kept].astype(np.float32), source=None, content=None,
        ids=None if record.ids is None else record.ids[kept],
    )  # fmt: skip
