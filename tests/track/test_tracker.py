"""The tracker on scenes made by hand: who is who after a crossing, behind a wall, and at any rate of frames."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import headway
from headway.errors import HeadwayError
from headway.track import motion
from headway.track.evaluate import score_tracks
from headway.track.tracks import Tracks, rows_of


def found(boxes, scores=None, labels=None, embeddings=None):
    count = len(boxes)
    extras = {} if embeddings is None else {"embeddings": torch.tensor(embeddings, dtype=torch.float32)}
    return headway.Detections(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor([0.9] * count if scores is None else scores, dtype=torch.float32),
        torch.tensor([0] * count if labels is None else labels, dtype=torch.int64), ("a", "b"), extras=extras,
    )  # fmt: skip


def at(x, y=50.0, side=20.0):
    return [x - side / 2, y - side / 2, x + side / 2, y + side / 2]


def ids(tracker, *arguments, time=None, **more):
    return tracker.update(found(*arguments, **more), time).extras["track"].tolist()


# ------------------------------------------------------------------------------------------ every detection once
BOX = st.tuples(st.integers(0, 60), st.integers(0, 60), st.integers(0, 40), st.integers(0, 40))
DETECTION = st.tuples(BOX, st.sampled_from([0.05, 0.2, 0.4, 0.6, 0.95]), st.integers(0, 1), st.integers(0, 3))


@given(
    frames=st.lists(st.lists(DETECTION, max_size=6), min_size=1, max_size=8),
    gaps=st.lists(st.sampled_from([0.0, 0.02, 0.1, 0.7, 2.0]), min_size=8, max_size=8),
    method=st.sampled_from(["byte", "jde"]),
    broken=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_every_detection_comes_out_once(frames, gaps, method, broken):
    """In the given order, unchanged, with an identity or -1; no identity twice in a frame; none is skipped."""
    tracker, given_ids, time = headway.Tracker(25, method=method), set(), 0.0
    for frame, gap in zip(frames, gaps):
        boxes = [[x, y, x + w, y + h] for (x, y, w, h), *_ in frame]
        if broken and boxes:
            boxes[-1][0] = float("nan")
        rows = np.eye(4)[[kind for *_, kind in frame]].reshape(-1, 4)
        before = found(boxes, [s for _, s, *_ in frame], [label for _, _, label, _ in frame], rows)
        time += gap
        after = tracker.update(before, time)
        for name in ("boxes", "scores", "labels"):
            assert torch.equal(getattr(after, name).nan_to_num(), getattr(before, name).nan_to_num())
        track = after.extras["track"]
        assert track.dtype == torch.int64
        assert len(track) == len(frame)
        assert "track" not in before.extras
        named = [number for number in track.tolist() if number != -1]
        assert len({*named}) == len(named)
        assert all(number >= 1 for number in named)
        assert (track[before.scores < 0.1] == -1).all()
        given_ids |= {*named}
    assert given_ids <= {*range(1, tracker.count + 1)}
    assert given_ids == {*range(1, tracker.count + 1)}


# -------------------------------------------------------------------------------------------------- who is who
def test_identities_are_numbered_from_1_as_they_are_confirmed():
    tracker = headway.Tracker(25)
    assert ids(tracker, [at(10), at(100)]) == [1, 2]  # of the first frame at once
    assert ids(tracker, [at(100), at(10), at(200)]) == [2, 1, -1]
    assert ids(tracker, [at(10), at(300)]) == [1, -1]  # 200 was a single detection, and takes no number
    assert ids(tracker, [at(10), at(300), at(100)]) == [1, 3, 2]
    tracker.reset()
    assert ids(tracker, [at(300)]) == [1]


def test_paths_that_cross_keep_their_identities():
    """Two objects 16 pixels apart in y walk through each other at 4 pixels a frame."""
    tracker = headway.Tracker(25)
    for t in range(40):
        assert ids(tracker, [at(20 + 4 * t, 50), at(180 - 4 * t, 66)]) == [1, 2], t


@pytest.mark.parametrize(("hidden", "again"), [(20, [1]), (30, [-1])])
def test_lost_and_found(hidden, again):
    """An object that walks 3 pixels a frame is hidden for 0.8 s, or for 1.2 s, which is longer than `keep`."""
    tracker = headway.Tracker(25, keep=1.0)
    for t in range(15):
        ids(tracker, [at(20 + 3 * t)])
    for _ in range(hidden - 1):
        assert ids(tracker, []) == []
    assert ids(tracker, [at(20 + 3 * (14 + hidden))]) == again
    assert ids(tracker, [at(20 + 3 * (15 + hidden))]) == ([1] if again == [1] else [2])


def test_weak_detections_continue_a_track_and_begin_none():
    tracker = headway.Tracker(25)
    assert ids(tracker, [at(10), at(100)], [0.9, 0.3]) == [1, -1]
    for _ in range(5):
        assert ids(tracker, [at(10), at(100)], [0.3, 0.3]) == [1, -1]
    assert ids(tracker, [at(10), at(100)], [0.05, 0.3]) == [-1, -1]
    assert ids(tracker, [at(10)], [0.9]) == [1]


def test_a_class_that_flickers_does_not_split_a_track():
    tracker, rows = headway.Tracker(25), []
    for t in range(12):
        frame = tracker.update(found([at(10 + t)], labels=[1 if t % 4 == 3 else 0]))
        assert frame.extras["track"].tolist() == [1]
        rows += rows_of(t + 1, frame)
    tracks = Tracks.of_rows(rows)
    assert tracks.labels.sum() == 3
    assert tracks.settled().labels.tolist() == [0] * 12


def test_a_track_has_the_class_of_the_greatest_sum_and_of_equal_ones_the_first():
    rows = [
        (1, 7, 0, 0, 9, 9, 0.5, 4),
        (2, 7, 0, 0, 9, 9, 0.5, 2),
        (3, 9, 0, 0, 9, 9, 0.3, 5),
        (3, -1, 0, 0, 9, 9, 1, 8),
    ]
    rows += [(4, 9, 0, 0, 9, 9, 0.4, 1), (5, 9, 0, 0, 9, 9, 0.2, 5)]
    assert Tracks.of_rows(rows).settled().labels.tolist() == [2, 2, 5, 8, 5, 5]


def test_the_same_class_is_preferred():
    """The box between two of the other class is nearer to the wrong one."""
    tracker = headway.Tracker(25)
    ids(tracker, [at(10), at(22)], labels=[0, 1])
    assert ids(tracker, [at(17)], labels=[0]) == [1]


# -------------------------------------------------------------------------------------------------------- time
def test_two_steps_of_time_predict_what_one_does():
    boxes = np.array([[0.0, 0, 20, 40], [50, 50, 90, 70]])
    none = np.zeros(2, bool)
    state = motion.update(motion.predict(motion.start(boxes), 0.04, none), boxes + np.array([3.0, 1, 4, 1]))
    once = motion.predict(state, 0.5, none)
    twice = motion.predict(motion.predict(state, 0.2, none), 0.3, none)
    # Noise is a share of the box's size, which changed a little between.
    for a, b in zip(once, twice):
        assert a == pytest.approx(b, rel=0.05)
    same_size = state._replace(speed=state.speed * [1, 1, 0, 0])
    for a, b in zip(
        motion.predict(same_size, 0.5, none), motion.predict(motion.predict(same_size, 0.2, none), 0.3, none)
    ):
        assert a == pytest.approx(b, rel=1e-9)


def test_the_filter_by_hand():
    """A box of side 30 that stands: value variance (2 * 30 / 20)^2 = 9, measurement (30 / 20)^2 = 2.25, so the gain is
    9 / 11.25 = 0.8 and a centre that is found 5 pixels away moves by 4."""
    state = motion.start(np.array([[0.0, 0, 30, 30]]))
    moved = motion.update(state, np.array([[5.0, 0, 35, 30]]))
    assert moved.value[0].tolist() == pytest.approx([19, 15, 30, 30])
    assert moved.value_var[0, 0] == pytest.approx(0.2 * 9)
    assert moved.speed[0, 0] == 0  # nothing links the two before time passes
    later = motion.predict(state, 0.1, np.zeros(1, bool))
    speed_var = (10 / 160 * 30 * 30) ** 2
    expected = 9 + 0.01 * speed_var + 30 * 2.25 * 0.1 + 30 * (30 * 30 / 160) ** 2 * 0.001 / 3
    assert later.value_var[0, 0] == pytest.approx(expected)
    assert later.covariance[0, 0] == pytest.approx(0.1 * speed_var + 30 * (30 * 30 / 160) ** 2 * 0.005)


def test_frames_may_be_dropped_and_the_rate_may_vary():
    """50 pixels a second; frames 10 to 60 ms apart, and every third one is dropped."""
    rng = np.random.default_rng(0)
    times = np.cumsum(rng.uniform(0.01, 0.06, 120))
    tracker = headway.Tracker()
    for number, time in enumerate(times.tolist()):
        if number % 3 != 2:
            boxes = [at(20 + 50 * time, 50), at(300 - 50 * time, 56)]
            assert ids(tracker, boxes, time=time) == [1, 2]


def test_a_jump_in_time_is_a_jump_in_place():
    """After half a second without frames an object is expected where its speed took it: the other one, which stands
    where it was last seen, is not taken for it."""
    tracker = headway.Tracker()
    for t in range(20):
        ids(tracker, [at(20 + 6 * t)], time=t / 25)
    assert ids(tracker, [at(20 + 6 * 19), at(20 + 6 * 31.5)], time=19 / 25 + 0.5) == [-1, 1]


def test_time_must_not_run_back():
    tracker = headway.Tracker()
    ids(tracker, [at(10)], time=1.0)
    assert ids(tracker, [at(10)], time=1.0) == [1]
    with pytest.raises(HeadwayError, match=r"got one at 0.5 s after one at 1 s"):
        ids(tracker, [at(10)], time=0.5)
    for time in (float("nan"), float("inf")):
        with pytest.raises(HeadwayError, match=r"time of a frame must be a number of seconds, got (nan|inf)"):
            ids(headway.Tracker(), [at(10)], time=time)


# -------------------------------------------------------------------------------------------------- embeddings
def meeting(back):
    """Two objects meet behind a wall, unseen for 12 frames, and walk on or `back`: boxes and embeddings per frame, or
    nothing."""
    rng = np.random.default_rng(1)
    for t in range(50):
        x = 20 + 4 * t if t < 25 or not back else 20 + 4 * (50 - t)
        rows = np.eye(8)[:2] + rng.normal(0, 0.1, (2, 8))
        yield [] if 19 <= t < 31 else [at(x), at(220 - x)], rows if not 19 <= t < 31 else np.zeros((0, 8))


@pytest.mark.parametrize(("method", "right"), [("byte", False), ("jde", True)])
def test_embeddings_tell_who_comes_back(method, right):
    tracker = headway.Tracker(25, method=method)
    frames = [ids(tracker, boxes, embeddings=rows) for boxes, rows in meeting(back=True)]
    assert frames[18] == [1, 2]
    assert (frames[-1] == [1, 2]) == right


def test_embeddings_do_no_harm_where_paths_cross():
    tracker = headway.Tracker(25, method="jde")
    assert [ids(tracker, boxes, embeddings=rows) for boxes, rows in meeting(back=False)][-1] == [1, 2]


def test_embeddings_do_not_reach_across_the_picture():
    """One that looks the same at the other end, 0.04 s later, is another one."""
    tracker = headway.Tracker(25, method="jde")
    row = np.eye(4)[:1]
    for _ in range(5):
        ids(tracker, [at(20)], embeddings=row)
    assert ids(tracker, [at(400)], embeddings=row) == [-1]


def test_jde_needs_embeddings():
    with pytest.raises(HeadwayError, match=r"--set embedding=64"):
        ids(headway.Tracker(method="jde"), [at(10)])


@pytest.mark.parametrize(
    ("options", "words"),
    [({"method": "sort"}, "byte, jde"), ({"fps": 0}, "fps"), ({"new_score": 0.05}, "new_score"),
     ({"confirm": 0}, "confirm"), ({"keep": -1}, "keep")],
)  # fmt: skip
def test_wrong_options_are_told(options, words):
    with pytest.raises(HeadwayError, match=words):
        headway.Tracker(**options)


# ------------------------------------------------------------------------------------------------ a whole video
def test_eight_objects_two_walls_and_noise():
    """IDF1 of at least 0.95: 8 objects on their ways for 4 s, two walls that hide what is behind them, boxes that
    jitter by 2 % of their side, one false box in every fourth frame, and 3 % of the boxes lost."""
    rng = np.random.default_rng(3)
    start, step = np.stack([rng.uniform(0, 60, 8), 30 + 45 * np.arange(8)], 1), rng.uniform(2, 4, 8)
    tracker, truth, tracks = headway.Tracker(25), [], []
    for t in range(100):
        boxes = []
        for i in range(8):
            x, y = start[i, 0] + t * step[i], start[i, 1]
            if 100 < x < 130 or (i % 2 and 230 < x < 255):
                continue
            truth.append((t + 1, i + 1, *at(x, y, 30), 1, 0))
            if rng.random() > 0.03:
                boxes.append((np.array(at(x, y, 30)) + rng.normal(0, 0.6, 4)).tolist())
        if t % 4 == 0:
            boxes.append(at(*rng.uniform(0, 400, 2), 25))
        tracks += rows_of(t + 1, tracker.update(found(boxes)))
    scores = score_tracks({"": Tracks.of_rows(truth)}, {"": Tracks.of_rows(tracks)}, ("object",)).summary
    assert scores["IDF1"] >= 0.95
    assert scores["IDSW"] <= 2
