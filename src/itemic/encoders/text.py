"""Text: items as vectors of what is written about them, by a pretrained model that stays as it is.

Choose it where items have titles or descriptions: it needs no interactions, so new items have vectors at once. Any
model of sentence-transformers or transformers serves; the default comes with itemic[text] and needs no network. It
learns nothing of who takes what: systems that read its vectors do.
Paper: Reimers and Gurevych, EMNLP 2019, arXiv:1908.10084; the default model: Wang et al., arXiv:2002.10957.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute
from jaxtyping import Float32
from pydantic import Field

from itemic.data import Dataset
from itemic.encoders.base import FromPretrained, OfTexts, PretrainedConfig
from itemic.encoders.fields import settled, written
from itemic.encoders.pretrained import model_folder
from itemic.encoders.reading import Pool, Reader
from itemic.errors import ConfigError, DataError
from itemic.registry import encoder

pc: Any = pyarrow.compute  # its functions are made at import, out of a type checker's sight


class Config(PretrainedConfig):
    model: str = "minilm"
    """The text model: `minilm` (in itemic[text]), a folder, or a name on the Hugging Face hub."""
    fields: tuple[str, ...] = ()
    """The item columns that are read, in this order; none for the first three by role: texts, category, attributes."""
    template: str = Field("{text}", pattern=r"\{text\}")
    """How a field is written: {text} stands for what it says, {name} for its column, as in "{name}: {text}"."""
    prompt: str | None = None
    """What is put in front of every item, such as "passage: "; None for the default prompt of the model."""
    max_tokens: int | None = Field(None, ge=1)
    """Tokens of an item that are read; None for as many as the model's files say."""
    pooling: Pool | None = None
    """The vector of a text: the mean of all its tokens, or the first (`cls`) or last; None for what the model says."""
    normalise: bool | None = None
    """Whether vectors have length 1; None for what the model says."""
    dim: int | None = Field(None, ge=1)
    """How many numbers of a vector are kept, the first ones, for models trained so (Matryoshka); None for all."""


@encoder("text", needs=["items"], paper="arXiv:1908.10084")
class Text(FromPretrained[Config], OfTexts[Config]):
    what = "text model"

    def survey(self, train: Dataset) -> None:
        self._settle(train, self.config.fields)

    def adopt(self, train: Dataset) -> Self:
        """The same for items of other data, reading those of its fields that are there.

        Raises:
            DataError: none is there, or no item has a text.
        """
        other = self.moved(train)
        there = [field for field in self.config.fields if field in train.items.names]
        other._settle(train, there or self.config.fields)
        return other

    def _settle(self, train: Dataset, fields: Sequence[str]) -> None:
        """Notes which columns are read of these items, and where their vectors are kept."""
        fields = settled(fields, train)
        if written(train.items, fields, self.config.template).null_count == train.n_items:
            listed = ", ".join(fields)
            raise DataError(f"no item of {train.name} has a text in {listed}. Name others: --set fields=[NAME].")
        self.shape = {"fields": fields, "dim": self.dim, "model": self.model_hash}
        self._place = train.path / "features" if train.path is not None else None

    @property
    def dim(self) -> int:
        return self.config.dim or self.reader.dim

    @cached_property
    def folder(self) -> Path:
        """Where the text model lies."""
        return model_folder(self.config.model)

    @cached_property
    def reader(self) -> Reader:
        """The text model, opened when it is first needed.

        Raises:
            ConfigError: it cannot be read, or has not the width that is asked for.
        """
        config = self.config
        reader = Reader(self.folder, config.max_tokens, config.pooling, bfloat16=self.bfloat16, device=self.device)
        if config.dim is not None and config.dim > reader.dim:
            raise ConfigError(
                f"text: dim is {config.dim:,}, but vectors of {config.model} have {reader.dim:,}. Lower it."
            )
        return reader

    def read_texts(self, texts: pa.Array) -> Float32[np.ndarray, "texts dim"]:
        reader, config = self.reader, self.config
        prompt = config.prompt if config.prompt is not None else reader.manner.prompt
        said = np.flatnonzero(texts.is_valid().to_numpy(zero_copy_only=False))
        read = pc.binary_join_element_wise(prompt, texts.drop_null(), "")
        kept = self.cache(reader.pooling, reader.max_tokens, reader.manner.lower, reader.bfloat16)
        found = kept.vectors(read, reader.dim, lambda part: reader.read(part.to_pylist()))
        found = found[:, : config.dim]
        if reader.manner.normalise if config.normalise is None else config.normalise:
            found = found / np.linalg.norm(found, axis=1, keepdims=True)
        made = np.full((len(texts), self.dim), np.nan, np.float32)
        made[said] = found
        return made
