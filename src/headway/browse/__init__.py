"""A page over a data set: pictures, boxes, filters, and what runs say against the labels. `browse` writes it."""

from .api import Browsed, browse

__all__ = ["Browsed", "browse"]
