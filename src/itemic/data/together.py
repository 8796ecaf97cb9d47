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
