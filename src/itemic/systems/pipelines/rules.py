"""What may be listed, and what items have in common: looked up once for a catalogue, and remembered."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Int32

from itemic.data import Query, Table
from itemic.systems.pipelines.config import Config

REMEMBERED = 64
"""Conditions whose items are remembered."""


class Rules:
    """The rules of a pipeline over the items of a catalogue; other items need other ones."""

    def __init__(self, config: Config, items: Table, closed: frozenset[int] = frozenset()) -> None:
        self.items, self.closed = items, closed
        self._config = config
        self._cached: dict[Any, Any] = {}

    def closing(self, closed: frozenset[int]) -> "Rules":
        """The same with other items closed; what else was looked up is still known."""
        made = Rules(self._config, self.items, closed)
        made._cached = {key: found for key, found in self._cached.items() if key != "open"}
        return made

    def check(self) -> None:
        """Passes if all that the config names is there.

        Raises:
            DataError: there is no such column, or a condition cannot be read.
            UnknownItems: an item is not in the catalogue.
        """
        diversity = self._config.diversity
        for condition in diversity.boost:
            self.where(condition)
        for column in diversity.caps:
            self.groups(column)
        for name, source in self._config.sources.items():
            if source.kind == "recent":
                self.newest(source.column)
            self.codes(source.items or (), f"sources.{name}.items")
        self.codes(diversity.pin, "diversity.pin")
        self.open_to_all()

    def codes(self, ids: Sequence[str], path: str) -> Int32[np.ndarray, " ids"]:
        """The codes of items that an option at this path names."""
        return self.remembered(path, lambda: self.items.ids.known(list(ids), f"Take them out of {path}."))

    def open_to_all(self) -> Bool[np.ndarray, " items"] | None:
        """Which items may be listed for whoever asks; None when all may."""

        def look() -> Any:
            filters, mask = self._config.filters, np.ones(len(self.items), bool)
            if filters.where is not None:
                mask &= self.where(filters.where)
            mask[self.codes(filters.blocked, "filters.blocked")] = False
            mask[sorted(self.closed)] = False
            return None if mask.all() else mask

        return self.remembered("open", look)

    def allowed(self, query: Query) -> Bool[np.ndarray, " items"] | None:
        """The same for requests that share candidates."""
        mask = self.open_to_all()
        if query.candidates is None:
            return mask
        chosen = np.zeros(len(self.items), bool)
        chosen[np.asarray(query.candidates)] = True
        return chosen if mask is None else chosen & mask

    def where(self, condition: str) -> Bool[np.ndarray, " items"]:
        """Which items satisfy an SQL condition."""
        return self.remembered(("where", condition), lambda: self.items.where(condition))

    def groups(self, column: str) -> Int32[np.ndarray, " items"]:
        """A number for each value of a column, -1 where it is missing."""

        def number() -> Any:
            values = self.items.column(column)
            if pa.types.is_nested(values.type):
                values = pa.chunked_array([pa.array([None if v is None else str(v) for v in values.to_pylist()])])
            index = values.combine_chunks().dictionary_encode().indices
            return index.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int32)

        return self.remembered(("groups", column), number)

    def newest(self, column: str | None) -> Int32[np.ndarray, " items"]:
        """The items by falling values of a column, or those added last first."""

        def order() -> Any:
            if column is None:
                return np.arange(len(self.items), dtype=np.int32)[::-1]
            import polars as pl

            values = pl.Series(self.items.column(column).to_pylist())
            return values.arg_sort(descending=True, nulls_last=True).to_numpy().astype(np.int32)

        return self.remembered(("newest", column), order)

    def remembered(self, key: Any, make: Callable[[], Any]) -> Any:
        """What was made before under this key."""
        if key not in self._cached:
            if len(self._cached) >= REMEMBERED:  # conditions of requests come and go
                self._cached.clear()
            self._cached[key] = make()
        return self._cached[key]
