"""Finite scalar quantisation: a network whose latent numbers are rounded; there are no codebooks, so none collapses.

Choose it for catalogues of all kinds at once, as RecGPT does: it is trained once on many items, its codes mean the same
in every catalogue, and each slot has thousands of them. Slots know nothing of each other, so all can be predicted at
once; they form no tree from coarse to fine. On one small catalogue rqkmeans is simpler.
Papers: Mentzer et al., ICLR 2024, arXiv:2309.15505 (FSQ); Jiang et al., EMNLP 2025, arXiv:2506.06270 (RecGPT).
"""

import math

import torch
from jaxtyping import Float, Int64
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import gelu

from itemic.data import Dataset
from itemic.errors import ConfigError
from itemic.nn.attention import Attention, Where
from itemic.nn.dropout import Dropout
from itemic.nn.kmeans import distances
from itemic.nn.quantise import bounded, finite_scalars, scalar_codes, scalars_of
from itemic.nn.transformer import Block, Feed, Stack
from itemic.registry import tokenizer
from itemic.tokenizers.base import TrainedConfig, TrainedTokenizer, blocks
from itemic.training import TrainingConfig


class Config(TrainedConfig):
    slots: int = Field(4, ge=1)
    """Parts that a vector is cut into, each with a code. RecGPT: 4."""
    scalars: tuple[int, ...] = Field((8, 8, 8, 6, 5), min_length=1)
    """Values of each latent number of a slot, 2 or more; a slot has as many codes as their product. RecGPT: 15,360."""
    layers: int = Field(2, ge=0)
    """Blocks of attention between slots on the way back to vectors. RecGPT: 2."""
    heads: int = Field(8, ge=1)
    """Averages taken by each attention. RecGPT: 8."""
    dropout: float = Field(0.2, ge=0, lt=1)
    """Chance to fall away in these blocks. RecGPT: 0.2."""
    training: TrainingConfig = TrainingConfig(
        lr=1e-4, batch_size=256, epochs=100, eval_every=5, patience=5, metric="quality"
    )
    """Shared by all trained models; `metric` may be unique, explained, quality. RecGPT: adam, lr, batch and epochs."""


class Network(nn.Module):
    """Slices of vectors to a few whole numbers each, and back."""

    mean: Tensor
    scale: Tensor

    def __init__(self, dim: int, config: Config) -> None:
        super().__init__()
        self.slots, self.levels, width = config.slots, list(config.scalars), dim // config.slots
        self.inward, self.outward = nn.Linear(width, len(self.levels)), nn.Linear(len(self.levels), width)
        self.places = nn.Parameter(nn.init.normal_(torch.empty(config.slots, width), std=0.02))
        self.drop, drop = Dropout(config.dropout / 2), config.dropout
        made = (
            Block(Attention(width, config.heads, dropout=drop), Feed(width, 4 * width, gelu, drop), "pre", dropout=drop)
            for _ in range(config.layers)
        )
        self.stack = Stack(made)
        self.widen = nn.Sequential(nn.Linear(width, dim), nn.ReLU(), nn.Linear(dim, dim))
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(()))

    def latent(self, x: Float[Tensor, "rows dim"]) -> Float[Tensor, "rows slots numbers"]:
        slices = ((x - self.mean) / self.scale).unflatten(1, (self.slots, -1))
        return self.inward(slices).float()

    def restored(self, scalars: Float[Tensor, "rows slots numbers"]) -> Float[Tensor, "rows dim"]:
        """The vectors that whole numbers stand for; read off at the last slot, which sees all others, as in RecGPT."""
        half = torch.tensor(self.levels, device=scalars.device) // 2
        x = self.drop(self.outward(scalars / half) + self.places)
        return self.widen(self.stack(x, Where())[:, -1]).float() * self.scale + self.mean

    def forward(self, x: Float[Tensor, "rows dim"]) -> dict[str, Float[Tensor, ""]]:
        found = self.restored(finite_scalars(self.latent(x), self.levels))
        return {"reconstruction": ((found - x) / self.scale).abs().mean()}


@tokenizer("fsq", paper="arXiv:2309.15505")
class FSQ(TrainedTokenizer[Config, Network]):
    @property
    def content_sizes(self) -> tuple[int, ...]:
        return (math.prod(self.config.scalars),) * self.config.slots

    def build(self, catalogue: Dataset) -> Network:
        dim, config = self.shape["dim"], self.config
        if dim % (config.slots * config.heads):
            raise ConfigError(
                f"fsq: vectors of width {dim:,} cannot be cut into {config.slots} slots of {config.heads} heads each. "
                "Set slots or heads so that their product divides the width."
            )
        if min(config.scalars) < 2:
            raise ConfigError(f"fsq: scalars has {min(config.scalars)}; a number needs 2 values or more.")
        return Network(dim, config)

    def prepare(self, train: Dataset) -> None:
        module, sums, squares, n = self.module, 0.0, 0.0, 0
        for _, _, x in blocks(self._fitting):
            sums, squares, n = sums + x.double().sum(0), squares + x.double().square().sum(0), n + len(x)
        mean = torch.as_tensor(sums / n)
        module.mean.copy_(mean)
        module.scale.copy_((squares / n - mean.square()).mean().clamp(min=1e-24).sqrt())

    def loss(self, batch: Float[Tensor, "batch dim"]) -> dict[str, Float[Tensor, ""]]:
        return self.module(batch)

    @torch.no_grad()
    def coded(self, x: Float[Tensor, "rows dim"]) -> Int64[Tensor, "rows coded"]:
        module = self.module
        return scalar_codes(finite_scalars(module.latent(x), module.levels), module.levels)

    @torch.no_grad()
    def last_costs(self, x: Float[Tensor, "rows dim"]) -> Float[Tensor, "rows size"]:
        module = self.module
        every = scalars_of(torch.arange(self.content_sizes[-1], device=x.device), module.levels)
        return distances(bounded(module.latent(x)[:, -1], module.levels).contiguous(), every)

    @torch.no_grad()
    def meant(self, codes: Int64[Tensor, "rows some"]) -> Float[Tensor, "rows dim"]:
        scalars = scalars_of(codes, self.module.levels)
        unknown = scalars.new_zeros(len(codes), self.config.slots - codes.shape[1], scalars.shape[2])
        return self.module.restored(torch.cat([scalars, unknown], 1))
