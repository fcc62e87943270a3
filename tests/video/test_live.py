"""A live source never waits: who is slow gets the latest frame, and what came meanwhile is counted."""

import socket
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Event

import av
import pytest

from headway.errors import DataError
from headway.predict import open_frames, video_reader
from headway.predict.live import Latest

from .clips import grey_clip
from .rtsp_camera import rtsp_camera

LIMIT = 60  # seconds after which a test that hangs fails


def test_a_slow_consumer_gets_the_latest():
    """0 is taken; 1, 2 and 3 come while the consumer works; it gets 3, and two were dropped."""
    taken, placed = Event(), Event()

    def items():
        yield 0
        assert taken.wait(LIMIT)
        yield from (1, 2, 3)
        placed.set()  # runs when 3 lies in the queue
        yield from ()

    latest = Latest(items())
    stream = iter(latest)
    assert next(stream) == 0
    taken.set()
    assert placed.wait(LIMIT)
    assert (next(stream), latest.dropped) == (3, 2)
    assert list(stream) == []


def test_a_fast_consumer_misses_nothing():
    given = Event()
    given.set()

    def items():
        for number in range(20):
            assert given.wait(LIMIT)
            given.clear()
            yield number

    latest, seen = Latest(items()), []
    for item in latest:
        seen.append(item)
        given.set()
    assert (seen, latest.dropped) == (list(range(20)), 0)


def test_an_error_comes_behind_the_last_item():
    def items():
        yield "frame"
        raise DataError("the cable is out")

    stream = iter(Latest(items()))
    assert next(stream) == "frame"
    with pytest.raises(DataError, match="the cable is out"):
        next(stream)


def test_stopping_ends_the_thread_at_its_next_item():
    asked, go, closed = Event(), Event(), Event()

    def items():
        try:
            yield 0
            asked.set()
            assert go.wait(LIMIT)
            yield 1
            yield 2
        finally:
            closed.set()

    latest = Latest(items())
    stream = iter(latest)
    assert next(stream) == 0
    assert asked.wait(LIMIT)
    threading.Timer(0.05, go.set).start()
    assert latest.stop()
    del stream, latest
    assert closed.wait(LIMIT)


def test_a_file_can_be_played_as_a_camera_would_send_it(tmp_path):
    """Whatever the speed of the machine: the numbers grow, and each frame was either taken or dropped."""
    clip = grey_clip(tmp_path / "clip.mp4", 12, [number / 200 for number in range(12)])
    with open_frames(clip, live=True) as source:
        assert (source.live, source.count) == (True, None)
        numbers = [frame.number for frame in source]
    assert numbers == sorted(set(numbers))
    assert numbers[-1] == 11
    assert len(numbers) + source.dropped == 12


def test_a_live_source_can_be_left_at_any_time(tmp_path):
    before = threading.active_count()
    clip = grey_clip(tmp_path / "clip.mp4", 50, [number / 100 for number in range(50)])
    with open_frames(clip, live=True) as source:
        next(iter(source))
    assert threading.active_count() <= before


@pytest.fixture
def port(tmp_path):
    """A camera that sends ten frames as MPEG-TS over TCP and hangs up."""
    content = grey_clip(tmp_path / "clip.ts", 10).read_bytes()
    server = socket.create_server(("127.0.0.1", 0))
    server.settimeout(LIMIT)

    def serve():
        connection, _ = server.accept()
        with connection:
            connection.sendall(content)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield server.getsockname()[1]
    thread.join(LIMIT)
    server.close()


def test_a_stream_from_the_network(port):
    with open_frames(f"tcp://127.0.0.1:{port}") as source:
        assert (source.live, source.size) == (True, (48, 64))
        frames = list(source)
    assert (len(frames) + source.dropped, source.problem) == (10, "")
    assert frames[-1].number == 9
    assert frames[-1].time == pytest.approx(9 / 25, abs=1e-4)


def test_a_camera_that_speaks_rtsp(tmp_path):
    """What lies in the last RTP packet when the camera hangs up may be lost: a frame or two of the ten."""
    content = grey_clip(tmp_path / "clip.ts", 10).read_bytes()
    with rtsp_camera(content) as address, open_frames(address.replace("//", "//me:secret@")) as source:
        assert (source.live, source.size) == (True, (48, 64))
        assert source.name == address.replace("//", "//me:***@")
        frames = list(source)
    assert len(frames) + source.dropped == frames[-1].number + 1 >= 8
    assert frames[-1].time <= 9 / 25 + 1e-4


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def test_a_video_at_an_address_is_a_file(tmp_path):
    """It waits: every frame comes."""
    grey_clip(tmp_path / "clip.mp4", 10)
    handler = partial(Quiet, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        with open_frames(f"{address}/clip.mp4") as source:
            assert (source.live, source.count) == (False, 10)
            assert [frame.number for frame in source] == list(range(10))
        with pytest.raises(DataError, match=r"video http\S+/gone.mp4 cannot be opened \(Server returned 404"):
            open_frames(f"{address}/gone.mp4")
        server.shutdown()


def test_a_camera_that_falls_silent_is_given_up(tmp_path, monkeypatch):
    """It sends its frames and keeps the line; what it sent comes."""
    monkeypatch.setattr(video_reader, "_TIMEOUT", 1.0)
    content = grey_clip(tmp_path / "clip.ts", 10).read_bytes()
    with socket.create_server(("127.0.0.1", 0)) as server:
        lines = []

        def serve():
            lines.append(server.accept()[0])
            lines[0].sendall(content)

        threading.Thread(target=serve, daemon=True).start()
        with open_frames(f"tcp://127.0.0.1:{server.getsockname()[1]}") as source:
            count = sum(1 for _ in source) + source.dropped
            assert 8 <= count <= 10
            assert f"ended after {count} frames (nothing came for 1 seconds)" in source.problem
        lines[0].close()


def test_nobody_there():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(
        DataError, match=rf"stream rtsp://127.0.0.1:{port}/a cannot be opened \(Connection refused\); check"
    ):
        open_frames(f"rtsp://127.0.0.1:{port}/a")
    assert "rtsp" in av.formats_available
