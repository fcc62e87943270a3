"""`headway predict` as a job: with processes, in an array, merged, gone on with, and refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from .conftest import Run


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Nine pictures of two shapes in two folders, and a broken one, in `tmp_path/in`."""
    generator = torch.Generator().manual_seed(0)
    for number in range(9):
        size = (90, 120, 3) if number % 3 else (120, 90, 3)
        pixels = torch.randint(0, 256, size, generator=generator, dtype=torch.uint8)
        path = tmp_path / f"in/{'low/' if number > 5 else ''}{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.numpy()).save(path)
    (tmp_path / "in/broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 not a picture")
    return tmp_path / "in"


def files(folder: Path) -> dict[str, bytes]:
    """What a job wrote, but for its plan."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(("plan", "pictures"))}


def test_every_way_gives_the_same_bytes_and_the_rows_of_plain_predict(
    headway: Run, checkpoint: Path, pictures: Path, tmp_path: Path
) -> None:
    """One process, two, and an array of two. Shards of 8 hold whole windows of 8 batches."""
    options = ("--threshold", 0.001, "--max-detections", 5, "--batch-size", 1)
    plain = headway("predict", checkpoint, "in", *options, "--recursive", "--no-pictures", "--out", "plain")
    job = ("predict", checkpoint, "in", *options, "--shard-size", 8)
    one = headway(*job, "--workers", 1, "--out", "one")
    two = headway(*job, "--workers", 2, "--out", "two", "--parquet")
    first = headway(*job, "--shard", "2/2", "--out", "array")
    assert (first.returncode, first.stdout) == (0, "1 of 2 shards: array; the process that ends last merges\n")
    assert not (tmp_path / "array/predictions.json").exists()
    last = headway(*job, "--shard", "1/2", "--out", "array")
    for result, name in ((one, "one"), (two, "two"), (last, "array")):
        assert result.returncode == 1, result.stderr  # one picture is broken
        assert result.stdout == plain.stdout.replace(": plain", f": {name}")
        assert "failed: 1 picture; the reasons are in" in result.stderr
        assert "9 pictures with the 5 detections that are kept: --max-detections keeps more" in result.stderr
    expected = files(tmp_path / "one")
    (tmp_path / "two/predictions.parquet").unlink()
    assert files(tmp_path / "two") == expected == files(tmp_path / "array")
    assert json.loads(expected["predictions.json"]) == json.loads((tmp_path / "plain/predictions.json").read_text())
    (failed,) = expected["failed.jsonl"].splitlines()
    assert "in/broken.jpg is damaged" in json.loads(failed)["error"] or "in/broken.jpg" in json.loads(failed)["error"]


def test_it_goes_on_and_refuses_another_model_or_threshold(
    headway: Run, checkpoint: Path, pictures: Path, tmp_path: Path
) -> None:
    (pictures / "broken.jpg").unlink()
    job = ("predict", checkpoint, "in", "--workers", 1, "--out", "job", "--shard-size", 3)
    assert headway(*job).returncode == 0
    before = files(tmp_path / "job")
    for name in ("part-00001.jsonl", "predictions.json"):
        (tmp_path / "job" / name).unlink()
    kept = (tmp_path / "job/part-00000.jsonl").stat().st_mtime_ns
    again = headway(*job, "--json")
    assert again.returncode == 0
    assert "job: 2 of 3 shards are done already" in again.stderr
    assert json.loads(again.stdout)["pictures"] == 9
    assert files(tmp_path / "job") == before
    assert (tmp_path / "job/part-00000.jsonl").stat().st_mtime_ns == kept
    assert headway("predict", "--merge", "job").returncode == 0
    other = headway(*job, "--threshold", 0.4)
    message = "headway: job is a job with --threshold 0.3, got 0.4: name another --out\n"
    assert (other.returncode, other.stderr) == (1, message)
    (tmp_path / "changed.safetensors").write_bytes(checkpoint.read_bytes() + b" ")
    other = headway("predict", "changed.safetensors", *job[2:])
    assert "job is a job with another model" in other.stderr
    assert len(other.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "message", "code"),
    [
        (("--workers", 1), "a job needs a folder to go on with: name one by --out JOB", 2),
        (("--workers", 0, "--out", "job"), "--workers must be at least 1, got 0", 2),
        (("--shard", "0/4", "--out", "job"), "--shard is K/N with K in 1..N, as in 3/16, got '0/4'", 1),
        (("--shard", "1/4", "--ray", "auto", "--out", "job"), "--ray gives shards to its own workers", 2),
        (("--workers", 1, "--time-limit", 0, "--out", "job"), "--time-limit must be more than 0 seconds", 2),
        (("--workers", 1, "--out", "job", "--classes", "withe"), "there is no class 'withe'; did you mean white", 1),
        (("--workers", 1, "--out", "in"), "in exists and is not empty; nothing is overwritten", 1),
    ],
)
def test_what_cannot_be_meant_is_one_line(
    headway: Run, checkpoint: Path, pictures: Path, options: tuple[object, ...], message: str, code: int
) -> None:
    result = headway("predict", checkpoint, "in", *options)
    assert (result.returncode, len(result.stderr.splitlines())) == (code, 1), result.stderr
    assert message in result.stderr


def test_merge_wants_a_job(headway: Run, pictures: Path) -> None:
    assert "in is no job: it holds no plan.json" in headway("predict", "--merge", "in").stderr
