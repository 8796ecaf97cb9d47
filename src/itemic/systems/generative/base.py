"""CodeRecommender: for systems that say the codes of items, along the tree of them; HistoryToCodes also reads them."""

from typing import Self

import numpy as np
from jaxtyping import Bool, Float32, Int32

from itemic.data import Query, Ragged, Table
from itemic.model import C, M, Tokenizer
from itemic.nn.decoding import Found, Trie
from itemic.systems.base import Recommender
from itemic.systems.histories import ByHistory


class CodeRecommender(Recommender[C, M]):
    """A system gives `item_codes`, `search` and `score_codes`; items that have no codes are never ranked."""

    _trie: tuple[Int32[np.ndarray, "items levels"], Trie] | None = None
    """The tree of all items, and the codes that it was made of."""

    def to(self, device: str) -> Self:
        self._trie = None  # made again, there
        return super().to(device)

    def item_codes(self) -> Int32[np.ndarray, "items levels"]:
        """The codes of each item; -1 where it has none."""
        raise TypeError(f"{type(self).__name__} defines no item_codes")

    def search(self, query: Query, trie: Trie, k: int, forbidden: Ragged) -> Found:
        """The k most likely items along the trie, none of those that are forbidden to each request."""
        raise TypeError(f"{type(self).__name__} defines no search")

    def score_codes(
        self, query: Query, codes: Int32[np.ndarray, "candidates levels"]
    ) -> Float32[np.ndarray, " candidates"]:
        """The logarithm of the chance of the codes of each of `query.candidates`."""
        raise TypeError(f"{type(self).__name__} defines no score_codes")

    def _rank_block(
        self, query: Query, k: int, allowed: Bool[np.ndarray, " items"] | None
    ) -> tuple[Int32[np.ndarray, "queries k"], Float32[np.ndarray, "queries k"]]:
        found = self.search(query, self._trie_of(allowed), k, query.masked())
        return found.items.int().numpy(), found.scores.numpy()

    def _trie_of(self, allowed: Bool[np.ndarray, " items"] | None) -> Trie:
        codes = self.item_codes()
        if allowed is not None:
            some = np.flatnonzero(allowed)
            return Trie.of(codes, some[coded(codes[some])]).to(self.device)
        if self._trie is None or self._trie[0] is not codes:
            self._trie = codes, Trie.of(codes, np.flatnonzero(coded(codes))).to(self.device)
        return self._trie[1]

    def _score_candidates(self, query: Query) -> Float32[np.ndarray, " candidates"]:
        assert isinstance(query.candidates, Ragged)
        codes = self.item_codes()[query.candidates.values]
        return np.where(coded(codes), self.score_codes(query, codes), np.float32(-np.inf))


class HistoryToCodes(ByHistory[C, M], CodeRecommender[C, M]):
    """Reads the codes of what somebody took. A system declares the part `codes`, and has an option `max_length`."""

    codes: Tokenizer

    def item_codes(self) -> Int32[np.ndarray, "items levels"]:
        return self.codes.codes

    def encode_items(self, items: Table) -> None:
        self.codes.add_items(items)  # first, as it may refuse them
        super().encode_items(items)

    def told(self, query: Query) -> Bool[np.ndarray, " queries"]:
        assert query.history is not None
        return self.readable(query.history).lengths > 0

    def readable(self, histories: Ragged) -> Ragged:
        """The items that have codes; nothing can be read of the others."""
        return histories.keep(coded(self.item_codes()[histories.values]))


def coded(codes: Int32[np.ndarray, "rows levels"]) -> Bool[np.ndarray, " rows"]:
    """Which rows are codes, not the -1 of an item without; one that ends early is filled up with -1.

    >>> coded(np.array([[3, 0], [-1, -1], [4, -1]], np.int32)).tolist()
    [True, False, True]
    """
    return codes[:, 0] >= 0
