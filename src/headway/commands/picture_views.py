"""The options `--tiles`, `--overlap` and `--tta` of the verbs that look at pictures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import arg

from ..data.windows import OVERLAP, check_tiles
from ..errors import HeadwayError
from .common import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureViews:
    """Several views of each picture: tiles for small objects in large pictures, and test-time augmentation."""

    tiles: Annotated[int | Literal["model"] | None, arg(metavar="[SIZE]")] = None
    """Look at pictures larger than a tile in tiles of this side, in pixels, and once as a whole. Without a number: of
    the model's input size."""
    overlap: float = OVERLAP
    """Of neighbouring tiles, in tiles: at least as much as the objects are large."""
    tta: Annotated[str | None, arg(metavar="flip,0.83,1.17")] = None
    """Look at each picture, or tile, mirrored and at further scales too, and merge what is found: here 6 views."""

    def settings(self, exported: Path | None = None) -> dict[str, Any]:
        """The arguments of `Predictor` and `Runtime.predict`. exported: the file that is to take them, if it is one.

        Raises: UsageError for what cannot be meant, and for an exported file with --tta.
        """
        from ..predict.tta import variants_of

        tiles = True if self.tiles == "model" else self.tiles
        try:
            check_tiles(tiles, self.overlap)
            several = len(variants_of(self.tta)) > 1
        except HeadwayError as error:
            raise UsageError(f"--{error}") from None
        if tiles is None and self.overlap != OVERLAP:
            raise UsageError("--overlap is of tiles: say --tiles too, or leave it out")
        if exported is None:
            return {"tiles": tiles, "overlap": self.overlap, "tta": self.tta}
        if several:
            raise UsageError(
                f"{exported} is an exported file, which has suppressed its boxes: --tta needs a checkpoint"
            )
        return {"tiles": tiles, "overlap": self.overlap}

    @property
    def asked(self) -> bool:
        return self.tiles is not None or self.tta is not None

    def __str__(self) -> str:
        """As in: tiles 640, flip,0.83."""
        size = "" if self.tiles is None else "tiles" if self.tiles == "model" else f"tiles {self.tiles}"
        return ", ".join(filter(None, (size, self.tta)))
