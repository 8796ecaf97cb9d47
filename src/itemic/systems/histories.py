"""What models of histories share: they answer whoever shows one, and most of them learn from what followed what.

Somebody of whom nothing is known gets what most users took, as from `popularity`.
"""

from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64

from itemic.data import Dataset, Query, Ragged, Ranking, Table
from itemic.errors import DataError
from itemic.model import C, M
from itemic.nn.topk import top_k
from itemic.progress import report
from itemic.systems.base import Recommender


def cut(
    histories: Ragged, rows: Int64[np.ndarray, " cuts"], places: Int64[np.ndarray, " cuts"]
) -> tuple[Ragged, Int32[np.ndarray, " cuts"]]:
    """Of each of these rows what comes before a place in it, and the item there.

    >>> before, item = cut(Ragged.from_lists([[4, 5, 6], [7, 8]]), np.array([0, 1]), np.array([2, 0]))
    >>> before.to_lists(), item.tolist()
    ([[4, 5], []], [6, 7])
    """
    whole = histories.take(rows)
    return whole.keep(whole.places < np.repeat(places, whole.lengths)), whole.values[whole.offsets[:-1] + places]


class PopularToSilent(Recommender[C, M]):
    """Comes before the base by which a system ranks; a system that has its own `prepare` or `finish` calls these."""

    def prepare(self, train: Dataset) -> None:
        self._taken_by = train.interactions.item_counts()

    def finish(self) -> None:
        self.tables["taken_by"] = self._taken_by.astype(np.float32)

    def encode_items(self, items: Table) -> None:
        """Nobody took them yet; a system that ranks new items adds to this what it makes of them."""
        self.tables["taken_by"] = np.append(self.tables["taken_by"], np.zeros(len(items), np.float32))

    def told(self, query: Query) -> Bool[np.ndarray, " queries"]:
        """Whether there is something to be read; who shows nothing is answered by popularity."""
        assert query.history is not None
        return query.history.lengths > 0

    def rank(self, query: Query, k: int = 10) -> Ranking:
        """As of any recommender; `reasons` says how many requests without a history were answered by popularity."""
        ranking = super().rank(query, k)
        n = int((~self.told(query)).sum())
        said = f"{n:,} of {len(query):,} requests have no history: these lists are the most popular items"
        return replace(ranking, reasons=(*ranking.reasons, said)) if n else ranking

    def _rank_block(self, query: Query, k: int, allowed: Bool[np.ndarray, " items"] | None) -> tuple:
        items, scores = super()._rank_block(query, k, allowed)
        silent = np.flatnonzero(~self.told(query))
        if len(silent):
            popular = np.where(True if allowed is None else allowed, self.tables["taken_by"], np.float32(-np.inf))
            masked = query.take(silent).masked()
            everywhere = np.repeat(popular[None], len(silent), 0)
            items[silent], scores[silent] = top_k(everywhere, k, exclude=(masked.values, masked.offsets))
        return items, scores

    def _score_candidates(self, query: Query) -> Float32[np.ndarray, " candidates"]:
        assert isinstance(query.candidates, Ragged)
        silent = ~self.told(query)[query.candidates.row_of_value]
        popular = self.tables["taken_by"][query.candidates.values]
        return np.where(silent, popular, super()._score_candidates(query))


class ByHistory(PopularToSilent[C, M]):
    """The same for systems that learn from order: `prepare` refuses data without one."""

    def prepare(self, train: Dataset) -> None:
        super().prepare(train)
        if train.interactions.time is None and not train.ordered:
            raise DataError(
                f"{self.entry.name} learns from the order of what people did; {train.name} has no times, and its rows "
                "stand in no known order. Name the time column when importing (--columns time=NAME)."
            )
        config: Any = self.config
        lengths, longest = np.diff(train.interactions.offsets), config.max_length
        if lengths.max(initial=0) < 2:
            raise DataError(
                f"{self.entry.name} learns what follows what; nobody in {train.name} has two interactions. Add some."
            )
        longer = int((lengths > longest + 1).sum())
        if longer:
            report(f"{longer:,} histories exceed max_length={longest}: their newest items count", 1, 1)
