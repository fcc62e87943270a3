"""`headway models`: what can be built, how big it is, and what its published weights reach."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from tyro.conf import Positional, arg

from ..errors import HeadwayError, nearest
from .common import show, show_json


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """List the models with their parameters, multiply-adds of one picture, and published checkpoints.

    Multiply-adds count convolutions and linear layers, deformable convolutions included.
    """

    pattern: Annotated[Positional[str], arg(metavar="PATTERN")] = ""
    """Show the models whose name contains this."""
    size: Annotated[tuple[int, int] | None, arg(metavar="H W")] = None
    """Height and width of the picture for the multiply-adds. Default: each model's own input size, landscape."""
    json: bool = False
    """Print the list as JSON."""

    def run(self) -> int:
        from .. import registry

        names = registry.list_models(self.pattern)
        if not names:
            hint = nearest(self.pattern, registry.list_models()) or "`headway models` lists all"
            raise HeadwayError(f"no model has {self.pattern!r} in its name; {hint}")
        if self.json:
            show_json([_describe(name, self.size) for name in names])
            return 0
        width = max(map(len, names))
        show(_line(width, "model", "parameters", "MACs", "at", "published weights"))
        show(_line(width, "-" * width, "-" * 10, "-" * 8, "-" * 9, "-" * 17))
        for name in names:  # each as soon as it is counted: all together take minutes
            row = _describe(name, self.size)
            tags = [f".{tag}" + (f" (AP {ap:.3f})" if ap else "") for tag, ap in row["tags"].items()]
            size = "x".join(str(side) for side in row["size"])
            parameters, macs = f"{row['parameters'] / 1e6:.2f} M", f"{row['macs'] / 1e9:.1f} G"
            show(_line(width, name, parameters, macs, size, ", ".join(tags)))
        return 0


def _line(width: int, name: str, parameters: str, macs: str, size: str, tags: str) -> str:
    return f"{name:<{width}}  {parameters:>10}  {macs:>8}  {size:>9}  {tags}".rstrip()


def _describe(name: str, size: tuple[int, int] | None) -> dict[str, Any]:
    """Build the model without memory and count."""
    from .. import profile, registry
    from ..meta import on_meta_device
    from ..models.weights import ROWS

    with on_meta_device():
        model = registry.create_model(name)
    size = size or model.card.input_size
    return {
        "name": name,
        "parameters": profile.count_parameters(model),
        "macs": profile.count_macs(model, size),
        "size": size,
        "tags": {row.tag: row.metrics.get("AP") for row in ROWS if row.model == name},
    }
