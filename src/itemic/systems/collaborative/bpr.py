"""BPR-MF: user and item vectors whose inner products rank what a user took above what they did not.

Choose it as the classic baseline of trained models, and with many negatives (`n_negatives`) as an honest one; EASE and
iALS are usually as good and fit faster. It reads no content, so it never ranks an item that was not trained on.
Paper: Rendle et al., UAI 2009, arXiv:1205.2618. Published set-ups and numbers: recipes/bpr/.
"""

from collections.abc import Iterator
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Generator, Tensor, nn

from itemic.data import Dataset
from itemic.nn.inner_products import inner_products
from itemic.nn.losses.pair import bpr, sampled_softmax
from itemic.registry import system
from itemic.systems.collaborative.base import Triples
from itemic.systems.collaborative.folding import FoldingConfig, FoldingRecommender
from itemic.training import TrainingConfig
from itemic.training.negatives import Negatives


class Config(FoldingConfig):
    tune: ClassVar = {"training.lr": "1e-4..1e-2:log", "l2": "1e-6..1e-2:log", "n_negatives": "1..64:log"}

    loss: Literal["bpr", "sampled_softmax"] = "bpr"
    """bpr compares the item taken with each negative, sampled_softmax with all of them at once, the hardest most."""
    n_negatives: int = Field(1, ge=1)
    """Items not taken beside each one taken. The paper: 1; BARS: 50 to 300, which gives much better lists."""
    l2: float = Field(1e-4, ge=0)
    """Penalty on half the squared lengths of a batch's vectors; try 1e-6 to 1e-2. As in LightGCN's comparisons."""
    training: TrainingConfig = TrainingConfig(lr=1e-3, batch_size=2048, epochs=200, eval_every=5, patience=10)
    """Shared by all trained systems. LightGCN's step size and batch."""


class Vectors(nn.Module):
    def __init__(self, n_users: int, n_items: int, dim: int) -> None:
        super().__init__()
        self.user = nn.Parameter(nn.init.normal_(torch.empty(n_users, dim), std=0.1))
        self.item = nn.Parameter(nn.init.normal_(torch.empty(n_items, dim), std=0.1))


LOSSES = {"bpr": bpr, "sampled_softmax": sampled_softmax}


@system("bpr", family="collaborative", answers=["user", "history"], paper="arXiv:1205.2618")
class BPR(FoldingRecommender[Config, Vectors]):
    def build(self, catalogue: Dataset) -> Vectors:
        return Vectors(catalogue.n_users, catalogue.n_items, self.config.dim)

    def prepare(self, train: Dataset) -> None:
        super().prepare(train)
        self._negatives = Negatives(self.taken.offsets, self.taken.values, train.n_items)

    def batches(self, train: Dataset, rng: Generator) -> Iterator[Triples]:
        for user, item in self.pairs(train, rng):
            yield Triples(user, item, self._negatives.draw(user, self.config.n_negatives, rng))

    def loss(self, batch: Triples) -> dict[str, Float[Tensor, ""]]:
        items = torch.cat([batch.item[:, None], batch.negatives], 1)
        sparse = self.config.training.optimizer != "adamw"  # torch's, which takes dense gradients alone
        found = inner_products(self.module.user, self.module.item, batch.user, items, sparse=sparse)
        loss = LOSSES[self.config.loss](found.inner[:, 0], found.inner[:, 1:])
        lengths = found.squared + found.squares[:, 0] + found.squares[:, 1:].mean(-1)
        return {self.config.loss: loss, "l2": self.config.l2 / 2 * lengths.mean()}
