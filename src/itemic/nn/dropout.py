"""Dropout from random bits: torch draws a double for each value on a CPU, which takes seven times as long."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from itemic import threads

LEVELS = 1 << 16
"""A value falls away by 16 random bits, so its chance is p to within 1/131,072, and the rest is scaled by just that."""


def dropout(x: Float[Tensor, "*shape"], p: float) -> Float[Tensor, "*shape"]:
    """x with each value set to 0 with chance p, the others divided by the chance to stay; draws from torch's own seed.

    >>> kept = dropout(torch.ones(1000), 0.5)
    >>> sorted(set(kept.tolist()))
    [0.0, 2.0]
    """
    if p == 0 or x.device.type != "cpu":
        return functional.dropout(x, p)
    if x.dtype == torch.float32 and falling(p) < LEVELS:
        return _Dropped.apply(x, p)  # pyright: ignore[reportReturnType]
    return x * stays(x.shape, p, x.dtype).mul_(share(p))


class _Dropped(torch.autograd.Function):
    """The bits are a hash of a seed and the place, so that nothing is kept for the gradient, which makes them again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        ctx.p, ctx.seed = p, drawn_seed()
        return _hashed(x, ctx.seed, p)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _hashed(gradients[0], ctx.seed, ctx.p), None


def _hashed(x: Tensor, seed: int, p: float) -> Tensor:
    from itemic.nn._dropout_kernels import dropped

    x = x.contiguous()
    left = torch.empty_like(x)
    given = x.detach().view(-1).numpy(), np.uint64(seed), falling(p), np.float32(share(p)), left.view(-1).numpy()
    threads.over(lambda begin, end: dropped(begin, end, *given), x.numel(), least=1 << 16)
    return left


def drawn_seed() -> int:
    """A seed for a hash, from torch's own."""
    return int(torch.empty((), dtype=torch.int64).random_())


def falling(p: float) -> np.uint32:
    """Of 16 random bits, how many of their values mean that something falls away.

    >>> int(falling(0.5))
    32768
    """
    return np.uint32(round(p * LEVELS))


def stays(shape: torch.Size, p: float, dtype: torch.dtype) -> Tensor:
    """On a CPU, 0 with chance p, else 1.

    >>> (stays(torch.Size([2, 3]), 1.0, torch.float32) == 0).all().item()
    True
    """
    n, falls = shape.numel(), int(falling(p))
    if falls >= LEVELS:
        return torch.zeros(shape, dtype=dtype)
    drawn = torch.empty(-(-n // 4), dtype=torch.int64).random_(-(2**63), None)
    bits = drawn.view(torch.int16)[:n].view(shape)
    return torch.ge(bits, falls - LEVELS // 2, out=torch.empty(shape, dtype=dtype))


def share(p: float) -> float:
    """1 over the chance to stay, which keeps means what they are; 0 where nothing stays."""
    falls = int(falling(p))
    return LEVELS / (LEVELS - falls) if falls < LEVELS else 0.0


class Dropout(nn.Module):
    """`dropout` in training, and nothing at all in answering."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return dropout(x, self.p) if self.training and self.p else x
