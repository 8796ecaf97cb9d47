"""Rankings of many users written to a file, block by block, so that memory stays bounded."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from itemic.errors import DataError, SaveError
from itemic.progress import track

if TYPE_CHECKING:
    import polars as pl

    from itemic.data import Ranking
    from itemic.systems.base import Recommender

BLOCK = 8192
"""Users a block: their answers are what is held in memory at a time."""


def rank_to_file(
    model: "Recommender",
    path: Path,
    k: int,
    users: Sequence[Any] | None = None,
    ranking: "Ranking | None" = None,
    **limits: Any,
) -> int:
    """Writes user, rank, item, score (and title) of everybody, or of these users, to .parquet or .csv; gives the rows.

    `limits` are those of `ask`: candidates, exclude, where. A finished `ranking` is written as it is.

    Raises:
        DataError: the name ends with neither .parquet nor .csv.
        SaveError: the file cannot be written; what was there before is unchanged.
    """
    import polars as pl
    import pyarrow.csv
    import pyarrow.parquet

    if path.suffix not in (".parquet", ".csv"):
        raise DataError(f"cannot write {path}: its name must end with .parquet or .csv.")
    partial, rows, writer = path.with_name(f".{path.name}.partial"), 0, None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for frame in _frames(model, k, users, ranking, limits):
            arrow = frame.cast({pl.String: pl.String}).to_arrow(compat_level=pl.CompatLevel.oldest())
            if writer is None:
                parquet = path.suffix == ".parquet"
                writer = (pyarrow.parquet.ParquetWriter if parquet else pyarrow.csv.CSVWriter)(partial, arrow.schema)
            writer.write_table(arrow)
            rows += len(frame)
        if writer is not None:
            writer.close()
            os.replace(partial, path)
    except OSError as error:
        reason = error.strerror or error
        raise SaveError(f"cannot write {path}: {reason}. Free the place or give another with --out.") from error
    finally:
        if partial.exists():
            partial.unlink()
    return rows


def _frames(
    model: "Recommender", k: int, users: Sequence[Any] | None, ranking: "Ranking | None", limits: dict[str, Any]
) -> "Iterator[pl.DataFrame]":
    if ranking is not None:
        yield ranking.to_frame()
        return
    everybody = np.asarray(users, dtype=object) if users is not None else None
    n = model.catalogue.n_users if everybody is None else len(everybody)
    for start in track(range(0, n, BLOCK), f"ranking for {n:,} users", (n + BLOCK - 1) // BLOCK):
        block = np.arange(start, min(start + BLOCK, n))
        ids = model.catalogue.users.ids.external(block) if everybody is None else everybody[block]
        query = model.ask(users=ids, **limits)
        assert query.user is not None
        yield model.rank(query, k).to_frame(model.catalogue.users.ids.external(query.user))
