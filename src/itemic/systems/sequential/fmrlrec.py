"""fMRLRec: reads histories as vectors of content, by a recurrence, and is trained once for every width it may have.

Choose it when items have texts or pictures and the model must fit in places of different size: the first numbers of all
that it learns are a narrower model (`cut`), which ranks as well as they do. New items are ranked at once by their
content; one without is read as something unknown, whose vector is learned, and never ranked. Narrow widths are poor:
look at the curve before using one. Unlike in the paper nothing learns to foresee the first item of a history.
Paper: Wang et al., Findings of EMNLP 2024, arXiv:2409.16627. Published set-ups and numbers: recipes/fmrlrec/.
"""

from collections.abc import Iterator
from typing import Any, ClassVar, Self

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.nn.functional import embedding, silu

from itemic.data import Dataset, Ragged, Table
from itemic.devices import moved
from itemic.encoders.base import present
from itemic.errors import ConfigError
from itemic.nn.dropout import Dropout
from itemic.nn.losses.softmax import table_cross_entropy
from itemic.nn.packing import Packing
from itemic.nn.products import fast_products
from itemic.nn.recurrence import Decay, recurrence
from itemic.nn.slicing import NestedLinear, NestedNorm, doublings
from itemic.registry import system
from itemic.systems.content import ByContent, added, without_nan
from itemic.systems.sequential.base import Followed, SequenceConfig, SequenceRecommender, followed, next_items
from itemic.training import TrainingConfig


class Config(SequenceConfig):
    tune: ClassVar = {"training.lr": "3e-4..3e-3:log", "dropout": "0.3..0.7", "ring": "0,0.1,0.5"}
    dim: int = Field(256, ge=1)
    """The widest width, that of the model as it is fitted. The paper: 1,024, which asks for a GPU."""
    narrowest: int = Field(8, ge=1)
    """The narrowest width; those between are its doublings. The authors' code: 8."""
    layers: int = Field(2, ge=1)
    """Blocks of a recurrence and a feed-forward layer. The paper: 2."""
    ring: float = Field(0.0, ge=0, le=0.9)
    """How much of its state the recurrence keeps from item to item when training begins: decays have an absolute value
    from this to 0.1 more. The paper: 0 (Beauty, Toys) or 0.1 (Clothing, Sports)."""
    dropout: float = Field(0.6, ge=0, lt=1)
    """Chance to fall away, for values. The paper: 0.5 or 0.6."""
    training: TrainingConfig = TrainingConfig(
        lr=1e-3,
        weight_decay=1e-2,
        batch_size=128,
        epochs=200,
        optimizer="adamw",
        schedule="cosine",
        warmup=100,
        clip=5.0,
        patience=10,
        metric="ndcg@10",
    )
    """Shared by all trained systems; batches are of histories. The paper: these values, in batches of 32 and with a
    schedule of 500 epochs; larger batches make the vectors of all items less often."""


class Recurrent(nn.Module):
    """A linear recurrent unit: into complex states, from each to the next by its decay, and back to real numbers."""

    def __init__(self, widths: tuple[int, ...], ring: float) -> None:
        super().__init__()
        self.real, self.imaginary = NestedLinear(widths), NestedLinear(widths)
        self.out, self.out_imaginary = NestedLinear(widths), NestedLinear(widths, bias=False)
        self.decay = Decay(widths[-1], ring)
        for layer in (self.imaginary, self.out_imaginary):
            for weight in layer.parameters():
                nn.init.zeros_(weight)

    def forward(self, x: Float[Tensor, "places dim"], packing: Packing) -> Float[Tensor, "places dim"]:
        real, imaginary, gain = self.decay()
        h, hi = recurrence((self.real(x) * gain, self.imaginary(x) * gain), (real, imaginary), packing)
        return self.out(h) - self.out_imaginary(hi)


class Gated(nn.Module):
    """A feed-forward layer as wide as its inputs, each number of which is let through by a gate."""

    def __init__(self, widths: tuple[int, ...], dropout: float) -> None:
        super().__init__()
        self.gate, self.inner, self.outer = (NestedLinear(widths) for _ in range(3))
        self.drop = Dropout(dropout)

    def forward(self, x: Float[Tensor, "places dim"]) -> Float[Tensor, "places dim"]:
        return self.outer(silu(self.gate(x)) * self.drop(self.inner(x)))


class Block(nn.Module):
    def __init__(self, widths: tuple[int, ...], config: Config) -> None:
        super().__init__()
        self.recurrent, self.feed = Recurrent(widths, config.ring), Gated(widths, config.dropout)
        self.recurrent_norm, self.feed_norm = NestedNorm(widths), NestedNorm(widths)
        self.drop = Dropout(config.dropout)

    def forward(self, x: Float[Tensor, "places dim"], packing: Packing) -> Float[Tensor, "places dim"]:
        x = x + self.drop(self.recurrent(self.recurrent_norm(x), packing))
        return x + self.drop(self.feed(self.feed_norm(x)))


class Network(nn.Module):
    content: Float[Tensor, "items content"]
    """Set by `prepare`, as is `bare`: a model that only answers has neither."""
    bare: Int64[Tensor, " bare"]
    """Items without a vector."""

    def __init__(self, n_content: int, config: Config) -> None:
        super().__init__()
        widths = doublings(min(config.narrowest, config.dim), config.dim)
        self.project = nn.Linear(n_content, config.dim)
        self.unknown = nn.Parameter(torch.zeros(config.dim))
        self.blocks = nn.ModuleList([Block(widths, config) for _ in range(config.layers)])
        self.drop = Dropout(config.dropout)

    def items(
        self, content: Float[Tensor, "items content"], bare: Int64[Tensor, " bare"]
    ) -> Float[Tensor, "items dim"]:
        """The vector of each item, as it is read and as it is compared with states."""
        vectors = self.project(content).float()
        return vectors.index_copy(0, bare, self.unknown.expand(len(bare), -1)) if len(bare) else vectors

    def forward(self, x: Float[Tensor, "places dim"], packing: Packing) -> Float[Tensor, "places dim"]:
        """The state at each place of the histories of these vectors."""
        x = self.drop(x)
        for block in self.blocks:
            x = block(x, packing)
        return x


@system(
    "fmrlrec",
    family="sequential",
    needs=["interactions", "items"],
    answers=["history"],
    cold_items=True,
    paper="arXiv:2409.16627",
)
class FMRLRec(ByContent[Config, Network], SequenceRecommender[Config, Network]):
    @property
    def widths(self) -> tuple[int, ...]:
        """The widths that it is trained for, to each of which it can be cut."""
        return doublings(min(self.config.narrowest, self.config.dim), self.config.dim)

    def build(self, catalogue: Dataset) -> Network:
        return Network(self.shape["content"], self.config)

    def prepare(self, train: Dataset) -> None:
        super().prepare(train)
        for name, tensor in zip(("content", "bare"), without_nan(self._content)):
            self.module.register_buffer(name, tensor, persistent=False)
        self._known, self._following = next_items(train.interactions.histories(), self.config.max_length)

    def batches(self, train: Dataset, rng: Generator) -> Iterator[Followed]:
        return followed(self._known, self._following, self.config.training.batch_size, rng)

    def loss(self, batch: Followed) -> dict[str, Float[Tensor, ""]]:
        module = self.module
        with fast_products():
            table = module.items(module.content, module.bare)
            states = module(embedding(batch.item, table), Packing(batch.offsets)).float()
        share = 1 / len(self.widths)
        return {
            f"width {w}": share * table_cross_entropy(states[:, :w], table[:, :w], batch.following) for w in self.widths
        }

    def finish(self) -> None:
        super().finish()
        with torch.no_grad(), fast_products():
            self.tables["item"] = self.module.items(self.module.content, self.module.bare).numpy(force=True)
        self.tables["ranked"] = present(self._content)

    def read(self, histories: Ragged) -> Float32[np.ndarray, "histories dim"]:
        offsets = self.tensor(histories.offsets)
        with fast_products():
            states = self.module(self.tensor(self.tables["item"][histories.values]), Packing(offsets))
        return states[offsets[1:] - 1].numpy(force=True)

    def item_vectors(self) -> Float32[np.ndarray, "items dim"]:
        return self.tables["item"]

    def encode_items(self, items: Table) -> None:
        content = self.content_of(items)  # first, as it may refuse them
        super().encode_items(items)
        with torch.no_grad():
            new = self.module.items(*moved(without_nan(content), self.device)).numpy(force=True)
        self.tables = added(self.tables, item=new, ranked=present(content))

    def cut(self, width: int) -> Self:
        """The fitted model of one of `widths`: it ranks by the first `width` numbers of what this one ranks by.

        Raises:
            ConfigError: it was not trained for this width.
        """
        if width not in self.widths:
            listed = ", ".join(f"{w:,}" for w in self.widths)
            raise ConfigError(f"{self.entry.name} cannot be cut to {width:,}. Cut it to one of: {listed}.")
        small: Any = type(self)(self.config.model_copy(update={"dim": width}), vectors=self.vectors)
        small._catalogue, small.histories = self.catalogue, self.histories
        small.shape, small.fitted_on, small.device = self.shape, self.fitted_on, self.device
        wanted = small.build(self.catalogue).state_dict()
        small.weights = {
            name: np.ascontiguousarray(self.weights[name][tuple(slice(n) for n in tensor.shape)])
            for name, tensor in wanted.items()
        }
        small.tables = self.tables | {"item": np.ascontiguousarray(self.tables["item"][:, :width])}
        return small
