"""Where a token stands, told to attention by one of three hooks: added to its vector, turning it, or as a bias.

A kind of positions fills in the hooks it needs and leaves the others. Positions are numbers of any origin: places from
the start, distances from the end, days.
"""

import math

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor, nn
from torch.nn.functional import embedding


class Positions(nn.Module):
    """No positions at all: a set instead of a sequence."""

    def add(self, x: Float[Tensor, "*batch dim"], pos: Num[Tensor, "*batch"]) -> Float[Tensor, "*batch dim"]:
        """The vectors with their positions in them; called once, before the first block."""
        return x

    def turn(
        self, q: Float[Tensor, "*batch heads dim"], k: Float[Tensor, "*batch heads dim"], pos: Num[Tensor, "..."]
    ) -> tuple[Float[Tensor, "*batch heads dim"], Float[Tensor, "*batch heads dim"]]:
        """Queries and keys of the same tokens, turned so that their products tell how far they are apart."""
        return q, k

    def bias(
        self, pos_q: Num[Tensor, "*batch queries"], pos_k: Num[Tensor, "*batch keys"]
    ) -> Float[Tensor, "*batch heads queries keys"] | None:
        """What is added to the logits of each pair."""
        return None


class Learned(Positions):
    """A vector for each of the positions 0 to n - 1."""

    def __init__(self, n: int, dim: int, std: float = 0.02) -> None:
        super().__init__()
        self.table = nn.Parameter(nn.init.normal_(torch.empty(n, dim), std=std))

    def add(self, x: Float[Tensor, "*batch dim"], pos: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch dim"]:
        return x + embedding(pos, self.table)


class Doublings(Learned):
    """A vector for 0, one for 1, one for 2 and 3, one for 4 to 7, and so on; the last of the n is for all beyond."""

    def add(self, x: Float[Tensor, "*batch dim"], pos: Num[Tensor, "*batch"]) -> Float[Tensor, "*batch dim"]:
        return super().add(x, pos.double().frexp().exponent.clamp(max=len(self.table) - 1))


class Sine(Positions):
    """Sines and cosines of pos at wavelengths from 2π to 2π · base (Vaswani et al., 2017); any position, even 2.5."""

    frequencies: Float[Tensor, " half"]

    def __init__(self, dim: int, base: float = 10_000.0) -> None:
        super().__init__()
        self.register_buffer("frequencies", _frequencies(dim, base), persistent=False)

    def add(self, x: Float[Tensor, "*batch dim"], pos: Num[Tensor, "*batch"]) -> Float[Tensor, "*batch dim"]:
        angles = pos[..., None] * self.frequencies
        return x + torch.stack([angles.sin(), angles.cos()], -1).flatten(-2)


class Rotary(Positions):
    """Turns pairs of coordinates by angles that grow with pos, so that products depend on distances only (Su et al.,
    2021). With several axes, as row and column, each turns its share of the pairs, and pos has one more dimension.

    `dim` is the width of one head.
    """

    frequencies: Float[Tensor, " half"]

    def __init__(self, dim: int, base: float = 10_000.0, axes: int = 1, *, kept: bool = False) -> None:
        """`kept` frequencies are saved with the weights: those of a model that takes another base as it learns."""
        super().__init__()
        if dim % (2 * axes):
            raise ValueError(f"a head of {dim} cannot be split into pairs for {axes} axes")
        self.dim, self.axes = dim, axes
        self.register_buffer("frequencies", _frequencies(dim // axes, base), persistent=kept)

    def rebase(self, base: float) -> None:
        """Turns by the angles of another base from now on: a larger one for longer sequences."""
        self.frequencies.copy_(_frequencies(self.dim // self.axes, base))

    def turn(
        self, q: Float[Tensor, "*batch heads dim"], k: Float[Tensor, "*batch heads dim"], pos: Num[Tensor, "..."]
    ) -> tuple[Float[Tensor, "*batch heads dim"], Float[Tensor, "*batch heads dim"]]:
        angles = (pos if self.axes > 1 else pos[..., None])[..., None] * self.frequencies
        angles = angles.flatten(-2)[..., None, :]  # one set for all heads
        cosine, sine = angles.cos().to(q.dtype), angles.sin().to(q.dtype)
        return _turned(q, cosine, sine), _turned(k, cosine, sine)


class Buckets(Positions):
    """A learned bias for each head and bucket of distances: near ones alone, far ones in ever wider buckets (T5)."""

    def __init__(self, heads: int, n: int = 32, furthest: int = 128, *, both_ways: bool = True) -> None:
        """With `both_ways` half the n buckets are for keys behind the query, half for those ahead of it; else keys
        ahead share the bucket of distance 0. Distances of `furthest` and more share the last."""
        super().__init__()
        self.n, self.furthest, self.both_ways = n, furthest, both_ways
        self.table = nn.Parameter(nn.init.normal_(torch.empty(n, heads), std=0.02))

    def bucket(self, distance: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
        """The bucket of each distance, key minus query."""
        n = self.n // 2 if self.both_ways else self.n
        ahead = (distance > 0) * n if self.both_ways else 0
        far = distance.abs() if self.both_ways else (-distance).clamp(min=0)
        single = n // 2
        scale = (n - single) / math.log(self.furthest / single)
        wide = single + (torch.log(far.clamp(min=1) / single) * scale).long()
        return ahead + torch.where(far < single, far, wide.clamp(max=n - 1))

    def bias(
        self, pos_q: Int[Tensor, "*batch queries"], pos_k: Int[Tensor, "*batch keys"]
    ) -> Float[Tensor, "*batch heads queries keys"]:
        bucket = self.bucket(pos_k[..., None, :] - pos_q[..., :, None])
        return embedding(bucket, self.table).movedim(-1, -3)


class Alibi(Positions):
    """Takes from each logit the distance times a slope of the head, 2^-8/h to 2^-8 (Press et al., 2022); no weights."""

    slopes: Float[Tensor, " heads"]

    def __init__(self, heads: int) -> None:
        super().__init__()
        slopes = torch.exp2(-8 * torch.arange(1, heads + 1) / heads)
        self.register_buffer("slopes", slopes, persistent=False)

    def bias(
        self, pos_q: Num[Tensor, "*batch queries"], pos_k: Num[Tensor, "*batch keys"]
    ) -> Float[Tensor, "*batch heads queries keys"]:
        distance = (pos_q[..., :, None] - pos_k[..., None, :]).abs()
        return -self.slopes[:, None, None] * distance[..., None, :, :]


def _frequencies(dim: int, base: float) -> Float[Tensor, " half"]:
    return base ** (-torch.arange(0, dim, 2) / dim)


def _turned(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Pairs are (i, i + half), so that halves are slices."""
    a, b = x.chunk(2, -1)
    return torch.cat([a * cosine - b * sine, b * cosine + a * sine], -1)
