"""All items compared with each request: exact, and fast enough up to some hundred thousand items."""

import numpy as np
from jaxtyping import Bool, Float32

from itemic.indexes.base import Remembered
from itemic.nn.topk import Exclude, Top, prepared, top_k_inner


class Exact:
    """The vectors in the order in which they are searched, a second time, and rounded to a quarter of the memory.

    >>> index = Exact(np.array([[3, 1], [2, 2], [1, 3]], np.float32))
    >>> index.search(np.array([[1, 0], [0, 1]], np.float32), 2)[0].tolist()
    [[0, 1], [2, 1]]
    """

    def __init__(self, vectors: Float32[np.ndarray, "items dim"]) -> None:
        self.extend(vectors)

    def extend(self, vectors: Float32[np.ndarray, "items dim"]) -> None:
        self.vectors = vectors
        self._open = Remembered(lambda allowed: prepared(vectors, allowed, rounded=True))
        _ = self._open[None]

    def search(
        self,
        queries: Float32[np.ndarray, "queries dim"],
        k: int,
        exclude: Exclude | None = None,
        allowed: Bool[np.ndarray, " items"] | None = None,
    ) -> Top:
        return top_k_inner(queries, self._open[allowed], k, exclude=exclude)
