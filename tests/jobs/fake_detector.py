"""A detector that does what a picture's text says, and writes down what it was asked. Worker processes import it."""

from __future__ import annotations

import errno
import os
import random
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from headway.jobs.plan import Settings


class Fake:
    """settings.model: a folder of notes; calls.txt in it gets a line for each picture that was read,
    busy.txt the supervisor that had the last one read.

    A picture's text is words: `sleep 0.05`, `raise`, `hang`, `kill`, `abort`, `exit`, each at its reading, or with
    `late` in front when it is detected; `full` where the disk is full on machines with the environment FULL_DISK.
    `once` does it the first time only. When it is drawn, `undrawable` raises and `deadly` kills.
    Of `rowless` there can be no row.
    `thrice` does it the first three times. A file `dice` in the notes, as "7 0.125", is a
    seed and the share of readings and detections at which the process is killed; kills.txt counts them.
    """

    window, cap = 4, 100

    def __init__(self, settings: Settings) -> None:
        self.notes = Path(settings.model)
        self.notes.mkdir(parents=True, exist_ok=True)
        self.threshold = settings.threshold
        if (self.notes / "cannot-start").exists():
            os._exit(7)

    def read(self, source: bytes | str, where: str) -> list[str]:
        with (self.notes / "calls.txt").open("a") as calls:
            calls.write(f"{Path(where).name}\n")
        (self.notes / "busy.txt").write_text(str(os.getppid()))
        self._roll()
        words = (source if isinstance(source, bytes) else Path(source).read_bytes()).decode().split()
        if "late" not in words:
            self._act(words, Path(where).name)
        return [Path(where).name, *words]

    def detect(self, pictures: Sequence[list[str]]) -> list[int]:
        self._roll()
        for name, *words in pictures:
            if "late" in words:
                self._act(words, name)
            if "sleep" in words:
                time.sleep(float(words[words.index("sleep") + 1]))
        return [sum(name.encode()) for name, *_ in pictures]

    def _act(self, words: list[str], name: str) -> None:
        done = self.notes / f"done-{name}"
        times = len(done.read_text()) if done.exists() else 0
        if times >= (1 if "once" in words else 3 if "thrice" in words else 1000):
            return
        done.write_text("x" * (times + 1))
        if "raise" in words:
            raise RuntimeError(f"cannot see {name}")
        if "full" in words and os.environ.get("FULL_DISK"):
            raise OSError(errno.ENOSPC, "No space left on device")
        if "damaged" in words:
            raise OSError(errno.EIO, "Input/output error")
        if "hang" in words:
            time.sleep(600)
        if "kill" in words:
            os.kill(os.getpid(), signal.SIGKILL)
        if "abort" in words:
            os.abort()
        if "exit" in words:
            os._exit(3)

    def draw(self, picture: list[str], found: int) -> bytes:
        name, *words = picture
        if "undrawable" in words:
            raise RuntimeError(f"no canvas for {name}")
        if "deadly" in words:
            os.kill(os.getpid(), signal.SIGKILL)
        return f"drawn {name}".encode()

    def _roll(self) -> None:
        dice, kills = self.notes / "dice", self.notes / "kills.txt"
        if not dice.exists():
            return
        seed, share = dice.read_text().split()
        with (self.notes / "rolls.txt").open("a") as rolls:
            rolls.write("x")
            number = rolls.tell()
        if random.Random(f"{seed} {number}").random() < float(share):
            with kills.open("a") as marks:
                marks.write("x")
            os.kill(os.getpid(), signal.SIGKILL)

    def row(self, picture: list[str], found: int, image_id: int | str, file_name: str) -> dict[str, Any]:
        if "rowless" in picture:
            raise RuntimeError(f"no row for {picture[0]}")
        detection = {"category_id": 1, "bbox": [found, 1, 2, 3], "score": 0.5, "category_name": "thing"}
        size = {"width": 10, "height": 10, "best": 0.5}
        return {"file_name": file_name, "image_id": image_id, **size, "detections": [detection]}
