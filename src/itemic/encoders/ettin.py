"""Ettin: an encoder and a decoder of one shape, trained from nothing on what a catalogue says, each by its own aim.

Choose it for a language model that needs no network: the encoder gives vectors of texts, the decoder writes and weighs
them, with a vocabulary of their own, and `export` writes both as transformers opens them. They know the language of
one catalogue and its dialogues: a model pretrained on the web knows more of the world.
Paper: Weller et al., ICLR 2026, arXiv:2507.11412. Published numbers are of models trained on two trillion tokens.
"""

import json
import math
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, Float32, Int, Int64
from pydantic import Field, field_validator
from torch import Generator, Tensor, nn
from torch.nn.functional import normalize

from itemic.data import Dataset, EvalSet, Ragged
from itemic.devices import moved
from itemic.encoders.base import OfTexts
from itemic.encoders.documents import ROLE_MARKS, Documents, Rows, documents_of, rows_of
from itemic.encoders.fields import fields_of, settled
from itemic.encoders.folders import write_folder
from itemic.encoders.reading import TOKENS, vectors_of
from itemic.encoders.speaking import N_MARKS, Speaker, packed
from itemic.encoders.vocabulary import Vocabulary
from itemic.errors import DataError
from itemic.files import replacing
from itemic.model import ModelConfig
from itemic.nn.corrupt import mask_words
from itemic.nn.modernbert import ModernBert
from itemic.nn.packing import Packing
from itemic.nn.products import fast_products
from itemic.nn.text import row_means
from itemic.registry import encoder
from itemic.training import Stage, TrainingConfig, autocast
from itemic.training.documents import dealt, growing

LEG = 250_000
"""Tokens from one validation to the next."""
HELD_OUT = 120_000
"""Characters to validate on, at most: some 30,000 tokens."""
JUDGED = 4000
"""Tokens to validate on, at least: fewer are read again, with other words hidden."""
JUDGED_P = 0.15
"""The share of hidden words that an encoder is judged by, whatever it is trained with."""
STEP = 32
"""Rows are trained on in blocks of a multiple of this, and tokens in multiples of four times this, the last ones of no
document: oneDNN compiles products in bfloat16 for each size, which took a fifth of the time and a gigabyte."""
SMALLER = 0.07
"""The share of the first phase in which steps are smaller: 125 of 1,700 thousand million tokens at 17M."""
TWINS = ("encoder", "decoder")


class Shape(NamedTuple):
    layers: int
    dim: int
    hidden: int
    heads: int


SHAPES = {
    "nano": Shape(4, 128, 192, 2),
    "micro": Shape(6, 192, 288, 3),
    "small": Shape(9, 256, 384, 4),
    "17m": Shape(7, 256, 384, 4),
    "32m": Shape(10, 384, 576, 6),
    "68m": Shape(19, 512, 768, 8),
    "150m": Shape(22, 768, 1152, 12),
    "400m": Shape(28, 1024, 2624, 16),
    "1b": Shape(28, 1792, 3840, 28),
}


class Phase(NamedTuple):
    """One of the three phases of training: its name, its step size at the start, and how that falls."""

    name: str
    lr: float
    schedule: Literal["constant", "sqrt"]
    floor: float


PHASES = (
    Phase("pretraining", 1.0, "constant", 1.0),
    Phase("longer texts", 1.0, "sqrt", 0.5),
    Phase("decay", 0.5, "sqrt", 0.04),
)
"""As published: the step size stays, falls to half, and from there to a fiftieth of its peak."""


Share = Annotated[float, Field(ge=0, le=1)]
Length = Annotated[int, Field(ge=4)]
Base = Annotated[float, Field(gt=0)]


class Config(ModelConfig):
    size: Literal["nano", "micro", "small", "17m", "32m", "68m", "150m", "400m", "1b"] = "small"
    """Layers and widths: those of the paper are 17m to 1b, named by their weights with its vocabulary; nano, micro and
    small are for a CPU (1, 3 and 6 million weights with 4,096 pieces). From 150m on lower the lr, as the paper does."""
    vocabulary: int = Field(4096, ge=512, multiple_of=8)
    """Pieces of the vocabulary, learned from the texts. The paper: 50,368; in small models a few thousand leave most
    weights to the layers."""
    fields: tuple[str, ...] = ()
    """The item columns that are read, in this order; none for the first three by role: texts, category, attributes."""
    template: str = Field("{text}", pattern=r"\{text\}")
    """How a field is written: {text} stands for what it says, {name} for its column, as in "{name}: {text}"."""
    tokens: int = Field(3_500_000, ge=1)
    """Tokens that each of the two is trained on, unless `training.epochs` passes come to less. The paper: 2 million
    million; this many take less than half an hour for both on one core that has bfloat16."""
    phases: tuple[Share, Share, Share] = (0.85, 0.125, 0.025)
    """Shares of the tokens for pretraining, longer texts and decay; 0 leaves a phase out. The paper: 1,700, 250 and 50
    thousand million tokens."""
    lengths: tuple[Length, Length, Length] = (256, 512, 512)
    """Tokens of a row in each phase; longer documents are cut into several. The paper: 1,024, 7,999 and 7,999."""
    rope_base: tuple[Base, Base] = (10_000.0, 160_000.0)
    """Base of the rotary positions in pretraining, and in the phases after it. As in the paper."""
    local_rope_base: Base | None = None
    """That of local layers; None for the same, as in the paper. ModernBERT: 10,000 throughout."""
    mlm_p: tuple[Share, Share, Share] = (0.3, 0.3, 0.15)
    """Chance of a token to be hidden from the encoder in each phase. As in the paper."""
    window: int = Field(128, ge=2, multiple_of=2)
    """Tokens around one that local layers see, half to either side; a decoder sees the left half. As in the paper."""
    global_every: int = Field(3, ge=1)
    """Each so many-th layer sees all of a row, the first one too; 1 for all layers. As in the paper."""
    attn_out_dropout: float = Field(0.1, ge=0, lt=1)
    """Chance to fall away, for what attention adds; nothing else does. As in the paper."""
    first_batch: int = Field(1, ge=1)
    """Rows of the first step; from here they grow to `training.batch_size` over the first 7 % of pretraining."""
    held_out: float = Field(0.02, gt=0, lt=1)
    """Share of the documents that validates, unless so many say more than 120,000 characters."""
    seed: int = Field(0, ge=0)
    """Of all random draws."""
    training: TrainingConfig = TrainingConfig(
        lr=3e-3,
        weight_decay=3e-4,
        batch_size=4,
        epochs=20,
        optimizer="stable_adamw",
        warmup=50,
        metric="chance",
        precision="bfloat16",
    )
    """Shared by all trained models; a batch is so many rows filled with documents, and phases have their own schedules.
    They suit nano; with few tokens micro and small learn much more by lr=1e-3 and 2 rows (benchmarks/README.md). The
    paper: this lr and decay up to 68m, 8e-4 and 1e-5 at 150m, 5e-4 from there on; 4,608 rows a batch."""

    @field_validator("phases")
    @classmethod
    def _some_phase(cls, phases: tuple[float, float, float]) -> tuple[float, float, float]:
        if not any(phases):
            raise ValueError("one of them has to be more than 0")
        return phases


class Network(nn.Module):
    """The twins; and in `at`, for a run that is resumed, whose training this is, which phase and which leg of it."""

    at: Int[Tensor, "3"]

    def __init__(self, n_words: int, config: Config) -> None:
        super().__init__()
        layers, dim, hidden, heads = SHAPES[config.size]
        shape: dict[str, Any] = {"layers": layers, "heads": heads, "hidden": hidden, "every": config.global_every}
        shape |= {"side": config.window // 2, "dropout": config.attn_out_dropout}
        self.encoder, self.decoder = (ModernBert(n_words, dim, **shape, causal=causal) for causal in (False, True))
        self.register_buffer("at", torch.zeros(3, dtype=torch.long))

    def twin(self, name: str) -> ModernBert:
        return self.encoder if name == "encoder" else self.decoder


@encoder("ettin", paper="arXiv:2507.11412")
class Ettin(OfTexts[Config, Network], Speaker[Config, Network]):
    judges_itself = True

    @property
    def dim(self) -> int:
        return SHAPES[self.config.size].dim

    @property
    def longest(self) -> int:
        """How many tokens it reads at most."""
        return self.config.lengths[self.shape["last_phase"]]

    @property
    def decoder(self) -> ModernBert:
        return self.module.decoder

    # Fitting ----------------------------------------------------------------------------------------------------

    def survey(self, train: Dataset) -> None:
        last = max(phase for phase, share in enumerate(self.config.phases) if share)
        self.shape = {"fields": self._fields(train), "last_phase": last}
        read, held = self.parted(train)
        self.__dict__.pop("cutter", None)
        self.vocabulary = json.loads(Vocabulary.readable(read.texts, self.config.vocabulary, ROLE_MARKS).description)
        pieces, held = read.pieces(self.cutter), held.pieces(self.cutter)
        self._seen = [self.rows(pieces, length) for length in self.config.lengths]
        self._held = [self.rows(held, length) for length in self.config.lengths]
        self._steps = [self._dealt(phase) for phase in range(len(PHASES))]

    def parted(self, train: Dataset) -> tuple[Documents, Documents]:
        """What it learns from, and the documents that are held out.

        Raises:
            DataError: there are fewer than two.
        """
        documents = documents_of(train, self.shape["fields"], self.config.template)
        if len(documents) < 2:
            raise DataError(
                f"ettin learns from two texts or more; {train.name} has {len(documents)} in "
                f"{', '.join(self.shape['fields'])}. Name other fields: --set fields=[NAME]."
            )
        order = np.random.default_rng(self.config.seed).permutation(len(documents))
        n_held = min(round(self.config.held_out * len(order)), int((documents.sizes[order].cumsum() < HELD_OUT).sum()))
        n_held = max(1, n_held)
        return documents.take(order[n_held:]), documents.take(order[:n_held])

    def _fields(self, train: Dataset) -> list[str]:
        """The columns that are read: none where there are dialogues alone."""
        if not self.config.fields and not fields_of(train.items) and "dialogues" in train.extras:
            return []
        return settled(self.config.fields, train)

    def rows(self, documents: Ragged, longest: int) -> Rows:
        """Documents as they are read."""
        return rows_of(documents, longest, self.cutter.first, self.cutter.end)

    def _dealt(self, phase: int) -> list[Int64[np.ndarray, " rows"]]:
        """The rows of each step of a phase, the same for both twins."""
        config, lengths, longest = self.config, self._seen[phase].tokens.lengths, self.config.lengths[phase]
        if not config.phases[phase]:
            return []
        n_tokens = round(config.phases[phase] * min(config.tokens, config.training.epochs * int(lengths.sum())))
        size = config.training.batch_size
        sizes = growing(n_tokens, longest, size, min(config.first_batch, size), 0.0 if phase else SMALLER)
        return dealt(lengths, longest * sizes, np.random.default_rng([config.seed, phase]))

    def build(self, catalogue: Dataset) -> Network:
        return Network(self.config.vocabulary, self.config)

    def stages(self, train: Dataset) -> list[Stage]:
        phases = [n for n, steps in enumerate(self._steps) if steps]
        return [self._stage(twin, n, phases[0]) for twin in TWINS for n in phases]

    def _stage(self, twin: str, n: int, first: int) -> Stage:
        phase, training, legs = PHASES[n], self.config.training, self._legs(n)
        how = {"lr": training.lr * phase.lr, "schedule": phase.schedule, "floor": phase.floor, "epochs": legs}
        how |= {"warmup": training.warmup if n == first else 0, "metric": "chance"}
        return Stage(
            f"{twin}, {phase.name}",
            training.model_copy(update=how),
            partial(self.leg, n, legs),
            partial(self.loss_of, twin, n),
            (twin,),
            partial(self._enter, twin, n),
            continues=None if n == first else f"{twin}, {PHASES[first].name}",
        )

    def _legs(self, phase: int) -> int:
        """How many validations a phase has, one at its end."""
        return min(max(1, round(self._n_tokens(phase) / LEG)), len(self._steps[phase]))

    def _n_tokens(self, phase: int) -> int:
        """How many are read in a phase, those that are read again among them."""
        steps = self._steps[phase]
        return int(self._seen[phase].tokens.lengths[np.concatenate(steps)].sum()) if steps else 0

    def _enter(self, twin: str, phase: int) -> None:
        self.module.at[:2] = torch.tensor([TWINS.index(twin), phase])
        for positions, base in zip((self.module.twin(twin).far, self.module.twin(twin).near), self._bases(phase)):
            positions.rebase(base)

    def _bases(self, phase: int) -> tuple[float, float]:
        """Of global and of local layers."""
        base = self.config.rope_base[min(phase, 1)]
        return base, self.config.local_rope_base or base

    def on_epoch(self, epoch: int) -> None:
        self.module.at[2] = epoch

    def leg(self, phase: int, legs: int, rng: Generator) -> list[Int64[Tensor, " rows"]]:
        """The steps from one validation to the next: which they are was drawn before, for both twins at once."""
        steps, at = self._steps[phase], int(self.module.at[2])
        return [torch.from_numpy(rows) for rows in steps[at * len(steps) // legs : (at + 1) * len(steps) // legs]]

    def loss_of(self, twin: str, phase: int, batch: Int64[Tensor, " rows"]) -> dict[str, Float[Tensor, ""]]:
        """What hidden words, or the next ones, come as a surprise."""
        states, target = self._asked(twin, self._seen[phase], batch.numpy(force=True), self.config.mlm_p[phase])
        return {"hidden" if twin == "encoder" else "next": self.module.twin(twin).loss(states, target)}

    def _asked(
        self, twin: str, rows: Rows, chosen: Int64[np.ndarray, " some"], p: float
    ) -> tuple[Float[Tensor, "asked dim"], Int64[Tensor, " asked"]]:
        """The states that are asked for a word, and the word: hidden ones of the encoder, the next of the decoder."""
        tokens, ends = rows.tokens.take(chosen), (~rows.whole[chosen]).astype(np.int64)
        fill = -len(tokens.values) % (4 * STEP)
        offsets = torch.from_numpy(np.append(tokens.offsets, tokens.offsets[-1] + fill))
        token = torch.from_numpy(np.append(tokens.values, np.zeros(fill, np.int32))).long()
        offsets, token, ends = moved((offsets, token, torch.from_numpy(np.append(ends, fill))), self.device)
        packing = Packing(offsets, step=STEP)
        if twin == "encoder":
            word = torch.arange(len(token), device=token.device).masked_fill(token < N_MARKS, -1)
            shown, hidden = mask_words(token, word, self.cutter.mask, len(self.cutter), p)
            return self.module.encoder(shown, packing)[hidden], token[hidden]
        at = (packing.place_from_end > ends[packing.row]).nonzero()[:, 0]
        return self.module.decoder(token, packing)[at], token[at + 1]

    def validate(self, valid: EvalSet | None) -> dict[str, float]:
        twin, phase, _ = self.module.at.tolist()
        with autocast(self.config.training, self.module.at.device.type):
            surprise = self.surprise(TWINS[twin], self._held[phase])
        return {"chance": math.exp(-surprise), "perplexity": math.exp(surprise)}

    @torch.no_grad()
    def surprise(self, twin: str, rows: Rows) -> float:
        """The mean of -log of the chance that hidden words get, 15 % of all, or next ones; the same ones each time."""
        total, n = 0.0, 0
        order = np.tile(np.arange(len(rows.tokens)), 1 + JUDGED // len(rows.tokens.values))
        ends = np.flatnonzero(np.diff(rows.tokens.lengths[order].cumsum() // TOKENS)) + 1
        with torch.random.fork_rng(devices=[]), fast_products():
            torch.manual_seed(0)
            for chosen in np.split(order, ends):
                states, target = self._asked(twin, rows, chosen, JUDGED_P)
                total += float(self.module.twin(twin).loss(states, target)) * len(target)
                n += len(target)
        return total / n

    def finish(self) -> None:
        rows = self._held[self.shape["last_phase"]]
        self.fitted_on["perplexity"] = {twin: round(math.exp(self.surprise(twin, rows)), 3) for twin in TWINS}
        self.fitted_on["tokens"] = sum(map(self._n_tokens, range(len(PHASES))))
        del self._seen, self._held, self._steps

    # The encoder ------------------------------------------------------------------------------------------------

    def read_texts(self, texts: pa.Array) -> Float32[np.ndarray, "texts dim"]:
        found = np.full((len(texts), self.dim), np.nan, np.float32)
        rows = self.cutter.whole(texts.drop_null().to_pylist(), self.longest)
        found[texts.is_valid().to_numpy(zero_copy_only=False)] = vectors_of(rows, self.dim, self._means)
        return found

    @torch.inference_mode()
    def _means(self, rows: Ragged) -> Float32[np.ndarray, "rows dim"]:
        token, packing = packed(rows, self.device)
        return normalize(row_means(self.module.encoder(token, packing), packing)).numpy(force=True)

    def export(self, folder: str | Path) -> Path:
        """Writes folders `encoder` and `decoder`, for AutoModelForMaskedLM and AutoModelForCausalLM of transformers."""
        with replacing(folder) as new:
            for twin in TWINS:
                (new / twin).mkdir()
                bases = self._bases(self.shape["last_phase"])
                write_folder(new / twin, self.module.twin(twin), self.cutter, bases, self.longest)
        return Path(folder)
