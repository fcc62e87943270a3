"""How well tracks follow the truth: HOTA, IDF1 and MOTA of one video or many, of each class and of all."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import DataError
from .clear import ClearSums, clear_scores, clear_sums
from .formats import Videos, read_tracks
from .hota import ALPHAS, HotaSums, hota_scores, hota_sums
from .identity import IdentitySums, identity_scores, identity_sums
from .pairing import pair_up
from .tracks import Tracks

Sums = tuple[HotaSums, IdentitySums, ClearSums]


class TrackScores(NamedTuple):
    """summary: figures by name, of all videos and classes together, pair by pair. videos, classes: the same of each.
    alphas: HOTA's figures at each of its 19 overlaps."""

    summary: dict[str, float]
    videos: dict[str, dict[str, float]]
    classes: dict[str, dict[str, float]]
    alphas: dict[str, list[float]]


def evaluate_tracks(truth: Path | str, results: Path | str) -> TrackScores:
    """truth, results: files of MOTChallenge or COCO-VID. Videos are matched by their names, and two files of one video
    each whatever the names; classes by their names. Of files without classes all boxes are of one.

    Raises: DataError for files that cannot be read or do not fit together.
    """
    (videos, names), (found, found_names) = read_tracks(Path(truth), annotated=True), read_tracks(Path(results))
    if not any(len(tracks.known) for tracks in videos.values()):
        raise DataError(f"{truth} has no box with an identity, nothing to measure against; name annotated tracks")
    if len(videos) == len(found) == 1:
        found = dict(zip(videos, found.values()))
    if unknown := [name for name in found if name not in videos]:
        name = repr(unknown[0]) if unknown[0] else "without a name (MOTChallenge's .txt has none)"
        has = ", ".join(video or "one without a name" for video in videos)
        raise DataError(f"{results} has the video {name}, and {truth} has not; it has {has}")
    if not names or not found_names:
        videos, found, names = _without_classes(videos), _without_classes(found), ("",)
        found_names = names
    elif unknown := [name for name in found_names if name not in names and _has(found, found_names.index(name))]:
        raise DataError(f"{results} has the class {unknown[0]!r}, and {truth} has not; it has {', '.join(names)}")
    return score_tracks(videos, _relabelled(found, found_names, names), names)


def score_tracks(truth: Videos, found: Videos, names: Iterable[str]) -> TrackScores:
    """truth, found: by video, with labels in the order of `names`. Classes without any box are left out."""
    sums: dict[tuple[str, str], Sums] = {}
    nothing = Tracks.of_rows([])
    for video, tracks in truth.items():
        others = found.get(video, nothing)
        for label, name in enumerate(names):
            paired = pair_up(tracks.at(tracks.labels == label), others.at(others.labels == label))
            if paired.frames:
                sums[video, name] = hota_sums(paired), identity_sums(paired), clear_sums(paired)
    classes = dict.fromkeys(name for _, name in sums)
    total = _joined(sums.values())
    return TrackScores(
        _figures(total),
        {video: _figures(_joined(s for (v, _), s in sums.items() if v == video)) for video in truth},
        {name: _figures(_joined(s for (_, n), s in sums.items() if n == name)) for name in classes},
        {name: values.tolist() for name, values in hota_scores(total[0]).items()} | {"alpha": ALPHAS.tolist()},
    )


def _joined(parts: Iterable[Sums]) -> Sums:
    """The sums of several videos or classes together."""
    parts = [*parts] or [_NOTHING]
    columns: Any = zip(*parts)
    hota, identity, clear = ([sum(values) for values in zip(*column)] for column in columns)
    return HotaSums(*hota), IdentitySums(*identity), ClearSums(*clear)


_NOTHING: Sums = HotaSums(*[np.zeros(len(ALPHAS))] * 7), IdentitySums(0, 0, 0), ClearSums(*[0] * 9)


def _figures(sums: Sums) -> dict[str, float]:
    hota, identity, clear = sums
    figures = {name: float(values.mean()) for name, values in hota_scores(hota).items()}
    return figures | identity_scores(identity) | clear_scores(clear)


def _without_classes(videos: Videos) -> Videos:
    return {
        name: Tracks(t.frames, t.ids, t.boxes, t.scores, np.zeros_like(t.labels)) for name, t in videos.items()
    }  # fmt: skip


def _has(videos: Videos, label: int) -> bool:
    return any((tracks.labels == label).any() for tracks in videos.values())


def _relabelled(videos: Videos, names: tuple[str, ...], wanted: tuple[str, ...]) -> Videos:
    """The same with labels in the order of `wanted`; of a class that is not there no box is left."""
    new = np.array([wanted.index(name) if name in wanted else -1 for name in names])
    return {
        name: Tracks(t.frames, t.ids, t.boxes, t.scores, new[t.labels]) for name, t in videos.items()
    }  # fmt: skip
