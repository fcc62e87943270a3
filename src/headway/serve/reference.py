"""The OpenAPI document as a page that a browser shows without a script and without another host."""

import json
from html import escape
from typing import Any

_STYLE = """
:root { color-scheme: light dark; --line: light-dark(#d5d9e0, #3a404b); --soft: light-dark(#f3f5f8, #20242b); }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h2 { margin: 2.5rem 0 .25rem; font-size: 1.2rem; border-top: 1px solid var(--line); padding-top: 1rem; }
code, pre { font: .9em/1.45 ui-monospace, monospace; background: var(--soft); border-radius: 4px; }
code { padding: .1em .3em; } pre { padding: .75rem; overflow-x: auto; }
table { border-collapse: collapse; width: 100%; margin: .5rem 0 1rem; }
td, th { text-align: left; vertical-align: top; padding: .3rem .75rem .3rem 0; border-bottom: 1px solid var(--line); }
"""
_EXAMPLE = """curl --data-binary @photo.jpg 'http://127.0.0.1:8000/v1/detect?threshold=0.3'
curl -F images=@a.jpg -F images=@b.jpg http://127.0.0.1:8000/v1/detect
curl --data-binary @photo.jpg 'http://127.0.0.1:8000/v1/detect?format=jpeg' -o boxes.jpg
curl -H "Authorization: Bearer $(cat token)" http://127.0.0.1:8000/v1/model"""


def reference_page(document: dict[str, Any]) -> str:
    """HTML of an OpenAPI document: every operation with its options, its answers and an example of each."""
    title = escape(f"{document['info']['title']} {document['info']['version']}")
    parts = [
        f"<h1>{title}</h1><p>{escape(document['info'].get('summary', ''))}. Machines read "
        '<a href="openapi.json">openapi.json</a>; people may try <a href=".">the page</a>.</p>',
        f"<pre>{escape(_EXAMPLE)}</pre>",
    ]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            parts += _operation(method.upper(), path, operation, document)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>' + title + "</title>"
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<style>{_STYLE}</style></head><body>{''.join(parts)}</body></html>"
    )


def _operation(method: str, path: str, operation: dict[str, Any], document: dict[str, Any]) -> list[str]:
    parts = [f"<h2><code>{method} {escape(path)}</code> {escape(operation.get('summary', ''))}</h2>"]
    if "description" in operation:
        parts.append(f"<p>{escape(operation['description'])}</p>")
    rows = [(p["name"], _kind(p["schema"]), p.get("description", "")) for p in operation.get("parameters", [])]
    if "requestBody" in operation:
        rows.append(("body", ", ".join(operation["requestBody"]["content"]), "a picture, or a form with pictures"))
    if rows:
        parts.append(_table(("option", "kind", ""), rows))
    answers = [(status, answer.get("description", "")) for status, answer in operation["responses"].items()]
    parts.append(_table(("status", "answer"), answers))
    for name in _schemas(operation["responses"].get("200", {})):
        examples = document["components"]["schemas"].get(name, {}).get("examples", [])
        parts += [f"<pre>{escape(json.dumps(example, indent=1))}</pre>" for example in examples]
    return parts


def _schemas(value: Any) -> list[str]:
    """The names of the schemas to which a part of the document points."""
    if isinstance(value, dict):
        own = [value["$ref"].rpartition("/")[2]] if "$ref" in value else []
        return own + [name for part in value.values() for name in _schemas(part)]
    return [name for part in value for name in _schemas(part)] if isinstance(value, list) else []


def _kind(schema: dict[str, Any]) -> str:
    """As in: number from 0 to 1."""
    schema = next((s for s in schema.get("anyOf", []) if s.get("type") != "null"), schema)
    if "enum" in schema:
        return " or ".join(map(str, schema["enum"]))
    text = f"{schema['items'].get('type')}, as often as needed" if "items" in schema else schema.get("type", "")
    bounds = [f"{word} {schema[key]:g}" for key, word in (("minimum", "from"), ("maximum", "to")) if key in schema]
    return " ".join([text, *bounds])


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"
