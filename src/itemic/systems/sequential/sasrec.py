"""SASRec: a causal transformer that reads what somebody took, in order, and says at each place what comes next.

Choose it when the order of a history matters: it is the baseline by which sequential systems are judged, and with the
full softmax (`loss="ce"`, the default) hard to beat. It learns a free vector per item and reads no content, so an item
that was never trained on ranks last. With `norm="original"` and `loss="bce"` it is the model of the paper.
Paper: Kang and McAuley, ICDM 2018, arXiv:1808.09781; losses: Klenitskiy and Vasilev, RecSys 2023, arXiv:2309.07602, and
Petrov and Macdonald, RecSys 2023, arXiv:2308.07192. Published set-ups and numbers: recipes/sasrec/.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, Int64
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.nn.functional import embedding, relu

from itemic.data import Dataset, Query, Ragged, Ranking
from itemic.errors import DataError
from itemic.nn.attention import Attention, Where
from itemic.nn.dropout import Dropout
from itemic.nn.inner_products import chosen_products
from itemic.nn.losses.pair import bce, gbce, gbce_beta
from itemic.nn.losses.softmax import table_cross_entropy
from itemic.nn.masks import causal
from itemic.nn.packing import Packing
from itemic.nn.positions import Doublings, Learned, Positions, Rotary
from itemic.nn.transformer import Block, Feed, Stack
from itemic.registry import system
from itemic.systems.sequential.base import SequenceConfig, SequenceRecommender, kind_weights, next_items
from itemic.training import Negatives, TrainingConfig, shuffled


class Config(SequenceConfig):
    tune: ClassVar = {"training.lr": "3e-4..1e-2:log", "dropout": "0.1..0.5", "norm": "pre,post,original"}
    loss: Literal["ce", "sampled_ce", "bce", "gbce"] = "ce"
    """ce compares with every item, sampled_ce with negatives drawn for the batch, bce and gbce judge single items."""
    n_negatives: int | None = Field(None, ge=1)
    """Items drawn beside each taken one; for sampled_ce once a batch, for all. None: 3,000, 1 (bce), 256 (gbce)."""
    log_q: bool = True
    """sampled_ce: whether the sum over those drawn stands for that over all items (the logQ correction)."""
    calibration: float = Field(0.75, ge=0, le=1)
    """gbce: from 0, plain BCE, to 1, scores as true chances; slower to learn the higher. The paper: 0.75."""
    norm: Literal["pre", "post", "original", "ported"] = "pre"
    """Where blocks normalise: before each layer, after it, or as in the code of the paper, whose residual stream is
    normalised and whose attention has no output projection. `ported` is that as the study of losses has it, with an
    output projection, and with first weights so small that blocks begin as if they were not there."""
    positions: Literal["from_end", "from_start", "rotary", "none"] = "from_end"
    """How places are told: a vector for each distance from the newest item, as in the paper; for each place from the
    oldest one read; by angles between places; or not at all."""
    layers: int = Field(2, ge=0)
    """Blocks of attention and feed-forward layer. The paper: 2."""
    heads: int = Field(1, ge=1)
    """Averages taken by each attention. The paper: 1."""
    width: int = Field(1, ge=1)
    """How many times `dim` the feed-forward layers are wide. The paper: 1; transformers elsewhere: 4."""
    dropout: float = Field(0.2, ge=0, lt=1)
    """Chance to fall away, for values and weights of attention. The paper: 0.5 on sparse data, 0.2 on MovieLens-1M."""
    time_gaps: bool = False
    """Whether the time between items is told beside their places: a vector for each doubling of the seconds since the
    item before. One history in ten is read without its times in training, so that requests without are answered too."""
    kinds: Annotated[dict[str, Annotated[float, Field(gt=0)]], Field(min_length=1)] | None = None
    """How much what follows weighs in the loss, by its kind, as in {"purchase": 1, "view": 0.2}; kinds that are not
    named are read, but nothing learns to foresee them. None weighs all interactions alike."""
    places: int | None = Field(None, ge=1)
    """The newest places of each history that are learned from, those before them being read only; None for all."""
    tied: bool = True
    """Whether items that come next have the vectors of items read. gSASRec's code unties them."""
    training: TrainingConfig = TrainingConfig(lr=1e-3, batch_size=128, epochs=200, patience=10, metric="ndcg@10")
    """Shared by all trained systems; batches are of histories. Step size and batch as in the paper."""


DRAWN = {"sampled_ce": 3000, "bce": 1, "gbce": 256}
"""Negatives where none are asked for: as published."""
HIDDEN = 0.1
"""Share of the histories read without their times in training."""
N_GAPS = 32
"""Vectors for the time between items: the last is for 34 years and more."""


class Places(NamedTuple):
    """A batch: at each place of some histories the item there, the item that came next, and negatives for it."""

    item: Int[Tensor, " places"]
    following: Int[Tensor, " places"]
    offsets: Int64[Tensor, " bounds"]
    negatives: Int[Tensor, "..."]
    """[drawn] for sampled_ce, [places, drawn] for bce and gbce, empty for ce."""
    weight: Float[Tensor, " places"] | None = None
    """How much each place counts; all alike when not given."""
    gap: Int64[Tensor, " places"] | None = None
    """What `gaps` says of the items, where it is read."""


class Network(nn.Module):
    def __init__(self, n_items: int, config: Config) -> None:
        super().__init__()
        dim, drop, norm = config.dim, config.dropout, config.norm
        self.item = nn.Parameter(torch.empty(n_items, dim).normal_(std=0.02))
        self.untied = None if config.tied else nn.Parameter(torch.empty(n_items, dim).normal_(std=0.02))
        self.from_end = config.positions == "from_end"
        self.positions = _positions(config)
        self.gaps = Doublings(N_GAPS, dim) if config.time_gaps else None
        self.drop = Dropout(drop)
        blocks = [
            Block(
                Attention(dim, config.heads, out=norm != "original", dropout=drop),
                Feed(dim, config.width * dim, relu, drop),
                "sasrec" if norm in ("original", "ported") else norm,
                dropout=drop,
                eps=1e-8,
            )
            for _ in range(config.layers)
        ]
        self.stack = Stack(blocks, nn.Identity() if norm == "post" else nn.LayerNorm(dim, 1e-8))
        for name, layer in self.stack.named_modules():
            if isinstance(layer, nn.Linear):
                if norm != "ported":
                    nn.init.xavier_uniform_(layer.weight)
                elif name.endswith(("query", "key", "value")):
                    nn.init.xavier_uniform_(layer.weight, gain=0.5**0.5)  # as three parts of one matrix
                else:
                    nn.init.normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    @property
    def table(self) -> Float[Tensor, "items dim"]:
        """The vectors with which states are compared."""
        return self.item if self.untied is None else self.untied

    def forward(
        self, item: Int[Tensor, " places"], packing: Packing, gap: Int64[Tensor, " places"] | None = None
    ) -> Float[Tensor, "places dim"]:
        """The state at each place, made of the items up to it, and of the gaps between them where these are read."""
        pos = packing.place_from_end if self.from_end else packing.place
        x = self.positions.add(math.sqrt(self.item.shape[1]) * embedding(item, self.item), pos)
        if self.gaps is not None:
            x = self.gaps.add(x, torch.zeros_like(item) if gap is None else gap)
        return self.stack(self.drop(x), Where(causal, packing, self.positions))


def _positions(config: Config) -> Positions:
    if config.positions in ("from_end", "from_start"):
        return Learned(config.max_length, config.dim)
    return Rotary(config.dim // config.heads) if config.positions == "rotary" else Positions()


def gaps(times: Ragged) -> Int64[np.ndarray, " items"]:
    """1 and the whole seconds since the item before it, of items taken at these milliseconds; 0 for the first of a row.

    >>> gaps(Ragged.from_lists([[5000, 5000, 8999], [7]], np.int64)).tolist()
    [0, 1, 4, 0]
    """
    gap = np.maximum(np.diff(times.values, prepend=0), 0) // 1000 + 1
    gap[times.offsets[:-1][times.lengths > 0]] = 0
    return gap


@system("sasrec", family="sequential", answers=["history"], paper="arXiv:1808.09781")
class SASRec(SequenceRecommender[Config, Network]):
    def build(self, catalogue: Dataset) -> Network:
        return Network(catalogue.n_items, self.config)

    def prepare(self, train: Dataset) -> None:
        super().prepare(train)
        config, log = self.config, train.interactions
        known, following = next_items(Ragged(np.arange(len(log)), log.offsets), config.max_length)
        self._users = np.flatnonzero(np.diff(log.offsets) > 1)
        self._weight = self._gap = None
        weight = None if config.kinds is None else kind_weights(train, config.kinds, self.entry.name)
        if config.places is not None:
            rows = log.histories()
            newest = rows.places >= rows.lengths[rows.row_of_value] - config.places
            weight = newest.astype(np.float32) if weight is None else np.where(newest, weight, np.float32(0))
        if weight is not None:
            taught = np.flatnonzero(following.keep(weight[following.values] > 0).lengths)
            if not len(taught):
                raise DataError(f"none of the newest places of {train.name} weighs: raise places, or name other kinds.")
            known, following, self._users = known.take(taught), following.take(taught), self._users[taught]
            self._weight = weight[following.values]
        if config.time_gaps:
            if log.time is None:
                raise DataError(
                    f"sasrec reads the time between items only where there are times; {train.name} has its rows in "
                    "order without them. Leave out time_gaps, or import the times (--columns time=NAME)."
                )
            self._gap = gaps(Ragged(log.time[known.values], known.offsets))
        self._known, self._following = (Ragged(log.item[rows.values], rows.offsets) for rows in (known, following))
        self._n_drawn = self.config.n_negatives or DRAWN.get(self.config.loss, 0)
        self._negatives = Negatives(log.offsets, log.item, train.n_items) if self.config.loss == "bce" else None

    def batches(self, train: Dataset, rng: Generator) -> Iterator[Places]:
        for rows in shuffled(len(self._known), self.config.training.batch_size, rng):
            places = self._known.positions(rows.numpy())
            lengths = torch.from_numpy(self._known.lengths[rows.numpy()])
            row, following = rows.repeat_interleave(lengths), torch.from_numpy(self._following.values[places])
            yield Places(
                torch.from_numpy(self._known.values[places]),
                following,
                torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]),
                self._drawn(row, following, rng),
                None if self._weight is None else torch.from_numpy(self._weight[places]),
                None if self._gap is None else self._partly_hidden(torch.from_numpy(self._gap[places]), lengths, rng),
            )

    def _partly_hidden(
        self, gap: Int64[Tensor, " places"], lengths: Int64[Tensor, " histories"], rng: Generator
    ) -> Int64[Tensor, " places"]:
        return gap.masked_fill((torch.rand(len(lengths), generator=rng) < HIDDEN).repeat_interleave(lengths), 0)

    def _drawn(self, row: Int[Tensor, " places"], following: Int[Tensor, " places"], rng: Generator) -> Tensor:
        n, n_items = self._n_drawn, self.catalogue.n_items
        if self.config.loss == "sampled_ce":
            return torch.randperm(n_items, generator=rng)[:n]
        if self._negatives is not None:
            return self._negatives.draw(torch.from_numpy(self._users)[row], n, rng)
        drawn = torch.randint(max(1, n_items - 1), (len(row), n), generator=rng)
        return drawn + (drawn >= following[:, None])  # any but the one that followed

    def loss(self, batch: Places) -> dict[str, Float[Tensor, ""]]:
        module, kind = self.module, self.config.loss
        states, weight = module(batch.item, Packing(batch.offsets), batch.gap), batch.weight
        if kind == "ce":
            return {kind: table_cross_entropy(states, module.table, batch.following, weight=weight)}
        if kind == "sampled_ce":
            chance = len(batch.negatives) / len(module.table)
            log_q = states.new_full(batch.negatives.shape, math.log(chance)) if self.config.log_q else None
            options = {"negatives": batch.negatives, "log_q": log_q, "weight": weight}
            return {kind: table_cross_entropy(states, module.table, batch.following, **options)}
        judged = torch.cat([batch.following[:, None], batch.negatives], 1)
        scores = chosen_products(states, module.table, judged)
        if kind == "bce":
            return {kind: bce(scores[:, 0], scores[:, 1:], weight)}
        beta = gbce_beta(self._n_drawn, len(module.table), self.config.calibration)
        return {kind: gbce(scores[:, 0], scores[:, 1:], beta, weight)}

    def rank(self, query: Query, k: int = 10) -> Ranking:
        """As of any sequential system; `reasons` says so where a model that reads times was given none."""
        ranking = super().rank(query, k)
        if not self.config.time_gaps or query.history_time is not None:
            return ranking
        said = f"none of the {len(query):,} requests says when its items were taken: they are read by their order alone"
        return replace(ranking, reasons=(*ranking.reasons, said))

    def read_query(self, query: Query) -> Float32[np.ndarray, "queries dim"]:
        if not self.config.time_gaps or query.history_time is None or query.history is None:
            return super().read_query(query)
        times = Ragged(query.history_time, query.history.offsets).last(self.config.max_length)
        return self._states(query.history.last(self.config.max_length), self.tensor(gaps(times)))

    def read(self, histories: Ragged) -> Float32[np.ndarray, "histories dim"]:
        return self._states(histories, None)

    def _states(self, histories: Ragged, gap: Int64[Tensor, " items"] | None) -> Float32[np.ndarray, "histories dim"]:
        offsets = self.tensor(histories.offsets)
        states = self.module(self.tensor(histories.values), Packing(offsets), gap)
        return states[offsets[1:] - 1].numpy(force=True)

    def item_vectors(self) -> Float32[np.ndarray, "items dim"]:
        return self.weights["item" if self.config.tied else "untied"]
