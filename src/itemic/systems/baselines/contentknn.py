"""Content-kNN: items that say the same as those of the history, each item keeping its k nearest neighbours.

Choose it as the baseline for items that nobody took yet, and to see how far metadata go without learning. It is
item-kNN with words and values in the place of users: who took what plays no part, nor do numbers such as prices.
Papers: as item-kNN; on content Ferrari Dacrema et al., RecSys 2019, arXiv:1907.06902 (ItemKNN-CBF). Set-ups:
recipes/contentknn/.
"""

from typing import ClassVar, Literal

import numpy as np
from jaxtyping import Float32
from pydantic import Field

from itemic.data import Dataset, Query, Ragged, Table
from itemic.encoders.metadata import Feature, learned, require, restored, written
from itemic.errors import DataError
from itemic.progress import report
from itemic.registry import system
from itemic.systems.base import ScoreRecommender, SystemConfig
from itemic.systems.baselines import itemknn
from itemic.systems.baselines.item_item import history_scores, sparse_weights, taken


class Config(SystemConfig):
    tune: ClassVar = {"k": "10..500:log", "shrink": "0..100", "weighting": "none,tfidf,bm25"}

    fields: tuple[str, ...] | None = None
    """Columns of the item table that are compared; None for all that can be: text, categories, attributes."""
    k: int = Field(100, ge=1)
    """Neighbours kept for each item; tune it first, 10 to 500."""
    shrink: float = Field(0.0, ge=0)
    """Added to the denominator of the cosine, so that few common words count less."""
    weighting: Literal["none", "tfidf", "bm25"] = "tfidf"
    """How much a word says: all alike, or less the more items have it; bm25 also discounts items of many words."""


@system(
    "contentknn",
    family="baselines",
    needs=["interactions", "items"],
    answers=["history"],
    cold_items=True,
    paper="arXiv:1907.06902",
)
class ContentKNN(ScoreRecommender[Config]):
    unrelated = 0.0

    def survey(self, train: Dataset) -> None:
        name, fields, everything = self.entry.name, self.config.fields, np.ones(train.n_items, bool)
        features = learned(train.items, fields, everything, 2, name)  # a word of one item alone joins none
        compared = [feature for feature in features if not feature.is_number]
        amounts = [feature.name for feature in features if feature.is_number]
        if amounts and (fields or not compared):
            raise DataError(
                f"{name} compares words and values, not amounts such as {amounts[0]!r}. "
                "Name titles, categories or attributes: --set fields=[NAME]."
            )
        self.vocabulary = {"read": written(compared)}
        said = self._said(train.items)
        self.tables = {"said": said.values, "bounds": said.offsets}
        bare = int((said.lengths == 0).sum())
        if bare:
            report(
                f"{bare:,} of {train.n_items:,} items share no word or value: {name} has no neighbours for them", 1, 1
            )

    def solve(self, train: Dataset) -> dict[str, np.ndarray]:
        return self._neighbours()

    def encode_items(self, items: Table) -> None:
        require((feature.column for feature in self._features), items, self.entry.name)
        said, bounds = self._said(items), self.tables["bounds"]
        self.tables["said"] = np.concatenate([self.tables["said"], said.values])
        self.tables["bounds"] = np.concatenate([bounds, bounds[-1] + said.offsets[1:]])
        self.weights = self._neighbours()

    def scores(self, query: Query) -> Float32[np.ndarray, "queries items"]:
        assert query.history is not None
        return history_scores(query.history, self.weights, self.catalogue.n_items)

    def _said(self, items: Table) -> Ragged:
        """What is said of each item: the values of all features, numbered through."""
        bags, start = Ragged.empty(len(items)), 0
        for feature in self._features:
            bag = feature.bags(items)
            bags, start = bags.joined(Ragged(bag.values - 1 + start, bag.offsets)), start + len(feature.values)
        return bags

    @property
    def _features(self) -> list[Feature]:
        return restored(self.vocabulary["read"])

    def _neighbours(self) -> dict[str, np.ndarray]:
        said = Ragged(self.tables["said"], self.tables["bounds"])
        x = taken(said, sum(len(feature.values) for feature in self._features)).T.tocsr()
        options = self.config.model_dump(include={"k", "shrink", "weighting"})
        return sparse_weights(itemknn.neighbours(x, itemknn.Config(**options)), len(said))
