"""What models that compare the vectors of the pairs taken share, with a graph or without.

Somebody never seen gets a vector by ridge regression: the one whose inner product with each item of the history comes
as close to 1 as its length allows; with a graph, what one pass from those items gives.
"""

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Int
from pydantic import PositiveFloat
from torch import Generator, Tensor, nn
from torch.nn.functional import embedding
from typing_extensions import TypeVar

from itemic import metrics
from itemic.data import Dataset, EvalSet, Ragged
from itemic.nn.graph import Graph, propagate
from itemic.nn.topk import top_k_inner
from itemic.systems.collaborative.base import (
    CollaborativeConfig,
    CollaborativeRecommender,
    distinct,
    edges_of,
    sent_by_items,
)
from itemic.training import TrainingConfig, shuffled

RIDGES = (10.0, 100.0, 1.0, 0.1)
"""What "auto" tries; of equally good ones the first is taken. 10 was best or near it on Last.fm for every loss."""
PROBES = 512
"""Validation requests by which it chooses, at most; it does so at every validation."""


class FoldingConfig(CollaborativeConfig):
    """The options that these systems share."""

    ridge: PositiveFloat | Literal["auto"] = "auto"
    """Penalty on the vector of somebody never seen, in squared lengths of an average item's vector: little trusts
    every item of the history, much follows their sum. "auto" takes the best on the validation part, else 10."""
    training: TrainingConfig = TrainingConfig()
    """Shared by all trained systems."""


class Tables(nn.Module):
    """Free vectors of users and items, which a graph, where there is one, averages with their neighbours'."""

    def __init__(self, n_users: int, n_items: int, dim: int) -> None:
        super().__init__()
        self.graph: Graph | None = None  # set by `prepare`: a model that only answers has none
        self.user = nn.Parameter(nn.init.xavier_normal_(torch.empty(n_users, dim)))
        self.item = nn.Parameter(nn.init.xavier_normal_(torch.empty(n_items, dim)))

    def forward(self, batch: "Pairs", n_layers: int) -> "Rows":
        """The vectors of these users and items."""
        return smoothed(self.graph, self.user, self.item, batch, n_layers)


class Pairs(NamedTuple):
    user: Int[Tensor, " batch"]
    item: Int[Tensor, " batch"]


Rows = tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch dim"]]


def smoothed(
    graph: Graph | None,
    user: Float[Tensor, "users dim"],
    item: Float[Tensor, "items dim"],
    batch: Pairs,
    n_layers: int,
) -> Rows:
    """The vectors of a batch, each averaged with those up to `n_layers` steps away, as in LightGCN.

    >>> graph, first = Graph.bipartite(np.array([0]), np.array([0]), 1, 1), torch.tensor([0])
    >>> smoothed(graph, torch.tensor([[1.0]]), torch.tensor([[3.0]]), Pairs(first, first), n_layers=1)
    (tensor([[2.]]), tensor([[2.]]))
    """
    if graph is None:
        return embedding(batch.user, user), embedding(batch.item, item)
    nodes = torch.cat([batch.user, batch.item + len(user)])
    rows, places = nodes.unique(return_inverse=True)  # only what the batch looks at need be made, and only once
    users, items = embedding(places, propagate(graph, torch.cat([user, item]), n_layers, rows=rows)).chunk(2)
    return users, items


C = TypeVar("C", bound=FoldingConfig)
S = TypeVar("S", bound=nn.Module)


class FoldingRecommender(CollaborativeRecommender[C, S]):
    """A system gives `build` and `loss`; with a graph it fills `tables` by `spread` in its `finish`."""

    _valid: EvalSet | None

    def prepare(self, train: Dataset) -> None:
        super().prepare(train)
        self._valid = None

    def batches(self, train: Dataset, rng: Generator) -> Iterator[Any]:
        return self.pairs(train, rng)

    def pairs(self, train: Dataset, rng: Generator) -> Iterator[Pairs]:
        """Every pair once, in random order."""
        user, item = map(torch.from_numpy, train.interactions.distinct_pairs())  # a repeat would weigh twice
        for rows in shuffled(len(user), self.config.training.batch_size, rng):
            yield Pairs(user.index_select(0, rows), item.index_select(0, rows))  # far faster than brackets

    def validate(self, valid: EvalSet | None) -> dict[str, float]:
        self._valid = valid
        return super().validate(valid)

    def finish(self) -> None:
        super().finish()
        self.shape["ridge"] = self._best_ridge() if self.config.ridge == "auto" else self.config.ridge

    def spread(self, module: Tables, n_layers: int) -> None:
        """Puts what the graph makes of all free vectors into `tables`, and what items send to somebody new."""
        assert module.graph is not None
        nodes, n_users = torch.cat([module.user, module.item]).detach(), len(module.user)
        made = propagate(module.graph, nodes, n_layers).numpy(force=True)
        self.tables |= {"user": made[:n_users], "item": made[n_users:]}
        self.tables["sent"] = sent_by_items(module.graph, nodes, n_users, n_layers)

    def fold_in(self, histories: Ragged) -> Float32[np.ndarray, "histories dim"]:
        """With a graph one pass from the items of each history, without one a ridge regression on their vectors."""
        if "sent" in self.tables:
            return self.compared(edges_of(histories, self.tables["degree"]) @ self.tables["sent"])
        return ridge_fold_in(self.item_vectors(), histories, self.shape["ridge"])

    def compared(self, users: Float32[np.ndarray, "users dim"]) -> Float32[np.ndarray, "users _"]:
        """What users' vectors become before they are compared with items'."""
        return users

    def _best_ridge(self) -> float:
        if "sent" in self.tables or self._valid is None or self._valid.query.history is None:
            return RIDGES[0]
        return best_ridge(self.item_vectors(), self._valid.query.history, self._valid.relevant)


def ridge_fold_in(
    item_vectors: Float32[np.ndarray, "items dim"], histories: Ragged, ridge: float
) -> Float32[np.ndarray, "histories dim"]:
    """The vector w of each history that minimises Σ (w·h - 1)² + ridge · s · |w|², h being the vectors of its items.

    s is the mean squared length of an item's vector, so that `ridge` means the same at every scale. A repeated item
    counts once; an empty history gives zeros.

    >>> items = np.array([[1.0, 0], [0, 1]], dtype=np.float32)
    >>> ridge_fold_in(items, Ragged.from_lists([[0, 0], [1, 0], []]), ridge=1.0).round(3).tolist()
    [[0.5, 0.0], [0.5, 0.5], [0.0, 0.0]]
    """
    histories = distinct(histories, len(item_vectors))
    dim = item_vectors.shape[1]
    penalty = max(ridge * float(np.square(item_vectors).sum(1).mean()), 1e-12)
    vectors = np.zeros((len(histories), dim), np.float32)
    for row, items in enumerate(histories):
        if len(items):
            h = item_vectors[items]
            if len(items) < dim:  # the same vector from the smaller matrix: hᵀ (h hᵀ + penalty)^-1 1
                vectors[row] = h.T @ np.linalg.solve(h @ h.T + penalty * np.eye(len(h), dtype=h.dtype), np.ones(len(h)))
            else:
                vectors[row] = np.linalg.solve(h.T @ h + penalty * np.eye(dim, dtype=h.dtype), h.sum(0))
    return vectors


def best_ridge(item_vectors: Float32[np.ndarray, "items dim"], histories: Ragged, relevant: Ragged) -> float:
    """The ridge of RIDGES with which the first 512 histories find most of what is relevant to them (ndcg@20).

    >>> best_ridge(np.eye(3, dtype=np.float32), Ragged.from_lists([[0]]), Ragged.from_lists([[2]]))  # all the same
    10.0
    """
    histories, relevant = histories.block(0, PROBES), relevant.block(0, PROBES)
    seen, k = (histories.values, histories.offsets), min(20, len(item_vectors))
    found = []
    for ridge in RIDGES:
        lists, _ = top_k_inner(ridge_fold_in(item_vectors, histories, ridge), item_vectors, k, exclude=seen)
        found.append(metrics.ndcg(lists, relevant, k).mean())
    return RIDGES[int(np.argmax(found))]
