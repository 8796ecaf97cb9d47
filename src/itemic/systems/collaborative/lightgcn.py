"""LightGCN: free vectors of users and items, averaged along the graph of who took what, without weights between.

Choose it when interactions are all you have and there is time: it is well ahead of BPR-MF and converges slowly, over
hundreds of epochs of full passes through the graph; EASE and iALS fit in seconds and are often as good.
It reads no content, so it cannot rank an item that was never trained on.
Paper: He et al., SIGIR 2020, arXiv:2002.02126. Published set-ups and numbers: recipes/lightgcn/.
"""

from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Float32
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import embedding

from itemic.data import Dataset, Ragged
from itemic.nn.graph import propagate
from itemic.registry import system
from itemic.systems.collaborative.base import Triples, edges_of, sent_by_items
from itemic.systems.collaborative.spreading import GraphConfig, GraphRecommender, Spreading, lengths, told_apart


class Config(GraphConfig):
    tune: ClassVar = {"training.lr": "1e-4..1e-2:log", "l2": "1e-6..1e-2:log", "n_layers": "1..4"}

    n_layers: int = Field(3, ge=0)
    """How far vectors spread: user and item are averaged with all up to so many steps away; 0 is BPR-MF. Paper: 3."""
    l2: float = Field(1e-4, ge=0)
    """Penalty on half the squared lengths of a batch's free vectors, not of the spread ones; try 1e-6 to 1e-2.
    Paper: 1e-4."""
    init_std: float = Field(0.1, gt=0)
    """Standard deviation of the first vectors. The authors' code in PyTorch: 0.1."""


@system("lightgcn", family="collaborative", answers=["user", "history"], paper="arXiv:2002.02126")
class LightGCN(GraphRecommender[Config, Spreading]):
    def build(self, catalogue: Dataset) -> Spreading:
        nodes = torch.empty(catalogue.n_users + catalogue.n_items, self.config.dim)
        return Spreading(nn.init.normal_(nodes, std=self.config.init_std))

    def loss(self, batch: Triples) -> dict[str, Float[Tensor, ""]]:
        graph, nodes = self.module.thinned(self.config.edge_dropout), self.module.nodes
        rows, batch = batch.renumbered()  # only what the batch looks at need be made, and only once
        spread, free = propagate(graph, nodes, self.config.n_layers, rows=rows), embedding(rows, nodes)
        return {"bpr": told_apart(spread, batch), "l2": self.config.l2 / 2 * lengths(free, batch)}

    def finish(self) -> None:
        graph, nodes, n_users = self.module.graph, self.module.nodes.detach(), self.catalogue.n_users
        n_layers = max(self.config.n_layers, 1)  # without layers, a stranger still gets one pass
        self.keep(propagate(graph, nodes, self.config.n_layers))
        self.tables["sent"] = sent_by_items(graph, nodes, n_users, n_layers)

    def fold_in(self, histories: Ragged) -> Float32[np.ndarray, "histories dim"]:
        """What the items of each history would send along its edges: the user's vector less its own free part."""
        return edges_of(histories, self.tables["degree"]) @ self.tables["sent"]
