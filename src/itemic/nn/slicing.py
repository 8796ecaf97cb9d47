"""Layers that can be cut: the first numbers of a wide one are a narrow one by themselves, and are trained with it.

Widths rise, and each number belongs to the narrowest width that has it. What a layer makes at one width reads nothing
beyond that width, so the corner of its weights is the layer of that width: no more than slicing is needed.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import layer_norm, linear


def doublings(narrowest: int, widest: int) -> tuple[int, ...]:
    """The widths from the narrowest to the widest, each twice the one before; the last step may be shorter.

    >>> doublings(8, 48)
    (8, 16, 32, 48)
    >>> doublings(8, 8)
    (8,)
    """
    widths = []
    while narrowest < widest:
        widths.append(narrowest)
        narrowest *= 2
    return (*widths, widest)


class NestedLinear(nn.Linear):
    """A linear layer from the widest width to itself: outputs of a width are made of the inputs of that width alone.

    >>> layer = NestedLinear([1, 3], bias=False)
    >>> (layer.weight != 0).int()
    tensor([[1, 0, 0],
            [1, 1, 1],
            [1, 1, 1]], dtype=torch.int32)
    """

    mask: Bool[Tensor, "dim dim"]

    def __init__(self, widths: Sequence[int], bias: bool = True) -> None:
        super().__init__(widths[-1], widths[-1], bias)
        blocks = list(pairwise([0, *widths]))
        reach = torch.tensor([stop for start, stop in blocks for _ in range(start, stop)])
        self.register_buffer("mask", torch.arange(widths[-1]) < reach[:, None], persistent=False)
        with torch.no_grad():
            bound = 1 / reach.sqrt()[:, None]  # of as many inputs as each output reads, as nn.Linear begins
            self.weight.uniform_(-1, 1).mul_(bound * self.mask)
            if bias:
                self.bias.uniform_(-1, 1).mul_(bound[:, 0])

    def forward(self, input: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        return linear(input, self.weight * self.mask, self.bias)


class NestedNorm(nn.Module):
    """Normalises what each width adds to the one before by itself: a mean over all numbers would mix the widths.

    >>> NestedNorm([1, 3])(torch.tensor([5.0, 1.0, 3.0])).detach().round(decimals=3)
    tensor([ 0., -1.,  1.])
    """

    def __init__(self, widths: Sequence[int], eps: float = 1e-5) -> None:
        super().__init__()
        self.sizes = [stop - start for start, stop in pairwise([0, *widths])]
        self.weight, self.bias = nn.Parameter(torch.ones(widths[-1])), nn.Parameter(torch.zeros(widths[-1]))
        self.eps = eps

    def forward(self, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        parts = zip(*(y.split(self.sizes, -1) for y in (x, self.weight, self.bias)))
        return torch.cat([layer_norm(y, y.shape[-1:], w, b, self.eps) for y, w, b in parts], -1)
