"""rwightman/efficientdet-pytorch's names (effdet 0.4.1, Apache-2.0: effdet/efficientdet.py), which hold the authors'
TensorFlow checkpoints, to ours."""

from collections.abc import Callable

from torch import Tensor, nn

from .rules import Rule

_PREFIX = r"(?:model\.)?"  # of a training or prediction bench
_ANY = r"(?P<leaf>\w+)"
_W = r"(?P<leaf>weight|bias)"


def rules(model: nn.Module) -> list[Rule]:
    """The table, the same for every model of the family."""
    table = [
        Rule(r"anchors\.boxes", None, reason="computed from the size of the picture"),
        Rule(r"backbone\.(.+)", r"backbone.body.\1"),
        *_projection(r"fpn\.resample\.\d+", "neck.extra"),
        *_node(r"fpn\.cell\.(\d+)\.fnode\.(\d+)", r"neck.cells.\1.nodes.\2"),
        *_branch("class_net", "cls"),
        *_branch("box_net", "box", _x_first),
    ]
    return [rule._replace(pattern=_PREFIX + rule.pattern) for rule in table]


def _projection(theirs: str, ours: str) -> list[Rule]:
    return [
        Rule(rf"{theirs}\.conv\.conv\.{_W}", rf"{ours}.conv.\g<leaf>"),
        Rule(rf"{theirs}\.conv\.bn\.{_ANY}", rf"{ours}.norm.\g<leaf>"),
    ]


def _node(theirs: str, ours: str) -> list[Rule]:
    """The inputs of a node have the same numbers here."""
    after = rf"{theirs}\.after_combine\.conv"
    return [
        Rule(rf"{theirs}\.combine\.edge_weights", f"{ours}.weights"),
        *_projection(rf"{theirs}\.combine\.resample\.(\d+)", rf"{ours}.resample.\3"),
        Rule(rf"{after}\.conv_dw\.{_W}", rf"{ours}.conv.depthwise.\g<leaf>"),
        Rule(rf"{after}\.conv_pw\.{_W}", rf"{ours}.conv.pointwise.\g<leaf>"),
        Rule(rf"{after}\.bn\.{_ANY}", rf"{ours}.norm.\g<leaf>"),
    ]


def _branch(theirs: str, ours: str, transform: Callable[[Tensor], Tensor] | None = None) -> list[Rule]:
    """The prediction's 3x3 half is the end of our tower. transform: of the prediction itself."""
    tower = f"head.{ours}_tower"
    return [
        Rule(rf"{theirs}\.conv_rep\.(\d+)\.conv_dw\.{_W}", rf"{tower}.convs.\1.depthwise.\g<leaf>"),
        Rule(rf"{theirs}\.conv_rep\.(\d+)\.conv_pw\.{_W}", rf"{tower}.convs.\1.pointwise.\g<leaf>"),
        Rule(rf"{theirs}\.bn_rep\.(\d+)\.(\d+)\.bn\.{_ANY}", rf"{tower}.norms.\1.\2.\g<leaf>"),
        Rule(rf"{theirs}\.predict\.conv_dw\.{_W}", rf"{tower}.last.\g<leaf>"),
        Rule(rf"{theirs}\.predict\.conv_pw\.{_W}", rf"head.{ours}.\g<leaf>", transform),
    ]


def _x_first(x: Tensor) -> Tensor:
    """Rows (y, x, height, width) of every anchor as (x, y, width, height)."""
    return x.unflatten(0, (-1, 4))[:, [1, 0, 3, 2]].flatten(0, 1)
