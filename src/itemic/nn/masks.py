"""Who may see whom in attention: each mask is a bool tensor [..., queries, keys], true where the query may see the key.

They are plain tensors, so they combine with `&`, `|` and `~`. `q` and `k` are places in a sequence, counted from 0.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

NEVER = -1e30
"""The logit of what may not be seen or does not compete; unlike -inf it leaves no nan where nothing else is there."""
Rule = Callable[[Int[Tensor, "... queries"], Int[Tensor, "... keys"]], Bool[Tensor, "... queries keys"]]
"""A mask made of places when they are known, as `causal` or `lambda q, k: causal(q, k) & window(q, k, 8)`."""


def causal(q: Int[Tensor, "... queries"], k: Int[Tensor, "... keys"]) -> Bool[Tensor, "... queries keys"]:
    """Each sees itself and what came before.

    >>> causal(torch.arange(3), torch.arange(3)).int()
    tensor([[1, 0, 0],
            [1, 1, 0],
            [1, 1, 1]], dtype=torch.int32)
    """
    return k[..., None, :] <= q[..., :, None]


def window(q: Int[Tensor, "... queries"], k: Int[Tensor, "... keys"], n: int) -> Bool[Tensor, "... queries keys"]:
    """Each sees those at most n places away on either side.

    >>> window(torch.arange(3), torch.arange(3), 1).int()
    tensor([[1, 1, 0],
            [1, 1, 1],
            [0, 1, 1]], dtype=torch.int32)
    """
    return Near(n, n)(q, k)


@dataclass(frozen=True)
class Near:
    """The rule by which each sees itself and those at most so many places before and after it. Where attention is made
    some queries at a time, as in training on a CPU, nothing further away is looked at.

    >>> Near(before=1, after=0)(torch.arange(3), torch.arange(3)).int()
    tensor([[1, 0, 0],
            [1, 1, 0],
            [0, 1, 1]], dtype=torch.int32)
    """

    before: int
    after: int

    def __call__(self, q: Int[Tensor, "... queries"], k: Int[Tensor, "... keys"]) -> Bool[Tensor, "... queries keys"]:
        ahead = k[..., None, :] - q[..., :, None]
        return (ahead >= -self.before) & (ahead <= self.after)


def prefix(q: Int[Tensor, "... queries"], k: Int[Tensor, "... keys"], n: int) -> Bool[Tensor, "... queries keys"]:
    """All see the first n places: `causal(q, k) | prefix(q, k, n)` reads n places both ways and goes on one way.

    >>> prefix(torch.arange(2), torch.arange(3), 2).int()
    tensor([[1, 1, 0],
            [1, 1, 0]], dtype=torch.int32)
    """
    return (k < n)[..., None, :].expand(*k.shape[:-1], q.shape[-1], k.shape[-1])


def same(q: Int[Tensor, "... queries"], k: Int[Tensor, "... keys"]) -> Bool[Tensor, "... queries keys"]:
    """Each sees those of its own segment; here q and k are not places but numbers of segments.

    >>> same(torch.tensor([0, 0, 1]), torch.tensor([0, 0, 1])).int()
    tensor([[1, 1, 0],
            [1, 1, 0],
            [0, 0, 1]], dtype=torch.int32)
    """
    return q[..., :, None] == k[..., None, :]


def real(lengths: Int[Tensor, "..."], n: int) -> Bool[Tensor, "... 1 {n}"]:
    """All see the first `lengths` of n keys; the rest is padding.

    >>> real(torch.tensor([1, 3]), 3).int()
    tensor([[[1, 0, 0]],
    <BLANKLINE>
            [[1, 1, 1]]], dtype=torch.int32)
    """
    return (torch.arange(n, device=lengths.device) < lengths[..., None])[..., None, :]
