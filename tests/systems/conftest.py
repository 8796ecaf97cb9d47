"""Encoders that need no text model, by name: systems that read vectors are tried with these."""

import zlib

import numpy as np

from itemic.model import Encoder, ModelConfig
from itemic.registry import encoder


@encoder("column-for-tests")
class Column(Encoder[ModelConfig]):
    """The lists of floats in the column `vector`; nan where an item has none."""

    def solve(self, train):
        self.shape = {"dim": len(next(row for row in train.items.column("vector").to_pylist() if row is not None))}
        return {}

    @property
    def dim(self):
        return self.shape["dim"]

    def encode(self, content):
        rows = content.column("vector").to_pylist()
        nothing = [np.nan] * self.dim
        return np.array([nothing if row is None else row for row in rows], np.float32).reshape(-1, self.dim)


@encoder("words-for-tests")
class Words(Encoder[ModelConfig]):
    """A random vector for each word of the title, added up."""

    def solve(self, train):
        return {}

    @property
    def dim(self):
        return 16

    def encode(self, content):
        titles = [title.split() for title in content.column("title").to_pylist()]
        known = {word: np.random.default_rng(zlib.crc32(word.encode())).normal(size=16) for t in titles for word in t}
        return np.array([np.sum([known[word] for word in title], 0) for title in titles], np.float32)
