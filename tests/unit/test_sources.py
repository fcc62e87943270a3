"""Pictures in any form to [3, H, W] uint8 RGB, and what is refused."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from headway.data.image import is_many
from headway.errors import DataError
from headway.predict.sources import read_picture

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
TENSOR = torch.from_numpy(RGB).permute(2, 0, 1)
GREY = RGB[..., 0]
PLANES = torch.from_numpy(GREY).expand(3, -1, -1)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (RGB, TENSOR),
        (RGB[..., ::-1], TENSOR.flip(0)),  # of OpenCV, turned by the caller
        (RGB[:, ::2], TENSOR[:, :, ::2]),
        (np.dstack([RGB, GREY]), TENSOR),
        (GREY, PLANES),
        (GREY[..., None], PLANES),
        (RGB / 255.0, TENSOR),
        ((RGB / 255).astype(np.float32), TENSOR),
        ((RGB / 255).astype(np.float16), TENSOR),
        (TENSOR, TENSOR),
        (TENSOR / 255, TENSOR),
        ((TENSOR / 255).double().requires_grad_(), TENSOR),
        (torch.cat([TENSOR, TENSOR[:1]]), TENSOR),
        (torch.from_numpy(GREY), PLANES),
        (torch.from_numpy(GREY)[None], PLANES),
        (Image.fromarray(RGB), TENSOR),
        (Image.fromarray(GREY), PLANES),
        (Image.fromarray(np.dstack([RGB, GREY]), "RGBA"), TENSOR),
        (Image.fromarray(GREY > 127), (PLANES > 127).to(torch.uint8) * 255),
        (Image.fromarray(GREY.astype(np.uint16) * 256 + 3), PLANES),
    ],
)
def test_pixels(image: Any, expected: torch.Tensor) -> None:
    picture = read_picture(image)
    assert picture.pixels.dtype == torch.uint8
    assert torch.equal(picture.pixels, expected)
    assert picture.source is picture.pixels


@pytest.mark.parametrize("mode", ["P", "CMYK", "LA", "YCbCr", "HSV"])
def test_modes_of_pil_are_converted_as_pil_does(mode: str) -> None:
    picture = Image.fromarray(GREY).convert(mode) if mode == "LA" else Image.fromarray(RGB).convert(mode)
    expected = torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)
    assert torch.equal(read_picture(picture).pixels, expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_photograph_is_upright_in_every_form(orientation: int, tmp_path: Path) -> None:
    """As Pillow's own exif_transpose."""
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(RGB).save(tmp_path / "a.png", exif=exif)
    opened = Image.open(tmp_path / "a.png")
    expected = torch.from_numpy(np.array(ImageOps.exif_transpose(opened))).permute(2, 0, 1)
    for form in (tmp_path / "a.png", str(tmp_path / "a.png"), (tmp_path / "a.png").read_bytes(), opened):
        assert torch.equal(read_picture(form).pixels, expected)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (RGB.transpose(2, 0, 1), r"array \[H, W, 3\], got \(3, 5, 7\).*image.transpose\(1, 2, 0\)"),
        (torch.from_numpy(RGB), r"tensor \[3, H, W\], got \(5, 7, 3\).*image.permute\(2, 0, 1\)"),
        (np.zeros((5, 7, 2), np.uint8), r"with 1 or 4 channels\), got \(5, 7, 2\)"),
        (np.zeros(5, np.uint8), r"got \(5,\)"),
        (RGB.astype(np.float32), r"float in 0\.\.1, got 0 to 2[0-9]+; divide 8-bit values by 255"),
        (TENSOR.float() - 1, r"float in 0\.\.1, got -1 to"),
        (torch.full((3, 2, 2), torch.nan), r"float in 0\.\.1, got nan"),
        (RGB.astype(np.int64), "got int64"),
        (RGB.astype(np.uint16), r"got uint16.*image >> 8"),
        (TENSOR.int(), r"got torch.int32; use .to\(torch.uint8\)"),
        (np.zeros((0, 7, 3), np.uint8), "picture 3 is empty"),
        (torch.zeros(3, 0, 4), "picture 3 is empty"),
        (Image.new("F", (4, 4), 880.0), "float pixels from 880 to 880"),
        (b"", "image picture 3 is not a picture"),
        (b"no picture", "image picture 3 is not a picture"),
        ("gone.jpg", "image gone.jpg does not exist"),
        (None, "picture 3 must be a path, URL, bytes, .*got NoneType"),
        (7, "got int"),
        (io.StringIO("text"), r"picture 3 must be a file opened to read bytes \(mode 'rb'\), it gives str"),
        ("s3://bucket/a.jpg", "expected http, https or file"),
        ("http://127.0.0.1:9/a.jpg", "http://127.0.0.1:9/a.jpg cannot be downloaded: .*refused"),
        ("file:///gone/a.jpg", "file:///gone/a.jpg cannot be downloaded: .*No such file"),
        ("http://[bad", "cannot be downloaded"),
    ],
)
def test_what_is_no_picture_is_one_line_with_a_remedy(image: Any, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_picture(image, "picture 3")
    assert "\n" not in str(caught.value)


class Server(BaseHTTPRequestHandler):
    """/a.png is a picture, /moved leads there, /local to a file, everything else is missing."""

    content = b""

    def do_GET(self) -> None:
        if self.path in ("/moved", "/local"):
            self.send_response(302)
            self.send_header("Location", "/a.png" if self.path == "/moved" else "file:///etc/hostname")
            self.end_headers()
        elif self.path == "/a.png":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(self.content)
        else:
            self.send_error(404)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    box = io.BytesIO()
    Image.fromarray(RGB).save(box, "PNG")
    Server.content = box.getvalue()
    server = HTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("name", ["/a.png", "/moved"])
def test_a_url_is_fetched(address: str, name: str) -> None:
    assert torch.equal(read_picture(address + name).pixels, TENSOR)


def test_a_url_that_gives_no_picture(address: str) -> None:
    with pytest.raises(DataError, match=r"/gone.png cannot be downloaded: .*Not Found"):
        read_picture(f"{address}/gone.png")
    with pytest.raises(DataError, match=r"/local cannot be downloaded: .*not allowed"):
        read_picture(f"{address}/local")
    with pytest.raises(
        DataError, match=r"/a.png is larger than the limit of 9.53674e-06 MiB; download it and give the path"
    ):
        read_picture(f"{address}/a.png", max_bytes=10)


@pytest.mark.parametrize(
    ("source", "many"),
    [
        ("a.jpg", False), (Path("a.jpg"), False), (b"x", False), (RGB, False), (TENSOR, False), (GREY, False),
        (Image.fromarray(RGB), False), ([RGB], True), ((RGB, TENSOR), True), (iter([RGB]), True), ([], True),
        (TENSOR[None], True), (RGB[None], True), (None, False), (io.BytesIO(b"x"), False),
    ],
)  # fmt: skip
def test_which_sources_are_several(source: Any, many: bool) -> None:
    assert is_many(source) is many
