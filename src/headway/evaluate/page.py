"""The report as one HTML page: no fonts, no requests, no script but its own; light or dark as the reader's system is.

Every string of the report passes through `escape` on its way in. What is markup already is an `Html`.
"""

import base64
import hashlib
import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

CSS = """
:root { color-scheme: light dark; --ink: #1c2530; --soft: #5d6a78; --line: #dfe4ea; --page: #f5f7f9; --card: #fff;
  --accent: #0072b2; --wash: #0072b222; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e9ee; --soft: #98a5b3; --line: #313b46; --page: #12171d;
  --card: #1a2129; --accent: #56b4e9; --wash: #56b4e92e; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); line-height: 1.5;
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; font-size: 15px; }
main { max-width: 1120px; margin: 0 auto; padding: 32px 24px 56px; }
h1 { font-size: 26px; line-height: 1.25; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 18px; margin: 0 0 4px; }
p { margin: 0; } .soft { color: var(--soft); overflow-wrap: anywhere; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 20px 24px;
  margin-top: 20px; }
section > p.soft { margin-bottom: 14px; max-width: 86ch; font-size: 14px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(128px, 1fr)); gap: 12px; margin-top: 20px; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 12px 16px; }
.tile b { display: block; font-size: 27px; font-weight: 650; line-height: 1.2; font-variant-numeric: tabular-nums; }
.tile:first-child { border-color: var(--accent); } .tile:first-child b { color: var(--accent); }
.tile span { color: var(--soft); font-size: 13px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th { color: var(--soft); font-weight: 550; font-size: 13px; white-space: nowrap; }
th, td { padding: 6px 10px; text-align: right; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; padding-left: 0; min-width: 96px;
  overflow-wrap: anywhere; }
tr:last-child td { border-bottom: 0; }
td.bar { background: linear-gradient(90deg, var(--wash) var(--share), transparent var(--share)); }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(330px, 1fr)); gap: 20px; }
.pair section { min-width: 0; }
svg { display: block; width: 100%; height: auto; max-height: 620px; }
svg text { font-family: inherit !important; }
figure { margin: 18px 0 0; } figure + figure { border-top: 1px solid var(--line); padding-top: 18px; }
figure img { display: block; max-width: 100%; height: auto; border-radius: 6px; margin-top: 8px; }
figcaption b { overflow-wrap: anywhere; }
.head { display: grid; grid-template-columns: 1fr 1fr; color: var(--soft); font-size: 13px; }
.tabs { margin-top: 20px; } .tabs > input { position: absolute; opacity: 0; }
.tabs > label { display: inline-block; padding: 6px 14px; margin-right: 6px; border: 1px solid var(--line);
  cursor: pointer; border-radius: 7px; background: var(--card); }
.tabs > input:checked + label { border-color: var(--accent); color: var(--accent); font-weight: 600; }
.tabs > input:focus-visible + label { outline: 3px solid var(--accent); outline-offset: 2px; }
.panel { display: none; }
#tab0:checked ~ .panel:nth-of-type(1), #tab1:checked ~ .panel:nth-of-type(2) { display: block; }
@media print { .panel { display: block; } .tools { display: none; } body { background: #fff; }
  section, .tile { break-inside: avoid; } }
"""
POLICY = "default-src 'none'; img-src {images}; style-src 'unsafe-inline'"


class Html(str):
    """Text that is markup already and is not escaped again."""

    __slots__ = ()


def escape(value: object) -> str:
    """Text for an element or a quoted attribute."""
    return value if isinstance(value, Html) else html.escape(str(value), quote=True)


def number(value: float | None, digits: int = 3) -> str:
    """Fixed digits; a dash for what is undefined."""
    return "–" if value is None else f"{value:.{digits}f}"


def table(header: Sequence[str], rows: Iterable[Sequence[object]], bars: Sequence[int] = (), full: float = 1.0) -> Html:
    """A table, its first column to the left. bars: columns of values in 0..full shown with a bar behind them."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    lines = []
    for row in rows:
        cells = []
        for i, cell in enumerate(row):
            text = number(cell) if cell is None or isinstance(cell, float) else escape(cell)
            with_bar = i in bars and isinstance(cell, float)
            share = f' class="bar" style="--share: {cell / (full or 1):.1%}"' if with_bar else ""
            cells.append(f"<td{share}>{text}</td>")
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return Html(f'<div class="scroll"><table><tr>{head}</tr>{"".join(lines)}</table></div>')


def section(title: str, note: str, *content: Html) -> Html:
    """A card with a heading, a line that explains it, and its content."""
    return Html(f'<section><h2>{escape(title)}</h2><p class="soft">{escape(note)}</p>{"".join(content)}</section>')


def document(title: str, *content: Html, css: str = "", script: str = "", images: str = "data:") -> str:
    """A whole page. css: in addition to `CSS`. script: the only one that the page lets run, named by its hash. images:
    where its pictures may come from."""
    policy, code = POLICY.format(images=images), ""
    if script:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        policy, code = f"{policy}; script-src 'sha256-{digest}'", f"<script>{script}</script>"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{CSS}{css}</style></head>"
        f"<body><main>{''.join(content)}</main>{code}</body></html>\n"
    )


def tabs(panels: Mapping[str, Sequence[Html]]) -> Html:
    """Several panels of which one is shown, by title; without a script. On paper all are."""
    buttons, parts = [], []
    for i, (title, content) in enumerate(panels.items()):
        checked = " checked" if i == 0 else ""
        buttons.append(
            f'<input type="radio" name="tab" id="tab{i}"{checked}><label for="tab{i}">{escape(title)}</label>'
        )
        parts.append(f'<div class="panel">{"".join(content)}</div>')
    return Html(f'<div class="tabs">{"".join(buttons)}{"".join(parts)}</div>')


def render(
    report: dict[str, Any], precision_recall: str, confusion: str, pictures: Sequence[str], errors: Sequence[Html],
    css: str = "", script: str = "",
) -> str:  # fmt: skip
    """The page of a report (what report.json holds).

    precision_recall, confusion: SVG elements. pictures: a data URI for each of report["worst"], empty where there is
    none. errors, css, script: the tab of the errors by kind, and what it needs.
    """
    note = "Precision at 101 recalls, as COCO averages it; the further to the upper right, the better."
    figures = [
        _classes(report),
        section("Precision and recall", note, Html(precision_recall)),
        Html(f'<div class="pair">{_confusion(report, confusion)}{_sizes(report)}</div>'),
        _worst(report, pictures),
    ]
    content = (_header(report), _tiles(report), tabs({"Figures": figures, "Errors by kind": errors}))
    return document(report["title"], *content, css=css, script=script)


def _header(report: dict[str, Any]) -> Html:
    data, seconds = report["data"], report["seconds"]
    facts = [
        f"{data['images']:,} images, {data['boxes']:,} boxes, {len(report['classes'])} classes",
        f"{data['name']} ({data['format']}, {data['root']})",
        f"input {' x '.join(map(str, report['model']['input_size']))}",
    ]
    if seconds:
        facts.append(f"{data['images'] / seconds:.1f} images/s")
    facts.append(f"headway {report['headway']}, {report['created']}")
    return Html(f'<h1>{escape(report["title"])}</h1><p class="soft">{escape(" · ".join(facts))}</p>')


def _tiles(report: dict[str, Any]) -> Html:
    metrics, point = report["metrics"], report["operating_point"]
    shown = [
        ("AP", metrics["ap"]), ("AP50", metrics["ap50"]), ("AP75", metrics["ap75"]), ("AR100", metrics["ar_100"]),
        ("precision *", point["precision"]), ("recall *", point["recall"]), ("F1 *", point["f1"]),
    ]  # fmt: skip
    tiles = "".join(f'<div class="tile"><b>{number(v)}</b><span>{escape(name)}</span></div>' for name, v in shown)
    chosen = "given" if point["given"] else "the one with the best F1"
    note = f"* at IoU 0.5, of detections that score at least {number(point['threshold'])} ({chosen})."
    return Html(f'<div class="tiles">{tiles}</div><p class="soft" style="margin-top: 8px">{escape(note)}</p>')


def _classes(report: dict[str, Any]) -> Html:
    keys = ("boxes", "detections", "ap", "ap50", "ap75", "ar_100", "threshold", "precision", "recall", "f1")
    header = ("class", "boxes", "detections", "AP", "AP50", "AP75", "AR100", "threshold", "precision", "recall", "F1")
    rows = [[row["name"], *(row[key] for key in keys)] for row in report["classes"]]
    note = (
        "AP is the mean over IoU 0.50 to 0.95. The threshold is the score at which the class has its best F1 at IoU "
        "0.5; precision, recall and F1 are at that threshold. A dash: nothing to measure."
    )
    return section("Classes", note, table(header, rows, bars=(3, 4, 5)))


def _confusion(report: dict[str, Any], drawing: str) -> Html:
    names, matrix = report["confusion"]["names"], report["confusion"]["matrix"]
    last = len(names) - 1
    pairs = [(n, t, p) for t, row in enumerate(matrix[:last]) for p, n in enumerate(row[:last]) if t != p and n]
    note = (
        f"Boxes by row, detections by column, at IoU 0.5 and score {number(report['operating_point']['threshold'])}. "
        "Last column: missed; last row: detections of nothing. Shaded by the share of the row."
    )
    content = [Html(drawing)]
    if pairs and last > 8:  # where the figure alone is hard to read
        top = [(f"{names[t]} taken for {names[p]}", n) for n, t, p in sorted(pairs, key=lambda pair: -pair[0])[:10]]
        content.append(table(("most frequent confusions", "boxes"), top))
    return section("Confusions", note, *content)


def _sizes(report: dict[str, Any]) -> Html:
    rows = [[f"{row['size']} ({row['area']})", row["boxes"], row["ap"], row["ar"]] for row in report["sizes"]]
    note = "By annotated area in pixels of the original picture."
    return section("Sizes", note, table(("size", "boxes", "AP", "AR"), rows, bars=(2, 3)))


def _worst(report: dict[str, Any], pictures: Sequence[str]) -> Html:
    figures = []
    for row, picture in zip(report["worst"], pictures):
        facts = []
        if row["missed"]:
            facts.append("missed " + _list([f"{n} {name}" for name, n in row["missed"].items()]))
        if row["wrong"]:
            facts.append("wrong " + _list([f"{wrong['name']} {wrong['score']:.2f}" for wrong in row["wrong"]]))
        caption = f"<b>{escape(row['file'])}</b> · error {row['error']:.2f}"
        shown = f'<img alt="ground truth and detections in {escape(row["file"])}" src="{escape(picture)}">'
        shown = f'<div class="head"><span>ground truth</span><span>detections</span></div>{shown}'
        figures.append(
            f'<figure><figcaption>{caption}<br><span class="soft">{escape("; ".join(facts))}</span></figcaption>'
            f"{shown if picture else escape(row['problem'])}</figure>"
        )
    threshold = number(report["operating_point"]["threshold"])
    note = (
        f"Error = missed boxes + the scores of wrong detections, at IoU 0.5 and score {threshold}. Wrong is a "
        "detection that found no free box of its class. Both have a white frame."
    )
    if not figures:
        note = f"No image has a missed box or a wrong detection at score {threshold}."
    return section("Worst images", note, *map(Html, figures))


def _list(items: Sequence[str], limit: int = 10) -> str:
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return ", ".join(items[:limit]) + more
