"""What people did: one row an interaction, sorted by user and then by time, in flat arrays."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float32, Int16, Int32, Int64

from itemic.data.ragged import Ragged

if TYPE_CHECKING:
    from scipy.sparse import csr_array

COLUMNS = ("user", "item", "time", "rating", "weight", "kind", "session")
"""The array columns, in the order of the manifest; `event_id` is kept beside them as a Parquet file."""


@dataclass(frozen=True)
class Interactions:
    """Parallel arrays, possibly memory-mapped; a user's rows stand together, oldest first.

    >>> log = Interactions.of(user=[1, 0, 1], item=[2, 2, 0], n_users=2, n_items=3, time=[5, 1, 4])
    >>> log.user.tolist(), log.item.tolist(), log.histories().to_lists()
    ([0, 1, 1], [2, 0, 2], [[2], [0, 2]])
    """

    user: Int32[np.ndarray, " rows"]
    item: Int32[np.ndarray, " rows"]
    n_users: int
    n_items: int
    time: Int64[np.ndarray, " rows"] | None = None
    """Milliseconds since 1970."""
    rating: Float32[np.ndarray, " rows"] | None = None
    weight: Float32[np.ndarray, " rows"] | None = None
    """How much the row counts, 1 where it is not given."""
    kind: Int16[np.ndarray, " rows"] | None = None
    """An index into `kinds`: view, cart, purchase, ..."""
    session: Int32[np.ndarray, " rows"] | None = None
    event_id: pa.Array | None = None
    kinds: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        user: "np.ndarray | list[int]",
        item: "np.ndarray | list[int]",
        n_users: int,
        n_items: int,
        time: "np.ndarray | list[int] | None" = None,
        kinds: tuple[str, ...] = (),
        event_id: pa.Array | None = None,
        **columns: "np.ndarray | list | None",
    ) -> "Interactions":
        """Rows in any order, sorted here by user, then time, then the order given."""
        kept = {
            "time": None if time is None else np.asarray(time, np.int64),
            "rating": _maybe(columns.pop("rating", None), np.float32),
            "weight": _maybe(columns.pop("weight", None), np.float32),
            "kind": _maybe(columns.pop("kind", None), np.int16),
            "session": _maybe(columns.pop("session", None), np.int32),
        }
        if columns:
            raise TypeError(f"interactions have no columns {sorted(columns)}")
        log = cls(
            np.asarray(user, np.int32),
            np.asarray(item, np.int32),
            n_users,
            n_items,
            **kept,
            kinds=kinds,
            event_id=event_id,
        )
        order = log.order()
        return log if order is None else log.select(order)

    @classmethod
    def none(cls, n_users: int, n_items: int) -> "Interactions":
        """No rows at all, as in the catalogue a model keeps."""
        return cls(np.empty(0, np.int32), np.empty(0, np.int32), n_users, n_items)

    def order(self) -> Int64[np.ndarray, " rows"] | None:
        """The stable order by user, then time; None when the rows stand in it already."""
        if len(self) < 2:
            return None
        step = np.diff(self.user)
        settled = step > 0
        settled |= (step == 0) & (np.diff(self.time) >= 0 if self.time is not None else True)
        if settled.all():
            return None
        keys = (self.user,) if self.time is None else (self.time, self.user)
        return np.lexsort(keys)

    def __len__(self) -> int:
        return len(self.user)

    @property
    def columns(self) -> dict[str, np.ndarray]:
        """The array columns that are there, by name."""
        return {name: getattr(self, name) for name in COLUMNS if getattr(self, name) is not None}

    @cached_property
    def offsets(self) -> Int64[np.ndarray, " bounds"]:
        """User u's rows are offsets[u] to offsets[u + 1] - 1."""
        # Searched, as the column is sorted: a count would first copy it to int64, 800 MB for 100 million rows.
        return np.searchsorted(self.user, np.arange(self.n_users + 1, dtype=np.int32)).astype(np.int64)

    def histories(self) -> Ragged:
        """Item codes of every user, oldest first."""
        return Ragged(self.item, self.offsets)

    def distinct_pairs(self) -> tuple[Int32[np.ndarray, " pairs"], Int32[np.ndarray, " pairs"]]:
        """Every (user, item) once, sorted by user and item."""
        keys = np.sort(self.user.astype(np.int64) * self.n_items + self.item)
        keys = keys[np.diff(keys, prepend=-1) > 0]  # as np.unique, which takes many times longer
        return (keys // self.n_items).astype(np.int32), (keys % self.n_items).astype(np.int32)

    def item_counts(self) -> Int64[np.ndarray, " items"]:
        """How many different users each item has."""
        return np.bincount(self.distinct_pairs()[1], minlength=self.n_items)

    def matrix(self) -> "csr_array":
        """A float32 sparse matrix [users, items] with a 1 for every pair that occurs."""
        from scipy.sparse import csr_array

        user, item = self.distinct_pairs()
        offsets = np.concatenate([[0], np.cumsum(np.bincount(user, minlength=self.n_users))])
        ones = np.ones(len(item), np.float32)
        return csr_array((ones, item, offsets.astype(np.int32)), shape=(self.n_users, self.n_items))

    def select(self, rows: "Bool[np.ndarray, ' rows'] | Int64[np.ndarray, ' kept']") -> "Interactions":
        """The rows of a mask or in the order of an index."""
        kept = {name: column[rows] for name, column in self.columns.items()}
        if self.event_id is not None:
            index = np.flatnonzero(rows) if rows.dtype == bool else rows
            kept["event_id"] = self.event_id.take(pa.array(index))
        return replace(self, **kept)

    def joined(self, other: "Interactions") -> "Interactions":
        """The rows of both, sorted; a column is kept where both have it."""
        shared = [name for name in COLUMNS if name in self.columns and name in other.columns]
        kept = {name: np.concatenate([self.columns[name], other.columns[name]]) for name in shared}
        log = Interactions(n_users=self.n_users, n_items=self.n_items, kinds=self.kinds, **kept)
        order = log.order()
        return log if order is None else log.select(order)


def _maybe(values: "np.ndarray | list | None", dtype: type) -> np.ndarray | None:
    return None if values is None else np.asarray(values, dtype)
