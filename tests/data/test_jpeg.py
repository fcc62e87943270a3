"""JPEGs that are damaged inside, and those that lack nothing but their end mark."""

import io

import numpy as np
import pytest
from PIL import Image

import headway.data.image as reader
from headway.data.image import read_image, read_pixels, verify_image
from headway.data.jpeg import jpeg_damage
from headway.errors import DataError

END = b"\xff\xd9"


def photograph(mode="RGB", **options):
    """128 x 96 with soft shapes and some noise, as a camera's; the file's bytes."""
    rows, columns = np.mgrid[:96, :128]
    soft = [120 + 80 * np.sin(columns / a) * np.cos(rows / b) for a, b in ((17, 23), (31, 13), (11, 37))]
    noise = np.random.default_rng(3).normal(0, 4, (96, 128, 3))
    pixels = Image.fromarray((np.stack(soft, 2) + noise).clip(0, 255).astype(np.uint8))
    buffer = io.BytesIO()
    pixels.convert(mode).save(buffer, "JPEG", **options)
    return buffer.getvalue()


KINDS = {
    "plain": {}, "fine": {"quality": 95, "subsampling": 0}, "optimised": {"optimize": True}, "grey": {"mode": "L"},
    "progressive": {"progressive": True}, "restarts": {"restart_marker_blocks": 4}, "cmyk": {"mode": "CMYK"},
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_good_file_is_good(tmp_path, kind):
    data = photograph(**KINDS[kind])
    for content in (data, data[:-2] + b"\xff\xff" + END, data + bytes(10), data + b"trailer of a phone"):
        assert jpeg_damage(content) == ""
        (tmp_path / "a.jpg").write_bytes(content)
        verify_image(tmp_path / "a.jpg")


@pytest.mark.parametrize("colour", [0, 128, 255])
def test_a_flat_picture_is_good(colour):
    buffer = io.BytesIO()
    Image.new("RGB", (100, 70), (colour,) * 3).save(buffer, "JPEG")
    assert jpeg_damage(buffer.getvalue()) == ""


@pytest.mark.parametrize("kind", ["plain", "fine", "optimised", "grey"])
@pytest.mark.parametrize("damage", ["zeros", "random", "lost", "twice"])
def test_damage_in_the_middle_is_told(tmp_path, kind, damage):
    """100 bytes of a sector that was never written, of another file, lost, or there twice: Pillow and torchvision
    decode all of them without a word. Failed before: the files were accepted."""
    data = bytearray(photograph(**KINDS[kind]))
    middle, count = len(data) * 6 // 10, 100
    if damage == "zeros":
        data[middle : middle + count] = bytes(count)
    elif damage == "random":
        data[middle : middle + count] = np.random.default_rng(0).integers(0, 255, count, np.uint8).tobytes()
    elif damage == "lost":
        del data[middle : middle + count]
    else:
        data[middle:middle] = data[middle : middle + count]
    (tmp_path / "a.jpg").write_bytes(data)
    read_pixels(tmp_path / "a.jpg")
    with pytest.raises(DataError, match=r"a\.jpg is damaged inside: its data (ends|goes on|has).*copy it again"):
        verify_image(tmp_path / "a.jpg")


@pytest.mark.parametrize("way", ["torchvision", "pillow"])
@pytest.mark.parametrize("kind", ["plain", "fine", "grey"])
def test_a_file_without_its_end_mark_is_read(tmp_path, monkeypatch, way, kind):
    """Failed before: it was refused as truncated."""
    if way == "pillow":
        monkeypatch.setattr(reader, "_torchvision_decoder", lambda: None)
    data = photograph(**KINDS[kind])
    (tmp_path / "whole.jpg").write_bytes(data)
    for missing in (1, 2):
        (tmp_path / "a.jpg").write_bytes(data[:-missing])
        assert (read_pixels(tmp_path / "a.jpg") == read_pixels(tmp_path / "whole.jpg")).all()
        assert (read_image(tmp_path / "a.jpg").int() - read_image(tmp_path / "whole.jpg").int()).abs().max() <= 2
        verify_image(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").write_bytes(data[: len(data) * 9 // 10])
    with pytest.raises(DataError, match=r"a\.jpg is truncated"):
        read_image(tmp_path / "a.jpg")
