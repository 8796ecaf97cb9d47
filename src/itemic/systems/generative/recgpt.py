"""RecGPT: reads items of any catalogue as four codes of one vocabulary each, and says all four of the next at once.

Choose it for a catalogue that has texts and hardly any events yet: it knows neither users nor items, so that a model
trained on other catalogues answers for this one (`adopt`), and may then be trained on (`tuned`). It takes many or like
ones: two passes over Amazon Beauty alone taught it next to nothing of Toys (recall@10 .0012, by chance .0008). With
events enough try `sasrec` or `tiger` first. An item without text has no codes and is never ranked; items with the same
codes are equally likely, and the one with the lower number stands first.
Paper: Jiang et al., EMNLP 2025, arXiv:2506.06270. It counts taking the last item again as a find, which is why
`repeatlast` belongs beside it. Set-ups: recipes/recgpt/.
"""

from collections.abc import Iterator
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, Int32, Int64
from pydantic import Field
from torch import Generator, Tensor, nn

from itemic.data import Dataset, EvalSet, Query, Ragged, Table
from itemic.devices import moved
from itemic.errors import ConfigError
from itemic.model import Tokenizer, part
from itemic.nn.attention import Where
from itemic.nn.decoding import Found, Trie, at_once, beam_search, exact
from itemic.nn.dropout import Dropout
from itemic.nn.losses.softmax import table_cross_entropy
from itemic.nn.masks import causal
from itemic.nn.packing import Packing
from itemic.nn.positions import Learned
from itemic.nn.products import fast_products
from itemic.nn.transformer import gpt2
from itemic.registry import system
from itemic.systems.base import SystemConfig
from itemic.systems.content import added
from itemic.systems.generative.base import HistoryToCodes
from itemic.systems.histories import PopularToSilent
from itemic.systems.sequential.base import Followed, followed, next_items
from itemic.training import TrainingConfig

READ = 256
"""Histories read at a time in answering: what is said of their codes takes 63 MB."""


class Config(SystemConfig):
    tune: ClassVar = {"training.lr": "1e-4..3e-3:log", "dropout": "0.05..0.3"}

    dim: int = Field(256, ge=1)
    """Width of the states. The paper: 768; 256 is what a CPU does in time."""
    layers: int = Field(3, ge=1)
    """Blocks. The paper: 3."""
    heads: int = Field(4, ge=1)
    """Averages taken by each attention. The paper: 12, as wide each as these."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Chance to fall away, for values and weights of attention. The paper: 0.1."""
    max_length: int = Field(256, ge=1)
    """The newest items of a history that are read. The paper: 256."""
    mask: Literal["hybrid", "causal"] = "hybrid"
    """Whom a code may see: all of its own item and of those before, or only the codes before it, as in GPT-2."""
    aux: bool = True
    """Whether each code is read with the slice of the text's vector that it was made of, so that nothing of it is lost
    where items share codes. The paper: yes."""
    decode: Literal["exact", "beam"] = "exact"
    """How items are found: by the chance of every one of them, or along the tree of codes, for millions of items."""
    beam: int = Field(20, ge=1)
    """Beginnings of codes that `beam` follows for each request, or as many as items are asked for if that is more. The
    authors' code: 20."""
    seed: int = 0
    """Where the first weights, the order of the histories and dropout come from."""
    training: TrainingConfig = TrainingConfig(
        lr=1e-4, weight_decay=1e-2, batch_size=40, epochs=5, optimizer="adamw", precision="bfloat16", metric="recall@10"
    )
    """Shared by all trained systems; batches are of histories. The paper: these values, without early stopping."""


class Network(nn.Module):
    """Blocks of GPT-2 over the codes of items one after the other; which slot a code is in, its position alone says."""

    def __init__(self, sizes: tuple[int, ...], width: int, config: Config) -> None:
        """`width` is that of the vector of a text."""
        super().__init__()
        dim, self.slots = config.dim, len(sizes)
        self.code, self.code_norm = nn.Embedding(max(sizes), dim), nn.LayerNorm(dim)
        self.aux = nn.Linear(width // self.slots, dim, bias=False) if config.aux else None
        self.aux_norm = nn.LayerNorm(dim) if config.aux else None
        self.positions = Learned(self.slots * config.max_length, dim)
        self.stack = gpt2(dim, config.layers, config.heads, dropout=config.dropout)
        self.head = nn.Linear(dim, max(sizes), bias=False)
        self.drop, self.hybrid = Dropout(config.dropout), config.mask == "hybrid"
        for layer in (self.code, self.head, *([self.aux] if self.aux is not None else [])):
            nn.init.normal_(layer.weight, std=0.02)

    def read(
        self, codes: Int[Tensor, "items slots"], content: Float[Tensor, "items width"] | None
    ) -> Float[Tensor, "tokens dim"]:
        """What each code is to the first block, but for its position."""
        x = self.code_norm(self.code(codes.flatten()))
        if self.aux is None or self.aux_norm is None or content is None:
            return x
        return x + self.aux_norm(self.aux(content.unflatten(1, (self.slots, -1)).flatten(0, 1)))

    def forward(
        self, codes: Int[Tensor, "items slots"], content: Float[Tensor, "items width"] | None, packing: Packing
    ) -> Float[Tensor, "tokens dim"]:
        """The state at each code of these histories, one item after the other; `packing` is of their codes."""
        x = self.drop(self.positions.add(self.read(codes, content), packing.place))
        return self.stack(x, Where(self.may_see if self.hybrid else causal, packing))

    def may_see(self, q: Int[Tensor, " queries"], k: Int[Tensor, " keys"]) -> Tensor:
        """Each code sees those of its own item and of the items before."""
        return causal(q // self.slots, k // self.slots)


@system(
    "recgpt",
    family="generative",
    needs=["interactions", "items"],
    answers=["history"],
    cold_items=True,
    paper="arXiv:2506.06270",
)
class RecGPT(HistoryToCodes[Config, Network]):
    codes: Tokenizer = part("fsq", collisions="shared")
    _start: "dict[str, np.ndarray] | None" = None
    """The weights that training goes on from."""

    def survey(self, train: Dataset) -> None:
        self.shape = {"sizes": list(self.codes.sizes), "width": 0}
        if not self.config.aux:
            return
        self.tables["content"] = content = self._content_of(train.items)
        width, slots = content.shape[1], len(self.codes.sizes)
        if width % slots:
            raise ConfigError(
                f"recgpt: vectors of width {width:,} cannot be cut into {slots} slots. Set codes.collisions=shared, or "
                "aux=False."
            )
        self.shape["width"] = width

    def build(self, catalogue: Dataset) -> Network:
        return Network(tuple(self.shape["sizes"]), self.shape["width"], self.config)

    def prepare(self, train: Dataset) -> None:
        super().prepare(train)
        histories = self.readable(train.interactions.histories())
        self._known, self._following = next_items(histories, self.config.max_length)
        if self._start is not None:
            self.module.load_state_dict({name: torch.from_numpy(array) for name, array in self._start.items()})

    def batches(self, train: Dataset, rng: Generator) -> Iterator[Followed]:
        return followed(self._known, self._following, self.config.training.batch_size, rng)

    def loss(self, batch: Followed) -> dict[str, Float[Tensor, ""]]:
        item, following = (items.numpy(force=True) for items in (batch.item, batch.following))
        with fast_products():
            states = self._states(item, batch.offsets).float()
        return {"codes": table_cross_entropy(states, self.module.head.weight, self._codes(following).flatten())}

    def adopt(self, train: Dataset) -> Self:
        """A model for other data, made without training: this one's network, codes and texts; their items.

        Nothing but items is needed of them: there may be no interactions yet.

        Raises:
            DataError: there is nothing that the text encoder reads.
        """
        other = self.moved(train)
        other.survey(train)
        PopularToSilent[Config, Network].prepare(other, train)  # not what asks for histories to learn from
        other.finish()
        return other

    def tuned(self, train: Dataset, valid: EvalSet | None = None, **how: Any) -> Self:
        """A model for other data, trained on from what this one has learned; `how` is as in `fit`."""
        other = self.moved(train)
        other._start = self.weights
        return other.fit(train, valid, **how)

    # Answering --------------------------------------------------------------------------------------------------

    def encode_items(self, items: Table) -> None:
        content = self._content_of(items) if self.config.aux else None
        super().encode_items(items)
        if content is not None:
            self.tables = added(self.tables, content=content)

    def search(self, query: Query, trie: Trie, k: int, forbidden: Ragged) -> Found:
        items, scores = torch.full((len(query), k), -1), torch.full((len(query), k), -torch.inf)
        codes, allowed = self.tensor(self.item_codes()), trie.place >= 0
        for rows, chances in self._chances(query):
            barred = forbidden.take(rows)
            arrays = torch.from_numpy(barred.values), torch.from_numpy(barred.offsets)
            if self.config.decode == "exact":
                found = exact(chances, codes, k, arrays, allowed)
            else:
                found = beam_search(at_once(chances), trie, len(rows), max(k, self.config.beam), k, arrays)
            items[rows], scores[rows] = moved(found, "cpu")
        return Found(items, scores)

    def score_codes(self, query: Query, codes: Int32[np.ndarray, "n slots"]) -> Float32[np.ndarray, " n"]:
        assert isinstance(query.candidates, Ragged)
        scores, slots = np.full(len(codes), -np.inf, np.float32), np.arange(codes.shape[1])
        for rows, chances in self._chances(query):
            at, row = query.candidates.positions(rows), query.candidates.take(rows).row_of_value
            scores[at] = chances.numpy(force=True)[row[:, None], slots, codes[at]].sum(1)
        return scores

    def _chances(self, query: Query) -> Iterator[tuple[Int64[np.ndarray, " rows"], Float[Tensor, "rows slots codes"]]]:
        """Some requests after the others: which they are, and the logarithms of the chances of what codes come next.

        The authors' code divides logits by 0.1 first, which stretches all sums alike and changes no list.
        """
        assert query.history is not None
        histories = self.readable(query.history).last(self.config.max_length)
        told = np.flatnonzero(histories.lengths)
        for start in range(0, len(told), READ):
            rows = told[start : start + READ]
            some = histories.take(rows)
            with torch.no_grad(), fast_products():
                offsets, slots = self.tensor(some.offsets), self.module.slots
                newest = (offsets[1:, None] * slots) - torch.arange(slots, 0, -1, device=offsets.device)
                logits = self.module.head(self._states(some.values, offsets)[newest])
                yield rows, logits.float().log_softmax(-1)

    def _states(
        self, items: Int[np.ndarray, " items"], offsets: Int64[Tensor, " bounds"]
    ) -> Float[Tensor, "tokens dim"]:
        content = self.tensor(self.tables["content"][items]) if self.config.aux else None
        return self.module(self._codes(items), content, Packing(offsets * self.module.slots))

    def _codes(self, items: Int[np.ndarray, " items"]) -> Int64[Tensor, "items slots"]:
        return self.tensor(self.item_codes()[items]).long()

    def _content_of(self, items: Table) -> Float32[np.ndarray, "items width"]:
        return np.asarray(self.codes.vectors.encode(items), np.float32)
