"""The page of `headway errors` in a browser, from the disk: filters, pages, opening, keys; and in the report."""

import json

import pytest
from playwright.sync_api import Page, expect

from headway.data.formats.any_format import open_splits
from headway.demo import DATA
from headway.evaluate import errors
from headway.evaluate.api import evaluate_results


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Of two runs: boxes half a box beside their place, and every box under the name of the next class."""
    data = open_splits(DATA)["val"]
    folder, ids = tmp_path_factory.mktemp("results"), data.category_ids
    runs = {"aside": [], "named": []}
    for record in data.records:
        for (x1, y1, x2, y2), label in zip(record.boxes.tolist(), record.labels.tolist()):
            wide, high, score = x2 - x1, y2 - y1, (0.99 - x1 / 1000)
            row = {"image_id": record.image_id, "score": score}
            runs["aside"].append({**row, "category_id": ids[label], "bbox": [x1 + wide / 2, y1, wide, high]})
            runs["named"].append({**row, "category_id": ids[(label + 1) % 3], "bbox": [x1, y1, wide, high]})
    for name, rows in runs.items():
        (folder / f"{name}.json").write_text(json.dumps(rows))
    return folder


@pytest.fixture
def opened(chromium, tmp_path, results):
    """A page from the disk. A script error, a refused load or a request fails the test."""
    context, wrong = chromium.new_context(viewport={"width": 1100, "height": 900}), []

    def open_page(path) -> Page:
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
        page.on("request", lambda asked: None if asked.url.startswith(("file:", "data:")) else wrong.append(asked.url))
        page.goto(path.as_uri())
        return page

    yield open_page
    context.close()
    assert wrong == []


def test_filter_page_and_open(opened, results, tmp_path):
    files = [results / "aside.json", results / "named.json"]
    found = errors(results=files, data=DATA, out=tmp_path / "errors", pictures=30)
    assert found.runs["aside.json"].all.counts["localisation"] > 30
    page = opened(found.page)
    crops, where = page.locator("#grid button"), page.locator("#where")
    expect(crops).to_have_count(24)
    expect(where).to_contain_text("page 1 of")
    assert page.locator("#grid img").first.evaluate("image => image.complete && image.naturalWidth > 50")
    page.locator("#by-run").select_option("named.json")
    page.locator("#by-kind").select_option("classification")
    expect(where).to_have_text("30 errors, page 1 of 2")
    page.get_by_role("button", name="Next").click()
    expect(crops).to_have_count(6)
    page.keyboard.press("ArrowLeft")
    expect(where).to_have_text("30 errors, page 1 of 2")
    page.locator("#by-class").select_option("WBC")
    expect(crops.first).to_contain_text("WBC 0.")
    page.locator("#by-class").select_option("")
    crops.nth(23).click()
    expect(page.locator("#about")).to_contain_text("24 of 30 · named.json")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#about")).to_contain_text("25 of 30")
    page.keyboard.press("Escape")
    expect(page.locator("#opened")).to_be_hidden()
    expect(where).to_have_text("30 errors, page 2 of 2")
    page.locator("#by-kind").select_option("localisation")
    expect(where).to_have_text("2 errors, page 1 of 1")


def test_the_report_has_the_tab(opened, results, tmp_path):
    report = evaluate_results(results / "named.json", DATA, report=tmp_path / "report").report
    page = opened(report)
    crops = page.locator("#grid button")
    expect(crops.first).to_be_hidden()
    expect(page.get_by_role("heading", name="Confusions")).to_be_visible()
    page.get_by_text("Errors by kind").first.click()
    expect(crops.first).to_be_visible()
    expect(page.get_by_role("heading", name="Confusions")).to_be_hidden()
    expect(page.locator("#by-run")).to_be_hidden()
