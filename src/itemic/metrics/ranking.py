"""How good ranked lists are, one number per query; nan for a query with nothing relevant, which is then left out.

Each metric takes lists and relevant items, or the `Hits` of both, which several metrics can share. Without k it looks
at the whole list; places beyond a list's end are misses.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Bool, Float, Float64

from itemic.data.ragged import Ragged
from itemic.errors import ConfigError, DataError, did_you_mean
from itemic.metrics.hits import Hits, Lists, hits

PerQuery = Float64[np.ndarray, " queries"]
Grades = Float[np.ndarray, " relevant"]


def recall(ranked: Lists, relevant: Ragged | None = None, k: int | None = None) -> PerQuery:
    """Share of all relevant items that are among the first k; below 1 even at best when there are more than k.

    >>> recall(np.array([[5, 2, 9]]), Ragged.from_lists([[2, 9, 7, 8]]), 2).tolist()
    [0.25]
    """
    h = hits(ranked, relevant)
    return _over(h, h.found(k).sum(1), h.n_relevant)


def recall_min(ranked: Lists, relevant: Ragged | None = None, k: int | None = None) -> PerQuery:
    """Recall over min(k, |relevant|), as papers on autoencoders report it: 1 when no better list of k exists.

    >>> recall_min(np.array([[5, 2, 9]]), Ragged.from_lists([[2, 9, 7, 8]]), 2).tolist()
    [0.5]
    """
    h = hits(ranked, relevant)
    return _over(h, h.found(k).sum(1), np.minimum(h.cut(k), h.n_relevant))


def precision(ranked: Lists, relevant: Ragged | None = None, k: int | None = None) -> PerQuery:
    """Share of the first k places that hold a relevant item; an empty place is a miss.

    >>> precision(np.array([[5, 2, -1, -1]]), Ragged.from_lists([[2, 9]]), 4).tolist()
    [0.25]
    """
    h = hits(ranked, relevant)
    return _over(h, h.found(k).sum(1), h.cut(k))


def hit(ranked: Lists, relevant: Ragged | None = None, k: int | None = None) -> PerQuery:
    """1 when any of the first k items is relevant, else 0.

    >>> hit(np.array([[5, 2], [5, 2]]), Ragged.from_lists([[2], [3]]), 2).tolist()
    [1.0, 0.0]
    """
    h = hits(ranked, relevant)
    return _over(h, h.found(k).max(1), 1)


def reciprocal_rank(ranked: Lists, relevant: Ragged | None = None, k: int | None = None) -> PerQuery:
    """1 over the place of the first relevant item, 0 when none is among the first k. Its mean is the MRR.

    >>> reciprocal_rank(np.array([[5, 2, 9]]), Ragged.from_lists([[2, 9]]), 3).tolist()
    [0.5]
    """
    h = hits(ranked, relevant)
    found = h.found(k)
    return _over(h, found.max(1), found.argmax(1) + 1)


def average_precision(ranked: Lists, relevant: Ragged | None = None, k: int | None = None) -> PerQuery:
    """Mean of the precisions at the places of the relevant items, over min(k, |relevant|). Its mean is the MAP.

    trec_eval divides by |relevant| instead, so that its values are lower where more than k items are relevant.

    >>> average_precision(np.array([[5, 2, 9]]), Ragged.from_lists([[5, 9]]), 3).tolist()
    [0.8333333333333333]
    """
    h = hits(ranked, relevant)
    found = h.found(k)
    precisions = found.cumsum(1) / np.arange(1, found.shape[1] + 1)
    return _over(h, (precisions * found).sum(1), np.minimum(h.cut(k), h.n_relevant))


def r_precision(ranked: Lists, relevant: Ragged | None = None) -> PerQuery:
    """Share of relevant items among the first |relevant|; lists should be as deep as the most relevant items.

    >>> r_precision(np.array([[5, 2, 9]]), Ragged.from_lists([[2, 9]])).tolist()
    [0.5]
    """
    h = hits(ranked, relevant)
    inside = np.arange(h.depth) < h.n_relevant[:, None]
    return _over(h, (h.found() & inside).sum(1), h.n_relevant)


def ndcg(
    ranked: Lists,
    relevant: Ragged | None = None,
    k: int | None = None,
    *,
    grades: Grades | None = None,
    gain: str = "linear",
) -> PerQuery:
    """Gain discounted by 1 / log2(place + 1), over that of the best list of k: 0 nothing found, 1 no better list.

    Every relevant item gains 1, or its grade; with gain="exp2" 2^grade - 1.

    >>> ndcg(np.array([[5, 2, 9]]), Ragged.from_lists([[2]]), 3).round(4).tolist()
    [0.6309]
    """
    h = hits(ranked, relevant, grades)
    k, gained = h.cut(k), _gain(gain)
    place = h.ideal.places
    inside = place < k
    gains = gained(h.ideal.values[inside]) * _discount(place[inside])
    best = np.bincount(h.ideal.row_of_value[inside], gains, minlength=len(h))
    return _over(h, _dcg(gained(h.grade), k), best)


def ndcg_hits(ranked: Lists, relevant: Ragged | None = None, k: int | None = None) -> PerQuery:
    """NDCG as NGCF's code counts it, against the best order of what the list found: 1 for one hit at the top.

    Never below `ndcg`, and not comparable with it; offered for tables that used it. It depends on the whole list's
    depth (100 there), since a hit below k raises the best list of k.

    >>> ndcg_hits(np.array([[2, 5, 9]]), Ragged.from_lists([[2, 7, 8]]), 2).tolist()
    [1.0]
    """
    h = hits(ranked, relevant)
    k = h.cut(k)
    best = _dcg(np.sort(h.grade, axis=1)[:, ::-1], k)
    return _over(h, _dcg(h.grade, k), np.where(best > 0, best, 1))


def auc(scores: Ragged, labels: Bool[np.ndarray, " n"]) -> PerQuery:
    """Chance that a relevant candidate of the query outscores another one, equal scores counting half: 0.5 by luck.

    `scores` has a row of candidates per query, `labels` says which are relevant; nan unless a row has both kinds. Of a
    full ranking, pass minus the places; for one figure over all impressions, a single row.

    >>> auc(Ragged.from_lists([[0.9, 0.4, 0.6], [1, 1]], float), np.array([True, True, False, True, False])).tolist()
    [0.5, 0.5]
    """
    if len(labels) != len(scores.values):
        raise DataError(f"{len(labels):,} labels for {len(scores.values):,} scores: give one for each.")
    order = np.lexsort((scores.values, scores.row_of_value))
    row, value, label = scores.row_of_value[order], scores.values[order], labels[order]
    new = np.ones(len(row), bool)
    new[1:] = (row[1:] != row[:-1]) | (value[1:] != value[:-1])
    ties = np.diff(np.append(np.flatnonzero(new), len(row)))  # equal scores share the mean of their places
    place = np.repeat(np.flatnonzero(new) + (ties - 1) / 2, ties) - scores.offsets[row]
    n = scores.lengths
    relevant = np.bincount(row[label], minlength=len(n))
    below = np.bincount(row[label], place[label], minlength=len(n)) - relevant * (relevant - 1) / 2
    pairs = relevant * (n - relevant)
    return np.divide(below, pairs, out=np.full(len(n), np.nan), where=pairs > 0)


METRICS: dict[str, Callable[..., PerQuery]] = {
    "recall": recall,
    "precision": precision,
    "ndcg": ndcg,
    "map": average_precision,
    "mrr": reciprocal_rank,
    "hit": hit,
    "recall_min": recall_min,
    "ndcg_exp2": partial(ndcg, gain="exp2"),
    "ndcg_hits": ndcg_hits,
}
"""The metrics that are written with a depth, as in 'recall@20'."""


@dataclass(frozen=True)
class Metric:
    """A metric at a depth, called with lists and relevant items, or with their hits."""

    name: str
    formula: Callable[..., PerQuery]
    k: int | None
    """None for the one whose depth is the query's own."""

    def __call__(self, ranked: Lists, relevant: Ragged | None = None) -> PerQuery:
        return self.formula(ranked, relevant) if self.k is None else self.formula(ranked, relevant, self.k)


def metric(name: str) -> Metric:
    """The metric people mean by 'ndcg@10'.

    Raises:
        ConfigError: no metric has this name, or its depth is missing or not a positive number.

    >>> metric("hit@2")(np.array([[5, 2, 9]]), Ragged.from_lists([[9]])).tolist()
    [0.0]
    """
    word, at, depth = name.partition("@")
    if word == "r_precision":
        if at:
            raise ConfigError(f"'{name}': r_precision takes no depth; it looks at as many places as are relevant.")
        return Metric(name, r_precision, None)
    if word not in METRICS:
        listed = ", ".join([f"{known}@k" for known in METRICS] + ["r_precision"])
        hint = did_you_mean(word.lower(), [*METRICS, "r_precision"])
        raise ConfigError(f"there is no metric '{word}'.{hint} Metrics: {listed}.")
    if not (depth.isascii() and depth.isdigit() and int(depth) > 0):
        raise ConfigError(f"'{name}' needs a depth of 1 or more, as in '{word}@20'.")
    return Metric(name, METRICS[word], int(depth))


def evaluate_lists(
    ranked: Lists, relevant: Ragged | None = None, *, metrics: Iterable[str], grades: Grades | None = None
) -> dict[str, PerQuery]:
    """Every metric by its name, for every query, from one comparison of the lists with the relevant items.

    Raises:
        ConfigError: a metric is unknown, or deeper than the lists.

    >>> evaluate_lists(np.array([[5, 2]]), Ragged.from_lists([[2]]), metrics=["recall@2", "mrr@2"])
    {'recall@2': array([1.]), 'mrr@2': array([0.5])}
    """
    named = [metric(name) for name in metrics]
    h = hits(ranked, relevant, grades)
    for wanted in named:
        if wanted.k and wanted.k > h.depth:
            raise ConfigError(f"'{wanted.name}' needs lists of {wanted.k} places; these have {h.depth}. Rank deeper.")
    return {wanted.name: wanted(h) for wanted in named}


def leave_out_empty(values: Mapping[str, PerQuery]) -> tuple[dict[str, Float64[np.ndarray, " kept"]], int]:
    """The values of the queries that have one in every metric, and how many queries had nothing to be found.

    >>> leave_out_empty({"recall@2": np.array([0.5, np.nan, 1.0])})
    ({'recall@2': array([0.5, 1. ])}, 1)
    """
    empty = np.isnan(list(values.values())).any(0)
    return {name: value[~empty] for name, value in values.items()}, int(empty.sum())


def _over(h: Hits, total: np.ndarray, best: np.ndarray | int) -> PerQuery:
    return np.divide(total, best, out=np.full(len(h), np.nan), where=h.n_relevant > 0)


def _discount(place: np.ndarray) -> np.ndarray:
    return 1 / np.log2(place + 2)


def _dcg(gains: np.ndarray, k: int) -> np.ndarray:
    return gains[:, :k] @ _discount(np.arange(min(k, gains.shape[1])))


def _gain(name: str) -> Callable[[np.ndarray], np.ndarray]:
    gains: dict[str, Callable[[np.ndarray], np.ndarray]] = {"linear": lambda g: g, "exp2": lambda g: np.exp2(g) - 1}
    if name not in gains:
        raise ConfigError(f"there is no gain '{name}'.{did_you_mean(name, gains)} Gains: {', '.join(gains)}.")
    return gains[name]
