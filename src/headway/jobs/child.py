"""A worker process: `python -m headway.jobs.child`. It reads tasks from stdin and writes messages to its old stdout, a
JSON object a line; what libraries print goes to stderr.

First it gets settings, device, worker (number), plugins, root, count, white, drawn (a folder); and says
{"ready": cap, "window": pictures that are detected together}, or {"refused": why}. Then it gets tasks:

    {"pictures": [[number, location, id, name of the drawn picture], ...], "windows": [[first, last], ...],
     "alone": [number, ...], "bad": {number: reason}, "singly": [first, ...]}

and says, of each task,

    {"now": [number, ...]}      before it looks at pictures, which may kill it; with "alone" at one that is suspected
    {"rows": [[number, text], ...], "first": number}        after a window
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

from ..errors import DataError, HeadwayError
from .drawn import write_drawn
from .plan import Settings
from .sources import read_bytes

# Errors of the machine: another one, or the same one later, can do what this one cannot.
_OF_NODE = {
    errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EROFS, errno.EIO, errno.ESTALE,
    errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENODEV,
}  # fmt: skip


class NodeError(Exception):
    """The machine cannot go on, whatever the picture."""


class Worker:
    """One detector over the windows of tasks. say: writes a message. drawn: the folder for drawn pictures."""

    def __init__(self, detector: Any, root: str, say: Any, drawn: str | None = None) -> None:
        self.detector, self.root, self.say, self.drawn = detector, root, say, drawn
        self.pictures: dict[int, tuple[str, Any, str]] = {}

    def run(self, task: dict[str, Any]) -> None:
        self.pictures = {number: (location, image_id, name) for number, location, image_id, name in task["pictures"]}
        bad = {int(number): reason for number, reason in task["bad"].items()}
        for first, last in task["windows"]:
            numbers = range(first, last)
            alone = [n for n in numbers if n in task["alone"] and n not in bad]
            rows = self._window(numbers, alone, dict(bad), singly=first in task["singly"])
            self.say({"rows": rows, "first": first})
        self.say({"end": True})

    def _window(self, numbers: range, alone: list[int], failed: dict[int, str], singly: bool) -> list[Any]:
        """Text of each picture's row. What pictures give together does not depend on what was tried before.

        alone: pictures under suspicion, tried by themselves first, so that the guilty one is known.
        """
        found: dict[int, Any] = {}
        read: dict[int, Any] = {}
        for number in alone:
            self._try(number, failed, found if singly else {})
        for number in numbers:
            if number not in failed:
                self.say({"now": [number]})
                self._read(number, failed, read)
        together = [number for number in read if not singly]
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
                    self._try(number, failed, found)
                together = [n for n in together if n not in failed] if any(n in failed for n in together) else []
        for number in [n for n in read if n not in found and n not in failed]:
            self._try(number, failed, found)
        for number in [n for n in read if self.drawn and n in found and n not in failed]:
            self.say({"now": [number]})
            self._draw(number, read[number], found[number], failed)
        self.say({"now": []})
        return [[n, self._row(n, read.get(n), found.get(n), failed.get(n, ""))] for n in numbers]

    def _try(self, number: int, failed: dict[int, str], found: dict[int, Any]) -> None:
        """Read and detect one picture by itself, a second time where that fails for another reason than its file."""
        self.say({"now": [number], "alone": True})
        read: dict[int, Any] = {}
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
        location = self.pictures[number][0]
        for attempt in range(2):
            try:
                read[number] = self.detector.read(read_bytes(location, self.root), location)
                return
            except Exception as error:
                _raise_of_node(error)
                if attempt or isinstance(error, DataError):
                    failed[number] = _reason(error)
                    return
                time.sleep(0.2)

    def _draw(self, number: int, picture: Any, found: Any, failed: dict[int, str]) -> None:
        """Write the picture with its boxes. A folder that cannot be written is the machine's fault."""
        assert self.drawn is not None
        try:
            content = self.detector.draw(picture, found)
        except Exception as error:
            _raise_of_node(error)
            failed[number] = f"it cannot be drawn: {_reason(error)}"
            return
        try:
            write_drawn(Path(self.drawn), {self.pictures[number][2]: content})
        except OSError as error:
            raise NodeError(f"{self.drawn} cannot be written: {error.strerror or error}") from None

    def _row(self, number: int, picture: Any, found: Any, error: str) -> str:
        location, image_id, name = self.pictures[number]
        if error:
            return json.dumps({"file_name": location, "image_id": image_id, "error": error})
        row = self.detector.row(picture, found, image_id, location)
        if self.drawn:
            row["picture"] = name
        return json.dumps({"capped": True, **row} if len(row["detections"]) >= self.detector.cap else row)


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())[:300]
    return text if isinstance(error, HeadwayError) else f"{type(error).__name__}: {text}".rstrip(": ")


def _raise_of_node(error: BaseException | None) -> None:
    """Raises: NodeError where the error, or one that it came from, is the machine's."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _OF_NODE:
            raise NodeError(f"{error.strerror or error}")
        error = error.__cause__ or error.__context__


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
    worker = Worker(detector, start["root"], say, start["drawn"])
    say({"ready": detector.cap, "window": detector.window})
    while True:
        try:
            worker.run(json.loads(lines.get()))
        except NodeError as error:
            say({"node": str(error)})


if __name__ == "__main__":
    main()
