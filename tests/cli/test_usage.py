"""Help without torch, and one clear line for every kind of mistake."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import Run

HELP = """
import contextlib, io, sys
from headway.cli import VERBS, main
texts = {}
for name in ["", "data", *VERBS]:
    with contextlib.redirect_stdout(io.StringIO()) as text:
        assert main([*name.split(), "--help"]) == 0, name
    assert text.getvalue().startswith(f"usage: headway {name}".rstrip()), text.getvalue()[:80]
    texts[name] = text.getvalue()
assert all(name in texts[""] for name in VERBS)
assert all("--json" in texts[name] for name in VERBS)
assert "--learning-rate" in texts["train"]
print(sorted(m for m in ("torch", "torchvision", "timm", "numpy", "matplotlib", "PIL") if m in sys.modules))
"""


def test_help_of_every_verb_imports_nothing_slow() -> None:
    result = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, timeout=60, check=False)
    assert (result.returncode, result.stdout.strip()) == (0, "[]"), result.stderr


def test_version(headway: Run) -> None:
    from headway import __version__

    result = headway("--version")
    assert (result.returncode, result.stdout) == (0, f"headway {__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["pedict"], "there is no verb 'pedict'; did you mean predict"),
        (["data", "chekc", "x"], "there is no verb 'data chekc'; did you mean data check"),
        (["train", "m", "--epoch", "3"], "headway train has no option --epoch; did you mean --epochs"),
        (["train", "m", "--epochs", "many"], "--epochs: invalid literal for int() with base 10: 'many'"),
        (["train", "m", "--batch-size", "0"], "batch_size must be at least 1, got 0"),
        (["train", "m", "--precision", "fp8"], "invalid choice 'fp8'"),
        (["train"], "MODEL"),
        (["train", "m"], "--data FOLDER"),
        (["train", "m", "--data", "d", "--val-fraction", "2"], "--val-fraction must be in [0, 1), got 2.0"),
        (["eval", "m.safetensors"], "--data FOLDER"),
        (["models", "--size", "64"], "--size takes INT INT, got '64'"),
        (["bench", "m", "--batch", "0"], "--batch must be at least 1, got 0"),
        (["bench", "m", "--size", "8", "640"], "--size must be at least 32 by 32, got 8 by 640"),
        (["convert", "x.pth"], "--model"),
        (["predict", "a.safetensors"], "name the pictures too"),
        (["data", "split", "d", "--fractions", "0.5", "0.6"], "shares with the sum 1, got (0.5, 0.6)"),
        (["data", "convert", "d"], "--to coco, voc or yolo"),
        (["data", "check", "d", "--out", "e"], "add --fix"),
        (["view", "deform", "m.safetensors"], "say what to look at: --image photo.jpg"),
        (["view", "defrom", "m"], "there is no verb 'view defrom'; did you mean view deform"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(headway: Run, arguments: list[str], expected: str) -> None:
    result = headway(*arguments)
    assert result.returncode == 2
    assert result.stdout == ""
    assert expected in result.stderr
    assert result.stderr.startswith("headway: ")
    assert result.stderr.count("\n") == 1


def test_without_a_verb_the_list_and_exit_code_2(headway: Run) -> None:
    result = headway()
    assert (result.returncode, result.stdout) == (2, "")
    assert "headway VERB --help" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["bench", "atss_r50_fpm"], "unknown model 'atss_r50_fpm'; did you mean atss_r50_fpn"),
        (["bench", "gone/best.safetensors"], "no checkpoint or run folder at gone/best.safetensors"),
        (["train", "atss_r50_fpm", "--data", "gone"], "unknown model 'atss_r50_fpm'"),
        (["train", "runs/gone", "--resume"], "runs/gone is no run folder"),
        (["train", "m", "--data", "x", "--recipe", "mmdet_3x"], "unknown recipe 'mmdet_3x'; did you mean mmdet_2x"),
    ],
)
def test_what_fails_is_one_line_and_exit_code_1(headway: Run, arguments: list[str], expected: str) -> None:
    result = headway(*arguments)
    assert (result.returncode, result.stdout) == (1, "")
    assert expected in result.stderr
    assert result.stderr.count("\n") == 1


BREAK = """
import sys
import headway.commands.doctor as doctor
from headway.cli import main
def run(self):
    raise {error}
doctor.Doctor.run = run
sys.exit(main(["doctor"]))
"""


def run_broken(error: str, tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    import os

    clean = {k: v for k, v in os.environ.items() if k != "HEADWAY_DEBUG"}
    return subprocess.run(
        [sys.executable, "-c", BREAK.format(error=error)],
        capture_output=True, text=True, timeout=60, check=False, env={**clean, **environment},
    )  # fmt: skip


def test_an_unexpected_error_is_short_with_a_hint(tmp_path: Path) -> None:
    result = run_broken("RuntimeError('shapes\\n do not fit')", tmp_path)
    assert result.returncode == 1
    assert result.stderr == "headway: unexpected RuntimeError: shapes do not fit (HEADWAY_DEBUG=1 shows where)\n"


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    result = run_broken("RuntimeError('shapes')", tmp_path, HEADWAY_DEBUG="1")
    assert result.returncode == 1
    assert result.stderr.startswith("Traceback")
    assert "in run" in result.stderr


def test_an_interruption_is_quiet(tmp_path: Path) -> None:
    result = run_broken("KeyboardInterrupt", tmp_path)
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "")


def test_a_reader_that_goes_away_is_no_traceback(headway: Run, tmp_path: Path) -> None:
    """As in `headway models | head -0`."""
    script = f"{sys.executable} -m headway.cli models r18 | true"
    result = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert "Traceback" not in result.stderr
    assert "Exception ignored" not in result.stderr
