"""What a model is fitted on again: its dataset, what the store has come to know since, and nothing that was deleted."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Int64

from itemic.data import Dataset, Ids, Interactions, Table
from itemic.serving.items import as_table, now_of, replaced
from itemic.serving.stores import Event, Store
from itemic.serving.stores.base import digest, now


@dataclass(frozen=True)
class Merged:
    """A dataset, and how much of a store is in it."""

    dataset: Dataset
    place: Int64[np.ndarray, " rows"]
    """Where in the store each interaction stands; 0 for those of the dataset that was there before."""
    learned: dict[str, int]
    """What its models say of the store: up to which place events and deletions are in them, and when it was read."""


def merged(data: Dataset, store: Store) -> Merged:
    """The dataset with the events and items of a store, without deleted items and what deleted users did before.

    Events of items that are in no catalogue are left out, and so are dialogues. A column of interactions is kept where
    events have it too: time, weight and kind. Feature matrices have nan for new items.

    Raises:
        DataError: an item of the store does not fit into the columns of the dataset.
    """
    learned = {"time": now(), **store.last_places()}
    forgotten = store.forgotten()
    places, events = store.placed(until=learned["events"])
    items, rows = _items(data, store)
    gone = [digest(str(name)) in forgotten for name in data.users.ids.array.to_pylist()] if forgotten else []
    kept = np.flatnonzero(~np.array(gone, bool)) if gone else np.arange(data.n_users)
    users = _users(data.users.take(kept), [event.user for event in events])
    log = _before(data, items, users, rows, kept)
    n_before = len(log)
    user = users.ids.codes([event.user for event in events]) if events else np.empty(0, np.int32)
    item = items.ids.codes([event.item for event in events]) if events else np.empty(0, np.int32)
    known = np.flatnonzero(item >= 0)
    log = _with_events(log, [events[n] for n in known], user[known], item[known])
    place = np.concatenate([np.zeros(n_before, np.int64), np.array(places, np.int64)[known]])
    order = log.order()
    if order is not None:
        log, place = log.select(order), place[order]
    features = {name: _lined_up(data.feature(name), rows) for name in data.features}
    made = replace(
        data, items=items, users=users, interactions=log, features=features, split=None, official=None, extras={},
        path=None,
    )  # fmt: skip
    return Merged(made, place, learned)


def _items(data: Dataset, store: Store) -> tuple[Table, Int64[np.ndarray, " items"]]:
    """The items as they are now, and the row of each in the dataset, -1 for a new one."""
    there, deleted = now_of(dict(store.items()))
    table = data.items
    row = np.setdiff1d(np.arange(len(table)), table.ids.codes(deleted)) if deleted else np.arange(len(table))
    table = table.take(row) if deleted else table
    if there:
        given = as_table(there, table)
        codes = table.ids.codes(given.ids.array)
        old, new = np.flatnonzero(codes >= 0), np.flatnonzero(codes < 0)
        table = replaced(table, codes[old], given.take(old)).extended(given.take(new))
        row = np.concatenate([row, np.full(len(new), -1)])
    return table, row


def _users(users: Table, came: Sequence[str]) -> Table:
    """The users, and behind them those who came; ids become text where one of these is no integer."""
    distinct = list(dict.fromkeys(came))
    if users.ids.are_integers and not all(_is_integer(name) for name in distinct):
        users = Table(Ids(users.ids.array.cast(pa.string()), "user"), users.frame, users.roles)
    new = [name for name, code in zip(distinct, users.ids.codes(distinct)) if code < 0]
    ids: Any = [int(name) for name in new] if users.ids.are_integers else new
    return users.extended(Table(Ids(pa.array(ids, users.ids.array.type), "user")))


def _is_integer(name: str) -> bool:
    """Whether an id is text that an integer would give."""
    return name.lstrip("-").isdigit() and len(name) < 19 and str(int(name)) == name


def _before(
    data: Dataset, items: Table, users: Table, rows: Int64[np.ndarray, " items"], kept: Int64[np.ndarray, " users"]
) -> Interactions:
    """The interactions of the dataset in the new codes, without those of users and items that are gone."""
    log = data.interactions
    item, user = (np.full(n, -1, np.int32) for n in (data.n_items, data.n_users))
    item[rows[rows >= 0]] = np.flatnonzero(rows >= 0)
    user[kept] = np.arange(len(kept))
    still: Bool[np.ndarray, " rows"] = (item[log.item] >= 0) & (user[log.user] >= 0)
    log = log.select(still)
    return replace(log, item=item[log.item], user=user[log.user], n_items=len(items), n_users=len(users), event_id=None)


def _with_events(log: Interactions, events: Sequence[Event], user: np.ndarray, item: np.ndarray) -> Interactions:
    """The interactions and then the events, in the columns that both have; not yet in order."""
    kinds = tuple(dict.fromkeys([*log.kinds, *(event.kind for event in events)]))
    number = {kind: n for n, kind in enumerate(kinds)}
    weight = np.array([event.weight for event in events], np.float32)
    came: dict[str, Any] = {
        "time": np.array([event.time for event in events], np.int64),
        "weight": weight,
        "kind": np.array([number[event.kind] for event in events], np.int16),
    }
    there = dict(log.columns)
    if (weight != 1).any():
        there.setdefault("weight", np.ones(len(log), np.float32))
    kept = {name: np.concatenate([there[name], column]) for name, column in came.items() if name in there}
    both = np.concatenate([log.user, user]), np.concatenate([log.item, item])
    return Interactions(*both, log.n_users, log.n_items, **kept, kinds=kinds if "kind" in kept else ())


def _lined_up(matrix: np.ndarray, rows: Int64[np.ndarray, " items"]) -> np.ndarray:
    """The rows of a feature matrix for the items as they are now; nan for a new one."""
    if (rows >= 0).all():
        return np.asarray(matrix)[rows]
    return np.where((rows >= 0)[:, None], np.asarray(matrix)[rows], np.nan).astype(np.float32)
