"""What lists are like beyond being right: how much of the catalogue they show, how new, varied and balanced they are.

Lists are item codes, best first, with -1 for an empty place. Measures of one list are nan for a list without items.
"""

import numpy as np
from jaxtyping import Float, Float64, Int, Int64

from itemic.data.ragged import Ragged

Ranked = Int[np.ndarray, "queries depth"]
PerQuery = Float64[np.ndarray, " queries"]
ItemCounts = Int[np.ndarray, " items"]
BLOCK = 1 << 22
"""Numbers held at once by the measures that would otherwise need queries x depth x width of them."""


def exposure(ranked: Ranked, n_items: int, k: int) -> Int64[np.ndarray, " items"]:
    """How many lists show each item among their first k.

    >>> exposure(np.array([[0, 2, 1], [2, -1, -1]]), n_items=4, k=2).tolist()
    [1, 0, 2, 0]
    """
    shown = ranked[:, :k]
    return np.bincount(shown[shown >= 0], minlength=n_items)


def coverage(ranked: Ranked, n_items: int, k: int) -> float:
    """Share of the catalogue that at least one list shows among its first k.

    >>> coverage(np.array([[0, 2, 1], [2, -1, -1]]), n_items=4, k=2)
    0.5
    """
    return float((exposure(ranked, n_items, k) > 0).mean())


def gini(amounts: np.ndarray) -> float:
    """Inequality of exposures or counts: 0 when all items have the same, 1 - 1/n when one of n has everything.

    >>> gini(np.array([3, 3, 3])), gini(np.array([0, 0, 0, 8]))
    (0.0, 0.75)
    """
    share, n = np.sort(amounts) / amounts.sum(), len(amounts)
    return float(((2 * np.arange(1, n + 1) - n - 1) * share).sum() / n)


def novelty(ranked: Ranked, item_counts: ItemCounts, n_users: int, k: int) -> PerQuery:
    """Mean surprise of the first k in bits, -log2 of the share of users who have the item: 0 when everyone has it.

    An item nobody has counts as though one user had it, which bounds the surprise.

    >>> novelty(np.array([[0, 1]]), np.array([8, 2]), n_users=8, k=2).tolist()
    [1.0]
    """
    return _mean_over_list(ranked[:, :k], -np.log2(np.maximum(item_counts, 1) / n_users))


def average_popularity(ranked: Ranked, item_counts: ItemCounts, k: int) -> PerQuery:
    """Mean number of users who have an item of the first k (ARP): higher for lists of well-known items.

    >>> average_popularity(np.array([[0, 1], [1, -1]]), np.array([8, 2]), k=2).tolist()
    [5.0, 2.0]
    """
    return _mean_over_list(ranked[:, :k], item_counts)


def popularity_ratio(ranked: Ranked, item_counts: ItemCounts, history: Ragged, k: int) -> PerQuery:
    """Average popularity of the list over that of the query's history: above 1, the list is more mainstream than it.

    >>> popularity_ratio(np.array([[0, 1]]), np.array([8, 2]), Ragged.from_lists([[1]]), k=2).tolist()
    [2.5]
    """
    total = np.bincount(history.row_of_value, item_counts[history.values], minlength=len(history))
    return average_popularity(ranked, item_counts, k) / _mean(total, history.lengths)


def diversity(ranked: Ranked, vectors: Float[np.ndarray, "items dim"], k: int) -> PerQuery:
    """Mean cosine distance over all pairs of the first k: 0 for one direction, 1 unrelated; nan below two items.

    >>> diversity(np.array([[0, 1], [0, 0]]), np.array([[1.0, 0.0], [0.0, 3.0]]), k=2).tolist()
    [1.0, 0.0]
    """
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    # A row of zeros ends every catalogue: an empty place, code -1, points at it.
    unit = np.vstack([vectors / np.where(norms > 0, norms, 1), np.zeros((1, vectors.shape[1]))])
    total = np.empty(len(ranked))
    step = max(1, BLOCK // max(1, k * vectors.shape[1]))
    for start in range(0, len(ranked), step):
        shown = unit[ranked[start : start + step, :k]]
        # Sum of pairwise products = (|sum|² - sum of |x|²) / 2: no pair is ever formed.
        total[start : start + step] = ((shown.sum(1) ** 2).sum(1) - (shown**2).sum((1, 2))) / 2
    n = (ranked[:, :k] >= 0).sum(1)
    return 1 - _mean(total, n * (n - 1) / 2)


def label_diversity(ranked: Ranked, labels: Int[np.ndarray, " items"], k: int) -> PerQuery:
    """Share of pairs among the first k with different labels: 0 for one category, 1 all different; nan below two.

    >>> label_diversity(np.array([[0, 1, 2]]), np.array([7, 7, 4]), k=3).round(4).tolist()
    [0.6667]
    """
    row, place = np.nonzero(ranked[:, :k] >= 0)
    names, label = np.unique(labels, return_inverse=True)
    cell, count = np.unique(row * len(names) + label[ranked[row, place]], return_counts=True)
    same = np.bincount(cell // len(names), count * (count - 1) / 2, minlength=len(ranked))
    n = np.bincount(row, minlength=len(ranked))
    return 1 - _mean(same, n * (n - 1) / 2)


def miscalibration(ranked: Ranked, history: Ragged, categories: Ragged, k: int, alpha: float = 0.01) -> PerQuery:
    """How far the list's mix of categories is from the history's: 0 the same mix, -ln(alpha) nothing in common.

    The Kullback-Leibler divergence of Steck (RecSys 2018). `categories` has a row of labels per item, which share
    its weight equally; `alpha` mixes the history into the list, so that a category it lacks costs a finite amount.
    nan when the list or the history holds no item with a category.

    >>> film = Ragged.from_lists([[0], [1], [0, 1]])
    >>> miscalibration(np.array([[0, 1], [0, 0]]), Ragged.from_lists([[2], [1]]), film, k=2).round(3).tolist()
    [0.0, 4.605]
    """
    n_categories = int(categories.values.max(initial=-1)) + 1
    divergence = np.empty(len(ranked))
    step = max(1, BLOCK // max(1, n_categories, k))
    for start in range(0, len(ranked), step):
        shown, past = ranked[start : start + step, :k], history.block(start, start + step)
        row, place = np.nonzero(shown >= 0)
        q = _mix(row, shown[row, place], categories, len(shown), n_categories)
        p = _mix(past.row_of_value, past.values, categories, len(shown), n_categories)
        q = (1 - alpha) * q + alpha * p
        ratio = np.divide(p, q, out=np.ones_like(p), where=p > 0)
        divergence[start : start + step] = (p * np.log(ratio)).sum(1)
    return divergence


def _mix(row: np.ndarray, item: np.ndarray, categories: Ragged, n_rows: int, n_categories: int) -> np.ndarray:
    """The share of each category in each row: rows add up to 1, or are nan."""
    n = categories.lengths[item]
    labels = categories.values[categories.positions(item)]
    cells = np.repeat(row, n) * n_categories + labels
    mix = np.bincount(cells, np.repeat(1 / np.maximum(n, 1), n), minlength=n_rows * n_categories)
    mix = mix.reshape(n_rows, n_categories)
    return _mean(mix, mix.sum(1, keepdims=True))


def _mean_over_list(shown: np.ndarray, value: np.ndarray) -> np.ndarray:
    real = shown >= 0
    return _mean((value[shown] * real).sum(1), real.sum(1))


def _mean(total: np.ndarray, n: np.ndarray) -> np.ndarray:
    return np.divide(total, n, out=np.full(total.shape, np.nan), where=n > 0)
