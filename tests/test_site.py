"""The documentation as a site: complete, and nothing in it comes from elsewhere."""

import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def load(name: str):
    spec = spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tool():
    return load("build_site")


def test_it_builds(tmp_path):
    """Dead links, pages outside the navigation and loads from other hosts would end it with their names."""
    command = [sys.executable, ROOT / "tools" / "build_site.py", tmp_path / "site"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "site" / "index.html").is_file()
    for example in ("docs/own_head.py", "docs/notebooks/own_data.ipynb", "docs/notebooks/own_data.html"):
        assert (tmp_path / "site" / example).is_file(), example


def test_what_is_missing_and_what_is_foreign_is_told(tool, tmp_path):
    (tmp_path / "here.html").write_text(
        '<a href="here.html#part">a</a><a href="https://example.org">b</a><img src="gone%20one.png">'
        '<link rel="canonical" href="https://example.org/here"><script src="https://cdn.example/x.js"></script>'
    )
    (tmp_path / "a.css").write_text("@import '//fonts.example/f.css'; a { background: url(local.png) }")
    assert [*tool.dead_links(tmp_path)] == ["here.html: gone one.png is not in the site"]
    assert [*tool.foreign_loads(tmp_path)] == [
        "a.css loads //fonts.example/f.css",
        "here.html loads https://cdn.example/x.js",
    ]


def test_every_picture_is_made_by_the_tool_and_shown(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tools")
    makes = {*load("make_pictures").PHOTOGRAPHS, *load("charts").CHARTS}
    there = {path.name for path in (ROOT / "docs" / "pictures").iterdir()}
    assert makes == there
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "docs").rglob("*.md")]
    unused = {name for name in there if not any(f"pictures/{name}" in text for text in texts)}
    assert not unused
