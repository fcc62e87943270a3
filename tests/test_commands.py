"""Every command line of the README and the documentation parses, and runs in the order of its page.

The budget is tiny and seen here: SMALL is added to what trains, published weights are random ones that look at small
pictures, and `photos/` is four pictures of blood cells. Nothing is fetched.
"""

import json
import re
import shlex
import shutil
from dataclasses import replace
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import timm
import torch

import headway
from headway import cli, demo
from headway.backbones import timm as backbones
from headway.data.formats.any_format import open_splits, write_dataset
from headway.demo import DATA
from headway.models.published import WeightsRow
from headway.serve import server
from headway.train.config import TrainConfig

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SMALL = ["--epochs", "1", "--batch-size", "2", "--input-size", "64", "96"]
TRAINS = ("train", "compare")


def commands(page: Path) -> list[list[str]]:
    """The arguments of each `headway ...` line in the code blocks of a page, without its comment."""
    blocks = re.findall(r"^```(?:console|bash|sh)?\n(.*?)^```", page.read_text(encoding="utf-8"), re.S | re.M)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("headway ")]


WITH_COMMANDS = [pytest.param(page, id=page.name) for page in PAGES if commands(page)]


@pytest.mark.parametrize("page", WITH_COMMANDS)
def test_options_parse(page, tmp_path, monkeypatch):
    """Before anything runs: an unknown verb, option or value is a UsageError with the reason."""
    monkeypatch.chdir(tmp_path)
    for command in commands(page):
        parse(command)


def parse(command: list[str]) -> object:
    words = 2 if command[0] in cli.GROUPS else 1
    name, (_, rest) = " ".join(command[:words]), cli._take_plugins(command[words:])
    return cli._parse(class_of(name), name, cli._squares(rest))


def class_of(name: str) -> type:
    module, class_name, _ = cli.VERBS[name]
    return getattr(import_module(f"headway.commands.{module}"), class_name)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_scripts_exist(page):
    for script in re.findall(r"python ((?:docs|benchmarks|tools)/\S+\.py)", page.read_text(encoding="utf-8")):
        assert (ROOT / script).is_file(), script


OF_OTHER_TOOLS = {"--nproc-per-node", "--multi_gpu", "--cpu", "--index-url", "--hypothesis-profile"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_in_sentences_exist(page):
    """`headway VERB ... --option` has it; an option by itself is one of any verb."""
    verbs = {name: {"--help", "--plugin", *cli.flags(class_of(name))} for name in cli.VERBS}
    verbs["train"].add("--help-all")
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    for code in re.findall(r"`([^`]+)`", text):
        options = set(re.findall(r"(?<!\S)--[a-z][\w-]*", code)) - OF_OTHER_TOOLS
        named = [name for name in verbs if re.match(rf"headway {name}\b", code)]
        known = verbs[named[0]] if named else set.union(*verbs.values())
        assert options <= known, f"{code}: {options - known}"


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_COMMANDS)
def test_commands_run(page, desk, capfd):
    if not any("runs/photos" in command[command.index("--out") :] for command in commands(page) if "--out" in command):
        small = {"class_names": ["RBC", "WBC", "Platelets"], "input_size": (64, 96), "fpn.channels": 32}
        model = headway.create_model("resnet10t/fpn/atss", **small)
        model.card.metrics["threshold"] = 0.3  # as a validation leaves it
        headway.save(model, desk / "runs/photos/best.safetensors")
    for command in commands(page):
        if command[0] == "convert":
            write_published(desk / command[1])
        code = cli.main(within_budget(command))
        assert code == 0, f"headway {shlex.join(command)}: {capfd.readouterr().err[-2000:]}"


def within_budget(command: list[str]) -> list[str]:
    """The shell's globs, and SMALL. A run that goes on keeps its own settings."""
    found = [match for word in command for match in expanded(word)]
    if command[0] == "export" and "--formats" not in command:
        return [*found, "--size", "64", "96"]  # a free one takes three times as long; `tests/export` has it
    if command[0] == "serve":
        return [*found, "--port", "0"]
    if command[0] not in TRAINS or "--resume" in command:
        return found
    seeds = ["--seeds", "1"] if command[0] == "compare" else []
    narrow = ["fpn.channels=32"] if "/fpn/" in command[1] or "cascade_rcnn_r50" in command[1] else []
    narrow += ["dyhead.blocks=1"] if narrow and command[0] == "train" and "/dyhead/" in command[1] else []
    if narrow and "--set" in command:  # what the page sets is said last, and holds
        place = found.index("--set") + 1
        return [*found[:place], *narrow, *found[place:], *SMALL, *seeds]
    return [*found, *SMALL, *seeds, *(["--set", *narrow] if narrow else [])]


def expanded(word: str) -> list[str]:
    return sorted(map(str, Path().glob(word))) or [word] if "*" in word else [word]


@pytest.fixture
def desk(tmp_path, monkeypatch) -> Path:
    """What the pages presuppose: data sets photos/ and coco/, photographs, a finished run, a file of weights."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    splits = {name: replace(data, records=data.records[:4]) for name, data in open_splits(DATA).items()}
    write_dataset(splits, tmp_path / "photos", "coco")
    known = headway.create_model("fcos_r50_fpn.mmdet").card
    coco = {"class_names": known.class_names, "category_ids": known.category_ids}
    write_dataset({name: replace(data, **coco) for name, data in splits.items()}, tmp_path / "coco", "coco")
    (tmp_path / "new").mkdir()
    for name in ("photo.jpg", "a.jpg", "new/a.jpg"):
        shutil.copy(splits["val"].records[0].path, tmp_path / name)
    shutil.copy(ROOT / "docs" / "own_head.py", tmp_path)
    (tmp_path / "token").write_text("word\n")
    monkeypatch.setattr(server, "serve", lambda app, listening, settings, started: started())  # `tests/serve` goes on
    monkeypatch.setattr(demo, "settings", lambda out: TrainConfig(out=out, epochs=1, input_size=(64, 96)))
    monkeypatch.setattr(WeightsRow, "download", lambda row: tmp_path / row.model)
    monkeypatch.setattr(WeightsRow, "load", random_weights)
    monkeypatch.setattr(backbones, "create_pretrained", lambda name, **options: timm.create_model(name, **options))
    return tmp_path


def write_published(path: Path) -> None:
    """A file with the names and shapes of mmdetection's Cascade R-CNN."""
    golden = json.loads((ROOT / "tests/golden/mmdet/cascade_rcnn_r50_fpn.json").read_text())
    spec = spec_from_file_location("golden_fill", ROOT / "tests/golden/fill.py")
    fill = module_from_spec(spec)
    spec.loader.exec_module(fill)
    torch.save({"state_dict": fill.fill_state_dict(golden), "meta": {}}, path)


def random_weights(row: WeightsRow, model: headway.Detector, path: Path | None = None) -> None:
    """In place of a download: the weights stay as they were drawn."""
    model.card.input_size = (64, 96)
