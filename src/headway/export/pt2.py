"""The graph as a program of `torch.export`, for PyTorch's own compilers.

Suppression is headway's operator, so a program with it needs `import headway` before it is opened; one without needs
torch alone, and torchvision where it has deformable convolutions. headway opens no such file but to prove what it has
just written itself: PyTorch unpickles what is in it, and a data file shall not run code.
"""

import warnings
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from ..errors import HeadwayError, one_line
from ..files import write_atomically
from ..runtime.engines import NOTES, Array
from .graph import Form, Graph


def write_pt2(graph: Graph, path: Path, form: Form) -> dict[str, Any]:
    """Write the program with its card in `extra_files`. Raises: HeadwayError where PyTorch cannot."""
    multiple, buffer = graph.model.card.pad_multiple, BytesIO()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            shapes = form.dynamic_shapes(multiple)
            program = torch.export.export(graph, form.example(multiple), dynamic_shapes=shapes)
        except Exception as error:
            size = "a free" if form.free else "this"
            raise HeadwayError(
                f"this model does not export with batch={form.batch} and {size} size: {one_line(error)}"
            ) from error
        torch.export.save(program, buffer, extra_files={f"headway.{k}": v for k, v in graph.notes(form).items()})
    write_atomically(path, buffer.getvalue())
    return {}


class Pt2Engine:
    """Runs a program that this process has written, see `headway.runtime.engines`."""

    name = "torch"

    def __init__(self, path: Path) -> None:
        found = {f"headway.{name}": "" for name in NOTES}
        program = torch.export.load(BytesIO(path.read_bytes()), extra_files=found)
        self.notes = {name: found[f"headway.{name}"] for name in NOTES}
        free = program.graph_signature.user_inputs[0]
        value = next(node.meta["val"] for node in program.graph.nodes if node.name == free)
        self.shape = [side if isinstance(side, int) else None for side in value.shape]
        self._module = program.module()

    def __call__(self, images: Array, sizes: Array) -> list[Array]:
        with torch.no_grad():
            return [x.numpy() for x in self._module(torch.from_numpy(images), torch.from_numpy(sizes))]
