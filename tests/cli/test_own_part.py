"""A part of one's own on the command line: by --plugin and by an entry point, trained, evaluated and run."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import headway as library

from .conftest import Run

ROOT = Path(__file__).parents[2]
DATA = Path(library.__file__).parent / "assets" / "bccd-mini"
MODEL = "resnet10t/fpn/dyhead/points"


def run(folder: Path, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """With `folder` as the working folder, and as a place where installed packages are found."""
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run(
        [sys.executable, "-m", "headway.cli", *arguments],
        cwd=folder, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=check,
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path) -> Path:
    shutil.copy(ROOT / "docs" / "own_head.py", tmp_path)
    return tmp_path


def test_by_plugin_it_trains_evaluates_and_predicts(folder, headway: Run):
    plugin = ("--plugin", "own_head.py")
    trained = headway(
        "train", MODEL, *plugin, "--data", DATA, "--out", "runs/p", "--epochs", 1, "--input-size", 64, 96,
        "--batch-size", 16, "--set", "fpn.channels=32", "dyhead.blocks=1",
    )  # fmt: skip
    assert trained.returncode == 0, trained.stderr
    evaluated = headway("eval", "runs/p", *plugin, "--data", DATA, "--json")
    assert 0 <= json.loads(evaluated.stdout)["ap"] <= 1
    picture = next((DATA / "val").glob("*.jpg"))
    assert headway("predict", "runs/p", *plugin, picture, "--threshold", 0.001).returncode == 0
    refused = headway("predict", "runs/p", picture)
    assert refused.returncode == 1
    assert "import the module that registers it first (own_head; --plugin" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_by_entry_point_it_is_listed(folder):
    """What `pip install` of a package writes that has `[project.entry-points."headway.parts"]`."""
    metadata = folder / "own_head-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: own_head\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[headway.parts]\nown = own_head\n")
    listed = json.loads(run(folder, "models", MODEL, "--set", "fpn.channels=32", "--json").stdout)
    assert [part["part"] for part in listed["parts"]] == ["resnet10t", "fpn", "dyhead", "points"]
    assert listed["parts"][1]["channels"] == [32, 32, 32]
    (folder / "own_head.py").write_text("import no_such_module_of_theirs\n")
    refused = run(folder, "models", MODEL, check=False)
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert "the installed package own_head registers parts by own_head, which fails: ModuleNotFound" in refused.stderr


def test_threads_that_ask_for_parts_at_once_all_see_them():
    """The first import takes seconds; a thread that came second saw none."""
    code = """
from concurrent.futures import ThreadPoolExecutor
import headway
with ThreadPoolExecutor(4) as pool:
    found = list(pool.map(lambda _: headway.list_parts(), range(4)))
assert len(found[0]) > 20 and all(names == found[0] for names in found)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
