"""The graph that finds enough of what an exact search finds, with the least effort: measured, not assumed."""

import time
from typing import Any, NamedTuple, Protocol

import numpy as np
from jaxtyping import Float32, Int32

from itemic.data import Ragged
from itemic.errors import ItemicError
from itemic.indexes.base import Index
from itemic.indexes.exact import Exact
from itemic.indexes.hnsw import HNSW, By

EFFORTS = (16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
"""How widely a graph may be searched."""
KINDS: tuple[By, ...] = ("product", "direction")
LITTLE = 64
"""With no more effort than that, no other graph is tried."""


class Measured(NamedTuple):
    """What a graph costs and finds, on some requests asked one after the other."""

    recall: float
    """The share of the best items that it finds."""
    effort: int
    ms: float
    """For one request."""
    exact_ms: float
    """For one request of an exact search."""
    seconds: float = 0.0
    """For making it, and another that was tried."""
    by: By | None = None
    """What the graph links."""


class Graph(Index, Protocol):
    """An index that searches as widely as it is told."""

    effort: Any

    @property
    def vectors(self) -> Float32[np.ndarray, "items dim"]:
        """Those of all items."""
        ...


def graph_for(
    vectors: Float32[np.ndarray, "items dim"],
    queries: Float32[np.ndarray, "queries dim"],
    exclude: Ragged,
    *,
    recall: float = 0.95,
    links: int = 16,
    by: By | None = None,
    k: int = 10,
) -> tuple[HNSW, Measured]:
    """A graph of these items that finds so large a share of the k best items of these queries.

    It links `by` what is said, else it is the quicker of two: one by inner products, and where that takes much effort
    or is not enough, one by direction.

    Raises:
        ItemicError: no effort finds so many.
        ConfigError: the package faiss is missing.
    """
    found: list[tuple[HNSW, Measured]] = []
    kinds: tuple[By, ...] = KINDS if by is None else (by,)
    seconds = 0.0
    for kind in kinds:
        began = time.perf_counter()
        made = HNSW.built(vectors, links, kind)
        seconds += time.perf_counter() - began
        try:
            found.append((made, tuned(made, queries, exclude, recall=recall, links=links, k=k)))
        except ItemicError:
            if kind == kinds[-1] and not found:
                raise
        if found and found[0][1].effort <= LITTLE:
            break
    made, measured = min(found, key=lambda one: one[1].ms)
    return made, measured._replace(seconds=seconds, by=made.by)


def tuned(
    made: Graph,
    queries: Float32[np.ndarray, "queries dim"],
    exclude: Ragged,
    *,
    recall: float = 0.95,
    links: int = 16,
    k: int = 10,
) -> Measured:
    """Sets the least effort by which a graph finds so large a share of the k best items of these queries.

    Raises:
        ItemicError: no effort finds so many.
    """
    wanted, exact_ms = _asked(Exact(made.vectors), queries, exclude, k)
    share, there = 0.0, wanted >= 0
    for effort in EFFORTS:
        made.effort = effort
        found, ms = _asked(made, queries, exclude, k)
        hit = (found[:, :, None] == wanted[:, None]).any(1) & there
        share = float(hit.sum() / max(1, there.sum()))
        if share >= recall:
            return Measured(share, effort, ms, exact_ms)
    raise ItemicError(
        f"the graph finds {share:.1%} of the {k} best items, not {recall:.1%}. Give it more links than {links}, ask "
        f"for less recall, or go without: an exact search takes {exact_ms:.1f} ms."
    )


def _asked(
    index: Index, queries: Float32[np.ndarray, "queries dim"], exclude: Ragged, k: int
) -> tuple[Int32[np.ndarray, "queries k"], float]:
    """What an index finds for each query, and the milliseconds for one."""
    index.search(queries[:1], k)  # what is loaded or compiled at the first request is not timed
    found, began = np.empty((len(queries), k), np.int32), time.perf_counter()
    for n in range(len(queries)):
        own = exclude[n]
        found[n] = index.search(queries[n : n + 1], k, (own, np.array([0, len(own)])))[0]
    return found, 1000 * (time.perf_counter() - began) / max(1, len(queries))
