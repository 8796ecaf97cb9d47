"""DirectAU: user and item vectors from positive pairs alone, drawn together in pairs and spread over the sphere.

Choose it when interactions are all you have and you want strong lists without tuning a negative sampler.
It learns a free vector per item and reads no content, so it cannot rank an item that was never trained on.
Tune `gamma` first: too little and all vectors collapse to one point.
Paper: Wang et al., KDD 2022, arXiv:2206.12811. Published set-ups and numbers: recipes/directau/.
"""

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, Float32
from pydantic import Field
from torch import Generator, Tensor
from torch.nn.functional import normalize

from itemic.data import Dataset
from itemic.nn.graph import Graph
from itemic.registry import system
from itemic.systems.collaborative.folding import FoldingConfig, FoldingRecommender, Pairs, Tables
from itemic.training import TrainingConfig, gathered

BLOCK = 1024
"""Rows whose distances to all others are held at a time."""


class Config(FoldingConfig):
    tune: ClassVar = {
        "training.lr": "1e-4..1e-2:log",
        "training.weight_decay": "1e-8..1e-2:log",
        "gamma": "0.1..10:log",
    }

    gamma: float = Field(1.0, ge=0)
    """Weight of uniformity against alignment; tune it first, 0.2 to 10. Paper: Beauty 0.5, Yelp2018 1, Gowalla 5."""
    n_layers: int = Field(0, ge=0)
    """Steps along the graph of users and items before vectors are compared: 0 for the paper's MF encoder, 1 or 2 for
    its LightGCN encoder, which is somewhat better and several times slower."""
    score: Literal["dot", "cosine"] = "dot"
    """What a list is sorted by. dot, as published, lets items that were trained more often grow longer, a mild prior
    for the popular; cosine compares directions only, as the loss does. Last.fm: .241 against .198 (recall@20)."""
    training: TrainingConfig = TrainingConfig(lr=1e-3, weight_decay=1e-6, batch_size=1024, epochs=300, patience=10)
    """Shared by all trained systems. Paper: these values; batches of 256 on Beauty."""


def alignment(x: Float[Tensor, "batch dim"], y: Float[Tensor, "batch dim"]) -> Float[Tensor, ""]:
    """Mean squared distance of paired unit rows: 0 when every pair coincides, 4 when every pair is opposite.

    >>> alignment(torch.eye(2), -torch.eye(2)).item()
    4.0
    """
    return (x - y).square().sum(-1).mean()


def uniformity(x: Float[Tensor, "batch dim"], t: float = 2.0) -> Float[Tensor, ""]:
    """Log of the mean of exp(-t d²) over all pairs of unit rows: 0 when all coincide, -4t for two opposite rows.

    >>> uniformity(torch.tensor([[1.0, 0], [-1, 0]])).item(), uniformity(torch.ones(3, 1)).item()
    (-8.0, 0.0)
    """
    return _Uniformity.apply(x, t)  # pyright: ignore[reportReturnType]


class _Uniformity(torch.autograd.Function):
    """The kernel of rows and rows is symmetric: its product with the rows, made where it is made, is the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, t: float) -> Tensor:
        n, total, pulls = len(x), x.new_zeros(()), torch.empty_like(x)
        for start in range(0, n, BLOCK):
            rows = slice(start, min(start + BLOCK, n))
            kernel = (2 * t * x[rows] @ x.T).sub_(2 * t).exp_()  # -t d² = 2t x·y - 2t for unit rows
            kernel[:, rows].fill_diagonal_(0)  # no pair of a row with itself
            total += kernel.sum()
            torch.mm(kernel, x, out=pulls[rows])
        ctx.save_for_backward(pulls.mul_(4 * t / total))
        return (total / (n * (n - 1))).log()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return gradients[0] * ctx.saved_tensors[0], None


@system("directau", family="collaborative", answers=["user", "history"], paper="arXiv:2206.12811")
class DirectAU(FoldingRecommender[Config, Tables]):
    def build(self, catalogue: Dataset) -> Tables:
        return Tables(catalogue.n_users, catalogue.n_items, self.config.dim)

    def prepare(self, train: Dataset) -> None:
        super().prepare(train)
        if self.config.n_layers:
            self.module.graph = Graph.bipartite(*train.interactions.distinct_pairs(), train.n_users, train.n_items)

    def batches(self, train: Dataset, rng: Generator) -> Iterator[Pairs]:
        return (batch for batch in self.pairs(train, rng) if len(batch.user) > 1)  # alone, far from nothing

    def loss(self, batch: Pairs) -> dict[str, Float[Tensor, ""]]:
        x, y = map(normalize, self.module(batch, self.config.n_layers))
        spread = (uniformity(gathered(x)) + uniformity(gathered(y))) / 2
        return {"alignment": alignment(x, y), "uniformity": self.config.gamma * spread}

    def finish(self) -> None:
        if self.config.n_layers:
            self.spread(self.module, self.config.n_layers)
        if self.config.score == "cosine":
            self.tables |= {"user": unit(self.user_vectors()), "item": unit(self.item_vectors())}
        super().finish()

    def compared(self, users: Float32[np.ndarray, "users dim"]) -> Float32[np.ndarray, "users dim"]:
        return unit(users) if self.config.score == "cosine" else users


def unit(x: Float32[np.ndarray, "rows dim"]) -> Float32[np.ndarray, "rows dim"]:
    """The rows at length 1; a row of zeros stays.

    >>> unit(np.array([[3.0, 4.0], [0, 0]], np.float32)).tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), np.float32(1e-12))
