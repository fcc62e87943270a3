"""Where the files of a COCO data set lie: its JSON files, known by their lists, and the folder of the pictures."""

import io
import re
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import BinaryIO

from ...errors import DataError
from .folder import Folder, FoundDataset, split_name
from .problem_kinds import Problem
from .text import decode

# COCO's own downloads that are no detection annotations and lie in the same folder
_OTHER = ("captions_", "image_info_", "panoptic_", "stuff_")
_POSES = "person_keypoints_"
_LISTS = [re.compile(rb'"%b"\s*:\s*\[' % key) for key in (b"images", b"annotations", b"categories")]
_SCORED = re.compile(rb'"annotations"\s*:\s*\[\s*\{[^{}]*"score"\s*:')
_CHUNK, _OVERLAP = 2**23, 2**19  # bytes; of a long first annotation
PREDICTED = "scores"  # what a data set shares whose annotations carry scores
ROBOFLOW = "_annotations.coco.json"


def find(path: Path) -> FoundDataset | None:
    """Splits as (json file, folders where its pictures may lie)."""
    if path.is_file():
        if path.suffix.lower() != ".json":
            return None
        root = path.parent.parent if path.parent.name.lower() == "annotations" else path.parent
        return FoundDataset("coco", root, f"a JSON file, {path.name}", {split_name(path.stem) or "all": path})
    folder = Folder(path)
    annotations = folder.folder_of(path, "annotations") or path / "annotations"
    places = (
        (f"{annotations.name}/*.json", folder.files(annotations, (".json",))),
        ("a JSON file in a folder per split", _in_split_folders(folder, path)),
        ("a JSON file beside the images", folder.files(path, (".json",))),
    )
    for poses, (reason, files) in product((False, True), places):  # key points have boxes; read where nothing else is
        kinds = {file: kind_of(file, poses=poses) for file in files}
        truth = [file for file in files if kinds[file] == "truth"]
        if found := truth or [file for file in files if kinds[file]]:
            splits = _by_split(found, path)
            return FoundDataset("coco", path, reason, splits, None if truth else PREDICTED, _left_out(splits))
    return None


def _in_split_folders(folder: Folder, path: Path) -> list[Path]:
    """Roboflow's file in each of them, else any JSON, else those of annotations/ in each of them."""
    subs = [sub for sub in folder.folders(path) if split_name(sub.name)]
    own = [file for sub in subs if (file := folder.find(sub, ROBOFLOW)) is not None]
    own = own or [file for sub in subs for file in folder.files(sub, (".json",))]
    inner = [inner for sub in subs if (inner := folder.folder_of(sub, "annotations")) is not None]
    return own or [file for base in inner for file in folder.files(base, (".json",))]


def kind_of(file: Path, *, poses: bool = False) -> str:
    """ "truth" for COCO annotations, "found" where they carry scores, as predictions do; "" for another JSON file.

    By its lists. An empty file is taken for annotations, for `check` to name it. poses: files of key points count.
    """
    if file.name.startswith(_OTHER) or (file.name.startswith(_POSES) and not poses):
        return ""
    if file.stat().st_size == 0:
        return "truth"
    with file.open("rb") as stream:
        first = stream.read(64)
        if b"\0" in first[:4]:
            with suppress(UnicodeError):
                content = decode(first + stream.read())[0].encode()
                return _kind_of(content[:64], content[-64:], io.BytesIO(content))
        stream.seek(max(0, file.stat().st_size - 64))
        last = stream.read()
        stream.seek(0)
        return _kind_of(first, last, stream)


def _kind_of(first: bytes, last: bytes, stream: BinaryIO) -> str:
    if not first.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
        return ""
    found = [False] * 4
    before = b""
    while chunk := stream.read(_CHUNK):  # not mapped: of a large file that would all count as memory
        data = before + chunk
        found = [known or bool(pattern.search(data)) for known, pattern in zip(found, (*_LISTS, _SCORED))]
        before = data[-_OVERLAP:]
    images, *others, scored = found
    if not images or (last.rstrip().endswith(b"}") and not any(others)):
        return ""  # a file that is cut off may have lost its other lists
    return "found" if scored else "truth"


def _by_split(files: list[Path], root: Path) -> dict[str, Path]:
    """Raises: DataError where two files would be the same split."""
    splits: dict[str, Path] = {}
    for file in files:
        base = file.parent if file.parent.parent == root else _base_of(file)
        unsaid = split_name(file.stem) in (None, "all")
        in_split_folder = file.name == ROBOFLOW or (split_name(base.name) and unsaid)
        name = base.name if in_split_folder else file.stem
        name = split_name(name) or (name if len(files) > 1 else "all")
        if name in splits:
            raise DataError(
                f"{splits[name]} and {file} are both the split {name!r}; expected one file for each split: pass the "
                "JSON file itself, or move the other one away"
            )
        splits[name] = file
    return splits


def _base_of(file: Path) -> Path:
    """The folder of a JSON file, above `annotations`."""
    return file.parent.parent if file.parent.name.lower() == "annotations" else file.parent


def _left_out(splits: dict[str, Path]) -> list[Problem]:
    """A "trainval" that is not read because one of its parts is there, and which has the other part."""
    if "trainval" not in splits or ("train" in splits) == ("val" in splits):
        return []
    part, other = ("train", "val") if "val" in splits else ("val", "train")
    detail = f"not read beside {splits[other].name}; make {part}.json of it, without the pictures of {other}"
    return [Problem("no_split", splits["trainval"].name, detail)]


def image_folders(folder: Folder, file: Path, split: str, names: list[str]) -> list[Path]:
    """The folder that holds most of the pictures, among those where people put them, else any; several that hold as
    many."""
    root, stem = folder.root, file.stem
    tokens = dict.fromkeys([stem, stem.split("_")[-1], split, {"val": "valid"}.get(split, split)])
    near = [root / token for token in tokens]
    nested = [root / parent / token for parent in ("images", "data") for token in tokens]
    plain = [root / "images", root / "JPEGImages", root / "data", root, file.parent]
    base = _base_of(file)
    images = [base / "images" / token for token in tokens]
    beside = [base, base / "images", base / "data", *images] if root not in (base, file.parent) else []
    first = beside if split_name(base.name) else []
    return folder.best_bases(first + near + nested + plain + beside, names, split)
