"""Items or users: their ids and any typed columns beside them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool

from itemic.data.ids import Ids
from itemic.errors import DataError, did_you_mean, some

NAMES_OF_ROLE = {
    "title": ("title", "name", "product_name", "movie_title", "item_name"),
    "category": ("category", "category_path", "main_category"),
    "attributes": ("attributes", "tags"),
}
"""Common names of the columns that have one of these roles; the first that is there has it."""


@dataclass(frozen=True)
class Table:
    """One row an item (or user), in the order of their codes.

    `roles` says what columns are for: {"title": ["title"], "text": ["title", "description"], "image": ["image"]}. A
    `category` is a path, its levels in a list or joined by " > "; `attributes` are a set of values.
    """

    ids: Ids
    source: "pa.Table | Path | None" = None
    """The columns beside the id: in memory, or a Parquet file that is read when a column is first asked for."""
    roles: Mapping[str, list[str]] = field(default_factory=dict)

    @classmethod
    def numbered(cls, n: int, what: str = "item") -> "Table":
        """n rows with the ids 0 to n - 1 and no columns."""
        return cls(Ids.numbered(n, what))

    @classmethod
    def of(cls, ids: Ids, columns: Mapping[str, object], roles: Mapping[str, list[str]] | None = None) -> "Table":
        """A table of named columns (arrays or lists, one value a row); roles are guessed where they are not given."""
        return cls(ids, pa.table(dict(columns)), roles if roles is not None else guessed_roles(list(columns)))

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def frame(self) -> pa.Table:
        """The columns beside the id."""
        if isinstance(self.source, Path):
            table = pq.read_table(self.source)
            return table.drop_columns(["id"])
        return self.source if self.source is not None else pa.table({})

    @property
    def names(self) -> list[str]:
        return self.frame.column_names

    def column(self, name: str) -> pa.ChunkedArray:
        """The values of one column, one a row.

        Raises:
            DataError: there is no such column.
        """
        if name not in self.names:
            listed = ", ".join(self.names) or "none"
            raise DataError(
                f"{self.ids.what}s have no column '{name}'.{did_you_mean(name, self.names)} Columns: {listed}."
            )
        return self.frame.column(name)

    def titles(self, codes: "np.ndarray | Iterable[int]") -> list[str | None]:
        """What to show for these codes: the title column's text, None where there is none."""
        codes = np.asarray(codes, dtype=np.int64)
        title = self.roles.get("title")
        if not title:
            return [None] * len(codes)
        return self.column(title[0]).take(pa.array(codes)).cast(pa.string()).to_pylist()

    def where(self, condition: str) -> Bool[np.ndarray, " rows"]:
        """Which rows satisfy an SQL condition on the columns and `id`, such as "brand = 'X' and price < 20".

        Raises:
            DataError: the condition cannot be read or names a column that is not there.
        """
        import polars as pl

        frame = pl.from_arrow(self.frame.append_column("id", pa.chunked_array([self.ids.array])))
        assert isinstance(frame, pl.DataFrame)
        try:
            mask = frame.select(pl.sql_expr(condition).cast(pl.Boolean).fill_null(False).alias("keep"))["keep"]
        except pl.exceptions.PolarsError as error:
            reason = str(error).splitlines()[0]
            columns = ", ".join(frame.columns)
            raise DataError(f"cannot apply --where {condition!r}: {reason}. Columns: {columns}.") from error
        return np.broadcast_to(mask.to_numpy(), (len(self),)).copy()

    def take(self, codes: np.ndarray) -> "Table":
        """The table of these rows, which get the codes 0, 1, ... in this order."""
        rows = pa.array(np.asarray(codes, dtype=np.int64))
        return Table(Ids(self.ids.array.take(rows), self.ids.what), self.frame.take(rows), self.roles)

    def extended(self, more: "Table") -> "Table":
        """The rows of this table and then those of another, in the columns of this one; null where that lacks one.

        >>> table = Table.of(Ids(["a"]), {"title": ["cup"], "price": [2]})
        >>> longer = table.extended(Table.of(Ids(["b"]), {"title": ["pot"], "size": [3]}))
        >>> longer.ids.array.to_pylist(), longer.frame.to_pydict()
        (['a', 'b'], {'title': ['cup', 'pot'], 'price': [2, None]})

        Raises:
            DataError: an id is in both, or a value is not of the kind that its column here holds.
        """
        what = self.ids.what
        twice = more.ids.array.filter(pa.array(self.ids.codes(more.ids.array) >= 0))
        if len(twice):
            raise DataError(
                f"{len(twice):,} of {len(more):,} new {what}s are known already: {some(twice.to_pylist())}. "
                "Leave them out."
            )
        if self.ids.are_integers and not more.ids.are_integers:
            raise DataError(f"{what} ids are integers here, not text as {more.ids.array[0].as_py()!r}. Give integers.")
        columns = {}
        for name in self.names:
            ours = self.frame.column(name)
            try:
                given = more.column(name) if name in more.names else pa.chunked_array([pa.nulls(len(more))])
                new = given.cast(ours.type)
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
                reason = str(error).splitlines()[0].rstrip(".")
                raise DataError(f"column '{name}' of the new {what}s does not fit: {reason}. Mend it.") from None
            columns[name] = pa.chunked_array([*ours.chunks, *new.chunks], ours.type)
        ids = pa.concat_arrays([self.ids.array, more.ids.array.cast(self.ids.array.type)])
        return Table(Ids(ids, what), pa.table(columns), self.roles)

    def write(self, path: Path) -> None:
        """Writes ids and columns as one Parquet file."""
        columns = {"id": self.ids.array} | {name: self.frame.column(name) for name in self.names}
        pq.write_table(pa.table(columns), path, compression="zstd")

    @classmethod
    def read(cls, path: Path, what: str, roles: Mapping[str, list[str]] | None = None) -> "Table":
        """The table of a Parquet file written by `write`; columns other than the id are read when needed."""
        return cls(Ids(pq.read_table(path, columns=["id"]).column("id"), what), path, roles or {})


def guessed_roles(names: list[str]) -> dict[str, list[str]]:
    """Which columns are the title, texts, images, the category and the attributes, judged by their names.

    >>> guessed_roles(["title", "description", "price", "category"])
    {'title': ['title'], 'text': ['title', 'description'], 'category': ['category']}
    """
    one = {role: [name for name in known if name in names][:1] for role, known in NAMES_OF_ROLE.items()}
    text = one["title"] + [name for name in ("description", "text", "plot", "abstract", "review") if name in names]
    image = [name for name in ("image", "image_path", "picture", "image_bytes") if name in names]
    roles = {"title": one.pop("title"), "text": text, "image": image, **one}
    return {role: found for role, found in roles.items() if found}
