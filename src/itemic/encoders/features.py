"""Features: items as the vectors that stand in a feature matrix of the dataset, looked up by id.

Choose it where vectors were made elsewhere: by a model that does not run here, or for other items too. What it was
fitted on is kept with it. An item that is new has the vector that its column of the same name holds.
"""

from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute
from jaxtyping import Float32
from pydantic import Field

from itemic.data import Dataset, Table
from itemic.errors import DataError, some
from itemic.model import Encoder, ModelConfig
from itemic.progress import report
from itemic.registry import encoder

pc: Any = pyarrow.compute  # its functions are made at import, out of a type checker's sight
BLOCK = 1 << 16
"""Rows looked at together: a matrix may be larger than memory."""


class Config(ModelConfig):
    name: str = Field("vectors", min_length=1)
    """The matrix: `features/NAME.npy` in the dataset's folder, or an item column of that name with a list an item."""


@encoder("features", needs=["items"])
class Features(Encoder[Config]):
    def survey(self, train: Dataset) -> None:
        name = self.config.name
        is_column = name not in train.features and name in train.items.names
        self._matrix = _listed(train.items, name) if is_column else train.feature(name)
        missing = _missing(self._matrix, name, train.items)
        if missing == train.n_items:
            raise DataError(f"no row of feature matrix '{name}' of {train.name} holds a vector. Make it again.")
        if missing:
            report(f"{missing:,} of {train.n_items:,} items have no vector in '{name}': theirs are nan", 1, 1)
        self.shape = {"dim": int(self._matrix.shape[1])}

    def solve(self, train: Dataset) -> dict[str, np.ndarray]:
        matrix = self._matrix
        del self._matrix
        return {"vectors": matrix.astype(np.float32, copy=False)}

    def adopt(self, train: Dataset) -> Self:
        """The same for items of other data, by the matrix of the same name there.

        Raises:
            DataError: it is not there, or its vectors have another width.
        """
        other = self.moved(train)
        other.survey(train)
        if other.dim != self.dim:
            raise DataError(
                f"vectors in '{self.config.name}' of {train.name} have width {other.dim:,}, those before {self.dim:,}. "
                "Make them by the same model."
            )
        other.weights = other.solve(train)
        return other

    @property
    def dim(self) -> int:
        return self.shape["dim"]

    def encode(self, content: Table) -> Float32[np.ndarray, "rows dim"]:
        codes, kept, name = self.catalogue.items.ids.codes(content.ids.array), self.weights["vectors"], self.config.name
        if np.array_equal(codes, np.arange(len(kept))):
            return kept
        vectors = kept[codes]
        new = np.flatnonzero(codes < 0)
        if not len(new):
            return vectors
        vectors[new] = np.nan
        if name in content.names:
            items = content.take(new)
            given = _listed(items, name)
            if given.shape[1] not in (0, self.dim):
                raise DataError(
                    f"new items have vectors of width {given.shape[1]:,} in '{name}', the others {self.dim:,}. "
                    "Make them by the same model."
                )
            if given.shape[1]:
                _missing(given, name, items)
                vectors[new] = given
        bare = int(np.isnan(vectors[new, 0]).sum())
        if bare:
            report(f"{bare:,} of {len(new):,} new items have no vector in '{name}': theirs are nan", 1, 1)
        return vectors


def _listed(items: Table, name: str) -> Float32[np.ndarray, "items dim"]:
    """A column of lists of numbers as a matrix; nan where there is none.

    Raises:
        DataError: it holds something else, or lists of different lengths.
    """
    column = items.column(name)
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    is_list = pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
    is_list = is_list or pa.types.is_fixed_size_list(column.type)
    kind = column.type.value_type if is_list else None
    if kind is None or not (pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind)):
        raise DataError(f"items.{name} holds {column.type}, no vectors. Name a column of lists of numbers.")
    lengths = pc.unique(pc.list_value_length(column).drop_null()).to_pylist()
    if len(lengths) > 1:
        raise DataError(f"items.{name} holds vectors of {min(lengths):,} to {max(lengths):,} numbers. Make all alike.")
    matrix = np.full((len(column), lengths[0] if lengths else 0), np.nan, np.float32)
    there = column.is_valid().to_numpy(zero_copy_only=False)
    flat = pc.list_flatten(column.drop_null()).cast(pa.float32()).to_numpy(zero_copy_only=False)
    matrix[there] = flat.reshape(-1, matrix.shape[1]) if matrix.shape[1] else 0
    return matrix


def _missing(matrix: np.ndarray, name: str, items: Table) -> int:
    """How many rows are no vector, all nan.

    Raises:
        DataError: others hold nan or infinite numbers.
    """
    missing, broken = 0, []
    for start in range(0, len(matrix), BLOCK):
        block = matrix[start : start + BLOCK]
        lacking = np.isnan(block).all(1)
        broken += (start + np.flatnonzero(~np.isfinite(block).all(1) & ~lacking)).tolist()
        missing += int(lacking.sum())
    if broken:
        ids = some(items.ids.array.take(pa.array(broken[:3])).to_pylist())
        raise DataError(
            f"{len(broken):,} of {len(matrix):,} vectors in '{name}' hold nan or infinite numbers beside others, as of "
            f"{ids}. Make them again, or nan throughout where an item has none."
        )
    return missing
