"""Data sets: reading, checking, augmenting, batching."""

from .. import vision  # noqa: F401  (torchvision, imported without torch's compiler before anything here imports it)
