"""Parts of an evaluation by name: which queries, or which relevant items, a figure is about.

A slice of queries is a mask over per-query values. A slice of items filters the relevant items (`only`); the same
metrics then apply, and queries left with none are nan, hence left out.
"""

import numpy as np
from jaxtyping import Bool, Int

from itemic.data.ragged import Ragged

QueryMasks = dict[str, Bool[np.ndarray, " queries"]]
ItemMasks = dict[str, Bool[np.ndarray, " items"]]


def by_activity(history_lengths: Int[np.ndarray, " queries"], bins: int = 4) -> QueryMasks:
    """Queries in about equal bins by the length of their history, shortest first, named by their lengths.

    Queries with equally long histories are never parted, so bins may differ in size, or fall away.

    >>> {name: mask.sum().item() for name, mask in by_activity(np.array([1, 1, 2, 3, 9, 30]), bins=3).items()}
    {'history 1': 2, 'history 2-3': 2, 'history 9-30': 2}
    """
    longest = np.quantile(history_lengths, np.arange(1, bins + 1) / bins)
    bin_of = np.searchsorted(longest, history_lengths)
    masks = {}
    for b in np.unique(bin_of):
        mask = bin_of == b
        low, high = history_lengths[mask].min(), history_lengths[mask].max()
        masks[f"history {low}" if low == high else f"history {low}-{high}"] = mask
    return masks


def by_popularity(item_counts: Int[np.ndarray, " items"]) -> ItemMasks:
    """Items in head, mid and tail, which hold about a third of the interactions each, the most popular first.

    An item belongs to the third in which its own interactions begin; of equally popular items the lower code leads.

    >>> {name: mask.tolist() for name, mask in by_popularity(np.array([1, 4, 2, 1, 1])).items()}
    {'head': [False, True, False, False, False], 'mid': [False, False, True, False, False], \
'tail': [True, False, False, True, True]}
    """
    order = np.argsort(-item_counts, kind="stable")
    counts = item_counts[order]
    third = np.empty(len(counts), np.int64)
    third[order] = 3 * (np.cumsum(counts) - counts) // max(1, counts.sum())
    return {"head": third == 0, "mid": third == 1, "tail": third >= 2}


def by_warmth(item_counts: Int[np.ndarray, " items"]) -> ItemMasks:
    """Items with and without interactions in training, of which `item_counts` are the numbers.

    >>> by_warmth(np.array([3, 0]))["cold"].tolist()
    [False, True]
    """
    return {"warm": item_counts > 0, "cold": item_counts == 0}


def by_count(item_counts: Int[np.ndarray, " items"], few: int = 5) -> ItemMasks:
    """Items without interactions in training, with fewer than `few`, and with so many or more.

    >>> {name: mask.tolist() for name, mask in by_count(np.array([3, 0])).items()}
    {'0': [False, True], '1 to 4': [True, False], '5 or more': [False, False]}
    """
    rare = (item_counts > 0) & (item_counts < few)
    return {"0": item_counts == 0, f"1 to {few - 1}": rare, f"{few} or more": item_counts >= few}


def only(relevant: Ragged, items: Bool[np.ndarray, " items"]) -> Ragged:
    """The relevant items that are in the slice; keep their grades with the same mask, `grades[items[relevant.values]]`.

    >>> only(Ragged.from_lists([[0, 1], [0]]), by_warmth(np.array([3, 0]))["cold"]).to_lists()
    [[1], []]
    """
    return relevant.keep(items[relevant.values])
