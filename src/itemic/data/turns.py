"""Tables of turns: how dialogues become a Dataset, every value checked on the way, and how they are kept on disk."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
from jaxtyping import Int8, Int64, UInt8

from itemic.data.building import At, Unknown, coded, coded_in
from itemic.data.columns import first_named
from itemic.data.dataset import TEST, TRAIN, VALID, Dataset
from itemic.data.dialogues import RECOMMENDER, ROLES, Dialogues, Turns
from itemic.data.ragged import Ragged
from itemic.data.readers.source import Source
from itemic.data.splits import as_given
from itemic.errors import DataError, did_you_mean

pc: Any = pyarrow.compute  # its functions are made at import, out of a type checker's sight

FILE = "dialogues.parquet"
PARTS = {"train": TRAIN, "valid": VALID, "test": TEST}
ALIGNED: Mapping[str, tuple[pa.DataType, int | bool]] = {
    "starts": (pa.int32(), -1),
    "ends": (pa.int32(), -1),
    "liked": (pa.int8(), -1),
    "recommended": (pa.bool_(), False),
}
"""Columns of lists that run along with `items`: what stands in them, and what a missing value means."""
NEEDED = ("dialogue", "role", "text", "items")
NAMES = {
    "dialogue": "dialogue dialogue_id dialog dialog_id conversation conversation_id",
    "role": "role speaker",
    "text": "text utterance message",
    "items": "items item_ids",
    "user": "user user_id",
    "turn": "turn turn_id utterance_id utt_id",
    "part": "part split",
    **{name: name for name in ALIGNED},
}
"""Common names of the columns of a table of turns."""


def dataset_of_turns(source: Source, name: str = "data", *, unknown: Unknown = "refuse") -> Dataset:
    """The dataset of a table of turns; the items that they name, but for those not liked, are its interactions.

    Codes follow the sorted order of the ids, dialogues that of their users. Where parts are given they are the split.

    Raises:
        DataError: a value cannot be what its column says; the message names table, row, value and the mend.
    """
    table, at = _named(source), source.at
    codes, ids = coded(table.column("dialogue"), "dialogue id", at)
    first = np.flatnonzero(np.diff(codes, prepend=-1))
    stop = np.append(first[1:], len(codes))
    ids = ids.take(pa.array(codes[first]))
    _check_order(table, codes, first, ids, source)
    role, part = _role(table, source.label, at), _part(table, at)
    named, lengths, aligned = _lists(table, source.label, at)
    turn = np.repeat(np.arange(len(table)), lengths)
    users, user = coded_in(_rows(source, "user", _users(table, first, ids, at), first), "user", unknown)
    items, item = coded_in(_rows(source, "item", named, turn), "item", unknown)
    if not len(items):
        raise DataError(f"{source.label} names no item. List in the column items what each turn names.")

    known = item >= 0
    mentions = Ragged.from_pairs(turn[known], item[known], len(table))
    recommended = aligned.pop("recommended", role[turn] == RECOMMENDER)
    placed = [aligned.get(column, np.full(len(turn), -1)) for column in ("starts", "ends", "liked")]
    start, end, liked = (values[known].astype(kind) for values, kind in zip(placed, (np.int32, np.int32, np.int8)))
    text = pc.fill_null(table.column("text").cast(pa.string()), "").combine_chunks()
    turns = Turns(text, role, mentions, start, end, liked, recommended[known], part)
    if fault := turns.fault(len(items)):
        raise DataError(f"{at(fault[0])}: {fault[1]}. Mend the row.")
    talk = Dialogues(turns, first, stop, ids, user)
    talk = talk.take(np.argsort(user, kind="stable")).compact()
    dataset = Dataset(
        replace(items, roles={**items.roles, **source.roles}),
        users,
        talk.interactions(len(users), len(items))[0],
        name=name,
        repeats=source.repeats,
        ordered=True,
        extras={"dialogues": to_table(talk)},
    )
    return as_given(dataset) if (part != TRAIN).any() else dataset


def to_table(talk: Dialogues) -> pa.Table:
    """One row a turn, items and users as codes: dialogue, user, role, text, items, starts, ..., part."""
    own = talk.compact()
    turns, owner = own.turns, np.repeat(np.arange(len(own)), own.lengths)
    offsets = pa.array(turns.mentions.offsets.astype(np.int32))
    values = (turns.mentions.values, turns.start, turns.end, turns.liked, turns.recommended)
    lists = {n: pa.ListArray.from_arrays(offsets, pa.array(v)) for n, v in zip(("items", *ALIGNED), values)}
    first = {"dialogue": own.ids.take(pa.array(owner)), "user": own.user[owner], "role": _names(turns.role)}
    return pa.table({**first, "text": turns.text, **lists, "part": turns.part})


def from_table(table: pa.Table, n_users: int, n_items: int) -> Dialogues:
    """The dialogues that `to_table` wrote.

    Raises:
        ValueError: a value cannot be what its column says.
    """
    columns = {name: table.column(name).combine_chunks() for name in table.column_names}
    for name in ("dialogue", "user", "role", "text", "items", *ALIGNED, "part"):
        if name not in columns or columns[name].null_count:
            raise ValueError(f"{FILE} lacks {'values of' if name in columns else 'the column'} {name}")
    lists, lengths = {}, _lengths(columns["items"])
    for name in ("items", *ALIGNED):
        values = columns[name].flatten()
        if values.null_count or not np.array_equal(_lengths(columns[name]), lengths):
            raise ValueError(f"{FILE}: the lists of {name} lack values, or are not as long as those of items")
        lists[name] = values.to_numpy(zero_copy_only=False)
    role = pc.fill_null(pc.index_in(columns["role"], value_set=pa.array(ROLES)), -1)
    user, part = (columns[name].to_numpy() for name in ("user", "part"))
    mentions = Ragged.from_lengths(lists.pop("items"), lengths)
    text = columns["text"].cast(pa.string())
    turns = Turns(text, role.to_numpy().astype(np.int8), mentions, *lists.values(), part=part)
    fault, strange = turns.fault(n_items), np.flatnonzero((user < 0) | (user >= n_users))
    if len(strange) and (fault is None or strange[0] < fault[0]):
        fault = int(strange[0]), f"the user is none of the {n_users:,}"
    if fault is not None:
        raise ValueError(f"{FILE} row {fault[0] + 1:,}: {fault[1]}")
    dialogue = columns["dialogue"]
    begins = np.ones(len(dialogue), bool)
    begins[1:] = pc.not_equal(dialogue[1:], dialogue[:-1]).to_numpy(zero_copy_only=False)
    first = np.flatnonzero(begins)
    stop = np.append(first, len(dialogue))[1:]
    return Dialogues(turns, first, stop, dialogue.take(pa.array(first)), user[first])


def _named(source: Source) -> pa.Table:
    """The columns that are known, under the names used here."""
    assert source.turns is not None
    names = source.turns.column_names
    found = {ours: name for ours, known in NAMES.items() if (name := first_named(names, known)) is not None}
    missing = [name for name in NEEDED if name not in found]
    if missing:
        raise DataError(
            f"{source.label} has no column {missing[0]}; its columns are {', '.join(names)}."
            f"{did_you_mean(missing[0], names)} A table of turns has {', '.join(NEEDED[:-1])} and {NEEDED[-1]}."
        )
    if not len(source.turns):
        raise DataError(f"{source.label} is empty. It should hold at least one turn.")
    return source.turns.select(list(found.values())).rename_columns(list(found))


def _check_order(table: pa.Table, codes: np.ndarray, first: np.ndarray, ids: pa.Array, source: Source) -> None:
    """Refuses a dialogue that goes on after another began, and turns whose numbers do not rise."""
    mend, at = "Sort the rows by dialogue and turn.", source.at
    seen = np.ones(len(first), bool)
    seen[np.unique(codes[first], return_index=True)[1]] = False
    if seen.any():
        place = int(np.flatnonzero(seen)[0])
        raise DataError(
            f"{at(int(first[place]))}: dialogue {ids[place].as_py()!r} goes on after another one began. {mend}"
        )
    if "turn" not in table.column_names:
        return
    number = _cast(table.column("turn"), pa.int64(), "turn", source.label).to_numpy()
    falls = np.diff(number, prepend=number[:1] - 1) <= 0
    falls[first] = False
    if falls.any():
        row = int(np.flatnonzero(falls)[0])
        place = int(np.searchsorted(first, row, "right")) - 1
        raise DataError(
            f"{at(row)}: turn {number[row]} of dialogue {ids[place].as_py()!r} comes after turn {number[row - 1]}. "
            f"{mend}"
        )


def _role(table: pa.Table, label: str, at: At) -> Int8[np.ndarray, " turns"]:
    column = table.column("role").cast(pa.string())
    role = pc.fill_null(pc.index_in(column, value_set=pa.array(ROLES)), -1).to_numpy().astype(np.int8)
    if (role < 0).any():
        row = int(np.argmin(role))
        raise DataError(f"{at(row)}: the role {column[row].as_py()!r} is neither user nor recommender. Rename it.")
    if not (role == RECOMMENDER).any():
        raise DataError(f"{label}: none of the {len(role):,} turns is a recommender's. Check the column role.")
    return role


def _part(table: pa.Table, at: At) -> UInt8[np.ndarray, " turns"]:
    """The part of each turn, named train, valid or test, or by its code; all TRAIN where there is no such column."""
    if "part" not in table.column_names:
        return np.full(len(table), TRAIN, np.uint8)
    column = table.column("part")
    known, kind = (list(PARTS.values()), pa.int64()) if pa.types.is_integer(column.type) else (list(PARTS), pa.string())
    place = pc.fill_null(pc.index_in(column.cast(kind), value_set=pa.array(known, kind)), -1).to_numpy()
    if (place < 0).any():
        row = int(np.argmin(place))
        raise DataError(f"{at(row)}: the part {column[row].as_py()!r} is none of {', '.join(PARTS)}. Rename it.")
    return np.array(list(PARTS.values()), np.uint8)[place]


def _users(table: pa.Table, first: Int64[np.ndarray, " dialogues"], ids: pa.Array, at: At) -> pa.ChunkedArray:
    """Who speaks in each dialogue; the dialogues themselves where nobody is named."""
    if "user" not in table.column_names:
        return pa.chunked_array([ids])
    column = table.column("user")
    users = column.take(pa.array(first))
    place = np.searchsorted(first, np.arange(len(table)), "right") - 1
    differs = pc.fill_null(pc.not_equal(column, users.take(pa.array(place))), False).to_numpy()
    if differs.any():
        row = int(np.argmax(differs))
        two = f"{users[place[row]].as_py()!r} and {column[row].as_py()!r}"
        which = ids[place[row]].as_py()
        raise DataError(f"{at(row)}: dialogue {which!r} has the users {two}. Give each a dialogue of their own.")
    return users


def _lists(
    table: pa.Table, label: str, at: At
) -> tuple[pa.ChunkedArray, Int64[np.ndarray, " turns"], dict[str, np.ndarray]]:
    """The items named one after the other, how many each turn names, and the columns that run along with them."""
    columns = {name: table.column(name).combine_chunks() for name in ("items", *ALIGNED) if name in table.column_names}
    for name, column in columns.items():
        if not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type)):
            raise DataError(f"{at(0)}: {name} is of the type {column.type}. Give a list in each row.")
    lengths = {name: _lengths(column) for name, column in columns.items()}
    for name, counted in lengths.items():
        if (differs := counted != lengths["items"]).any():
            row = int(np.flatnonzero(differs)[0])
            raise DataError(
                f"{at(row)} has {lengths['items'][row]:,} items but {counted[row]:,} values of {name}. Mend the row."
            )
    flat = {name: column.flatten() for name, column in columns.items()}
    named = pa.chunked_array([flat.pop("items")])
    aligned = {}
    for name, values in flat.items():
        kind, missing = ALIGNED[name]
        aligned[name] = pc.fill_null(_cast(values, kind, name, label), missing).to_numpy(zero_copy_only=False)
    return named, lengths["items"], aligned


def _cast(values: Any, kind: pa.DataType, name: str, label: str) -> Any:
    try:
        return values.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise DataError(f"{label}: the column {name} cannot be read: {reason}. Mend it.") from None


def _lengths(column: pa.Array) -> Int64[np.ndarray, " rows"]:
    return pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False).astype(np.int64)


def _names(role: Int8[np.ndarray, " turns"]) -> pa.Array:
    return pa.array(ROLES).take(pa.array(role))


def _rows(source: Source, what: str, column: pa.ChunkedArray, rows: Int64[np.ndarray, " n"]) -> Source:
    """A source whose events are these users or items of these turns."""
    return replace(source, events=pa.table({what: column}), rows=rows if source.rows is None else source.rows[rows])
