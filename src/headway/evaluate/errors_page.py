"""Errors by kind as a page, and as a tab of the report: tables of one run or several, and the worst crops."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from . import page
from .kinds import KINDS, REPAIRS, Breakdown, Tide
from .page import Html, escape, number, section

SCRIPT = Path(__file__).with_name("gallery.js")
CSS = """
.tools { display: flex; flex-wrap: wrap; gap: 8px 14px; align-items: center; margin-bottom: 12px; }
.tools .grow { flex: 1; } .turn { display: inline-flex; gap: 8px; align-items: center; }
button, select { font: inherit; color: inherit; background: var(--card); border: 1px solid var(--line);
  border-radius: 7px; padding: 4px 10px; min-height: 34px; cursor: pointer; }
button:hover:enabled, select:hover { border-color: var(--accent); } button:disabled { opacity: .5; cursor: default; }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
#grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(170px, 1fr)); gap: 12px; min-height: 120px; }
#grid button { display: flex; flex-direction: column; align-items: start; padding: 8px; text-align: left; min-width: 0;
  overflow-wrap: anywhere; font-size: 13px; }
#grid img { width: 100%; height: 160px; object-fit: contain; background: var(--page); border-radius: 5px; }
.gone { color: var(--soft); }
dialog { border: 1px solid var(--line); border-radius: 12px; background: var(--card); color: inherit; padding: 16px;
  width: min(94vw, 720px); overflow-wrap: anywhere; }
dialog::backdrop { background: #000a; }
#large img { display: block; width: 100%; max-height: 68vh; object-fit: contain; background: var(--page); }
details { margin-top: 14px; } summary { cursor: pointer; font-weight: 600; margin-bottom: 8px; }
"""


def render(title: str, facts: Sequence[str], runs: Mapping[str, Tide], crops: Sequence[dict[str, Any]]) -> str:
    """The page. facts: of the line under the title. crops: of `worst_crops`, of all runs."""
    head = Html(f'<h1>{escape(title)}</h1><p class="soft">{escape(" · ".join(facts))}</p>')
    return page.document(title, head, *sections(runs, crops), css=CSS, script=script())


def script() -> str:
    return SCRIPT.read_text(encoding="utf-8")


def sections(runs: Mapping[str, Tide], crops: Sequence[dict[str, Any]]) -> list[Html]:
    """The tables and the crops, for a page that has `CSS` and `script`."""
    first = next(iter(runs.values()))
    note = (
        f"What AP at IoU {first.iou:g} would gain if all errors of a kind were repaired, and how many there are. The "
        "gains do not add up: behind one error there may be another. False positives and false negatives: all of them "
        f"repaired at once. Background: IoU of at most {first.background:g} with any box."
    )
    return [section("Errors by kind", note, overview(runs), *_parts(runs)), _gallery(crops)]


def overview(runs: Mapping[str, Tide]) -> Html:
    """Kind by run: gain and count; above it the AP itself."""
    before = {name: f"{name}: " if len(runs) > 1 else "" for name in runs}
    header = ["", *(cell for name in runs for cell in (f"{before[name]}gain", "errors"))]
    most = max((gain for found in runs.values() for gain in found.all.gains.values() if gain == gain), default=0.0)
    rows: list[list[object]] = [["AP", *(cell for found in runs.values() for cell in (number_of(found.all.ap), ""))]]
    for repair in REPAIRS:
        cells: list[object] = []
        for found in runs.values():
            gain = found.all.gains[repair]
            cells += [gain if gain == gain else None, found.all.counts.get(repair, "")]
        rows.append([repair, *cells])
    return page.table(header, rows, bars=range(1, 2 * len(runs), 2), full=most)


def number_of(value: float) -> str:
    return number(value if value == value else None)


def _parts(runs: Mapping[str, Tide]) -> list[Html]:
    """By size and by class, a table per run."""
    parts = []
    for what, wanted in (("size", "sizes"), ("class", "classes")):
        tables = []
        for name, found in runs.items():
            heading = f"<p><b>{escape(name)}</b></p>" if len(runs) > 1 else ""
            tables.append(heading + _by(what, getattr(found, wanted)))
        parts.append(Html(f"<details><summary>By {what}</summary>{''.join(tables)}</details>"))
    return parts


def _by(what: str, rows: Sequence[Breakdown]) -> Html:
    header = [what, "boxes", "AP", *KINDS]
    lines = [[row.name, row.boxes, number_of(row.ap), *(_cell(row, kind) for kind in KINDS)] for row in rows]
    return page.table(header, lines)


def _cell(row: Breakdown, kind: str) -> str:
    """Gain and count."""
    return f"{number_of(row.gains[kind])} ({row.counts[kind]})"


def _gallery(crops: Sequence[dict[str, Any]]) -> Html:
    note = (
        "The highest scored false detections and the largest missed boxes, the costliest kind first. In colour "
        "what was found, dashed in white the box it is about. A click opens one; the arrow keys turn the pages."
    )
    selects = "".join(
        f'<label>{name} <select id="by-{name}"></select></label>' for name in ("run", "kind", "class", "size")
    )
    tools = (
        f'<div class="tools">{selects}<label>order <select id="sort"><option value="high">worst first</option>'
        '<option value="low">worst last</option></select></label><span class="grow"></span><span class="turn">'
        '<button id="before">Previous</button><span id="where" role="status"></span>'
        '<button id="after">Next</button></span></div>'
    )
    opened = (
        '<dialog id="opened" aria-labelledby="title"><div id="large"></div><h2 id="title"></h2>'
        '<p id="about" class="soft"></p><div class="tools"><button id="previous">Previous</button>'
        '<button id="next">Next</button><span class="grow"></span><button id="close">Close</button></div></dialog>'
    )
    content = json.dumps(list(crops), ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    data = f'<script type="application/json" id="errors">{content}</script>'
    return section("Worst errors", note, Html(f'{tools}<div id="grid"></div>{opened}{data}'))
