"""What models with a free vector for each user and item share: they differ in the loss, not in how they answer.

A user who was trained has a vector. Anybody else gets one by ridge regression: the vector whose inner product with
each item of the history comes as close to 1 as its length allows. Somebody of whom nothing is known gets the mean of
all users' vectors. An item that nobody took is never ranked: its vector is random.
"""

from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32
from pydantic import Field, PositiveFloat
from torch import Tensor
from typing_extensions import TypeVar

from itemic import metrics
from itemic.data import Dataset, EvalSet, Query, Ragged
from itemic.errors import QueryError
from itemic.model import M
from itemic.nn.graph import Graph, propagate
from itemic.nn.topk import top_k_inner
from itemic.systems.base import SystemConfig, VectorRecommender

RIDGES = (10.0, 100.0, 1.0, 0.1)
"""What "auto" tries; of equally good ones the first is taken. 10 was best or near it on Last.fm for every loss."""
PROBES = 512
"""Validation requests by which it chooses, at most; it does so at every validation."""


class FoldingConfig(SystemConfig):
    """The options that these systems share."""

    dim: int = Field(64, ge=1)
    """Width of the vectors. The papers of this family: 64."""
    ridge: PositiveFloat | Literal["auto"] = "auto"
    """Penalty on the vector of somebody never seen, in squared lengths of an average item's vector: little trusts
    every item of the history, much follows their sum. "auto" takes the best on the validation part, else 10."""
    seed: int = 0
    """Where the first vectors, the order of the pairs and the negatives come from."""


Tables = tuple[Float[Tensor, "users dim"], Float[Tensor, "items dim"]]
C = TypeVar("C", bound=FoldingConfig)


class FoldingRecommender(VectorRecommender[C, M]):
    """Answers with the weights `user` and `item`, or with the tables of these names where `finish` makes them.

    A system that overrides `prepare` or `finish` calls these too, `finish` last.
    """

    def prepare(self, train: Dataset) -> None:
        self._valid: EvalSet | None = None
        log = train.interactions
        self._new_users = np.flatnonzero(np.bincount(log.user, minlength=train.n_users) == 0).astype(np.int32)
        self._new_items = np.flatnonzero(np.bincount(log.item, minlength=train.n_items) == 0).astype(np.int32)

    def validate(self, valid: EvalSet) -> dict[str, float]:
        self._valid = valid
        return super().validate(valid)

    def finish(self) -> None:
        trained = np.delete(self.user_vectors(), self._new_users, axis=0)
        self.tables |= {"new_users": self._new_users, "new_items": self._new_items, "anyone": trained.mean(0)}
        self.shape["ridge"] = self._best_ridge() if self.config.ridge == "auto" else self.config.ridge

    def _best_ridge(self) -> float:
        if self._valid is None or self._valid.query.history is None:
            return RIDGES[0]
        return best_ridge(self.item_vectors(), self._valid.query.history, self._valid.relevant)

    def user_vectors(self) -> Float32[np.ndarray, "users dim"]:
        """One vector a user of the catalogue; that of a user without training interactions means nothing."""
        return self.tables["user"] if "user" in self.tables else self.weights["user"]

    def item_vectors(self) -> Float32[np.ndarray, "items dim"]:
        return self.tables["item"] if "item" in self.tables else self.weights["item"]

    def query_vectors(self, query: Query) -> Float32[np.ndarray, "queries dim"]:
        """The trained vector of each user who has one; for anybody else the fold-in of the history."""
        user = np.full(len(query), -1, np.int32) if query.user is None else query.user
        strangers = np.flatnonzero((user < 0) | np.isin(user, self.tables["new_users"]))
        vectors = self.user_vectors()[user]
        if len(strangers):
            if query.history is None:
                raise QueryError(f"{self.entry.name} does not know this user. Give what they did: Query(history=...).")
            vectors[strangers] = self.fold_in(query.history.take(strangers))
        return vectors

    def fold_in(self, histories: Ragged) -> Float32[np.ndarray, "histories dim"]:
        """A vector for each history; that of an average user where it holds no item that was trained."""
        known = histories.keep(~np.isin(histories.values, self.tables["new_items"]))
        vectors = ridge_fold_in(self.item_vectors(), known, self.shape["ridge"])
        vectors[known.lengths == 0] = self.tables["anyone"]
        return vectors

    def _rank_block(self, query: Query, k: int, allowed: Bool[np.ndarray, " items"] | None) -> tuple:
        if len(self.tables["new_items"]):
            allowed = np.ones(self.catalogue.n_items, bool) if allowed is None else allowed.copy()
            allowed[self.tables["new_items"]] = False
        return super()._rank_block(query, k, allowed)

    def _score_candidates(self, query: Query) -> Float32[np.ndarray, " candidates"]:
        assert isinstance(query.candidates, Ragged)
        new = np.isin(query.candidates.values, self.tables["new_items"])
        return np.where(new, np.float32(-np.inf), super()._score_candidates(query))


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


def distinct(histories: Ragged, n_items: int) -> Ragged:
    """The items of each history once, by code.

    >>> distinct(Ragged.from_lists([[2, 0, 2], []]), 3).to_lists()
    [[0, 2], []]
    """
    row, item = np.divmod(np.unique(histories.row_of_value * n_items + histories.values), n_items)
    return Ragged.from_pairs(row, item.astype(np.int32), len(histories))


def smoothed(
    graph: Graph, user: Float[Tensor, "users dim"], item: Float[Tensor, "items dim"], n_layers: int
) -> tuple[Float[Tensor, "users dim"], Float[Tensor, "items dim"]]:
    """The vectors of users and items, each averaged with its neighbours' up to `n_layers` steps away, as in LightGCN.

    >>> graph = Graph.bipartite(np.array([0]), np.array([0]), 1, 1)
    >>> smoothed(graph, torch.tensor([[1.0]]), torch.tensor([[3.0]]), n_layers=1)
    (tensor([[2.]]), tensor([[2.]]))
    """
    users, items = propagate(graph, torch.cat([user, item]), n_layers).split([len(user), len(item)])
    return users, items
