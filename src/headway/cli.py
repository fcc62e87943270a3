"""The command `headway`: finds the verb, parses its options, and turns mistakes into one line.

stdout is the result, stderr the log; exit 0 done, 1 failed, 2 wrong usage, 130 interrupted, 143 by SIGTERM. `headway
--help` and `headway VERB --help` import neither torch nor anything that does.
"""

import contextlib
import io
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from importlib import import_module
from typing import Any, get_type_hints

from . import __version__
from .allocator import keep_memory
from .commands.common import TerminatedError, UsageError, say
from .errors import HeadwayError, nearest, one_line
from .plugins import load_plugins

# What these have done by an interruption is of use. `train` and `serve` have handlers of their own; others end at once.
KEEPING = ("predict", "track", "data")
# Module and name of each verb's dataclass under `headway.commands`, and one line for the list of verbs.
VERBS = {
    "models": ("models", "Models", "list the models with parameters, multiply-adds and published AP"),
    "train": ("train", "Train", "train a model on a folder of annotated pictures"),
    "eval": ("eval", "Eval", "measure a checkpoint on a data set and write a report"),
    "errors": ("errors", "Errors", "sort the errors of one run or several by kind, with what each costs"),
    "browse": ("browse", "Browse", "look through a data set on a page, with its label mistakes by what runs say"),
    "compare": ("compare", "Compare", "train several models under one budget and put them in one table"),
    "predict": ("predict", "Predict", "detect in files, folders or globs; draw boxes and write a JSON"),
    "track": ("track", "Track", "follow objects through a video and give them identities"),
    "track eval": ("track", "TrackEval", "HOTA, IDF1 and MOTA of tracks against annotated ones"),
    "export": ("export", "Export", "write a model as an ONNX file and prove that it finds the same"),
    "serve": ("serve", "Serve", "answer over HTTP what a model finds, with a page at the same address"),
    "convert": ("convert", "Convert", "turn a published checkpoint into headway's format"),
    "data check": ("data", "Check", "validate a data set before training; --fix writes a cleaned copy"),
    "data stats": ("data", "Stats", "class counts, box sizes and sample pictures of a data set"),
    "data augment": ("data", "Augment", "draw training pictures as a model sees them, with their boxes"),
    "data anchors": ("anchors", "Anchors", "anchors for a data set's boxes by k-means, beside a model's own"),
    "data split": ("data", "Split", "split a data set into train, val and test, stratified and seeded"),
    "data convert": ("data", "ConvertData", "rewrite a data set as COCO, VOC or YOLO"),
    "view deform": ("view", "ViewDeform", "draw where deformable convolutions look on a photograph"),
    "view attention": ("view_attention", "ViewAttention", "draw what attention does to a photograph"),
    "view cam": ("view_cam", "ViewCam", "draw which pixels raised the score of a detection"),
    "view implicit": ("view", "ViewImplicit", "draw what implicit knowledge has learned, per level"),
    "bench": ("bench", "Bench", "latency, throughput, memory, and where the time goes"),
    "doctor": ("doctor", "Doctor", "check the installation and say what to mend"),
    "demo": ("demo", "Demo", "train, evaluate and predict on a small data set that ships inside"),
}
GROUPS = {name.split()[0] for name in VERBS if " " in name} - {*VERBS}

_NO_BRACES = str.maketrans("", "", "{}")
_SIZE = re.compile(r"model|-?[\d.]+")  # what --tiles takes, right or wrong; what else follows it is no size
_FIRST = "the model is the first argument, without an option"
# Options of other tools: the options here that mean the same, or a sentence.
ALIASES: dict[str, tuple[str, ...] | str] = {
    **dict.fromkeys(("--lr", "--lr0", "--base-lr"), ("--learning-rate",)),
    **dict.fromkeys(("--imgsz", "--img", "--img-size", "--image-size", "--resolution"), ("--input-size", "--size")),
    **dict.fromkeys(("--conf", "--conf-thres", "--score-threshold", "--score-thr", "--score"), ("--threshold",)),
    **dict.fromkeys(("--batch", "--bs", "--bsz", "--batch-per-gpu"), ("--batch-size", "--batch")),
    **dict.fromkeys(("--iou", "--iou-thres", "--nms", "--nms-threshold"), ("--nms-iou",)),
    **dict.fromkeys(("--max-det", "--max-dets", "--topk"), ("--max-detections",)),
    **dict.fromkeys(("--max-epochs", "--num-epochs"), ("--epochs",)),
    **dict.fromkeys(("--num-workers", "--n-workers", "--nw"), ("--workers",)),
    **dict.fromkeys(("--output", "--output-dir", "--out-dir", "--project", "--save-dir", "--work-dir"), ("--out",)),
    **dict.fromkeys(("--data-dir", "--dataset", "--data-path", "--data-root"), ("--data",)),
    **dict.fromkeys(("--amp", "--half", "--fp16"), ("--precision",)),
    **dict.fromkeys(("--weights", "--model", "--checkpoint", "--ckpt", "--cfg", "--config", "--arch"), _FIRST),
    **dict.fromkeys(("--source", "--images", "--img-dir"), "pictures are arguments without an option"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code. Without `argv` it is the process's own: its allocator is set, and
    SIGTERM ends verbs of `KEEPING` as Ctrl-C does, so that what was done is kept."""
    if argv is None:
        keep_memory()
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # a file name need not be text
    arguments = list(sys.argv[1:] if argv is None else argv)
    if argv is None and arguments[:1] and arguments[0] in KEEPING:
        _interrupt_on_sigterm()
    logging.basicConfig(stream=sys.stderr, format="%(message)s", level=logging.WARNING)
    logging.getLogger("headway").setLevel(logging.INFO)
    try:
        return _dispatch(arguments)
    except SystemExit as stop:  # tyro's, after --help
        return stop.code if isinstance(stop.code, int) else 1
    except KeyboardInterrupt as interrupt:
        return 128 + (signal.SIGTERM if isinstance(interrupt, TerminatedError) else signal.SIGINT)
    except BrokenPipeError:  # the reader of stdout has gone, as in `headway models | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        return _report(error)


def _interrupt_on_sigterm() -> None:
    own = os.getpid()

    def end(number: int, _frame: object) -> None:
        if os.getpid() == own:
            signal.signal(number, signal.SIG_IGN)  # a second one would cut the writing of what was done
            raise TerminatedError
        signal.signal(number, signal.SIG_DFL)  # a forked worker ends at once
        os.kill(os.getpid(), number)

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, end)


def _report(error: Exception) -> int:
    """Say on stderr what went wrong: one line for a mistake of the user's, with a list if it has one below; a hint for
    anything else."""
    if os.environ.get("HEADWAY_DEBUG"):
        import traceback

        traceback.print_exc()
    elif isinstance(error, HeadwayError):
        is_list = "\n  " in str(error)  # as of the layouts that are read
        say(f"headway: {str(error) if is_list else one_line(error, None)}")
    else:
        say(f"headway: unexpected {type(error).__name__}: {one_line(error, 300)} (HEADWAY_DEBUG=1 shows where)")
    return 2 if isinstance(error, UsageError) else 1


def _dispatch(arguments: list[str]) -> int:
    if not arguments:
        say(_help())
        return 2
    first, *rest = arguments
    if first in ("-V", "--version"):
        print(f"headway {__version__}")
        return 0
    group = first if first in GROUPS else ""
    if first in ("-h", "--help", "help") or (group and rest[:1] in (["-h"], ["--help"])):
        print(_help(group))
        return 0
    if group and not rest:
        say(_help(group))
        return 2
    both = " ".join([first, *rest[:1]])
    name, rest = (both, rest[1:]) if group or both in VERBS else (first, rest)
    if name not in VERBS:
        known = [v for v in VERBS if v.startswith(f"{first} ")] if first in GROUPS else [v.split()[0] for v in VERBS]
        hint = nearest(name, dict.fromkeys(known)) or "`headway --help` lists the verbs"
        raise UsageError(f"there is no verb {name!r}; {hint}")
    module, class_name, _ = VERBS[name]
    command = getattr(import_module(f".commands.{module}", __package__), class_name)
    plugins, rest = _take_plugins(rest)
    parsed = _parse(command, name, _gathered(command, _squares(rest)))
    load_plugins(plugins)
    try:
        return int(parsed.run())
    except HeadwayError as error:
        raise type(error)(_as_flags(str(error), flags(command))) from error


def _take_plugins(arguments: list[str]) -> tuple[list[str], list[str]]:
    """(modules of --plugin, the other arguments)."""
    plugins, rest, stream = [], [], iter(arguments)
    for argument in stream:
        if argument == "--plugin":
            plugins.append(next(stream, ""))
        elif argument.startswith("--plugin="):
            plugins.append(argument.removeprefix("--plugin="))
        else:
            rest.append(argument)
    if "" in plugins:
        raise UsageError("--plugin takes the name of a module or a .py file")
    return plugins, rest


def _squares(arguments: list[str]) -> list[str]:
    """`--input-size 320` and `--size 320` stand for both sides, `--tiles` alone for tiles of the model's size."""
    result = []
    for i, argument in enumerate(arguments):
        result.append(argument)
        alone = i + 1 >= len(arguments) or not arguments[i + 1].isdigit()
        if argument.isdigit() and alone and i and arguments[i - 1] in ("--input-size", "--size"):
            result.append(argument)
        if argument == "--tiles" and not _SIZE.fullmatch(" ".join(arguments[i + 1 : i + 2])):
            result.append("model")
    return result


def _gathered(command: type[Any], arguments: list[str]) -> list[str]:
    """An option of several values that is given again adds to them: `--set a=1 --set b=2` is `--set a=1 b=2`.

    Raises: UsageError for one without any value."""
    front: list[str] = []
    chunks = [front]  # an option and what follows it
    for argument in arguments:
        if argument.startswith("--"):
            chunks.append([])
        chunks[-1].append(argument)
    several, values, kept = set(flags(command, several=True)), dict[str, list[str]](), [front]
    for chunk in chunks[1:]:
        name, equals, value = _option(chunk[0])
        if name not in several:
            kept.append(chunk)
            continue
        if name not in values:
            kept.append(values.setdefault(name, [name]))
        values[name] += [value] if equals else chunk[1:]
        front += chunk[1:] if equals else []
    for name, given in values.items():
        if given == [name] and not {"-h", "--help"}.intersection(arguments):
            raise UsageError(f"{name} takes one value or more, and none came; leave it out or give it one")
    return [argument for chunk in kept for argument in chunk]


def _option(argument: str) -> tuple[str, str, str]:
    """`--a_b=c` as ("--a-b", "=", "c"); the last two are empty where there is no "="."""
    name, equals, value = argument.partition("=")
    return name.replace("_", "-"), equals, value


def _as_flags(message: str, known: Sequence[str]) -> str:
    """A message of the library in the words of the command line: `split=val` -> `--split val`."""

    def flag(match: re.Match[str]) -> str:
        name = f"--{match[1].replace('_', '-')}"
        if name in known:
            return f"{name} {'' if match[2] == 'True' else match[2]}".rstrip()
        return f"--set {match[0]}" if match[1] == "backbone_weights" and "--set" in known else match[0]

    return re.sub(r"(?<![\w.-])([a-z][a-z_]+)=('[^']*'|(?:[\w./-]*\w)?)", flag, message)


def _help(group: str = "") -> str:
    verb, width = f"{group} VERB".strip(), max(map(len, VERBS)) + 2
    verbs = [f"  {name:{width}}{summary}" for name, (*_, summary) in VERBS.items() if name.startswith(group)]
    about = [] if group else ["Object detection in which the head is the thing you choose.", ""]
    return "\n".join([
        f"usage: headway {verb} [ARGUMENTS] [OPTIONS]", "", *about, *verbs, "",
        f"`headway {verb} --help` says more. Results go to stdout, the log to stderr. On every verb: --json, and",
        "--plugin MODULE to import a module or .py file of your own parts first (as often as you like).",
    ])  # fmt: skip


def _parse(command: type[Any], name: str, arguments: list[str]) -> Any:
    """Build the verb's dataclass. Raises: UsageError for options that are unknown, missing or of the wrong kind."""
    program = f"headway {name}"
    if hasattr(command, "help") and (text := command.help(arguments)) is not None:
        print(text)
        raise SystemExit(0)
    _check_flags(command, program, arguments)
    import tyro

    default = command.defaults(arguments) if hasattr(command, "defaults") else None
    options: dict[str, Any] = {} if default is None else {"default": default}
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            return tyro.cli(command, prog=program, args=arguments, config=(tyro.conf.FlagCreatePairsOff,), **options)
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        text = _text_of(box.getvalue())
        if extra := re.fullmatch(r"(?:Unrecognized options: )+(.+)", text):
            one = "--image" in flags(command) and ", " not in extra[1]
            hint = f"did you mean --image {extra[1]}?" if one else f"`{program} --help`"
            raise UsageError(f"{program} does not know what {extra[1]} is for; {hint}") from None
        raise UsageError(f"{text} (`{program} --help`)") from None


def _check_flags(command: type[Any], program: str, arguments: list[str]) -> None:
    known = {"-h", "--help", *flags(command)}
    for argument in arguments:
        flag, *_ = _option(argument)
        negative_number = flag[1:2].isdigit() or flag[1:2] == "."
        if argument.startswith("-") and flag != "-" and not negative_number and flag not in known:
            hint = _meant(flag, known) or nearest(flag, known) or f"`{program} --help` lists them"
            raise UsageError(f"{program} has no option {flag}; {hint}")


def _meant(flag: str, known: set[str]) -> str:
    """What an option of another tool is called here, or nothing."""
    meant = ALIASES.get(flag, ())
    if isinstance(meant, str):
        return meant
    return next((f"here it is {name}" for name in meant if name in known), "")


def flags(command: type[Any], *, several: bool = False) -> list[str]:
    """The options of a verb: its fields, and those of a record of settings among them.

    several: of these only those that take any number of values.
    """
    found: list[str] = []
    hints = get_type_hints(command)
    for name in (field.name for field in fields(command)):
        if is_dataclass(hints[name]):
            found += flags(hints[name], several=several)
        elif not several or "..." in str(hints[name]):
            found.append(f"--{name.replace('_', '-')}")
    return found


def _text_of(box: str) -> str:
    """The text of tyro's error box up to its first ruler, without the frame and without its account of unions. Where
    stdout is not UTF-8, rulers are of "-" and there is no frame."""
    title, *lines = [line.strip("│╭╮╰╯─ \t") for line in box.strip().splitlines()] or [""]
    content: list[str] = []
    for line in lines:
        if line.strip("-"):
            content.append(line)
        elif content:
            break
    text = (
        " ".join(f"{title}: {' '.join(content)}".split()).removeprefix("Value error: ").removeprefix("Error parsing ")
    )
    union = r"^(--\S+): no type matching (?:\{None\}\|)?\{?(.+?)\}? could be .* from \[(.*?)\].*$"
    return re.sub(union, lambda found: f"{found[1]} takes {found[2].translate(_NO_BRACES)}, got {found[3]}", text)


if __name__ == "__main__":
    sys.exit(main())
