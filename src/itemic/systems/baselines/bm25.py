"""BM25: items whose texts hold the words that were said in a conversation, or that describe the items of a history.

Choose it as the baseline of recommending in conversation: what is said is a search request, and nothing is learned but
how rare each word is. It knows nothing of taste: who asks for something like Heat is shown Heat.
Paper: Robertson and Zaragoza, 2009, doi:10.1561/1500000019. Set-ups: `beside` in recipes/ilm/.
"""

import re
from collections import Counter
from dataclasses import replace
from itertools import chain
from typing import ClassVar

import numpy as np
from jaxtyping import Float32
from pydantic import Field

from itemic.data import Dataset, Query, Ragged, Table
from itemic.encoders.fields import settled, written
from itemic.errors import DataError
from itemic.registry import system
from itemic.systems.base import ScoreRecommender, SystemConfig
from itemic.systems.baselines.item_item import Sparse

WORD = re.compile(r"\w+")


class Config(SystemConfig):
    tune: ClassVar = {"k1": "0.5..2", "b": "0..1"}

    fields: tuple[str, ...] = ()
    """The item columns that are searched; none for the first three by role: texts, categories, attributes."""
    k1: float = Field(1.2, ge=0)
    """How much a word says more where it stands again; 0 for nothing. Robertson and Zaragoza: 1.2 to 2."""
    b: float = Field(0.75, ge=0, le=1)
    """How far long texts are discounted: 0 not at all, 1 in full proportion. Robertson and Zaragoza: 0.5 to 0.8."""
    turns: int | None = Field(None, ge=1)
    """The newest turns of a conversation that are read; None for all."""
    named: bool = True
    """Whether what was named before may be ranked where things may come back; its title, being said, puts it first."""


@system(
    "bm25",
    family="baselines",
    needs=["interactions", "items"],
    answers=["history", "dialogue"],
    cold_items=True,
    paper="doi:10.1561/1500000019",
)
class BM25(ScoreRecommender[Config]):
    unrelated = 0.0
    _made: tuple[np.ndarray, Sparse] | None = None
    """The texts of the items, and the weights that were made of them."""

    def survey(self, train: Dataset) -> None:
        self.shape = {"fields": settled(self.config.fields, train)}
        counted = Counter(chain.from_iterable(set(words) for words in self._words(train.items)))
        if not counted:
            listed = ", ".join(self.shape["fields"])
            raise DataError(f"no item of {train.name} has a text in {listed}. Name others: --set fields=[NAME].")
        self.vocabulary = {"words": sorted(counted)}

    def solve(self, train: Dataset) -> dict[str, np.ndarray]:
        texts = self._numbered(self._words(train.items))
        return {"word": texts.values, "bounds": texts.offsets}

    def encode_items(self, items: Table) -> None:
        """Words that no item had at the fit say nothing."""
        texts, bounds = self._numbered(self._words(items)), self.weights["bounds"]
        self.weights = {
            "word": np.concatenate([self.weights["word"], texts.values]),
            "bounds": np.concatenate([bounds, bounds[-1] + texts.offsets[1:]]),
        }

    def scores(self, query: Query) -> Float32[np.ndarray, "queries items"]:
        from scipy.sparse import csr_array

        weights, asked = self._weights(), self._asked(query)
        ones = np.ones(len(asked.values), np.float32)
        said = csr_array((ones, asked.values, asked.offsets), shape=(len(asked), weights.shape[0]))
        scores = (said @ weights).toarray()
        if not self.config.named and query.history is not None:
            scores[query.history.row_of_value, query.history.values] = -np.inf
        return scores

    def _asked(self, query: Query) -> Ragged:
        """The words of each request: what was said in it, each once, as people repeat those that say little; else the
        texts of its history, where a word counts as often as items have it."""
        if query.dialogue is not None:
            talk = query.dialogue
            if self.config.turns is not None:
                talk = replace(talk, first=np.maximum(talk.first, talk.stop - self.config.turns))
            return self._numbered([list(dict.fromkeys(_words(text))) for text in talk.texts().to_pylist()])
        assert query.history is not None
        texts = Ragged(self.weights["word"], self.weights["bounds"]).take(query.history.values)
        return Ragged(texts.values, texts.offsets[query.history.offsets])

    def _weights(self) -> Sparse:
        """What each word says for each item: its rarity times how much the item is about it."""
        from scipy.sparse import csc_array

        if self._made is None or self._made[0] is not self.weights["word"]:
            texts = Ragged(self.weights["word"], self.weights["bounds"])
            n_words, n_items = len(self.vocabulary["words"]), len(texts)
            key, times = np.unique(texts.row_of_value * n_words + texts.values, return_counts=True)
            item, word = np.divmod(key, n_words)
            having = np.bincount(word, minlength=n_words)
            rarity = np.log1p((n_items - having + 0.5) / (having + 0.5))
            length = 1 - self.config.b + self.config.b * texts.lengths / texts.lengths.mean()
            about = times * (self.config.k1 + 1) / (times + self.config.k1 * length[item])
            offsets = np.searchsorted(item, np.arange(n_items + 1))
            weights = csc_array(((rarity[word] * about).astype(np.float32), word, offsets), shape=(n_words, n_items))
            self._made = self.weights["word"], weights.tocsr()
        return self._made[1]

    def _words(self, items: Table) -> list[list[str]]:
        return [_words(text or "") for text in written(items, self.shape["fields"], "{text}").to_pylist()]

    def _numbered(self, texts: list[list[str]]) -> Ragged:
        """The numbers of the words that items have; others are left out."""
        number = {word: n for n, word in enumerate(self.vocabulary["words"])}
        return Ragged.from_lists([[number[word] for word in text if word in number] for text in texts])


def _words(text: str) -> list[str]:
    """The words of a text in small letters.

    >>> _words("Like Heat, but with 2 heists")
    ['like', 'heat', 'but', 'with', '2', 'heists']
    """
    return WORD.findall(text.casefold())
