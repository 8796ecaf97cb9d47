"""lm: a pretrained language model that stays as it is, in whose sentences vectors may stand between the words.

Any decoder or encoder-decoder of transformers serves, by folder or by its name on the Hugging Face hub, or one that
`itemic fit ettin DATA` made of a catalogue's own texts and `itemic export` wrote. It is a part of systems that talk; on
its own it goes on with texts and says how likely they are.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
from jaxtyping import Float32, Int32, Int64
from pydantic import Field

from itemic.data import Dataset, Ragged, Table
from itemic.devices import checked
from itemic.encoders.base import FromPretrained, PretrainedConfig
from itemic.encoders.pretrained import hub_folder
from itemic.encoders.vocabulary import Vocabulary
from itemic.errors import ConfigError, QueryError
from itemic.model import LanguageModel
from itemic.registry import encoder

if TYPE_CHECKING:
    from itemic.encoders.talking import Prompts, Talker

BLOCK = 64
"""Texts read, or gone on with, at a time."""
ANY = 1 << 20
"""Places of a model that has no end of them."""


class Config(PretrainedConfig):
    model: str = ""
    """The language model: a folder of transformers, or a name on the Hugging Face hub, such as Qwen/Qwen3-0.6B."""
    max_tokens: int | None = Field(None, ge=8)
    """Words and vectors of a prompt and its answer together; None for as many as the model has places for."""


@encoder("lm", needs=[])
class PretrainedLM(FromPretrained[Config], LanguageModel[Config]):
    what = "language model"

    def survey(self, train: Dataset) -> None:
        self.shape = {"model": self.model_hash, "dim": self.dim, "end": self.end}

    @cached_property
    def folder(self) -> Path:
        """Where the language model lies.

        Raises:
            ConfigError: none is named, or it is not there.
        """
        if not self.config.model:
            raise ConfigError(
                "lm names no language model. Name a folder or one on the hub (lm.model=Qwen/Qwen3-0.6B), or make one: "
                "itemic fit ettin DATA, then itemic export."
            )
        instead = "a folder of transformers that lies here: --lm FOLDER, or lm.model=FOLDER"
        return hub_folder(self.config.model, "language model", instead)

    @cached_property
    def talker(self) -> "Talker":
        """The network, opened when it is first needed.

        Raises:
            ConfigError: it cannot be read.
        """
        from itemic.encoders.talking import talker_of

        talker = talker_of(self.folder)
        talker.network.to(checked(self.device))
        return talker

    def to(self, device: str) -> Self:
        super().to(device)
        if "talker" in vars(self):
            self.talker.network.to(checked(device))
        return self

    def handed_over(self) -> "Talker":
        """The network, for one who changes it; whoever asks next is given another."""
        talker = self.talker
        del self.talker
        return talker

    @cached_property
    def cutter(self) -> Vocabulary:
        """What cuts its texts into pieces.

        Raises:
            ConfigError: the folder has none.
        """
        path = self.folder / "tokenizer.json"
        if not path.is_file():
            raise ConfigError(
                f"{self.folder} has no tokenizer.json. Give the folder of a model that was saved with it."
            )
        return Vocabulary.read(path)

    @cached_property
    def first(self) -> Int32[np.ndarray, " pieces"]:
        """The pieces that begin a prompt, as its tokenizer puts them; none for many."""
        marks = self.cutter.whole([""], 2).values
        return marks[marks != self.end]

    @property
    def dim(self) -> int:
        return self.shape["dim"] if self.shape else self.talker.dim

    @property
    def end(self) -> int:
        """The piece that ends a text."""
        return self.shape["end"] if self.shape else self.talker.end

    def encode(self, content: Table) -> Float32[np.ndarray, "rows dim"]:
        raise ConfigError(
            f"lm goes on with texts, and gives no vectors of items. The encoder text does, with the same model: "
            f"model={self.config.model}"
        )

    def export(self, folder: str | Path) -> Path:
        raise ConfigError(f"lm is as transformers opens it already: {self.folder}")

    @property
    def longest(self) -> int:
        """The words and vectors that a prompt and its answer may have together."""
        return min(self.config.max_tokens or ANY, self.talker.longest or ANY)

    def log_probs(self, texts: Sequence[str], given: Sequence[str] | None = None) -> Ragged:
        import torch

        from itemic.nn.text import side_by_side

        if given is None and not len(self.first) and not self.talker.is_paired:
            raise QueryError("this language model needs something to go on from. Say it: log_probs(texts, given=...).")
        before = self._begun(["" for _ in texts] if given is None else given)
        said = self.ended(texts)
        self._check_room(before.lengths + said.lengths)
        found = [np.empty(0, np.float32)]
        for start in range(0, len(texts), BLOCK):
            rows = np.arange(start, min(start + BLOCK, len(texts)))
            some = said.take(rows)
            answers = side_by_side(self.tensor(some.values), self.tensor(some.offsets))
            with torch.no_grad():
                chances = self.talker.each_chance(self._prompts(before.take(rows)), answers)
            found.append(chances[answers.real].numpy(force=True))
        return Ragged(np.concatenate(found), said.offsets)

    def generate(self, prompts: Sequence[str], n_tokens: int = 64) -> list[str]:
        import torch

        before = self._begun(prompts)
        self._check_room(before.lengths + n_tokens)
        texts: list[str] = []
        for start in range(0, len(prompts), BLOCK):
            rows = np.arange(start, min(start + BLOCK, len(prompts)))
            with torch.no_grad():
                said = list(self.talker.speak(self._prompts(before.take(rows)), n_tokens, lambda x: x.argmax(1)))
            texts += self.texts_of(np.stack(said, 1) if said else np.empty((len(rows), 0), np.int64))
        return texts

    def texts_of(self, words: Int64[np.ndarray, "texts n"]) -> list[str]:
        """What rows of words say, up to the one that ends them."""
        said = words != self.end
        row, _ = np.nonzero(said)
        values = words[said].astype(np.int32)
        return self.cutter.texts(Ragged.from_pairs(row, values, len(words)))

    def ended(self, texts: Sequence[str]) -> Ragged:
        """The pieces of each text, with the one that ends it behind."""
        return self.cutter.cut(texts).joined(Ragged.repeated([self.end], len(texts)))

    def _begun(self, texts: Sequence[str]) -> Ragged:
        return Ragged.repeated(self.first, len(texts)).joined(self.cutter.cut(texts))

    def _prompts(self, rows: Ragged) -> "Prompts":
        import torch

        token, bounds = torch.from_numpy(rows.values).long(), torch.from_numpy(rows.offsets)
        return self.talker.prompts(token, bounds, torch.empty(0, self.talker.dim))

    def _check_room(self, lengths: Int64[np.ndarray, " texts"]) -> None:
        if len(lengths) and lengths.max() > self.longest:
            n = int(lengths.argmax())
            raise QueryError(
                f"text {n + 1} of {len(lengths):,} has {lengths[n]:,} tokens with what is to come; {self.config.model} "
                f"has room for {self.longest:,}. Shorten it."
            )
