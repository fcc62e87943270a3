"""Make the pictures of the documentation: python tools/make_pictures.py [NAME ...]. About four minutes on two cores.

Photographs are those of the shipped data set, seen by the shipped checkpoint; bars and dots are read from
benchmarks/results and from the tables of published models. report.png, errors.webp and serve.webp need Chromium and are
left as they are without.
"""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy
from PIL import Image, ImageDraw, ImageFont

import headway
from headway import cli
from headway.data.open_data import open_data
from headway.demo import ASSETS, DATA
from headway.drawing import draw_boxes

sys.path.insert(0, str(Path(__file__).parent))
import charts

OUT = Path(__file__).parents[1] / "docs" / "pictures"
CHECKPOINT = ASSETS / "demo.safetensors"
PHOTO = DATA / "val" / "BloodImage_00037.jpg"
OTHER = DATA / "val" / "BloodImage_00262.jpg"
ANNOTATED = DATA / "val" / "BloodImage_00352.jpg"
LIMIT = 150_000  # bytes of a picture


def detections(_: Path) -> Image.Image:
    """What `headway predict` draws."""
    found = headway.load(CHECKPOINT).predict([PHOTO, OTHER], threshold=0.3)
    return beside([one.plot() for one in found])


def truth(_: Path) -> Image.Image:
    """Annotated boxes and detections of one photograph."""
    data = open_data(DATA)["val"]
    record = next(record for record in data.records if record.path.name == ANNOTATED.name)
    names = data.class_names
    found = headway.load(CHECKPOINT).predict(ANNOTATED, threshold=0.3)
    boxes = draw_boxes(Image.open(ANNOTATED), record.boxes, record.labels, names)
    return beside([boxes, found.plot()], ["annotated", "found"])


def points(folder: Path) -> Image.Image:
    """Where the last deformable convolution of the finest level samples for four pixels."""
    pixels = ["476,359", "150,136", "226,167", "556,105"]
    run("view", "deform", CHECKPOINT, "--image", PHOTO, "--out", folder / "deform", "--pixel", *pixels)
    return Image.open(folder / "deform" / "deform.png")


def attention(folder: Path) -> Image.Image:
    """The map of the finest level before and after each attention of Dynamic Head."""
    return Image.open(looked(folder) / "attentions.png")


def blocks(folder: Path) -> Image.Image:
    """The maps of the three finest levels before and after every block."""
    sheet = Image.open(looked(folder) / "blocks.png")
    return sheet.crop((0, 0, sheet.width, round(sheet.height * 0.573)))


def gates(folder: Path) -> Image.Image:
    """Histograms of the scale gates over the validation pictures."""
    return Image.open(looked(folder) / "gates.png")


def cam(folder: Path) -> Image.Image:
    """Which pixels raised the scores of three detections."""
    pixels = ["476,359", "226,167", "556,105"]
    run("view", "cam", CHECKPOINT, "--image", PHOTO, "--out", folder / "cam", "--pixel", *pixels)
    return Image.open(folder / "cam" / "cam.png")


def looked(folder: Path) -> Path:
    out = folder / "attention"
    if not out.exists():
        run("view", "attention", CHECKPOINT, "--image", PHOTO, "--data", DATA, "--out", out)
    return out


def augmented(folder: Path) -> Image.Image:
    """Training pictures as a model sees them, by mosaics of four."""
    run("data", "augment", DATA, "--preset", "mosaic", "--count", "8", "--out", folder / "augment")
    return without_bands(Image.open(folder / "augment" / "augment.png"))


def statistics(folder: Path) -> Image.Image:
    """What `headway data stats` draws."""
    run("data", "stats", DATA, "--out", folder / "stats")
    return Image.open(folder / "stats" / "train.png")


def report(folder: Path) -> Image.Image | None:
    """The top of the page that `headway eval` writes."""
    return first_screen(folder, "eval", "report.html", 1010)


def errors(folder: Path) -> Image.Image | None:
    """The top of the page that `headway errors` writes."""
    return first_screen(folder, "errors", "errors.html", 1160)


def first_screen(folder: Path, verb: str, name: str, height: int) -> Image.Image | None:
    """The top of the page that a verb writes of the shipped checkpoint."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        return None
    run(verb, CHECKPOINT, "--data", DATA, "--out", folder / verb)
    page = folder / verb / name
    page.write_text(page.read_text(encoding="utf-8").replace(f"{DATA.parent}/", ""), encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--window-size=1100,{height}"]
    options.append(f"--screenshot={folder / verb}.png")
    subprocess.run([browser, *options, page.as_uri()], check=True, capture_output=True)
    return Image.open(folder / f"{verb}.png")


def exported(folder: Path) -> Image.Image:
    """The model and its exported file on one photograph."""
    file = headway.export(CHECKPOINT, folder / "cells.onnx").path
    found = [headway.load(source).predict(PHOTO, threshold=0.3) for source in (CHECKPOINT, file)]
    return beside([one.plot() for one in found], ["PyTorch", "the exported file, without PyTorch"])


def run(*command: object) -> None:
    if cli.main([*map(str, command)]):
        sys.exit("the command failed")


def beside(pictures: Sequence[Image.Image], titles: Sequence[str] = ()) -> Image.Image:
    """Pictures of one size in a row, with a title above each."""
    width, height = pictures[0].size
    above, gap = (40 if titles else 0), 10
    row = Image.new("RGB", (len(pictures) * (width + gap) - gap, height + above), "white")
    for i, picture in enumerate(pictures):
        row.paste(picture, (i * (width + gap), above))
    for i, title in enumerate(titles):
        place = (i * (width + gap) + 4, above // 2)
        ImageDraw.Draw(row).text(place, title, "#1f2933", ImageFont.load_default(24), anchor="lm")
    return row


def without_bands(picture: Image.Image) -> Image.Image:
    """A picture without its wide white bands between the rows."""
    pixels = numpy.asarray(picture.convert("RGB"))
    white = (pixels == 255).all((1, 2))
    far = [white[max(0, y - 8) : y + 1].all() for y in range(len(white))]
    return Image.fromarray(pixels[~numpy.array(far)])


def serve(folder: Path) -> Image.Image | None:
    """The page of `headway serve`, light and dark."""
    if shutil.which("chromium") is None:
        return None
    from playwright.sync_api import sync_playwright

    command = [sys.executable, "-m", "headway.cli", "serve", str(CHECKPOINT), "--port", "0"]
    service = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert service.stdout
    url = service.stdout.readline().split()[-1]
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
            for scheme in ("light", "dark"):
                context = browser.new_context(color_scheme=scheme, viewport={"width": 1100, "height": 760})
                page = context.new_page()
                page.goto(url)
                page.locator("#model").get_by_text("classes").wait_for()
                page.set_input_files("#files", [OTHER, PHOTO])
                page.locator("#strip img").nth(1).wait_for()
                page.locator("#rows tr").nth(2).focus()
                page.screenshot(path=folder / f"{scheme}.png")
    finally:
        service.terminate()
        service.wait()
    return beside([Image.open(folder / "light.png"), Image.open(folder / "dark.png")])


PHOTOGRAPHS: dict[str, Callable[[Path], Image.Image | None]] = {
    "detections.webp": detections, "truth.webp": truth, "points.webp": points, "attention.webp": attention,
    "blocks.webp": blocks, "gates.png": gates, "augmented.webp": augmented, "statistics.webp": statistics,
    "report.png": report, "errors.webp": errors, "exported.webp": exported, "serve.webp": serve, "cam.webp": cam,
}  # fmt: skip


def save(picture: Image.Image, path: Path, width: int = 1200) -> None:
    """At most `width` wide and LIMIT long."""
    picture = picture.convert("RGB")
    if picture.width > width:
        picture = picture.resize((width, round(picture.height * width / picture.width)), Image.Resampling.LANCZOS)
    if path.suffix == ".png":
        picture.quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)
        return
    for quality in range(88, 30, -6):
        picture.save(path, quality=quality, method=6)
        if path.stat().st_size <= LIMIT:
            return


def main(names: Sequence[str]) -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in names or [*PHOTOGRAPHS, *charts.CHARTS]:
            if name in charts.CHARTS:
                charts.CHARTS[name](OUT / name)
            elif (picture := PHOTOGRAPHS[name](Path(folder))) is not None:
                save(picture, OUT / name)
            if (OUT / name).is_file():
                print(f"{(OUT / name).stat().st_size:7} {name}")


if __name__ == "__main__":
    main(sys.argv[1:])
