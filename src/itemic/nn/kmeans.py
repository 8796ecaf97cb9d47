"""k-means over any number of rows: distances by matrix products, a block at a time, so that rows may lie on disk.

A block of rows and its distances to the centres are all that is held beside a code and a cost for every row. Balanced
clusters, none larger than a cap, need the distances of all rows at once.
"""

from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int, Int64
from torch import Generator, Tensor

from itemic.nn.products import fast_products

BLOCK = 16_384
"""Rows that are compared with the centres at a time."""
START = 32
"""Rows for each centre among which the first centres are chosen."""
TRIAL = 5
"""Steps after which they are judged."""


@runtime_checkable
class Rows(Protocol):
    """What k-means reads: a tensor, or something that gives tensors for slices and lists of its rows."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    def __getitem__(self, rows: slice | Tensor, /) -> Tensor: ...


class Clusters(NamedTuple):
    centres: Float[Tensor, "k dim"]
    code: Int64[Tensor, " rows"]
    """The centre that each row belongs to; the nearest one where there is no cap."""
    cost: Float[Tensor, " rows"]
    """The squared distance to it."""


def nearest(
    x: Float[Tensor, "rows dim"], centres: Float[Tensor, "k dim"]
) -> tuple[Int64[Tensor, " rows"], Float[Tensor, " rows"]]:
    """The nearest centre of each row, the first of equals, and the squared distance to it.

    >>> code, squared = nearest(torch.tensor([[1.0, 0.0], [3.0, 3.0]]), torch.tensor([[0.0, 0.0], [3.0, 4.0]]))
    >>> code.tolist(), squared.tolist()
    ([0, 1], [1.0, 1.0])
    """
    codes, squares = [], []
    half = centres.square().sum(1) / 2
    for block in x.split(BLOCK):
        with fast_products():
            likeness = (block @ centres.T).sub_(half)
        code = _largest(likeness)
        codes.append(code)
        squares.append((block.square().sum(1) - 2 * likeness.gather(1, code[:, None])[:, 0]).clamp_(min=0))
    return torch.cat(codes), torch.cat(squares)


def distances(x: Float[Tensor, "rows dim"], centres: Float[Tensor, "k dim"]) -> Float[Tensor, "rows k"]:
    """The squared distance of every row to every centre.

    >>> distances(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 0.0], [1.0, 2.0]])).tolist()
    [[1.0, 4.0]]
    """
    with fast_products():
        product = x @ centres.T
    return (centres.square().sum(1) + x.square().sum(1, keepdim=True)).sub_(product, alpha=2).clamp_(min=0)


def capped(cost: Float[Tensor, "rows k"], room: Int[Tensor, " k"]) -> Int64[Tensor, " rows"]:
    """A column for each row, none chosen more often than it has room: the cheapest pairs of all come first.

    As if all pairs were sorted by cost and each taken for which both sides are still free, equal ones by lower row and
    column. A row asks its cheapest column, which sends the dearest away where it is full; those ask on.

    >>> capped(torch.tensor([[0.0, 5.0], [1.0, 2.0], [3.0, 4.0]]), torch.tensor([1, 2])).tolist()
    [0, 1, 1]

    Raises:
        ValueError: there is less room than rows.
    """
    n, k = cost.shape
    if int(room.sum()) < n:
        raise ValueError(f"{n:,} rows do not fit: there is room for {int(room.sum()):,}")
    left = cost.double().masked_fill(room == 0, torch.inf)  # no copy of the caller's is changed
    code = torch.full((n,), -1, dtype=torch.int64, device=cost.device)
    asking = torch.arange(n, device=cost.device)
    while len(asking):
        code[asking] = _largest(-left[asking])
        full = code.bincount(minlength=k) > room
        there = full[code].nonzero()[:, 0]
        there = there[cost[there, code[there]].argsort(stable=True)]
        there = there[code[there].argsort(stable=True)]
        chosen = code[there]
        place = torch.arange(len(there), device=cost.device) - torch.searchsorted(chosen, chosen)
        asking = there[place >= room[chosen]]
        left[asking, code[asking]] = torch.inf
    return code


def kmeans(
    x: Rows, k: int, rng: Generator, *, steps: int = 25, tolerance: float = 1e-4, cap: int | None = None
) -> Clusters:
    """At most `steps` steps of Lloyd, fewer when the mean cost falls by less than its share `tolerance`.

    The first centres are tried out on up to 32 rows a centre: drawn far from each other (k-means++), which finds clear
    clusters, and drawn evenly, which is better where rows differ in all directions, as residuals do. A centre that
    loses all its rows goes to the row that is worst off. With `cap` no cluster is larger than that.

    >>> x = torch.tensor([[0.0], [1.0], [10.0], [11.0], [12.0]])
    >>> made = kmeans(x, 2, Generator().manual_seed(0))
    >>> sorted(made.centres[:, 0].tolist()), made.cost.sum().item()
    ([0.5, 11.0], 2.5)

    Raises:
        ValueError: there are fewer rows than centres, or the cap leaves rows without a place.
    """
    n = x.shape[0]
    if n < k:
        raise ValueError(f"{n:,} rows cannot have {k:,} centres")
    return _improved(x, _first_centres(x, k, rng), steps, tolerance, cap)


def _improved(
    x: Rows, centres: Float[Tensor, "k dim"], steps: int, tolerance: float, cap: int | None = None
) -> Clusters:
    k = len(centres)
    code, cost, sums = _assigned(x, centres, cap)
    total = float(cost.double().sum())
    for _ in range(steps):
        counts = code.bincount(minlength=k)
        centres = sums / counts.clamp(min=1)[:, None]
        empty = (counts == 0).nonzero()[:, 0]
        if len(empty):
            centres[empty] = x[cost.topk(len(empty)).indices]
        code, cost, sums = _assigned(x, centres, cap)
        before, total = total, float(cost.double().sum())
        if not len(empty) and before - total <= tolerance * before:
            break
    return Clusters(centres, code, cost)


def _assigned(
    x: Rows, centres: Float[Tensor, "k dim"], cap: int | None
) -> tuple[Int64[Tensor, " rows"], Float[Tensor, " rows"], Float[Tensor, "k dim"]]:
    """The centre of each row, the squared distance to it, and the sum of the rows of each centre."""
    n, sums = x.shape[0], torch.zeros_like(centres)
    if cap is not None:
        cost = torch.cat([distances(x[at : at + BLOCK], centres) for at in range(0, n, BLOCK)])
        code = capped(cost, torch.full((len(centres),), cap))
        for at in range(0, n, BLOCK):
            sums.index_add_(0, code[at : at + BLOCK], x[at : at + BLOCK])
        return code, cost.gather(1, code[:, None])[:, 0], sums
    codes, costs = [], []
    for at in range(0, n, BLOCK):
        block = x[at : at + BLOCK]
        code, cost = nearest(block, centres)
        sums.index_add_(0, code, block)
        codes.append(code)
        costs.append(cost)
    return torch.cat(codes), torch.cat(costs), sums


def _first_centres(x: Rows, k: int, rng: Generator) -> Float[Tensor, "k dim"]:
    """Of centres drawn in two ways, those that some of the rows are nearer to after a few steps."""
    n = x.shape[0]
    some = x[torch.randperm(n, generator=rng)[: START * k].sort().values]
    even = some[torch.randperm(len(some), generator=rng)[:k]]
    tried = [_improved(some, centres, TRIAL, 0.0) for centres in (_far_apart(some, k, rng), even)]
    return min(tried, key=lambda made: float(made.cost.sum())).centres


def _far_apart(x: Float[Tensor, "rows dim"], k: int, rng: Generator) -> Float[Tensor, "k dim"]:
    """Rows drawn one after the other, with a chance in proportion to the squared distance to those before."""
    chosen = torch.randint(len(x), (1,), generator=rng)
    squares, far = x.square().sum(1), torch.full((len(x),), torch.inf)
    for _ in range(k - 1):
        last = x[chosen[-1]]
        far = torch.minimum(far, (squares - 2 * (x @ last) + last.square().sum()).clamp_(min=0))
        far[chosen] = 0.0
        weights = far if far.sum() > 0 else torch.ones_like(far)  # fewer different rows than centres
        chosen = torch.cat([chosen, torch.multinomial(weights, 1, generator=rng)])
    return x[chosen]


def _largest(x: Float[Tensor, "rows columns"]) -> Int64[Tensor, " rows"]:
    """The column of the largest value of each row, the first of equals."""
    if x.is_cpu:
        return torch.from_numpy(np.argmax(x.detach().numpy(), axis=1))  # in a tenth of the time that torch's takes
    return x.argmax(1)
