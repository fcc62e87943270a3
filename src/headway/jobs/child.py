"""A worker process: `python -m headway.jobs.child`. It reads tasks from stdin and writes messages to its old stdout, a
JSON object a line; what libraries print goes to stderr.

First it gets settings, device, worker (number), plugins, root, common, count, white, patience, drawn (a folder); and
says {"ready": cap, "window": pictures that are detected together}, or {"refused": why}. Then it gets tasks:

    {"pictures": [[number, location, id, existed, name of the drawn picture], ...],
     "windows": [[[number, ...], singly], ...], "alone": [number, ...], "bad": {number: reason}}

and says, of each task,

    {"now": [number, ...]}      before it looks at pictures, which may kill it; with "alone" at one that is suspected
    {"passed": number}          after a suspect came through by itself
    {"rows": [[number, text], ...]}     after a window, or after a picture of a window that is done singly
    {"waiting": why}            while the place of the pictures is gone
    {"node": why}               where the machine is at fault and not a picture
    {"end": true}               after the last window
"""

from __future__ import annotations

import errno
import json
import os
import queue
import sys
import threading
import time
from pathlib import Path
from typing import Any

from ..data.download import is_url
from ..errors import DataError, HeadwayError, one_line
from .drawn import write_drawn
from .outage import OF_FILES, errno_of, gone
from .plan import Settings
from .sources import read_bytes

# Errors of the machine: another one, or the same one later, can do what this one cannot.
_OF_NODE = {errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EROFS} | OF_FILES
_PAUSE = 5.0  # seconds between two looks for a place that is gone, at most


class NodeError(Exception):
    """The machine cannot go on, whatever the picture."""


class Worker:
    """One detector over the windows of tasks. start: what the process got first. say: writes a message."""

    def __init__(self, detector: Any, start: dict[str, Any], say: Any) -> None:
        self.detector, self.say = detector, say
        self.root, self.common, self.patience = start["root"], start["common"], start["patience"]
        self.drawn = start["drawn"]
        self.pictures: dict[int, tuple[str, Any, bool, str]] = {}

    def run(self, task: dict[str, Any]) -> None:
        self.pictures = {number: (*picture,) for number, *picture in task["pictures"]}
        bad = {int(number): reason for number, reason in task["bad"].items()}
        for numbers, singly in task["windows"]:
            alone = [n for n in task["alone"] if n in numbers and n not in bad]
            if singly:
                self._singly([*alone, *(n for n in numbers if n not in alone)], bad)
            else:
                self._window(numbers, alone, dict(bad))
        self.say({"end": True})

    def _singly(self, numbers: list[int], bad: dict[int, str]) -> None:
        """Each picture by itself, its row at once, so that a process that is killed loses one picture."""
        for number in numbers:
            failed, found, read = dict(bad), {}, {}  # type: ignore[var-annotated]
            if number not in failed:
                self._try(number, failed, found, read)
            self._give([number], failed, found, read)

    def _window(self, numbers: list[int], alone: list[int], failed: dict[int, str]) -> None:
        """The rows of pictures that are detected together. They do not depend on what was tried before.

        alone: pictures under suspicion, tried by themselves first, so that the guilty one is known.
        """
        found: dict[int, Any] = {}
        read: dict[int, Any] = {}
        for number in alone:
            self._try(number, failed, {}, {})
            self.say({"passed": number})
        for number in numbers:
            if number not in failed:
                self.say({"now": [number]})
                self._read(number, failed, read)
        together = [*read]
        for _ in range(2):
            if not together:
                break
            self.say({"now": together})
            try:
                found |= zip(together, self.detector.detect([read[n] for n in together]))
                break
            except Exception as error:
                _raise_of_node(error)
                for number in together:  # one of them fails by itself, or none does
                    self._try(number, failed, found, {})
                together = [n for n in together if n not in failed] if any(n in failed for n in together) else []
        for number in [n for n in read if n not in found and n not in failed]:
            self._try(number, failed, found, {})
        for number in [n for n in read if self.drawn and n in found and n not in failed]:
            self.say({"now": [number]})
            self._draw(number, read[number], found[number], failed)
        self._give(numbers, failed, found, read)

    def _try(self, number: int, failed: dict[int, str], found: dict[int, Any], read: dict[int, Any]) -> None:
        """Read and detect one picture by itself, a second time where that fails for another reason than its file."""
        self.say({"now": [number], "alone": True})
        self._read(number, failed, read)
        for attempt in range(2):
            if number in failed:
                return
            try:
                found[number] = self.detector.detect([read[number]])[0]
                break
            except Exception as error:
                _raise_of_node(error)
                if attempt:
                    failed[number] = _reason(error)
        if self.drawn and number in found:
            self._draw(number, read[number], found[number], failed)

    def _read(self, number: int, failed: dict[int, str], read: dict[int, Any]) -> None:
        location, _, existed, _ = self.pictures[number]
        attempts = 0
        while True:
            try:
                read[number] = self.detector.read(read_bytes(location, self.root), location)
                return
            except Exception as error:
                if existed and self._waited(location, error):
                    continue
                _raise_of_node(error, of_file=not is_url(location))
                attempts += 1
                if attempts > 1 or isinstance(error, DataError):
                    failed[number] = _reason(error)
                    return
                time.sleep(0.2)

    def _waited(self, location: str, error: Exception) -> bool:
        """Wait while the place of a picture that cannot be read is gone; False where it is there.

        Raises: NodeError where it does not come back.
        """
        start, pause = time.monotonic(), 0.1
        while why := gone(location, self.root, self.common, error):
            if time.monotonic() - start > self.patience:
                raise NodeError(
                    f"{why}, where pictures were planned, for {self.patience:g} s; when they are back, the same "
                    "command goes on"
                )
            self.say({"waiting": why})
            time.sleep(pause)
            pause = min(_PAUSE, 2 * pause)
        return pause > 0.1

    def _draw(self, number: int, picture: Any, found: Any, failed: dict[int, str]) -> None:
        """Write the picture with its boxes. A folder that cannot be written is the machine's fault."""
        try:
            content = self.detector.draw(picture, found)
        except Exception as error:
            _raise_of_node(error)
            failed[number] = f"it cannot be drawn: {_reason(error)}"
            return
        try:
            write_drawn(Path(self.drawn), {self.pictures[number][3]: content})
        except OSError as error:
            raise NodeError(f"{self.drawn} cannot be written: {error.strerror or error}") from None

    def _give(self, numbers: list[int], failed: dict[int, str], found: dict[int, Any], read: dict[int, Any]) -> None:
        self.say({"now": []})
        self.say({"rows": [[n, self._row(n, read.get(n), found.get(n), failed.get(n, ""))] for n in numbers]})

    def _row(self, number: int, picture: Any, found: Any, why: str) -> str:
        """The row of a picture. why: it failed."""
        location, image_id, _, name = self.pictures[number]
        try:
            if not why:
                row = self.detector.row(picture, found, image_id, location)
                row |= {"picture": name} if self.drawn else {}
                return json.dumps({"capped": True, **row} if len(row["detections"]) >= self.detector.cap else row)
        except Exception as error:
            _raise_of_node(error)
            why = f"its detections cannot be written: {_reason(error)}"
        return json.dumps({"file_name": location, "image_id": image_id, "error": why})


def _reason(error: Exception) -> str:
    text, kind = one_line(error, 300), type(error).__name__
    return text if isinstance(error, HeadwayError) or text == kind else f"{kind}: {text}"


def _raise_of_node(error: BaseException, of_file: bool = False) -> None:
    """Raises: NodeError where the error, or one that it came from, is the machine's. of_file: it came from reading one
    file among others that can be read."""
    number = errno_of(error)
    if number in _OF_NODE and not (of_file and number in OF_FILES):
        assert number is not None
        raise NodeError(os.strerror(number))


def main() -> None:
    """Serve one supervisor until it closes stdin."""
    pipe = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def listen() -> None:
        for line in sys.stdin:
            lines.put(line)
        os._exit(0)  # the supervisor has gone

    def say(message: dict[str, Any]) -> None:
        pipe.write(json.dumps(message) + "\n")

    threading.Thread(target=listen, daemon=True).start()
    start = json.loads(lines.get())
    try:
        from ..plugins import load_plugins
        from .detectors import open_detector

        load_plugins(start["plugins"])
        settings = Settings(**start["settings"] | {"classes": tuple(start["settings"]["classes"])})
        detector = open_detector(settings, start)
    except Exception as error:
        say({"refused": _reason(error)})
        return
    worker = Worker(detector, start, say)
    say({"ready": detector.cap, "window": detector.window})
    while True:
        try:
            worker.run(json.loads(lines.get()))
        except NodeError as error:
            say({"node": str(error)})


if __name__ == "__main__":
    main()
