"""Several datasets as one: for models that learn from many catalogues at once."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
from jaxtyping import Int16

from itemic.data.dataset import TRAIN, Dataset
from itemic.data.ids import Ids
from itemic.data.interactions import COLUMNS, Interactions
from itemic.data.matching import matched
from itemic.data.ragged import Ragged
from itemic.data.table import Table
from itemic.data.turns import to_table
from itemic.errors import DataError

pc: Any = pyarrow.compute  # its functions are made at import, out of a type checker's sight


def together(sets: Sequence[Dataset], name: str | None = None) -> Dataset:
    """What `Dataset.together` gives."""
    names = [data.name for data in sets]
    twice = sorted({each for each in names if names.count(each) > 1})
    if len(sets) < 2 or twice:
        why = f"two are named {twice[0]!r}. Rename one" if twice else f"there is {len(sets)}. Give two or more"
        raise DataError(f"datasets cannot be put together: {why}.")
    logs = [data.interactions for data in sets]
    n_users, n_items = (np.cumsum([0, *(getattr(data, n) for data in sets)]) for n in ("n_users", "n_items"))
    kinds = tuple(dict.fromkeys(kind for log in logs for kind in log.kinds))
    kept = {
        column: np.concatenate([_column(log, column, kinds) for log in logs])
        for column in COLUMNS[2:]
        if all(column in log.columns for log in logs)
    }
    user, item = (
        np.concatenate([log.columns[what] + first for log, first in zip(logs, n)]).astype(np.int32)
        for what, n in (("user", n_users), ("item", n_items))
    )
    return Dataset(
        _rows([data.items for data in sets], names),
        _rows([data.users for data in sets], names),
        Interactions(user, item, int(n_users[-1]), int(n_items[-1]), **kept, kinds=kinds if "kind" in kept else ()),
        name=name or "+".join(names),
        extras=_dialogues(sets, n_users, n_items),
        repeats=any(data.repeats for data in sets),
        ordered=all(data.ordered or data.interactions.time is not None for data in sets),
    )


def lent(train: Dataset, other: Dataset) -> tuple[Dataset, dict[str, int]]:
    """A train part with the users of another dataset behind its own, and what they took of items that both have; and
    how many items these are. Times, ratings and kinds are not kept, nor those who took nothing that is here.

    >>> a = Dataset.from_frame({"user": [1], "item": [7]}, items={"item": [7, 8], "title": ["Heat (1995)", "Ronin"]})
    >>> b = {"item": ["x", "y"], "title": ["Heat (1995)", "Up (2009)"]}
    >>> b = Dataset.from_frame({"user": [1, 1, 2], "item": ["x", "y", "y"]}, items=b, name="b")
    >>> both, found = lent(a, b)
    >>> both.users.ids.array.to_pylist(), both.interactions.histories().to_lists()
    (['1', 'b/1'], [[0], [0]])
    >>> found
    {'items': 2, 'by title and year': 1, 'by IMDb id': 0, 'taken': 1, 'users': 1, 'interactions': 1}

    Raises:
        DataError: the items of one have neither IMDb ids nor titles, or none of them is in both.
    """
    found, theirs, own = matched(train.items, other.items), other.interactions, train.interactions
    here = np.flatnonzero(found.codes >= 0)
    items = Ragged.from_pairs(found.codes[here], here, other.n_items)  # two of ours may be one of theirs
    same = items.take(theirs.item)
    if not len(same.values):
        raise DataError(
            f"{other.name} lends {train.name} nothing: nobody there took an item that is in both, by IMDb id or by "
            "title and year. Name another set."
        )
    who, user = np.unique(theirs.user[same.row_of_value], return_inverse=True)
    taken = Interactions(
        np.concatenate([own.user, train.n_users + user]).astype(np.int32),
        np.concatenate([own.item, same.values]).astype(np.int32),
        train.n_users + len(who),
        train.n_items,
    )
    lenders = other.users.ids.array.take(pa.array(who)).cast(pa.string())
    ids = pc.binary_join_element_wise(pa.scalar(f"{other.name}/"), lenders, "")
    frame = train.users.frame
    nobody = pa.table({name: pa.nulls(len(who), frame.schema.field(name).type) for name in frame.column_names})
    whole = pa.concat_arrays([train.users.ids.array.cast(pa.string()), ids])
    users = Table(Ids(whole, train.users.ids.what), pa.concat_tables([frame, nobody]), train.users.roles)
    facts = {
        "items": train.n_items,
        "by title and year": int(len(here) - found.by_id.sum()),
        "by IMDb id": int(found.by_id.sum()),
        "taken": len(np.unique(same.values)),
        "users": len(who),
        "interactions": len(same.values),
    }
    ordered = train.ordered and (other.ordered or theirs.time is not None)
    return replace(train, users=users, interactions=taken, ordered=ordered), facts


def _column(log: Interactions, name: str, kinds: Sequence[str]) -> np.ndarray:
    if name != "kind":
        return log.columns[name]
    number: Int16[np.ndarray, " kinds"] = np.array([kinds.index(kind) for kind in log.kinds], np.int16)
    return number[log.columns[name]]


def _dialogues(sets: Sequence[Dataset], n_users: np.ndarray, n_items: np.ndarray) -> dict[str, pa.Table]:
    """The dialogues of all sets that have any, in the codes of the whole and without parts."""
    tables = []
    for data, user, item in zip(sets, n_users, n_items):
        if "dialogues" not in data.extras:
            continue
        talk, prefix = data.dialogues, pa.scalar(f"{data.name}/")
        turns, mentions = talk.turns, talk.turns.mentions
        moved = Ragged((mentions.values + item).astype(np.int32), mentions.offsets)
        turns = replace(turns, mentions=moved, part=np.full(len(turns), TRAIN, np.uint8))
        ids = pc.binary_join_element_wise(prefix, talk.ids.cast(pa.string()), "")
        tables.append(to_table(replace(talk, turns=turns, ids=ids, user=(talk.user + user).astype(np.int32))))
    return {"dialogues": pa.concat_tables(tables)} if tables else {}


def _rows(tables: Sequence[Table], names: Sequence[str]) -> Table:
    """The rows of all tables, in the columns that any of them has, and `source`; ids begin with the name of theirs."""
    what, frames, ids = tables[0].ids.what, [], []
    roles: dict[str, list[str]] = {}
    for table, name in zip(tables, names):
        prefix = pa.scalar(f"{name}/")
        ids.append(pc.binary_join_element_wise(prefix, table.ids.array.cast(pa.string()), ""))
        source = pa.repeat(name, len(table))
        frame = table.frame if table.names else pa.table({"source": source})
        frames.append(frame if "source" in frame.column_names else frame.append_column("source", source))
        for role, columns in table.roles.items():
            roles[role] = list(dict.fromkeys([*roles.get(role, []), *columns]))
    try:
        frame = pa.concat_tables(frames, promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise DataError(f"the {what} tables of {', '.join(names)} do not fit together: {reason}. Rename it.") from None
    return Table(Ids(pa.concat_arrays(ids), what), frame, roles)
