"""The page as a person uses it, in a real browser."""

import json
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

import headway
from headway.demo import ASSETS, DATA

PICTURES = sorted((DATA / "val").glob("*.jpg"))[:2]


def show(page: Page, *files) -> None:
    """Choose files, and wait for their answers."""
    page.set_input_files("#files", [*files])
    expect(page.locator("#busy")).to_be_hidden(timeout=60_000)


def bytes_of(name: str, picture: Image.Image, kind: str) -> dict:
    file = BytesIO()
    picture.save(file, kind)
    return {"name": name, "mimeType": f"image/{kind.lower()}", "buffer": file.getvalue()}


def slide(page: Page, value: float) -> None:
    page.locator("#threshold").fill(f"{value:g}")


@pytest.fixture(scope="module")
def found() -> headway.Detections:
    """What `predict` finds in the first picture, with all that the page asks for."""
    return headway.load(ASSETS / "demo.safetensors").predict(PICTURES[0], threshold=0.05)


def test_upload_slider_classes_and_table_show_what_predict_finds(page, found):
    show(page, PICTURES[0])
    rows = page.locator("#rows tr")
    for threshold in (0.3, 0.45, 0.05):
        slide(page, threshold)
        kept = [d for d in found if d.score > threshold]
        expect(rows).to_have_count(len(kept))
        expect(page.locator("#count")).to_have_text(str(len(kept)))
        assert [row.split()[:2] for row in rows.all_inner_texts()] == [[d.name, f"{d.score:.2f}"] for d in kept]
    red = sum(d.name == "RBC" for d in found)
    page.get_by_role("button", name="RBC").click()
    expect(rows).to_have_count(len(found) - red)
    expect(page.get_by_role("button", name="RBC")).to_have_attribute("aria-pressed", "false")
    page.get_by_role("button", name="none").click()
    expect(page.locator("#nothing")).to_have_text("All of them are of classes that are switched off.")
    page.get_by_role("button", name="all", exact=True).click()
    slide(page, 1)
    expect(page.locator("#nothing")).to_contain_text("Nothing scores as much; the best has 0.66.")
    expect(page.locator("#times")).to_contain_text("640 × 480 pixels. Read")


def test_a_row_highlights_its_box_and_the_keyboard_is_enough(page, found):
    show(page, PICTURES[0])
    canvas = page.locator("#canvas")
    before = canvas.screenshot()
    page.keyboard.press("Tab")
    for _ in range(40):  # no trap on the way to the table
        if page.evaluate("document.activeElement.tagName") == "TR":
            break
        page.keyboard.press("Tab")
    page.keyboard.press("ArrowDown")
    assert page.locator("#rows tr.on").count() == 1
    assert page.evaluate("document.activeElement === document.querySelectorAll('#rows tr')[1]")
    page.wait_for_timeout(100)
    marked = canvas.screenshot()
    assert marked != before
    page.keyboard.press("Enter")
    page.wait_for_timeout(100)
    near = canvas.screenshot()
    assert near != marked
    page.keyboard.press("0")
    page.wait_for_timeout(100)
    assert canvas.screenshot() == marked
    page.keyboard.press("End")
    kept = sum(d.score > 0.3 for d in found)
    assert page.evaluate(f"document.activeElement === document.querySelectorAll('#rows tr')[{kept - 1}]")
    page.locator("#threshold").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#value")).to_have_text("0.31")


def test_saving_gives_coco_rows_and_a_picture_in_its_own_size(page, found, tmp_path):
    show(page, PICTURES[0])
    slide(page, 0.4)
    with page.expect_download() as wanted:
        page.get_by_role("button", name="COCO JSON").click()
    rows = json.loads(wanted.value.path().read_text())
    expected = [row for row in found.to_coco(PICTURES[0].stem) if row["score"] > 0.4]
    assert [{k: row[k] for k in ("image_id", "category_id", "score")} for row in rows] == [
        {k: row[k] for k in ("image_id", "category_id", "score")} for row in expected
    ]
    assert np.allclose([row["bbox"] for row in rows], [row["bbox"] for row in expected], atol=0.0011)
    assert wanted.value.suggested_filename == f"{PICTURES[0].stem}.json"
    with page.expect_download() as wanted:
        page.get_by_role("button", name="Picture with boxes").click()
    with Image.open(wanted.value.path()) as drawn, Image.open(PICTURES[0]) as original:
        assert drawn.size == original.size
        assert np.abs(np.asarray(drawn).astype(int) - np.asarray(original.convert("RGB"))).max() > 100


def test_a_broken_file_is_told_and_the_others_are_shown(page):
    broken = {"name": "broken.jpg", "mimeType": "image/jpeg", "buffer": b"\xff\xd8 no picture"}
    large = {"name": "large.png", "mimeType": "image/png", "buffer": bytes(9 * 2**20)}
    with Image.open(PICTURES[1]) as whole:
        show(page, broken, large, bytes_of("whole.png", whole.copy(), "PNG"))
    expect(page.locator("#strip button")).to_have_count(3)
    expect(page.locator("#strip .bad")).to_have_count(2)
    expect(page.get_by_role("alert")).to_contain_text("broken.jpg: is not a picture, or its header is damaged")
    page.keyboard.press("n")
    expect(page.get_by_role("alert")).to_contain_text("large.png has 9,437,184 bytes, the service takes 8,388,608")
    page.keyboard.press("n")
    expect(page.get_by_role("alert")).to_be_hidden()
    assert page.locator("#rows tr").count() > 5


def test_a_picture_of_4000_pixels_and_one_that_the_browser_cannot_show(page):
    with Image.open(PICTURES[0]) as small:
        show(page, bytes_of("big.jpg", small.resize((4000, 3000)), "JPEG"))
        expect(page.locator("#times")).to_contain_text("big.jpg, 4000 × 3000 pixels")
        assert page.locator("#rows tr").count() > 5
        page.locator("#in").click()
        with page.expect_download() as wanted:
            page.get_by_role("button", name="Picture with boxes").click()
        with Image.open(wanted.value.path()) as drawn:
            assert drawn.size == (4000, 3000)
        show(page, bytes_of("old.tiff", small.copy(), "TIFF"))
    expect(page.locator("#times")).to_contain_text("The browser cannot show this format; the service drew it.")
    assert page.locator("#rows tr").count() > 5


def test_the_views_of_the_dynamic_head(page):
    show(page, PICTURES[0])
    page.select_option("#view", "gates")
    expect(page.locator("#gates rect")).to_have_count(26)  # two blocks, five levels of which the ends have two gates
    page.select_option("#view", "sampling")
    expect(page.locator("#insideText")).to_contain_text("9 points for pixel")
    at_best = page.locator("#insideText").inner_text()
    page.locator("#canvas").click(position={"x": 200, "y": 150})
    expect(page.locator("#insideText")).not_to_have_text(at_best)
    expect(page.locator("#insideText")).to_contain_text("9 points for pixel")
    clicked = page.locator("#insideText").inner_text()
    page.locator("#canvas").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(page.locator("#insideText")).not_to_have_text(clicked)


def test_lines_for_a_terminal_and_for_python_work(page, found):
    """Python's are run; they need this picture in their folder."""
    show(page, PICTURES[0])
    slide(page, 0.4)
    page.get_by_role("button", name="Platelets").click()
    page.get_by_text("The same from a terminal or Python").click()
    curl, code = (page.locator(f"#{name}").inner_text() for name in ("curl", "python"))
    assert curl.startswith(f"curl --data-binary @'{PICTURES[0].name}'")
    assert "threshold=0.40&classes=RBC&classes=WBC'" in curl
    said = []
    names = {"print": lambda *words: said.append(words)}
    exec(code.replace(json.dumps(PICTURES[0].name), json.dumps(str(PICTURES[0]))), names)
    assert said == [(d.name, d.score, [*d.box]) for d in found.filter(threshold=0.4, classes=["RBC", "WBC"])]


def test_camera_and_paste(page):
    page.get_by_role("button", name="Use the camera").click()
    page.locator("#lens").wait_for()
    page.wait_for_timeout(500)  # until the camera gives its first frame
    page.get_by_role("button", name="Take the picture").click()
    expect(page.locator("#times")).to_contain_text("camera-1.jpg", timeout=20_000)
    expect(page.locator("#busy")).to_be_hidden(timeout=20_000)
    data = [*PICTURES[1].read_bytes()]
    page.evaluate(
        """data => {
          const held = new DataTransfer();
          held.items.add(new File([new Uint8Array(data)], "pasted.jpg", {type: "image/jpeg"}));
          dispatchEvent(new ClipboardEvent("paste", {clipboardData: held}));
        }""",
        data,
    )
    expect(page.locator("#times")).to_contain_text("pasted.jpg, 640 × 480", timeout=20_000)


@pytest.mark.parametrize("page", [(360, 740)], ids=["phone"], indirect=True)
def test_a_phone_needs_no_scrolling_to_the_side(page):
    show(page, *PICTURES)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    for button in page.locator("button:visible").all():
        box = button.bounding_box()
        assert box["x"] >= 0
        if "link" not in (button.get_attribute("class") or ""):
            assert box["height"] >= 36, button.inner_text()


def test_a_token_is_asked_for_and_links_that_could_not_bring_it_are_hidden(page, guarded):
    with page.context.new_page() as door:
        door.goto(guarded)
        expect(door.locator("#problem")).to_contain_text("expected the header `Authorization: Bearer TOKEN`, got none")
        door.locator("#token").fill("s3cret")
        door.get_by_role("button", name="Enter").click()
        expect(door.locator("#model")).to_have_text("demo.safetensors, 3 classes")
        expect(door.locator("#links")).to_be_hidden()
        show(door, PICTURES[0])
        expect(door.locator("#rows tr")).not_to_have_count(0)
    expect(page.locator("#links")).to_be_visible()
