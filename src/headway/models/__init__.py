"""Published models: name -> (path of parts, arguments). Tables only; `headway.factory` reads them.

A new published model is a row here, a new published weight a row in `weights`.
"""

from collections.abc import Mapping
from typing import Any

from . import dense, heatmap, transformers, two_stage, yolo

Row = tuple[str, Mapping[str, Any]]

MODELS: dict[str, Row] = {**dense.MODELS, **two_stage.MODELS, **heatmap.MODELS, **yolo.MODELS, **transformers.MODELS}
