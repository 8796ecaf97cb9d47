"""The k best items per query, exactly and at memory speed, from dense scores or straight from vectors.

Of equal scores the lower item code comes first. An item that is excluded, or scores -inf or nan, is never listed; a
list with fewer than k items ends in code -1 with score -inf. Vectors are scored in blocks that fit a cache: a fast
product finds the items that might reach a list, given a bound on its rounding, and only these get the float32 score
that counts. So the answer depends neither on the block, the batch, the thread count nor the product's precision.
"""

import functools
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int, Int8, Int32

from itemic import threads

Exclude = tuple[Int[np.ndarray, " n"], Int[np.ndarray, " bounds"]]
"""Item codes per query as values and offsets, in any order."""

Top = tuple[Int32[np.ndarray, "queries k"], Float32[np.ndarray, "queries k"]]
"""Item codes and their scores, best first."""

BLOCK = (256, 2048)  # queries and items scored at once: 2 MB of float32, about a second-level cache
STRIP = 8192  # items scored at once for few queries: 2 MB of vectors of 64; longer ones are left later
TINY = float(np.finfo(np.float32).tiny)  # what a processor may flush to zero
SOME = 32  # queries for which BLAS takes longer to turn the items round than to multiply, if items stand behind
NARROW = 1024  # items multiplied at once then: what they give fits the first-level cache
FEW = 8  # queries for which bounding the items costs more than scoring them
FEWER = 4  # queries for which reading items costs more than multiplying, so that rounded ones are sooner read


def top_k(scores: Float32[np.ndarray, "queries items"], k: int, exclude: Exclude | None = None) -> Top:
    """The k best items of each row of scores.

    >>> scores = np.array([[0.1, 0.9, 0.9, 0.3]], dtype=np.float32)
    >>> top_k(scores, 3)[0].tolist()
    [[1, 2, 3]]
    >>> top_k(scores, 3, exclude=(np.array([1, 0]), np.array([0, 2])))[0].tolist()
    [[2, 3, -1]]
    """
    from itemic.nn import _topk_kernels as kernels

    scores = np.ascontiguousarray(scores, dtype=np.float32)
    values, offsets = _sorted_rows(exclude, len(scores))
    top = _empty(len(scores), k)

    def fill(rows: slice) -> None:
        kernels.select(scores[rows], values, offsets[rows.start : rows.stop + 1], top.scores[rows], top.items[rows])
        kernels.finish(top.scores[rows], top.items[rows])

    _over_rows(fill, len(scores), BLOCK[0], work=scores.size)
    return top.items, top.scores


def plain_top_k(scores: Float32[np.ndarray, "queries items"], k: int, exclude: Exclude | None = None) -> Top:
    """What `top_k` answers, by sorting whole rows: the definition that tests compare with."""
    scores = np.array(scores, dtype=np.float32)
    if exclude is not None:
        scores[np.repeat(np.arange(len(scores)), np.diff(exclude[1])), exclude[0]] = -np.inf
    scores[np.isnan(scores)] = -np.inf
    items = np.argsort(-scores, axis=1, kind="stable")[:, :k].astype(np.int32)
    top = np.take_along_axis(scores, items, axis=1)
    items[top == -np.inf] = -1
    missing = ((0, 0), (0, k - items.shape[1]))
    return np.pad(items, missing, constant_values=-1), np.pad(top, missing, constant_values=-np.inf)


class Prepared(NamedTuple):
    """Items as `top_k_inner` wants them, for those who ask often: by falling length, without those not allowed."""

    items: Float32[np.ndarray, "items dim"]
    codes: Int32[np.ndarray, " items"]
    norms: Float64[np.ndarray, " items"]
    rounded: "Rounded | None" = None
    """The same in a quarter of the memory, which few queries read in less time."""


def prepared(
    items: Float32[np.ndarray, "items dim"], allowed: Bool[np.ndarray, " items"] | None = None, *, rounded: bool = False
) -> Prepared:
    """The items in the order in which they are searched: a list soon full of large scores spares the short vectors.

    `rounded` ones are kept beside them, for those who are asked by few at a time; answers are the same.

    >>> prepared(np.array([[0, 1], [0, 3], [0, 2]], np.float32), np.array([True, True, False])).codes.tolist()
    [1, 0]
    """
    from itemic.nn import _topk_kernels as kernels

    codes = np.arange(len(items), dtype=np.int32) if allowed is None else np.flatnonzero(allowed).astype(np.int32)
    items = np.ascontiguousarray(items if allowed is None else items[codes], dtype=np.float32)
    norms = np.empty(len(items))
    kernels.norms(items, norms)
    order = np.argsort(-norms, kind="stable")
    items = items[order]
    return Prepared(items, codes[order], norms[order], Rounded.of(items) if rounded else None)


def top_k_inner(
    queries: Float32[np.ndarray, "queries dim"],
    items: "Float32[np.ndarray, 'items dim'] | Prepared",
    k: int,
    exclude: Exclude | None = None,
    allowed: Bool[np.ndarray, " items"] | None = None,
    block: tuple[int, int] = BLOCK,
    product: "Product | None" = None,
) -> Top:
    """The k items with the largest inner product with each query; holds one block of scores per thread at a time.

    Items that are searched often may be given `prepared`, which then says what is allowed.

    >>> users = np.array([[1, 0], [0, 1]], dtype=np.float32)
    >>> items = np.array([[3, 1], [2, 2], [1, 3]], dtype=np.float32)
    >>> top_k_inner(users, items, 2)[0].tolist()
    [[0, 1], [2, 1]]
    >>> top_k_inner(users, items, 2, allowed=np.array([False, True, True]))[0].tolist()
    [[1, 2], [2, 1]]
    """
    from itemic.nn import _topk_kernels as kernels

    queries = np.ascontiguousarray(queries, dtype=np.float32)
    values, offsets = _sorted_rows(exclude, len(queries))
    top, dim = _empty(len(queries), k), queries.shape[1]
    if len(queries) <= FEW and product is None and not isinstance(items, Prepared):
        codes = np.arange(len(items), dtype=np.int32) if allowed is None else np.flatnonzero(allowed).astype(np.int32)
        given = np.ascontiguousarray(items if allowed is None else items[codes], dtype=np.float32)
        kernels.direct(queries, given, codes, values, offsets, top.scores, top.items)
        kernels.finish(top.scores, top.items)
        return top.items, top.scores
    items, codes, item_norms, rounded = items if isinstance(items, Prepared) else prepared(items, allowed)
    query_norms = np.empty(len(queries))
    kernels.norms(queries, query_norms)
    if product is None and rounded is not None and len(queries) <= FEWER:
        small, bounds = Rounded.of(queries), (query_norms, item_norms, Rounded.error(dim), dim * TINY)
        arrays = (queries, small.whole, small.scale, items, rounded.whole, rounded.scale, codes, *bounds)
        kernels.by_rounded(*arrays, values, offsets, top.scores, top.items)
        kernels.finish(top.scores, top.items)
        return top.items, top.scores
    work = len(queries) * items.size
    product = product or (fastest_product() if work > 10**9 else FLOAT32)
    screened, share = product.prepare(items), product.error(dim)

    def fill(rows: slice) -> None:
        inside, within = queries[rows], offsets[rows.start : rows.stop + 1]
        width = max(block[1], min(STRIP, block[0] * block[1] // len(inside)))  # few queries take longer strips of items
        approximate, buffer = product.prepare(inside), product.buffer(len(inside) * min(width, len(items)))
        for first in range(0, len(items), width):
            part = slice(first, min(first + width, len(items)))
            reach = query_norms[rows] * item_norms[first]
            if (reach * (1 + share) + dim * TINY < top.scores[rows, 0]).all():
                break
            error = np.nan_to_num(reach * share + dim * TINY, nan=np.inf, posinf=np.inf).astype(np.float32)
            keys = product.multiply(approximate, screened[part], buffer)
            inputs = (inside, items, codes, values, within)
            kernels.screen(keys, first, error, product.shift, *inputs, top.scores[rows], top.items[rows])
        kernels.finish(top.scores[rows], top.items[rows])

    _over_rows(fill, len(queries), block[0], work)
    return top.items, top.scores


def score_pairs(
    queries: Float32[np.ndarray, "queries dim"],
    items: Float32[np.ndarray, "items dim"],
    rows: Int[np.ndarray, " n"],
    cols: Int[np.ndarray, " n"],
) -> Float32[np.ndarray, " n"]:
    """The inner product of query rows[i] with item cols[i], bit for bit the score that `top_k_inner` lists.

    >>> x = np.array([[1, 2], [3, 4]], dtype=np.float32)
    >>> score_pairs(x, x, np.array([0, 0]), np.array([0, 1])).tolist()
    [5.0, 11.0]
    """
    from itemic.nn import _topk_kernels as kernels

    queries, items = (np.ascontiguousarray(x, dtype=np.float32) for x in (queries, items))
    for name, codes, n in (("row", rows, len(queries)), ("column", cols, len(items))):
        if len(codes) and (codes.min() < 0 or codes.max() >= n):
            raise IndexError(f"a {name} lies outside 0 to {n - 1}")
    out = np.empty(len(rows), np.float32)
    kernels.pairs(queries, items, rows, cols, out)
    return out


class Product(NamedTuple):
    """A way to multiply blocks of vectors whose distance from the float32 score is bounded."""

    name: str
    shift: int
    """Bits of float32 that its scores lack."""
    error: Callable[[int], float]
    """The bound for vectors of this width, as a share of the product of the two norms."""
    prepare: Callable
    """Turns float32 vectors into its own form."""
    buffer: Callable
    """Room for so many scores."""
    multiply: Callable
    """Queries times items into the buffer: the bits of the scores as integers."""


def _multiply_float32(queries: np.ndarray, items: np.ndarray, buffer: np.ndarray) -> np.ndarray:
    out = buffer[: len(queries) * len(items)].reshape(len(queries), len(items))
    if 1 < len(queries) <= SOME:
        for first in range(0, len(items), NARROW):
            out[:, first : first + NARROW] = np.matmul(items[first : first + NARROW], queries.T).T
        return out.view(np.int32)
    return np.matmul(queries, items.T, out=out).view(np.int32)


def _multiply_bfloat16(queries, items, buffer) -> np.ndarray:
    import torch

    out = buffer[: len(queries) * len(items)].view(len(queries), len(items))
    return torch.mm(queries, items.T, out=out).view(torch.int16).numpy()


def _to_bfloat16(vectors: np.ndarray):
    import torch

    return torch.from_numpy(vectors).bfloat16()


def _bfloat16_buffer(n: int):
    import torch

    return torch.empty(n, dtype=torch.bfloat16)


@dataclass(frozen=True)
class Rounded:
    """Vectors as whole numbers up to 127, each times a scale of its own, which is nan where that cannot be."""

    whole: Int8[np.ndarray, "rows dim"]
    scale: Float32[np.ndarray, " rows"]

    @classmethod
    def of(cls, vectors: Float32[np.ndarray, "rows dim"]) -> "Rounded":
        from itemic.nn import _topk_kernels as kernels

        found = cls(np.empty(vectors.shape, np.int8), np.empty(len(vectors), np.float32))
        kernels.rounded(vectors, found.whole, found.scale)
        return found

    @staticmethod
    def error(dim: int) -> float:
        """How far a product of two rounded vectors is from the float32 score, as a share of their two norms.

        Whole numbers miss a value by half a step at most, a 254th of the largest: a vector by √dim / 254 of its norm.
        """
        return 2.01 * dim**0.5 / 254 + dim / 254**2 + 4 * dim * 2**-24


# Rounding: dim · 2⁻²⁴ for each of the two float32 sums compared, twice that for sums of rounded pairs;
# bfloat16 adds 2⁻⁹ for each factor and for the result.
FLOAT32 = Product(
    "float32", 0, lambda dim: 4 * dim * 2**-24, lambda x: x, lambda n: np.empty(n, np.float32), _multiply_float32
)
BFLOAT16 = Product(
    "bfloat16", 16, lambda dim: 3.02 * 2**-9 + 4 * dim * 2**-24, _to_bfloat16, _bfloat16_buffer, _multiply_bfloat16
)


def fastest_product() -> Product:
    """bfloat16 where torch is loaded already and multiplies a block in less time so, else float32."""
    return _measured_product() if "torch" in sys.modules else FLOAT32


@functools.cache
def _measured_product() -> Product:
    vectors = np.ones((BLOCK[1], 64), np.float32)

    def seconds(product: Product) -> float:
        items, buffer = product.prepare(vectors), product.buffer(BLOCK[0] * BLOCK[1])
        best = np.inf
        for _ in range(4):  # the first one warms up
            start = time.perf_counter()
            product.multiply(items[: BLOCK[0]], items, buffer)
            best = min(best, time.perf_counter() - start)
        return best

    with threads.single():
        return min(FLOAT32, BFLOAT16, key=seconds)


class _Heaps(NamedTuple):
    items: np.ndarray
    scores: np.ndarray


def _empty(n: int, k: int) -> _Heaps:
    from itemic.nn._topk_kernels import MISSING

    return _Heaps(np.full((n, k), MISSING, np.int32), np.full((n, k), -np.inf, np.float32))


def _over_rows(fill: Callable[[slice], None], n_rows: int, size: int, work: int) -> None:
    """Calls `fill` on blocks of rows: on several threads where the work repays starting them, and on one thread of BLAS
    too where it repays holding that."""
    if work < 10**9:
        with threads.single() if work > 10**7 else nullcontext():
            for start in range(0, n_rows, size):
                fill(slice(start, min(start + size, n_rows)))
        return
    size = min(size, -(-n_rows // threads.count()))
    threads.spread(fill, [slice(start, min(start + size, n_rows)) for start in range(0, n_rows, size)])


def _sorted_rows(exclude: Exclude | None, n_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """The excluded codes with every row ascending, for search by halving."""
    if exclude is None:
        return np.empty(0, np.int32), np.zeros(n_rows + 1, np.int64)
    values, offsets = np.asarray(exclude[0], dtype=np.int32), np.asarray(exclude[1], dtype=np.int64)
    rows, shift = np.repeat(np.arange(n_rows, dtype=np.int64), np.diff(offsets)), 2**31  # -1 sorts before 0
    keys = rows << 32 | values.astype(np.int64) + shift
    if (keys[1:] < keys[:-1]).any():
        values = ((np.sort(keys) & 0xFFFFFFFF) - shift).astype(np.int32)
    return values, offsets
