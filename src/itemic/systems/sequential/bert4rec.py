"""BERT4Rec: a transformer that reads a history both ways and fills its gaps; what comes next is a gap at the end.

Choose it when what somebody took is explained by what came before and after, and there is time to train: only the
masked places teach it, so that it needs many more epochs than `sasrec`, which with the full softmax is as a rule at
least as good. It learns a free vector per item and reads no content, so an item that was never trained on ranks last.
Paper: Sun et al., CIKM 2019, arXiv:1904.06690. The set-up of its code: `positions="from_start"`, `sliding=0.5`,
`mask_share` as below, batches of 256, adamw at 1e-4 with decay 0.01, warmup 100, a linear schedule and clip 5. The
defaults are nearer to those of the replicability study, which found the paper's to be trained too briefly: Petrov and
Macdonald, RecSys 2022, arXiv:2207.07483. Published set-ups and numbers: recipes/bert4rec/.
"""

from collections.abc import Iterator
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int, Int64
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.nn.functional import embedding, gelu

from itemic.data import Dataset, Ragged
from itemic.nn.attention import Attention, Where
from itemic.nn.dropout import Dropout
from itemic.nn.losses.softmax import table_cross_entropy
from itemic.nn.packing import Packing
from itemic.nn.positions import Learned
from itemic.nn.transformer import Block, Feed, Stack
from itemic.registry import system
from itemic.systems.sequential.base import SequenceConfig, SequenceRecommender
from itemic.training import TrainingConfig, shuffled

EPS = 1e-12
"""Of the norms, as in BERT."""


class Config(SequenceConfig):
    tune: ClassVar = {
        "training.lr": "1e-4..1e-2:log",
        "dropout": "0..0.5",
        "mask_share": "0.1..0.7",
        "layers": "1..3",
    }

    mask_share: float = Field(0.2, gt=0, le=1)
    """Share of a window that is masked, at least one item of it. The paper: 0.2 on MovieLens, 0.4 on Steam, 0.6 on
    Beauty; the study: 0.2."""
    max_masks: int | None = Field(None, ge=1)
    """Masks in a window at most. 20 in the study and in the paper's code on MovieLens-20M; on other sets the code's
    limit is `mask_share` of the longest window, so none."""
    last_item_share: float = Field(0.1, ge=0, le=1)
    """Share of the windows in which the last item alone is masked, as in answering. The paper's code: 1 in 11."""
    sliding: float | None = Field(None, gt=0, le=1)
    """How far windows over a longer history are apart, as a share of `max_length`; None learns from the newest window
    alone, as the study. The paper's code: 0.5, and 0.1 on Beauty."""
    head: Literal["transform", "linear"] = "transform"
    """Whether a layer, GELU and a norm stand between states and items, as in the paper, or nothing."""
    out_bias: bool = True
    """Whether each item has a bias of its own in the softmax, as in the paper."""
    positions: Literal["from_end", "from_start"] = "from_end"
    """Where a vector for each place is counted from: the newest item of a window, or its oldest as in the paper's code.
    From the end, the place that is asked for is the same however short the history."""
    layers: int = Field(2, ge=0)
    """Blocks of attention and feed-forward layer. The paper: 2."""
    heads: int = Field(2, ge=1)
    """Averages taken by each attention. The paper: 2."""
    dropout: float = Field(0.2, ge=0, lt=1)
    """Chance of a value to fall away. The paper's code: 0.2 on MovieLens-1M, 0.5 on Beauty, 0.1 elsewhere."""
    attention_dropout: float = Field(0.2, ge=0, lt=1)
    """Chance of a weight of attention to fall away. The paper's code: 0.2 on MovieLens-1M and Beauty, 0.1 elsewhere."""
    training: TrainingConfig = TrainingConfig(lr=1e-3, batch_size=128, epochs=200, patience=20, metric="ndcg@10")
    """Shared by all trained systems; batches are of windows. Step size, batch and patience of Klenitskiy and Vasilev,
    RecSys 2023, who compare it with sasrec."""


class Cloze(NamedTuple):
    """A batch: windows with gaps, and what is missing there."""

    token: Int[Tensor, " tokens"]
    """Items, and the code after the last item for a gap."""
    offsets: Int64[Tensor, " bounds"]
    gap: Int64[Tensor, " gaps"]
    """Which of the tokens are gaps."""
    missing: Int[Tensor, " gaps"]


def windows(histories: Ragged, length: int, step: int | None = None) -> Ragged:
    """Each history cut into windows of at most `length` items, `step` apart, from its end; the newest when None.

    The first window holds the oldest items, and where it would begin before them it moves up to the first.

    >>> windows(Ragged.from_lists([[1, 2, 3, 4, 5, 6], [7], []]), length=3, step=2).to_lists()
    [[1, 2, 3], [2, 3, 4], [4, 5, 6], [7]]
    """
    histories = histories.take(np.flatnonzero(histories.lengths))
    if step is None:
        return histories.last(length)
    spare = np.maximum(histories.lengths - length, 0)
    n = 1 + -(-spare // step)
    row = np.repeat(np.arange(len(n)), n)
    back = step * (n.cumsum()[row] - 1 - np.arange(len(row)))  # 0 for the newest, which comes last
    start = histories.offsets[row] + np.maximum(spare[row] - back, 0)
    lengths = np.minimum(histories.lengths, length)[row]
    shift = np.repeat(start - lengths.cumsum() + lengths, lengths)
    return Ragged.from_lengths(histories.values[np.arange(len(shift)) + shift], lengths)


def gaps(
    offsets: Int64[Tensor, " bounds"], share: float, most: int | None, last_share: float, rng: Generator
) -> Bool[Tensor, " tokens"]:
    """Which tokens are masked: of each sequence the share, rounded, 1 to `most` of them, any with the same chance.

    In `last_share` of the sequences it is the last token alone.

    >>> gaps(torch.tensor([0, 5, 7]), 0.4, None, 0.0, Generator().manual_seed(0)).int().tolist()
    [0, 0, 1, 0, 1, 0, 1]
    """
    packing = Packing(offsets)
    n = (packing.lengths * share).round().clamp(1, most)
    order = (packing.row + torch.rand(len(packing.row), dtype=torch.float64, generator=rng)).argsort()
    masked = torch.empty(len(order), dtype=torch.bool)
    masked[order] = packing.place < n[packing.row]  # shuffled within their sequences, tokens keep to its places
    last_only = torch.rand(len(n), generator=rng) < last_share
    masked &= ~last_only[packing.row]
    masked[offsets[1:][last_only] - 1] = True
    return masked


class Network(nn.Module):
    def __init__(self, n_items: int, config: Config) -> None:
        super().__init__()
        dim = config.dim
        self.item = nn.Parameter(torch.empty(n_items + 1, dim))
        """A vector for each item, and as the last that of a gap."""
        self.bias = nn.Parameter(torch.zeros(n_items)) if config.out_bias else None
        self.from_end = config.positions == "from_end"
        self.positions = Learned(config.max_length, dim)
        self.norm, self.drop = nn.LayerNorm(dim, EPS), Dropout(config.dropout)
        blocks = (
            Block(
                Attention(dim, config.heads, dropout=config.attention_dropout),
                Feed(dim, 4 * dim, gelu),
                "post",
                dropout=config.dropout,
                eps=EPS,
            )
            for _ in range(config.layers)
        )
        self.stack = Stack(blocks)
        transform = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.LayerNorm(dim, EPS))
        self.head = transform if config.head == "transform" else nn.Identity()
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1:
                nn.init.trunc_normal_(parameter, std=0.02, a=-0.04, b=0.04)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(
        self, token: Int[Tensor, " tokens"], packing: Packing, gap: Int64[Tensor, " gaps"]
    ) -> Float[Tensor, "gaps dim"]:
        """The vectors to be compared with those of the items, at the gaps."""
        pos = packing.place_from_end if self.from_end else packing.place
        x = self.drop(self.norm(self.positions.add(embedding(token, self.item), pos)))
        return self.head(self.stack(x, Where(packing=packing))[gap])


@system("bert4rec", family="sequential", answers=["history"], paper="arXiv:1904.06690")
class BERT4Rec(SequenceRecommender[Config, Network]):
    def build(self, catalogue: Dataset) -> Network:
        return Network(catalogue.n_items, self.config)

    def prepare(self, train: Dataset) -> None:
        super().prepare(train)
        config = self.config
        step = None if config.sliding is None else max(1, int(config.sliding * config.max_length))
        self._windows = windows(train.interactions.histories(), config.max_length, step)

    def batches(self, train: Dataset, rng: Generator) -> Iterator[Cloze]:
        config = self.config
        for rows in shuffled(len(self._windows), config.training.batch_size, rng):
            chosen = self._windows.take(rows.numpy())
            item, offsets = torch.from_numpy(chosen.values), torch.from_numpy(chosen.offsets)
            masked = gaps(offsets, config.mask_share, config.max_masks, config.last_item_share, rng)
            yield Cloze(item.masked_fill(masked, train.n_items), offsets, masked.nonzero().squeeze(1), item[masked])

    def loss(self, batch: Cloze) -> dict[str, Float[Tensor, ""]]:
        found = self.module(batch.token, Packing(batch.offsets), batch.gap)
        return {"cloze": table_cross_entropy(found, self.module.item[:-1], batch.missing, bias=self.module.bias)}

    def read(self, histories: Ragged) -> Float32[np.ndarray, "histories dim"]:
        n = len(histories)
        gap = Ragged.repeated([self.catalogue.n_items], n)
        asked = histories.last(self.config.max_length - 1).joined(gap)
        offsets = self.tensor(asked.offsets)
        found = self.module(self.tensor(asked.values), Packing(offsets), offsets[1:] - 1).numpy(force=True)
        return np.column_stack([found, np.ones(n, np.float32)]) if self.config.out_bias else found

    def finish(self) -> None:
        super().finish()
        if self.config.out_bias:
            self.tables["item"] = np.column_stack([self.weights["item"][:-1], self.weights["bias"]])

    def item_vectors(self) -> Float32[np.ndarray, "items dim"]:
        """Its bias is the last coordinate of an item, where there is one."""
        return self.tables["item"] if self.config.out_bias else self.weights["item"][:-1]

    def likeness_vectors(self) -> Float32[np.ndarray, "items dim"]:
        return self.weights["item"][:-1]  # a bias says how popular an item is, not what it is like
