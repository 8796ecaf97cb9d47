"""Items as they are given, by id with attributes, and tables of items: one made of the other, replaced, lined up."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Int

from itemic.data import Ids, Table
from itemic.errors import DataError

Given = Mapping[str, Mapping[str, Any]]
"""Attributes by the id of the item."""


def as_table(items: Given, like: Table) -> Table:
    """The items in the columns of another table.

    >>> cups = Table.of(Ids([1]), {"title": ["cup"]})
    >>> as_table({"7": {"title": "pot", "size": 3}}, like=cups).frame.to_pydict()
    {'title': ['pot']}

    Raises:
        DataError: a value is not of the kind that its column holds, or an id is text where they are integers.
    """
    if like.ids.are_integers:
        for name in items:
            if not name.lstrip("-").isdigit() or len(name) > 18 or str(int(name)) != name:
                raise DataError(f"item ids are integers here, not text as '{name}'. Give integers.")
    columns: dict[str, Any] = {}
    for column in like.names:
        kind = like.column(column).type
        try:
            columns[column] = pa.array([one.get(column) for one in items.values()], kind)
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            wrong = next(v for one in items.values() if (v := one.get(column)) is not None)
            raise DataError(f"attribute '{column}' holds {kind}; {wrong!r} does not fit. Mend it.") from None
    ids = [int(name) for name in items] if like.ids.are_integers else list(items)
    return Table(Ids(ids), pa.table(columns), like.roles)


def replaced(table: Table, rows: Int[np.ndarray, " rows"], by: Table) -> Table:
    """The table with other values in these rows.

    >>> cups = Table.of(Ids([1, 2]), {"title": ["cup", "pot"]})
    >>> replaced(cups, np.array([1]), Table.of(Ids([2]), {"title": ["pan"]})).frame.to_pydict()
    {'title': ['cup', 'pan']}
    """
    take = np.arange(len(table))
    take[rows] = len(table) + np.arange(len(rows))
    columns = {}
    for name in table.names:
        column = table.frame.column(name)
        both = pa.chunked_array([*column.chunks, *by.column(name).cast(column.type).chunks], column.type)
        columns[name] = both.take(pa.array(take))
    return Table(table.ids, pa.table(columns), table.roles)


def lined_up(table: Table, ids: Ids) -> Table:
    """The rows of a table for these ids, in their order; null where the table has none.

    >>> cups = Table.of(Ids([1, 2]), {"title": ["cup", "pot"]})
    >>> lined_up(cups, Ids([2, 9])).frame.to_pydict()
    {'title': ['pot', None]}
    """
    if table.ids.array.equals(ids.array):
        return table
    codes = table.ids.codes(ids.array)
    return Table(ids, table.frame.take(pa.array(codes, mask=codes < 0)), table.roles)


def now_of(items: Mapping[str, Mapping[str, Any] | None]) -> tuple[Given, list[str]]:
    """Of items as a store has them: those that are there, and the ids of those deleted."""
    kept = {name: attributes for name, attributes in items.items() if attributes is not None}
    return kept, [name for name, attributes in items.items() if attributes is None]
