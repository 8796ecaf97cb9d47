"""What systems that read an encoder's vectors share: one vector an item, and lists without items that have none."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

from itemic.data import Dataset, Table
from itemic.encoders.base import present
from itemic.errors import DataError
from itemic.model import C, Encoder, M, part
from itemic.progress import report
from itemic.systems.base import Recommender


class ByContent(Recommender[C, M]):
    """Comes before the base by which a system ranks; the system fills `tables["ranked"]`, which marks what may be."""

    vectors: Encoder = part("text")

    def survey(self, train: Dataset) -> None:
        self._content = self.content_of(train.items)
        if not present(self._content).any():
            raise DataError(
                f"{self.entry.name}: none of the {train.n_items:,} items has a vector by {self.vectors.entry.name}. "
                "Give them what it reads."
            )
        self.shape = {"content": self._content.shape[1]}

    def content_of(self, items: Table) -> Float32[np.ndarray, "items content"]:
        """The vector of each item by the part `vectors`; nan where it has none.

        Raises:
            DataError: there are more or fewer vectors than items.
        """
        vectors, n = np.asarray(self.vectors.encode(items), np.float32), len(items)
        name, encoder = self.entry.name, self.vectors.entry.name
        if len(vectors) != n:
            raise DataError(
                f"{name}: {encoder} gave {len(vectors):,} vectors for {n:,} items. Make them again, one for each item."
            )
        there = present(vectors)
        if there.all():
            return vectors
        report(f"{n - there.sum():,} of {n:,} items have no vector by {encoder}: {name} cannot tell them apart", 1, 1)
        return np.where(there[:, None], vectors, np.float32(np.nan))

    def _rank_block(self, query: Any, k: int, allowed: Bool[np.ndarray, " items"] | None) -> tuple:
        ranked = self.tables["ranked"]
        return super()._rank_block(query, k, ranked if allowed is None else ranked & allowed)

    def _score_candidates(self, query: Any) -> Float32[np.ndarray, " candidates"]:
        ranked = self.tables["ranked"][query.candidates.values]
        return np.where(ranked, super()._score_candidates(query), np.float32(-np.inf))


def without_nan(
    vectors: Float32[np.ndarray, "rows content"],
) -> tuple[Float[Tensor, "rows content"], Int64[Tensor, " bare"]]:
    """The vectors with 0 in place of nan, and which rows are none: a network reads the first and undoes the second.

    >>> without_nan(np.array([[1, 2], [np.nan, np.nan]], np.float32))
    (tensor([[1., 2.],
            [0., 0.]]), tensor([1]))
    """
    bare = np.flatnonzero(~present(vectors))
    return torch.from_numpy(np.nan_to_num(vectors) if len(bare) else vectors), torch.from_numpy(bare)


def added(tables: Mapping[str, np.ndarray], **new: np.ndarray) -> dict[str, np.ndarray]:
    """The tables with rows appended to those that are named.

    >>> added({"a": np.array([1]), "b": np.array([2])}, a=np.array([3]))
    {'a': array([1, 3]), 'b': array([2])}
    """
    return {**tables, **{name: np.concatenate([tables[name], rows]) for name, rows in new.items()}}
