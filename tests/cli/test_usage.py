"""Help without torch, and one clear line for every kind of mistake."""

from __future__ import annotations

import os
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
assert all(f"  {name}  " in texts[""] for name in VERBS)
assert "--plugin MODULE" in texts[""]
assert "--learning-rate" in texts["train"] and len(texts["train"].splitlines()) < 60
assert "--help-all" in texts["train"] and "--milestones" not in texts["train"]
with contextlib.redirect_stdout(io.StringIO()) as text:
    assert main(["train", "--help-all"]) == 0
from dataclasses import fields
from headway.cli import flags
from headway.commands.train import Train
lines = [line.split()[0] for line in text.getvalue().splitlines() if line.startswith("  --")]
assert sorted(lines) == sorted(set(flags(Train)) - {"--model"}), set(flags(Train)) ^ set(lines)
assert "dyhead_1x" in text.getvalue() and "--milestones INT ..." in text.getvalue()
print(sorted(m for m in ("torch", "torchvision", "timm", "numpy", "matplotlib", "PIL") if m in sys.modules))
"""


def test_help_of_every_verb_imports_nothing_slow() -> None:
    result = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, timeout=60, check=False)
    assert (result.returncode, result.stdout.strip()) == (0, "[]"), result.stderr


def test_version(fresh_headway: Run) -> None:
    from headway import __version__

    result = fresh_headway("--version")
    assert (result.returncode, result.stdout) == (0, f"headway {__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["pedict"], "there is no verb 'pedict'; did you mean predict"),
        (["data", "chekc", "x"], "there is no verb 'data chekc'; did you mean data check"),
        (["train", "m", "--epoch", "3"], "headway train has no option --epoch; did you mean --epochs"),
        (["view", "cam", "m", "a.jpg"], "view cam does not know what a.jpg is for; did you mean --image a.jpg?"),
        (["view", "cam", "m", "a", "b"], "view cam does not know what a, b is for; `headway view cam --help`"),
        (["train", "m", "--epochs", "many"], "--epochs: invalid literal for int() with base 10: 'many'"),
        (["train", "m", "--batch-size", "0"], "batch_size must be at least 1, got 0"),
        (["train", "m", "--precision", "fp8"], "invalid choice 'fp8'"),
        (["train"], "say what to train on: --data FOLDER"),
        (["train", "m"], "--data FOLDER"),
        (["train", "m", "--data", "d", "--val-fraction", "2"], "--val-fraction must be in [0, 1), got 2.0"),
        (["eval", "m.safetensors"], "--data FOLDER"),
        (["models", "--size", "64.5"], "--size takes INT INT, got '64.5'"),
        (["train", "m", "--lr", "0.1"], "headway train has no option --lr; here it is --learning-rate"),
        (["train", "m", "--imgsz", "320"], "no option --imgsz; here it is --input-size"),
        (["train", "m", "--batch", "4"], "no option --batch; here it is --batch-size"),
        (["train", "--weights", "a.pt"], "no option --weights; the model is the first argument, without an option"),
        (["predict", "m", "a.jpg", "--conf=0.3"], "no option --conf; here it is --threshold"),
        (["predict", "m", "a.jpg", "--score-threshold", "0.3"], "here it is --threshold"),
        (["predict", "m", "a.jpg", "--iou", "0.3"], "no option --iou; here it is --nms-iou"),
        (["predict", "m", "a.jpg", "--source", "b"], "pictures are arguments without an option"),
        (["predict", "m", "a.jpg", "--threshold", "30"], "--threshold must be in 0..1, got 30.0"),
        (["bench", "m", "--imgsz", "64"], "no option --imgsz; here it is --size"),
        (["doctor", "--plugin"], "--plugin takes the name of a module or a .py file"),
        (["bench", "m", "--batch", "0"], "--batch must be at least 1, got 0"),
        (["bench", "m", "--size", "8", "640"], "--size must be at least 32 by 32, got 8 by 640"),
        (["bench", "m", "--tiles", "-1"], "--tiles (the side of a tile in pixels) must be a whole number"),
        (["predict", "m", "a.jpg", "--tiles", "1.5"], "--tiles takes INT|model, got '1.5'"),
        (["predict", "m", "a.jpg", "--parquet"], "--parquet is of a job: add --workers N"),
        (["predict", "m", "a.jpg", "--time-limit", "5"], "--time-limit is of a job"),
        (["bench", "m", "--workers", "2"], "--workers load the pictures of --data"),
        (["bench", "m", "--train", "--tiles"], "a training step has one view of a picture"),
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


def test_wrong_usage_is_one_line_where_stdout_is_not_utf_8() -> None:
    """Failed before: the rulers of tyro's box, "-" there, and all below them stood in the line."""
    script = "import sys; from headway.cli import main; main(['bench', 'm', '--repeats', 'x']); main(['bench'])"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-c", script]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)
    first, second = result.stderr.splitlines()
    assert first == "headway: --repeats: invalid literal for int() with base 10: 'x' (`headway bench --help`)"
    assert "Missing from headway bench: MODEL" in second
    assert "--" not in second.replace("--help", "")


def test_a_data_set_is_checked_without_modules_of_unix() -> None:
    """Failed before: Windows has no fcntl, which the check imported."""
    script = (
        "import sys; sys.modules |= {'fcntl': None, 'resource': None}; from headway.cli import main; "
        "import headway.demo, headway.profile; sys.exit(main(['data', 'check', str(headway.demo.DATA)]))"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    assert "No problems found." in result.stdout


def test_without_a_verb_the_list_and_exit_code_2(fresh_headway: Run) -> None:
    result = fresh_headway()
    assert (result.returncode, result.stdout) == (2, "")
    assert "headway VERB --help" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["bench", "gone.safetensors"], ["bench", "./gone"], ["pedict"],
        ["doctor", "--jsn"], ["predict", "m", "--conf", "1"],
    ],
)  # fmt: skip
def test_typos_and_missing_files_are_told_before_anything_slow_is_imported(arguments: list[str]) -> None:
    """Failed before: a missing checkpoint was told after 4 s of imports."""
    script = (
        "import sys; from headway.cli import main; code = main(sys.argv[1:]); "
        "print(code, sorted({'torch', 'timm', 'matplotlib'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", script, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.stdout.strip() in ("1 []", "2 []"), result.stderr
    assert result.stderr.count("\n") == 1


def test_an_option_of_several_values_given_again_adds_to_them():
    from headway.cli import _gathered
    from headway.commands.predict import Predict
    from headway.commands.train import Train

    given = ["m", "--set", "a=1", "b=2", "--epochs", "3", "--set", "c=3"]
    assert _gathered(Train, given) == ["m", "--set", "a=1", "b=2", "c=3", "--epochs", "3"]
    assert _gathered(Train, ["m", "--epochs=3", "--epochs", "4"]) == ["m", "--epochs=3", "--epochs", "4"]
    given = ["m", "--classes=RBC", "a.jpg", "--out", "o", "--classes", "WBC"]
    assert _gathered(Predict, given) == ["m", "a.jpg", "--classes", "RBC", "WBC", "--out", "o"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "atss_r18_fpn", "--data", "photos", "--set"],
        ["train", "--milestones", "--data", "photos"],
        ["predict", "m.safetensors", "a.jpg", "--classes", "--out", "o"],
        ["serve", "m.safetensors", "--allow_host"],
        ["convert", "a.pth", "--class-names"],
    ],
)
def test_an_option_of_several_values_without_any_is_refused(arguments, capsys):
    from headway.cli import main

    option = next(a for a in arguments if a in ("--set", "--milestones", "--classes", "--allow_host", "--class-names"))
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert f"{option.replace('_', '-')} takes one value or more, and none came" in said, said


def test_one_number_is_both_sides() -> None:
    from headway.cli import _squares

    assert _squares(["m", "--size", "64"]) == ["m", "--size", "64", "64"]
    assert _squares(["--input-size", "320", "--epochs", "3"]) == ["--input-size", "320", "320", "--epochs", "3"]
    assert _squares(["--size", "64", "96"]) == ["--size", "64", "96"]
    assert _squares(["--epochs", "3"]) == ["--epochs", "3"]


def test_messages_of_the_library_speak_the_words_of_the_command_line() -> None:
    """Failed before: `choose one with split=` and `start with backbone_weights=False` came as they are."""
    from headway.cli import _as_flags

    known = ["--split", "--pretrained", "--set", "--batch-size"]
    assert _as_flags("choose one with split=", known) == "choose one with --split"
    assert _as_flags("give it as pretrained=PATH", known) == "give it as --pretrained PATH"
    assert _as_flags("start with backbone_weights=False.", known) == "start with --set backbone_weights=False."
    assert _as_flags("batch_size=4, x=3, --set y=2", known) == "--batch-size 4, x=3, --set y=2"
    assert _as_flags("by out='runs/a b' and resume=True", ["--out", "--resume"]) == "by --out 'runs/a b' and --resume"


PLUGIN = """
import headway.commands.doctor as doctor
doctor.Doctor.run = lambda self: print("mine") or 0
"""


@pytest.mark.parametrize("name", ["mine", "mine.py"])
def test_a_plugin_is_imported_first(headway: Run, tmp_path: Path, name: str) -> None:
    (tmp_path / "mine.py").write_text(PLUGIN)
    (tmp_path / "other.py").write_text("print('other')")
    result = headway("doctor", "--plugin", name, "--plugin=other")
    assert (result.returncode, result.stdout) == (0, "other\nmine\n")


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("gone", "", "there is no module 'gone' for --plugin"),
        ("gone.py", "", "there is no file gone.py for --plugin"),
        ("mine", "import nowhere", "plugin mine fails: ModuleNotFoundError: No module named 'nowhere'"),
        ("mine.py", "1 / 0", "plugin mine.py fails: ZeroDivisionError: division by zero"),
    ],
)
def test_a_plugin_that_fails_is_one_line(headway: Run, tmp_path: Path, name: str, content: str, expected: str) -> None:
    (tmp_path / "mine.py").write_text(content)
    result = headway("doctor", "--plugin", name)
    assert (result.returncode, result.stdout) == (1, "")
    assert expected in result.stderr
    assert result.stderr.count("\n") == 1


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


def test_a_list_in_a_message_keeps_its_lines(headway: Run, tmp_path: Path) -> None:
    """Failed before: the layouts that are read came in one line of 500 characters."""
    (tmp_path / "empty").mkdir()
    result = headway("data", "check", "empty")
    assert result.returncode == 1
    first, *lines = result.stderr.splitlines()
    assert first.endswith("expected one of")
    assert [line.split()[0] for line in lines if line.startswith("  ") and line[2] != " "] == [
        "COCO:",
        "VOC:",
        "YOLO:",
        "tar:",
    ]


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
