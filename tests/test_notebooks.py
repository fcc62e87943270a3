"""Every notebook of the documentation runs from a clean start, on a budget that its first cell reads, and is committed
without outputs."""

import os
import sys
from dataclasses import replace
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from headway.data.formats.any_format import open_splits, write_dataset
from headway.demo import DATA

NOTEBOOKS = sorted((Path(__file__).parents[1] / "docs" / "notebooks").glob("*.ipynb"))
# What a notebook must have printed; of a picture, its type.
EXPECTED = {
    "own_data": ("No problems found", "AP50=", "report.html", "image/png"),
    "compare_heads": ("| ATSS |", "| Faster R-CNN |", "image/png"),
    "look_inside": ("strides 8, 16, 32, 64, 128", "decoded  (1, ", "image/png"),
}


@pytest.fixture
def photos(tmp_path, monkeypatch) -> Path:
    """Eight photographs to train on and three to measure by; and the command `headway` for the cells that call it."""
    counts = {"train": 8, "val": 3}
    splits = {name: replace(data, records=data.records[: counts[name]]) for name, data in open_splits(DATA).items()}
    write_dataset(splits, tmp_path / "photos", "coco")
    budget = {"PHOTOS": str(tmp_path / "photos"), "EPOCHS": "1", "SEEDS": "1", "SIZE": "96"}
    for name, value in budget.items():
        monkeypatch.setenv(f"NOTEBOOK_{name}", value)
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    return tmp_path / "photos"


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path, photos, tmp_path):
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = "".join(str(output) for cell in notebook.cells for output in cell.get("outputs", ()))
    for text in EXPECTED[path.stem]:
        assert text in shown, text


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_has_no_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert not [cell for cell in notebook.cells if cell.get("outputs") or cell.get("execution_count")]
