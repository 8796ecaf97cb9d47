"""Documents dealt out in steps of so many tokens each, and steps that grow as a training begins."""

import numpy as np
from jaxtyping import Int


def growing(n_tokens: int, row: int, size: int, first: int, share: float) -> Int[np.ndarray, " steps"]:
    """How many rows of `row` tokens each step takes: `first`, then one by one more up to `size`, where it stays.

    Of all tokens a share is for smaller steps, and each size has as many steps as any other, so that the tokens of a
    size are proportional to it. At least one step comes out.

    >>> growing(500, row=10, size=4, first=2, share=0.2).tolist()
    [2, 2, 3, 3, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4]
    """
    smaller = np.arange(first, size)
    each = share * n_tokens / (row * max(1, int(smaller.sum())))
    grown = first + (np.arange(round(each * len(smaller))) / max(each, 1e-9)).astype(np.int64)
    grown = grown.clip(max=max(first, size - 1))
    left = n_tokens - row * int(grown.sum())
    return np.concatenate([grown, np.full(max(round(left / (row * size)), int(len(grown) == 0)), size)])


def dealt(
    lengths: Int[np.ndarray, " documents"], budgets: Int[np.ndarray, " steps"], rng: np.random.Generator
) -> list[Int[np.ndarray, " some"]]:
    """The documents of each step, as many as its budget of tokens holds, from passes over all in ever new orders.

    No document may be longer than a budget. What a step leaves unused goes to the next one.

    >>> [step.tolist() for step in dealt(np.array([2, 3, 1]), np.array([4, 4]), np.random.default_rng(1))]
    [[0], [1, 2, 2]]
    """
    bounds = np.cumsum(budgets)
    passes = range(int(bounds[-1] // lengths.sum()) + 1)
    order = np.concatenate([rng.permutation(len(lengths)) for _ in passes])
    return np.split(order, np.searchsorted(np.cumsum(lengths[order]), bounds, "right"))[:-1]
