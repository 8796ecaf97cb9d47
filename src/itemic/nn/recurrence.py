"""The diagonal linear recurrence over packed sequences, computed in a few steps at once instead of place after place.

Complex numbers are pairs of real tensors, their real and imaginary parts: nothing else needs to know of them.
"""

import math
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from itemic.nn.packing import Packing

Pair = tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]
"""The real and the imaginary part."""


def recurrence(x: Pair, decay: Pair, packing: Packing) -> Pair:
    """h with h[t] = decay * h[t - 1] + x[t] within each sequence, the first h of which is its x.

    x is [tokens, dim], decay [dim]. It takes as many steps as the longest sequence can be halved: after n of them each
    place knows of the 2^n newest ones, and places with none older are left out of the next.

    >>> x, packing = torch.tensor([[1.0], [1.0], [1.0], [5.0]]), Packing(torch.tensor([0, 3, 4]))
    >>> real, imaginary = recurrence((x, 0 * x), (torch.tensor([0.0]), torch.tensor([1.0])), packing)  # h = i h + x
    >>> real.T.tolist(), imaginary.T.tolist()
    ([[1.0, 1.0, 0.0, 5.0]], [[0.0, 1.0, 1.0, 0.0]])
    """
    real, imaginary = (y.float() if y.dtype == torch.bfloat16 else y for y in x)  # powers of the decay need float32
    return _Recurrence.apply(real, imaginary, decay[0], decay[1], packing)  # pyright: ignore[reportReturnType]


class _Recurrence(torch.autograd.Function):
    """Backwards it is the same recurrence from the other end, with the conjugate of the decay."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, xi: Tensor, decay: Tensor, decay_i: Tensor, packing: Packing) -> Any:
        h, hi = _scan(x, xi, decay, decay_i, packing.place, -1)
        ctx.save_for_backward(h, hi, decay, decay_i)
        ctx.packing = packing
        return h, hi

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        h, hi, decay, decay_i = ctx.saved_tensors
        g, gi = _scan(gradients[0], gradients[1], decay, -decay_i, ctx.packing.place_from_end, 1)
        later = ctx.packing.place.nonzero()[:, 0]
        a, ai, b, bi = g[later], gi[later], h[later - 1], hi[later - 1]
        return g, gi, (a * b + ai * bi).sum(0), (ai * b - a * bi).sum(0), None


def _scan(
    x: Float[Tensor, "tokens dim"],
    xi: Float[Tensor, "tokens dim"],
    decay: Float[Tensor, " dim"],
    decay_i: Float[Tensor, " dim"],
    others: Int64[Tensor, " tokens"],
    towards: int,
) -> Pair:
    """The recurrence from one end: `others` counts the places before each, which lie `towards` it, -1 or 1."""
    h, hi, step, longest = x.clone(), xi.clone(), 1, int(others.max()) + 1 if len(others) else 0
    while step < longest:
        rows = (others >= step).nonzero()[:, 0]
        a, ai = h[rows + towards * step], hi[rows + towards * step]
        h.index_add_(0, rows, decay * a - decay_i * ai)
        hi.index_add_(0, rows, decay * ai + decay_i * a)
        decay, decay_i, step = decay.square() - decay_i.square(), 2 * decay * decay_i, 2 * step
    return h, hi


class Decay(nn.Module):
    """The decays of a linear recurrent unit, and what evens out the size of their states: learned, but always stable.

    Decays have an absolute value below 1, whatever is learned, as only the logarithm of its negative logarithm is. They
    begin evenly spread over the ring from radius `ring` to `ring + 0.1`.
    """

    def __init__(self, dim: int, ring: float) -> None:
        super().__init__()
        radius = (ring**2 + torch.rand(dim).clamp(min=1e-6) * ((ring + 0.1) ** 2 - ring**2)).sqrt()
        self.log_rate = nn.Parameter((-radius.log()).log())
        self.log_angle = nn.Parameter((2 * math.pi * torch.rand(dim).clamp(min=1e-6)).log())
        self.log_gain = nn.Parameter((1 - radius.square()).sqrt().log())

    def forward(self) -> tuple[Float[Tensor, " dim"], Float[Tensor, " dim"], Float[Tensor, " dim"]]:
        """The real and the imaginary part of each decay, and the gain by which inputs are multiplied."""
        radius, angle = (-self.log_rate.exp()).exp(), self.log_angle.exp()
        return radius * angle.cos(), radius * angle.sin(), self.log_gain.exp()
