"""Data sets drawn from a seed, with structure planted in them that systems must find."""

from itemic.data.simulated.planted import planted_groups
from itemic.data.simulated.shop import shop

__all__ = ["planted_groups", "shop"]
