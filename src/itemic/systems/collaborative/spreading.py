"""What models that spread vectors along the graph of users and items share: what they draw, and what they keep."""

from collections.abc import Iterator
from typing import Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.nn.functional import embedding
from typing_extensions import TypeVar

from itemic.data import Dataset, Ragged
from itemic.nn.graph import Graph, Norm
from itemic.nn.losses.pair import bpr
from itemic.systems.collaborative.base import CollaborativeConfig, CollaborativeRecommender, Triples
from itemic.training import TrainingConfig, shuffled
from itemic.training.negatives import Negatives

Sampling = Literal["user_uniform", "edge_uniform"]
"""How pairs of users and items are drawn."""


class GraphConfig(CollaborativeConfig):
    """The options that these systems share."""

    n_negatives: int = Field(1, ge=1)
    """Items not taken beside each one taken. Both papers: 1."""
    sampling: Sampling = "user_uniform"
    """An epoch has as many draws as there are pairs. user_uniform, as the authors', draws a user and then one of their
    items, so that those who took much do not outweigh the others; edge_uniform visits every pair once."""
    edge_dropout: float = Field(0.0, ge=0, lt=1)
    """Share of the graph's values that each step goes without. The published numbers: 0."""
    training: TrainingConfig = TrainingConfig(lr=1e-3, batch_size=2048, epochs=400, eval_every=10, patience=5)
    """Shared by all trained systems. LightGCN: this step size and batch, up to 1000 epochs; it converges slowly."""


class Spreading(nn.Module):
    """The free vectors of all users and, after them, of all items, and the graph along which they spread."""

    graph: Graph
    """Set by `prepare`: a model that only answers has none."""

    def __init__(self, nodes: Float[Tensor, "nodes dim"]) -> None:
        super().__init__()
        self.nodes = nn.Parameter(nodes)

    def thinned(self, p: float) -> Graph:
        """The graph; in training, without a share p of its values."""
        return self.graph.dropped(p) if self.training and p else self.graph


def told_apart(vectors: Float[Tensor, "nodes dim"], batch: Triples) -> Float[Tensor, ""]:
    """The BPR loss of triples whose numbers are rows of these vectors.

    >>> one = torch.tensor([0])
    >>> round(told_apart(torch.ones(3, 2), Triples(one, one + 1, one[None] + 2)).item(), 4)
    0.6931
    """
    user, item, negatives = (embedding(rows, vectors) for rows in batch)
    return bpr((user * item).sum(-1), torch.einsum("bd,bnd->bn", user, negatives))


def lengths(vectors: Float[Tensor, "nodes dim"], batch: Triples) -> Float[Tensor, ""]:
    """The squared lengths of a triple's vectors, added up, on average over the batch.

    >>> one = torch.tensor([0])
    >>> lengths(torch.ones(3, 2), Triples(one, one + 1, one[None] + 2)).item()
    6.0
    """
    return torch.stack([embedding(rows, vectors).square().sum() for rows in batch]).sum() / len(batch.user)


def pairs(
    taken: Ragged, batch_size: int, sampling: Sampling, rng: Generator
) -> Iterator[tuple[Int[Tensor, " batch"], Int[Tensor, " batch"]]]:
    """Users and items that they took, in batches, as many as there are; `GraphConfig.sampling` says how drawn.

    >>> user, item = next(pairs(Ragged.from_lists([[4, 5], [], [6]]), 3, "edge_uniform", Generator()))
    >>> sorted(zip(user.tolist(), item.tolist()))
    [(0, 4), (0, 5), (2, 6)]
    """
    items, offsets = torch.from_numpy(taken.values).long(), torch.from_numpy(taken.offsets)
    counts = offsets.diff()
    user_of, able = torch.arange(len(taken)).repeat_interleave(counts), counts.nonzero().squeeze(1)
    for rows in shuffled(len(items), batch_size, rng):
        if sampling == "user_uniform":
            user = able[torch.randint(len(able), (len(rows),), generator=rng)]
            rows = offsets[user] + torch.randint(1 << 62, (len(rows),), generator=rng) % counts[user]  # noqa: PLW2901
        yield user_of[rows], items[rows]


C = TypeVar("C", bound=GraphConfig)
S = TypeVar("S", bound=Spreading)


class GraphRecommender(CollaborativeRecommender[C, S]):
    """A system gives `build`, `loss`, `fold_in`, and in `finish` the vectors of all nodes to `keep`."""

    @property
    def norm(self) -> Norm:
        """How the graph is scaled."""
        return "sym"

    def prepare(self, train: Dataset) -> None:
        super().prepare(train)
        pairs = train.interactions.distinct_pairs()
        self.module.graph = Graph.bipartite(*pairs, train.n_users, train.n_items, self.norm)
        self._negatives = Negatives(self.taken.offsets, self.taken.values, train.n_items)

    def batches(self, train: Dataset, rng: Generator) -> Iterator[Triples]:
        for user, item in pairs(self.taken, self.config.training.batch_size, self.config.sampling, rng):
            negatives = self._negatives.draw(user, self.config.n_negatives, rng)
            yield Triples(user, train.n_users + item, train.n_users + negatives)

    def keep(self, vectors: Float[Tensor, "nodes dim"]) -> None:
        """Makes `tables` of the final vectors of all nodes."""
        user, item = (x.numpy(force=True) for x in vectors.split([self.catalogue.n_users, self.catalogue.n_items]))
        self.tables = {"user": user, "item": item}
        super().finish()
