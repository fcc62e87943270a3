"""`headway train` and `headway eval` by torchrun on two nodes over gloo, and what is said when one of them dies.

The nodes are two agents of this machine. With HEADWAY_TEST_NAMESPACES=1 they are network namespaces, and a cable
between them is cut, too: Linux, util-linux, iproute2, and a kernel that lets this user make namespaces.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from headway import cli
from headway.demo import ASSETS, DATA
from headway.train.log import read_rows
from headway.train.state import read_state

from .nodes import Namespaces, Nodes, wait_for
from .tiny import make_data

ASKED = os.environ.get("HEADWAY_TEST_NAMESPACES")
OPT_IN = pytest.mark.skipif(
    not ASKED, reason="two network namespaces and a cut cable are tested where HEADWAY_TEST_NAMESPACES=1 asks for it"
)
KINDS = [pytest.param(Nodes, id="agents"), pytest.param(Namespaces, id="namespaces", marks=OPT_IN)]
TINY = str(Path(__file__).parent / "tiny.py")
TRAIN = ["--set", "frozen_norm=true", "dropout=0.0", "--optimizer", "sgd", "--preset", "none", "--batch-size", "4",
         "--epochs", "8", "--learning-rate", "0.01", "--ema", "0", "--device", "cpu"]  # fmt: skip


@pytest.fixture
def nodes(request: pytest.FixtureRequest) -> Iterator[Nodes]:
    made = request.param()
    yield made
    made.close()


def write_coco(folder: Path) -> Path:
    """The tiny data set as a COCO folder."""
    for split, count in (("train", 20), ("val", 5)):
        data = make_data(folder / split, count, name=split)
        boxes = [(r, box, label) for r in data.records for box, label in zip(r.boxes.tolist(), r.labels.tolist())]
        content = {
            "images": [{"id": r.image_id, "file_name": r.path.name, "width": 64, "height": 64} for r in data.records],
            "categories": [{"id": i + 1, "name": name} for i, name in enumerate(data.class_names)],
            "annotations": [
                {"id": i, "image_id": r.image_id, "category_id": label + 1, "iscrowd": 0, "area": 1.0,
                 "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]]}
                for i, (r, box, label) in enumerate(boxes, 1)
            ],
        }  # fmt: skip
        (folder / split / "_annotations.coco.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("nodes", KINDS, indirect=True)
def test_a_node_that_dies_ends_the_run_and_the_other_goes_on(nodes: Nodes, tmp_path: Path) -> None:
    """Two nodes train; the second one loses its power after an epoch. The first says so and how to go on; one process
    does, and ends with the weights of a run of one process."""
    data = write_coco(tmp_path / "data")
    arguments = ["train", "train_tiny_body/train_tiny_head", "--data", str(data), *TRAIN]
    nodes.start(*arguments, "--plugin", TINY, "--out", str(tmp_path / "two"))
    try:
        wait_for(tmp_path / "two" / "metrics.jsonl", '"kind": "epoch"')
    except TimeoutError as error:
        nodes.kill(0)
        raise AssertionError(nodes.end(0)[2]) from error
    nodes.kill(1)
    code, _, told = nodes.end(0)
    told = " ".join(told.split())
    assert code == 1
    assert "headway: another process, or its node, has gone (" in told
    assert f"the last saved state is in {tmp_path}/two: `headway train {tmp_path}/two --resume` goes on from it" in told
    assert len(read_state(tmp_path / "two")["random"]) == 2
    assert not read_state(tmp_path / "two")["progress"].finished
    assert cli.main(["train", str(tmp_path / "two"), "--resume"]) == 0
    assert cli.main([*arguments, "--out", str(tmp_path / "one")]) == 0
    one, two = (load_file(tmp_path / name / "last.safetensors") for name in ("one", "two"))
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, atol=1e-5, rtol=1e-4)
    rows = [
        [row for row in read_rows(tmp_path / name / "metrics.jsonl") if row["kind"] == "epoch"]
        for name in ("one", "two")
    ]
    assert [row["epoch"] for row in rows[1]] == [*range(1, 9)]
    for mine, theirs in zip(*rows):
        assert theirs["val_loss"] == pytest.approx(mine["val_loss"], rel=1e-3)


@pytest.mark.parametrize("nodes", KINDS, indirect=True)
def test_two_nodes_evaluate_as_one_process_does(
    nodes: Nodes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """20 pictures in passes of 3: one answer, one report, and the same detections."""
    arguments = ["eval", str(ASSETS / "demo.safetensors"), "--data", str(DATA), "--device", "cpu", "--json"]
    nodes.start(*arguments, "--batch-size", "3", "--out", str(tmp_path / "two"))
    ends = [nodes.end(node) for node in range(2)]
    assert [code for code, _, _ in ends] == [0, 0], ends
    assert ends[1][1] == ""
    assert cli.main([*arguments, "--batch-size", "5", "--out", str(tmp_path / "one")]) == 0
    one, two = json.loads(capsys.readouterr().out), json.loads(ends[0][1])
    for row in (one, two):
        del row["seconds"], row["report"]
    assert one["ap"] > 0.4
    assert flat(two) == pytest.approx(flat(one), abs=1e-6)
    assert [row["name"] for row in two["per_class"]] == [row["name"] for row in one["per_class"]]
    assert (tmp_path / "two" / "report.html").is_file()


def flat(content: object, name: str = "") -> dict[str, float]:
    """The numbers of nested dicts and lists by their place."""
    if isinstance(content, dict | list):
        items = content.items() if isinstance(content, dict) else enumerate(content)
        return {key: number for at, value in items for key, number in flat(value, f"{name}.{at}").items()}
    return {name: content} if isinstance(content, int | float) else {}


@OPT_IN
@pytest.mark.parametrize("nodes", [Namespaces], indirect=True)
def test_a_cut_cable_ends_the_run_after_the_silence(nodes: Nodes, tmp_path: Path) -> None:
    data = write_coco(tmp_path / "data")
    arguments = [
        "train",
        "train_tiny_body/train_tiny_head",
        "--data",
        str(data),
        *TRAIN,
        "--epochs",
        "2000",
        "--plugin",
        TINY,
    ]
    nodes.start(*arguments, "--out", str(tmp_path / "run"), HEADWAY_SILENCE="5")
    wait_for(tmp_path / "run" / "metrics.jsonl", '"kind": "epoch", "step": 10')
    nodes.cut()
    for node in range(2):
        code, _, told = nodes.end(node)
        assert code == 1
        assert "another process, or its node, has gone" in " ".join(told.split())
    assert read_state(tmp_path / "run")["progress"].step >= 5
