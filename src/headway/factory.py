"""From a name to a detector. A name is a path of parts (`resnet18/fpn/dyhead/atss`), a published model (a row of
`models`), or one with the tag of its published weights (`atss_r50_fpn.mmdet`). `compose` is the only builder.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple, get_args

from torch import nn

from .arguments import COMMON, IMPLICIT, Place, label_of, places, settle, wanted
from .detector import Detector
from .errors import CheckpointError, HeadwayError, LevelsError, check_number, nearest
from .meta import on_meta_device
from .models.classes import COCO_CATEGORY_IDS, COCO_CLASSES
from .registry import KINDS, Option, Part, find_part
from .types import Levels, ModelCard

log = logging.getLogger("headway")
_EXAMPLE = "resnet18/fpn/dyhead/atss"
# Arguments of published names from the time when one function built each, and where they are now.
_OLD_NAMES = {
    "backbone_weights": "backbone.weights",
    "backbone_form": "backbone.form",
    "norm": "backbone.norm",
    "fpn_norm": "fpn.norm",
    "extra_levels": "fpn.extra",
}


class Step(NamedTuple):
    """One part of a path with the arguments it is built with, and what it gives (None: a head)."""

    name: str
    part: Part
    arguments: dict[str, Any]
    module: nn.Module
    levels: Levels | None


def split_path(path: str) -> list[tuple[str, Part]]:
    """(name, part) for each part. Raises: HeadwayError for what is no path, or has an unknown part."""
    names = path.split("/")
    if len(names) < 2 or not all(names):
        raise HeadwayError(f"a path of parts is backbone/neck/.../head, as in {_EXAMPLE}; got {path!r}")
    kinds = [KINDS[0], *[KINDS[1]] * (len(names) - 2), KINDS[2]]
    return [(name, find_part(kind, name)) for kind, name in zip(kinds, names)]


# ----------------------------------------------------------------------------------------------------- building
def assemble(path: str, *layers: Mapping[str, Any], num_classes: int) -> list[Step]:
    """Build the parts of a path one behind the other. layers: arguments, later ones win.

    Raises: HeadwayError for arguments that do not fit, and for a part that cannot read what comes, with the remedy.
    """
    parts = split_path(path)
    settled = settle(parts, *layers)
    steps: list[Step] = []
    levels: Levels | None = None
    for number, (name, part) in enumerate(parts):
        own = {place.name: value for place, value in settled.items() if place.part == number}
        arguments = {**wanted(parts, number), **own}
        given: list[Any] = [name] if part.matches else []
        file = arguments.get("weights") if part.kind == "backbone" else None
        if file is True:
            from .backbones.packaged import imagenet_file

            file = imagenet_file(name) or True
        if isinstance(file, (str, Path)):
            arguments["weights"] = False
        extra = {"num_classes": num_classes} if part.kind == "head" else {}
        if part.kind != "backbone":
            given.append(levels)
        try:
            module = part.build(*given, **part.grouped(arguments), **extra)
        except LevelsError as error:
            raise HeadwayError(f"{path}: {part.name} {error}") from None
        except ValueError as error:
            raise HeadwayError(f"{path}: {error}") from None
        if isinstance(file, (str, Path)):
            from .convert.backbone import load_backbone

            load_backbone(module, Path(file))
        levels = getattr(module, "levels", None)
        if part.kind != "head" and not isinstance(levels, Levels):
            raise HeadwayError(f"{part.kind} {name!r} must give its module `levels`, a headway.Levels; got {levels!r}")
        steps.append(Step(name, part, arguments, module, levels if part.kind != "head" else None))
    return steps


def compose(path: str, arguments: Mapping[str, Any] | None = None, *, num_classes: int = 80) -> Detector:
    """A detector from a path of parts, `backbone/neck/.../head`.

    arguments: by name, `{"dyhead.blocks": 4}`; a bare name will do where exactly one part has it. `align`, `refine` and
    `implicit` put implicit values on the predictions (`headway.implicit.add_implicit`); `input_size` is the card's.
    Raises: HeadwayError as `assemble`.
    """
    model = _compose(path, arguments or {}, num_classes=num_classes)
    _make_implicit(model, path, arguments or {})
    model.card.arguments = dict(arguments or {}) | ({} if num_classes == 80 else {"num_classes": num_classes})
    return model


def _compose(path: str, *layers: Mapping[str, Any], num_classes: int) -> Detector:
    """`compose` without implicit values, which come after published weights are loaded."""
    check_number("num_classes", num_classes, 1, 65536, whole=True)
    steps = assemble(path, *layers, num_classes=num_classes)
    necks = [step.module for step in steps[1:-1]]
    backbone, head = steps[0].module, steps[-1].module
    card = default_card(num_classes, **getattr(head, "card", {}))
    size = settle(split_path(path), *layers).get(Place(-1, "input_size"))
    card = replace(card, model=path, **({} if size is None else {"input_size": size}))
    neck = nn.Identity() if not necks else necks[0] if len(necks) == 1 else nn.Sequential(*necks)
    model = Detector(backbone, neck, head, card)
    statistics = getattr(backbone, "pixel_statistics", None)
    if statistics:
        model.set_card(replace(card, **statistics))
    return model


def _make_implicit(model: Detector, path: str, *layers: Mapping[str, Any]) -> None:
    settled = settle(split_path(path), *layers)
    chosen = {name: settled.get(Place(-1, name), COMMON[name].default) for name in IMPLICIT}
    if chosen["align"] or chosen["refine"]:
        from .implicit import add_implicit

        add_implicit(model, **chosen)


def default_card(num_classes: int, **fields: Any) -> ModelCard:
    """COCO's names for 80 classes, else class0, class1, ... until `create_model(class_names=...)` knows better.

    The score threshold is low, since average precision wants the weak detections too; published checkpoints bring
    their own (`models/weights`).
    """
    fields.setdefault("score_threshold", 0.01)
    if num_classes == len(COCO_CLASSES):
        return ModelCard(class_names=COCO_CLASSES, category_ids=COCO_CATEGORY_IDS, **fields)
    return ModelCard(class_names=tuple(f"class{i}" for i in range(num_classes)), **fields)


# ------------------------------------------------------------------------------------------------------- names
def list_models(pattern: str = "") -> list[str]:
    """Names of the published models, sorted: all, those that match a glob (`*dyhead*`) or contain a text."""
    from .models import MODELS

    glob = pattern if any(c in pattern for c in "*?[") else f"*{pattern}*"
    return sorted(name for name in MODELS if fnmatchcase(name, glob))


class Plan(NamedTuple):
    """What a name stands for. base: without its tag; defaults: the row's; arguments: the tag's and the caller's."""

    base: str
    path: str
    defaults: Mapping[str, Any]
    arguments: dict[str, Any]
    row: Any = None


def plan_of(name: str, arguments: Mapping[str, Any] | None = None, *, pretrained: bool = False) -> Plan:
    """Look up a path, a published name or a tag. Raises: HeadwayError for an unknown one, with the nearest."""
    if not isinstance(name, str):
        raise HeadwayError(f"a model is named by a text, as in {_EXAMPLE}; got {name!r}")
    arguments = dict(arguments or {})
    if not isinstance(arguments.get("backbone", ""), str):
        raise HeadwayError(f"backbone must be the name of one, got {arguments['backbone']!r}")
    if "/" in name:
        backbone = arguments.pop("backbone", None)
        path = name if backbone is None else "/".join([backbone, *name.split("/")[1:]])
        return Plan(path, path, {}, arguments)
    from .models import MODELS
    from .models.weights import find_row

    base, _, tag = name.partition(".")
    if base not in MODELS:
        raise HeadwayError(
            f"unknown model {base!r}; {nearest(base, MODELS)} (`headway models` lists all; a path of parts is written "
            f"{_EXAMPLE})"
        )
    row = find_row(base, tag) if tag else None
    path, defaults = MODELS[base]
    tagged = {} if row is None else {**row.arguments, **(row.pretrained_arguments if pretrained else {})}
    if (backbone := arguments.get("backbone", tagged.get("backbone"))) is not None:
        path = "/".join([backbone, *path.split("/")[1:]])
    parts = split_path(path)
    said = {place for key in arguments if key not in _GIVEN for place in places(parts, _OLD_NAMES.get(key, key))}
    for key, value in tagged.items():
        if key in arguments or (key not in _GIVEN and said & set(places(parts, _OLD_NAMES.get(key, key)))):
            continue
        arguments[key] = value
    return Plan(base, path, defaults, arguments, row)


_GIVEN = ("backbone", "num_classes", "pretrained")  # not of a part


def without_weights(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments for a model whose weights are there: without those that fetch or read some."""
    return {k: v for k, v in arguments.items() if k.rpartition(".")[2] not in ("weights", "backbone_weights")}


def builder_arguments(name: str) -> dict[str, Option]:
    """Every argument that `create_model(name, ...)` takes, as `part.name`. Raises: HeadwayError for an unknown name."""
    found: dict[str, Option] = {}
    plan = plan_of(name)
    parts = split_path(plan.path)
    settled = settle(parts, renamed(plan.defaults))
    for number, (_, part) in enumerate(parts):
        asked = wanted(parts, number)
        label = label_of(number, part)
        for option in part.options.values():
            default = settled.get(Place(number, option.name), asked.get(option.name, option.default))
            found[f"{label}.{option.name}"] = replace(option, default=default)
    for option in COMMON.values():
        if not (option.name in IMPLICIT and option.name in parts[-1][1].options):
            found[option.name] = replace(option, default=settled.get(Place(-1, option.name), option.default))
    return found


def renamed(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {_OLD_NAMES.get(key, key): value for key, value in arguments.items() if key not in _GIVEN}


def create_model(
    name: str,
    *,
    pretrained: bool | str | os.PathLike[str] = False,
    num_classes: int | None = None,
    class_names: Sequence[str] | None = None,
    **arguments: Any,
) -> Detector:
    """Build a detector by name.

    name: a path of parts (`resnet18/fpn/dyhead/atss`), a published model (`list_models()`), or one with a tag
        (`retinanet_r50_fpn.mmdet`).
    pretrained: with a tag, True loads its published checkpoint from the cache or its url, a path converts a local
        file. Without a tag only False is possible; `**{"backbone.weights": True}` gives ImageNet weights.
    num_classes, class_names: either gives the other; default is the published number (COCO's 80). With other classes
        than the published weights know, only the class predictors start anew.
    arguments: of the parts, `blocks=2` or `**{"dyhead.blocks": 2}`; `backbone="resnet18"` replaces the backbone;
        `align`, `refine` and `implicit` put implicit values on the predictions, behind published weights.
    Raises: HeadwayError for an unknown name, tag, argument or argument type, naming the nearest known ones.
    """
    plan = plan_of(name, arguments, pretrained=bool(pretrained))
    if pretrained and plan.row is None:
        raise HeadwayError(
            f"{plan.base} has no published checkpoint of its own: name a tag, as in atss_r50_fpn.mmdet. A file of "
            "headway's is opened by headway.load"
        )
    if class_names is not None:
        if isinstance(class_names, str):
            raise HeadwayError(f"class_names must be a list of names, got the text {class_names!r}")
        if not all(isinstance(name, str) for name in class_names) or len(set(class_names)) < len(class_names):
            raise HeadwayError(f"class_names must be different texts, got {list(class_names)!r}")
        if num_classes not in (None, len(class_names)):
            raise HeadwayError(f"num_classes={num_classes}, but {len(class_names)} class names were given")
        num_classes = len(class_names)
    published = plan.arguments.pop("num_classes", 80)
    build = published if pretrained or num_classes is None else num_classes
    given = renamed(plan.arguments)
    model = _compose(plan.path, renamed(plan.defaults), given, num_classes=build)
    model.card.model = plan.base
    model.card.arguments = without_weights(plan.arguments)
    if num_classes is not None or published != 80:
        model.card.arguments["num_classes"] = build
    if plan.row is not None:
        plan.row.apply(model)
    if pretrained:
        model = _with_published(model, plan, pretrained, num_classes, class_names)
    elif class_names is not None:
        model.card.class_names, model.card.category_ids = tuple(class_names), ()
    _make_implicit(model, plan.path, renamed(plan.defaults), given)
    return model


def _with_published(
    model: Detector, plan: Plan, pretrained: Any, num_classes: int | None, class_names: Sequence[str] | None
) -> Detector:
    """The model with the weights of its row, and then with other classes."""
    path = None if pretrained is True else Path(pretrained)
    own_options = split_path(plan.path)[-1][1].options  # implicit values come behind the weights, but the head's own
    later = {k: v for k, v in plan.arguments.items() if k in IMPLICIT and k not in own_options}
    try:
        plan.row.load(model, path)
    except CheckpointError as error:
        if num_classes is None and path is not None:  # as many as the file has
            from .convert import classes_in

            class_names = classes_in(path, error, lambda count: shapes_of(model.card, count)) or None
        if path is None or (class_names is None and num_classes in (None, model.card.num_classes)):
            raise
        own = create_model(f"{plan.base}.{plan.row.tag}", class_names=class_names, num_classes=num_classes,
                           **{k: v for k, v in plan.arguments.items() if k not in later})  # fmt: skip
        plan.row.load(own, path)  # a file of the same network for as many classes as were asked for
        return own
    model.card.training = {"published": plan.row.name}
    wanted = model.card.class_names if class_names is None else tuple(class_names)
    if class_names is None and num_classes not in (None, model.card.num_classes):
        wanted = tuple(f"class{i}" for i in range(num_classes or 0))
    if wanted == model.card.class_names:
        return model
    model.card.arguments = {k: v for k, v in model.card.arguments.items() if k not in later}
    fresh, rebuilt = with_classes(model, wanted)
    fresh.card.arguments |= later
    log.info(
        "%s knows %d other classes: %s start anew for the %d given, the rest keeps its weights",
        f"{plan.base}.{plan.row.tag}", model.card.num_classes, ", ".join(rebuilt), len(wanted),
    )  # fmt: skip
    return fresh


def with_classes(model: Detector, class_names: Sequence[str]) -> tuple[Detector, list[str]]:
    """A detector like `model` for other classes, with its weights wherever they do not depend on the classes.

    Returns it and the names of the parameters that start anew. Which ones depend on the classes is seen by building the
    network twice without memory, for n and for n + 1 classes. Raises: HeadwayError for a detector without a name.
    """
    card = model.card
    if not card.model:
        raise HeadwayError("a Detector put together by hand cannot be built anew for other classes; build it with them")
    arguments = {k: v for k, v in without_weights(card.arguments).items() if k != "num_classes"}
    ours, one_more = (shapes_of(card, len(class_names) + more) for more in (0, 1))
    rebuilt = [k for k in ours if ours[k] != one_more[k]]
    fresh = create_model(card.model, class_names=class_names, **arguments)
    kept = {k: v for k, v in model.state_dict().items() if k not in rebuilt}
    fresh.load_state_dict({**fresh.state_dict(), **kept})
    names = fresh.card.class_names
    reset: dict[str, Any] = {"category_ids": (), "thresholds": (), "metrics": {}}
    fresh.set_card(replace(card, arguments=fresh.card.arguments, class_names=names, **reset))
    return fresh, rebuilt


def shapes_of(card: ModelCard, num_classes: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the parameters and buffers of a card's model for another number of classes, built without memory."""
    with on_meta_device():
        model = create_model(card.model, **{**without_weights(card.arguments), "num_classes": num_classes})
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


def choices(option: Option) -> str:
    """The values an option takes, for people: `flat | crop`, `int`, ..."""
    values = get_args(option.annotation)
    if values and all(isinstance(v, (str, int)) for v in values):
        return " | ".join(map(str, values))
    text = getattr(option.annotation, "__name__", str(option.annotation))
    return text if not values else str(option.annotation).replace("typing.", "")
