"""What can be written of which head: a table that tests/export makes from files that were written and compared."""

import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from ..errors import HeadwayError

SUPPORT = "export_support.json"  # in the assets


def support() -> dict[str, dict[str, str]]:
    """By head and target: "any size" or "fixed size", or the reason why not."""
    table: dict[str, dict[str, str]] = json.loads((files("headway") / "assets" / SUPPORT).read_text("utf-8"))
    return table


def said(report: Mapping[str, Any]) -> str:
    """What the report of an export shows, as the table says it."""
    return "any size" if report["size"] is None else "fixed size"


def rows_of(model: str = "") -> dict[str, dict[str, str]]:
    """The whole table, or the row of one model: a checkpoint, tag, name or path of parts. Raises: HeadwayError."""
    table = support()
    if not model:
        return table
    from ..checkpoint import read_card
    from ..factory import plan_of, split_path
    from ..resolve import resolve_model

    found = resolve_model(model)
    parts = split_path(plan_of(found.name if found.path is None else read_card(found.path).model).path)
    head = parts[-1][1].name
    if head not in table:
        raise HeadwayError(f"{head} is no head of headway's: export {model}, and the file is compared with the model")
    return {head: table[head]}
