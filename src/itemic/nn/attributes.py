"""Vectors of things from their attributes, learned inside the model that reads them.

A value has a row in a table, a number passes a linear layer, alone or with waves of learned lengths (Gorishniy et al.,
NeurIPS 2022, arXiv:2203.05556), and what is missing has a learned vector of its own.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor, nn

from itemic.nn.graph import Graph


class Said(NamedTuple):
    """What is said of some things: a sparse matrix of weights for each attribute with values, and their numbers."""

    bags: list[Graph]
    """Column 0 stands for nothing known; weights of 1/n, where n values are said, make a mean."""
    numbers: Float[Tensor, "things numbers"]
    """nan where one is missing."""

    def to(self, device: "torch.device | str") -> "Said":
        """The same on a device; its graphs are moved as modules are, themselves."""
        return Said([graph.to(device) for graph in self.bags], self.numbers.to(device))

    def topics(self, n: int) -> Float[Tensor, "values topics"]:
        """A vector for each value of all attributes, whose sums over things are about as near each other as these are.

        The right singular vectors of the things, all of one length, over the roots of their singular values: latent
        semantic analysis, half whitened. At most `n`, and no more than there are values or things that differ.
        """
        rows = torch.cat([torch.repeat_interleave(graph.offsets.diff()) for graph in self.bags])
        starts = np.cumsum([0, *(graph.shape[1] for graph in self.bags)])
        columns = torch.cat([graph.columns + start for graph, start in zip(self.bags, starts.tolist())])
        values = torch.cat([graph.values for graph in self.bags])
        length = values.new_zeros(len(self.numbers)).index_add_(0, rows, values.square()).sqrt_()
        shape = len(self.numbers), int(starts[-1])
        whole = torch.sparse_coo_tensor(
            torch.stack([rows, columns]), values / length[rows], shape, check_invariants=False
        )
        _, size, words = torch.svd_lowrank(whole, q=min(n, *shape), niter=2)
        kept = size > 1e-5 * size[0]
        return words[:, kept] / size[kept].sqrt()

    def distinct(self) -> tuple[Int64[np.ndarray, " different"], Int64[np.ndarray, " things"]]:
        """The first thing of each that say the same, and for every thing which of those it equals."""
        rng, key = np.random.default_rng(0), np.zeros(len(self.numbers), np.uint64)
        for graph in self.bags:
            mark = rng.integers(2**64, size=graph.shape[1], dtype=np.uint64)  # sums of these collide once in 2^64
            sums = np.add.reduceat(mark[graph.columns.numpy(force=True)], graph.offsets[:-1].numpy(force=True))
            key = key * np.uint64(0x9E3779B97F4A7C15) + sums
        for number in self.numbers.T:
            key = key * np.uint64(0x9E3779B97F4A7C15) + number.contiguous().numpy(force=True).view(np.uint32)
        _, first, same = np.unique(key, return_index=True, return_inverse=True)
        return first, same


class Attributes(nn.Module):
    """Sizes come from vocabularies and options alone: no parameter belongs to a thing.

    >>> read = Attributes(sizes=[3], n_numbers=1, dim=4)
    >>> tags = Graph(np.array([0, 1, 3]), np.array([2, 1, 2]), np.array([1, 0.5, 0.5], np.float32), 3)
    >>> read(Said([tags], torch.tensor([[0.3], [torch.nan]]))).shape
    torch.Size([2, 4])
    """

    def __init__(
        self,
        sizes: Sequence[int],
        n_numbers: int,
        dim: int,
        *,
        waves: int = 0,
        unknown: float = 0.0,
        dropout: float = 0.0,
        spread: float = 0.3,
    ) -> None:
        """`sizes` are the values of each attribute that has some, with the one for nothing known.

        With `waves` a number is read also by so many sines and cosines of it, of learned lengths: a line alone sees no
        bend. In training an attribute is hidden with the chance `unknown`, and a value with the chance `dropout`.
        """
        super().__init__()
        self.tables = nn.ParameterList(nn.init.normal_(torch.empty(size, dim), std=spread) for size in sizes)
        width = len(sizes) * dim + n_numbers * (1 + 2 * waves)
        self.joined = nn.Linear(width, dim, bias=False)  # one makes things alike
        self.missing = nn.Parameter(torch.zeros(n_numbers, dim))
        """Until one is missing in training: what is missing is as the mean."""
        self.turns = nn.Parameter(torch.randn(n_numbers, waves)) if waves else None
        self.unknown, self.dropout, self.spread = unknown, dropout, spread

    def forward(self, said: Said, rows: Int[Tensor, " rows"] | None = None) -> Float[Tensor, "rows dim"]:
        """The vectors of these things, all where None."""
        parts = []
        for graph, table in zip(said.bags, self.tables):
            bag = graph.dropped(self.dropout) if self.training and self.dropout else graph
            part = bag @ table if rows is None else bag.times_rows(rows, table)
            if self.training and self.unknown:
                hidden = torch.rand(len(part), 1, device=part.device) < self.unknown
                part = torch.where(hidden, table[0], part)
            parts.append(part)
        numbers = said.numbers if rows is None else said.numbers[rows]
        there = ~numbers.isnan()
        joined = self.joined(torch.cat([*parts, *self._read(numbers.nan_to_num(0.0), there)], 1))
        return joined if not len(self.missing) else joined + (~there).to(joined.dtype) @ self.missing

    def _read(self, numbers: Float[Tensor, "rows numbers"], there: Tensor) -> list[Tensor]:
        if self.turns is None:
            return [numbers]
        angle = 2 * math.pi * numbers[:, :, None] * self.turns
        return [numbers, *((wave * there[:, :, None]).flatten(1) for wave in (angle.sin(), angle.cos()))]

    @torch.no_grad()
    def begin_with_content(self, said: Said) -> None:
        """Before the first step things are near each other that share rare values, or values which occur together."""
        if said.bags:
            values = said.topics(self.joined.out_features)
            values *= self.spread / values.square().mean().sqrt()
            for table, part in zip(self.tables, values.split([len(table) for table in self.tables])):
                table[:, : part.shape[1]] = part
        eye = torch.eye(self.joined.out_features)
        self.joined.weight[:, : len(self.tables) * len(eye)] = eye.repeat(1, len(self.tables))
