"""AlphaRec: vectors of what is written about items, put by a small network where tastes meet, and spread along a graph.

Choose it when items have titles and a good text encoder is at hand: it has no vector of its own for any user or item,
so new items and new users are served at once, and a fitted model serves another catalogue without training (`adopt`).
It is as good as its encoder: in the paper the best are well ahead of LightGCN, and one like BERT is level with it. An
item without a vector is known by who took it alone; if nobody did, it is not ranked. A request may say what is sought,
in a vector of the same encoder: `Query(history=..., context={"intention": vectors})`.
Paper: Sheng et al., ICLR 2025, arXiv:2407.05441. Published set-ups and numbers: recipes/alpharec/.
"""

from collections.abc import Iterator
from typing import ClassVar, Literal, Self

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from itemic.data import Dataset, Query, Ragged, Table
from itemic.devices import moved
from itemic.encoders.base import present
from itemic.errors import QueryError
from itemic.nn.graph import Graph, propagate
from itemic.nn.inner_products import chosen_products
from itemic.nn.products import fast_products
from itemic.registry import system
from itemic.systems.base import SystemConfig, VectorRecommender
from itemic.systems.collaborative.base import Triples, distinct, edges_of, sent_by_items
from itemic.systems.collaborative.spreading import pairs
from itemic.systems.content import ByContent, added, without_nan
from itemic.systems.histories import PopularToSilent
from itemic.training import Negatives, TrainingConfig


class Config(SystemConfig):
    tune: ClassVar = {"training.lr": "1e-4..3e-3:log", "temperature": "0.05..0.25", "n_layers": "0..3"}

    projector: Literal["mlp", "linear"] = "mlp"
    """What vectors of content pass: a layer, an activation and another layer, or, to see how far a mere change of axes
    goes, one matrix (the paper has no graph then: n_layers 0)."""
    hidden: int = Field(1024, ge=1)
    """Width of the hidden layer. The paper: 1,536 to 6,144, by the encoder; 1,024 is what a CPU does in time."""
    dim: int = Field(64, ge=1)
    """Width of the vectors that are compared. The paper: 64."""
    n_layers: int = Field(2, ge=0)
    """How far vectors spread: each is averaged with all up to so many steps away. The paper: 2."""
    temperature: float = Field(0.15, gt=0)
    """What cosines are divided by in the loss; tune it first. The paper: 0.15, and 0.2 on Video Games."""
    n_negatives: int = Field(256, ge=1)
    """Items not taken beside each one taken. The paper: 256."""
    intention: float = Field(0.5, ge=0, le=1)
    """How much of a user's own vector is what they seek, where a request says so: at 0 nothing, at 1 all."""
    seed: int = 0
    """Where the first weights, the pairs and the negatives come from."""
    training: TrainingConfig = TrainingConfig(
        lr=5e-4,
        batch_size=4096,
        epochs=500,
        eval_every=5,
        patience=20,
        metric="recall@20",
        precision="bfloat16",
    )
    """Shared by all trained systems; batches are of pairs. As in the authors' code, which stops by the test part; in
    bfloat16, half the time of float32."""


class Network(nn.Module):
    graph: Graph
    """Set by `prepare`, as are `content` and `bare`: a model that only answers has none of them."""
    content: Float[Tensor, "nodes content"]
    """What is said of each user, the mean of their items, and of each item."""
    bare: Int64[Tensor, " bare"]

    def __init__(self, n_content: int, config: Config) -> None:
        super().__init__()
        if config.projector == "linear":
            self.project: nn.Module = nn.Linear(n_content, config.dim, bias=False)
        else:
            first, second = nn.Linear(n_content, config.hidden), nn.Linear(config.hidden, config.dim)
            self.project = nn.Sequential(first, nn.LeakyReLU(), second)

    def forward(
        self, content: Float[Tensor, "rows content"], bare: Int64[Tensor, " bare"]
    ) -> Float[Tensor, "rows dim"]:
        """Each row's own vector, before any spreads; zeros for those of which nothing is said."""
        with fast_products():
            return self.project(content).float().index_fill(0, bare, 0.0)


@system(
    "alpharec",
    family="multimodal",
    needs=["interactions", "items"],
    answers=["history"],
    cold_items=True,
    paper="arXiv:2407.05441",
)
class AlphaRec(ByContent[Config, Network], PopularToSilent[Config, Network], VectorRecommender[Config, Network]):
    def build(self, catalogue: Dataset) -> Network:
        return Network(self.shape["content"], self.config)

    def prepare(self, train: Dataset) -> None:
        super().prepare(train)
        taken, module = train.interactions.distinct_pairs(), self.module
        self._taken = Ragged.from_pairs(*taken, train.n_users)
        self._negatives = Negatives(self._taken.offsets, self._taken.values, train.n_items)
        module.graph = Graph.bipartite(*taken, train.n_users, train.n_items)
        content = np.concatenate([means(self._taken, self._content), self._content])
        for name, tensor in zip(("content", "bare"), without_nan(content)):
            module.register_buffer(name, tensor, persistent=False)

    def batches(self, train: Dataset, rng: Generator) -> Iterator[Triples]:
        for user, item in pairs(self._taken, self.config.training.batch_size, "user_uniform", rng):
            negatives = self._negatives.draw(user, self.config.n_negatives, rng)
            yield Triples(user, train.n_users + item, train.n_users + negatives)

    def loss(self, batch: Triples) -> dict[str, Float[Tensor, ""]]:
        own = self.module(self.module.content, self.module.bare)
        vectors = normalize(propagate(self.module.graph, own, self.config.n_layers))
        judged = torch.cat([batch.item[:, None], batch.negatives], 1)
        cosines = chosen_products(vectors[batch.user], vectors, judged)
        return {"contrast": cross_entropy(cosines / self.config.temperature, torch.zeros_like(batch.user))}

    def finish(self) -> None:
        super().finish()
        graph, n_users, n_layers = self.module.graph, self.catalogue.n_users, self.config.n_layers
        with torch.no_grad():
            own = self.module(self.module.content, self.module.bare)
            item = normalize(propagate(graph, own, n_layers)[n_users:]).numpy(force=True)
            sent = sent_by_items(graph, own, n_users, n_layers) if n_layers else np.zeros_like(item)
        degree = np.bincount(self._taken.values, minlength=len(item)).astype(np.int32)
        self.tables |= {"item": item, "sent": sent, "degree": degree, "content": self._content}
        self.tables["ranked"] = np.asarray(item.any(1))

    # Answering --------------------------------------------------------------------------------------------------

    def told(self, query: Query) -> Bool[np.ndarray, " queries"]:
        """Whether the history holds an item that is known by anything, or the request says what is sought."""
        assert query.history is not None
        known = query.history.keep(self.tables["ranked"][query.history.values]).lengths > 0
        return known | present(query.context["intention"]) if self._is_sought(query) else known

    def query_vectors(self, query: Query) -> Float32[np.ndarray, "queries dim"]:
        """The vector that a user of the graph with this history has: that of whoever is there already, exactly."""
        assert query.history is not None
        histories, n_layers = distinct(query.history, self.catalogue.n_items), self.config.n_layers
        content = means(histories, self.tables["content"])
        own = self._own(content)
        if self._is_sought(query):
            sought = np.asarray(query.context["intention"], np.float32)
            share = np.where(present(content), self.config.intention, 1) * present(sought)
            own += share[:, None].astype(np.float32) * (self._own(sought) - own)
        vectors, some = own / (n_layers + 1), np.flatnonzero(histories.lengths)
        degree = self.tables["degree"].clip(min=1)  # one that nobody took is taken by whoever asks
        vectors[some] += edges_of(histories.take(some), degree) @ self.tables["sent"]
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(min=1e-12)

    def item_vectors(self) -> Float32[np.ndarray, "items dim"]:
        return self.tables["item"]

    def encode_items(self, items: Table) -> None:
        content, n_layers = self.content_of(items), self.config.n_layers  # first, as it may refuse them
        super().encode_items(items)
        own = self._own(content)
        item = own / np.linalg.norm(own, axis=1, keepdims=True).clip(min=1e-12)
        new = {"item": item, "sent": own * (n_layers > 0) / (n_layers + 1), "content": content}
        self.tables = added(self.tables, **new, degree=np.zeros(len(own), np.int32), ranked=present(content))

    def adopt(self, train: Dataset) -> Self:
        """A model for other data, made without training: this one's network, their items' content, their graph.

        Raises:
            DataError: there is nothing that the part `vectors` reads.
        """
        self._check_needs(train)
        other = self.moved(train)
        other.survey(train)
        other.prepare(train)
        other.module.to(other.device)  # what prepare put beside the weights
        other.finish()
        return other

    def _own(self, content: Float32[np.ndarray, "rows content"]) -> Float32[np.ndarray, "rows dim"]:
        with torch.no_grad():
            return self.module(*moved(without_nan(content), self.device)).numpy(force=True)

    def _is_sought(self, query: Query) -> bool:
        """Whether requests say what is sought and that is to count.

        Raises:
            QueryError: it is said in vectors of another width than the items'.
        """
        if "intention" not in query.context or self.config.intention == 0:
            return False
        given, width = np.asarray(query.context["intention"]), self.shape["content"]
        if given.ndim != 2 or given.shape[1] != width:
            shape = " x ".join(f"{n:,}" for n in given.shape)
            raise QueryError(
                f"{self.entry.name}: intention is {shape}, not one vector of {width:,} numbers a request. Encode it as "
                "the items are, by the part vectors."
            )
        return True


def means(histories: Ragged, content: Float32[np.ndarray, "items content"]) -> Float32[np.ndarray, "histories content"]:
    """The mean vector of the items of each history; those without one do not count, and nan where there is no other.

    >>> means(Ragged.from_lists([[0, 2], [1], []]), np.array([[2], [np.nan], [4]], np.float32)).tolist()
    [[3.0], [nan], [nan]]
    """
    from scipy.sparse import csr_array

    items, place = np.unique(histories.values, return_inverse=True)
    vectors = content[items]
    said = Ragged(place, histories.offsets).keep(present(vectors)[place])
    n = said.lengths
    share = (1 / n.clip(min=1)).repeat(n).astype(np.float32)
    mean = csr_array((share, said.values, said.offsets), (len(histories), len(items))) @ np.nan_to_num(vectors)
    mean[n == 0] = np.nan
    return mean
