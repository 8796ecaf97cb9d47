"""Lists that any other tool made, read from a file of user, item and rank or score, to stand beside a model's own."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from itemic.data import Dataset, Ids, Query, Ragged, Ranking
from itemic.data.columns import find_columns, first_named
from itemic.data.readers.tables import read_delimited, readable, sniff, text_suffix
from itemic.errors import DataError, QueryError

RANKS, SCORES = "rank position place", "score prediction pred rating relevance"
"""Common names of the column that orders a user's items: best first by the lowest rank, or by the highest score."""


@dataclass(frozen=True)
class GivenLists:
    """Answers requests of known users with the lists of a file."""

    lists: Ragged
    """Item codes, best first, one row a user of the dataset; empty for those the file does not name."""

    def rank(self, query: Query, k: int = 10) -> Ranking:
        """The first k of each list that may be ranked: the same items are left out as for any model."""
        if query.user is None:
            raise QueryError("lists made elsewhere are those of users; this query does not say who asks.")
        given = self.lists.take(query.user)
        row, item = given.row_of_value, given.values
        open_ = ~_among(row, item, query.masked())
        if isinstance(query.candidates, Ragged):
            open_ &= _among(row, item, query.candidates)
        elif query.candidates is not None:
            open_ &= np.isin(item, query.candidates)
        kept = given.keep(open_)
        place = kept.places
        top = place < k
        items = np.full((len(kept), k), -1, np.int32)
        items[kept.row_of_value[top], place[top]] = kept.values[top]
        return Ranking(items, np.where(items >= 0, -np.arange(k), -np.inf).astype(np.float32))


def read_recommendations(path: str | Path, dataset: Dataset) -> GivenLists:
    """The lists of a file for the users of a dataset; ties of rank or score go to the lower item code.

    CSV, TSV or Parquet, also compressed, with columns that are recognised by common names. An item that stands twice in
    a list counts where it stands best.

    Raises:
        DataError: a column is missing, or a rank or score is not a number.
        UnknownItems: a user or item is not in the dataset.
    """
    path = Path(path)
    table, by_rank = _read(path)
    order = table.column(2).to_numpy()
    bad = np.flatnonzero(np.isnan(order))
    if len(bad):
        raise DataError(
            f"{path} row {bad[0] + 1:,}: the {table.column_names[2]} is missing. Fill it in or take the row out."
        )
    user = _codes(table.column(0), dataset.users.ids, path)
    item = _codes(table.column(1), dataset.items.ids, path)
    best_first = np.lexsort((item, order if by_rank else -order, user))
    user, item = user[best_first], item[best_first]
    _, first = np.unique(user.astype(np.int64) * dataset.n_items + item, return_index=True)
    first.sort()
    return GivenLists(Ragged.from_pairs(user[first], item[first], dataset.n_users))


def _read(path: Path) -> tuple[pa.Table, bool]:
    """The columns user, item and the one that orders, and whether that is a rank."""
    parquet = text_suffix(path) == ".parquet"
    with readable(path):
        delimiter, names = ("", pq.read_schema(path).names) if parquet else sniff(path)
    found = find_columns(names, None, str(path))
    left = [name for name in names if name not in (found["user"], found["item"])]
    rank = first_named(left, RANKS)
    by = rank or first_named(left, SCORES)
    if by is None:
        raise DataError(f"{path} has no rank or score column; its columns are {', '.join(names)}. Name one 'rank'.")
    columns = [found["user"], found["item"], by]
    if parquet:
        with readable(path):
            table = pq.read_table(path, columns=columns).select(columns)
    else:
        text = pa.dictionary(pa.int32(), pa.string())
        types = {columns[0]: text, columns[1]: text, by: pa.float64()}
        table = read_delimited(path, delimiter, types, only=columns)
    if len(table) == 0:
        raise DataError(f"{path} holds no rows. It should hold one for each recommendation.")
    try:
        return table.set_column(2, by, table.column(2).cast(pa.float64())), rank is not None
    except pa.ArrowException as error:
        raise DataError(f"{path}: the {by} column holds {table.column(2).type}, not numbers. Mend it.") from error


def _codes(column: pa.ChunkedArray, ids: Ids, path: Path) -> np.ndarray:
    """The code of each id, looked up once for each different one."""
    encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    encoded = encoded.unify_dictionaries().combine_chunks()
    if encoded.null_count:
        row = int(np.flatnonzero(encoded.is_null().to_numpy(zero_copy_only=False))[0]) + 1
        raise DataError(f"{path} row {row:,}: the {ids.what} id is missing. Fill it in or take the row out.")
    mend = f"Take their rows out of {path}, or compare on the dataset that they are from."
    return ids.known(encoded.dictionary.to_pylist(), mend)[encoded.indices.to_numpy()]


def _among(row: np.ndarray, item: np.ndarray, sets: Ragged) -> np.ndarray:
    """Which of the pairs (row, item) are in the row's set."""
    size = int(max(item.max(initial=0), sets.values.max(initial=0))) + 1
    return np.isin(row * size + item, sets.row_of_value * size + sets.values)
