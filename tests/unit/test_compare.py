"""Comparisons: rows by text, the paired interval by hand, one budget a folder, finished runs that are only read."""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import headway
from headway.compare.api import compare, rate_note
from headway.compare.entries import Entry, claimed, entries_of, parse_entry, read_result, write_result
from headway.compare.table import cells, markdown, paired, summarise
from headway.errors import HeadwayError

DATA = Path(headway.__file__).parent / "assets" / "bccd-mini"
TINY = {"fpn.channels": 32, "backbone": "resnet10t"}
SETTINGS = {"epochs": 1, "input_size": (64, 96), "batch_size": 16, "recipe": "small"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("resnet18/fpn/atss", Entry("resnet18/fpn/atss", "resnet18/fpn/atss")),
        ("a/fpn/atss:blocks=2", Entry("a/fpn/atss:blocks=2", "a/fpn/atss", {"blocks": 2})),
        ("small=a/fpn/atss:dcn=[\"c4\",\"c5\"],norm=eval", Entry(
            "small", "a/fpn/atss", {"dcn": ["c4", "c5"], "norm": "eval"}
        )),
        ("atss_r50_fpn.mmdet", Entry("atss_r50_fpn.mmdet", "atss_r50_fpn.mmdet")),
    ],
)  # fmt: skip
def test_an_entry_is_a_model_with_arguments_and_a_label(text, expected):
    assert parse_entry(text) == expected


def test_entries_are_told_apart():
    with pytest.raises(HeadwayError, match="named twice; tell them apart by a label"):
        entries_of(["a/fpn/atss", "a/fpn/atss"])
    with pytest.raises(HeadwayError, match="nothing to compare"):
        entries_of([])
    with pytest.raises(HeadwayError, match="arguments are KEY=VALUE, got 'blocks'"):
        entries_of(["a/fpn/atss:blocks"])
    assert [e.label for e in entries_of({"x": "a/fpn/atss", "y": ("a/fpn/atss", {"blocks": 1})})] == ["x", "y"]


def test_rows_that_want_a_higher_rate_are_named():
    names = ("resnet18/fpn/atss", "yolor_s", "resnet18/bifpn/efficientdet", "efficientdet_d0.effdet")
    entries = entries_of(dict(zip("abcd", names)))
    assert rate_note(entries, "small", {"epochs": 1}).startswith("all rows learn at 0.0015, by which b, c fall behind")
    assert rate_note(entries[:1], "small", {}) == ""
    assert rate_note(entries, "small_light", {}) == rate_note(entries, "small", {"learning_rate": 1e-3}) == ""


def test_the_paired_interval():
    """Differences .01, .03, .05: mean .03, deviation .02, and with two degrees of freedom t = 4.302653, so
    .03 +- 4.302653 * .02 / sqrt(3) = .03 +- .049683. Seed 3 has no partner."""
    found = paired({0: 0.41, 1: 0.43, 2: 0.45, 3: 0.9}, {0: 0.40, 1: 0.40, 2: 0.40})
    assert found.seeds == 3
    assert found.mean == pytest.approx(0.03)
    assert found.high - found.mean == pytest.approx(0.049683, abs=1e-6)
    assert found.mean - found.low == pytest.approx(0.049683, abs=1e-6)
    assert paired({0: 0.5}, {0: 0.4}) == (pytest.approx(0.1), None, None, 1)
    assert paired({0: 0.5}, {1: 0.4}) is None
    assert paired({0: math.nan}, {0: 0.4}) is None


def test_the_table_of_a_part_says_so():
    runs = {seed: {"metrics": {"AP": ap, "AP50": 0.5, "AP75": 0.2}, "images_per_s": 10.0, "inference_ms": 20.0}
            for seed, ap in ((0, 0.30), (1, 0.32))}  # fmt: skip
    rows = [
        {
            "label": "a",
            "model": "a",
            "arguments": {},
            "parameters": 2_000_000,
            "macs": 3 * 10**9,
            "runs": runs,
            "of": 2,
        },
        {"label": "b", "model": "b", "arguments": {}, "parameters": 1, "macs": 1, "runs": {0: runs[1]}, "of": 2},
    ]
    first, second = (cells(line) for line in summarise(rows))
    assert first == ["a", "2.00 M", "3.00", "10.0", "20", "0.310 ± 0.014", "0.500 ± 0.000", "0.200 ± 0.000", ""]
    assert second[0] == "b (1 of 2 seeds)"
    assert second[5] == "0.320"
    assert second[-1] == "+0.020 (one seed)"
    text = markdown(summarise(rows), {"epochs": 3, "data": "d", "recipe": "small", "batch_size": 4, "input_size": None,
                                      "precision": "fp32"})  # fmt: skip
    assert "| a | 2.00 M | 3.00 |" in text


def test_a_claim_holds_against_another_process_and_ends_with_it(tmp_path):
    entry = Entry("a", "a")
    code = (
        "import sys; from pathlib import Path; from headway.compare.entries import Entry, claimed\n"
        f"with claimed(Entry('a', 'a'), Path({str(tmp_path)!r}), 0) as mine: print(mine)"
    )
    with claimed(entry, tmp_path, 0) as mine:
        assert mine
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert other.stdout.strip() == "False"
    again = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert again.stdout.strip() == "True"


def test_a_damaged_result_is_named(tmp_path):
    entry = Entry("a", "a")
    result = {"model": "a", "arguments": {}, "metrics": {}}
    write_result(entry, tmp_path, 0, result)
    assert read_result(entry, tmp_path, 0) == result
    for other in (Entry("a", "b"), Entry("a", "a", {"blocks": 2})):
        with pytest.raises(HeadwayError, match="give it another label"):
            read_result(other, tmp_path, 0)
    (entry.folder(tmp_path, 0) / "result.json").write_text("{")
    with pytest.raises(HeadwayError, match=r"is damaged .* remove it"):
        read_result(entry, tmp_path, 0)


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    out = tmp_path_factory.mktemp("compare")
    models = {"plain": ("resnet18/fpn/atss", {"tower_depth": 1}), "dyhead": "resnet18/fpn/dyhead/atss:dyhead.blocks=1"}
    return models, out, compare(models, DATA, seeds=1, out=out, arguments=TINY, **SETTINGS)


def test_a_comparison_trains_every_row_and_writes_table_and_picture(compared):
    _, out, found = compared
    assert (found.finished, found.of) == (2, 2)
    document = json.loads((out / "comparison.json").read_text())
    assert [row["label"] for row in document["models"]] == ["plain", "dyhead"]
    for line in found.lines:
        best = headway.load(out / line["label"] / "seed-0" / "run")
        assert line["AP"]["by_seed"][0] == best.card.metrics["ap"]
        assert line["parameters"] == sum(p.numel() for p in best.parameters())
        assert line["images_per_s"] > 0
        assert line["inference_ms"] > 0
        assert not (out / line["label"] / "seed-0" / "run" / "state").exists()
    assert (out / "comparison.png").read_bytes()[:4] == b"\x89PNG"
    assert "http" not in (out / "comparison.html").read_text().replace("http-equiv", "")
    assert found.to_pandas()["model"].tolist() == ["plain", "dyhead"]


def test_a_finished_run_is_only_read(compared):
    models, out, found = compared
    result = out / "plain" / "seed-0" / "result.json"
    changed = json.loads(result.read_text()) | {"inference_ms": 12345.0}
    result.write_text(json.dumps(changed))
    again = compare(models, DATA, seeds=1, out=out, arguments=TINY, **SETTINGS)
    assert again.lines[0]["inference_ms"] == 12345.0
    assert again.lines[1] == found.lines[1]


def test_another_budget_is_refused(compared):
    models, out, _ = compared
    with pytest.raises(HeadwayError, match=r"runs of another budget \(epochs 1, now 2\); name another --out"):
        compare(models, DATA, seeds=1, out=out, arguments=TINY, **{**SETTINGS, "epochs": 2})


def test_another_folder_of_the_same_name_is_another_budget(compared, tmp_path):
    models, out, _ = compared
    other = tmp_path / DATA.name
    shutil.copytree(DATA, other)
    assert compare(models, other, seeds=1, out=out, arguments=TINY, **SETTINGS).finished == 2  # moved, not changed
    path = other / "annotations" / "val.json"
    content = json.loads(path.read_text())
    gone = content["images"].pop()["id"]
    content["annotations"] = [row for row in content["annotations"] if row["image_id"] != gone]
    path.write_text(json.dumps(content))
    with pytest.raises(HeadwayError, match=r"runs of another budget \(pictures .*'val': "):
        compare(models, other, seeds=1, out=out, arguments=TINY, **SETTINGS)


def test_an_unknown_part_is_told_before_anything_is_trained(tmp_path):
    with pytest.raises(HeadwayError, match="there is no neck 'dyhed'; did you mean dyhead"):
        compare(["resnet18/fpn/atss", "resnet18/fpn/dyhed/atss"], DATA, out=tmp_path / "o", **SETTINGS)
    assert not list((tmp_path / "o").glob("*/seed-*"))
