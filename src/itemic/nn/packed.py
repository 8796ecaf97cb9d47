"""Attention of packed tokens on a CPU, by loops that read them where they lie."""

from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from itemic import threads
from itemic.nn.dropout import drawn_seed, falling, share
from itemic.nn.masks import Near
from itemic.nn.packing import Packing

ALL = Near(1 << 40, 1 << 40)
HELD = 1 << 26
"""Numbers in all the sums of gradients of a bias that threads make at a time: 256 MB."""


def packed_attention(
    q: Float[Tensor, "queries heads dim"],
    k: Float[Tensor, "keys heads dim"],
    v: Float[Tensor, "keys heads width"],
    of_q: Packing,
    of_k: Packing,
    bias: Float[Tensor, "some_heads longest_q longest_k"] | None = None,
    near: Near = ALL,
    dropout: float = 0.0,
) -> Float[Tensor, "queries heads width"]:
    """`attention.attend` of each sequence of queries to that of keys, in float32 on a CPU.

    `bias` is by places and for each head or for all; a query at place n of its sequence sees the keys at those that
    `near` allows, and dropout falls on the weights. Nothing is padded, nothing as large as all pairs is made, and at
    lengths of some tens it takes less than half the time of padded blocks.

    >>> packing, x = Packing(torch.tensor([0, 1, 3])), torch.eye(3)[:, None]
    >>> packed_attention(x, x, x, packing, packing, near=Near(0, 0))[:, 0]
    tensor([[1., 0., 0.],
            [0., 1., 0.],
            [0., 0., 1.]])
    """
    empty = q.new_zeros((0, 1, 1)) if bias is None else bias
    return _Packed.apply(q, k, v, of_q, of_k, empty, near, dropout)  # pyright: ignore[reportReturnType]


class _Packed(torch.autograd.Function):
    """The gradient makes the weights again, with the same random bits."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, of_q: Packing, of_k: Packing, bias: Tensor, near: Near, p: float
    ) -> Tensor:
        from itemic.nn._packed_kernels import attention

        q, k, v, bias = (x.contiguous() for x in (q, k, v, bias))
        made = q.new_empty((*q.shape[:2], v.shape[2]))
        ctx.settled = near.before, near.after, np.uint32(drawn_seed() % 2**32), falling(p), np.float32(share(p))
        ctx.bounds = of_q.offsets.numpy(), of_k.offsets.numpy()
        ctx.save_for_backward(q, k, v, bias, made)
        given = [*_arrays(q, k, v), *ctx.bounds, *_arrays(bias), *ctx.settled, *_arrays(made)]
        with _alone(of_k, q):
            threads.over(lambda begin, end: attention(begin, end, *given), len(of_q.lengths), _least(ctx.bounds[1]))
        ctx.of_k = of_k
        return made

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        from itemic.nn import _packed_kernels as kernels

        q, k, v, bias, made = ctx.saved_tensors
        by = [gradients[0].contiguous(), *map(torch.empty_like, (q, k, v))]
        asked = bias if ctx.needs_input_grad[5] else bias[:0]
        n = len(ctx.bounds[0]) - 1
        parts = min(n // _least(ctx.bounds[1]), threads.PARTS * threads.count(), HELD // max(asked.numel(), 1))
        parts = max(1, parts)
        bounds = [n * part // parts for part in range(parts + 1)] if threads.count() > 1 else [0, n]
        by_bias = asked.new_zeros((len(bounds) - 1, *asked.shape))
        given = [*_arrays(q, k, v), *ctx.bounds, *_arrays(bias), *ctx.settled, *_arrays(made, *by)]
        loop: Any = kernels.gradients

        def some(begin: int, end: int) -> None:
            for part, (first, last) in list(enumerate(pairwise(bounds)))[begin:end]:
                loop(first, last, *given, by_bias[part].numpy())

        with _alone(ctx.of_k, q):
            threads.over(some, len(by_bias))
        return *by[1:], None, None, by_bias.sum(0) if len(asked) else None, None, None


def _least(of_k: np.ndarray) -> int:
    """Sequences of some 256 keys together: what repays handing it to a thread."""
    return max(1, 256 * (len(of_k) - 1) // max(int(of_k[-1]), 1))


def _alone(of_k: Packing, q: Tensor) -> AbstractContextManager[None]:
    """Holds BLAS to one thread where its products are so large that it would take more, beside ours."""
    return threads.single() if of_k.longest * q.shape[2] > 1 << 12 else nullcontext()


def _arrays(*tensors: Tensor) -> list[np.ndarray]:
    return [tensor.detach().numpy() for tensor in tensors]
