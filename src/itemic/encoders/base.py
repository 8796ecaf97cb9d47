"""What encoders share: which rows are vectors; FromPretrained, for those that read with a pretrained model; OfTexts,
for those that read what is written about items."""

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute
from jaxtyping import Bool, Float32
from typing_extensions import TypeVar

from itemic.data import Dataset, Table
from itemic.encoders.cache import Cache
from itemic.encoders.fields import written
from itemic.encoders.pretrained import content_hash
from itemic.errors import ConfigError, LoadError
from itemic.model import C, Encoder, M, ModelConfig
from itemic.nn.products import has_bfloat16
from itemic.progress import report

pc: Any = pyarrow.compute  # its functions are made at import, out of a type checker's sight


class PretrainedConfig(ModelConfig):
    model: str
    precision: Literal["auto", "bfloat16", "float32"] = "auto"
    """The precision of products; `auto` is bfloat16 where the processor has it. Cosines differ by less than 0.001."""


P = TypeVar("P", bound=PretrainedConfig)


class FromPretrained(Encoder[P]):
    """An encoder gives `folder`, says in `what` which kind of model lies there, and notes `model_hash` in `shape`."""

    what: ClassVar[str]
    _place: Path | None = None
    """The folder in which vectors are kept; None for the memory of this process."""

    @cached_property
    def folder(self) -> Path:
        """Where the model lies."""
        raise TypeError(f"{type(self).__name__} names no folder")

    def to(self, device: str) -> Self:
        if device != self.device:
            vars(self).pop("reader", None)  # opened again, there
        return super().to(device)

    @cached_property
    def model_hash(self) -> str:
        return content_hash(self.folder)

    @property
    def bfloat16(self) -> bool:
        """Whether products are in bfloat16."""
        able = self.device != "cpu" or has_bfloat16()
        return able if self.config.precision == "auto" else self.config.precision == "bfloat16"

    def solve(self, train: Dataset) -> dict[str, np.ndarray]:
        return {}  # the weights are the model's, and stay where they are

    def cache(self, *manner: Any) -> Cache:
        """What keeps the vectors of this model, read in this manner: as it makes them, whatever is made of them."""
        digest = hashlib.blake2b(repr([self.model_hash, *manner]).encode(), digest_size=8).hexdigest()
        return Cache(self._place, f"{self.entry.name}-{digest}")

    def _read(self, folder: Path, facts: Mapping[str, Any]) -> None:
        super()._read(folder, facts)
        try:
            here = self.model_hash
        except ConfigError as error:
            raise LoadError(f"{folder} needs the {self.what} it was fitted with: {error}") from error
        if here != self.shape["model"]:
            raise LoadError(
                f"{folder} was fitted with another {self.what} than {self.config.model} is now. Put that back, or fit "
                "again."
            )


def present(vectors: Float32[np.ndarray, "rows dim"]) -> Bool[np.ndarray, " rows"]:
    """Which rows are vectors: those without nan or infinity.

    >>> present(np.array([[1, 2], [np.nan, 2]], np.float32)).tolist()
    [True, False]
    """
    return np.isfinite(vectors.sum(1))


class OfTexts(Encoder[C, M]):
    """Vectors of what is written about items. An encoder notes the `fields` that it reads in `shape`, and gives
    `read_texts` and the option `template`."""

    def encode(self, content: Table) -> Float32[np.ndarray, "rows dim"]:
        _ = self.catalogue
        config: Any = self.config
        texts = written(content, self.shape["fields"], config.template)
        if texts.null_count:
            n, what = len(texts), content.ids.what
            report(f"{texts.null_count:,} of {n:,} {what}s have no text: their vectors are nan", 1, 1)
        return self.read_texts(texts)

    def encode_texts(self, texts: Sequence[str]) -> Float32[np.ndarray, "texts dim"]:
        """A vector for each text, nan where it is empty."""
        given = pa.array(texts, pa.string())
        return self.read_texts(pc.if_else(pc.not_equal(pc.utf8_trim_whitespace(given), ""), given, None))

    def read_texts(self, texts: pa.Array) -> Float32[np.ndarray, "texts dim"]:
        """A vector for each text, nan where it is null."""
        raise TypeError(f"{type(self).__name__} reads no texts")
