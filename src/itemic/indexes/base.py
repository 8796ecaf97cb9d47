"""What every index answers: the items whose vectors have the largest inner product with those of requests."""

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

import numpy as np
from jaxtyping import Bool, Float32

from itemic.nn.topk import Exclude, Top

Made = TypeVar("Made")


class Remembered(Generic[Made]):
    """What is made of a mask of all items; of the latest two masks it is made once.

    >>> made = []
    >>> counts = Remembered(lambda mask: made.append(mask) or mask.sum())
    >>> [int(counts[np.array([True, False])]) for _ in range(3)], len(made)
    ([1, 1, 1], 1)
    """

    def __init__(self, make: Callable[[Bool[np.ndarray, " items"] | None], Made]) -> None:
        self._make = make
        self._made: list[tuple[Bool[np.ndarray, " items"] | None, Made]] = []

    def __getitem__(self, mask: Bool[np.ndarray, " items"] | None) -> Made:
        for known, made in self._made:
            if known is mask or (known is not None and mask is not None and np.array_equal(known, mask)):
                return made
        self._made = [*self._made[-1:], (mask, self._make(mask))]
        return self._made[-1][1]


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
