"""RQ-VAE: codes of a latent vector that a network learns, each level for what the levels before leave over.

Choose it where distances between the vectors are not what matters (several kinds of features side by side, raw or very
wide vectors), or to follow TIGER and LC-Rec; else rqkmeans gives codes as good in seconds. Its codebooks begin as
k-means of the residuals, and codes that fall out of use are revived, or most of them would be lost.
Papers: Rajput et al., NeurIPS 2023, arXiv:2305.05065 (TIGER); Lee et al., CVPR 2022, arXiv:2203.01941 (RQ-VAE); Zheng
et al., ICDE 2024, arXiv:2311.09049 (LC-Rec). Set-ups: recipes/tiger/.
"""

from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int64
from pydantic import Field
from torch import Generator, Tensor, nn

from itemic.data import Dataset
from itemic.nn.kmeans import distances, kmeans, nearest
from itemic.nn.quantise import (
    balanced_codes,
    moved_average,
    residual_codes,
    residual_sum,
    revived,
    rotated_through,
    straight_through,
)
from itemic.registry import tokenizer
from itemic.tokenizers.base import TrainedConfig, TrainedTokenizer, sampled
from itemic.training import TrainingConfig, gathered

STARTS = 20_000
"""Items, at most, on whose residuals codebooks begin and are revived."""


class Config(TrainedConfig):
    levels: int = Field(3, ge=1)
    """Codes of an item, beside what tells it apart. TIGER: 3; LC-Rec: 4."""
    size: int = Field(256, ge=2)
    """Codes to choose from at each level. TIGER and LC-Rec: 256."""
    latent: int = Field(32, ge=1)
    """Width of what is quantised. TIGER and LC-Rec: 32."""
    hidden: tuple[int, ...] = (512, 256, 128)
    """Widths of the layers between. TIGER: these; LC-Rec: 2048, 1024, 512, 256, 128, 64."""
    beta: float = Field(0.25, ge=0)
    """How much latent vectors are drawn to their codes; codes are drawn to them with 1. TIGER and LC-Rec: 0.25."""
    codebook: Literal["gradient", "ema"] = "gradient"
    """Whether codes follow the gradient or are moving averages of what they stand for."""
    decay: float = Field(0.99, gt=0, lt=1)
    """What a moving average keeps of its past each step."""
    residual_grad: Literal["detach", "ste"] = "detach"
    """detach: latent vectors are drawn to their codes at every level. ste: at the first alone, as in code for TIGER."""
    through: Literal["straight", "rotation"] = "straight"
    """How the gradient of what codes stand for reaches the latent vectors: as it is, or turned back with them."""
    uniform_last: bool = False
    """Whether in training the last codes of a batch are dealt out evenly by Sinkhorn, as in LC-Rec."""
    revive: int = Field(10, ge=0)
    """Epochs from one revival of codes that stand for no item to the next; 0 for never."""
    training: TrainingConfig = TrainingConfig(
        lr=1e-3,
        weight_decay=1e-4,
        optimizer="adamw",
        batch_size=1024,
        epochs=1000,
        eval_every=20,
        patience=10,
        metric="quality",
        precision="bfloat16",
    )
    """Shared by all trained models; `metric` may be unique, explained, quality. lr, decay, batch: LC-Rec."""


class Network(nn.Module):
    """Vectors to latent ones, these to codes, and back."""

    mean: Tensor
    scale: Tensor
    counts: Tensor

    def __init__(self, dim: int, config: Config) -> None:
        super().__init__()
        widths = (dim, *config.hidden, config.latent)
        self.config = config
        self.encoder, self.decoder = _layers(widths), _layers(widths[::-1])
        self.codebooks = nn.Parameter(
            torch.zeros(config.levels, config.size, config.latent), requires_grad=config.codebook == "gradient"
        )
        per_code = config.training.batch_size / config.size
        self.register_buffer("counts", torch.full((config.levels, config.size), per_code))
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(()))

    def latent(self, x: Float[Tensor, "rows dim"]) -> Float[Tensor, "rows latent"]:
        return self.encoder((x - self.mean) / self.scale).float()

    def restored(self, z: Float[Tensor, "rows latent"]) -> Float[Tensor, "rows dim"]:
        return self.decoder(z).float() * self.scale + self.mean

    def forward(self, x: Float[Tensor, "rows dim"]) -> dict[str, Float[Tensor, ""]]:
        """The terms of the loss: sums over features, means over rows."""
        config, z = self.config, self.latent(x)
        with torch.autocast(z.device.type, enabled=False):
            quantised, terms = self.quantised(z)
        z = straight_through(z, quantised) if config.through == "straight" else rotated_through(z, quantised)
        error = (self.restored(z) - x) / self.scale
        return {"reconstruction": error.square().sum(1).mean(), **terms}

    def quantised(self, z: Float[Tensor, "rows latent"]) -> tuple[Float[Tensor, "rows latent"], dict[str, Tensor]]:
        """What the codes of latent vectors stand for, without gradient, and what draws the two together."""
        config, rest, total = self.config, z, torch.zeros_like(z)
        codebook_terms, commitment = [], []
        for level, codebook in enumerate(self.codebooks):
            code = self._code(rest.detach(), codebook.detach(), last=level == config.levels - 1)
            chosen = codebook[code]
            if config.codebook == "gradient":
                codebook_terms.append(_squared(rest.detach() - chosen))
            elif self.training:
                with torch.no_grad():
                    rows, codes, counts = gathered(rest), gathered(code), self.counts[level]
                    self.codebooks[level], self.counts[level] = moved_average(
                        codebook, counts, rows, codes, config.decay
                    )
            commitment.append(config.beta * _squared(rest - chosen.detach()))
            total = total + chosen.detach()
            rest = rest - (chosen.detach() if config.residual_grad == "detach" else straight_through(rest, chosen))
        drawn = {"codebook": codebook_terms, "commitment": commitment}
        return total, {name: torch.stack(terms).sum() for name, terms in drawn.items() if terms}

    def _code(
        self, rest: Float[Tensor, "rows latent"], codebook: Float[Tensor, "size latent"], last: bool
    ) -> Int64[Tensor, " rows"]:
        if last and self.training and self.config.uniform_last:
            return balanced_codes(distances(rest, codebook))
        return nearest(rest, codebook)[0]

    @torch.no_grad()
    def begin(self, x: Float[Tensor, "rows dim"], rng: Generator) -> None:
        """Brings vectors to mean 0 and a mean square of 1, and lets codebooks begin as k-means of their residuals."""
        self.mean.copy_(x.mean(0))
        self.scale.copy_((x - self.mean).square().mean().sqrt().clamp(min=1e-12))
        rest = self.latent(x)
        for codebook in self.codebooks:
            made = kmeans(rest, len(codebook), rng)
            codebook.copy_(made.centres)
            rest = rest - made.centres[made.code]

    @torch.no_grad()
    def revive(self, x: Float[Tensor, "rows dim"]) -> None:
        """Puts residuals of some vectors in the place of codes that stand for none of them."""
        rest = self.latent(x)
        for level, codebook in enumerate(self.codebooks):
            alive = nearest(rest, codebook)[0].bincount(minlength=len(codebook)) > 0
            codebook.copy_(revived(codebook, alive, rest, torch.default_generator))
            self.counts[level, ~alive] = self.counts[level].mean()
            rest = rest - codebook[nearest(rest, codebook)[0]]


@tokenizer("rqvae", paper="arXiv:2305.05065")
class RQVAE(TrainedTokenizer[Config, Network]):
    @property
    def content_sizes(self) -> tuple[int, ...]:
        return (self.config.size,) * self.config.levels

    def build(self, catalogue: Dataset) -> Network:
        return Network(self.shape["dim"], self.config)

    def prepare(self, train: Dataset) -> None:
        rng = Generator().manual_seed(self.config.seed)
        self._some = torch.from_numpy(np.asarray(sampled(self._present, STARTS, 1, rng), np.float32))
        self.enough(len(self._some), self.config.size)
        self.module.begin(self._some, rng)

    def loss(self, batch: Float[Tensor, "batch dim"]) -> dict[str, Float[Tensor, ""]]:
        return self.module(batch)

    def on_epoch(self, epoch: int) -> None:
        if epoch and self.config.revive and epoch % self.config.revive == 0:
            self.module.revive(self._some.to(self.device))

    def finish(self) -> None:
        super().finish()
        del self._some

    @torch.no_grad()
    def coded(self, x: Float[Tensor, "rows dim"]) -> Int64[Tensor, "rows coded"]:
        return residual_codes(self.module.latent(x), self._codebooks)[0]

    @torch.no_grad()
    def last_costs(self, x: Float[Tensor, "rows dim"]) -> Float[Tensor, "rows size"]:
        *before, last = self._codebooks
        z = self.module.latent(x)
        return distances(residual_codes(z, before)[1] if before else z, last)

    @torch.no_grad()
    def meant(self, codes: Int64[Tensor, "rows some"]) -> Float[Tensor, "rows dim"]:
        return self.module.restored(residual_sum(codes, self._codebooks))

    @property
    def _codebooks(self) -> list[Float[Tensor, "size latent"]]:
        return list(self.module.codebooks.detach())


def _layers(widths: tuple[int, ...]) -> nn.Sequential:
    """Linear layers with ReLU between them."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _squared(x: Float[Tensor, "rows dim"]) -> Float[Tensor, ""]:
    return x.square().sum(1).mean()
