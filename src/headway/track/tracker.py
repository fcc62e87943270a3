"""The tracker: gives every detection of a video's frames the identity of an object, frame by frame.

`byte` is ByteTrack (arXiv 2110.06864; facts from the paper and github.com/ifzhang/ByteTrack, MIT): strong detections
continue tracks by the overlap with where these are expected, then weak ones continue what is left, since an object that
is half hidden scores low. `jde` (arXiv 1909.09756) asks first how alike the embeddings are, among the detections that a
track can have reached, so that an object keeps its identity where it comes out from behind another one.

Differs from both: time is in seconds (`motion`); tracks and detections of different classes may be paired at a
discount, so a class that flickers does not split a track; an identity is given when a track is confirmed, so numbers
are not skipped; a weak embedding, of a half hidden object, does not change the track's.

Legend: N tracks, M detections, C classes, E numbers of an embedding.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ..errors import HeadwayError, check_number
from ..overlap import iou_of
from . import motion
from .matching import assign

if TYPE_CHECKING:
    from ..detections import Detections

Array = NDArray[Any]
Method = Literal["byte", "jde"]

# Overlaps from which on a pair is made: ByteTrack's 1 - 0.8, 1 - 0.5 and 1 - 0.7.
_STRONG, _WEAK, _TENTATIVE = 0.2, 0.5, 0.3
_OTHER_CLASS = 0.7  # of the overlap or the likeness of a pair whose classes differ
_GATE = 16.0  # squared distance that all centres but one in 3000 keep, by a normal distribution
# JDE's: share of the embedding beside the motion in a pair's cost, greatest cost, memory of a track's embedding.
_EMBEDDING, _COST, _MEMORY = 0.98, 0.7, 0.9
NO_EMBEDDINGS = (
    "the tracker jde needs an embedding of each detection, and these have none: train a YOLO model with "
    "--set embedding=64, or track with byte"
)


class Tracker:
    """Identities for the detections of one video.

    fps: frames a second, where `update` is not told the time.
    method: "byte" by overlaps, or "jde" by embeddings too, of a model that was trained with `embedding=64`.
    min_score: detections that score less are not tracked.
    new_score: from this score on a detection is strong: it begins a track, or finds one again.
    keep: seconds for which a track that is not found is looked for.
    confirm: detections that a track needs for its identity; those before are of none. Tracks of the first frame need 1.
    count: identities that were given so far.

    Raises: HeadwayError for an option out of range.
    """

    def __init__(
        self,
        fps: float = motion.RATE,
        *,
        method: Method = "byte",
        min_score: float = 0.1,
        new_score: float = 0.5,
        keep: float = 1.0,
        confirm: int = 2,
    ) -> None:
        if method not in get_args(Method):
            raise HeadwayError(f"method must be one of {', '.join(get_args(Method))}, got {method!r}")
        check_number("fps", fps, 1e-3)
        check_number("min_score", min_score, 0, 1)
        check_number("new_score", new_score, min_score, 1)
        check_number("keep", keep, 0)
        check_number("confirm", confirm, 1, whole=True)
        self.fps, self.method, self.min_score, self.new_score = fps, method, min_score, new_score
        self.keep, self.confirm = keep, confirm
        self.reset()

    def reset(self) -> None:
        """Forget everything, before the first frame of another video. Identities begin with 1 again."""
        none = np.zeros(0)
        self._motion = motion.start(np.zeros((0, 4)))
        self._ids, self._hits, self._seen = none.astype(np.int64), none.astype(np.int64), none
        self._votes = np.zeros((0, 1))
        self._embeddings: Array | None = None
        self._time: float | None = None
        self.count = 0

    def update(self, detections: "Detections", time: float | None = None) -> "Detections":
        """The same detections in the same order, each once, with `extras["track"]` [M] int64: the identity from 1 on,
        or -1 for a detection that belongs to none (yet).

        time: of the frame, in seconds; None: 1 / fps after the frame before.
        Raises: HeadwayError for a time that is not finite or before that of the frame before, and for "jde" without
        embeddings.
        """
        boxes, scores, labels, embeddings = self._read(detections)
        first, before = self._time is None, self._advance(time)
        recent = self._seen >= before
        self._motion = motion.predict(self._motion, self._now - before, ~recent)
        usable = np.isfinite(boxes).all(1)
        boxes[~usable] = 0
        strong = usable & (scores >= self.new_score)
        weak = usable & (scores >= self.min_score) & ~strong
        of = self._match(boxes, labels, embeddings, strong, weak, recent)
        self._correct(of, boxes, scores, labels, embeddings, strong)
        new = np.flatnonzero(strong & (of < 0))
        of[new] = len(self._ids) + np.arange(len(new))
        self._begin(boxes[new], scores[new], labels[new], None if embeddings is None else embeddings[new])
        self._name(of, 1 if first else self.confirm)
        ids = np.append(self._ids, -1)[of]  # of -1 the last
        self._forget((self._ids > 0) | (self._seen >= self._now))
        track = detections.labels.new_tensor(np.where(ids > 0, ids, -1))
        return replace(detections, extras={**detections.extras, "track": track})

    # ------------------------------------------------------------------------------------------------- one frame
    def _read(self, detections: "Detections") -> tuple[Array, Array, Array, Array | None]:
        """Boxes, scores, labels, and embeddings of length 1 where they are asked for."""
        boxes, scores = (x.detach().cpu().double().numpy() for x in (detections.boxes, detections.scores))
        labels = detections.labels.cpu().numpy().astype(np.int64)
        self._votes = np.pad(self._votes, ((0, 0), (0, max(0, labels.max(initial=0) + 1 - self._votes.shape[1]))))
        if self.method != "jde":
            return boxes.copy(), scores, labels, None
        if "embeddings" not in detections.extras:
            raise HeadwayError(NO_EMBEDDINGS)
        rows = detections.extras["embeddings"].detach().cpu().double().numpy()
        return boxes.copy(), scores, labels, rows / np.linalg.norm(rows, axis=1, keepdims=True).clip(min=1e-12)

    def _advance(self, time: float | None) -> float:
        """Go on to the new time and forget the tracks that are out of it by then. Returns the time before."""
        before = self._time
        now = (0.0 if before is None else before + 1 / self.fps) if time is None else float(time)
        if not np.isfinite(now):
            raise HeadwayError(f"the time of a frame must be a number of seconds, got {now:g}")
        if before is not None and now < before:
            raise HeadwayError(
                f"frames must come in the order of time, got one at {now:g} s after one at {before:g} s; "
                "reset() begins another video"
            )
        self._time = self._now = now
        self._forget(self._seen >= now - self.keep - 1e-9)
        return now if before is None else before

    def _match(
        self, boxes: Array, labels: Array, embeddings: Array | None, strong: Array, weak: Array, recent: Array
    ) -> Array:
        """[M] number of the track that each detection continues, or -1. recent: [N] found in the frame before."""
        same = np.where(self._votes.argmax(1)[:, None] == labels, 1.0, _OTHER_CLASS)
        overlap = iou_of(self._motion.boxes, boxes) * same
        known, of = self._ids > 0, np.full(len(boxes), -1)

        def pair(similarity: Array, least: float, tracks: Array, found: Array) -> None:
            rows = np.setdiff1d(np.flatnonzero(tracks), of)
            columns = np.flatnonzero(found & (of < 0))
            if not len(rows) or not len(columns):
                return
            made, chosen = assign(similarity[np.ix_(rows, columns)], least)
            of[columns[chosen]] = rows[made]

        if embeddings is None:
            pair(overlap, _STRONG, known, strong)
        else:
            pair(self._likeness(boxes, embeddings) * same, 0, known, strong)
            pair(overlap, _STRONG, known & recent, strong)
        pair(overlap, _WEAK, known & recent, weak)
        pair(overlap, _TENTATIVE, ~known, strong)
        return of

    def _likeness(self, boxes: Array, embeddings: Array) -> Array:
        """[N, M]: by how much a pair costs less than the greatest cost; 0 for one that must not be made."""
        if self._embeddings is None or not len(self._embeddings):
            return np.zeros((len(self._ids), len(boxes)))
        far = motion.distance(self._motion, boxes, self._now - self._seen)
        cost = _EMBEDDING * (1 - self._embeddings @ embeddings.T) + (1 - _EMBEDDING) * far
        return np.where(far <= _GATE, (_COST - cost).clip(min=0), 0.0)

    def _correct(
        self, of: Array, boxes: Array, scores: Array, labels: Array, embeddings: Array | None, strong: Array
    ) -> None:
        """Tell the tracks what was found of them."""
        found = np.flatnonzero(of >= 0)
        rows = of[found]
        self._motion.put(rows, motion.update(self._motion.at(rows), boxes[found]))
        self._hits[rows] += 1
        self._seen[rows] = self._now
        self._votes[rows, labels[found]] += scores[found]
        if embeddings is not None and self._embeddings is not None:
            found = found[strong[found]]
            mixed = _MEMORY * self._embeddings[of[found]] + (1 - _MEMORY) * embeddings[found]
            self._embeddings[of[found]] = mixed / np.linalg.norm(mixed, axis=1, keepdims=True).clip(min=1e-12)

    def _begin(self, boxes: Array, scores: Array, labels: Array, embeddings: Array | None) -> None:
        """A track without identity of each."""
        count = len(boxes)
        votes = np.zeros((count, self._votes.shape[1]))
        votes[np.arange(count), labels] = scores
        self._motion = self._motion.joined(motion.start(boxes))
        self._ids = np.append(self._ids, np.zeros(count, np.int64))
        self._hits = np.append(self._hits, np.ones(count, np.int64))
        self._seen = np.append(self._seen, np.full(count, self._now))
        self._votes = np.concatenate([self._votes, votes])
        if embeddings is not None:
            known = embeddings[:0] if self._embeddings is None else self._embeddings
            self._embeddings = np.concatenate([known, embeddings])

    def _name(self, of: Array, confirm: int) -> None:
        """Give tracks that were found often enough their identity, in the order of their detections."""
        rows = of[of >= 0]
        rows = rows[(self._ids[rows] == 0) & (self._hits[rows] >= confirm)]
        self._ids[rows] = self.count + 1 + np.arange(len(rows))
        self.count += len(rows)

    def _forget(self, kept: Array) -> None:
        """All tracks but those of the mask."""
        if kept.all():
            return
        self._motion = self._motion.at(kept)
        self._ids, self._hits, self._seen = self._ids[kept], self._hits[kept], self._seen[kept]
        self._votes = self._votes[kept]
        if self._embeddings is not None:
            self._embeddings = self._embeddings[kept]
