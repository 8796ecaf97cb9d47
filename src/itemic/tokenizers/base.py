"""What all tokenizers share: whose vectors they read, what has no vector, how items are told apart, and new items."""

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from jaxtyping import Float32, Int32, Int64
from pydantic import Field
from typing_extensions import TypeVar

from itemic.data import Dataset, EvalSet, Interactions, Table
from itemic.data.importing import item_table
from itemic.errors import DataError
from itemic.model import Encoder, M, ModelConfig, Tokenizer, part
from itemic.progress import report
from itemic.tokenizers.collisions import WAYS, Name, numbered
from itemic.training import TrainingConfig

if TYPE_CHECKING:
    from torch import Generator, Tensor

BLOCK = 16_384
"""Vectors that are read into memory and encoded at a time."""


class SeededConfig(ModelConfig):
    """The options of a tokenizer whose codes are unique as they are."""

    seed: int = Field(0, ge=0)
    """Of all random draws."""


class TokenizerConfig(SeededConfig):
    """The options of a tokenizer."""

    collisions: Name = "suffix"
    """How items with equal codes are told apart: suffix (one more code, as in TIGER), nearest (the last code is the
    next nearest that is free), sinkhorn (they are dealt out evenly, as in LC-Rec), shared (they are not)."""


class TrainedConfig(TokenizerConfig):
    """The options of a tokenizer with a network."""

    training: TrainingConfig = TrainingConfig()
    """Shared by all trained models; what `metric` may be: unique, explained, quality."""


C = TypeVar("C", bound=SeededConfig)
T = TypeVar("T", bound=TrainedConfig)


class ItemTokenizer(Tokenizer[C, M]):
    """A tokenizer of the items of a catalogue. One derived from it says how vectors and codes belong together.

    `content_sizes`, `learn` or a network, `coded`, `last_costs` and `meant` are all that it has to define.
    """

    vectors: Encoder = part("text")

    # What a tokenizer defines -----------------------------------------------------------------------------------------

    @property
    def content_sizes(self) -> tuple[int, ...]:
        """How many codes there are at each level that a vector decides."""
        raise TypeError(f"{type(self).__name__} has no sizes")

    def learn(self, x: Float32[np.ndarray, "rows dim"]) -> dict[str, np.ndarray]:
        """The fitted arrays, from vectors without nan; for a tokenizer that has no network."""
        raise TypeError(f"{type(self).__name__} learns nothing")

    def coded(self, x: "Float32[Tensor, 'rows dim']") -> "Int64[Tensor, 'rows coded']":
        """The nearest codes of vectors without nan."""
        raise TypeError(f"{type(self).__name__} encodes nothing")

    def last_costs(self, x: "Float32[Tensor, 'rows dim']") -> "Float32[Tensor, 'rows size']":
        """How far each vector is from every code of the last level, its codes before that being as they are."""
        raise TypeError(f"{type(self).__name__} cannot tell items apart by their last code")

    def meant(self, codes: "Int64[Tensor, 'rows some']") -> "Float32[Tensor, 'rows dim']":
        """The vectors that codes stand for; those of the first levels alone where only these are given."""
        raise TypeError(f"{type(self).__name__} cannot go from codes to vectors")

    def placed(self, x: "Tensor") -> "Tensor":
        """The tensor where `coded` and `meant` compute: where the network lies, if there is one."""
        return x

    # What all of them do ----------------------------------------------------------------------------------------------

    @property
    def sizes(self) -> tuple[int, ...]:
        sizes = self.content_sizes
        return (*sizes, sizes[-1]) if self._way == "suffix" else sizes

    def encode(self, vectors: Float32[np.ndarray, "rows dim"]) -> Int32[np.ndarray, "rows coded"]:
        self._check_width(vectors)
        codes = np.full((len(vectors), len(self.content_sizes)), -1, np.int32)
        for start, there, x in blocks(vectors):
            codes[start + there] = self.coded(self.placed(x)).numpy(force=True)
        return codes

    def decode(self, codes: Int32[np.ndarray, "rows some"]) -> Float32[np.ndarray, "rows dim"]:
        """The vectors that codes, or the first levels of codes, stand for; nan where they are -1."""
        import torch

        codes = codes[:, : len(self.content_sizes)]
        there = (codes >= 0).all(1)
        vectors = np.full((len(codes), self.shape["dim"]), np.nan, np.float32)
        vectors[there] = self.meant(self.placed(torch.from_numpy(codes[there].astype(np.int64)))).numpy(force=True)
        return vectors

    def unexplained(self, vectors: Float32[np.ndarray, "rows dim"], codes: Int32[np.ndarray, "rows some"]) -> float:
        """The mean squared distance of vectors to what codes stand for, as a share of that to their mean."""
        error, squares, total, n = 0.0, 0.0, np.zeros(vectors.shape[1]), 0
        for start, there, block in blocks(vectors):
            x = block.numpy().astype(np.float64)
            error += np.square(x - self.decode(codes[start + there])).sum()
            squares, total, n = squares + np.square(x).sum(), total + x.sum(0), n + len(x)
        return float(error / max(squares - np.square(total).sum() / n, 1e-12))

    def survey(self, train: Dataset) -> None:
        self._fitting = self.vectors_of(train.items)
        self._present = present(self._fitting)
        if len(self._present) == 0:
            encoder = self.vectors.entry.name
            raise DataError(
                f"{self.entry.name}: none of the {train.n_items:,} items has a vector by {encoder}. "
                "Give them what it reads."
            )
        self.shape = {"dim": int(self._fitting.shape[1]), "fitted_items": train.n_items}

    def solve(self, train: Dataset) -> dict[str, np.ndarray]:
        return self.learn(self._present)

    def finish(self) -> None:
        width = len(self.sizes)
        self.tables = {"codes": self.told_apart(self._fitting, np.empty((0, width), np.int32))}
        del self._fitting, self._present

    def add_items(self, items: Any) -> Self:
        catalogue = self.catalogue
        new = items if isinstance(items, Table) else item_table(items)
        longer = catalogue.items.extended(new)
        codes = self.told_apart(self.vectors_of(new), self.codes)
        self.tables = {**self.tables, "codes": np.concatenate([self.codes, codes])}
        nothing = Interactions.none(catalogue.n_users, len(longer))
        self._catalogue = replace(catalogue, items=longer, interactions=nothing)
        return self

    def adopt(self, train: Dataset) -> Self:
        other = self.moved(train)
        other.shape["fitted_items"] = train.n_items
        nobody = np.empty((0, len(self.sizes)), np.int32)
        other.tables = {"codes": other.told_apart(other.vectors_of(train.items), nobody)}
        return other

    def vectors_of(self, items: Table) -> Float32[np.ndarray, "items dim"]:
        """The vectors of a table of items, by the part `vectors`; says how many items have none.

        Raises:
            DataError: there are more or fewer vectors than items.
        """
        vectors, name, n = self.vectors.encode(items), self.entry.name, len(items)
        encoder = self.vectors.entry.name
        if len(vectors) != n:
            raise DataError(
                f"{name}: {encoder} gave {len(vectors):,} vectors for {n:,} items. Make them again, one for each item."
            )
        bare = n - sum(len(there) for _, there, _ in blocks(vectors))
        if bare:
            report(f"{bare:,} of {n:,} items have no vector by {encoder}: {name} gives them no codes", 1, 1)
        return vectors

    def told_apart(
        self, vectors: Float32[np.ndarray, "items dim"], known: Int32[np.ndarray, "known levels"]
    ) -> Int32[np.ndarray, "items levels"]:
        """The codes of items with these vectors, told apart from each other and from known ones."""
        content = self.encode(vectors)
        there = np.flatnonzero(content[:, 0] >= 0)
        codes = np.full((len(content), len(self.sizes)), -1, np.int32)

        def costs(rows: Int64[np.ndarray, " rows"]) -> Float32[np.ndarray, "rows size"]:
            parts = blocks(vectors[there[rows]])
            return np.concatenate([self.last_costs(self.placed(x)).numpy(force=True) for _, _, x in parts])

        codes[there] = WAYS[self._way](content[there], known[known[:, 0] >= 0], self.content_sizes[-1], costs)
        return codes

    def enough(self, n: int, size: int) -> None:
        """Passes if n vectors can be told into so many codes.

        Raises:
            DataError: they are fewer; says what size fits.
        """
        if n < size:
            fits = 2 ** max(1, (n // 2).bit_length() - 1)
            raise DataError(
                f"{self.entry.name}: {n:,} items with a vector cannot fill {size:,} codes. Set size={fits}."
            )

    @property
    def _way(self) -> Name:
        return getattr(self.config, "collisions", "suffix")

    def _check_width(self, vectors: Float32[np.ndarray, "rows dim"]) -> None:
        dim = self.shape["dim"]
        if vectors.ndim != 2 or vectors.shape[1] != dim:
            shape = " x ".join(f"{n:,}" for n in vectors.shape)
            raise DataError(
                f"{self.entry.name} was fitted on vectors of width {dim:,}; these are {shape}. Use the same encoder."
            )


class TrainedTokenizer(ItemTokenizer[T, M]):
    """A tokenizer with a network, trained on the vectors of the catalogue and judged by what its codes are worth there.

    `unique` is the share of items whose codes nobody else has, `explained` the share of the variance of the vectors
    that is there again when they are made of their codes, `quality` the product of the two.
    """

    judges_itself = True

    def placed(self, x: "Tensor") -> "Tensor":
        return x.to(self.device)

    def batches(self, train: Dataset, rng: "Generator") -> "Iterator[Float32[Tensor, 'batch dim']]":
        import torch

        from itemic.training import shuffled

        x, size = self._present, self.config.training.batch_size
        for rows in shuffled(len(x), size, rng):
            yield torch.from_numpy(np.asarray(x[rows.numpy()], np.float32))

    def validate(self, valid: EvalSet | None) -> dict[str, float]:
        codes = self.encode(self._fitting)
        there = np.flatnonzero(codes[:, 0] >= 0)
        repeats = np.bincount(group := numbered(codes[there]))[group]
        unique, explained = float((repeats == 1).mean()), 1 - self.unexplained(self._fitting, codes)
        return {"unique": unique, "explained": explained, "quality": unique * explained}


def blocks(
    vectors: Float32[np.ndarray, "rows dim"],
) -> "Iterator[tuple[int, Int64[np.ndarray, ' rows'], Float32[Tensor, 'rows dim']]]":
    """The vectors without nan or infinity a block at a time: where it starts, which of its rows they are, and they."""
    import torch

    for start in range(0, max(1, len(vectors)), BLOCK):
        block = torch.from_numpy(np.array(vectors[start : start + BLOCK], np.float32))  # a copy: it may lie on disk
        there = block.sum(1).isfinite()
        yield start, there.nonzero()[:, 0].numpy(), block if bool(there.all()) else block[there]


def present(vectors: Float32[np.ndarray, "rows dim"]) -> Float32[np.ndarray, "some dim"]:
    """The rows without nan or infinity; no copy is made where that is all of them."""
    there = [start + rows for start, rows, _ in blocks(vectors)]
    rows = np.concatenate(there)
    return vectors if len(rows) == len(vectors) else np.asarray(vectors[rows], np.float32)


def sampled(
    x: Float32[np.ndarray, "rows dim"], size: int, sample: int | None, rng: "Generator"
) -> Float32[np.ndarray, "some dim"]:
    """At most `sample` vectors for each of `size` codes, drawn without repeats, in memory; x itself where None."""
    import torch

    if sample is None or len(x) <= size * sample:
        return x
    return np.asarray(x[torch.randperm(len(x), generator=rng)[: size * sample].sort().values.numpy()], np.float32)
