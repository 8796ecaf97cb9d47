"""From tables with external ids to a Dataset in integer codes, with every value checked on the way."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute
from jaxtyping import Float32, Int32, Int64

from itemic.data.dataset import TRAIN, Dataset, Split
from itemic.data.ids import Ids
from itemic.data.interactions import Interactions
from itemic.data.readers.source import Source
from itemic.data.splits import check_leak
from itemic.data.table import Table, guessed_roles
from itemic.errors import DataError

pc: Any = pyarrow.compute  # its functions are made at import, out of a type checker's sight

Unknown = Literal["refuse", "drop", "add"]
"""What becomes of an event whose item or user is not in the table given: an error, left out, or added to the table."""

At = Callable[[int], str]
"""How messages name a row of a table: 'events.csv row 3', the header not counted."""


def dataset_of(source: Source, name: str = "data", *, repeats: bool = False, unknown: Unknown = "refuse") -> Dataset:
    """The dataset of what a reader found: codes follow the sorted order of the ids, rows the order of user and time.

    Raises:
        DataError: a value cannot be what its column says; the message names table, row, value and the mend.
        LeakError: a user and item of the official test part are also in the train part, and repeats are not declared.
    """
    if source.turns is not None:
        from itemic.data.turns import dataset_of_turns

        return dataset_of_turns(source, name, unknown=unknown)
    events = source.events
    present = set(events.column_names)
    numbers = {role: finite(source, role) for role in ("rating", "weight") if role in present}
    if "time" in present:
        numbers["time"] = _milliseconds(events.column("time"), source.at)
    users, user = coded_in(source, "user", unknown)
    items, item = coded_in(source, "item", unknown)
    items = replace(items, roles={**items.roles, **source.roles})
    kinds, kind = _labels(source, "kind") if "kind" in present else ((), None)
    _, session = _labels(source, "session") if "session" in present else ((), None)
    log = Interactions(
        user,
        item,
        len(users),
        len(items),
        **numbers,
        kind=kind,
        session=session,
        kinds=kinds,
        event_id=events.column("event_id").combine_chunks() if "event_id" in present else None,
    )
    part = events.column("part").to_numpy() if "part" in present else np.full(len(log), TRAIN, np.uint8)

    known = (user >= 0) & (item >= 0)
    if not known.any():
        raise DataError(f"{source.label} holds no interactions. A dataset needs at least one row of user and item.")
    if not known.all():
        log, part = log.select(known), part[known]
        users, log = (users, log) if source.users is not None else _used(users, log, "user")
        items, log = (items, log) if source.items is not None else _used(items, log, "item")
    order = log.order()
    if order is not None:
        log, part = log.select(order), part[order]

    official = np.ascontiguousarray(part, np.uint8) if (part != TRAIN).any() else None
    dataset = Dataset(
        items,
        users,
        log,
        name=name,
        split=None if official is None else Split(official, {"by": "official", **source.how}),
        official=official,
        repeats=repeats or source.repeats,
        ordered=source.ordered,
    )
    check_leak(dataset)
    return dataset


def table_of(frame: pa.Table, what: str, label: str) -> Table:
    """Items or users sorted by id; the first column of `frame` is the id, empty texts become missing values.

    Raises:
        DataError: an id is missing, holds a line break or stands in two rows.
    """
    codes, ids = coded(frame.column(0), f"{what} id", lambda row: f"{label} row {row + 1:,}")
    twice = np.flatnonzero(np.bincount(codes, minlength=len(ids)) > 1)
    if len(twice):
        first, second = np.flatnonzero(codes == twice[0])[:2] + 1
        raise DataError(
            f"{label} rows {first:,} and {second:,} have the same {what} id {ids[int(twice[0])].as_py()!r} "
            f"({len(twice):,} such ids in all). Keep one row for each."
        )
    columns = frame.remove_column(0).take(pa.array(np.argsort(codes)))
    for place, field in enumerate(columns.schema):
        if pa.types.is_string(field.type) or pa.types.is_large_string(field.type):
            text = columns.column(place)
            columns = columns.set_column(place, field.name, pc.if_else(pc.equal(text, ""), None, text))
    return Table(Ids(ids, what), columns, guessed_roles(columns.column_names))


def coded_in(
    source: Source, what: Literal["user", "item"], unknown: Unknown
) -> tuple[Table, Int32[np.ndarray, " rows"]]:
    """The table of items or users, and the code of each row in it; -1 for those to be dropped.

    Raises:
        DataError: a row names what is not in the table, and `unknown` is "refuse".
    """
    table_label = source.items_label if what == "item" else source.users_label
    codes, ids = coded(source.events.column(what), f"{what} id", source.at)
    table = source.items if what == "item" else source.users
    if table is None:
        return Table(Ids(ids, what)), codes
    known = table_of(table, what, table_label)
    place = known.ids.codes(ids)
    missing = np.flatnonzero(place < 0)
    if len(missing) and unknown == "add":
        names = [
            *known.ids.array.cast(pa.string()).to_pylist(),
            *ids.take(pa.array(missing)).cast(pa.string()).to_pylist(),
        ]
        key = table.column_names[0]
        more = known.frame.take(pa.array([*range(len(known)), *[None] * len(missing)], pa.int64()))
        columns = {name: more.column(name) for name in more.column_names}  # perhaps none
        known = table_of(pa.table({key: names, **columns}), what, table_label)
        place = known.ids.codes(ids)
    elif len(missing) and unknown == "refuse":
        row = int(np.flatnonzero(place[codes] < 0)[0])
        raise DataError(
            f"{source.at(row)}: {what} {ids[int(codes[row])].as_py()!r} is not in {table_label} "
            f"({len(missing):,} unknown in all). Add what is missing there, or say --unknown drop or --unknown add."
        )
    return known, place[codes]


def coded(column: pa.ChunkedArray, what: str, at: At) -> tuple[Int32[np.ndarray, " rows"], pa.Array]:
    """For each row the rank of its id among the distinct ids, and those, sorted: all int64 or all string.

    Raises:
        DataError: an id is missing, holds a line break or is neither an integer nor text.
    """
    if not pa.types.is_dictionary(column.type):
        column = _integers_or_text(column, what, at).dictionary_encode()
    column = column.unify_dictionaries()
    ids = column.chunk(0).dictionary if column.num_chunks else pa.array([], pa.string())
    if column.null_count:
        raise DataError(f"{at(_first(column.is_null()))}: the {what} is missing. Fill it in.")
    indices = np.concatenate([np.empty(0, np.int32), *(chunk.indices.to_numpy() for chunk in column.chunks)])
    if not pa.types.is_integer(ids.type):
        ids, indices = _clean(ids.cast(pa.string()), indices, what, at)
    used = np.bincount(indices, minlength=len(ids)) > 0
    order = pc.sort_indices(ids).to_numpy()
    order = order[used[order]]
    rank = np.empty(len(ids), np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    return rank[indices], ids.take(pa.array(order))


def _integers_or_text(column: pa.ChunkedArray, what: str, at: At) -> pa.ChunkedArray:
    """The ids as int64 or string; whole numbers that a missing value turned into floats are integers again."""
    kind = column.type
    if pa.types.is_floating(kind):
        whole = pc.fill_null(pc.equal(column, pc.round(column)), True)
        if not pc.all(whole).as_py():
            row = _first(pc.invert(whole))
            raise DataError(f"{at(row)}: the {what} {column[row].as_py()} is not a whole number. Mend it.")
        return column.cast(pa.int64())
    if pa.types.is_signed_integer(kind) or (pa.types.is_integer(kind) and kind.bit_width < 64):
        return column.cast(pa.int64())
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or kind in (pa.null(), pa.uint64())):
        raise DataError(f"{at(0)}: the {what} is of the type {kind}. Give integers or text.")
    return column.cast(pa.string())


def _clean(ids: pa.Array, indices: np.ndarray, what: str, at: At) -> tuple[pa.Array, np.ndarray]:
    """Distinct ids without blanks around them, as int64 where all of them are written as integers are."""
    for broken, fault in (("[\r\n]", "{id!r} holds a line break. Take it out."), ("^ *$", "is missing. Fill it in.")):
        hit = pc.match_substring_regex(ids, broken).to_numpy(zero_copy_only=False)
        rows = np.flatnonzero(hit[indices]) if hit.any() else []
        if len(rows):
            text = ids[int(indices[rows[0]])].as_py()
            raise DataError(f"{at(int(rows[0]))}: the {what} {fault.format(id=text)}")
    trimmed = pc.utf8_trim(ids, " ").dictionary_encode()
    ids, indices = trimmed.dictionary, trimmed.indices.to_numpy()[indices]
    integers = pc.all(pc.match_substring_regex(ids, "^(0|-?[1-9][0-9]{0,17})$")).as_py()
    return ids.cast(pa.int64()) if integers else ids, indices


def _used(table: Table, log: Interactions, what: Literal["user", "item"]) -> tuple[Table, Interactions]:
    """The rows of a table that still occur, and the log in their new codes."""
    used, codes = np.unique(getattr(log, what), return_inverse=True)
    return table.take(used), replace(log, **{what: codes.astype(np.int32), f"n_{what}s": len(used)})


def finite(source: Source, role: str) -> Float32[np.ndarray, " rows"]:
    """The numbers of a column, none of them missing or infinite.

    Raises:
        DataError: one of them is; the message names its row.
    """
    column = source.events.column(role)
    numbers = _cast(column, lambda some: some.cast(pa.float32(), safe=False), source.at, role, "a number").to_numpy()
    bad = np.flatnonzero(~np.isfinite(numbers))
    if len(bad):
        value = column[int(bad[0])].as_py()
        raise DataError(
            f"{source.at(int(bad[0]))}: the {role} is {'missing' if value is None else value}, not a finite number. "
            f"Mend the row, or pass over the column: --columns {role}=-"
        )
    return np.ascontiguousarray(numbers, np.float32)


def _milliseconds(column: pa.ChunkedArray, at: At) -> Int64[np.ndarray, " rows"]:
    """Milliseconds since 1970 from numbers, whose unit is judged by their size, or from dates."""
    missing = pc.is_null(column, nan_is_null=True)
    if pc.any(missing).as_py():
        raise DataError(f"{at(_first(missing))}: the time is missing. Fill it in, or pass over it: --columns time=-")
    times = _cast(column, _read_times, at, "time", "a number or a date such as 2024-05-31 18:30:00")
    return times.cast(pa.int64()).to_numpy() if pa.types.is_timestamp(times.type) else _scaled(times.to_numpy())


def _read_times(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Numbers, or timestamps in milliseconds: of all ways to read text, the first that fits every row."""
    kind = column.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return column
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return column.cast(pa.timestamp("ms", getattr(kind, "tz", None)), safe=False).cast(pa.timestamp("ms"))
    text = pc.utf8_trim_whitespace(column.cast(pa.string()))
    for wanted in (pa.int64(), pa.float64(), pa.timestamp("ms")):
        try:
            return text.cast(wanted)
        except pa.ArrowInvalid:
            continue
    return text.cast(pa.timestamp("ms", "UTC")).cast(pa.timestamp("ms"))


UNITS = ((1e11, 1000), (1e14, 1), (1e17, 1e-3), (np.inf, 1e-6))
"""Below the first figure a number of this size stands for seconds, milliseconds, microseconds, nanoseconds."""


def _scaled(numbers: np.ndarray) -> Int64[np.ndarray, " rows"]:
    size = max(abs(float(numbers.max())), abs(float(numbers.min()))) if len(numbers) else 0
    factor = next(factor for limit, factor in UNITS if size < limit)
    if factor == 1 or len(numbers) == 0:
        return numbers.astype(np.int64)
    if numbers.dtype.kind != "f":
        return numbers * np.int64(1000) if factor == 1000 else numbers // np.int64(round(1 / factor))
    return np.round(numbers * factor).astype(np.int64)


def _labels(source: Source, role: str) -> tuple[tuple[str, ...], np.ndarray]:
    """The sorted distinct labels of a column and the code of each row."""
    codes, names = coded(source.events.column(role), role, source.at)
    if role == "kind" and len(names) > np.iinfo(np.int16).max:
        raise DataError(
            f"{source.label}: the kind column has {len(names):,} different values. Pass over it: --columns kind=-"
        )
    kinds = tuple(names.cast(pa.string()).to_pylist()) if role == "kind" else ()
    return kinds, codes.astype(np.int16 if role == "kind" else np.int32)


def _cast(
    column: pa.ChunkedArray, read: Callable[[pa.ChunkedArray], pa.ChunkedArray], at: At, role: str, wanted: str
) -> pa.ChunkedArray:
    """The column as read; when a value cannot be read, an error that names the first such row."""
    try:
        return read(column)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        low, high = 0, len(column)
        while high - low > 1:
            middle = (low + high) // 2
            try:
                read(column.slice(low, middle - low))
                low = middle
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
                high = middle
        raise DataError(
            f"{at(low)}: {role} {column[low].as_py()!r} is not {wanted}. "
            f"Mend the row, or pass over the column: --columns {role}=-"
        ) from error


def _first(mask: "pa.ChunkedArray | pa.Array") -> int:
    return int(
        np.flatnonzero(mask.to_numpy(zero_copy_only=False) if isinstance(mask, pa.Array) else mask.to_numpy())[0]
    )
