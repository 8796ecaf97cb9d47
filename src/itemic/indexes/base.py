"""What every index answers: the items whose vectors have the largest inner product with those of requests."""

from typing import Protocol

import numpy as np
from jaxtyping import Bool, Float32

from itemic.nn.topk import Exclude, Top


class Index(Protocol):
    """Vectors of items, made ready for many small searches."""

    def search(
        self,
        queries: Float32[np.ndarray, "queries dim"],
        k: int,
        exclude: Exclude | None = None,
        allowed: Bool[np.ndarray, " items"] | None = None,
    ) -> Top:
        """The k items of each query and their scores, best first, ties to the lower code; -1 where there are no more.

        `exclude` holds items for each query, `allowed` says of all items which may be listed.
        """
        ...

    def extend(self, vectors: Float32[np.ndarray, "items dim"]) -> None:
        """Takes the vectors of all items, of which it knows the first ones, and can find the new ones from now on."""
        ...
