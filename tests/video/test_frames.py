"""Frames are the pixels and the times that a player shows, whatever the file's rate, order, turn, range or damage."""

import gc
import itertools
import sys
import wave
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import Colorspace
from PIL import Image

from headway.data.image import array_upright
from headway.errors import DataError, HeadwayError
from headway.predict import VideoWriter, open_frames
from headway.predict.frames import is_video, kind_of, natural
from headway.predict.video_reader import Clock, camera, upright, without_password

from .clips import grey, grey_clip, levels, write_clip


def level_of(frame) -> float:
    return frame.pixels.float().mean().item()


def test_every_frame_once_in_the_order_in_which_they_are_shown(tmp_path):
    """With three B-frames between two others the file's order is another; the levels tell the frames apart."""
    clip = grey_clip(tmp_path / "clip.mp4", 20, options={"bf": "3", "b_strategy": "0", "g": "10"})
    with open_frames(clip) as source:
        assert (source.fps, source.count, source.size, source.live) == (25.0, 20, (48, 64), False)
        frames = list(source)
        assert source.problem == ""
    assert [frame.number for frame in frames] == list(range(20))
    assert [frame.time for frame in frames] == pytest.approx([number / 25 for number in range(20)], abs=1e-6)
    assert [level_of(frame) for frame in frames] == pytest.approx(levels(20), abs=3)
    assert {tuple(frame.pixels.shape) for frame in frames} == {(3, 48, 64)}
    assert {frame.source for frame in frames} == {str(clip)}


@pytest.mark.parametrize(("name", "exact"), [("clip.mp4", 1e-4), ("clip.mkv", 1e-3), ("clip.ts", 1e-4)])
def test_times_are_those_of_the_file_where_the_rate_varies(tmp_path, name, exact):
    """A phone's clip: frames 40 ms apart, a gap, a pause. Counting at the average rate would be off by half a second.
    Matroska counts milliseconds."""
    times = [0, 0.04, 0.08, 0.5, 0.54, 1.5, 1.52]
    with open_frames(grey_clip(tmp_path / name, len(times), times)) as source:
        assert [frame.time for frame in source] == pytest.approx(times, abs=exact)


@pytest.mark.parametrize(
    ("name", "codec"),
    [("clip.avi", "mpeg4"), ("b.avi", "libx264"), ("clip.webm", "libvpx-vp9"), ("clip.mov", "libx265"),
     ("clip.flv", "libx264"), ("clip.mpg", "mpeg2video"), ("clip.h264", "libx264")],
)  # fmt: skip
def test_other_files_and_codecs(tmp_path, name, codec):
    """Some say no presentation time (AVI), some no number of frames (MPEG, FLV), a raw stream neither."""
    with open_frames(grey_clip(tmp_path / name, 12, codec=codec, ticks=25)) as source:
        frames = list(source)
        assert (source.fps, source.problem) == (25, "")
    assert [level_of(frame) for frame in frames] == pytest.approx(levels(12), abs=4)
    assert [frame.time for frame in frames] == pytest.approx([number / 25 for number in range(12)], abs=1e-3)


def test_an_avi_may_leave_frames_out(tmp_path):
    """It counts the empty frames between, and is not damaged for that."""
    times = [0, 0.04, 0.2, 0.24, 0.4]
    with open_frames(grey_clip(tmp_path / "clip.avi", 5, times, codec="mpeg4", ticks=25)) as source:
        assert [frame.time for frame in source] == pytest.approx(times, abs=1e-3)
        assert source.problem == ""


def test_times_begin_with_the_first_frame(tmp_path):
    with open_frames(grey_clip(tmp_path / "clip.mkv", 3, [7.0, 7.1, 7.3])) as source:
        assert [frame.time for frame in source] == pytest.approx([0, 0.1, 0.3], abs=1e-3)


TURNS = [(degrees, mirror, False) for degrees in (0, 90, 180, 270) for mirror in (False, True)] + [(0, False, True)]


@pytest.mark.parametrize("turn", TURNS)
def test_frames_stand_upright(tmp_path, turn):
    """The file asks for a turn counter-clockwise, then for mirroring: numpy's rot90, then a flip."""
    stored = grey(40, 32, 64)
    stored[:16, :16] = 220  # top left
    stored[:16, 48:] = 130  # top right
    degrees, columns, rows = turn
    shown = np.rot90(stored, degrees // 90)
    shown = shown[:: -1 if rows else 1, :: -1 if columns else 1]
    with open_frames(write_clip(tmp_path / "clip.mp4", [stored] * 2, turn=turn)) as source:
        assert source.size == shown.shape[:2]
        for frame in source:
            pixels = frame.pixels.permute(1, 2, 0).numpy().astype(int)
            assert np.abs(pixels - shown).mean() < 6


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turns_are_those_of_exif(orientation):
    """The eight orientations as display matrices (a, b, c, d), with those of `data.image` beside them."""
    matrices = [(1, 0, 0, 1), (-1, 0, 0, 1), (-1, 0, 0, -1), (1, 0, 0, -1),
                (0, 1, 1, 0), (0, 1, -1, 0), (0, -1, -1, 0), (0, -1, 1, 0)]  # fmt: skip
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    matrix = tuple(65536 * number for number in matrices[orientation - 1])
    assert (upright(pixels, matrix) == array_upright(pixels, orientation)).all()


COLOURS = [(0, 0, 0), (255, 255, 255), (200, 30, 30), (30, 160, 60)]


@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize("space", [None, Colorspace.ITU601, Colorspace.ITU709])
def test_colours_are_those_that_were_written(tmp_path, full, space):
    """Read in the wrong range, black is 16 and white 235, or contrast is lost; by the wrong matrix, red is off."""
    pictures = [np.full((48, 64, 3), colour, np.uint8) for colour in COLOURS]
    clip = write_clip(tmp_path / "clip.mp4", pictures, full=full, space=space, options={"crf": "5"})
    with open_frames(clip) as source:
        for frame, colour in zip(source, COLOURS, strict=True):
            assert frame.pixels.float().mean((1, 2)).tolist() == pytest.approx(colour, abs=4)


def test_a_large_video_without_a_matrix_is_taken_as_bt709(tmp_path):
    """As players do: 720 rows and more. Its encoder did not say so either."""
    red = np.full((720, 16, 3), (200, 30, 30), np.uint8)
    clip = write_clip(
        tmp_path / "clip.mp4", [red], space=Colorspace.ITU709, options={"crf": "5", "colorspace": "unknown"}
    )
    with open_frames(clip) as source:
        (frame,) = source
    assert frame.pixels.float().mean((1, 2)).tolist() == pytest.approx((200, 30, 30), abs=4)


def test_frames_are_let_go_at_once(tmp_path):
    """Without the garbage collector. Failed before: each frame that was asked for its rotation stayed in a cycle, and
    a thousand frames of 720 rows took 220 MiB more than a hundred."""
    clip, gone = grey_clip(tmp_path / "clip.mp4", 40, turn=(90, False, False)), 0
    gc.collect()
    gc.disable()
    try:
        with open_frames(clip) as source:
            for shot, _ in source.arrays():
                alive = sum(isinstance(thing, av.VideoFrame) for thing in gc.get_objects())
                assert alive < 8, shot.number
                gone = shot.number + 1 - alive
    finally:
        gc.enable()
    assert gone > 30


# ----------------------------------------------------------------------------------------------------- damaged files
def test_of_a_file_that_was_cut_off_the_readable_frames_come(tmp_path):
    """Its table says 50 frames, and stands in front (`faststart`); the second half of the bytes is gone."""
    pictures = list(np.random.default_rng(0).integers(0, 255, (50, 48, 64, 3), np.uint8))
    clip = write_clip(tmp_path / "clip.mp4", pictures, container={"movflags": "faststart"}, options={"g": "10"})
    content = clip.read_bytes()
    clip.write_bytes(content[: len(content) // 2])
    with open_frames(clip) as source:
        assert source.count == 50
        numbers = [frame.number for frame in source]
        assert 15 < len(numbers) < 35
        assert numbers == list(range(len(numbers)))
        assert f"{clip} is damaged or was cut off: {len(numbers)} of 50 frames were read" in source.problem


@pytest.mark.parametrize("share", [0.5, 0.8])
def test_a_matroska_file_that_was_cut_off(tmp_path, share):
    """It declares no number of frames, but a length; nothing of it is an error to FFmpeg."""
    pictures = list(np.random.default_rng(0).integers(0, 255, (100, 48, 64, 3), np.uint8))
    clip = write_clip(tmp_path / "clip.mkv", pictures, options={"g": "10"})
    with open_frames(clip) as source:
        assert (sum(1 for _ in source), source.problem) == (100, "")
    clip.write_bytes(clip.read_bytes()[: int(clip.stat().st_size * share)])
    with open_frames(clip) as source:
        count = sum(1 for _ in source)
        assert abs(count - 100 * share) < 10
        assert f"{clip} is damaged or was cut off: {count} frames were read" in source.problem


def test_bytes_in_the_middle_that_are_wrong_do_not_end_it(tmp_path):
    pictures = list(np.random.default_rng(0).integers(0, 255, (40, 48, 64, 3), np.uint8))
    clip = write_clip(tmp_path / "clip.mp4", pictures, options={"g": "10"})
    content = bytearray(clip.read_bytes())
    start = len(content) // 3
    content[start : start + 4000] = bytes(4000)
    clip.write_bytes(content)
    with open_frames(clip) as source:
        times = [frame.time for frame in source]
        assert times[-1] == pytest.approx(39 / 25, abs=1e-6)
        assert "is damaged or was cut off" in source.problem


def test_what_is_no_video_is_refused_with_the_reason(tmp_path):
    (tmp_path / "text.mp4").write_text("no video at all")
    whole = grey_clip(tmp_path / "whole.mp4", 30).read_bytes()
    (tmp_path / "headless.mp4").write_bytes(whole[: len(whole) // 2])  # its table stood at the end
    with wave.open(str(tmp_path / "sound.wav"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(1600))
    for name, message in {
        "text.mp4": "text.mp4 cannot be opened (Invalid data",
        "headless.mp4": "headless.mp4 cannot be opened (Invalid data",
        "sound.wav": "sound.wav holds no video",
        "gone.mp4": "there is no video",
    }.items():
        with pytest.raises(DataError) as caught:
            open_frames(tmp_path / name)
        assert message in str(caught.value)


def test_without_pyav_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(HeadwayError, match=r"pip install 'headway\[video\]'"):
        open_frames(tmp_path / "clip.mp4")


# ------------------------------------------------------------------------------------------------ pictures as frames
@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "frames").mkdir()
    for number in (10, 9, 1, 2):
        Image.fromarray(grey(10 * number)).save(tmp_path / "frames" / f"shot{number}.png")
    return tmp_path / "frames"


def test_pictures_are_frames_in_natural_order(folder):
    with open_frames(folder, fps=4) as source:
        assert (source.fps, source.count, source.size, source.live) == (4, 4, (48, 64), False)
        frames = list(source)
    assert [Path(frame.source).stem for frame in frames] == ["shot1", "shot2", "shot9", "shot10"]
    assert [frame.time for frame in frames] == [0, 0.25, 0.5, 0.75]
    assert [level_of(frame) for frame in frames] == [10, 20, 90, 100]
    with open_frames(f"{folder}/shot[12].png") as source:
        assert (source.fps, source.count) == (25, 2)


def test_a_picture_that_cannot_be_read_leaves_a_gap(folder):
    (folder / "shot3.png").write_bytes(b"no picture")
    with open_frames(folder) as source:
        assert [frame.number for frame in source] == [0, 1, 3, 4]
        assert "1 of its frames could not be read" in source.problem
        assert "shot3.png is not a picture" in source.problem


def test_the_first_picture_may_be_the_broken_one(folder):
    (folder / "shot0.png").write_bytes(b"no picture")
    with open_frames(folder) as source:
        assert source.size == (48, 64)
        assert [frame.number for frame in source] == [1, 2, 3, 4]
        assert "shot0.png is not a picture" in source.problem
    for path in folder.iterdir():
        path.write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"shot0\.png is not a picture"):
        open_frames(folder)


def test_sixteen_bit_pictures_have_one_white(tmp_path):
    """900 of 1023 in one picture and 3000 of 4095 in the next: white is 4095 in both, or what the model says."""
    for number, value in enumerate((900, 3000)):
        Image.fromarray(np.full((48, 64), value, np.uint16)).save(tmp_path / f"{number}.png")
    for white, expected in ((None, [900 * 256 // 4096, 3000 * 256 // 4096]), (16383, [14, 46])):
        with open_frames(tmp_path, white=white) as source:
            assert [level_of(frame) for frame in source] == expected


def test_a_title_in_another_encoding(tmp_path):
    clip = tmp_path / "clip.mkv"
    with av.open(str(clip), "w") as container:
        container.metadata["title"] = "caf_caf_"
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(grey(90), format="rgb24")))
        container.mux(stream.encode(None))
    clip.write_bytes(clip.read_bytes().replace(b"caf_caf_", "caf\xe9caf\xe9".encode("latin-1")))
    with open_frames(clip) as source:
        assert [frame.number for frame in source] == [0]


def test_every_third_frame(tmp_path):
    with open_frames(grey_clip(tmp_path / "clip.mp4", 8), every=3) as source:
        assert source.count == 3
        assert [(frame.number, round(frame.time, 6)) for frame in source] == [(0, 0.0), (3, 0.12), (6, 0.24)]


def test_natural_order():
    names = [Path(name) for name in ("b1", "a10", "a9", "A2b10", "a2b9", "007")]
    assert [str(path) for path in sorted(names, key=natural)] == ["007", "a2b9", "A2b10", "a9", "a10", "b1"]


# --------------------------------------------------------------------------------------------------- kinds and times
@pytest.mark.parametrize(
    ("source", "kind", "video"),
    [
        ("0", "camera", True), ("/dev/video1", "camera", True), ("video=USB Camera", "camera", True),
        ("rtsp://user:pw@10.0.0.7/ch1", "stream", True), ("udp://@:1234", "stream", True),
        ("https://example.org/a.mp4?token=b.c", "file", True), ("https://example.org/a.jpg", "file", False),
        ("s3://bucket/clip.mp4", "file", False), ("clip.MOV", "file", True), ("photo.jpg", "file", False),
        ("frames/*.png", "pictures", False), (".", "pictures", False), ("best.safetensors", "file", False),
    ],
)  # fmt: skip
def test_kinds_of_sources(tmp_path, monkeypatch, source, kind, video):
    monkeypatch.chdir(tmp_path)
    assert (kind_of(source), is_video(source)) == (kind, video)


def test_a_file_with_a_number_for_its_name_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("0").write_text("")
    assert kind_of("0") == "file"


def test_a_number_is_a_camera(tmp_path, monkeypatch):
    """As OpenCV has it."""
    monkeypatch.chdir(tmp_path)
    assert (kind_of(0), is_video(0)) == ("camera", True)


def test_a_name_with_a_colon_is_no_address(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with VideoWriter("10:30.mp4") as video:
        video.write(grey(90), 0)
    with open_frames("10:30.mp4") as source:
        assert len(list(source)) == 1


def test_cameras_of_each_system():
    assert camera("1", "linux") == ("/dev/video1", "v4l2")
    assert camera("/dev/video0", "linux") == ("/dev/video0", "v4l2")
    assert camera("0", "darwin") == ("0", "avfoundation")
    assert camera("video=USB Camera", "win32") == ("video=USB Camera", "dshow")
    with pytest.raises(HeadwayError, match="by their names"):
        camera("0", "win32")
    with pytest.raises(DataError, match="camera /dev/video99 cannot be opened"):
        open_frames("/dev/video99")


def test_times_always_grow():
    """Worked by hand, with 0.5 s between frames: a repeated time is put 1 ms on, a missing one half a second on, and a
    stream that begins anew at 3 goes on half a second after its last frame."""
    clock = Clock(0.5)
    given = [100.0, 100.5, 100.5, None, 102.0, 3.0, 4.0]
    assert [clock.at(seconds) for seconds in given] == pytest.approx([0, 0.5, 0.501, 1.001, 2.0, 2.5, 3.5])
    ticking = Clock(0.04)
    assert list(itertools.islice(map(ticking.at, [None] * 3), 3)) == pytest.approx([0, 0.04, 0.08])


def test_a_password_is_not_shown():
    assert without_password("rtsp://me:secret@cam/1?x=a:b@c") == "rtsp://me:***@cam/1?x=a:b@c"
    assert without_password("rtsp://me:se@cr@et@cam/1") == "rtsp://me:***@cam/1"
    assert without_password("rtsp://me:s@cr:et@cam/1") == "rtsp://me:***@cam/1"
    assert without_password("rtsp://cam:554/1") == "rtsp://cam:554/1"
    with pytest.raises(HeadwayError, match=r"rtsp://me:\*\*\*@cam/1 has times of its own"):
        open_frames("rtsp://me:secret@cam/1", fps=10)


def test_a_rate_is_of_pictures_only(tmp_path):
    with pytest.raises(HeadwayError, match=r"clip.mp4 has times of its own"):
        open_frames(grey_clip(tmp_path / "clip.mp4", 2), fps=10)
    with pytest.raises(HeadwayError, match="fps must be a number"):
        open_frames(tmp_path, fps=-1)
    with pytest.raises(HeadwayError, match="every must be"):
        open_frames(tmp_path, every=0)
