"""Items whose vectors get equal codes, and the ways to tell them apart, each by its name.

Every way leaves alone what was there before: codes of `known` items never change, those of new ones fit in beside them.
"""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32, Int32, Int64

from itemic.data import Ragged
from itemic.errors import DataError

Name = Literal["suffix", "nearest", "sinkhorn", "shared"]
Codes = Int32[np.ndarray, "items levels"]
Costs = Callable[[Int64[np.ndarray, " rows"]], Float32[np.ndarray, "rows size"]]
"""How far these rows are from every code of the last level."""
ROUNDS = 20
"""Of dealing out again by Sinkhorn. LC-Rec's code: 20."""


def suffix(codes: Codes, known: Codes, size: int, costs: Costs | None = None) -> Int32[np.ndarray, "items longer"]:
    """Each item's codes and one more: the number of items before it that had them, or the next free one (TIGER).

    >>> suffix(np.array([[5, 1], [5, 1], [5, 2]], np.int32), np.array([[5, 1, 0]], np.int32), size=4).tolist()
    [[5, 1, 1], [5, 1, 2], [5, 2, 0]]

    Raises:
        DataError: more items share their codes than there are numbers.
    """
    group = numbered(np.concatenate([known[:, : codes.shape[1]], codes]))
    before, own = group[: len(known)], group[len(known) :]
    free = np.zeros(int(group.max(initial=-1)) + 1, np.int64)
    if len(known):
        np.maximum.at(free, before, known[:, -1] + 1)
    number = free[own] + _place_in_group(own)
    if number.max(initial=0) >= size:
        worst = int(number.argmax())
        raise _unresolved(int(number[worst]) + 1, codes[worst], f"a suffix has {size:,} numbers")
    return np.column_stack([codes, number.astype(np.int32)])


def nearest(codes: Codes, known: Codes, size: int, costs: Costs) -> Codes:
    """The same codes but for the last of all but one of those that share them: that is the nearest one still free.

    A known item keeps its codes, else the item that they fit best. Others with the same first codes are given the free
    last ones so that the sum of their costs is least.

    >>> far = np.array([[0.1, 1, 2], [0.2, 1, 9], [9, 9, 0]], np.float32)
    >>> nearest(np.array([[5, 0], [5, 0], [5, 2]], np.int32), np.empty((0, 2), np.int32), 3, lambda rows: far[rows])
    array([[5, 0],
           [5, 1],
           [5, 2]], dtype=int32)

    Raises:
        DataError: more items share their first codes than there are last ones.
    """
    from scipy.optimize import linear_sum_assignment

    found, everyone = codes.copy(), np.concatenate([known, codes])
    whole, first = numbered(everyone), numbered(everyone[:, :-1])
    contested = np.flatnonzero(np.bincount(whole)[whole[len(known) :]] > 1)
    if len(contested) == 0:
        return found
    cost = costs(contested)
    tuple_ = whole[len(known) :][contested]
    order = np.lexsort((cost[np.arange(len(contested)), codes[contested, -1]], tuple_))
    keeps = (_place_in_group(tuple_[order]) == 0) & ~np.isin(tuple_[order], whole[: len(known)])
    moves = np.sort(order[~keeps])
    stays = np.ones(len(everyone), bool)
    stays[len(known) + contested[moves]] = False
    shelf = first[len(known) :][contested[moves]]
    taken = Ragged.from_pairs(first[stays], everyone[stays, -1], int(first.max()) + 1)
    for prefix, group in groups(shelf):
        rows, free = moves[group], np.setdiff1d(np.arange(size), taken[prefix])
        if len(rows) > len(free):
            sharing = len(rows) + len(taken[prefix])
            raise _unresolved(sharing, codes[contested[rows[0]], :-1], f"the last level has {size:,} codes")
        chosen = linear_sum_assignment(cost[rows][:, free])[1]
        found[contested[rows], -1] = free[chosen]
    return found


def sinkhorn(codes: Codes, known: Codes, size: int, costs: Costs) -> Codes:
    """The same codes but for the last of those that share them, which are dealt out evenly (LC-Rec); `nearest` after.

    Up to 20 times each group with equal codes gets new last ones by Sinkhorn's plan for it alone. That spreads them
    over the codes by which they differ most, not the nearest: `nearest` alone reconstructs vectors better. Codes of
    items outside a group are barred, so that nobody else is moved.

    Raises:
        DataError: more items share their first codes than there are last ones.
    """
    import torch

    from itemic.nn.quantise import balanced_codes

    found, n_known = codes.copy(), len(known)
    last = np.concatenate([known[:, -1], found[:, -1]])
    first = numbered(np.concatenate([known, codes])[:, :-1])
    members = dict(groups(first))
    for _ in range(ROUNDS):
        whole = numbered(np.concatenate([known, found]))
        contested = np.flatnonzero(np.bincount(whole)[whole[n_known:]] > 1)
        crowds = [contested[group] for _, group in groups(whole[n_known:][contested])]
        crowds = [rows for rows in crowds if len(rows) > 1]  # one that met a known item goes to the nearest free code
        if not crowds:
            break
        for rows in crowds:
            others = np.setdiff1d(members[int(first[n_known + rows[0]])], n_known + rows)
            cost = costs(rows).copy()
            cost[:, last[others]] = np.inf
            if np.isfinite(cost).any():
                found[rows, -1] = last[n_known + rows] = balanced_codes(torch.from_numpy(cost)).numpy()
    return nearest(found, known, size, costs)


def shared(codes: Codes, known: Codes, size: int, costs: Costs | None = None) -> Codes:
    """The codes as they are: `sharing` says which items have the same."""
    return codes


WAYS: dict[str, Callable[..., Any]] = {"suffix": suffix, "nearest": nearest, "sinkhorn": sinkhorn, "shared": shared}


def sharing(codes: Codes) -> list[Int64[np.ndarray, " items"]]:
    """The items of each group that has the same codes; items without codes are in none.

    >>> [group.tolist() for group in sharing(np.array([[1, 2], [0, 0], [1, 2], [-1, -1], [-1, -1]], np.int32))]
    [[0, 2]]
    """
    there = np.flatnonzero((codes >= 0).all(1))
    return [there[group] for _, group in groups(numbered(codes[there])) if len(group) > 1]


def numbered(codes: Int32[np.ndarray, "rows levels"]) -> Int64[np.ndarray, " rows"]:
    """A number for each row, the same for equal ones, from 0 up without gaps, in the order of the codes.

    >>> numbered(np.array([[7, 1], [0, 9], [7, 1], [7, 0]], np.int32)).tolist()
    [2, 0, 2, 1]
    """
    number = np.zeros(len(codes), np.int64)
    for column in codes.T:
        number = np.unique(number * (int(column.max(initial=0)) + 1) + column, return_inverse=True)[1]
    return number


def groups(key: Int64[np.ndarray, " rows"]) -> list[tuple[int, Int64[np.ndarray, " group"]]]:
    """The rows of each key, by rising key and row."""
    order = np.argsort(key, kind="stable")
    starts = np.flatnonzero(np.diff(key[order], prepend=-1))
    return [(int(key[group[0]]), group) for group in np.split(order, starts[1:]) if len(group)]


def _place_in_group(key: Int64[np.ndarray, " rows"]) -> Int64[np.ndarray, " rows"]:
    """How many rows before each have its key."""
    order = np.argsort(key, kind="stable")
    place = np.empty(len(key), np.int64)
    place[order] = np.arange(len(key)) - np.searchsorted(key[order], key[order])
    return place


def _unresolved(n: int, codes: Int32[np.ndarray, " levels"], why: str) -> DataError:
    shown = "-".join(map(str, codes.tolist()))
    return DataError(
        f"{n:,} items share the codes {shown} and {why}. Take more levels, a larger size, or shared codes."
    )
