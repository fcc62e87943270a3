"""Names of WongKinYiu/yolor's cfg networks (branch main, 3ca250a) to ours: `module_list.<line of the cfg>`.

The project is GPL-3.0 and was not read: this is the numbering that its state dicts have. Every line of a cfg counts,
also those without weights (routes, shortcuts, pools), so the numbers follow from the order in which a network of blocks
is written down. Compared with the key lists recorded from YOLOR-CSP, -P6 and -W6; -CSP-X, YOLOv4-CSP and the large
YOLOv4-P5 to P7 follow the same order.
"""

from typing import Literal, NamedTuple

from torch import nn

from ..errors import CheckpointError
from .rules import Rule

PREFIX = r"(?:module\.)?"  # of files written under DataParallel
_POOLING = 6  # three pools, and a route after each


class Line(NamedTuple):
    """One line of a cfg with weights. number: of the line; path: of our module; kind: a convolution with its norm, a
    prediction with a bias, or an implicit vector."""

    number: int
    path: str
    kind: Literal["conv", "prediction", "implicit"]


def rules(model: nn.Module) -> list[Rule]:
    """The table for `model`. Raises: CheckpointError for a model that no cfg describes."""
    table = []
    for number, path, kind in lines(model):
        theirs = rf"{PREFIX}module_list\.{number}\."
        if kind == "implicit":
            table.append(Rule(theirs + "implicit", path))
        elif kind == "prediction":
            table.append(Rule(theirs + r"Conv2d\.(weight|bias)", path + r".\1"))
        else:
            table.append(Rule(theirs + r"Conv2d\.weight", path + ".conv.weight"))
            table.append(Rule(theirs + r"BatchNorm2d\.(\w+)", path + r".norm.\1"))
    return table


def lines(model: nn.Module) -> list[Line]:
    """Every line with weights, in the order of the cfg. Raises: CheckpointError for a model that no cfg describes."""
    check_family(model)
    if model.neck.spp.norm is not None:
        raise CheckpointError(
            "this model is built in the yaml form, which computes another function than a cfg checkpoint: use a tag "
            "that ends in .cfg, or form='cfg'"
        )
    walk = _Walk()
    walk.backbone(model.backbone)
    walk.neck(model.neck)
    walk.head(model.head)
    return walk.found


def check_family(model: nn.Module) -> None:
    """Raises: CheckpointError for a model that is not of the YOLOv4-CSP and YOLOR family."""
    if not hasattr(model.neck, "spp") or not hasattr(model.head, "predictions"):
        name = getattr(getattr(model, "card", None), "model", "") or type(model).__name__
        raise CheckpointError(f"{name} is no YOLOv4-CSP, Scaled-YOLOv4 or YOLOR model, whose checkpoints these are")


class _Walk:
    """Counts the lines while it follows the network. found: those with weights."""

    def __init__(self) -> None:
        self.number = 0
        self.found: list[Line] = []

    def skip(self, count: int = 1) -> None:
        self.number += count

    def add(self, *paths: str, kind: Literal["conv", "prediction", "implicit"] = "conv") -> None:
        for path in paths:
            self.found.append(Line(self.number, path, kind))
            self.number += 1

    def backbone(self, backbone: nn.Module) -> None:
        for name, layer in backbone.stem.named_children():
            if hasattr(layer, "norm"):
                self.add(f"backbone.stem.{name}")
            else:  # space to depth
                self.skip()
        if backbone.residual is not None:
            self.add("backbone.residual.conv1", "backbone.residual.conv2")
            self.skip()
        for i, (down, stage) in enumerate(zip(backbone.downs, backbone.stages)):
            self.down(down, f"backbone.downs.{i}")
            self.stage(stage, f"backbone.stages.{i}")

    def down(self, down: nn.Module, path: str) -> None:
        if not hasattr(down, "norm"):
            raise CheckpointError("no cfg was published of E6 and D6, only the yaml form: use a tag that ends in .yaml")
        self.add(path)

    def stage(self, stage: nn.Module, path: str) -> None:
        self.add(f"{path}.bypass")
        self.skip()
        self.add(f"{path}.cv1")
        for i in range(len(stage.blocks)):
            self.add(f"{path}.blocks.{i}.conv1", f"{path}.blocks.{i}.conv2")
            self.skip()
        if stage.transition is not None:
            self.add(f"{path}.transition")
        self.skip()
        self.add(f"{path}.merge")

    def neck(self, neck: nn.Module) -> None:
        spp = "neck.spp."
        self.add(spp + "bypass")
        self.skip()
        self.add(spp + "conv1", spp + "conv2", spp + "conv3")
        self.skip(_POOLING)
        self.add(spp + "after1", spp + "after2")
        if neck.spp.extra1 is not None:
            self.add(spp + "extra1", spp + "extra2")
        self.skip()
        self.add(spp + "merge")
        for i, top in enumerate(neck.tops):
            self.add(f"neck.reduces.{i}")
            self.skip(2)
            self.add(f"neck.laterals.{i}")
            self.skip()
            self.reversed(top, f"neck.tops.{i}")
        for i, bottom in enumerate(neck.bottoms):
            self.down(neck.downs[i], f"neck.downs.{i}")
            self.skip()
            self.reversed(bottom, f"neck.bottoms.{i}")

    def reversed(self, block: nn.Module, path: str) -> None:
        self.add(f"{path}.entry", f"{path}.bypass")
        self.skip()
        for i in range(len(block.blocks)):
            self.add(f"{path}.blocks.{i}.conv1", f"{path}.blocks.{i}.conv2")
        self.skip()
        self.add(f"{path}.merge")

    def head(self, head: nn.Module) -> None:
        """All vectors first, those in front of the predictions before those behind. Each is a line again where it is
        applied."""
        places = [prediction_paths(head, i) for i in range(len(head.predictions))]
        vectors = [[p.align for p in places if p.align], [p.refine for p in places if p.refine]]
        for paths in vectors:
            self.add(*paths, kind="implicit")
        for i, place in enumerate(places):
            self.skip()
            self.add(f"head.convs.{i}")
            self.skip(bool(place.align))
            self.add(place.conv, kind="prediction")
            self.skip(bool(place.refine) + 1)


class Prediction(NamedTuple):
    """Where a level's prediction lies: the convolution, and the vectors in front of it and behind it, or ""."""

    conv: str
    align: str
    refine: str


def prediction_paths(head: nn.Module, level: int) -> Prediction:
    """A plain convolution has no implicit vectors."""
    path, module = f"head.predictions.{level}", head.predictions[level]
    if isinstance(module, nn.Conv2d):
        return Prediction(path, "", "")
    vectors = (f"{path}.{name}.value" if getattr(module, name) is not None else "" for name in ("align", "refine"))
    return Prediction(f"{path}.conv", *vectors)
