"""xingyizhou/CenterNet's names (commit 4c50fd3a, MIT: src/lib/models/networks/resnet_dcn.py, pose_dla_dcn.py and
DCNv2/dcn_v2.py) to ours."""

from torch import nn

from ..necks.deconv import DlaUpNeck
from .rules import Rule

_PREFIX = r"(?:module\.)?"  # of files written under DataParallel
_ANY = r"(?P<leaf>\w+)"
_W = r"(?P<leaf>weight|bias)"


def rules(model: nn.Module) -> list[Rule]:
    """The table for `model`: a DLA lies upstream under `base`, a ResNet at the top."""
    table = _dla(model.neck) if isinstance(model.neck, DlaUpNeck) else _resnet()
    return [Rule(_PREFIX + pattern, *rest) for pattern, *rest in (*_heads(), *table)]


def _heads() -> list[Rule]:
    table = []
    for theirs, ours in (("hm", "heatmap"), ("wh", "box"), ("reg", "offset")):
        table += [Rule(rf"{theirs}\.0\.{_W}", rf"head.{ours}.conv0.\g<leaf>")]
        table += [Rule(rf"{theirs}\.2\.{_W}", rf"head.{ours}.out.\g<leaf>")]
    return table


def _resnet() -> list[Rule]:
    """The up-sampling is one sequence of six layers a step: deformable, norm, ReLU, transposed, norm, ReLU."""
    table = []
    for i in range(3):
        theirs, ours = r"deconv_layers\.", f"neck.steps.{i}."
        table += [
            *_deformable(f"{theirs}{6 * i}", f"{ours}conv.conv"),
            Rule(rf"{theirs}{6 * i + 1}\.{_ANY}", rf"{ours}conv.norm.\g<leaf>"),
            Rule(rf"{theirs}{6 * i + 3}\.{_W}", rf"{ours}deconv.conv.\g<leaf>"),
            Rule(rf"{theirs}{6 * i + 4}\.{_ANY}", rf"{ours}deconv.norm.\g<leaf>"),
        ]
    return [*table, Rule(r"((?:conv1|bn1|layer\d)\..+)", r"backbone.body.\1")]


def _dla(neck: DlaUpNeck) -> list[Rule]:
    places = [(rf"dla_up\.ida_{i}", f"neck.joins.{i}") for i in range(len(neck.joins))]
    table = [
        Rule(r"base\.fc\..+", None, reason="the ImageNet classifier"),
        Rule(r"base\.level[34]\.project\..+", None, reason="a convolution that a tree of trees holds but never calls"),
        Rule(r"base\.(.+)", r"backbone.body.\1"),
    ]
    for theirs, ours in (*places, ("ida_up", "neck.last")):
        for k in range(len(neck.joins)):
            for name, place in (("proj", "projects"), ("node", "nodes")):
                table += _deformable(rf"{theirs}\.{name}_{k + 1}\.conv", f"{ours}.{place}.{k}.conv")
                table.append(Rule(rf"{theirs}\.{name}_{k + 1}\.actf\.0\.{_ANY}", rf"{ours}.{place}.{k}.norm.\g<leaf>"))
            table.append(Rule(rf"{theirs}\.up_{k + 1}\.{_W}", rf"{ours}.ups.{k}.\g<leaf>"))
    return table


def _deformable(theirs: str, ours: str) -> list[Rule]:
    """A deformable layer, whose offsets and mask have our order of channels: the first two thirds by tap dy, dx."""
    return [
        Rule(rf"{theirs}\.{_W}", rf"{ours}.conv.\g<leaf>"),
        Rule(rf"{theirs}\.conv_offset_mask\.{_W}", rf"{ours}.conv_offset.\g<leaf>"),
    ]
