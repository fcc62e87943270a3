"""Where tracked boxes will be: a Kalman filter of constant velocity for all tracks at once, in seconds.

The centre's x and y, the width and the height move independently, so each has a filter of two numbers, value and speed.
Noise is a share of the box's own size: ByteTrack's shares (arXiv 2110.06864, github.com/ifzhang/ByteTrack, MIT) are
1/20 for a value and 1/160 per frame for a speed, at 30 frames a second.

Differs: ByteTrack counts frames. Here noise grows with the time that passed, as of a random walk in continuous time:
two steps of dt predict what one step of 2 dt does, so frames may be dropped, and a video's rate may vary.

Legend: N tracks, M boxes.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

RATE = 30.0  # frames a second at which the shares below hold for one frame
_VALUE, _SPEED = 1 / 20, 1 / 160  # standard deviations, in sides of the box
_WALK = RATE * _VALUE**2  # variance that a value gains in a second
_CHANGE = RATE * (_SPEED * RATE) ** 2  # and its speed


class Motion(NamedTuple):
    """All [N, 4] for centre x, centre y, width, height. value: pixels; speed: pixels a second; value_var, covariance,
    speed_var: of the two."""

    value: Array
    speed: Array
    value_var: Array
    covariance: Array
    speed_var: Array

    @property
    def boxes(self) -> Array:
        """[N, 4] xyxy pixels."""
        half = self.value[:, 2:].clip(min=1e-3) / 2
        return np.concatenate([self.value[:, :2] - half, self.value[:, :2] + half], 1)

    def at(self, rows: Array) -> "Motion":
        """Of some tracks: their numbers or a mask."""
        return Motion(*(column[rows] for column in self))

    def put(self, rows: Array, other: "Motion") -> None:
        """Set the tracks with these numbers."""
        for column, values in zip(self, other):
            column[rows] = values

    def joined(self, other: "Motion") -> "Motion":
        """The tracks of both, one behind the other."""
        return Motion(*(np.concatenate(pair) for pair in zip(self, other)))


def start(boxes: Array) -> Motion:
    """boxes: [N, 4] xyxy. Standing still, with little known of the speed."""
    value = to_value(boxes)
    size = _square(value)
    var = np.broadcast_to(size * (2 * _VALUE) ** 2, value.shape)
    speed_var = np.broadcast_to(size * (10 * _SPEED * RATE) ** 2, value.shape)
    return Motion(value, np.zeros_like(value), var.copy(), np.zeros_like(value), speed_var.copy())


def predict(motion: Motion, seconds: float, lost: Array) -> Motion:
    """The same `seconds` later. lost: [N] mask of tracks whose size no longer changes, since a box that shrinks before
    it is hidden would soon be nothing."""
    speed = motion.speed.copy()
    speed[lost, 2:] = 0
    size = _square(motion.value)
    value_var = motion.value_var + 2 * seconds * motion.covariance + seconds**2 * motion.speed_var
    return Motion(
        motion.value + seconds * speed,
        speed,
        value_var + size * (_WALK * seconds + _CHANGE * seconds**3 / 3),
        motion.covariance + seconds * motion.speed_var + size * _CHANGE * seconds**2 / 2,
        motion.speed_var + size * _CHANGE * seconds,
    )


def update(motion: Motion, boxes: Array) -> Motion:
    """Corrected by boxes [N, 4] xyxy that were found, one for each track."""
    noise = motion.value_var + _square(motion.value) * _VALUE**2
    gain, speed_gain = motion.value_var / noise, motion.covariance / noise
    missed = to_value(boxes) - motion.value
    return Motion(
        motion.value + gain * missed,
        motion.speed + speed_gain * missed,
        (1 - gain) * motion.value_var,
        (1 - gain) * motion.covariance,
        motion.speed_var - speed_gain * motion.covariance,
    )


def distance(motion: Motion, boxes: Array, unseen: Array) -> Array:
    """[N, M]: squared Mahalanobis distance of the centres of boxes [M, 4] xyxy from where tracks are expected.

    unseen: [N] seconds. An object may turn while it is hidden, so the way it went since counts as uncertain.
    """
    turned = motion.speed[:, :2] * unseen[:, None]
    var = motion.value_var[:, :2] + _square(motion.value) * _VALUE**2 + turned**2
    missed = to_value(boxes)[None, :, :2] - motion.value[:, None, :2]
    result: Array = (missed**2 / var[:, None]).sum(2)
    return result


def to_value(boxes: Array) -> Array:
    """[N, 4] xyxy -> centre x, centre y, width, height."""
    return np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], 1)


def _square(value: Array) -> Array:
    """[N, 1] pixels of the box's area, the square of a mean side."""
    result: Array = value[:, 2:].clip(min=1).prod(1, keepdims=True)
    return result
