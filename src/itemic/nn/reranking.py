"""From candidates to a list: several lists made one, variety by steps, and lists that are drawn.

A pool has the candidates of each request in a row, best first; -1 and a relevance of -inf stand where there is none.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

DAMPING = 60
"""Added to the place of an item when lists are joined, as Cormack et al. (SIGIR 2009) do."""


class Pool(NamedTuple):
    """Candidates of each request, best first."""

    items: Int[np.ndarray, "queries pool"]
    scores: Float[np.ndarray, "queries pool"]
    source: Int[np.ndarray, "queries pool"]
    """Which list named the item first."""


def joined(lists: Sequence[Int[np.ndarray, "queries _"]], weights: Sequence[float]) -> Pool:
    """One list of several by reciprocal ranks: an item's score is the sum of weight / (60 + place) over the lists.

    >>> both = joined([np.array([[7, 8]]), np.array([[8, -1]])], [1, 1])
    >>> both.items.tolist(), both.source.tolist()
    ([[8, 7]], [[0, 0]])
    """
    items = np.concatenate(lists, axis=1)
    worth = [np.float64(weight) / (DAMPING + 1 + np.arange(one.shape[1])) for one, weight in zip(lists, weights)]
    source = np.repeat(np.arange(len(lists)), [one.shape[1] for one in lists])
    row, column = np.nonzero(items >= 0)
    size = int(items.max(initial=0)) + 1
    keys, first, which = np.unique(row * size + items[row, column], return_index=True, return_inverse=True)
    scores = np.bincount(which, np.concatenate(worth)[column], minlength=len(keys))
    row, item, named_by = keys // size, keys % size, source[column[first]]
    order = np.lexsort((item, -scores, row))
    row, item, scores, named_by = row[order], item[order], scores[order], named_by[order]
    place = np.arange(len(row)) - np.searchsorted(row, row)
    width = int(np.bincount(row, minlength=1).max(initial=0))
    pool = Pool(
        np.full((len(items), width), -1, np.int32),
        np.full((len(items), width), -np.inf, np.float32),
        np.full((len(items), width), -1, np.int32),
    )
    pool.items[row, place], pool.scores[row, place], pool.source[row, place] = item, scores, named_by
    return pool


def from_0_to_1(scores: Float[np.ndarray, "queries pool"]) -> Float[np.ndarray, "queries pool"]:
    """Scores of each request stretched so that its best is 1 and its worst 0; all 1 where they are equal.

    >>> from_0_to_1(np.array([[3.0, 1, 2, -np.inf], [5, 5, -np.inf, -np.inf]])).tolist()
    [[1.0, 0.0, 0.5, -inf], [1.0, 1.0, -inf, -inf]]
    """
    there = np.isfinite(scores)
    low = np.where(there, scores, np.inf).min(1, initial=np.inf, keepdims=True)
    high = np.where(there, scores, -np.inf).max(1, initial=-np.inf, keepdims=True)
    spread = high > low
    stretched = np.divide(np.where(there, scores, 0) - np.where(spread, low, 0), np.where(spread, high - low, 1))
    return np.where(there, np.where(spread, stretched, 1), -np.inf)


def diverse(
    relevance: Float[np.ndarray, "queries pool"],
    k: int,
    vectors: Float[np.ndarray, "queries pool dim"] | None = None,
    share: float = 0.0,
    groups: Sequence[tuple[Int[np.ndarray, "queries pool"], int]] = (),
) -> Int[np.ndarray, "queries k"]:
    """Places in the pool of a list that is made step by step, by maximal marginal relevance and caps.

    Each step takes the item with the most of (1 - share) * relevance - share * its largest cosine with those taken. Of
    each of `groups`, given as a number for each candidate (-1 for none) and a cap, no more are taken than the cap.

    >>> twins = np.array([[[1.0, 0], [1, 0], [0, 1]]])
    >>> diverse(np.array([[1.0, 0.9, 0.5]]), 3, twins, share=0.5).tolist()
    [[0, 2, 1]]
    >>> diverse(np.array([[1.0, 0.9, 0.5]]), 3, groups=[(np.array([[4, 4, 5]]), 1)]).tolist()
    [[0, 2, -1]]
    """
    n_queries, width = relevance.shape
    rows, chosen = np.arange(n_queries), np.full((n_queries, k), -1, np.int64)
    open_ = np.isfinite(relevance)
    worth = (1 - share) * np.where(open_, relevance, 0)
    nearest = np.zeros_like(worth)
    unit = None
    if vectors is not None and share > 0:
        unit = np.nan_to_num(vectors / np.maximum(np.linalg.norm(vectors, axis=2, keepdims=True), 1e-12))
        nearest -= 1
    for step in range(min(k, width)):
        value = np.where(open_, worth - share * nearest, -np.inf)
        best = value.argmax(1)
        found = value[rows, best] > -np.inf
        chosen[found, step] = best[found]
        open_[rows, best] = False
        if unit is not None:
            nearest = np.maximum(nearest, np.einsum("qpd,qd->qp", unit, unit[rows, best]))
        for group, cap in groups:
            taken = np.take_along_axis(group, chosen[:, : step + 1], 1)
            mine = group[rows, best]
            full = found & (mine >= 0) & (((taken == mine[:, None]) & (chosen[:, : step + 1] >= 0)).sum(1) >= cap)
            open_ &= ~(full[:, None] & (group == mine[:, None]))
    return chosen


def drawn(
    relevance: Float[np.ndarray, "queries pool"], k: int, temperature: float, rng: np.random.Generator
) -> tuple[Int[np.ndarray, "queries k"], Float[np.ndarray, "queries k"]]:
    """Places in the pool of a list drawn by the model of Plackett and Luce, and how likely each item was at its place.

    The next item is drawn among those left with a chance proportional to exp(relevance / temperature).

    >>> chosen, chance = drawn(np.array([[0.0, -np.inf]]), 2, 1.0, np.random.default_rng(0))
    >>> chosen.tolist(), chance.tolist()
    ([[0, -1]], [[1.0, 0.0]])
    """
    logits = relevance.astype(np.float64) / temperature
    noisy = np.where(np.isfinite(logits), logits + rng.gumbel(size=logits.shape), -np.inf)
    order = np.argsort(-noisy, axis=1, kind="stable")
    logits = np.take_along_axis(logits, order, 1)
    left = np.logaddexp.accumulate(logits[:, ::-1], axis=1)[:, ::-1]
    there = np.isfinite(logits)
    chance = np.where(there, np.exp(np.where(there, logits - np.where(there, left, 0), 0)), 0)
    chosen = np.where(there, order, -1)
    missing = ((0, 0), (0, max(0, k - logits.shape[1])))
    return np.pad(chosen, missing, constant_values=-1)[:, :k], np.pad(chance, missing)[:, :k]
