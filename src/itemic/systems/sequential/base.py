"""What models of histories share: they read the newest items of whoever asks, and need not have met them before.

Somebody of whom nothing is known gets what most users took, as from `popularity`.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Float32
from pydantic import Field
from typing_extensions import TypeVar

from itemic.data import Dataset, Query, Ragged, Ranking, Table
from itemic.errors import ConfigError, DataError, did_you_mean
from itemic.model import M
from itemic.nn.topk import top_k
from itemic.progress import report
from itemic.systems.base import SystemConfig, VectorRecommender

READ = 256
"""Histories read at a time in answering: their states stay in the cache."""


class SequenceConfig(SystemConfig):
    """The options that these systems share."""

    dim: int = Field(64, ge=1)
    """Width of the vectors of items and of all states."""
    max_length: int = Field(50, ge=1)
    """The newest items of a history that are read; what is older is not. 50 for shops, 200 for MovieLens."""
    seed: int = 0
    """Where the first weights, the order of the histories, dropout and the negatives come from."""


C = TypeVar("C", bound=SequenceConfig)


class SequenceRecommender(VectorRecommender[C, M]):
    """A system gives `read`, and `item_vectors` in whose space it reads; one that has its own `prepare` calls this."""

    def prepare(self, train: Dataset) -> None:
        if train.interactions.time is None and not train.ordered:
            raise DataError(
                f"{self.entry.name} learns from the order of what people did; {train.name} has no times, and its rows "
                "stand in no known order. Name the time column when importing (--columns time=NAME)."
            )
        lengths = np.diff(train.interactions.offsets)
        if lengths.max(initial=0) < 2:
            raise DataError(
                f"{self.entry.name} learns what follows what; nobody in {train.name} has two interactions. Add some."
            )
        longer = int((lengths > self.config.max_length + 1).sum())
        if longer:
            report(f"{longer:,} histories exceed max_length={self.config.max_length}: their newest items count", 1, 1)
        self._taken_by = train.interactions.item_counts()

    def finish(self) -> None:
        self.tables["taken_by"] = self._taken_by.astype(np.float32)

    def encode_items(self, items: Table) -> None:
        """Nobody took them yet; a system that ranks new items adds to this what it makes of them."""
        self.tables["taken_by"] = np.append(self.tables["taken_by"], np.zeros(len(items), np.float32))

    def read(self, histories: Ragged) -> Float32[np.ndarray, "histories dim"]:
        """The vector of what comes next after each of these histories, none empty, none longer than `max_length`."""
        raise TypeError(f"{type(self).__name__} defines no read")

    def query_vectors(self, query: Query) -> Float32[np.ndarray, "queries dim"]:
        """What `read` gives; zeros for empty histories, whose ranking is by popularity."""
        assert query.history is not None
        told = np.flatnonzero(query.history.lengths)
        vectors = np.zeros((len(query), self.item_vectors().shape[1]), np.float32)
        with torch.no_grad():
            for start in range(0, len(told), READ):
                rows = told[start : start + READ]
                vectors[rows] = self.read_query(query.take(rows))
        return vectors

    def read_query(self, query: Query) -> Float32[np.ndarray, "queries dim"]:
        """What `read` gives for the histories of these requests; for systems that read more of them than items."""
        assert query.history is not None
        return self.read(query.history.last(self.config.max_length))

    def rank(self, query: Query, k: int = 10) -> Ranking:
        """As of any recommender; `reasons` says how many requests without a history were answered by popularity."""
        ranking = super().rank(query, k)
        assert query.history is not None
        n = int((query.history.lengths == 0).sum())
        said = f"{n:,} of {len(query):,} requests have no history: these lists are the most popular items"
        return replace(ranking, reasons=(*ranking.reasons, said)) if n else ranking

    def _rank_block(self, query: Query, k: int, allowed: Bool[np.ndarray, " items"] | None) -> tuple:
        items, scores = super()._rank_block(query, k, allowed)
        assert query.history is not None
        silent = np.flatnonzero(query.history.lengths == 0)
        if len(silent):
            popular = np.where(True if allowed is None else allowed, self.tables["taken_by"], np.float32(-np.inf))
            masked = query.take(silent).masked()
            everywhere = np.repeat(popular[None], len(silent), 0)
            items[silent], scores[silent] = top_k(everywhere, k, exclude=(masked.values, masked.offsets))
        return items, scores

    def _score_candidates(self, query: Query) -> Float32[np.ndarray, " candidates"]:
        assert query.history is not None
        assert isinstance(query.candidates, Ragged)
        silent = (query.history.lengths == 0)[query.candidates.row_of_value]
        popular = self.tables["taken_by"][query.candidates.values]
        return np.where(silent, popular, super()._score_candidates(query))


def next_items(histories: Ragged, length: int) -> tuple[Ragged, Ragged]:
    """What was known and what came next at each place of the histories, of which the newest `length` places count.

    Two Ragged of the same rows; histories of fewer than two items have no place.

    >>> known, following = next_items(Ragged.from_lists([[4, 5, 6, 7], [8], [9, 9]]), length=2)
    >>> known.to_lists(), following.to_lists()
    ([[5, 6], [9]], [[6, 7], [9]])
    """
    windows = histories.last(length + 1)
    windows = windows.take(np.flatnonzero(windows.lengths > 1))
    first, last = np.zeros(len(windows.values), bool), np.zeros(len(windows.values), bool)
    first[windows.offsets[:-1]], last[windows.offsets[1:] - 1] = True, True
    return windows.keep(~last), windows.keep(~first)


def kind_weights(train: Dataset, kinds: Mapping[str, float], system: str) -> Float32[np.ndarray, " rows"]:
    """How much each interaction weighs as what is to be foreseen: the number of its kind, 0 where that is not named.

    >>> data = Dataset.from_frame({"user": list("aaa"), "item": list("xyz"), "kind": ["view", "buy", "cart"]})
    >>> kind_weights(data, {"buy": 1.0, "view": 0.25}, "sasrec").tolist()
    [0.25, 1.0, 0.0]

    Raises:
        DataError: there is no kind column, or nothing of these kinds follows anything.
        ConfigError: a kind does not occur; the message names those that do.
    """
    log = train.interactions
    if log.kind is None:
        raise DataError(
            f"{system} cannot weigh kinds of interaction: {train.name} has no 'kind' column. Name it when importing "
            "(--columns kind=NAME), or leave out kinds."
        )
    there = [kind for kind, n in zip(log.kinds, np.bincount(log.kind, minlength=len(log.kinds))) if n]
    for kind in kinds:
        if kind not in there:
            near, listed = did_you_mean(kind, there), ", ".join(there)
            raise ConfigError(
                f"{system}: {train.name} has no interactions of the kind '{kind}'.{near} Kinds: {listed}."
            )
    weight = np.array([kinds.get(kind, 0) for kind in log.kinds], np.float32)[log.kind]
    first = log.offsets[:-1][np.diff(log.offsets) > 0]
    if not np.delete(weight, first).any():
        raise DataError(f"nobody in {train.name} did anything before a {' or '.join(kinds)}. Name other kinds.")
    return weight
