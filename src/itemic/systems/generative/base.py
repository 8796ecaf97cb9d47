"""CodeRecommender: for systems that spell out the codes of items along the tree of them."""

import numpy as np
from jaxtyping import Bool, Float32, Int32

from itemic.data import Query, Ragged
from itemic.model import C, M
from itemic.nn.decoding import Found, Trie
from itemic.systems.base import Recommender


class CodeRecommender(Recommender[C, M]):
    """A system gives `item_codes`, `search` and `score_codes`; items that have no codes are never ranked."""

    _trie: "tuple[np.ndarray, Trie] | None" = None

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

    def coded(self) -> Bool[np.ndarray, " items"]:
        """Which items have codes."""
        return np.all(self.item_codes() >= 0, axis=1)

    def _rank_block(
        self, query: Query, k: int, allowed: Bool[np.ndarray, " items"] | None
    ) -> tuple[Int32[np.ndarray, "queries k"], Float32[np.ndarray, "queries k"]]:
        codes = self.item_codes()
        if allowed is not None:
            trie = Trie.of(codes, np.flatnonzero(allowed & self.coded()))
        else:
            if self._trie is None or self._trie[0] is not codes:
                self._trie = codes, Trie.of(codes, np.flatnonzero(self.coded()))
            trie = self._trie[1]
        found = self.search(query, trie, k, query.masked())
        return found.items.int().numpy(), found.scores.numpy()

    def _score_candidates(self, query: Query) -> Float32[np.ndarray, " candidates"]:
        assert isinstance(query.candidates, Ragged)
        scores = self.score_codes(query, self.item_codes()[query.candidates.values])
        return np.where(self.coded()[query.candidates.values], scores, np.float32(-np.inf))
