"""Copying pictures into a new data set."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from ...errors import DataError
from .raw import RawImage


def copy_images(images: Sequence[RawImage], folder: Path, *, hardlink: bool = False) -> list[str]:
    """Copy every picture into `folder`, beside what is there; the names given to them, unique even without their suffix
    and whatever the case.

    hardlink: share the bytes with the original where the file system can.
    """
    folder.mkdir(parents=True, exist_ok=True)
    taken = {path.stem.lower() for path in folder.iterdir()}
    names = []
    for image in images:
        assert image.path is not None
        name = _unique(image, taken)
        _copy(image.path, folder / name, hardlink)
        names.append(name)
    return names


def _unique(image: RawImage, taken: set[str]) -> str:
    assert image.path is not None
    stem = image.path.stem
    if stem.lower() in taken:  # a/1.jpg and b/1.jpg
        stem = f"{image.path.parent.name}_{stem}"
    plain, count = stem, 2
    while stem.lower() in taken:
        stem, count = f"{plain}_{count}", count + 1
    taken.add(stem.lower())
    return stem + image.path.suffix


def _copy(source: Path, target: Path, hardlink: bool) -> None:
    if hardlink:
        try:
            os.link(source, target)
            return
        except OSError:  # another file system, or one without links
            pass
    shutil.copyfile(source, target)


def require_empty(folder: Path) -> None:
    """Raises: DataError if `folder` exists and holds anything."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder} exists and is not empty; name a new folder, nothing is overwritten")
    folder.mkdir(parents=True, exist_ok=True)
