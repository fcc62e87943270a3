"""Several detectors trained under one budget and set side by side in one table and one picture.

The package can be called: `headway.compare(models, data)` is `headway.compare.api.compare`.
"""

from ..callable_package import make_callable

make_callable(__name__, "api", "compare")
