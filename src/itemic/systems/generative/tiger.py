"""TIGER: reads the codes of what somebody took and spells out those of what comes next, along the tree of all items.

Choose it when items have text and their number is large or keeps changing: the model knows codes made of content, not
items, so that a new item is ranked as soon as its text has codes (`add_items`), and its size does not grow with the
catalogue. On the sets it was published on, others found a tuned SASRec as good or better; measure both. An item without
text has no codes and is never ranked.
Paper: Rajput et al., NeurIPS 2023, arXiv:2305.05065. Published set-ups and numbers: recipes/tiger/.
"""

from collections.abc import Iterator
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int, Int32, Int64
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy

from itemic.data import Dataset, Query, Ragged
from itemic.devices import moved
from itemic.model import Tokenizer, part
from itemic.nn.attention import Cache, Where
from itemic.nn.decoding import Found, Step, Trie, beam_search, lineage
from itemic.nn.dropout import Dropout
from itemic.nn.masks import causal
from itemic.nn.packing import Packing
from itemic.nn.positions import Buckets
from itemic.nn.products import fast_products
from itemic.nn.transformer import t5
from itemic.registry import system
from itemic.systems.base import SystemConfig
from itemic.systems.generative.base import HistoryToCodes
from itemic.systems.histories import cut
from itemic.training import TrainingConfig, shuffled

READ = 256
"""Histories read at a time in answering."""
SCORED = 1024
"""Candidates scored at a time."""


class Config(SystemConfig):
    tune: ClassVar = {"training.lr": "1e-4..3e-3:log", "dropout": "0.05..0.3"}
    dim: int = Field(128, ge=1)
    """Width of the states. The paper: 128."""
    layers: int = Field(4, ge=1)
    """Blocks of the encoder, and as many of the decoder. The paper: 4."""
    heads: int = Field(6, ge=1)
    """Averages taken by each attention. The paper: 6."""
    head_dim: int = Field(64, ge=1)
    """Width of each of them; together they are wider than the states. The paper: 64."""
    hidden: int = Field(1024, ge=1)
    """Width of the feed-forward layers. The paper: 1,024."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Chance to fall away, for values and weights of attention. The paper: 0.1."""
    max_length: int = Field(20, ge=1)
    """The newest items of a history that are read. The paper: 20."""
    beam: int = Field(20, ge=1)
    """Beginnings of codes that are followed for each request, or as many as items are asked for if that is more."""
    seed: int = 0
    """Where the first weights, the order of the examples and dropout come from."""
    training: TrainingConfig = TrainingConfig(
        lr=3e-4,
        batch_size=256,
        epochs=100,
        optimizer="adamw",
        warmup=1000,
        patience=10,
        metric="recall@10",
        precision="bfloat16",
    )
    """Shared by all trained systems; batches are of places in histories. The paper steps by 0.01 at first, which others
    found unstable and put at a constant 3e-4."""


class Network(nn.Module):
    """An encoder of the codes of histories, and a decoder that says of each code how likely it comes next."""

    first: Int64[Tensor, " levels"]

    def __init__(self, sizes: tuple[int, ...], config: Config) -> None:
        super().__init__()
        dim, heads = config.dim, config.heads
        shape = (dim, config.layers, heads, heads * config.head_dim, config.hidden)
        self.code = nn.Embedding(sum(sizes), dim)
        self.begin = nn.Parameter(torch.randn(dim))
        self.encoder, self.decoder = (t5(*shape, cross=cross, dropout=config.dropout) for cross in (False, True))
        self.around, self.before = Buckets(heads), Buckets(heads, both_ways=False)
        self.heads = nn.ModuleList(nn.Linear(dim, size, bias=False) for size in sizes)
        self.drop = Dropout(config.dropout)
        bounds = np.cumsum([0, *sizes[:-1]])
        self.register_buffer("first", torch.from_numpy(bounds), persistent=False)
        for layer in [*self.heads, self.around, self.before]:
            nn.init.normal_(next(layer.parameters()), std=dim**-0.5)

    def read(self, codes: Int[Tensor, "items levels"], packing: Packing) -> Float[Tensor, "tokens dim"]:
        """The states of the codes of histories, one item after the other; `packing` says where each history lies."""
        x = self.drop(self.code((codes + self.first).flatten()))
        return self.drop(self.encoder(x, Where(packing=packing, positions=self.around)))

    def forward(
        self, codes: Int[Tensor, "items levels"], packing: Packing, target: Int[Tensor, "histories levels"]
    ) -> list[Float[Tensor, "histories codes"]]:
        """What the decoder says of each level of the targets, given the levels before: logits."""
        n, levels = target.shape
        own = packing.evenly(levels)
        x, memory = self.drop(self._said(target)).flatten(0, 1), self.read(codes, packing)
        where, there = Where(causal, own, self.before), Where(packing=packing, queries=levels)
        states = self.drop(self.decoder(x, where, memory, there)).unflatten(0, (n, levels))
        return [head(states[:, level]) for level, head in enumerate(self.heads)]

    def step(self, memory: Float[Tensor, "histories n dim"], real: Bool[Tensor, "histories 1 n"]) -> Step:
        """The decoder after these histories, for a search along a trie; beams share what the encoder made."""
        cache, allow, level = Cache(), None, 0
        places: list[Tensor] = []

        def step(code: Tensor | None, parent: Tensor | None) -> Tensor:
            nonlocal allow, level
            if code is None or parent is None:
                x, parent = self.begin.expand(len(memory), 1, -1), real.new_zeros((len(memory), 1), dtype=torch.int64)
            else:
                x = self.code(code + self.first[level - 1])
            allow = lineage(allow, parent)
            places.append(parent.new_full((x.shape[1],), level))
            where = Where(allow, positions=self.before, pos=torch.cat(places))
            states = self.decoder(x, where, memory, Where(real), cache)
            level += 1
            return self.told(states, level - 1)

        return step

    def told(self, states: Float[Tensor, "*batch dim"], level: int) -> Float[Tensor, "*batch codes"]:
        """The logarithms of the chances of the codes of a level."""
        return self.heads[level](states).float().log_softmax(-1)

    def chances(
        self,
        memory: Float[Tensor, "n tokens dim"],
        real: Bool[Tensor, "n 1 tokens"],
        codes: Int64[Tensor, "n levels"],
    ) -> Float[Tensor, " n"]:
        """The logarithm of the chance of these codes, each after a history."""
        said = self._said(codes)
        states = self.decoder(said, Where(causal, positions=self.before), memory, Where(real))
        told = [self.told(states[:, level], level) for level in range(codes.shape[1])]
        return torch.stack([each.gather(1, code[:, None])[:, 0] for each, code in zip(told, codes.T)]).sum(0)

    def _said(self, codes: Int64[Tensor, "n levels"]) -> Float[Tensor, "n levels dim"]:
        """What the decoder reads to say these codes: what begins them, and all but the last."""
        begin = self.begin.expand(len(codes), 1, -1)
        return torch.cat([begin, self.code((codes + self.first)[:, :-1])], 1)


class Places(NamedTuple):
    """A batch: users, and the places in their histories of what is to be foreseen from what came before."""

    user: Int64[Tensor, " batch"]
    place: Int64[Tensor, " batch"]


@system(
    "tiger",
    family="generative",
    needs=["interactions", "items"],
    answers=["history"],
    cold_items=True,
    paper="arXiv:2305.05065",
)
class TIGER(HistoryToCodes[Config, Network]):
    codes: Tokenizer = part("rqkmeans", levels=3, size=256)

    def survey(self, train: Dataset) -> None:
        self.shape = {"sizes": list(self.codes.sizes)}

    def build(self, catalogue: Dataset) -> Network:
        return Network(tuple(self.shape["sizes"]), self.config)

    def prepare(self, train: Dataset) -> None:
        super().prepare(train)
        log = train.interactions
        self._histories = self.readable(Ragged(log.item, log.offsets))
        self._user = torch.from_numpy(self._histories.row_of_value)
        self._place = torch.arange(len(self._user)) - torch.from_numpy(self._histories.offsets)[self._user]
        self._after = self._place.nonzero().squeeze(1)  # all but the first of each history

    def batches(self, train: Dataset, rng: Generator) -> Iterator[Places]:
        for rows in shuffled(len(self._after), self.config.training.batch_size, rng):
            at = self._after[rows]
            yield Places(self._user[at], self._place[at])

    def loss(self, batch: Places) -> dict[str, Float[Tensor, ""]]:
        known, item = cut(self._histories, batch.user.numpy(force=True), batch.place.numpy(force=True))
        codes, packing = self._packed(known.last(self.config.max_length))
        target = self.tensor(self.item_codes()[item]).long()
        told = self.module(codes, packing, target)
        return {f"level {n}": cross_entropy(logits.float(), target[:, n - 1]) for n, logits in enumerate(told, 1)}

    def _packed(self, histories: Ragged) -> tuple[Int64[Tensor, "items levels"], Packing]:
        codes = self.tensor(self.item_codes()[histories.values]).long()
        return codes, Packing(self.tensor(histories.offsets) * codes.shape[1])

    # Answering --------------------------------------------------------------------------------------------------

    def search(self, query: Query, trie: Trie, k: int, forbidden: Ragged) -> Found:
        items, scores = torch.full((len(query), k), -1), torch.full((len(query), k), -torch.inf)
        with torch.no_grad(), fast_products():
            for rows, memory, real in self._memories(query):
                barred = forbidden.take(rows.numpy())
                arrays = torch.from_numpy(barred.values), torch.from_numpy(barred.offsets)
                step = self.module.step(memory, real)
                found = beam_search(step, trie, len(rows), max(k, self.config.beam), k, arrays)
                items[rows], scores[rows] = moved(found, "cpu")
        return Found(items, scores)

    def score_codes(self, query: Query, codes: Int32[np.ndarray, "n levels"]) -> Float32[np.ndarray, " n"]:
        assert isinstance(query.candidates, Ragged)
        scores, levels = torch.full((len(codes),), -torch.inf), self.tensor(codes).long().clamp(min=0)
        with torch.no_grad(), fast_products():
            for rows, memory, real in self._memories(query):
                asked = query.candidates.take(rows.numpy())
                row = self.tensor(asked.row_of_value)
                at = torch.from_numpy(query.candidates.positions(rows.numpy()))
                for part in range(0, len(at), SCORED):
                    some = slice(part, part + SCORED)
                    told = self.module.chances(memory[row[some]], real[row[some]], levels[at[some].to(levels.device)])
                    scores[at[some]] = told.cpu()
        return scores.numpy()

    def _memories(self, query: Query) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Some requests of histories of like length after the others: which they are, and what the encoder made of
        these, with the places that are real."""
        assert query.history is not None
        histories = self.readable(query.history).last(self.config.max_length)
        by_length = np.argsort(histories.lengths, kind="stable")[int((histories.lengths == 0).sum()) :]
        for start in range(0, len(by_length), READ):
            block = torch.from_numpy(by_length[start : start + READ])
            codes, packing = self._packed(histories.take(block.numpy()))
            done, order = 0, packing.order.cpu()
            for bucket, memory in zip(packing.buckets, packing.split(self.module.read(codes, packing))):
                yield block[order[done : done + len(memory)]], memory, bucket.real
                done += len(memory)
