"""Fusion: items as vectors of all that several encoders say, on one scale, turned and cut to size when asked.

Choose it where one kind of content is not enough: texts with pictures, with attributes, with vectors made elsewhere.
Each encoder is a part under its role: `Fusion(encoders=["text", "image"], image={"model": "clip-vit"})`; one may serve
twice: `Fusion(encoders={"title": "text", "plot": "text"}, plot={"fields": ["plot"]})`. One alone is turned, cut or
whitened. Encoders weigh what they are told to: what learns that from clicks is a system.

What an encoder lacks of an item is never a silent zero: its mean stands in, and a mark beside the vector says so.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import numpy as np
from jaxtyping import Bool, Float32, Float64
from pydantic import BeforeValidator, Field

from itemic.data import Dataset, Table
from itemic.encoders.base import present
from itemic.errors import ConfigError, DataError, did_you_mean
from itemic.model import Encoder, ModelConfig, Part
from itemic.progress import report
from itemic.registry import encoder

BLOCK = 1 << 14
"""Rows that are in float64 at a time."""
FLAT = 1e-7
"""An axis with less than this share of the largest variance is rounding: whitened, it stays 0."""
Missing = Literal["mark", "drop"]


def _by_role(given: Any) -> Any:
    return {name: name for name in given} if isinstance(given, list | tuple) else given


class Config(ModelConfig):
    encoders: Annotated[dict[str, str], BeforeValidator(_by_role)] = Field(
        {"text": "text", "attributes": "attributes"}, min_length=1
    )
    """The encoders by role, or a list of them; each is a part and has its options under its role."""
    scale: Literal["none", "whole", "each"] = "whole"
    """`whole`: the vectors of an encoder about their mean, of mean squared length 1; `each`: each number of them in
    standard deviations first; `none`: as they are."""
    weights: dict[str, Annotated[float, Field(gt=0)]] = Field({})
    """What the vectors of an encoder are multiplied with, by role; 1 for those not named."""
    geometry: Literal["none", "pca", "whiten", "zca"] = "none"
    """`pca`: the axes of greatest variance; `whiten`: each of these of variance 1; `zca`: whitened and turned back."""
    dim: int | None = Field(None, ge=1)
    """How many of these axes are kept; None for all. Marks come beside them."""
    missing: Missing = "mark"
    """What becomes of an item that an encoder has no vector of: `mark`, the mean stands in, and one number for each
    encoder is 1 where it does; `drop`, the item has no vector."""


@encoder("fusion", needs=["items"])
class Fusion(Encoder[Config]):
    def __init__(self, config: Config | None = None, /, **options: Any) -> None:
        own = config or self.configured({name: options[name] for name in options if name in Config.model_fields})
        declared = {role: _part(role, name) for role, name in own.encoders.items()}
        self.declared = declared  # pyright: ignore[reportAttributeAccessIssue]  # of this one, not of its class
        super().__init__(config, **options)
        taken = {*vars(self), *dir(type(self)), *Config.model_fields}
        for role, one in declared.items():
            if role in taken or not role.isidentifier():
                raise ConfigError(f"fusion: an encoder cannot have the role '{role}'. Give it another name.")
            if role not in self.parts:
                self.parts[role] = one.made({}, "fusion")
        for role in own.weights:
            if role not in own.encoders:
                listed, hint = ", ".join(own.encoders), did_you_mean(role, own.encoders)
                raise ConfigError(f"fusion: weights names '{role}', no encoder here.{hint} Encoders: {listed}.")
        if own.dim is not None and own.geometry in ("none", "zca"):
            raise ConfigError(f"fusion: dim cuts axes; geometry={own.geometry} has none. Set geometry=pca or whiten.")
        named = {role: self.parts[role].entry.name for role in self.declared}
        self.config = own.model_copy(update={"encoders": named})

    def __getattr__(self, role: str) -> Encoder:
        if role in self.declared:
            return self.declared[role].__get__(self, type(self))
        raise AttributeError(f"{type(self).__name__} has no {role}")

    def survey(self, train: Dataset) -> None:
        self._given = self._encoded(train.items)
        for role, vectors in self._given.items():
            if not present(vectors).any():
                raise DataError(
                    f"fusion: none of the {train.n_items:,} items has a vector by {role}. Give them what it reads, or "
                    "leave it out of encoders."
                )
        if self.config.missing == "drop" and not _known(self._given, "drop").any():
            listed = ", ".join(self._given)
            raise DataError(f"fusion: no item of {train.name} has a vector by each of {listed}. Set missing=mark.")
        widths = {role: int(vectors.shape[1]) for role, vectors in self._given.items()}
        total, dim = sum(widths.values()), self.config.dim
        if dim is not None and dim > total:
            raise ConfigError(f"fusion: dim is {dim:,}, but its encoders give {total:,} numbers. Lower it.")
        marks = len(widths) if self.config.missing == "mark" else 0
        self.shape = {"widths": widths, "dim": (dim or total) + marks}

    def solve(self, train: Dataset) -> dict[str, np.ndarray]:
        """For each encoder the mean of its vectors and what they are divided by; for all of them the axes."""
        weights: dict[str, np.ndarray] = {}
        for role, vectors in self._given.items():
            mean, variance = _moments(vectors)
            spread = np.ones_like(mean)
            if self.config.scale == "whole":
                spread *= np.sqrt(variance.sum()) or 1.0
            elif self.config.scale == "each":
                spread = np.sqrt(np.where(variance > 0, variance, 1) * len(variance))
            weights |= {f"mean.{role}": mean, f"spread.{role}": spread}
        self.weights = weights
        if self.config.geometry != "none":
            weights |= self._axes()
        del self._given
        return weights

    def adopt(self, train: Dataset) -> Self:
        """The same for items of other data, which each encoder reads in its own way; scales and axes stay."""
        return self.moved(train)

    @property
    def dim(self) -> int:
        return self.shape["dim"]

    def encode(self, content: Table) -> Float32[np.ndarray, "rows dim"]:
        _ = self.catalogue
        given = self._encoded(content)
        there = {role: present(vectors) for role, vectors in given.items()}
        n, what, made = len(content), content.ids.what, np.full((len(content), self.dim), np.nan, np.float32)
        for role, has in there.items():
            bare = int((_known(given, "mark") & ~has).sum())
            if bare:
                done = "its mean stands in" if self.config.missing == "mark" else "they get no vector"
                report(f"{bare:,} of {n:,} {what}s have no vector by {role}: {done}", 1, 1)
        rows = np.flatnonzero(_known(given, self.config.missing))
        for start in range(0, len(rows), BLOCK):
            part = rows[start : start + BLOCK]
            x = self._joined({role: vectors[part] for role, vectors in given.items()})
            if self.config.geometry != "none":
                x = (x - self.weights["centre"]) @ self.weights["axes"]
            made[part, : x.shape[1]] = x
            if self.config.missing == "mark":
                made[part, x.shape[1] :] = np.stack([~has[part] for has in there.values()], 1)
        return made

    def _encoded(self, items: Table) -> dict[str, Float32[np.ndarray, "items width"]]:
        """The vectors of each encoder.

        Raises:
            DataError: there are more or fewer than items.
        """
        given = {}
        for role in self.declared:
            vectors = np.asarray(getattr(self, role).encode(items), np.float32)
            if len(vectors) != len(items):
                raise DataError(
                    f"fusion: {role} gave {len(vectors):,} vectors for {len(items):,} items. Make them again, one each."
                )
            given[role] = vectors
        return given

    def _joined(self, given: Mapping[str, np.ndarray]) -> Float64[np.ndarray, "rows numbers"]:
        """The vectors of all encoders side by side, scaled and weighed; their mean where one is missing."""
        parts = []
        for role, vectors in given.items():
            mean, spread = self.weights[f"mean.{role}"], self.weights[f"spread.{role}"]
            whole = np.where(present(vectors)[:, None], vectors, mean)
            scaled = whole if self.config.scale == "none" else (whole - mean) / spread
            parts.append(scaled * self.config.weights.get(role, 1.0))
        return np.concatenate(parts, 1)

    def _axes(self) -> dict[str, np.ndarray]:
        """The mean of what is turned, and the axes on which it is seen, by the eigenvectors of the covariance.

        An axis points to where its largest number is positive, so it is the same on every machine.
        """
        rows = np.flatnonzero(_known(self._given, self.config.missing))
        n, width = len(rows), sum(self.shape["widths"].values())
        total, squares = np.zeros(width), np.zeros((width, width))
        for start in range(0, n, BLOCK):
            x = self._joined({role: vectors[rows[start : start + BLOCK]] for role, vectors in self._given.items()})
            total += x.sum(0)
            squares += x.T @ x
        centre = total / n
        variance, axes = np.linalg.eigh(squares / n - np.outer(centre, centre))
        variance, axes = variance[::-1].clip(min=0), axes[:, ::-1]
        axes = axes * np.sign(axes[np.abs(axes).argmax(0), np.arange(len(axes))])
        if self.config.geometry != "pca":
            root = np.sqrt(variance)
            white = axes * np.divide(1, root, out=np.zeros_like(root), where=variance > FLAT * variance[0])
            axes = white @ axes.T if self.config.geometry == "zca" else white
        return {"centre": centre, "axes": axes[:, : self.config.dim]}


def _part(role: str, name: str) -> Part:
    """What `part` declares in the body of a class, for roles that are known here alone."""
    made = Part(name, keep=True, options={})
    made.role, made.kind = role, Encoder
    return made


def _known(given: Mapping[str, np.ndarray], missing: Missing) -> Bool[np.ndarray, " items"]:
    """Which items get a vector: those that any encoder knows, or with `drop` each of them."""
    there = [present(vectors) for vectors in given.values()]
    return np.logical_and.reduce(there) if missing == "drop" else np.logical_or.reduce(there)


def _moments(vectors: Float32[np.ndarray, "items width"]) -> tuple[np.ndarray, np.ndarray]:
    """The mean and the variance of each number, over the rows that are vectors."""
    rows = np.flatnonzero(present(vectors))
    blocks = [rows[start : start + BLOCK] for start in range(0, len(rows), BLOCK)]
    mean = np.add.reduce([vectors[part].sum(0, dtype=np.float64) for part in blocks]) / len(rows)
    return mean, np.add.reduce([np.square(vectors[part] - mean).sum(0) for part in blocks]) / len(rows)
