"""All items compared with each request: exact, and fast enough up to some hundred thousand items."""

import numpy as np
from jaxtyping import Bool, Float32

from itemic.nn.topk import Exclude, Prepared, Top, prepared, top_k_inner


class Exact:
    """The vectors in the order in which they are searched, a second time.

    >>> index = Exact(np.array([[3, 1], [2, 2], [1, 3]], np.float32))
    >>> index.search(np.array([[1, 0], [0, 1]], np.float32), 2)[0].tolist()
    [[0, 1], [2, 1]]
    """

    def __init__(self, vectors: Float32[np.ndarray, "items dim"]) -> None:
        self.extend(vectors)

    def extend(self, vectors: Float32[np.ndarray, "items dim"]) -> None:
        self.vectors = vectors
        self._ready: list[tuple[Bool[np.ndarray, " items"] | None, Prepared]] = [(None, prepared(vectors))]

    def search(
        self,
        queries: Float32[np.ndarray, "queries dim"],
        k: int,
        exclude: Exclude | None = None,
        allowed: Bool[np.ndarray, " items"] | None = None,
    ) -> Top:
        return top_k_inner(queries, self._open(allowed), k, exclude=exclude)

    def _open(self, allowed: Bool[np.ndarray, " items"] | None) -> Prepared:
        """The vectors of the items that are allowed; the latest two choices are remembered."""
        for mask, found in self._ready:
            if mask is allowed or (mask is not None and allowed is not None and np.array_equal(mask, allowed)):
                return found
        found = prepared(self.vectors, allowed)
        self._ready = [self._ready[-1], (allowed, found)]
        return found
