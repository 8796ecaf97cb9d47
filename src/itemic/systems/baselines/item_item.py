"""Item-to-item weights: the largest of each column kept as a sparse matrix, and histories scored with it.

Item-kNN and EASE differ in how they find the weights; both answer a history with the sum of its items' rows.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float32, Int32

from itemic.data import Ragged

Sparse = Any
"""A scipy.sparse.csr_array; scipy is imported where it is used."""
Columns = tuple[Int32[np.ndarray, "targets k"], Float32[np.ndarray, "targets k"]]
"""For some consecutive target items, the items whose weights are kept (-1 for none) and those weights."""


def sparse_weights(columns: Iterable[Columns], n_items: int) -> dict[str, np.ndarray]:
    """The weights from each item, row after row: `values`, the `indices` of their targets, and the rows' `offsets`.

    >>> columns = [(np.int32([[1, -1], [0, 2]]), np.float32([[5, 0], [6, 7]])), (np.int32([[-1]]), np.float32([[0]]))]
    >>> {name: array.tolist() for name, array in sparse_weights(columns, 3).items()}
    {'values': [6.0, 5.0, 7.0], 'indices': [1, 0, 1], 'offsets': [0, 1, 2, 3]}
    """
    from scipy.sparse import csc_array

    sources, values, counts = [], [], []
    for source, value in columns:
        kept = source >= 0
        sources.append(source[kept])
        values.append(value[kept])
        counts.append(kept.sum(axis=1))
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(counts))])
    shape = (n_items, n_items)
    rows = csc_array((np.concatenate(values), np.concatenate(sources), offsets), shape=shape).tocsr()
    return {"values": rows.data, "indices": rows.indices.astype(np.int32), "offsets": rows.indptr.astype(np.int64)}


def taken(history: Ragged, n_items: int) -> Sparse:
    """A row for each history with a 1 at each of its items, however often it stands there.

    >>> taken(Ragged.from_lists([[2, 0, 2], [1]]), 3).toarray().tolist()
    [[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]
    """
    from scipy.sparse import csr_array

    ones = np.ones(len(history.values), np.float32)
    x = csr_array((ones, history.values, history.offsets), shape=(len(history), n_items), copy=True)
    x.sum_duplicates()
    x.data[:] = 1
    return x


def stored(weights: Mapping[str, np.ndarray], n_items: int) -> Sparse | np.ndarray:
    """The weights as a matrix [from item, to item], dense or sparse as they were kept."""
    from scipy.sparse import csr_array

    if "dense" in weights:
        return weights["dense"]
    return csr_array((weights["values"], weights["indices"], weights["offsets"]), shape=(n_items, n_items))


def history_scores(
    history: Ragged, weights: Mapping[str, np.ndarray], n_items: int
) -> Float32[np.ndarray, "queries items"]:
    """For each history and each item, the sum of the weights from the different items of the history to it.

    Where weights have a `rest`, it is one number a target, to be added to its weight from every item.
    """
    x = taken(history, n_items)
    scores = x @ stored(weights, n_items)
    scores = scores if isinstance(scores, np.ndarray) else scores.toarray()
    return scores + x.sum(axis=1)[:, None] * weights["rest"] if "rest" in weights else scores
