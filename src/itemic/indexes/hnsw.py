"""A graph of near items, which a search walks instead of looking at all: for millions of items.

Malkov and Yashunin, 2016, arXiv:1603.09320, as faiss has it. The walk goes by inner products; what is linked is near by
these too, or lies in the same direction. By products the long vectors that win most requests are met at once, but there
are few ways to short ones, and to some none; by direction there are ways to all, and where lengths differ much they are
long. What comes out is nearly always what an exact search gives; how nearly depends on `effort`. The links and the
effort are chosen by measuring. Vectors are walked less their mean, which changes no order and takes away what all have
in common, and rounded to bfloat16, half the memory to fetch at each step; what is met is compared as it is.

The graph is plain arrays, checked when they are read: a saved one from elsewhere can say wrong neighbours, and nothing
worse.
"""

from collections.abc import Mapping
from typing import Any, Literal, Self

import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64, UInt8

from itemic.errors import ConfigError
from itemic.indexes.base import Remembered
from itemic.indexes.walking import along
from itemic.nn.topk import Exclude, Top

By = Literal["product", "direction"]
"""What a graph links: items whose inner product is large, or that lie in the same direction."""
BUILD = 200
"""Neighbours looked at for each new item."""


class HNSW:
    """Vectors with a graph over them; items with nan in their vectors are in no list.

    >>> index = HNSW.built(np.array([[3, 1], [2, 2], [1, 3]], np.float32))
    >>> index.search(np.array([[1, 0], [0, 1]], np.float32), 2)[0].tolist()
    [[0, 1], [2, 1]]
    """

    def __init__(
        self,
        vectors: Float32[np.ndarray, "items dim"],
        graph: Any,
        codes: Int32[np.ndarray, " nodes"],
        centre: Float32[np.ndarray, " dim"],
        by: By,
    ) -> None:
        """`codes` says which item each node of the graph is, `by` what is linked; nodes are vectors less `centre`."""
        self.vectors, self.codes, self.effort, self.by = vectors, codes, 64, by
        self._graph, self._centre, self._units = graph, centre, None
        self._open = Remembered(self._chosen)

    @classmethod
    def built(cls, vectors: Float32[np.ndarray, "items dim"], links: int = 16, by: By = "product") -> Self:
        """The index of these vectors, each node of the graph with up to `links` others, twice as many at the bottom.

        Raises:
            ConfigError: the package faiss is missing.
        """
        made = cls(vectors[:0], _empty(vectors.shape[1], links), np.empty(0, np.int32), _mean(vectors), by)
        made.extend(vectors)
        made._units = None  # half as much memory as the vectors, until there are more
        return made

    @classmethod
    def of(cls, vectors: Float32[np.ndarray, "items dim"], arrays: Mapping[str, np.ndarray]) -> Self:
        """The index of these vectors with the graph that `arrays` gave, to which items behind its last one are added.

        Raises:
            ConfigError: the package faiss is missing.
            ValueError: the arrays are no graph of these vectors.
        """
        faiss = _faiss()
        codes, levels, neighbours = arrays["codes"], arrays["levels"], arrays["neighbours"]
        links, entry, effort, *direction = (int(x) for x in arrays["facts"])  # a fourth since there are two kinds
        n = len(codes)
        if not 2 <= links <= 512 or effort < 1 or (n and not 0 <= entry < n) or len(levels) != n:
            raise ValueError("the graph of the index is damaged")
        graph = _empty(vectors.shape[1], links)
        room = np.array([graph.hnsw.cum_nb_neighbors(level) for level in range(1 + int(levels.max(initial=0)))])
        fits = levels.min(initial=1) >= 1 and levels.max(initial=1) <= 64
        fits = fits and len(neighbours) == room[levels].sum() and neighbours.min(initial=0) >= -1
        fits = fits and neighbours.max(initial=-1) < n and (not n or levels[entry] == levels.max())
        if not fits or not np.array_equal(codes, np.flatnonzero(np.isfinite(vectors).all(1))[:n]):
            raise ValueError("the graph of the index is not one of these vectors")
        offsets = np.concatenate([[0], np.cumsum(room[levels])]).astype(np.uint64)
        for name, values in (("levels", levels), ("offsets", offsets), ("neighbors", neighbours)):
            faiss.copy_array_to_vector(np.ascontiguousarray(values), getattr(graph.hnsw, name))
        graph.hnsw.entry_point, graph.hnsw.max_level = (entry, int(levels.max()) - 1) if n else (-1, -1)
        centre = _mean(vectors[codes])
        faiss.downcast_index(graph.storage).add(vectors[codes] - centre)
        graph.ntotal = n
        by: By = "direction" if any(direction) else "product"
        made = cls(vectors[: codes[-1] + 1 if n else 0], graph, codes.astype(np.int32), centre, by)
        made.effort = effort
        made.extend(vectors)
        return made

    def arrays(self) -> dict[str, np.ndarray]:
        """The graph, to be saved beside the vectors."""
        faiss, hnsw = _faiss(), self._graph.hnsw
        facts = np.array([hnsw.nb_neighbors(1), hnsw.entry_point, self.effort, self.by == "direction"], np.int64)
        levels, neighbours = (faiss.vector_to_array(x).copy() for x in (hnsw.levels, hnsw.neighbors))
        return {"codes": self.codes, "levels": levels, "neighbours": neighbours, "facts": facts}

    def extend(self, vectors: Float32[np.ndarray, "items dim"]) -> None:
        first = len(self.vectors)
        new = first + np.flatnonzero(np.isfinite(vectors[first:]).all(1))
        self.vectors, self.codes = vectors, np.append(self.codes, new).astype(np.int32)
        if len(new) and self.by == "product":
            self._graph.add(vectors[new] - self._centre)
        elif len(new):
            self._link_by_direction(vectors, new)
        self._open = Remembered(self._chosen)

    def _link_by_direction(self, vectors: Float32[np.ndarray, "items dim"], new: Int64[np.ndarray, " new"]) -> None:
        """Adds these items to the graph as it finds its way among vectors of length 1, which lie beside for that."""
        faiss, walked = _faiss(), self._graph.storage
        if self._units is None:
            self._units = _rounded(vectors.shape[1])
            self._units.add(_units(vectors[self.codes[: -len(new)]] - self._centre))
        self._graph.storage = self._units
        try:
            self._graph.add(_units(vectors[new] - self._centre))
        finally:
            self._graph.storage = walked
        faiss.downcast_index(walked).add(vectors[new] - self._centre)

    def search(
        self,
        queries: Float32[np.ndarray, "queries dim"],
        k: int,
        exclude: Exclude | None = None,
        allowed: Bool[np.ndarray, " items"] | None = None,
    ) -> Top:
        bits = None if allowed is None else self._open[allowed]
        return along(lambda some, width: self._walk(some, width, bits), self.vectors, queries, k, exclude, allowed)

    def _chosen(self, allowed: Bool[np.ndarray, " items"] | None) -> UInt8[np.ndarray, " bytes"] | None:
        """A bit for each node that may be listed, as faiss reads them."""
        return None if allowed is None else np.packbits(allowed[self.codes], bitorder="little")

    def _walk(
        self, queries: Float32[np.ndarray, "queries dim"], width: int, bits: UInt8[np.ndarray, " bytes"] | None
    ) -> Int32[np.ndarray, "queries width"]:
        """So many near items of each query, of those whose bits are set, -1 where fewer were met."""
        faiss = _faiss()
        how: dict[str, Any] = {"efSearch": max(self.effort, width)}
        if bits is not None:
            how["sel"] = faiss.IDSelectorBitmap(len(self.codes), faiss.swig_ptr(bits))
        met = self._graph.search(np.ascontiguousarray(queries), width, params=faiss.SearchParametersHNSW(**how))[1]
        return np.where(met >= 0, self.codes[met], -1) if len(self.codes) else met.astype(np.int32)


def _mean(vectors: Float32[np.ndarray, "rows dim"]) -> Float32[np.ndarray, " dim"]:
    """The mean of the vectors that have no nan; zeros where there is none."""
    there = np.isfinite(vectors).all(1)
    return vectors[there].mean(0) if there.any() else np.zeros(vectors.shape[1], np.float32)


def _units(vectors: Float32[np.ndarray, "rows dim"]) -> Float32[np.ndarray, "rows dim"]:
    """The vectors at length 1; one of zeros stays."""
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(min=np.finfo(np.float32).tiny)


def _empty(dim: int, links: int) -> Any:
    faiss = _faiss()
    graph = faiss.IndexHNSWSQ(dim, faiss.ScalarQuantizer.QT_bf16, links, faiss.METRIC_INNER_PRODUCT)
    graph.hnsw.efConstruction = max(BUILD, links)
    return graph


def _rounded(dim: int) -> Any:
    """Room for vectors in bfloat16."""
    faiss = _faiss()
    return faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_bf16, faiss.METRIC_INNER_PRODUCT)


def _faiss() -> Any:
    from itemic import threads

    try:
        import faiss
    except ImportError:
        raise ConfigError("an index needs the package faiss. Install it: pip install 'itemic[index]'") from None
    faiss.omp_set_num_threads(threads.count())
    return faiss
