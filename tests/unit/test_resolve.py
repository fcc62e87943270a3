"""What a text means where a model is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from headway.errors import HeadwayError
from headway.resolve import load_model, resolve_model


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = ("run/best.safetensors", "run/last.safetensors", "late/last.safetensors", "file.safetensors", "odd/name")
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("name", "kind", "path"),
    [
        ("run", "file", "run/best.safetensors"),
        (Path("late"), "file", "late/last.safetensors"),
        ("file.safetensors", "file", "file.safetensors"),
        ("run/last.safetensors", "file", "run/last.safetensors"),
        ("odd/name", "file", "odd/name"),
        ("resnet18/fpn/atss", "parts", None),
        ("resnet18/fpn/dyhead/atss", "parts", None),
        ("resnet50.a1_in1k/fpn/atss", "parts", None),
        ("atss_r18_fpn", "name", None),
        ("atss_r50_fpn.mmdet", "tag", None),
    ],
)
def test_what_a_text_means(name: str | Path, kind: str, path: str | None) -> None:
    """A path of parts was taken for a missing file before."""
    found = resolve_model(name)
    assert (found.kind, found.name) == (kind, str(name))
    assert found.path == (None if path is None else Path(path))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gone/best.safetensors", "no checkpoint or run folder at gone/best.safetensors"),
        ("model.onnx", "no checkpoint or run folder at model.onnx"),
        ("run/gone", "no checkpoint or run folder at run/gone"),
        ("./gone", "no checkpoint or run folder at gone"),
        (Path("gone"), "no checkpoint or run folder at gone"),
        ("odd", "odd is no run folder: it holds neither best.safetensors nor last.safetensors"),
    ],
)
def test_what_is_missing_is_refused(name: str | Path, message: str) -> None:
    with pytest.raises(HeadwayError, match=message):
        resolve_model(name)


def test_a_name_has_no_weights() -> None:
    with pytest.raises(HeadwayError, match=r"atss_r18_fpn is no file or folder here.*tag as in atss_r50_fpn\.mmdet"):
        load_model("atss_r18_fpn")
    assert not load_model("atss_r18_fpn", random=True).training
