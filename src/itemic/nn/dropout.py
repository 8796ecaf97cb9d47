"""Dropout from random bits: torch draws a double for each value on a CPU, which takes seven times as long."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

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
    return x * stays(x.shape, p, x.dtype).mul_(share(p))


def stays(shape: torch.Size, p: float, dtype: torch.dtype) -> Tensor:
    """On a CPU, 0 with chance p, else 1.

    >>> (stays(torch.Size([2, 3]), 1.0, torch.float32) == 0).all().item()
    True
    """
    n, falls = shape.numel(), round(p * LEVELS)
    if falls >= LEVELS:
        return torch.zeros(shape, dtype=dtype)
    drawn = torch.empty(-(-n // 4), dtype=torch.int64).random_(-(2**63), None)
    bits = drawn.view(torch.int16)[:n].view(shape)
    return torch.ge(bits, falls - LEVELS // 2, out=torch.empty(shape, dtype=dtype))


def share(p: float) -> float:
    """1 over the chance to stay, which keeps means what they are; 0 where nothing stays."""
    falls = round(p * LEVELS)
    return LEVELS / (LEVELS - falls) if falls < LEVELS else 0.0


class Dropout(nn.Module):
    """`dropout` in training, and nothing at all in answering."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return dropout(x, self.p) if self.training and self.p else x
