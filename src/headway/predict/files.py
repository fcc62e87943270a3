"""Which picture files a list of inputs means. Nothing here imports torch."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from ..data.image import SUFFIXES
from ..errors import DataError


def find_images(inputs: Iterable[str | Path], *, recursive: bool = False) -> list[Path]:
    """The picture files that files, folders and glob patterns mean, each once, folders in sorted order.

    A file named outright is taken whatever its ending, and even if it is missing, so that reading reports it; of a
    folder or pattern the files with a picture's ending are taken.
    Raises: DataError for a folder or pattern without any, or when none of the files exists.
    """
    found: dict[Path, None] = {}
    for item in inputs:
        path = Path(item)
        if path.is_dir():
            walk = path.rglob("*") if recursive else path.iterdir()
            matches = sorted(p for p in walk if p.is_file() and is_image_name(p))
            reason = f"folder {path} holds no picture{'' if recursive else '; use --recursive to search below it'}"
        elif not path.exists() and any(character in str(item) for character in "*?["):
            matches = sorted(p for p in _glob(path) if p.is_file() and is_image_name(p))
            reason = f"no picture matches {item}"
        else:
            matches, reason = [path], ""
        if not matches:
            raise DataError(reason)
        found.update(dict.fromkeys(matches))
    if not any(path.is_file() for path in found):
        raise DataError(f"there is no file or folder {', '.join(str(path) for path in list(found)[:3])}")
    return list(found)


def is_image_name(path: str | Path) -> bool:
    """Whether the ending is a picture's."""
    return Path(path).suffix.lower() in SUFFIXES


def _glob(pattern: Path) -> Iterator[Path]:
    root = Path(pattern.anchor)
    return root.glob(str(pattern.relative_to(root)))
