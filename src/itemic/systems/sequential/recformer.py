"""Recformer: items as sentences of their attributes, and one text encoder that reads items and histories alike.

Choose it when items have titles and most of them are rare or new: what it learns of one item's text it knows of all
that read alike, and a new item is ranked as soon as its text has been read (`add_items`). It takes hours where `sasrec`
takes minutes, and knows nothing of an item but what is written there. It begins with a pretrained text model (`start`)
or with a small one of its own.
Paper: Li et al., KDD 2023, arXiv:2305.13731. Published set-ups and numbers: recipes/recformer/.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, Int64
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.nn.functional import normalize

from itemic.data import Dataset, EvalSet, Ragged, Table
from itemic.devices import moved
from itemic.encoders.fields import settled, texts_of
from itemic.encoders.metadata import require
from itemic.encoders.pretrained import pretrained
from itemic.encoders.vocabulary import Vocabulary
from itemic.errors import ConfigError, DataError
from itemic.nn.corrupt import mask_words
from itemic.nn.losses.contrastive import in_batch
from itemic.nn.losses.softmax import table_cross_entropy
from itemic.nn.packing import Packing
from itemic.nn.products import fast_products
from itemic.nn.text import TextEncoder, WordHead, row_means
from itemic.progress import report
from itemic.registry import system
from itemic.systems.histories import cut
from itemic.systems.sequential.base import SequenceConfig, SequenceRecommender
from itemic.systems.sequential.sentences import (
    N_KINDS,
    Sentences,
    Sequences,
    sentences_of,
    sequences_of,
)
from itemic.training import Stage, TrainingConfig, autocast, gathered, shuffled

MLM_WEIGHT = 0.1
"""Weight of guessing words against telling items apart in pre-training, as published."""
TOKENS = 8192
"""Tokens read at a time in answering."""


class Config(SequenceConfig):
    tune: ClassVar = {"training.lr": "1e-5..1e-3:log", "temperature": "0.02..0.2:log", "pool": "cls,mean"}

    start: str | None = "minilm"
    """The text model to begin with: `minilm` (in itemic[text]), a folder, or a name on the Hugging Face hub, of type
    BERT, RoBERTa or Longformer. None for one with random weights and a vocabulary learned from the items' texts."""
    fields: tuple[str, ...] = ()
    """The item columns that are read, in this order; none for the first three by role: texts, category, attributes.
    The paper: title, brand, category."""
    attribute_tokens: int = Field(32, ge=1)
    """Tokens of one attribute that are read, its name among them. The paper: 32."""
    max_tokens: int = Field(512, ge=2)
    """Tokens of a history that are read, newest item first. The paper: 1,024; 512 lose almost nothing, 128 clearly."""
    window: int | None = Field(None, ge=2)
    """How many neighbours a token attends to beside the first token, as in Longformer; None for all. The paper: 64."""
    pool: Literal["cls", "mean"] = "mean"
    """What a text is to others: the state of its first token, as in the paper, or the mean of all, as in MiniLM."""
    temperature: float = Field(0.05, gt=0)
    """What cosines are divided by in the losses. The paper: 0.05."""
    freeze_words: bool = True
    """Whether embeddings of words stay as they began, which serves words never trained on. As in the paper."""
    vocabulary: int = Field(8000, ge=10)
    """Without `start`: pieces of the vocabulary, at most."""
    layers: int = Field(2, ge=1)
    """Without `start`: blocks of attention and feed-forward layer; `dim` is their width."""
    heads: int = Field(2, ge=1)
    """Without `start`: averages taken by each attention."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Chance to fall away, for values and weights of attention. As in BERT."""
    pretrain_epochs: int = Field(0, ge=0)
    """Epochs of guessing hidden words and telling items apart before items are recommended; 0 where the text model is
    pretrained enough. The paper: 32, on other catalogues."""
    fixed_epochs: int = Field(128, ge=0)
    """Epochs, at most, of the second stage, in which the vectors of items stay as they are; 0 leaves it out."""
    fixed_patience: int = Field(3, ge=1)
    """`patience` in the second stage. As in the authors' code."""
    training: TrainingConfig = TrainingConfig(
        lr=5e-5,
        batch_size=128,
        epochs=128,
        optimizer="adamw",
        schedule="linear",
        warmup=100,
        eval_every=3,
        patience=5,
        metric="ndcg@10",
        precision="bfloat16",
    )
    """Shared by all trained systems, here of the first stage; batches are of histories. As in the authors' code."""


class Words(NamedTuple):
    """Sequences of tokens as a network reads them."""

    token: Int[Tensor, " tokens"]
    kind: Int[Tensor, " tokens"]
    item: Int[Tensor, " tokens"]
    bounds: Int64[Tensor, " bounds"]
    word: Int[Tensor, " tokens"]
    """The number of the word that a token is of; -1 for what begins a sequence."""

    @classmethod
    def of(cls, made: Sequences) -> "Words":
        word = made.begins.cumsum() - 1
        word[made.bounds[:-1]] = -1
        arrays = made.token, made.kind, made.item, made.bounds, word
        return cls(*(torch.from_numpy(array.astype(np.int64)) for array in arrays))


class Cuts(NamedTuple):
    """A batch: users, and the place in the history of each of the item to be found from what came before."""

    user: Int[Tensor, " batch"]
    place: Int[Tensor, " batch"]


class Network(nn.Module):
    """Reads items and histories; keeps the vectors of items, with which histories are compared."""

    vectors: Float[Tensor, "items dim"]
    stage: Int[Tensor, ""]

    def __init__(self, shape: dict[str, Any], n_items: int, config: Config) -> None:
        super().__init__()
        dim, self.pool = shape["dim"], config.pool
        self.text = TextEncoder(**shape, window=config.window, dropout=config.dropout)
        self.text.word.weight.requires_grad_(not config.freeze_words)
        self.item = nn.Embedding(config.max_length + 1, dim)
        nn.init.normal_(self.item.weight, std=0.02)
        self.head = WordHead(shape["n_words"], dim) if config.pretrain_epochs else None
        self.register_buffer("vectors", torch.zeros(n_items, dim))
        self.register_buffer("stage", torch.tensor(0))  # in a buffer, so that a resumed run knows it

    def states(self, words: Words) -> tuple[Float[Tensor, "tokens dim"], Packing]:
        packing = Packing(words.bounds)
        return self.text(words.token, words.kind, packing, self.item(words.item)), packing

    def forward(self, words: Words) -> Float[Tensor, "sequences dim"]:
        """A vector of length 1 for each sequence."""
        states, packing = self.states(words)
        pooled = states[packing.offsets[:-1]] if self.pool == "cls" else row_means(states, packing)
        return normalize(pooled.float())

    def guesses(self, words: Words, mask: int) -> Float[Tensor, ""]:
        """The loss of guessing hidden words: the mean of -log of the chance that each gets, of all words."""
        assert self.head is not None
        token, hidden = mask_words(words.token, words.word, mask, len(self.text.word.weight))
        states, _ = self.states(words._replace(token=token))
        made = self.head(states[hidden]).float()
        return table_cross_entropy(made, self.text.word.weight, words.token[hidden], bias=self.head.bias)


@system(
    "recformer",
    family="sequential",
    needs=["interactions", "items"],
    answers=["history"],
    cold_items=True,
    paper="arXiv:2305.13731",
)
class Recformer(SequenceRecommender[Config, Network]):
    def survey(self, train: Dataset) -> None:
        config, fields = self.config, settled(self.config.fields, train)
        self._start = pretrained(config.start) if config.start is not None else None
        if self._start is not None:
            cutter, limit = self._start.vocabulary, self._start.shape["n_places"]
            if limit < config.max_tokens:
                raise ConfigError(
                    f"recformer: {config.start} reads {limit:,} tokens, max_tokens is {config.max_tokens:,}. Lower it."
                )
            shape = self._start.shape
        else:
            texts = [f"{field} {text}" for field in fields for text in texts_of(train.items, field)]
            cutter = Vocabulary.trained(texts, config.vocabulary)
            shape: dict[str, Any] = {"n_words": len(cutter), "dim": config.dim, "hidden": 4 * config.dim}
            shape |= {"layers": config.layers, "heads": config.heads}
        shape |= {"n_places": config.max_tokens, "n_kinds": N_KINDS}
        self.vocabulary = json.loads(cutter.description)
        self.shape = {"text": shape, "fields": fields, "first": cutter.first, "mask": cutter.mask}

    def build(self, catalogue: Dataset) -> Network:
        return Network(self.shape["text"], catalogue.n_items, self.config)

    def prepare(self, train: Dataset) -> None:
        super().prepare(train)
        if self._start is not None:
            self._start.put_into(self.module.text)
            self._start = None
        sentences = self.sentences(train.items)
        if len(sentences.token) == 0:
            listed = ", ".join(self.shape["fields"])
            raise DataError(f"no item of {train.name} has a text in {listed}. Name others: --set fields=[NAME].")
        bare = int((sentences.rows.lengths == 0).sum())
        if bare:
            report(f"{bare:,} of {train.n_items:,} items have no text: they are one item to {self.entry.name}", 1, 1)
        self.tables |= sentences._asdict()
        self._histories = train.interactions.histories()
        self._users = torch.from_numpy(np.flatnonzero(self._histories.lengths))

    def sentences(self, items: Table) -> Sentences:
        """What these items are to the encoder."""
        cutter = Vocabulary(json.dumps(self.vocabulary))
        return sentences_of(items, self.shape["fields"], cutter, self.config.attribute_tokens)

    # Training ---------------------------------------------------------------------------------------------------

    def stages(self, train: Dataset) -> list[Stage]:
        training = self.config.training
        first = Stage("items and histories", training, self.cuts, self.found, ("text", "item"), partial(self._enter, 1))
        stages = [first]
        if self.config.pretrain_epochs:
            n = self.config.pretrain_epochs
            how = training.model_copy(update={"epochs": n, "eval_every": n, "patience": None, "warmup": 0, "clip": 1.0})
            stages.insert(0, Stage("words", how, partial(self.cuts, late=True), self.pretrained))
        if self.config.fixed_epochs:
            how = {"epochs": self.config.fixed_epochs, "patience": self.config.fixed_patience}
            how = training.model_copy(update=how)
            stages.append(Stage("histories", how, self.cuts, self.found, ("text", "item"), partial(self._enter, 2)))
        return stages

    def _enter(self, stage: int) -> None:
        self.module.stage.fill_(stage)

    def on_epoch(self, epoch: int) -> None:
        if self.module.stage == 1:
            self.refresh()

    def validate(self, valid: EvalSet | None) -> dict[str, float]:
        if self.module.stage == 0:
            self.refresh()
        with autocast(self.config.training, self.module.vectors.device.type):
            return super().validate(valid)

    def refresh(self) -> None:
        """Makes the vectors of all items anew with the encoder as it is."""
        module, items = self.module, np.arange(self.catalogue.n_items, dtype=np.int32)
        with answering(module), autocast(self.config.training, module.vectors.device.type):
            module.vectors.copy_(torch.from_numpy(self.read(alone(items))))

    def cuts(self, rng: Generator, *, late: bool = False) -> Iterator[Cuts]:
        """Each user once, cut at a random place; with `late` in the second half of the history."""
        lengths = torch.from_numpy(self._histories.lengths)
        for rows in shuffled(len(self._users), self.config.training.batch_size, rng):
            user = self._users[rows]
            first = (lengths[user] - 1) // 2 if late else torch.zeros_like(user)
            chance = torch.rand(len(user), generator=rng, dtype=torch.float64)
            yield Cuts(user, first + (chance * (lengths[user] - first)).long())

    def found(self, batch: Cuts) -> dict[str, Float[Tensor, ""]]:
        """Fine-tuning: the next item among all items."""
        known, following = self._cut(batch)
        vectors, target = self.module(self._words(known)), self.tensor(following)
        loss = table_cross_entropy(vectors, self.module.vectors, target, temperature=self.config.temperature)
        return {"next": loss}

    def pretrained(self, batch: Cuts) -> dict[str, Float[Tensor, ""]]:
        """Pre-training: the next item among those of the batch, and hidden words of what is known and of that item."""
        known, following = self._cut(batch)
        histories, items = self._words(known), self._words(alone(following))
        told = gathered(self.module(histories)), gathered(self.module(items))
        guesses = [self.module.guesses(words, self.shape["mask"]) for words in (histories, items)]
        return {
            "contrast": in_batch(*told, self.config.temperature),
            "words": MLM_WEIGHT * torch.stack(guesses).sum(),
        }

    def _cut(self, batch: Cuts) -> tuple[Ragged, Int[np.ndarray, " batch"]]:
        """What came before the place of each cut, and the item there."""
        return cut(self._histories, batch.user.numpy(force=True), batch.place.numpy(force=True))

    # Reading ----------------------------------------------------------------------------------------------------

    def _words(self, histories: Ragged) -> Words:
        sentences = Sentences(**{name: self.tables[name] for name in Sentences._fields})
        newest = histories.last(self.config.max_length)
        words = Words.of(sequences_of(sentences, newest, self.shape["first"], self.config.max_tokens))
        return moved(words, self.device)

    def read(self, histories: Ragged) -> Float32[np.ndarray, "histories dim"]:
        """The vector of each history; that of an item is the one of a history of it alone."""
        n_tokens = np.diff(self.tables["bounds"])[histories.values]
        lengths = np.bincount(histories.row_of_value, n_tokens, len(histories)).clip(max=self.config.max_tokens) + 1
        order = np.argsort(lengths, kind="stable")
        blocks = np.flatnonzero(np.diff(lengths[order].cumsum() // TOKENS)) + 1
        vectors = np.empty((len(histories), self.shape["text"]["dim"]), np.float32)
        with torch.no_grad(), fast_products():
            for rows in np.split(order, blocks):
                if len(rows):
                    vectors[rows] = self.module(self._words(histories.take(rows))).numpy(force=True)
        return vectors

    def item_vectors(self) -> Float32[np.ndarray, "items dim"]:
        return self.weights["vectors"]

    def encode_items(self, items: Table) -> None:
        require(self.shape["fields"], items, self.entry.name)
        super().encode_items(items)
        old, new = self.tables, self.sentences(items)
        more = new._replace(bounds=old["bounds"][-1] + new.bounds[1:])._asdict()
        self.tables = old | {name: np.concatenate([old[name], more[name]]) for name in more}
        known = self.weights["vectors"]
        vectors = self.read(alone(np.arange(len(known), len(known) + len(items), dtype=np.int32)))
        self.weights = self.weights | {"vectors": np.concatenate([known, vectors])}
        self._module = None  # it is built again, with a place for each item


def alone(items: Int[np.ndarray, " items"]) -> Ragged:
    """A history of each of these items, and of nothing else."""
    return Ragged.from_lengths(items, np.ones(len(items), np.int64))


@contextmanager
def answering(module: nn.Module) -> Iterator[None]:
    """Inside, nothing falls away by dropout; behind it, what was trained before is so again."""
    trained = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in trained:
            part.training = True
