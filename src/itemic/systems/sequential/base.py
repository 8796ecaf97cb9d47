"""What sequential models share: they read the newest items of whoever asks, and need not have met them before."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float32, Int64
from pydantic import Field
from torch import Generator, Tensor
from typing_extensions import TypeVar

from itemic.data import Dataset, Query, Ragged
from itemic.errors import ConfigError, DataError, did_you_mean
from itemic.model import M
from itemic.systems.base import SystemConfig, VectorRecommender
from itemic.systems.histories import ByHistory
from itemic.training import shuffled

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


class SequenceRecommender(ByHistory[C, M], VectorRecommender[C, M]):
    """A system gives `read`, and `item_vectors` in whose space it reads; one that has its own `prepare` calls this."""

    def read(self, histories: Ragged) -> Float32[np.ndarray, "histories dim"]:
        """The vector of what comes next after each of these histories, none empty, none longer than `max_length`."""
        raise TypeError(f"{type(self).__name__} defines no read")

    def query_vectors(self, query: Query) -> Float32[np.ndarray, "queries dim"]:
        """What `read` gives; zeros for empty histories, whose ranking is by popularity."""
        told = np.flatnonzero(self.told(query))
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


class Followed(NamedTuple):
    """A batch: at each place of some histories the item there, and the item that came next."""

    item: Int64[Tensor, " places"]
    following: Int64[Tensor, " places"]
    offsets: Int64[Tensor, " bounds"]


def followed(known: Ragged, following: Ragged, size: int, rng: Generator) -> Iterator[Followed]:
    """All histories of `next_items` in random order, `size` at a time."""
    for rows in shuffled(len(known), size, rng):
        one, other = known.take(rows.numpy()), following.take(rows.numpy())
        arrays = one.values.astype(np.int64), other.values.astype(np.int64), one.offsets
        yield Followed(*map(torch.from_numpy, arrays))


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
