"""M2TRec: what comes next after a history, from what its items are instead of which; new items are ranked at once.

Choose it where items come and go, or most are rare: titles, categories, attributes and prices make the vector of every
item, so it needs no row for each and ranks what nobody took yet. It learns to predict the category and attributes of
the next item beside the item. Two items with the same metadata are one to it: where all items are well known, systems
with a vector for each, such as sasrec, rank better. Only the abstract and figure of the paper were at hand; where they
say nothing the choices are ours: the output shares the item encoder, cosines over a temperature, all items compete,
and learning begins at content alone, where a history asks for items that share rare words with its own.
Paper: Shalaby et al., RecSys 2022, arXiv:2209.11824. Set-ups: recipes/m2trec/.
"""

import math
from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, Int64
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.nn.functional import embedding, gelu, layer_norm, normalize

from itemic.data import Dataset, Query, Ragged, Table
from itemic.encoders.metadata import Feature, Weighting, described, learned, require, restored, written
from itemic.errors import ConfigError
from itemic.nn.attention import Attention, Where
from itemic.nn.attributes import Attributes, Said
from itemic.nn.dropout import Dropout
from itemic.nn.graph import Graph
from itemic.nn.losses.softmax import table_cross_entropy
from itemic.nn.masks import causal
from itemic.nn.packing import Packing
from itemic.nn.positions import Learned
from itemic.nn.transformer import Block, Feed, Stack
from itemic.progress import report
from itemic.registry import system
from itemic.systems.sequential.base import SequenceConfig, SequenceRecommender, next_items
from itemic.training import TrainingConfig, shuffled


class Config(SequenceConfig):
    tune: ClassVar = {
        "training.lr": "0.0003..0.003:log",
        "dropout": "0.1..0.5",
        "temperature": "0.03..0.2:log",
        "category_weight": "0..1",
    }

    fields: tuple[str, ...] | None = None
    """Columns of the item table that are read; None for all: text, categories, attributes, numbers, dates."""
    predict: tuple[str, ...] | None = None
    """Columns whose values are predicted of the next item; None for its category path and attribute set."""
    category_weight: float = Field(1.0, ge=0)
    """Weight of each of these predictions against that of the item; 0 for none. FAPAT's re-implementation: 1."""
    rare: int = Field(2, ge=1)
    """Words and values that fewer items have are not told apart: in one item alone they would stand for its id."""
    weighting: Weighting = "idf"
    """How much a word or value tells of an item: all alike, the more the fewer items have it, or one share."""
    unknown: float = Field(0.05, ge=0, lt=1)
    """Chance in training for a field of an item to be hidden, so that missing and new values are met well. Ours."""
    word_dropout: float = Field(0.2, ge=0, lt=1)
    """Chance in training for a word or value of an item to be left out, so that none of them is relied upon. Ours."""
    dim: int = Field(128, ge=1)
    """Width of the vectors of items and of all states. FAPAT's re-implementation: 100 to 128."""
    max_length: int = Field(20, ge=1)
    """The newest items of a history that are read; what is older is not."""
    layers: int = Field(2, ge=0)
    """Blocks of attention and feed-forward layer. Ours."""
    heads: int = Field(4, ge=1)
    """Averages taken by each attention. FAPAT's re-implementation: 4."""
    dropout: float = Field(0.2, ge=0, lt=1)
    """Chance to fall away, for values and weights of attention. FAPAT's re-implementation: 0.2."""
    pooling: Literal["mean", "last"] = "mean"
    """What stands for a history: the mean of its states, as in the paper, or its last state."""
    temperature: float = Field(0.07, gt=0)
    """What cosines are divided by in the loss. Ours."""
    all_positions: bool = False
    """False: each beginning of a history is an example, read both ways. True: all of them at once, read forward only;
    an epoch takes a fraction of the time."""
    n_negatives: int | None = Field(None, ge=1)
    """Items drawn for each batch to compete with the next ones; None: all of up to 50,000, else 2,048."""
    training: TrainingConfig = TrainingConfig(
        lr=1e-3, weight_decay=1e-5, batch_size=256, epochs=30, patience=5, metric="mrr@20"
    )
    """Shared by all trained systems; batches are of examples. As in FAPAT's re-implementation."""


ALL_COMPETE = 50_000
"""Items in training up to which all of them compete."""
DRAWN = 2048
"""Items that compete where there are more."""


class Examples(NamedTuple):
    """Histories one after another and what came next, as items in the numbering of the training items."""

    item: Int[Tensor, " places"]
    offsets: Int64[Tensor, " bounds"]
    following: Int[Tensor, " targets"]
    """After each history, or after each place of them."""
    negatives: Int[Tensor, " drawn"]
    """Empty where all compete."""


def _shared(feature: Feature, items: Table) -> Graph:
    """Rows of what the feature says of each item in even shares that sum to 1; empty where that is nothing."""
    said = feature.bags(items)
    share = 1 / np.repeat(said.lengths, said.lengths)
    return Graph(said.offsets, said.values - 1, share.astype(np.float32), len(feature.values))


class Network(nn.Module):
    """Sizes come from vocabularies and options alone: no parameter belongs to an item."""

    def __init__(self, read: Sequence[Feature], predicted: Sequence[Feature], config: Config) -> None:
        super().__init__()
        dim, drop = config.dim, config.dropout
        bags = [len(feature.values) + 1 for feature in read if not feature.is_number]
        n_numbers = sum(feature.width for feature in read if feature.is_number)
        self.attributes = Attributes(bags, n_numbers, dim, unknown=config.unknown, dropout=config.word_dropout)
        self.positions = Learned(config.max_length, dim)
        self.drop = Dropout(drop)
        blocks = [
            Block(Attention(dim, config.heads, dropout=drop), Feed(dim, 4 * dim, gelu, drop), "pre", dropout=drop)
            for _ in range(config.layers)
        ]
        self.stack = Stack(blocks, nn.LayerNorm(dim))
        self.asks = nn.Linear(dim, dim, bias=False)
        self.predicts = nn.ModuleList(nn.Linear(dim, len(feature.values)) for feature in predicted)
        self.mean, self.forward_only = config.pooling == "mean", config.all_positions

    @torch.no_grad()
    def begin_with_content(self, items: Said) -> None:
        """Before the first step items are near each other that share rare words, or words which occur together, and
        what a history asks for is the mean of its items."""
        self.attributes.begin_with_content(items)
        nn.init.eye_(self.asks.weight)
        for name, parameter in self.stack.named_parameters():
            if "attend.out." in name or "feed.outer." in name:
                nn.init.zeros_(parameter)

    def items(self, items: Said, rows: Int[Tensor, " rows"] | None = None) -> Float[Tensor, "rows dim"]:
        """The vectors of these items, all where None; each has the length √dim, or 0 where nothing tells it."""
        joined = self.attributes(items, rows)
        return layer_norm(joined, joined.shape[1:], eps=1e-12)

    def forward(self, x: Float[Tensor, "places dim"], packing: Packing) -> Float[Tensor, "targets dim"]:
        """The states of the histories, or of each place where these are read forward only."""
        pos = packing.place if self.forward_only else packing.place_from_end
        rule = causal if self.forward_only else None
        x = self.stack(self.drop(self.positions.add(x, pos)), Where(rule, packing))
        if self.mean:
            sums = packing.join([part.cumsum(1) for part in packing.split(x)])
            x = sums / (packing.place + 1)[:, None]
        return x if self.forward_only else x[packing.offsets[1:] - 1]


def shared_cross_entropy(
    logits: Float[Tensor, "rows values"],
    offsets: Int[Tensor, " bounds"],
    value: Int[Tensor, " shares"],
    share: Float[Tensor, " shares"],
) -> Float[Tensor, ""]:
    """Cross-entropy with targets that are shares of values, a row after another; a row without any does not count.

    >>> logits = torch.tensor([[0.0, 0.0], [9.0, 9.0], [1.0, 3.0]])
    >>> one_and_none_and_both = torch.tensor([0, 1, 1, 3]), torch.tensor([1, 0, 1]), torch.tensor([1, 0.5, 0.5])
    >>> round(shared_cross_entropy(logits, *one_and_none_and_both).item(), 4)  # (log 2 + (2.1269 + 0.1269) / 2) / 2
    0.91
    """
    counts = offsets.diff()
    row = torch.repeat_interleave(counts)
    picked = logits.log_softmax(1)[row, value.long()]
    return -(share * picked).sum() / (counts > 0).sum().clamp(min=1)


@system(
    "m2trec",
    family="sequential",
    needs=["interactions", "items"],
    answers=["history"],
    cold_items=True,
    paper="arXiv:2209.11824",
)
class M2TRec(SequenceRecommender[Config, Network]):
    def survey(self, train: Dataset) -> None:
        taken = train.interactions.item_counts() > 0
        name, config = self.entry.name, self.config
        read = learned(train.items, config.fields, taken, config.rare, name)
        predict = config.predict
        if predict is None:
            predict = [column for role in ("category", "attributes") for column in train.items.roles.get(role, ())]
        predicted = learned(train.items, predict, taken, config.rare, name) if predict else []
        amounts = [feature.name for feature in predicted if feature.is_number]
        if amounts:
            raise ConfigError(f"{name} predicts values, not amounts such as {amounts[0]!r}. Leave it out of predict.")
        self.vocabulary = {"read": written(read), "predicted": written(predicted)}

    def build(self, catalogue: Dataset) -> Network:
        return Network(self.read_features, self.predicted_features, self.config)

    @property
    def read_features(self) -> list[Feature]:
        """What is read of every item."""
        return restored(self.vocabulary["read"])

    @property
    def predicted_features(self) -> list[Feature]:
        """What is predicted of the next item."""
        return restored(self.vocabulary["predicted"])

    def prepare(self, train: Dataset) -> None:
        super().prepare(train)
        log = train.interactions
        taken = np.flatnonzero(log.item_counts())
        number = np.zeros(train.n_items, np.int32)
        number[taken] = np.arange(len(taken))
        histories = log.histories()
        self._histories = Ragged(number[histories.values], histories.offsets)
        self._known, self._following = next_items(self._histories, self.config.max_length)
        first = np.repeat(histories.offsets[:-1], histories.lengths)
        self._ends = np.flatnonzero(np.arange(len(first)) > first)  # where something had come before
        self._starts = np.maximum(first[self._ends], self._ends - self.config.max_length)
        self._all, items = self._described(train.items), train.items.take(taken)
        self._taken = self._described(items)  # what nobody took is no evidence against itself
        self.module.begin_with_content(self._taken)
        self._taken = self._taken.to(self.device)
        self._said = [_shared(feature, items).to(self.device) for feature in self.predicted_features]
        self._n_items, self._n_drawn = len(taken), self.config.n_negatives or (len(taken) > ALL_COMPETE) * DRAWN
        said = np.zeros(train.n_items, np.int64)
        for feature in self.read_features:
            said += feature.said(train.items)
        bare = int((said == 0).sum())
        again = train.n_items - len(self._all.distinct()[0])
        if again:
            report(
                f"{again:,} of {train.n_items:,} items say what another says: {self.entry.name} sees no difference",
                1,
                1,
            )
        if bare:
            report(
                f"{bare:,} of {train.n_items:,} items have no metadata: they are one item to {self.entry.name}", 1, 1
            )

    def batches(self, train: Dataset, rng: Generator) -> Iterator[Examples]:
        n = len(self._known) if self.config.all_positions else len(self._ends)
        for rows in shuffled(n, self.config.training.batch_size, rng):
            drawn = torch.randperm(self._n_items, generator=rng)[: self._n_drawn]
            yield (self._places if self.config.all_positions else self._beginnings)(rows.numpy(), drawn)

    def _places(self, rows: Int64[np.ndarray, " rows"], drawn: Tensor) -> Examples:
        """Whole histories, with what came next at each of their places."""
        known, following = self._known.take(rows), self._following.take(rows)
        item, offsets, after = map(torch.from_numpy, (known.values, known.offsets, following.values))
        return Examples(item, offsets, after, drawn)

    def _beginnings(self, rows: Int64[np.ndarray, " rows"], drawn: Tensor) -> Examples:
        """Beginnings of histories, each with what came next after it."""
        start, end = self._starts[rows], self._ends[rows]
        window = Ragged.from_lengths(np.empty(int((end - start).sum()), np.int32), end - start)
        places = np.arange(len(window.values)) + np.repeat(start - window.offsets[:-1], window.lengths)
        log = self._histories.values
        item, offsets, after = map(torch.from_numpy, (log[places], window.offsets, log[end]))
        return Examples(item, offsets, after, drawn)

    def loss(self, batch: Examples) -> dict[str, Float[Tensor, ""]]:
        module, item, following, drawn = self.module, batch.item, batch.following, batch.negatives
        rows = None
        if len(drawn):
            named = torch.cat([item.long(), following.long(), drawn])
            rows, number = named.unique(return_inverse=True)
            item, following, drawn = number.split([len(item), len(following), len(drawn)])
        vectors = module.items(self._taken, rows)
        states = module(embedding(item, vectors), Packing(batch.offsets))
        asked, table = normalize(module.asks(states)), vectors / math.sqrt(self.config.dim)
        chosen = log_q = None
        if len(drawn):
            chosen, log_q = drawn, asked.new_full((len(drawn),), math.log(len(drawn) / self._n_items))
        temperature = self.config.temperature
        item_loss = table_cross_entropy(asked, table, following, negatives=chosen, log_q=log_q, temperature=temperature)
        terms = {"item": item_loss}
        if self.config.category_weight:
            for feature, head, said in zip(self.predicted_features, module.predicts, self._said):
                term = shared_cross_entropy(head(states), *said.edges_of(batch.following)[:3])
                terms[feature.name] = self.config.category_weight * term
        return terms

    def finish(self) -> None:
        super().finish()
        self.tables["item"] = self._vectors(self._all)

    def _described(self, items: Table) -> Said:
        return described(self.read_features, items, self.config.weighting)

    def _vectors(self, items: Said) -> Float32[np.ndarray, "items dim"]:
        """The vectors of these items, of length 1; items that say the same have the same to the last bit."""
        first, same = items.distinct()
        with torch.no_grad():
            vectors = self.module.items(items.to(self.device), self.tensor(first)) / math.sqrt(self.config.dim)
        return vectors.numpy(force=True)[same]

    def encode_items(self, items: Table) -> None:
        require((feature.column for feature in self.read_features), items, self.entry.name)
        super().encode_items(items)
        self.tables["item"] = np.concatenate([self.tables["item"], self._vectors(self._described(items))])

    def read(self, histories: Ragged) -> Float32[np.ndarray, "histories dim"]:
        states = self._states(histories)
        return normalize(self.module.asks(states)).numpy(force=True)

    def _states(self, histories: Ragged) -> Float[Tensor, "histories dim"]:
        offsets = self.tensor(histories.offsets)
        vectors = self.tensor(self.tables["item"][histories.values]) * math.sqrt(self.config.dim)
        states = self.module(vectors, Packing(offsets))
        return states[offsets[1:] - 1] if self.config.all_positions else states

    def item_vectors(self) -> Float32[np.ndarray, "items dim"]:
        return self.tables["item"]

    def chances(self, query: Query, feature: str) -> dict[str, Float32[np.ndarray, " queries"]]:
        """Of each value of a predicted feature, such as `category/1`, how likely the next item has it; 1 in all.

        Raises:
            ConfigError: the feature is not predicted.
        """
        assert query.history is not None
        names = [feature.name for feature in self.predicted_features]
        if feature not in names:
            listed = ", ".join(names) or "nothing"
            raise ConfigError(
                f"{self.entry.name} does not predict '{feature}' here, but {listed}. Set predict and fit."
            )
        head = self.module.predicts[names.index(feature)]
        with torch.no_grad():
            chance = head(self._states(query.history.last(self.config.max_length))).softmax(1).numpy(force=True)
        return dict(zip(self.predicted_features[names.index(feature)].values, chance.T))
