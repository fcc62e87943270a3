"""Every Python snippet of the README and the documentation runs, and every command it names exists."""

import re
from pathlib import Path

import pytest

from headway.cli import GROUPS, VERBS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SNIPPETS = [
    pytest.param(code, id=f"{page.name}-{number}")
    for page in PAGES
    for number, code in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.S))
]


@pytest.mark.parametrize("code", SNIPPETS)
def test_snippet_runs(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "snippet", "exec"), {})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_exist(page):
    code = "\n".join(
        block or inline for block, inline in re.findall(r"```\n(.*?)```|`(headway [^`]*)`", page.read_text(), re.S)
    )
    words = re.findall(r"^headway (data \w+|\w+)", code, re.M)
    unknown = {word for word in words if word not in VERBS and word.split()[0] not in GROUPS}
    assert not unknown


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert target.startswith("http") or (page.parent / target).exists(), target
