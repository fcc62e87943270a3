"""Pictures of every kind, written by Pillow and compared with the pixels that went in."""

import io
import struct
import sys
import warnings
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

from headway.data import image as reader
from headway.data.image import image_size, read_image, read_pixels, verify_image
from headway.errors import DataError

# Left half red with one blue corner block: no flip or turn leaves it as it is.
HEIGHT, WIDTH = 32, 48


def picture():
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[:, : WIDTH // 2] = (200, 30, 30)
    pixels[:, WIDTH // 2 :] = (30, 160, 60)
    pixels[:16, :16] = (20, 40, 220)
    return pixels


def as_array(tensor):
    return tensor.permute(1, 2, 0).numpy().astype(int)


@pytest.fixture(params=["torchvision", "pillow"])
def way(request, monkeypatch):
    """Both ways of decoding; "pillow" is also what a torchvision without image extension leaves."""
    if request.param == "pillow":
        monkeypatch.setattr(reader, "_torchvision_decoder", lambda: None)
    return request.param


# How a camera held in orientation o stores the upright picture (the inverse of CIPA DC-008's description), in numpy.
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),  # shown by turning right, so stored turned left
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("suffix", "tolerance"), [("jpg", 4), ("png", 0), ("webp", 0), ("tif", 0)])
def test_exif_orientation_is_applied(tmp_path, way, orientation, suffix, tolerance):
    file = tmp_path / f"photo.{suffix}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](picture())))
    options = {"jpg": {"quality": 100, "subsampling": 0}, "webp": {"lossless": True}}.get(suffix, {})
    stored.save(file, exif=exif, **options)
    result = read_image(file)
    assert result.dtype == torch.uint8
    assert image_size(file) == tuple(result.shape[1:]) == (HEIGHT, WIDTH)
    assert np.abs(as_array(result) - picture()).max() <= tolerance


@pytest.mark.parametrize("orientation", [0, 9, 255])
def test_unknown_orientation_means_upright(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(picture()).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(as_array(read_image(tmp_path / "a.png")), picture())
    assert image_size(tmp_path / "a.png") == (HEIGHT, WIDTH)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "ppm", "webp", "tga"])
def test_lossless_formats_return_the_pixels(tmp_path, way, suffix):
    Image.fromarray(picture()).save(tmp_path / f"a.{suffix}", **({"lossless": True} if suffix == "webp" else {}))
    assert np.array_equal(as_array(read_image(tmp_path / f"a.{suffix}")), picture())


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 7), (13, 1), (5, 3)])
def test_tiny_and_odd_sizes(tmp_path, way, height, width):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert np.array_equal(as_array(read_image(tmp_path / "a.png")), pixels)
    Image.fromarray(pixels).save(tmp_path / "a.jpg")
    assert read_image(tmp_path / "a.jpg").shape == (3, height, width)
    assert image_size(tmp_path / "a.jpg") == (height, width)


def test_grey_is_repeated(tmp_path, way):
    grey = picture()[:, :, 0]
    for name in ("a.png", "a.jpg"):
        Image.fromarray(grey).save(tmp_path / name, **({"quality": 100} if name.endswith("jpg") else {}))
        result = as_array(read_image(tmp_path / name))
        assert np.ptp(result, axis=2).max() == 0
        assert np.abs(result[:, :, 0] - grey).max() <= (0 if name == "a.png" else 2)


def test_palette_is_resolved(tmp_path, way):
    Image.fromarray(picture()).convert("P", palette=Image.Palette.ADAPTIVE, colors=4).save(tmp_path / "a.png")
    assert np.abs(as_array(read_image(tmp_path / "a.png")) - picture()).max() <= 4


def test_alpha_is_dropped_not_blended(tmp_path, way):
    pixels = np.dstack([picture(), np.full((HEIGHT, WIDTH), 10, np.uint8)])
    for name in ("a.png", "a.webp"):
        Image.fromarray(pixels).save(tmp_path / name, **({"lossless": True, "exact": True} if "webp" in name else {}))
        assert np.array_equal(as_array(read_image(tmp_path / name)), picture())


def test_cmyk_jpeg(tmp_path, way):
    Image.fromarray(picture()).convert("CMYK").save(tmp_path / "a.jpg", quality=100, subsampling=0)
    inner = np.abs(as_array(read_image(tmp_path / "a.jpg")) - picture())
    assert inner.mean() < 3


def test_sixteen_bits_become_the_high_byte(tmp_path, way):
    values = np.array([[0, 255, 256, 65535], [1000, 32768, 40000, 65280]], np.uint16)
    expected = [[0, 0, 1, 255], [3, 128, 156, 255]]
    for name in ("a.png", "a.tif"):
        Image.fromarray(values).save(tmp_path / name)
        assert read_image(tmp_path / name).tolist() == [expected] * 3


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def write_png(file, width, height, depth, colour, rows):
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    file.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )


def test_sixteen_bit_colour_png(tmp_path, way):
    """One row, two pixels: 0x1234 0x5678 0x9ABC and 0xFFFF 0x0000 0x80FF, after the filter byte 0."""
    rows = bytes.fromhex("00" + "123456789abc" + "ffff000080ff")
    write_png(tmp_path / "a.png", 2, 1, 16, 2, rows)
    assert read_image(tmp_path / "a.png").permute(1, 2, 0).tolist() == [[[0x12, 0x56, 0x9A], [0xFF, 0, 0x80]]]


def test_first_frame_of_a_gif(tmp_path):
    first = Image.fromarray(picture())
    first.save(tmp_path / "a.gif", save_all=True, append_images=[first.transpose(Image.Transpose.ROTATE_180)])
    assert np.abs(as_array(read_image(tmp_path / "a.gif")) - picture()).max() <= 4


@pytest.mark.parametrize("suffix", ["webp", "png"])
def test_animations_are_refused(tmp_path, suffix):
    first = Image.fromarray(picture())
    first.save(tmp_path / f"a.{suffix}", save_all=True, append_images=[first.rotate(90)])
    for read in (read_image, image_size):
        with pytest.raises(DataError, match=rf"a\.{suffix} is an animation of 2 frames.*save the frame"):
            read(tmp_path / f"a.{suffix}")


def test_a_phones_multi_picture_file_gives_its_first(tmp_path, way):
    first = Image.fromarray(picture())
    first.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[first.rotate(180)], quality=100)
    assert np.abs(as_array(read_image(tmp_path / "a.jpg")) - picture()).mean() < 3


def test_bomb_is_refused_before_decoding(tmp_path):
    """A 60000x60000 PNG in a few bytes; decoding it would need 10.8 GB."""
    write_png(tmp_path / "bomb.png", 60000, 60000, 8, 2, b"\0")
    for read in (read_image, image_size):
        with pytest.raises(DataError, match=r"bomb\.png is refused as a decompression bomb"):
            read(tmp_path / "bomb.png")


def test_limit_in_pixels_is_an_argument(tmp_path):
    Image.fromarray(picture()).save(tmp_path / "a.jpg")
    read_image(tmp_path / "a.jpg", max_pixels=HEIGHT * WIDTH)
    for read in (read_image, image_size):
        with pytest.raises(DataError, match=r"a\.jpg has 48x32 pixels, more than the limit of 1,535"):
            read(tmp_path / "a.jpg", max_pixels=HEIGHT * WIDTH - 1)


def encoded(name):
    buffer = io.BytesIO()
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(buffer, format=name)
    return buffer.getvalue()


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
@pytest.mark.parametrize("share", [0.002, 0.02, 0.3, 0.7, 0.97])
def test_truncated_files(tmp_path, way, name, share):
    data = encoded(name)
    file = tmp_path / f"cut.{name.lower()}"
    file.write_bytes(data[: max(1, int(share * len(data)))])
    with pytest.raises(DataError, match=r"cut\.\w+ is (truncated or damaged|not a picture)"):
        read_image(file)


def test_empty_missing_folder_and_text(tmp_path):
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("this is no picture\n" * 20)
    for read in (read_image, image_size):
        with pytest.raises(DataError, match=r"empty\.jpg is empty \(0 bytes\)"):
            read(tmp_path / "empty.jpg")
        with pytest.raises(DataError, match=r"missing\.jpg does not exist"):
            read(tmp_path / "missing.jpg")
        with pytest.raises(DataError, match="it is a folder"):
            read(tmp_path)
        with pytest.raises(DataError, match=r"text\.jpg is not a picture"):
            read(tmp_path / "text.jpg")


def test_the_suffix_does_not_matter(tmp_path, way):
    Image.fromarray(picture()).save(tmp_path / "a.jpg", format="PNG")
    assert np.array_equal(as_array(read_image(str(tmp_path / "a.jpg"))), picture())


HEIC = bytes.fromhex("00000018") + b"ftypheic" + bytes(12) + b"no picture, but so it begins"


def test_a_phones_heic_names_the_package_that_reads_it(tmp_path, monkeypatch):
    """Failed before: "not a picture, or its header is damaged"."""
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    reader._formats.cache_clear()
    (tmp_path / "a.HEIC").write_bytes(HEIC)
    for read in (read_image, read_pixels, image_size, verify_image):
        with pytest.raises(DataError, match=r"a\.HEIC is HEIC, .*pip install pillow-heif; or save it as JPEG"):
            read(tmp_path / "a.HEIC")
    reader._formats.cache_clear()


def test_heic_is_read_where_the_package_is_installed(tmp_path, monkeypatch):
    """With a stand-in for pillow-heif, whose pictures come upright: one of 3 x 2 pixels in one colour."""

    class Heif(ImageFile.ImageFile):
        format = "HEIF"

        def _open(self):
            self._mode, self._size, self.tile = "RGB", (3, 2), []
            self.im = Image.new("RGB", (3, 2), (10, 20, 30)).im

    def register_heif_opener():
        Image.register_open("HEIF", Heif, lambda start: start[4:12] == b"ftypheic")

    monkeypatch.setitem(sys.modules, "pillow_heif", SimpleNamespace(register_heif_opener=register_heif_opener))
    monkeypatch.setattr(Image, "OPEN", dict(Image.OPEN))
    monkeypatch.setattr(Image, "ID", list(Image.ID))
    reader._formats.cache_clear()
    (tmp_path / "a.heic").write_bytes(HEIC)
    assert image_size(tmp_path / "a.heic") == (2, 3)
    for pixels in (
        read_image(tmp_path / "a.heic").permute(1, 2, 0).tolist(),
        read_pixels(tmp_path / "a.heic").tolist(),
    ):
        assert pixels == [[[10, 20, 30]] * 3] * 2
    reader._formats.cache_clear()


def test_formats_that_run_programs_are_not_opened(tmp_path):
    """EPS would be given to Ghostscript."""
    Image.fromarray(picture()).save(tmp_path / "a.eps")
    with pytest.raises(DataError, match="is not a picture"):
        read_image(tmp_path / "a.eps")


def test_torchvision_without_image_extension(tmp_path, monkeypatch):
    def missing(*_):
        raise RuntimeError("Couldn't load the image extension.")

    monkeypatch.setattr(reader, "_torchvision_decoder", lambda: missing)
    Image.fromarray(picture()).save(tmp_path / "a.png")
    assert np.array_equal(as_array(read_image(tmp_path / "a.png")), picture())


def test_both_ways_agree_on_a_photograph_like_jpeg(tmp_path, monkeypatch):
    rows, columns = np.mgrid[:97, :131]
    pixels = np.dstack([rows * 2, columns, (rows + columns) % 256]).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=exif)
    by_torchvision = as_array(read_image(tmp_path / "a.jpg"))
    monkeypatch.setattr(reader, "_torchvision_decoder", lambda: None)
    assert np.abs(by_torchvision - as_array(read_image(tmp_path / "a.jpg"))).max() <= 2
    assert by_torchvision.shape == (131, 97, 3)


def test_result_may_be_written_to(tmp_path, way):
    Image.fromarray(picture()).save(tmp_path / "a.jpg")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        read_image(tmp_path / "a.jpg").fill_(0)


def test_orientation_in_either_byte_order_and_damaged(tmp_path, way):
    """EXIF blocks by hand: header, one entry (tag 0x0112, type short, count 1, value 6), no further directory."""
    big = bytes.fromhex("4d4d002a00000008" + "0001" + "01120003000000010006" + "0000" + "00000000")
    little = bytes.fromhex("49492a0008000000" + "0100" + "12010300010000000600" + "0000" + "00000000")
    for body, size in ((big, (WIDTH, HEIGHT)), (little, (WIDTH, HEIGHT)), (big[:13], (HEIGHT, WIDTH))):
        Image.fromarray(picture()).save(tmp_path / "a.jpg", exif=b"Exif\0\0" + body)
        assert image_size(tmp_path / "a.jpg") == tuple(read_image(tmp_path / "a.jpg").shape[1:]) == size


def test_orientation_in_xmp_alone_is_not_followed(tmp_path, way):
    """Neither browsers nor torchvision do; Pillow's getexif would."""
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    Image.fromarray(picture()).save(tmp_path / "a.jpg", xmp=xmp)
    assert image_size(tmp_path / "a.jpg") == tuple(read_image(tmp_path / "a.jpg").shape[1:]) == (HEIGHT, WIDTH)


def test_size_comes_from_the_header_alone(tmp_path):
    """A picture cut in the middle still has a size."""
    for name in ("JPEG", "PNG", "BMP"):
        data = encoded(name)
        (tmp_path / "cut").write_bytes(data[: len(data) // 2])
        assert image_size(tmp_path / "cut") == (64, 64)


def test_fill_bytes_do_not_smuggle_a_picture_past_the_limit(tmp_path, way):
    """T.81 B.1.1.2 allows 0xFF before any marker; read as a segment it would hide the true frame header, here behind a
    false one of 1x1 pixels."""
    data = encoded("JPEG")
    start = data.index(b"\xff\xc0")
    false_frame = bytes.fromhex("ffc0000b080001000101011100")
    comment = b"\xff\xfe" + (2 + len(false_frame)).to_bytes(2, "big") + false_frame
    (tmp_path / "a.jpg").write_bytes(data[:start] + comment + b"\xff" + data[start:])
    assert read_image(tmp_path / "a.jpg").shape == (3, 64, 64)
    with pytest.raises(DataError, match="has 64x64 pixels, more than the limit of 4,000"):
        read_image(tmp_path / "a.jpg", max_pixels=4000)


def test_progressive_jpeg(tmp_path, way):
    Image.fromarray(picture()).save(tmp_path / "a.jpg", quality=100, subsampling=0, progressive=True)
    assert np.abs(as_array(read_image(tmp_path / "a.jpg")) - picture()).max() <= 4
