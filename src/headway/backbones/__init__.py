"""Networks that turn a picture into feature maps."""

from ..vision import without_compiler

with without_compiler():
    import timm as _timm  # noqa: F401  (here, before any other module imports it)
