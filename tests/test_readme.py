"""Every Python snippet of the README and the documentation runs, and every command it names exists."""

import json
import re
import tomllib
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import torch
from PIL import Image

import headway
from headway.cli import GROUPS, VERBS
from headway.data.formats.any_format import open_splits, write_dataset
from headway.export import api as export_api
from headway.models import weights
from headway.train.config import TrainConfig

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SNIPPETS = [
    pytest.param(code, id=f"{page.name}-{number}")
    for page in PAGES[1:]
    for number, code in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.S))
]


@pytest.mark.parametrize("code", SNIPPETS)
def test_snippet_runs(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "snippet", "exec"), {})


@pytest.mark.parametrize("folder", ["docs", "src"])
def test_every_extra_that_is_named_is_there(folder):
    """Failed before: the README had the extra `track`, which had become `tensorboard`."""
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    files = PAGES if folder == "docs" else sorted((ROOT / "src").rglob("*.py"))
    named = {
        (page.name, extra)
        for page in files
        for listed in re.findall(r"(?:headway|'\.|-e \.)\[([a-z0-9_,-]+)\]", page.read_text())
        for extra in listed.split(",")
    }
    assert len(named) > 5
    assert sorted(pair for pair in named if pair[1] not in known) == []


# ------------------------------------------------------------------------------------------------- the public face
@pytest.fixture
def desk(tmp_path, monkeypatch) -> Path:
    """What the README's block finds: photos/ with two classes, a.jpg, a finished run, and published weights at an
    address. Budgets are tiny: one epoch of two pictures at 64 pixels."""
    monkeypatch.chdir(tmp_path)
    splits = open_splits(Path(headway.__file__).parent / "assets" / "bccd-mini")
    write_dataset({name: _two_classes(data) for name, data in splits.items()}, tmp_path / "photos", "coco")
    Image.open(next((tmp_path / "photos").rglob("*.jpg"))).save(tmp_path / "a.jpg")
    tiny = {"epochs": 1, "batch_size": 2, "input_size": (64, 64)}
    changed = TrainConfig.changed
    monkeypatch.setattr(TrainConfig, "changed", lambda self, **values: changed(self, **{**values, **tiny}))
    monkeypatch.setitem(export_api.export.__kwdefaults__, "size", (64, 64))  # `tests/export` has others
    _publish(tmp_path, monkeypatch)
    headway.train("resnet10t/fpn/atss", "photos/", out="runs/photos", arguments={"fpn.channels": 32})
    return tmp_path


def _two_classes(data):
    """The first two pictures, white cells and platelets made one class."""
    records = [replace(record, labels=record.labels.clip(0, 1)) for record in data.records[:2]]
    return replace(data, records=records, class_names=("cell", "platelet"), category_ids=(1, 2))


def _publish(folder: Path, monkeypatch) -> None:
    """Serve a checkpoint with mmdetection's names under the tag of the README from a file: URL."""
    golden = json.loads((ROOT / "tests/golden/mmdet/atss_r50_fpn_dyhead.json").read_text())
    spec = spec_from_file_location("golden_fill", ROOT / "tests/golden/fill.py")
    fill = module_from_spec(spec)
    spec.loader.exec_module(fill)
    torch.save({"state_dict": fill.fill_state_dict(golden), "meta": {}}, folder / "weights.pth")
    row = weights.find_row("atss_r50_fpn_dyhead", "mmdet")
    served = replace(row, url=(folder / "weights.pth").as_uri(), sha256="", md5="")
    monkeypatch.setattr(weights, "ROWS", tuple(served if r is row else r for r in weights.ROWS))
    monkeypatch.setenv("HEADWAY_CACHE", str(folder / "cache"))


def test_the_face_in_the_readme(desk):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    seen: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), seen)
    assert len(seen["found"]) == 3
    assert (desk / "a_boxes.jpg").is_file()
    assert seen["model"].card.class_names == ("cell", "platelet")
    assert seen["run"].best.is_file()
    assert 0 <= seen["metrics"]["AP"] <= 1
    assert (seen["table"].finished, seen["table"].of) == (6, 6)
    assert (desk / "photos.onnx").is_file()


def test_names_are_completed_and_a_wrong_one_is_answered():
    assert {"create_model", "load", "train", "evaluate", "compare", "register_head", "Detector"} <= set(dir(headway))
    for name in headway.__all__:
        assert getattr(headway, name) is not None
    with pytest.raises(AttributeError, match="did you mean create_model"):
        headway.creat_model  # noqa: B018


def test_the_stub_names_what_the_package_has():
    text = (ROOT / "src" / "headway" / "__init__.pyi").read_text()
    assert {*re.findall(r" as (\w+)", text), "__version__"} == set(headway.__all__)


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


@pytest.mark.parametrize("page", PAGES[1:], ids=lambda page: page.name)
def test_page_begins_with_its_purpose(page):
    """What it is for and when you need it, in two sentences, then an example and a picture that loads quickly."""
    title, opening, *rest = page.read_text(encoding="utf-8").split("\n\n")
    assert title.startswith("# ")
    assert "\n" not in title
    assert " You need " in opening.replace("\n", " ")
    assert len(re.findall(r"[.:](?=\s|$)", opening)) >= 2, "two sentences: what the page is for, when you need it"
    assert any(part.startswith("```") for part in rest)
    pictures = re.findall(r"!\[(.+?)\]\((\S+)\)", page.read_text(encoding="utf-8"))
    assert pictures, "a page has a picture"
    for _, name in pictures:
        assert (page.parent / name).stat().st_size < 150_000, name
