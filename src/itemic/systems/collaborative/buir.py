"""BUIR: user and item vectors from positive pairs alone; each side learns to predict a slow copy of the other.

Choose it when few interactions are all you have and "not taken" must not count as "disliked": it draws no negatives.
On denser data DirectAU and LightGCN are far ahead. It reads no content, so it never ranks a new item.
Paper: Lee et al., SIGIR 2021, arXiv:2105.06323. Published set-ups and numbers: recipes/buir/.
"""

from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, Float32
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from itemic.data import Dataset
from itemic.nn.graph import Graph
from itemic.registry import system
from itemic.systems.collaborative.folding import FoldingConfig, FoldingRecommender, Pairs, Tables, smoothed
from itemic.training import TrainingConfig


class Config(FoldingConfig):
    tune: ClassVar = {
        "training.lr": "1e-4..1e-2:log",
        "training.weight_decay": "1e-6..1e-2:log",
        "momentum": "0.9..0.999",
    }

    dim: int = Field(250, ge=1)
    """Width of the vectors; those that are compared are twice as wide. The authors' code: 250."""
    momentum: float = Field(0.995, ge=0, le=1)
    """How much of the slow copy stays in each step. Paper: 0.995."""
    n_layers: int = Field(0, ge=0)
    """Steps along the graph of users and items: 0 for the paper's BUIR-id, 3 for its BUIR-nb. The paper
    gains by neighbours; on Last.fm they cost a quarter, .19 against .26 (recall@20), with `drop_edges` or without."""
    drop_edges: float = Field(0.2, ge=0, lt=1)
    """With n_layers, both encoders see a graph of their own in each step, without a share of the edges drawn between 0
    and this. Paper: 0.2; the authors' code has it switched off."""
    predictor_init: Literal["small", "normal"] = "small"
    """How the predictor starts: small is what torch gives a linear layer; normal, as the authors' code, draws its bias
    from N(0, 1), along which all predictions point until training undoes it. Last.fm: .26 against .22 (recall@20)."""
    training: TrainingConfig = TrainingConfig(
        lr=1e-3, weight_decay=1e-4, batch_size=1024, epochs=1000, eval_every=10, patience=10
    )
    """Shared by all trained systems. The authors' code: these values."""


class Encoders(Tables):
    """The tables that are trained, their slow copies (buffers: no optimiser moves them), and the predictor."""

    slow_user: Tensor
    slow_item: Tensor

    def __init__(self, n_users: int, n_items: int, dim: int) -> None:
        super().__init__(n_users, n_items, dim)
        self.register_buffer("slow_user", self.user.detach().clone())
        self.register_buffer("slow_item", self.item.detach().clone())
        self.predictor = nn.Linear(dim, dim)

    def thinned(self, drop: float) -> Graph | None:
        """The graph less a share of its edges, drawn between 0 and `drop`."""
        return self.graph.dropped(drop * torch.rand(()).item()) if self.graph is not None and drop else self.graph


def apart(predicted: Float[Tensor, "batch dim"], target: Float[Tensor, "batch dim"]) -> Float[Tensor, ""]:
    """Mean squared distance of the directions of paired rows, 2 - 2 cos: 0 when they agree, 4 when opposite.

    >>> apart(torch.tensor([[2.0, 0]]), torch.tensor([[-3.0, 0]])).item()
    4.0
    """
    return (2 - 2 * cosine_similarity(predicted, target, dim=-1)).mean()


@system("buir", family="collaborative", answers=["user", "history"], paper="arXiv:2105.06323")
class BUIR(FoldingRecommender[Config, Encoders]):
    def build(self, catalogue: Dataset) -> Encoders:
        encoders = Encoders(catalogue.n_users, catalogue.n_items, self.config.dim)
        if self.config.predictor_init == "normal":
            nn.init.xavier_normal_(encoders.predictor.weight)
            nn.init.normal_(encoders.predictor.bias)
        return encoders

    def prepare(self, train: Dataset) -> None:
        super().prepare(train)
        if self.config.n_layers:
            self.module.graph = Graph.bipartite(*train.interactions.distinct_pairs(), train.n_users, train.n_items)

    def loss(self, batch: Pairs) -> dict[str, Float[Tensor, ""]]:
        m, layers, drop = self.module, self.config.n_layers, self.config.drop_edges
        users, items = smoothed(m.thinned(drop), m.user, m.item, batch, layers)
        slow_users, slow_items = smoothed(m.thinned(drop), m.slow_user, m.slow_item, batch, layers)
        return {"user": apart(m.predictor(users), slow_items), "item": apart(m.predictor(items), slow_users)}

    def on_step(self, step: int) -> None:
        with torch.no_grad():
            self.module.slow_user.lerp_(self.module.user, 1 - self.config.momentum)
            self.module.slow_item.lerp_(self.module.item, 1 - self.config.momentum)

    def finish(self) -> None:
        """Both directions as one inner product: predicted user · item + user · predicted item."""
        self.tables = {"user": self.weights["user"], "item": self.weights["item"]}
        if self.config.n_layers:
            self.spread(self.module, self.config.n_layers)
        user, item = self.tables["user"], self.tables["item"]
        self.tables |= {"user": self.compared(user), "item": np.concatenate([item, self._predicted(item)], 1)}
        super().finish()

    def compared(self, users: Float32[np.ndarray, "users dim"]) -> Float32[np.ndarray, "users both"]:
        return np.concatenate([self._predicted(users), users], 1)

    def _predicted(self, x: Float32[np.ndarray, "rows dim"]) -> Float32[np.ndarray, "rows dim"]:
        with torch.no_grad():
            return self.module.predictor(self.tensor(x)).numpy(force=True)
