"""What searches along a graph have in common: ask it for enough, leave out what may not be listed, be exact where it
met too little."""

from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Bool, Float32, Int, Int64

from itemic.data import Ragged
from itemic.nn.topk import Exclude, Top, score_pairs, top_k, top_k_inner

SPARSE = 0.1
"""Where less than this share of items is allowed, all of these are compared: a graph is mostly walked in vain."""

Walk = Callable[[Float32[np.ndarray, "queries dim"], int], Int[np.ndarray, "queries width"]]
"""So many near items of each query, in any order, -1 where fewer were met."""


def along(
    walk: Walk,
    vectors: Float32[np.ndarray, "items dim"],
    queries: Float32[np.ndarray, "queries dim"],
    k: int,
    exclude: Exclude | None = None,
    allowed: Bool[np.ndarray, " items"] | None = None,
    *,
    spare: float = 1.0,
) -> Top:
    """What an index answers with what a walk meets; rows in which it met too little are compared with all items.

    The walk is asked for `spare` times as many items as are wanted, excluded ones with them.
    """
    n_items = len(vectors)
    if allowed is not None and allowed.sum() < max(k, SPARSE * n_items):
        return top_k_inner(queries, vectors, k, exclude=exclude, allowed=allowed)
    values, bounds = exclude if exclude is not None else (np.empty(0, np.int64), np.zeros(len(queries) + 1, int))
    barred = np.unique(np.repeat(np.arange(len(queries)), np.diff(bounds)) * n_items + values)
    items, scores = np.full((len(queries), k), -1, np.int32), np.full((len(queries), k), -np.inf, np.float32)
    for rows, width in _alike(spare * (k + np.diff(bounds)), n_items):
        found = walk(queries[rows], width)
        code = np.sort(np.where(found >= 0, found, n_items), axis=1)
        real = (code < n_items) & ~np.isin(rows[:, None] * n_items + code, barred)
        if allowed is not None:
            real[real] = allowed[code[real]]
        worth = np.full(code.shape, -np.inf, np.float32)
        row, _ = np.nonzero(real)
        worth[real] = score_pairs(queries, vectors, rows[row], code[real])
        place, best = top_k(worth, min(k, code.shape[1]))
        items[rows, : place.shape[1]] = np.where(place >= 0, np.take_along_axis(code, place, 1), -1)
        scores[rows, : place.shape[1]] = best
    short = np.flatnonzero((items < 0).any(1))
    if len(short):
        own = Ragged(values, bounds).take(short)
        some = (own.values, own.offsets)
        items[short], scores[short] = top_k_inner(queries[short], vectors, k, exclude=some, allowed=allowed)
    return items, scores


def _alike(wanted: np.ndarray, n_items: int) -> Iterator[tuple[Int64[np.ndarray, " rows"], int]]:
    """Queries that want about as many items, and how many those are: one search for each doubling."""
    width = np.minimum(2 ** np.ceil(np.log2(np.maximum(wanted, 1))).astype(np.int64), max(1, n_items))
    for one in np.unique(width).tolist():
        yield np.flatnonzero(width == one), one
