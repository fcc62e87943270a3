"""Every figure in the tables of docs/which_model.md is the one of the file that its row names."""

import json
import re
from pathlib import Path

from headway.demo import ASSETS
from headway.models.weights import ROWS

ROOT = Path(__file__).parents[1]
PICTURES = 205  # of BCCD's training split


def tables() -> list[list[list[str]]]:
    """The cells of each table, without header and ruler."""
    text = (ROOT / "docs" / "which_model.md").read_text(encoding="utf-8")
    blocks = re.findall(r"(?:^\|.*\n)+", text, re.M)
    return [[[cell.strip() for cell in line.split("|")[1:-1]] for line in block.splitlines()[2:]] for block in blocks]


def test_trained_models():
    """Minutes: the pictures of all epochs over the measured pictures a second."""
    _, trained, _ = tables()
    assert len(trained) == 14
    for name, *cells, source in trained:
        file = re.search(r"\((.*)\.md\)", source)[1]
        runs = json.loads((ROOT / "docs" / f"{file}.json").read_text())["runs"]
        run = runs[f"{name.strip('`')}-seed0"]
        last, measured = run["last"], run.get("measured")
        expected = [str(last["epoch"]), *(f"{last[key]:.3f}" for key in ("ap", "ap50", "ap_small"))]
        if measured is None:
            expected += ["", "", ""]
        else:
            training, inference = measured["training"], measured["inference"]
            minutes = last["epoch"] * PICTURES / training["images_per_s"] / 60
            expected += [f"{minutes:.0f}", f"{inference['parameters'] / 1e6:.2f}", f"{inference['ms']:.0f}"]
        assert cells == expected, name


def test_published_models():
    *_, published = tables()
    counts = json.loads((ASSETS / "model_counts.json").read_text())
    rows = {row.name: row for row in ROWS}
    for name, *cells in published:
        row = rows[name.strip("`")]
        count = counts[row.model]
        assert cells == [
            f"{100 * row.metrics['AP']:.1f}", f"{count['parameters'] / 1e6:.1f}", f"{count['macs'] / 1e9:.1f}",
            "{} x {}".format(*count["size"]), "yes" if row.url else "no",
        ], name  # fmt: skip


def test_the_advice_repeats_the_tables():
    advice, trained, published = tables()
    known = {row[0]: row[1:] for row in [*published, *reversed(trained)]}  # of two trainings the first one in the table
    assert len(advice) == 5
    for _, begin_with, ap, minutes, parameters, because in advice:
        cells = known[re.search(r"`[^`]+`", begin_with)[0]]
        figures = [ap.removesuffix(" on COCO"), minutes, parameters, *re.findall(r"(?<!of )\b\d+(?:\.\d+)?\b", because)]
        assert {*filter(None, figures)} <= {*cells, "205"}, begin_with
