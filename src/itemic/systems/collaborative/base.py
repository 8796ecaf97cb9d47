"""What models with a vector for each user and item share: they differ in how they learn, not in how they answer.

A user who was trained has a vector. Anybody else gets the one that a system folds in from the history, and somebody of
whom nothing is known the mean of all users' vectors, which ranks much as popularity does. An item that nobody took is
never ranked: what it has for a vector is chance.
"""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int, Int32
from pydantic import Field
from torch import Tensor
from typing_extensions import TypeVar

from itemic.data import Dataset, Query, Ragged
from itemic.errors import QueryError
from itemic.model import M
from itemic.nn.graph import Graph, Norm, propagate
from itemic.systems.base import SystemConfig, VectorRecommender

if TYPE_CHECKING:
    from scipy.sparse import csr_array


class CollaborativeConfig(SystemConfig):
    """The options that these systems share."""

    dim: int = Field(64, ge=1)
    """Width of the free vectors. The papers of this family: 64."""
    seed: int = 0
    """Where the first vectors, the order of the pairs and the negatives come from."""


class Triples(NamedTuple):
    """Who, what they took, and what they did not."""

    user: Int[Tensor, " batch"]
    item: Int[Tensor, " batch"]
    negatives: Int[Tensor, "batch negatives"]

    def renumbered(self) -> tuple[Int[Tensor, " distinct"], "Triples"]:
        """The rows that occur, each once, and the triples as places among them.

        >>> Triples(torch.tensor([7]), torch.tensor([9]), torch.tensor([[8, 9]])).renumbered()[0]
        tensor([7, 8, 9])
        """
        rows, places = torch.cat([x.flatten() for x in self]).unique(return_inverse=True)
        parts = places.split([x.numel() for x in self])
        return rows, Triples(*(part.view(x.shape) for part, x in zip(parts, self)))


C = TypeVar("C", bound=CollaborativeConfig)


class CollaborativeRecommender(VectorRecommender[C, M]):
    """Answers with the weights `user` and `item`, or with the tables of these names where `finish` makes them.

    A system gives `fold_in`. One that overrides `prepare` or `finish` calls these too, `finish` last.
    """

    taken: Ragged
    """The distinct items of each user, while it is trained."""

    def prepare(self, train: Dataset) -> None:
        self.taken = Ragged.from_pairs(*train.interactions.distinct_pairs(), train.n_users)

    def finish(self) -> None:
        trained = self.taken.lengths > 0
        degree = np.bincount(self.taken.values, minlength=self.catalogue.n_items).astype(np.int32)
        self.tables |= {"degree": degree, "untrained": np.flatnonzero(~trained).astype(np.int32)}
        self.tables["anyone"] = self.user_vectors()[trained].mean(0)

    def user_vectors(self) -> Float32[np.ndarray, "users dim"]:
        """One vector a user of the catalogue; that of a user without training interactions means nothing."""
        return self.tables["user"] if "user" in self.tables else self.weights["user"]

    def item_vectors(self) -> Float32[np.ndarray, "items dim"]:
        return self.tables["item"] if "item" in self.tables else self.weights["item"]

    def query_vectors(self, query: Query) -> Float32[np.ndarray, "queries dim"]:
        """The trained vector of each user who has one; for anybody else what the history gives, or the mean user's."""
        user = np.full(len(query), -1, np.int32) if query.user is None else query.user
        if query.history is None and (user < 0).any():
            raise QueryError(f"{self.entry.name} does not know this user. Give what they did: Query(history=...).")
        strangers = np.flatnonzero((user < 0) | np.isin(user, self.tables["untrained"]))
        vectors = self.user_vectors()[user]
        vectors[strangers] = self.tables["anyone"]
        if query.history is None or not len(strangers):
            return vectors
        histories = distinct(query.history.take(strangers), self.catalogue.n_items)
        histories = histories.keep(self.tables["degree"][histories.values] > 0)
        told = np.flatnonzero(histories.lengths)
        if len(told):
            vectors[strangers[told]] = self.fold_in(histories.take(told))
        return vectors

    def fold_in(self, histories: Ragged) -> Float32[np.ndarray, "histories dim"]:
        """The vectors that users with these histories get, each of at least one trained item, none twice."""
        raise TypeError(f"{type(self).__name__} defines no fold_in")

    def _rank_block(self, query: Query, k: int, allowed: Bool[np.ndarray, " items"] | None) -> tuple:
        trained = self.tables["degree"] > 0
        return super()._rank_block(query, k, trained if allowed is None else trained & allowed)

    def _score_candidates(self, query: Query) -> Float32[np.ndarray, " candidates"]:
        assert isinstance(query.candidates, Ragged)
        trained = self.tables["degree"][query.candidates.values] > 0
        return np.where(trained, super()._score_candidates(query), np.float32(-np.inf))


def distinct(histories: Ragged, n_items: int) -> Ragged:
    """The items of each history once, by code.

    >>> distinct(Ragged.from_lists([[2, 0, 2], []]), 3).to_lists()
    [[0, 2], []]
    """
    row, item = np.divmod(np.unique(histories.row_of_value * n_items + histories.values), n_items)
    return Ragged.from_pairs(row, item.astype(np.int32), len(histories))


def edges_of(histories: Ragged, degree: Int32[np.ndarray, " items"], norm: Norm = "sym") -> "csr_array":
    """The values that the edges of users with these histories would have in the graph: float32 [histories, items].

    The values of single items are as they were fitted: one more user does not change them.

    >>> edges_of(Ragged.from_lists([[0, 2]]), np.array([2, 1, 8], np.int32)).toarray().round(2).tolist()
    [[0.5, 0.0, 0.25]]
    """
    from scipy.sparse import csr_array

    n = histories.lengths
    value = {"sym": n**-0.5, "row_selfloop": 1 / (n + 1), "row_plus_identity": 1 / n}[norm].repeat(n)
    if norm == "sym":
        value = value / np.sqrt(degree[histories.values])
    return csr_array((value.astype(np.float32), histories.values, histories.offsets), (len(histories), len(degree)))


def sent_by_items(
    graph: Graph, nodes: Float[Tensor, "nodes dim"], n_users: int, n_layers: int
) -> Float32[np.ndarray, "items dim"]:
    """What each item sends along an edge of value 1 when vectors are averaged with those up to `n_layers` steps away.

    Added up over the edges of a user it gives the user's vector but for the part of their own free vector.
    """
    return propagate(graph, nodes, n_layers - 1)[n_users:].mul_(n_layers / (n_layers + 1)).numpy(force=True)
