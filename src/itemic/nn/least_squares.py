"""Vectors of the rows of a sparse matrix, given those of its columns: least squares over all cells, seen or not.

Row r minimises, over its vector x, with the vectors y of the columns fixed,

    Σ (x·y - target)² over its observed columns  +  everywhere · Σ (x·y)² over all columns  +  ridge[r] · |x|²

so (everywhere · YᵀY + Σ y yᵀ + ridge[r]) x = target · Σ y. `solve` does that row by row; `improve` comes close in a
few steps from where the rows were, at a fraction of the cost.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int

BLOCK = 1024
"""Rows worked on at once: what a thread takes at a time."""
TOLERANCE = 1e-12
"""`improve` leaves a row whose squared error is at most this share of its squared size."""


class Rows(NamedTuple):
    """What is observed in each row, as in a sparse CSR matrix, and each row's penalty."""

    offsets: Int[np.ndarray, " bounds"]
    columns: Int[np.ndarray, " n"]
    """The observed columns of row r are columns[offsets[r]:offsets[r + 1]], none of them twice."""
    ridge: Float[np.ndarray, " rows"]
    """The penalty on a row's squared length, more than 0."""


def gram(vectors: Float[np.ndarray, "n dim"], each: Callable = map) -> Float[np.ndarray, "dim dim"]:
    """The sum of v vᵀ over all vectors."""
    parts = each(lambda block: (vectors[block].T @ vectors[block]).astype(np.float64), _blocks(len(vectors)))
    return sum(parts, np.zeros((vectors.shape[1],) * 2)).astype(np.float32)


def solve(
    rows: Rows,
    fixed: Float[np.ndarray, "columns dim"],
    dense: Float[np.ndarray, "dim dim"],
    target: float = 1.0,
) -> Float[np.ndarray, "rows dim"]:
    """The exact vectors, one Cholesky factorisation a row; `dense` is everywhere · gram(fixed).

    >>> rows = Rows(np.array([0, 1, 1]), np.array([0]), np.array([0.5, 0.5]))
    >>> solve(rows, np.array([[1.0], [2.0]]), dense=np.array([[2.5]])).tolist()  # 1 / (2.5 + 1 + 0.5), nothing
    [[0.25], [0.0]]
    """
    from scipy.linalg import get_lapack_funcs

    (posv,) = get_lapack_funcs(("posv",), (fixed,))
    x, diagonal = np.zeros((len(rows.ridge), fixed.shape[1]), fixed.dtype), np.diag_indices(fixed.shape[1])
    for row, (start, stop) in enumerate(zip(rows.offsets[:-1], rows.offsets[1:])):
        if start < stop:
            y = fixed[rows.columns[start:stop]]
            a = dense + y.T @ y
            a[diagonal] += rows.ridge[row]
            _, x[row], failed = posv(a, target * y.sum(0))
            if failed:
                raise np.linalg.LinAlgError(f"row {row}: the matrix is not positive definite in {fixed.dtype}")
    return x


def improve(
    x: Float32[np.ndarray, "rows dim"],
    rows: Rows,
    fixed: Float32[np.ndarray, "columns dim"],
    everywhere: float,
    target: float = 1.0,
    steps: int = 3,
    each: Callable = map,
) -> Float32[np.ndarray, "rows dim"]:
    """Vectors closer to the exact ones than x, by at most `steps` steps of preconditioned conjugate gradient.

    The steps are taken in the basis in which YᵀY is diagonal: there the part of all columns costs as little as one
    observed column, and dividing by it leaves a problem that a few steps nearly solve. `each` maps a function over
    blocks of rows and may do so on several threads; the result does not depend on how many.
    """
    from itemic.nn._least_squares_kernels import descend

    spectrum, basis = np.linalg.eigh(gram(fixed, each).astype(np.float64))
    basis = basis.astype(np.float32)
    dense = (everywhere * spectrum.clip(0)).astype(np.float32)
    ridge = rows.ridge.astype(np.float32)
    turned = np.empty_like(fixed)
    moved = np.empty_like(x)

    def turn(block: slice) -> None:
        np.matmul(fixed[block], basis, out=turned[block])

    def move(block: slice) -> None:
        inside = x[block] @ basis
        limits = np.float32(target), steps, np.float32(TOLERANCE)
        descend(inside, block.start, rows.offsets, rows.columns, ridge, turned, dense, *limits)
        np.matmul(inside, basis.T, out=moved[block])

    for step, n in ((turn, len(fixed)), (move, len(x))):
        for _ in each(step, _blocks(n)):
            pass
    return moved


def _blocks(n: int) -> Iterator[slice]:
    return (slice(start, min(start + BLOCK, n)) for start in range(0, n, BLOCK))
