"""Item-kNN: items liked by the same users as those of the history, each item keeping its k nearest neighbours.

Choose it as the baseline for catalogues too large for EASE, or where every recommendation must be explained by items
the user knows. Tune k first (10 to 500): results differ much between data sets. It cannot rank an item nobody took.
Papers: Sarwar et al., WWW 2001, doi:10.1145/371920.372071; the shrinkage, weightings and tuning follow Ferrari Dacrema
et al., RecSys 2019, arXiv:1907.06902. Published set-ups and numbers: recipes/itemknn/.
"""

from collections.abc import Iterator
from typing import ClassVar, Literal

import numpy as np
from jaxtyping import Float32
from pydantic import Field

from itemic.data import Dataset, Query
from itemic.nn.topk import top_k
from itemic.progress import track
from itemic.registry import system
from itemic.systems.base import ScoreRecommender, SystemConfig
from itemic.systems.baselines.item_item import Columns, Sparse, history_scores, sparse_weights, stored

BLOCK_BYTES = 64 << 20
"""How much memory the similarities of the target items computed at once may take."""


class Config(SystemConfig):
    tune: ClassVar = {"k": "10..500:log", "shrink": "0..100", "weighting": "none,tfidf,bm25"}

    similarity: Literal["cosine", "jaccard", "pearson", "asymmetric"] = "cosine"
    """How alike two items are, from the users each has. Pearson counts users who took neither as agreement."""
    k: int = Field(100, ge=1)
    """Neighbours kept for each item that may be recommended; tune it first, 10 to 500."""
    shrink: float = Field(0.0, ge=0)
    """Added to the denominator, so that few common users count less. Ferrari Dacrema et al. tune it from 0 to 1000."""
    alpha: float = Field(0.5, ge=0, le=1)
    """For asymmetric: the neighbour's share of the denominator, the rest is the target's; 0.5 is the cosine."""
    weighting: Literal["none", "tfidf", "bm25"] = "none"
    """How much a user says: all alike, or less the more items the user took; bm25 also discounts popular items."""
    normalise: bool = False
    """Whether the kept weights of each item are made to sum to 1. BARS does; it changes the order of the items."""
    centre: bool = False
    """Whether an item's mean is taken from its neighbours and its own added to its score. BARS does."""


def weighted(x: Sparse, weighting: str) -> Sparse:
    """The matrix of users and items with each 1 replaced by what that user says about that item.

    Users stand where words do in text search. tfidf: log(items / items of the user). bm25: a smoothed form of it,
    times a factor that falls from 2.2 / 1.3 for an item with hardly any users to 0 for one with very many.
    """
    if weighting == "none":
        return x
    of_user, of_item = np.diff(x.indptr), np.bincount(x.indices, minlength=x.shape[1])
    user = np.repeat(np.arange(x.shape[0]), of_user)
    weighted = x.copy()
    if weighting == "tfidf":
        weighted.data = np.log(x.shape[1] / of_user[user]).astype(np.float32)
    else:
        rarity = np.log1p((x.shape[1] - of_user + 0.5) / (of_user + 0.5))
        length = 0.25 + 0.75 * of_item / of_item.mean()
        weighted.data = (rarity[user] * 2.2 / (1.2 * length[x.indices] + 1)).astype(np.float32)
    return weighted


def similarities(x: Sparse, of_item: Sparse, targets: slice, config: Config) -> Float32[np.ndarray, "targets items"]:
    """How like each of these target items every item is, 0 where they have no user in common and for the item itself.

    `of_item` is x transposed. Without a common user every similarity is 0, or negative (Pearson): neither is ever kept.
    """
    common = of_item[targets] @ x  # for each pair of items the sum of products of their columns
    item, target = common.indices, np.repeat(np.arange(*targets.indices(x.shape[1])), np.diff(common.indptr))
    both, square = common.data.astype(np.float64), (x.astype(np.float64) ** 2).sum(axis=0)
    if config.similarity == "pearson":
        total = x.sum(axis=0, dtype=np.float64)
        both -= total[target] * total[item] / x.shape[0]
        square -= total**2 / x.shape[0]
    if config.similarity == "jaccard":
        scale = square[item] + square[target] - both
    elif config.similarity == "asymmetric":
        scale = square[item] ** config.alpha * square[target] ** (1 - config.alpha)
    else:
        scale = np.sqrt(square[item] * square[target])
    scale += config.shrink
    common.data = np.divide(both, scale, out=np.zeros_like(both), where=scale > 0).astype(np.float32)
    common.data[item == target] = 0
    return common.toarray()


def neighbours(x: Sparse, config: Config, block: int | None = None) -> Iterator[Columns]:
    """The k most similar items of each item, ties to the lower code, and their weights, in blocks of target items."""
    n_items = x.shape[1]
    said, block = weighted(x, config.weighting), block or max(16, BLOCK_BYTES // (4 * n_items))
    of_item = said.T.tocsr()
    for start in track(range(0, n_items, block), "neighbours of items", -(-n_items // block)):
        alike = similarities(said, of_item, slice(start, start + block), config)
        items, weights = top_k(alike, min(config.k, n_items))
        items, weights = np.where(weights > 0, items, -1), np.maximum(weights, 0)
        if config.normalise:
            weights /= np.maximum(weights.sum(axis=1, keepdims=True), np.finfo(np.float32).tiny)
        yield items, weights


@system("itemknn", family="baselines", answers=["history"], paper="doi:10.1145/371920.372071")
class ItemKNN(ScoreRecommender[Config]):
    unrelated = 0.0

    def solve(self, train: Dataset) -> dict[str, np.ndarray]:
        x = train.interactions.matrix()
        weights = sparse_weights(neighbours(x, self.config), train.n_items)
        if self.config.centre:
            mean = x.mean(axis=0)
            weights["bias"] = (mean - mean @ stored(weights, train.n_items)).astype(np.float32)
        return weights

    def scores(self, query: Query) -> Float32[np.ndarray, "queries items"]:
        assert query.history is not None
        scores = history_scores(query.history, self.weights, self.catalogue.n_items)
        return scores + self.weights["bias"] if self.config.centre else scores
