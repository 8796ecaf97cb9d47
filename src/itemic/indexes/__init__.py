"""Vectors of items, and the nearest of them."""

from itemic.indexes.base import Index
from itemic.indexes.exact import Exact

__all__ = ["Exact", "Index"]
