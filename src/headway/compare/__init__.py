"""Several detectors trained under one budget and set side by side in one table and one picture."""

from .api import Comparison, compare

__all__ = ["Comparison", "compare"]
