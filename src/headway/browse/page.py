"""The page: one HTML file with a script and the data, and beside it a folder of small pictures.

Every text of the data set reaches the page as JSON, and the script writes it as text, never as markup.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..evaluate import page
from ..evaluate.page import Html, escape

HERE = Path(__file__).parent
SCRIPTS = ("state.js", "filter.js", "draw.js", "grid.js", "look.js", "main.js")  # in this order, in one scope
SAID = {
    "lacking": "labels lack a box", "unfound": "no run finds the label", "class": "runs say another class",
    "place": "runs say another place",
}  # fmt: skip
KEYS = (
    ("arrows", "move"), ("Enter", "open"), ("m", "mark"), ("/", "search"), ("l", "labels"), ("s", "label mistakes"),
    ("d", "what the runs found"), ("n, p", "next and previous finding, close up"), ("+ - 0", "zoom"), ("t", "names"),
    ("Esc", "close"),
)  # fmt: skip


def render(content: dict[str, Any], facts: Sequence[str]) -> str:
    """content: of `page_data`, and title. facts: of the line under the title."""
    script = "".join((HERE / name).read_text(encoding="utf-8") for name in SCRIPTS)
    head = Html(
        f'<header><div><h1>{escape(content["title"])}</h1><p class="soft">{escape(" · ".join(facts))}</p></div>'
        f'<p id="about" class="soft"></p></header>'
    )
    return page.document(
        f"{content['title']}: pictures and labels", head, _tools(), _body(), _opened(), _help(), _data(content),
        css=(HERE / "browse.css").read_text(encoding="utf-8"), script=f'(() => {{\n"use strict";\n{script}}})();\n',
        images="'self' file: data:",
    )  # fmt: skip


def _tools() -> Html:
    return Html(
        '<div class="tools" role="toolbar" aria-label="Order and selection">'
        '<button id="filters" aria-expanded="false" aria-controls="side">Filters</button>'
        '<label class="search"><span class="hidden">Search names</span>'
        '<input id="search" type="search" placeholder="Search names" autocomplete="off" spellcheck="false"></label>'
        '<label>order <select id="sort"></select></label>'
        '<button id="turn" aria-pressed="false" title="Turn the order around">↑↓</button>'
        '<label class="sizes">size <input id="zoom" type="range" min="120" max="480" step="20"></label>'
        '<span id="layers" class="layers"></span>'
        '<span class="grow"></span><span id="count" role="status"></span>'
        '<button id="keys" title="Keys" aria-label="Keys">?</button></div>'
    )


def _body() -> Html:
    return Html(
        '<div class="body"><aside id="side" aria-label="Filters"></aside>'
        '<div id="view" tabindex="-1"><div id="space" role="list" aria-label="Pictures"></div>'
        '<p id="nothing" hidden></p></div></div>'
        '<footer id="marks"><span id="marked" role="status"></span><button id="mark-all">Mark all shown</button>'
        '<button id="copy">Copy names</button><button id="save">Save JSON</button>'
        '<button id="unmark">Unmark all</button><span id="said" role="status" class="soft"></span></footer>'
    )


def _opened() -> Html:
    return Html(
        '<dialog id="opened" aria-labelledby="name"><div class="stage"><svg id="stage" role="img"></svg>'
        '<p id="broken" hidden></p></div><div class="panel-side"><div class="turn">'
        '<button id="previous" aria-label="Previous picture">←</button>'
        '<button id="next" aria-label="Next picture">→</button><span id="where" class="soft"></span>'
        '<span class="grow"></span><button id="mark" aria-pressed="false">⚑ Mark</button>'
        '<button id="close" aria-label="Close">✕</button></div><h2 id="name"></h2><p id="facts" class="soft"></p>'
        '<div id="its-layers" class="layers"></div><div id="list"></div></div></dialog>'
    )


def _help() -> Html:
    rows = "".join(f"<tr><td><kbd>{escape(key)}</kbd></td><td>{escape(what)}</td></tr>" for key, what in KEYS)
    return Html(f'<dialog id="help"><h2>Keys</h2><table>{rows}</table><button id="help-close">Close</button></dialog>')


def _data(content: dict[str, Any]) -> Html:
    text = json.dumps({**content, "said": SAID}, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    return Html(f'<script type="application/json" id="data">{text}</script>')
