"""Which picture files a list of inputs means. Nothing here imports torch."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from ..data.image import SUFFIXES
from ..errors import DataError

VIDEO_SUFFIXES = (
    ".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".mts", ".m2ts", ".ts", ".3gp", ".flv",
    ".ogv", ".mxf", ".mjpeg", ".h264", ".264", ".y4m",
)  # fmt: skip
_OTHERS = (
    (VIDEO_SUFFIXES, "a video; name it by itself, as in `headway predict MODEL VIDEO`"),
    # Pillow would find the small preview in some of these and read that.
    (
        (".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".pef", ".srw"),
        "the raw file of a camera; export it as JPEG or TIFF first",
    ),
    (
        (".czi", ".lif", ".nd2", ".oib", ".vsi", ".svs", ".dcm", ".nii"),
        "a microscope's or scanner's own file; export it as TIFF or PNG first",
    ),
    ((".pdf", ".svg", ".psd", ".ai", ".eps"), "a document; export it as PNG first"),
)


def find_images(inputs: Iterable[str | Path], *, recursive: bool | None = False) -> list[Path]:
    """The picture files that files, folders and glob patterns mean, each once, folders in sorted order.

    A file named outright is taken whatever its ending, and even if it is missing, so that reading reports it; of a
    folder or pattern the files with a picture's ending are taken.
    recursive: search folders to the bottom; None: not, where a message must not advise it.
    Raises: DataError for a folder or pattern without any, for a video and other files that are known to be no picture,
        or when none of the files exists.
    """
    found: dict[Path, None] = {}
    for item in inputs:
        path = path_of(item)
        if path.is_dir():
            walk = path.rglob("*") if recursive else path.iterdir()
            files = sorted(p for p in walk if p.is_file())
            matches = [p for p in files if is_image_name(p)]
            reason = next(
                (f"{p.parent} holds no picture, but {p.name}: {why}" for p in files if (why := other_kind(p))), ""
            )
            hint = "; use --recursive to search below it" if recursive is False else ""
            reason = reason or f"folder {path} holds no picture{hint}"
        elif not path.exists() and any(character in str(item) for character in "*?["):
            matches = sorted(p for p in _glob(path) if p.is_file() and is_image_name(p))
            reason = f"no picture matches {item}"
        else:
            kind = other_kind(path)
            matches, reason = [] if kind else [path], f"{path} is no picture: {kind}"
        if not matches:
            raise DataError(reason)
        found.update(dict.fromkeys(matches))
    if not any(path.is_file() for path in found):
        raise DataError(f"there is no file or folder {', '.join(str(path) for path in list(found)[:3])}")
    return list(found)


def path_of(source: str | Path) -> Path:
    """Raises: DataError for an empty name, which `Path` takes for the current folder."""
    if not str(source):
        raise DataError("the name of a source is empty, as that of a variable which is not set; name a file or folder")
    return Path(source)


def is_image_name(path: str | Path) -> bool:
    """Whether the ending is a picture's."""
    return Path(path).suffix.lower() in SUFFIXES


def other_kind(path: str | Path) -> str:
    """What a file with such an ending is that is no picture, and what to do; nothing for any other."""
    return next((what for suffixes, what in _OTHERS if Path(path).suffix.lower() in suffixes), "")


def _glob(pattern: Path) -> Iterator[Path]:
    root = Path(pattern.anchor)
    return root.glob(str(pattern.relative_to(root)))
