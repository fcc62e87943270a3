"""Published checkpoints: one row per tag, with everything needed to rebuild, convert, normalise and cite it.

A file per family, each with its `ROWS`.
"""

from ...errors import HeadwayError, nearest
from ..published import WeightsRow
from . import deformable_detr, dense, detr, efficientdet, heatmap, two_stage, yolo

ROWS: tuple[WeightsRow, ...] = (
    *yolo.ROWS,
    *heatmap.ROWS,
    *two_stage.ROWS,
    *dense.ROWS,
    *detr.ROWS,
    *deformable_detr.ROWS,
    *efficientdet.ROWS,
)


def find_row(model: str, tag: str) -> WeightsRow:
    """Raises: HeadwayError for an unknown tag, naming those the model has."""
    tags = {row.tag: row for row in ROWS if row.model == model}
    if tag not in tags:
        known = f"it has {', '.join(sorted(tags))}" if tags else "it has none"
        other = nearest(f"{model}.{tag}", [row.name for row in ROWS])
        raise HeadwayError(f"{model} has no tag {tag!r}: {known}; {other}".rstrip("; "))
    return tags[tag]
