"""Sequences of different lengths as one flat tensor of tokens, and the few padded blocks in which attention sees them.

Projections, feed-forward layers, norms and losses run on [tokens, dim] without padding. Attention needs sequences side
by side: `split` gives blocks of sequences of like length, and `join` goes back.
"""

from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int64, Shaped
from torch import Tensor

from itemic.nn.masks import real

WASTE = 1.3
"""Rows of a block for each token in it, at most."""


class Bucket(NamedTuple):
    """Sequences that are padded together, at their ends."""

    lengths: Int64[Tensor, " sequences"]
    longest: int

    @property
    def real(self) -> Bool[Tensor, "sequences 1 longest"]:
        """Which of its places hold a token."""
        return real(self.lengths, self.longest)


class Packing:
    """Where the sequences lie among the tokens: sequence s from offsets[s] to offsets[s + 1] - 1; some may be empty.

    >>> packing = Packing(torch.tensor([0, 2, 2, 5, 6]))
    >>> packing.place.tolist(), packing.place_from_end.tolist()
    ([0, 1, 0, 1, 2, 0], [1, 0, 2, 1, 0, 0])
    >>> [tuple(part.shape) for part in packing.split(torch.randn(6, 8))]
    [(2, 3, 8), (1, 1, 8)]
    """

    def __init__(self, offsets: Int64[Tensor, " bounds"], waste: float = WASTE, step: int = 1) -> None:
        """Blocks are a multiple of `step` long: where products are compiled for each size, as in bfloat16 on a CPU, a
        larger one spares most of that."""
        self.offsets, self.waste, self.step = offsets, waste, step
        self.lengths = offsets.diff()

    def evenly(self, n: int) -> "Packing":
        """As many sequences of n tokens each."""
        return Packing(torch.arange(len(self.offsets), device=self.offsets.device) * n)

    @cached_property
    def row(self) -> Int64[Tensor, " tokens"]:
        """The sequence of each token."""
        return torch.repeat_interleave(self.lengths)

    @cached_property
    def place(self) -> Int64[Tensor, " tokens"]:
        """How many tokens come before each in its sequence."""
        return torch.arange(len(self.row), device=self.row.device) - self.offsets[self.row]

    @cached_property
    def place_from_end(self) -> Int64[Tensor, " tokens"]:
        """How many tokens come after each in its sequence."""
        return self.lengths[self.row] - 1 - self.place

    @cached_property
    def longest(self) -> int:
        return int(self.lengths.max()) if len(self.lengths) else 0

    @cached_property
    def order(self) -> Int64[Tensor, " sequences"]:
        """The sequences by falling length, as they stand in the buckets one after the other; empty ones are last."""
        return self.lengths.argsort(descending=True, stable=True)

    @cached_property
    def buckets(self) -> list[Bucket]:
        """By falling length: each takes in shorter sequences as long as its padding stays within bounds."""
        return self._layout[0]

    def split(self, x: Shaped[Tensor, "tokens ..."]) -> list[Shaped[Tensor, "_ _ ..."]]:
        """The tokens of each bucket, [sequences, longest, ...]; places beyond the end of one repeat its last token."""
        buckets, into, _ = self._layout
        rows = x if into is None else x.index_select(0, into)
        parts = rows.split([len(bucket.lengths) * bucket.longest for bucket in buckets])
        return [part.unflatten(0, (len(b.lengths), b.longest)) for part, b in zip(parts, buckets)]

    def join(self, parts: Sequence[Shaped[Tensor, "_ _ ..."]]) -> Shaped[Tensor, "tokens ..."]:
        """What `split` took apart, without the padding."""
        _, _, out_of = self._layout
        rows = torch.cat([part.flatten(0, 1) for part in parts]) if len(parts) > 1 else parts[0].flatten(0, 1)
        return rows if out_of is None else rows.index_select(0, out_of)

    @cached_property
    def _layout(self) -> tuple[list[Bucket], Int64[Tensor, " padded"] | None, Int64[Tensor, " tokens"] | None]:
        """The buckets, the token in each of their rows, and the row of each token; None where rows are the tokens."""
        order = self.order
        lengths = self.lengths[order]
        bounds = _greedy(lengths[: int((lengths > 0).sum())].tolist(), self.waste)
        buckets, into, own = [], [], []
        for start, stop in pairwise(bounds):
            bucket = Bucket(lengths[start:stop], -(-int(lengths[start]) // self.step) * self.step)
            place = torch.arange(bucket.longest, device=lengths.device)
            last = (bucket.lengths - 1)[:, None]
            into.append((self.offsets[order[start:stop]][:, None] + place.minimum(last)).flatten())
            own.append(bucket.real.flatten())
            buckets.append(bucket)
        if not buckets:
            return [], None, None
        token, kept = torch.cat(into), torch.cat(own)
        out_of = torch.empty_like(self.row)
        out_of[token[kept]] = kept.nonzero().squeeze(1)
        if len(token) == len(out_of) and bool((out_of[1:] > out_of[:-1]).all()):
            return buckets, None, None
        return buckets, token, out_of


def _greedy(lengths: list[int], waste: float) -> list[int]:
    """Bounds of runs of falling lengths, each run as long as its padded size is at most `waste` times its own."""
    bounds, held = [0], 0
    for n, length in enumerate(lengths):
        held += length
        if lengths[bounds[-1]] * (n + 1 - bounds[-1]) > waste * held:
            bounds.append(n)
            held = length
    return [*bounds, len(lengths)] if lengths else [0]
