"""What a published checkpoint is: how to rebuild, fetch, verify, convert and cite it. The table is `weights/`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..download import fetch
from ..errors import HeadwayError

if TYPE_CHECKING:
    from ..detector import Detector


@dataclass(frozen=True, slots=True)
class WeightsRow:
    """One published checkpoint.

    arguments: of the builder; source: the converter; card: fields of the model card that differ from the builder's,
    class names only where the model has as many classes; pretrained_arguments: of the builder too, but only where the
    published file is loaded and not some other weights of the same network; url: where it lies ("" where no plain
    address serves it); sha256, md5: of the file, or as many leading digits as its publisher gives; metrics: published,
    COCO val2017.
    """

    model: str
    tag: str
    source: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    card: Mapping[str, Any] = field(default_factory=dict)
    url: str = ""
    sha256: str = ""
    licence: str = "Apache-2.0"
    metrics: Mapping[str, float] = field(default_factory=dict)
    pretrained_arguments: Mapping[str, Any] = field(default_factory=dict)
    md5: str = ""

    @property
    def name(self) -> str:
        return f"{self.model}.{self.tag}"

    def apply(self, model: Detector) -> None:
        """Give the model this row's card."""
        about = {"source": self.url or self.name, "licence": self.licence, "metrics": dict(self.metrics)}
        card = dict(self.card)
        if len(card.get("class_names", ())) != model.card.num_classes:
            card = {k: v for k, v in card.items() if k not in ("class_names", "category_ids")}
        model.set_card(replace(model.card, **card, **about))

    def load(self, model: Detector, path: Path | None) -> None:
        """Convert and load the checkpoint at `path`, or from the cache or the url when None."""
        from ..convert import from_upstream, read_upstream

        state = read_upstream(path or self.download())
        model.load_state_dict(from_upstream(state, self.source, model))

    def download(self) -> Path:
        """The cached file, fetched when it is not there. Raises: HeadwayError when there is none to be had."""
        if not self.url:
            raise HeadwayError(
                f"no address serves {self.name} (see docs/checkpoints.md); give a local file: pretrained=FILE"
            )
        return fetch(self.url, self.sha256, self.md5)
