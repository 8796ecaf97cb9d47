"""NGCF: free vectors of users and items, transformed and mixed along the graph of who took what, layer by layer.

Choose LightGCN instead, which drops the weights between the layers and is better; NGCF is here to be compared with.
It reads no content, so it cannot rank an item that was never trained on.
Paper: Wang et al., SIGIR 2019, arXiv:1905.08108. Published set-ups and numbers: recipes/ngcf/.
"""

from itertools import pairwise
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, Float32, Int
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import dropout, embedding, leaky_relu, normalize

from itemic.data import Dataset, Ragged
from itemic.nn.graph import Graph, Norm
from itemic.registry import system
from itemic.systems.collaborative.base import Triples, edges_of
from itemic.systems.collaborative.spreading import GraphConfig, GraphRecommender, Spreading, lengths, told_apart
from itemic.training import TrainingConfig


class Config(GraphConfig):
    tune: ClassVar = {"training.lr": "1e-4..1e-2:log", "l2": "1e-7..1e-3:log", "message_dropout": "0..0.5"}

    layers: tuple[int, ...] = Field((64, 64, 64), min_length=1)
    """Width of each layer's output; the final vectors hold the free vectors and all outputs. Paper: three of 64."""
    norm: Norm = "row_selfloop"
    """How the graph is scaled. The authors' code: row_selfloop, rows that sum to 1 with the node itself; the paper's
    text: sym, which pairs with activation="joint"."""
    activation: Literal["separate", "joint"] = "separate"
    """separate, as the authors' code: two activations are added and outputs have unit length; joint, as the paper's
    text: one activation of the sum, the node itself added to its neighbours, outputs as they are."""
    slope: float = Field(0.2, ge=0, le=1)
    """What the activation makes of negative numbers. The authors' code: 0.2, TensorFlow's default."""
    message_dropout: float = Field(0.1, ge=0, lt=1)
    """Share of each layer's numbers set to 0 in training. The authors' code: 0.1."""
    l2: float = Field(1e-5, ge=0)
    """Penalty on half the squared lengths of a batch's final vectors; weights between layers go free. Paper: 1e-5."""
    training: TrainingConfig = TrainingConfig(lr=1e-3, batch_size=1024, epochs=400, eval_every=10, patience=5)
    """Shared by all trained systems. The authors: step sizes of 1e-4 (Gowalla) and 5e-4 (Amazon-Book)."""


class Layer(nn.Module):
    """One step along the graph, from what a node is and what its neighbours send to what it becomes."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.sent = nn.Linear(width_in, width_out)
        self.shared = nn.Linear(width_in, width_out)
        for linear in (self.sent, self.shared):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.xavier_uniform_(linear.bias[None])  # the authors draw biases too

    def forward(
        self, own: Float[Tensor, "nodes width"], sent: Float[Tensor, "nodes width"], slope: float, joint: bool
    ) -> Float[Tensor, "nodes out"]:
        if joint:
            return leaky_relu(self.sent(sent + own) + self.shared(sent * own), slope)
        return leaky_relu(self.sent(sent), slope) + leaky_relu(self.shared(sent * own), slope)


class Network(Spreading):
    def __init__(self, n_users: int, n_items: int, config: Config) -> None:
        users, items = (nn.init.xavier_uniform_(torch.empty(n, config.dim)) for n in (n_users, n_items))
        super().__init__(torch.cat([users, items]))
        self.layers = nn.ModuleList(Layer(*widths) for widths in pairwise((config.dim, *config.layers)))
        self.config = config

    def forward(self, graph: Graph, rows: Int[Tensor, " rows"] | None = None) -> list[Float[Tensor, "nodes _"]]:
        """The free vectors and each layer's output, as they go into the next layer: of all nodes or of these rows.

        The last layer makes nothing but the rows.
        """
        states: list[Tensor] = [self.nodes]
        *inner, last = self.layers
        for layer in inner:
            states.append(self.passed(layer, states[-1], graph @ states[-1]))
        sent = graph @ states[-1] if rows is None else graph.times_rows(rows, states[-1])
        if rows is not None:
            states = [embedding(rows, state) for state in states]
        return [*states, self.passed(last, states[-1], sent)]

    def passed(
        self, layer: nn.Module, own: Float[Tensor, "rows width"], sent: Float[Tensor, "rows width"]
    ) -> Float[Tensor, "rows out"]:
        """One layer with what its config says of activation and dropout."""
        made = layer(own, sent, self.config.slope, self.config.activation == "joint")
        return dropout(made, self.config.message_dropout, self.training)

    def joined(self, states: list[Float[Tensor, "rows _"]]) -> Float[Tensor, "rows all"]:
        """The final vectors; the authors scale outputs, but not the free vectors, to unit length."""
        free, *outputs = states
        return torch.cat([free, *(x if self.config.activation == "joint" else normalize(x) for x in outputs)], 1)


@system("ngcf", family="collaborative", answers=["user", "history"], paper="arXiv:1905.08108")
class NGCF(GraphRecommender[Config, Network]):
    @property
    def norm(self) -> Norm:
        return self.config.norm

    def build(self, catalogue: Dataset) -> Network:
        return Network(catalogue.n_users, catalogue.n_items, self.config)

    def loss(self, batch: Triples) -> dict[str, Float[Tensor, ""]]:
        rows, batch = batch.renumbered()  # only what the batch looks at is joined, and only once
        vectors = self.module.joined(self.module(self.module.thinned(self.config.edge_dropout), rows))
        return {"bpr": told_apart(vectors, batch), "l2": self.config.l2 / 2 * lengths(vectors, batch)}

    def finish(self) -> None:
        with torch.no_grad():
            states = self.module(self.module.graph)
            self.keep(self.module.joined(states))
            self.tables["sent"] = torch.cat(states[:-1], 1)[self.catalogue.n_users :].numpy(force=True)
        trained = np.flatnonzero(self.taken.lengths)
        received = self._received(self.taken.take(trained))
        self.tables["guess"] = np.linalg.lstsq(received, self.weights["nodes"][trained])[0]

    def fold_in(self, histories: Ragged) -> Float32[np.ndarray, "histories all"]:
        """What the network makes of users with these histories; the items stay.

        Their free vectors are guessed from what they receive in the first layer, linearly, as fits the trained users.
        """
        return self.folded(histories, self._received(histories) @ self.tables["guess"])

    def _received(self, histories: Ragged) -> Float32[np.ndarray, "histories received"]:
        """The free vectors of the items along the edges of each history, added up, and a 1."""
        sent = edges_of(histories, self.tables["degree"], self.norm) @ self.tables["sent"][:, : self.config.dim]
        return np.concatenate([sent, np.ones((len(sent), 1), np.float32)], 1)

    def folded(
        self, histories: Ragged, free: Float32[np.ndarray, "histories dim"]
    ) -> Float32[np.ndarray, "histories all"]:
        """`Network.forward` and `joined` in NumPy, for users with these histories and free vectors."""
        joint, n = self.config.activation == "joint", histories.lengths[:, None].astype(np.float32)
        own = {"sym": 0 * n, "row_selfloop": 1 / (n + 1), "row_plus_identity": 1 + 0 * n}[self.norm]
        edges, state, outputs, at = edges_of(histories, self.tables["degree"], self.norm), free, [free], 0
        for number in range(len(self.config.layers)):
            width = state.shape[1]
            sent = edges @ self.tables["sent"][:, at : at + width] + own * state
            shared = self._linear(number, "shared", sent * state)
            sent = self._linear(number, "sent", sent + state if joint else sent)
            state = self._active(sent + shared) if joint else self._active(sent) + self._active(shared)
            outputs.append(state if joint else state / np.maximum(np.linalg.norm(state, axis=1, keepdims=True), 1e-12))
            at += width
        return np.concatenate(outputs, 1)

    def _linear(self, number: int, name: str, x: np.ndarray) -> np.ndarray:
        return x @ self.weights[f"layers.{number}.{name}.weight"].T + self.weights[f"layers.{number}.{name}.bias"]

    def _active(self, x: np.ndarray) -> np.ndarray:
        return np.maximum(x, self.config.slope * x)
