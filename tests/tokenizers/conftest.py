"""An encoder that reads vectors from a column, and catalogues that have them."""

import numpy as np
import pyarrow as pa
import pytest

from itemic.data import Dataset, Ids, Interactions, Table
from itemic.model import Encoder, ModelConfig
from itemic.registry import encoder


class Config(ModelConfig):
    short: int = 0
    """Vectors that are missing at the end, as from a file made for other items."""


@encoder("test-vectors")
class Vectors(Encoder[Config]):
    """What stands in the column `vector`."""

    def solve(self, train):
        return {}

    def encode(self, content):
        column = content.column("vector").combine_chunks()
        flat = column.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
        return flat.reshape(len(content), column.type.list_size)[: len(content) - self.config.short]


def table(vectors, first=0, **columns):
    """Items numbered from `first` with these vectors."""
    vectors = np.asarray(vectors, np.float32)
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
    ids = Ids([f"i{first + n}" for n in range(len(vectors))])
    titles = [f"title {first + n}" for n in range(len(vectors))]
    return Table.of(ids, {"title": titles, "vector": column, **columns})


@pytest.fixture
def vectors():
    """The encoder."""
    return Vectors


@pytest.fixture
def items():
    """A function that makes a table of items of an array of vectors."""
    return table


@pytest.fixture
def shop():
    """A function that makes a dataset of items with these vectors and no interactions."""

    def made(vectors, **columns):
        new = table(vectors, **columns)
        return Dataset(new, Table.numbered(0, "user"), Interactions.none(0, len(new)), name="shop")

    return made
