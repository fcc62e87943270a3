"""What looks at pictures: an exported file (here, without torch) or a checkpoint (`checkpoint_engine`).

Each answers as its own `predict` does, to the bit: the same reading, the same scaling, the same network unfused.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from ..data.image import read_pixels
from ..resolve import is_exported, resolve_model

if TYPE_CHECKING:
    from ..findings import Findings
    from ..runtime import Runtime


class Asked(NamedTuple):
    """The options of a detection, as of `predict`. classes: names; None: all."""

    threshold: float | None = None
    max_detections: int | None = None
    classes: tuple[str, ...] | None = None


class Item(NamedTuple):
    """One picture on its way through the network. prepared: what the engine reads; size: (height, width) of the
    picture itself."""

    prepared: Any
    size: tuple[int, int]
    asked: Asked


class Engine(Protocol):
    """name: the file's or model's own; kind: "checkpoint" or "exported"; card: the model card as plain values.

    default_threshold: what a request without one means. views: name -> (picture, pixel) -> numbers for JSON.
    """

    name: str
    kind: str
    card: dict[str, Any]
    default_threshold: float
    views: dict[str, Callable[[Any, Any], dict[str, Any]]]

    def decode(self, data: bytes, where: str, max_pixels: int) -> Any:
        """Pixels. Raises: DataError, before decoding for a picture of too many pixels."""
        ...

    def prepare(self, pixels: Any, asked: Asked) -> Item:
        """The picture in the size of the network's input."""
        ...

    def key(self, item: Item) -> Hashable:
        """Items of one key may go together."""
        ...

    def run(self, items: Sequence[Item]) -> list[Findings]:
        """Detections in the pixels of each picture."""
        ...


class FileEngine:
    """An exported file. looks: tiles and overlap, as of `Runtime.predict`."""

    kind = "exported"

    def __init__(self, runtime: Runtime, **looks: Any) -> None:
        self.looks = {key: value for key, value in looks.items() if value is not None}
        self.runtime, self.name, self.card = runtime, runtime.path.name, dict(runtime.card)
        self.default_threshold = float(self.card.get("score_threshold", 0.0))
        self.views: dict[str, Callable[[Any, Any], dict[str, Any]]] = {}

    def decode(self, data: bytes, where: str, max_pixels: int) -> Any:
        return read_pixels(where, data=data, max_pixels=max_pixels, white=self.runtime.white)

    def prepare(self, pixels: Any, asked: Asked) -> Item:
        several = self._several(pixels.shape[:2])
        return Item(pixels if several else self.runtime.prepare(pixels), pixels.shape[:2], asked)

    def _several(self, size: tuple[int, int]) -> bool:
        """Whether a picture of `size` is looked at in tiles."""
        return "tiles" in self.looks and len(self.runtime.views_of(size, **self.looks)) > 1

    def key(self, item: Item) -> Hashable:
        if self._several(item.size):
            return id(item.prepared)
        canvas, _ = item.prepared
        return canvas.shape

    def run(self, items: Sequence[Item]) -> list[Findings]:
        if self._several(items[0].size):
            return [self.runtime(item.prepared, **item.asked._asdict(), **self.looks) for item in items]
        found = self.runtime.run([item.prepared for item in items])
        return [
            self.runtime.to_original(each, item.prepared[1], item.size, **item.asked._asdict())
            for each, item in zip(found, items)
        ]


def open_engine(
    name: str | Path, *, device: str = "auto", precision: str = "fp32", threads: int = 0, **looks: Any
) -> Engine:
    """A checkpoint, run folder, tag or exported file. torch is imported for the first three alone.

    looks: tiles, overlap and tta, as of `headway.predict`.

    Raises: HeadwayError as `headway.load`.
    """
    path = resolve_model(name).path
    if is_exported(path):
        from ..runtime import Runtime

        return FileEngine(Runtime(path, threads=threads, precision=precision), **looks)  # type: ignore[arg-type]
    from .checkpoint_engine import CheckpointEngine

    return CheckpointEngine.open(name, device, precision, threads, **looks)


def same(first: Findings, second: Findings) -> bool | None:
    """Whether both hold the same to the bit; None where both are empty."""
    if not len(first) and not len(second):
        return None
    return all(
        getattr(first, name).tolist() == getattr(second, name).tolist() for name in ("boxes", "scores", "labels")
    )
