"""Files of tracks: MOTChallenge's text, and COCO's JSON with videos and identities (COCO-VID, as of TAO and BDD100K).

MOTChallenge has a line `frame, id, left, top, width, height, score, -1, -1, -1` for each box, frames and identities
from 1 on, and no classes. In an annotation the seventh column is 0 where a box must not count. COCO-VID has
`videos`, in `images` a `video_id` and the number of the frame from 0 on (`frame_id` or `frame_index`), and in
`annotations` a `track_id` (or `instance_id`).
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError, one_line
from ..files import open_atomically
from .tracks import Tracks

Videos = dict[str, Tracks]
_WHOLE = 2**53  # below it each whole number is a float of its own
_FORMS = "tracks are MOTChallenge's .txt or COCO-VID's .json"


def write_mot(path: Path, tracks: Tracks) -> None:
    """The boxes with an identity as MOTChallenge's lines, frame by frame. The tools that read such files know one class
    and refuse two boxes of one identity in a frame, so detections without identity are left out."""
    known = tracks.known
    with open_atomically(path) as file:
        for row in np.lexsort((known.ids, known.frames)).tolist():
            x1, y1, x2, y2 = known.boxes[row].tolist()
            box = ",".join(f"{value:.3f}" for value in (x1, y1, x2 - x1, y2 - y1))
            file.write(_bytes(f"{known.frames[row]},{known.ids[row]},{box},{known.scores[row]:.6f},-1,-1,-1\n"))


def write_coco_vid(
    path: Path, videos: Mapping[str, Tracks], frames: Mapping[str, Sequence[Mapping[str, Any]]],
    categories: Sequence[Mapping[str, Any]],
) -> None:  # fmt: skip
    """Every detection once, as an annotation with `score` and `track_id`, -1 without identity.

    frames: of each video what `images` says of its frames in their order: frame_id from 0 on, file_name, width, height,
        and what else is known, as `time`. categories: id and name by label.
    """
    numbers: dict[str, dict[int, int]] = {}  # of each video, id of the image by the number of the frame, from 1 on
    images = [(name, frame) for name in videos for frame in frames[name]]
    for number, (name, frame) in enumerate(images, 1):
        numbers.setdefault(name, {})[frame["frame_id"] + 1] = number
    video_ids = {name: number for number, name in enumerate(videos, 1)}
    lists: dict[str, Iterable[Mapping[str, Any]]] = {
        "videos": ({"id": number, "name": name} for name, number in video_ids.items()),
        "images": (
            {"id": number, "video_id": video_ids[name], **frame} for number, (name, frame) in enumerate(images, 1)
        ),
        "annotations": _annotations(videos, video_ids, numbers, categories),
        "categories": categories,
    }
    with open_atomically(path) as file:  # entry by entry: a day's are gigabytes
        for name, entries in lists.items():
            file.write(_bytes(f'{"{" if name == "videos" else ", "}"{name}": ['))
            for number, entry in enumerate(entries):
                file.write(_bytes(("" if number == 0 else ", ") + json.dumps(entry, ensure_ascii=False)))
            file.write(b"]")
        file.write(b"}\n")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")


def _annotations(
    videos: Mapping[str, Tracks], video_ids: Mapping[str, int], numbers: Mapping[str, Mapping[int, int]],
    categories: Sequence[Mapping[str, Any]],
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """Of COCO-VID, in the order of the frames. numbers: of each video, id of the image by the number of the frame."""
    count = 0
    for name, tracks in videos.items():
        for row in np.argsort(tracks.frames, kind="stable").tolist():
            count += 1
            x1, y1, x2, y2 = tracks.boxes[row].tolist()
            yield {
                "id": count, "image_id": numbers[name][int(tracks.frames[row])], "video_id": video_ids[name],
                "category_id": categories[int(tracks.labels[row])]["id"], "track_id": int(tracks.ids[row]),
                "bbox": [round(v, 3) for v in (x1, y1, x2 - x1, y2 - y1)], "area": round((x2 - x1) * (y2 - y1), 3),
                "iscrowd": 0, "score": round(float(tracks.scores[row]), 6),
            }  # fmt: skip


def read_tracks(path: Path, *, annotated: bool = False) -> tuple[Videos, tuple[str, ...]]:
    """(tracks of each video by its name, class names by label). A MOTChallenge file is one video, called "", of one
    class without a name. annotated: leave out what a MOTChallenge annotation does not count, a 0 in the seventh column.
    Crowd regions are always left out.

    Raises: DataError for another file, and for two boxes of one identity in one frame.
    """
    if not path.is_file():
        raise DataError(f"there is no file of tracks at {path}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as text ({one_line(error)}); {_FORMS}") from None
    if text.lstrip()[:1] in ("{", "["):
        videos, names = _read_coco_vid(path, text)
    else:
        videos, names = {"": _read_mot(path, text, annotated)}, ()
    for name, tracks in videos.items():
        known = tracks.known
        often = Counter(zip(known.frames.tolist(), known.ids.tolist(), known.labels.tolist()))
        twice = next((key for key, count in often.items() if count > 1), None)
        if twice:
            where = f"{path}, video {name}" if name else str(path)
            raise DataError(f"{where}: identity {twice[1]} has several boxes in frame {twice[0]}; expected at most one")
    return videos, names


def _read_mot(path: Path, text: str, annotated: bool) -> Tracks:
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        if not (cells := line.replace(",", " ").split()):
            continue
        try:
            frame, track, left, top, width, height, *more = map(float, cells)
            score = more[0] if more else 1.0
            row = _row(frame, track, (left, top, width, height), score, 0)
        except ValueError:
            raise DataError(
                f"{path}, line {number}: expected frame, id, left, top, width, height, score in numbers, got "
                f"{line[:60]!r}; {_FORMS}"
            ) from None
        if not (annotated and score == 0):
            rows.append(row)
    return Tracks.of_rows(rows)


def _read_coco_vid(path: Path, text: str) -> tuple[Videos, tuple[str, ...]]:
    try:
        content = json.loads(text)
        categories = sorted(content["categories"], key=lambda entry: entry["id"])
        labels = {entry["id"]: label for label, entry in enumerate(categories)}
        names = {entry["id"]: str(entry["name"]) for entry in content["videos"]}
        for named in (names.values(), [str(entry["name"]) for entry in categories]):
            if twice := next((name for name, count in Counter(named).items() if count > 1), None):
                raise ValueError(f"two of its videos or categories are named {twice!r}")
        images = {entry["id"]: (names[entry["video_id"]], _first(entry, "frame_id", "frame_index") + 1)
                  for entry in content["images"]}  # fmt: skip
        rows: dict[str, list[tuple[float, ...]]] = {name: [] for name in names.values()}
        for entry in content["annotations"]:
            if entry.get("iscrowd"):
                continue
            video, frame = images[entry["image_id"]]
            track = _first(entry, "track_id", "instance_id")
            label, score = labels[entry["category_id"]], entry.get("score", 1.0)
            rows[video].append(_row(frame, track, entry["bbox"], score, label))
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError, RecursionError) as error:
        kind = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise DataError(
            f"{path} is no COCO-VID file ({kind}); expected videos, images with video_id and frame_id, annotations "
            "with track_id and bbox, and categories"
        ) from None
    return {name: Tracks.of_rows(found) for name, found in rows.items()}, tuple(str(c["name"]) for c in categories)


def _row(frame: float, track: float, box: Sequence[Any], score: Any, label: int) -> tuple[float, ...]:
    """What `Tracks.of_rows` takes. box: x, y, width, height. Raises: ValueError for what is no number, or not whole."""
    left, top, width, height, score = map(float, (*box, score))
    row = (frame, track, left, top, left + width, top + height, score, label)
    if not all(map(math.isfinite, row)):
        raise ValueError("numbers must be finite")
    if not all(value.is_integer() and abs(value) < _WHOLE for value in (float(frame), float(track))):
        raise ValueError(f"frames and identities must be whole numbers, got {frame:g} and {track:g}")
    return row


def _first(entry: Mapping[str, Any], *keys: str) -> float:
    """The number under the first of the keys that is there."""
    key = next((key for key in keys if key in entry), keys[0])
    return float(entry[key])
