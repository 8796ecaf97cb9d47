"""What the service must not forget: events, items, impressions and keys, in SQLite or PostgreSQL."""

from itemic.serving.stores.base import Event, Impression, Key, Store
from itemic.serving.stores.opening import open_store

__all__ = ["Event", "Impression", "Key", "Store", "open_store"]
