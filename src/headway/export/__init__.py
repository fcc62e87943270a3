"""A detector as a file for another engine. `headway.export(model, path)` is `headway.export.api.export`."""

from ..callable_package import make_callable

make_callable(__name__, "api", "export")
