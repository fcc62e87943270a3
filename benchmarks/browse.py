"""`headway browse` over 5,000 pictures of 20 labels with two runs: how long it takes, how the page opens and scrolls.

OMP_NUM_THREADS=1 python benchmarks/browse.py [--images 5000] [--keep FOLDER]
"""

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from headway.browse import browse
from headway.demo import DATA

CLASSES, BOXES = 20, 20
# Three seconds of scrolling by so many pixels a second; how many frames there were.
SCROLL = """async (speed) => {
  const view = document.getElementById("view"), start = performance.now();
  let frames = 0, most = 0;
  view.scrollTop = 0;
  for (let now = start; now - start < 3000; frames++) {
    now = await new Promise(requestAnimationFrame);
    view.scrollTop += speed / 60;
    most = Math.max(most, document.querySelectorAll("*").length);
  }
  return {frames, most};
}"""
CHOOSE = """(group) => new Promise((done) => {
  const start = performance.now();
  document.querySelector(`fieldset[data-group=${group}] input`).click();
  requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now() - start)));
})"""


def make(folder: Path, images: int) -> None:
    """Photographs of 640 x 480, boxes at random; of each run 18 of the 20 boxes, some moved, and two false ones."""
    rng = np.random.default_rng(0)
    pictures = [Image.open(path).convert("RGB") for path in sorted((DATA / "val").glob("*.jpg"))]
    (folder / "all").mkdir(parents=True)
    (folder / "annotations").mkdir()
    entries, rows, runs = [], [], ([], [])
    for number in range(1, images + 1):
        name = f"{number:06}.jpg"
        pictures[number % len(pictures)].rotate(number % 7).save(folder / "all" / name, quality=88)
        entries.append({"id": number, "file_name": name, "width": 640, "height": 480})
        sides = np.exp(rng.uniform(2.5, 4.8, (BOXES, 2)))
        boxes = np.concatenate([rng.uniform(0, [510, 350], (BOXES, 2)), sides], 1).round(1)
        labels = rng.integers(1, CLASSES + 1, BOXES)
        for box, label in zip(boxes.tolist(), labels.tolist()):
            row = {"image_id": number, "category_id": label, "bbox": box}
            rows.append({**row, "id": len(rows) + 1, "area": box[2] * box[3], "iscrowd": 0})
        for run in runs:
            moved = (boxes + rng.normal(0, 0.04, boxes.shape) * np.tile(sides, 2)).round(1)
            moved[18:, :2] = rng.uniform(0, [510, 350], (2, 2)).round(1)
            for box, label, score in zip(moved.tolist(), labels.tolist(), rng.uniform(0.2, 1, BOXES).round(3).tolist()):
                run.append({"image_id": number, "category_id": label, "bbox": box, "score": score})
    categories = [{"id": k, "name": f"class {k}"} for k in range(1, CLASSES + 1)]
    content = {"images": entries, "annotations": rows, "categories": categories}
    (folder / "annotations" / "all.json").write_text(json.dumps(content))
    for name, run in zip(("one", "two"), runs):
        (folder.parent / f"{name}.json").write_text(json.dumps(run))


def write(folder: Path, check: bool) -> Path:
    wall, cpu = time.perf_counter(), time.process_time()
    out = folder / ("checked" if check else "plain")
    found = browse(folder / "data", [folder / "one.json", folder / "two.json"], check=check, out=out)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    size = sum(file.stat().st_size for file in out.rglob("*.jpg")) / 2**20
    page = found.page.stat().st_size / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"written {'with' if check else 'without'} data check: {wall:.1f} s, of the processor {cpu:.1f} s; page "
        f"{page:.1f} MiB, small pictures {size:.0f} MiB; peak {peak:.2f} GiB; {found.counts()}"
    )
    return found.page


def traced(browser: Browser, page: Page, act: Callable[[], Any]) -> tuple[Any, float, float]:
    """(what `act` gives, ms until it was done, ms that the main thread of the page computed: time of the processor,
    whatever else the machine does)."""
    browser.start_tracing(page=page, categories=["disabled-by-default-devtools.timeline"])
    start = time.perf_counter()
    found = act()
    wall = (time.perf_counter() - start) * 1000
    events = json.loads(browser.stop_tracing())["traceEvents"]
    names = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["name"] == "thread_name"}
    main = [e for e in events if names.get((e["pid"], e["tid"])) == "CrRendererMain" and e["name"] == "RunTask"]
    return found, wall, sum(e.get("tdur", 0) for e in main) / 1000


def look(path: Path) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1400, "height": 900})

        def open_page() -> None:
            page.goto(path.as_uri())
            page.locator("article").first.wait_for()

        _, wall, main = traced(browser, page, open_page)
        print(f"opened: {wall:.0f} ms, of the main thread {main:.0f} ms")
        for group in ("class", "size", "finding"):
            _, wall, main = traced(browser, page, lambda group=group: page.evaluate(CHOOSE, group))
            print(f"filter by {group}: {wall:.0f} ms, of the main thread {main:.0f} ms")
        page.get_by_role("button", name="Clear filters").click()
        for speed in (3000, 60_000):
            found, _, main = traced(browser, page, lambda speed=speed: page.evaluate(SCROLL, speed))
            print(
                f"scrolled by {speed} pixels a second: {found['frames']} frames in 3 s, {main / found['frames']:.1f} "
                f"ms of the main thread for a frame, at most {found['most']} elements"
            )
        browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--keep", type=Path, help="make everything in this folder, and leave it there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.keep or Path(scratch)
        if not (folder / "data").exists():
            make(folder / "data", options.images)
        page = write(folder, check=False)
        look(page)
        write(folder, check=True)


if __name__ == "__main__":
    main()
