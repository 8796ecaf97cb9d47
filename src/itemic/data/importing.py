"""Datasets from frames and files: what `Dataset.from_frame` and `itemic data import` do."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from itemic.data.building import Unknown, dataset_of, finite
from itemic.data.columns import Columns
from itemic.data.dataset import TEST, TRAIN, VALID, Dataset
from itemic.data.ids import Ids
from itemic.data.query import EvalSet
from itemic.data.ragged import Ragged
from itemic.data.readers.inspired import is_inspired, read_inspired
from itemic.data.readers.known import KNOWN, is_known
from itemic.data.readers.lists import no_columns, part_file, read_lightgcn, read_sequences
from itemic.data.readers.movielens import is_movielens, read_movielens
from itemic.data.readers.recbole import is_recbole, read_recbole
from itemic.data.readers.redial import is_redial, read_redial
from itemic.data.readers.source import Source, in_parts, source_of
from itemic.data.readers.tables import (
    TABLES,
    first_lines,
    id_first,
    read_csv,
    read_events,
    read_json,
    read_parquet,
    read_table,
    read_turns,
    text_suffix,
)
from itemic.data.table import Table, guessed_roles
from itemic.errors import DataError, LeakError, did_you_mean, some


def from_frame(
    frame: Any,
    *,
    items: Any = None,
    users: Any = None,
    columns: Columns = None,
    test: Any = None,
    name: str = "data",
    repeats: bool = False,
) -> Dataset:
    """The dataset of a Polars, pandas or Arrow table or a dict of columns; see `Dataset.from_frame`.

    >>> data = from_frame({"userId": [7, 7, 9], "movieId": ["b", "a", "a"], "timestamp": [20, 10, 30]})
    >>> data.users.ids.array.to_pylist(), data.interactions.histories().to_lists(), data.interactions.time.tolist()
    ([7, 9], [[0, 1], [0]], [10000, 20000, 30000])

    Raises:
        DataError: a column is missing or holds what it cannot; the message names row and column.
        LeakError: a row of `test` is in `frame` too, and repeats are not declared.
    """
    source = source_of(_arrow(frame), columns)
    if test is not None:
        source = in_parts({TRAIN: source, TEST: source_of(_arrow(test), columns, "the test rows")}, source.label)
    if items is not None:
        source = replace(source, items=id_first(_arrow(items), "item", source="the item table"))
    if users is not None:
        source = replace(source, users=id_first(_arrow(users), "user", source="the user table"))
    return dataset_of(source, name, repeats=repeats)


def from_dialogues(frame: Any, *, items: Any = None, name: str = "data", repeats: bool = True) -> Dataset:
    """The dataset of a table of turns, a frame or a dict of columns; see `Dataset.from_dialogues`.

    Raises:
        DataError: a column is missing or holds what it cannot; the message names row and value.
    """
    source = Source(pa.table({}), "the table of turns", turns=_arrow(frame), repeats=repeats)
    if items is not None:
        source = replace(source, items=id_first(_arrow(items), "item", source="the item table"))
    return dataset_of(source, name)


def import_files(
    events: str | Path,
    *,
    items: str | Path | None = None,
    users: str | Path | None = None,
    test: str | Path | None = None,
    valid: str | Path | None = None,
    columns: Columns = None,
    form: str = "auto",
    name: str | None = None,
    repeats: bool = False,
    unknown: Unknown = "refuse",
) -> Dataset:
    """The dataset of a file or folder in any form of `FORMS`, in memory; `save` writes it.

    `test` and `valid` are files of the same kind as `events` that are held out; `items` and `users` are tables with an
    id column. `unknown` says what becomes of events whose item or user is not in its table.

    Raises:
        DataError: a file cannot be read, or a value cannot be what its column says.
        LeakError: a held-out row is in the events too, and repeats are not declared.
    """
    path = Path(events)
    source = _read(path, form, columns)
    held = {VALID: valid, TEST: test}
    parts = {part: read_events(Path(file), columns) for part, file in held.items() if file is not None}
    if parts and source.turns is not None:
        raise DataError(
            f"{path} holds dialogues, whose parts stand beside their turns. Name them there: train, valid, test."
        )
    if parts:
        source = in_parts({TRAIN: source, **parts}, source.label)
    if items is not None:
        source = replace(source, items=read_table(Path(items), "item"), items_label=str(items))
    if users is not None:
        source = replace(source, users=read_table(Path(users), "user"), users_label=str(users))
    name = name or path.name.split(".")[0]
    return dataset_of(source, name, repeats=repeats, unknown=unknown)


def eval_set(frame: Any, dataset: Dataset, columns: Columns = None) -> EvalSet:
    """Requests of one's own for a dataset: a frame or file of user, item and optionally rating as grade.

    What each user did in the train part is the history, which is masked. A grade of 0 or less is not relevant; users
    without anything relevant are left out and counted.

    >>> data = from_frame({"user": ["u", "v"], "item": ["a", "b"]})
    >>> wanted = eval_set({"user": ["v"], "item": ["a"]}, data)
    >>> wanted.query.history.to_lists(), wanted.relevant.to_lists()
    ([[1]], [[0]])

    Raises:
        DataError: a column is missing, or an item or user is not in the dataset.
        LeakError: a pair is in the train part too, and repeats are not declared.
    """
    is_file = isinstance(frame, str | Path)
    source = read_events(Path(frame), columns) if is_file else source_of(_arrow(frame), columns, "the test rows")
    user, item = (_known(source, what, ids) for what, ids in (("user", dataset.users.ids), ("item", dataset.items.ids)))
    pairs, row = np.unique(user.astype(np.int64) * dataset.n_items + item, return_inverse=True)
    everybody, grades = np.unique(user), None
    if "rating" in source.events.column_names:
        grades = np.full(len(pairs), -np.inf, np.float32)
        np.maximum.at(grades, row, finite(source, "rating"))
        pairs, grades = pairs[grades > 0], grades[grades > 0]
    user, item = pairs // dataset.n_items, (pairs % dataset.n_items).astype(np.int32)
    if len(pairs) == 0:
        raise DataError(f"nothing in {source.label} is relevant: no row, or none with a rating above 0.")
    train = dataset.train
    if not dataset.repeats:
        _refuse_leak(train, pairs, source.label)
    asking = np.unique(user)
    query = train.query_of(asking)
    trained = np.diff(train.interactions.offsets)[asking] > 0
    query = replace(query, user=np.where(trained, asking, -1).astype(np.int32))
    relevant = Ragged.from_pairs(np.searchsorted(asking, user), item, len(asking))
    return EvalSet(query, relevant, grades, n_skipped=len(everybody) - len(asking), users=asking.astype(np.int32))


def item_table(frame: Any) -> Table:
    """Items in the order of the rows of a Polars, pandas or Arrow table or a dict of columns, one of them their ids.

    >>> items = item_table({"item_id": [7, 3], "title": ["pot", ""]})
    >>> items.ids.array.to_pylist(), items.roles
    ([7, 3], {'title': ['title'], 'text': ['title']})

    Raises:
        DataError: there is no id column, or an id is missing or stands in two rows.
    """
    table = id_first(_arrow(frame), "item", source="the item table")
    columns = table.remove_column(0)
    return Table(Ids(table.column(0)), columns, guessed_roles(columns.column_names))


def _known(source: Source, what: str, ids: Ids) -> np.ndarray:
    listed = source.events.column(what)
    codes = ids.codes(listed)
    if (codes < 0).any():
        unknown = dict.fromkeys(listed[int(row)].as_py() for row in np.flatnonzero(codes < 0))
        raise DataError(
            f"{source.label}: {len(unknown):,} {what}s are not in the dataset: {some(unknown)}. "
            "Take their rows out, or import the file with the data (--test)."
        )
    return codes


def _refuse_leak(train: Dataset, pairs: np.ndarray, label: str) -> None:
    log = train.interactions
    leaking = pairs[np.isin(pairs, log.user.astype(np.int64) * train.n_items + log.item)]
    if len(leaking):
        user = train.users.ids.external(leaking[:1] // train.n_items)[0]
        item = train.items.ids.external(leaking[:1] % train.n_items)[0]
        raise LeakError(
            f"{len(leaking):,} of {len(pairs):,} pairs of {label} are in the train part of {train.name} too, the first "
            f"of user {user!r} with item {item!r}. Take them out of one of the two, or declare --repeats."
        )


def _arrow(frame: Any) -> pa.Table:
    """Any table as an Arrow table; nothing is copied where the columns are Arrow's already."""
    if isinstance(frame, pa.Table):
        return frame
    if isinstance(frame, Mapping):
        columns = {name: column if isinstance(column, pa.Array) else list(column) for name, column in frame.items()}
        try:
            return pa.table(columns)
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            reason = str(error).splitlines()[0]
            raise DataError(
                f"the columns make no table: {reason}. Give lists of one length, each of one type."
            ) from None
    if type(frame).__name__ == "LazyFrame":
        frame = frame.collect()
    if hasattr(frame, "to_arrow"):
        return frame.to_arrow()
    if type(frame).__module__.startswith("pandas"):
        return pa.Table.from_pandas(frame, preserve_index=False)
    raise DataError(
        f"{type(frame).__name__} is not a table. Give a Polars, pandas or Arrow table or a dict of columns."
    )


FORMS: dict[str, Callable[[Path, Columns], Source]] = {
    "csv": read_csv,
    "tsv": read_csv,
    "parquet": read_parquet,
    "json": read_json,
    "movielens": read_movielens,
    "recbole": read_recbole,
    "lightgcn": read_lightgcn,
    "sequences": read_sequences,
    "dialogues": read_turns,
    "redial": read_redial,
    "inspired": read_inspired,
}
"""What reads each form, by the name that `--form` takes."""


def _read(path: Path, form: str, columns: Columns) -> Source:
    if form != "auto" and form not in FORMS:
        raise DataError(f"there is no form {form!r}.{did_you_mean(form, FORMS)} Forms: auto, {', '.join(FORMS)}.")
    if form in ("csv", "tsv", "parquet", "json") and path.is_dir():
        path = _only_table(path)
    if form != "auto":
        return FORMS[form](path, columns)
    if is_movielens(path):
        return read_movielens(path, columns)
    if is_recbole(path):
        return read_recbole(path, columns)
    if is_redial(path):
        return read_redial(path, columns)
    if is_inspired(path):
        return read_inspired(path, columns)
    return _read_folder(path, columns) if path.is_dir() else _read_file(path, columns)


def _read_folder(folder: Path, columns: Columns) -> Source:
    if (folder / "manifest.json").is_file():
        raise DataError(f"{folder} is a dataset already. Use it as it is: itemic fit ease {folder}")
    if is_known(folder):
        no_columns(folder, columns)
        return KNOWN[folder.name].read(folder)
    if part_file(folder, "train.txt") is not None:
        return read_lightgcn(folder, columns)
    return read_events(_only_table(folder), columns)


def _only_table(folder: Path) -> Path:
    """The single table in a folder; what `download` notes beside a file, FILE.json, is none."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    tables = [path for path in files if text_suffix(path) in TABLES and path.with_suffix("") not in files]
    if len(tables) != 1:
        names = some((path.name for path in files), 8) or "no file"
        raise DataError(f"{folder} is not in a known layout; it holds {names}. Give the file of interactions itself.")
    return tables[0]


def _read_file(path: Path, columns: Columns) -> Source:
    """Lines of different length without commas are sequences, where the suffix does not say what the file is."""
    if text_suffix(path) not in TABLES and path.is_file() and path.stat().st_size:
        lines = first_lines(path, 100)[:-1]  # the last may be cut off
        ragged = len({len(line.split()) for line in lines}) > 1
        if ragged and not any(sign in "".join(lines) for sign in ",;|\t"):
            return read_sequences(path, columns)
    return read_events(path, columns)
