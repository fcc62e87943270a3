"""`headway demo`: the first screen of the README."""

from dataclasses import dataclass
from pathlib import Path

from .common import show_json


@dataclass(frozen=True, slots=True, kw_only=True)
class Demo:
    """Train a small Dynamic Head detector on the data set that ships inside, evaluate it, and draw its predictions."""

    out: Path = Path("runs/demo")
    """Folder for the run, the report and the pictures."""
    json: bool = False
    """Print the result as JSON."""

    def run(self) -> int:
        from ..demo import main

        result = main(self.out)
        if self.json:
            show_json(result)
        return 0
