"""Pixels of more than 8 bits: what is white is declared, known from the data set, or seen in the picture."""

import logging
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, TiffImagePlugin
from torch import nn

from headway.data import depth
from headway.data.dataset import DetectionData, Record
from headway.data.depth import white_of_files
from headway.data.image import read_image, read_pixels, verify_image
from headway.data.loader import make_loader
from headway.data.pixels import to_pixels
from headway.errors import DataError
from headway.predict import Predictor
from headway.predict.sources import read_picture
from headway.types import Detections, ModelCard

TWELVE = np.array([[0, 16, 1000], [2048, 4000, 4095]], np.uint16)  # / 16: 0, 1, 62.5; 128, 250, 255.9
EIGHT = [[0, 1, 62], [128, 250, 255]]


@pytest.fixture(autouse=True)
def _told_once_per_test():
    depth._tell.cache_clear()


class FindsNothing(nn.Module):
    def __init__(self):
        super().__init__()
        self.card, self.weight = ModelCard(class_names=("cell",), input_size=(32, 32)), nn.Parameter(torch.ones(1))

    def detect(self, images, sizes, **_):
        return [Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64)) for _ in images]


def rgb_png(values):
    """A 16-bit RGB PNG of [H, W, 3] values, which Pillow cannot write."""
    height, width, channels = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, {3: 2, 4: 6}[channels], 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    chunks = (struct.pack(">I", len(b)) + k + b + struct.pack(">I", zlib.crc32(k + b)) for k, b in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def rgb_tiff(values, order):
    """An uncompressed 16-bit RGB TIFF in byte order "<" or ">", written by hand after TIFF 6.0."""
    height, width, _ = values.shape
    strip, start = values.astype(f"{order}u2").tobytes(), 8 + 2 + 12 * 9 + 4
    bits = struct.pack(f"{order}3H", 16, 16, 16)
    entries = [(256, 3, 1, width), (257, 3, 1, height), (258, 3, 3, start), (259, 3, 1, 1), (262, 3, 1, 2),
               (273, 4, 1, start + 6), (277, 3, 1, 3), (278, 3, 1, height), (279, 4, 1, len(strip))]  # fmt: skip
    directory = b""
    for tag, kind, count, value in entries:
        short = kind == 3 and count == 1
        directory += struct.pack(f"{order}HHI", tag, kind, count)
        directory += struct.pack(f"{order}HH", value, 0) if short else struct.pack(f"{order}I", value)
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8)
    return head + struct.pack(f"{order}H", 9) + directory + bytes(4) + bits + strip


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_twelve_bits_in_sixteen_are_not_nearly_black(tmp_path, suffix, caplog):
    """Failed before: 0, 0, 3, 8, 15, 15, the high bytes; a PGM was refused."""
    file = tmp_path / f"a.{suffix}"
    Image.fromarray(TWELVE).save(file)
    with caplog.at_level(logging.WARNING, "headway"):
        assert read_image(file).tolist() == [EIGHT] * 3
        assert read_pixels(file)[..., 0].tolist() == EIGHT
        verify_image(file)
    assert [r.getMessage() for r in caplog.records] == [
        "16-bit pictures with values of 12 bits: 4095 is read as white, not 65535"
    ]
    assert to_pixels(Image.fromarray(TWELVE)).tolist() == [EIGHT] * 3


def test_colours_of_twelve_bits(tmp_path):
    """Pillow keeps only the high byte of such colours. Red, green and blue are 100, 2000 and 4095 here, / 16 = 6.25,
    125 and 255.9. Failed before: 0, 7, 15."""
    values = np.zeros((2, 3, 3), np.uint16) + np.array([100, 2000, 4095], np.uint16)
    alpha = np.concatenate([values, np.full((2, 3, 1), 9000, np.uint16)], 2)
    files = {
        "a.png": rgb_png(values),
        "b.png": rgb_png(alpha),
        "c.tif": rgb_tiff(values, "<"),
        "d.tif": rgb_tiff(values, ">"),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        assert read_image(tmp_path / name)[:, 1, 2].tolist() == [6, 125, 255], name
        assert white_of_files([tmp_path / name]) == 4095, name


@pytest.mark.parametrize(("most", "white"), [(200, 255), (700, 1023), (4095, 4095), (4096, 16383), (20000, 65535)])
def test_white_is_the_smallest_that_no_pixel_exceeds(tmp_path, most, white):
    Image.fromarray(np.array([[0, most]], np.uint16)).save(tmp_path / "a.png")
    assert white_of_files([tmp_path / "a.png"]) == white
    assert read_image(tmp_path / "a.png")[0, 0, 1] == most * 256 // (white + 1)


def test_the_data_set_decides_and_not_the_single_picture(tmp_path):
    """A dark picture, up to 800, of a 12-bit camera: alone it would be read as 10 bits, 800 / 4 = 200; beside the
    other 800 / 16 = 50. Training and evaluation read so, and the card's white comes first: 800 / 256 = 3."""
    dark, light = tmp_path / "dark.png", tmp_path / "light.png"
    for path, most in ((dark, 800), (light, 4000)):
        Image.fromarray(np.full((32, 32), most, np.uint16)).save(path)
    nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, bool), np.zeros(0, np.float32)
    records = [Record(i, path, (32, 32), *nothing) for i, path in enumerate((dark, light))]
    data = DetectionData("train", tmp_path, "coco", records, ("cell",), (1,))
    assert data.white() == 4095
    card = ModelCard(class_names=("cell",), input_size=(32, 32))
    for cache in ("none", "ram"):
        for wanted, white in ((50, None), (3, 65535)):
            card.white = white
            (batch,) = make_loader(data, card, batch_size=2, train=False, cache=cache)
            assert batch.images[0].unique().tolist() == [wanted]
    assert read_image(dark)[0, 0, 0] == 200
    assert white_of_files([dark, light, tmp_path / "missing.png", tmp_path / "a.jpg"]) == 4095
    assert white_of_files([tmp_path / "a.jpg"]) is None


def test_a_picture_brighter_than_white_is_white(tmp_path):
    Image.fromarray(np.array([[5000, 2048]], np.uint16)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png", white=4095)[0].tolist() == [[255, 128]]


def test_a_tiff_may_declare_its_white(tmp_path):
    """Tag 281 says 4095 of a dark picture: 800 / 16 = 50. One that its own pixels exceed is not believed."""
    for declared, wanted in ((4095, 50), (500, 200), (65535, 200)):
        tags = TiffImagePlugin.ImageFileDirectory_v2()
        tags[281] = declared
        Image.fromarray(np.array([[0, 800]], np.uint16)).save(tmp_path / "a.tif", tiffinfo=tags)
        assert read_image(tmp_path / "a.tif")[0].tolist() == [[0, wanted]]


def test_a_pgm_states_its_white(tmp_path):
    """Of maxval 4095 the value 800 is 800 / 4095 * 65535 / 256 = 50."""
    (tmp_path / "a.pgm").write_bytes(b"P5 2 1 4095\n" + np.array([800, 0], ">u2").tobytes())
    assert read_image(tmp_path / "a.pgm")[0].tolist() == [[50, 0]]


def test_floats_are_read_in_0_to_1_or_a_declared_range(tmp_path):
    """Failed before: every float TIFF was refused."""
    file = tmp_path / "a.tif"
    Image.fromarray(np.array([[0, 0.2, 1]], np.float32)).save(file)
    assert read_image(file)[0].tolist() == [[0, 51, 255]]
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in ((340, -100.0), (341, 400.0)):
        tags[tag], tags.tagtype[tag] = value, 11
    Image.fromarray(np.array([[-100, 0, 400]], np.float32)).save(file, tiffinfo=tags)
    assert read_image(file)[0].tolist() == [[0, 51, 255]]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (np.array([[-20, 880]], np.int32), "has signed or 32-bit pixels from -20 to 880"),
        (np.array([[0.5, 880]], np.float32), "has float pixels from 0.5 to 880"),
        (np.array([[0.5, np.nan]], np.float32), "has float pixels from nan to nan"),
    ],
)
def test_an_unknown_range_is_refused_with_the_way_out(tmp_path, values, says):
    Image.fromarray(values).save(tmp_path / "a.tif")
    for read in (read_image, read_pixels, verify_image):
        with pytest.raises(DataError, match=rf"a\.tif {says}.*convert it to 8 or 16 bit, or write the TIFF tags SMin"):
            read(tmp_path / "a.tif")
    with pytest.raises(DataError, match=says):
        to_pixels(Image.fromarray(values))


def test_a_card_keeps_the_white_and_prediction_takes_it(tmp_path):
    assert ModelCard.from_dict(ModelCard(white=4095).to_dict()).white == 4095
    with pytest.raises(ValueError, match="'white' must be an integer from 255 to 65535"):
        ModelCard.from_dict({"white": 7})
    dark = tmp_path / "dark.png"
    Image.fromarray(np.full((32, 32), 800, np.uint16)).save(dark)
    model = FindsNothing()
    for white, wanted in ((None, 200), (4095, 50), (65535, 3)):
        model.card.white = white
        predictor = Predictor(model, fuse=False)
        (found,) = predictor.predict_paths([dark])
        assert found.image.unique().tolist() == [wanted]
        for image in (dark, dark.read_bytes(), Image.open(dark)):
            assert read_picture(image, white=predictor.white).pixels.unique().tolist() == [wanted]
