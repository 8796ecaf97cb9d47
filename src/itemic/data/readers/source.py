"""What a reader hands over: tables with external ids, before anything is turned into codes."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from itemic.data.columns import Columns, find_columns
from itemic.errors import DataError

pc: Any = pyarrow.compute  # its functions are made at import, out of a type checker's sight


@dataclass(frozen=True)
class Source:
    """Interactions under the names of their roles, and what the same files say of items and users."""

    events: pa.Table
    """Columns named user, item, time, ... and optionally `part`, the official split (TRAIN, VALID, ...; uint8)."""
    label: str = "the events"
    """What messages call the events: a file name, mostly."""
    items: pa.Table | None = None
    """The item table, its first column the id; with it, every item of an event must be in it."""
    users: pa.Table | None = None
    items_label: str = "the item table"
    users_label: str = "the user table"
    roles: Mapping[str, list[str]] = field(default_factory=dict)
    """What item columns are for, where their names do not tell: {"text": ["title", "genres"]}."""
    ordered: bool = False
    """Whether a user's rows stand in the order in which they happened."""
    repeats: bool = False
    how: Mapping[str, Any] = field(default_factory=dict)
    """What else to say about the official split, such as mask_valid."""
    starts: tuple[tuple[int, str], ...] = ()
    """Where several tables were joined: the first row of each, and what messages call it."""
    rows: np.ndarray | None = None
    """The row of the file that each event comes from, where they are not the same."""
    turns: pa.Table | None = None
    """Dialogues, a row a turn (see `itemic.data.turns`); there are no other events then."""

    def at(self, row: int) -> str:
        """How messages name a row: counted from 1 in the table it came from, the header not counted."""
        row = row if self.rows is None else int(self.rows[row])
        start, label = next(((s, name) for s, name in reversed(self.starts) if s <= row), (0, self.label))
        return f"{label} row {row - start + 1:,}"


def source_of(table: pa.Table, columns: Columns = None, label: str = "the events") -> Source:
    """The interactions of a table; a row with a list of items becomes a row for each of them, in this order.

    Lists without a user column are sessions: each row is a user of its own, and repeats are declared.

    >>> source = source_of(pa.table({"u": ["a", "b"], "seen": [[3, 4], [5]]}), {"user": "u"})
    >>> source.events.to_pydict(), source.ordered
    ({'user': ['a', 'a', 'b'], 'item': [3, 4, 5]}, True)

    Raises:
        DataError: there is no user or item column, or lists of one row differ in length.
    """
    lists = list_columns(table.schema)
    found = find_columns(table.column_names, columns, label, lists)
    events = pa.table({role: table.column(name) for role, name in found.items()})
    if found["item"] not in lists:
        return Source(events, label)
    sessions = "user" not in found
    if sessions:
        events = events.add_column(0, "user", pa.array(np.arange(len(events))))
    return Source(_exploded(events, label), label, ordered=True, repeats=sessions)


def list_columns(schema: pa.Schema) -> list[str]:
    """The names of the columns that hold lists."""
    return [field.name for field in schema if pa.types.is_list(field.type) or pa.types.is_large_list(field.type)]


def in_parts(parts: Mapping[int, Source], label: str) -> Source:
    """One source of several that are the parts of a split; a column is kept where all of them have it.

    >>> train, test = Source(pa.table({"user": [1], "item": [5]})), Source(pa.table({"user": [1], "item": [6]}))
    >>> in_parts({0: train, 2: test}, "both").events.to_pydict()
    {'user': [1, 1], 'item': [5, 6], 'part': [0, 2]}
    """
    first, *others = parts.values()
    shared = [name for name in first.events.column_names if all(name in o.events.column_names for o in others)]
    tables, starts, rows = [], [], 0
    for part, source in parts.items():
        starts.append((rows, source.label))
        rows += len(source.events)
        marks = pa.array(np.full(len(source.events), part, np.uint8))
        tables.append(source.events.select(shared).append_column("part", marks))
    return replace(first, events=pa.concat_tables(_alike(tables)), label=label, starts=tuple(starts))


def _alike(tables: list[pa.Table]) -> list[pa.Table]:
    """The tables with every column that differs in type turned into text."""
    schemas = [table.schema for table in tables]
    for name in tables[0].column_names:
        types = {schema.field(name).type for schema in schemas}
        if len(types) > 1:
            wider = pa.int64() if all(pa.types.is_integer(kind) for kind in types) else pa.string()
            tables = [t.set_column(t.column_names.index(name), name, pc.cast(t.column(name), wider)) for t in tables]
    return tables


def _exploded(table: pa.Table, label: str) -> pa.Table:
    """One row for each element of the lists in `item`; lists of other columns run along with it."""
    lists = {name: table.column(name).combine_chunks() for name in list_columns(table.schema)}
    lengths = {name: _lengths(column) for name, column in lists.items()}
    for name, counted in lengths.items():
        if (differs := counted != lengths["item"]).any():
            row = int(np.flatnonzero(differs)[0])
            raise DataError(
                f"{label} row {row + 1:,} has {lengths['item'][row]:,} items but {counted[row]:,} values of {name}. "
                f"Mend the row, or pass over the column: --columns {name}=-"
            )
    repeat = pa.array(np.repeat(np.arange(len(table)), lengths["item"]))
    return pa.table(
        {
            name: pa.chunked_array([lists[name].flatten()]) if name in lists else table.column(name).take(repeat)
            for name in table.column_names
        }
    )


def _lengths(column: pa.Array) -> np.ndarray:
    return pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False).astype(np.int64)
