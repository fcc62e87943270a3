"""A detector as a file that needs no PyTorch. `headway.export(model, path)` is `headway.export.onnx.export`."""

from ..callable_package import make_callable

make_callable(__name__, "onnx", "export")
