"""Inner products of rows of two tables, with gradients that name the rows: what a step of matrix factorisation is."""

from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import embedding

from itemic import threads


class Products(NamedTuple):
    inner: Float[Tensor, "batch width"]
    squared: Float[Tensor, " batch"]
    """Squared lengths of the rows on the left."""
    squares: Float[Tensor, "batch width"]
    """Squared lengths of the rows on the right."""


def inner_products(
    left: Float[Tensor, "n dim"],
    right: Float[Tensor, "m dim"],
    rows: Int[Tensor, " batch"],
    columns: Int[Tensor, "batch width"],
    *,
    sparse: bool = False,
) -> Products:
    """left[rows[b]] · right[columns[b, k]], and the squared lengths of both.

    With `sparse` the gradients of the tables are sparse tensors that hold the rows looked up, a repeated one each time.
    On a CPU and in float32 the vectors are read where they lie, in a quarter of the time that gathering them takes.

    >>> left, right = torch.tensor([[3.0, 4.0]]), torch.eye(2)
    >>> found = inner_products(left, right, torch.tensor([0]), torch.tensor([[1, 0]]))
    >>> found.inner.tolist(), found.squared.tolist(), found.squares.tolist()
    ([[4.0, 3.0]], [25.0], [[1.0, 1.0]])
    """
    if all(table.dtype == torch.float32 and table.is_cpu and table.is_contiguous() for table in (left, right)):
        return Products(*_Products.apply(left, right, rows.long(), columns.long(), sparse))
    return gathered_products(left, right, rows, columns, sparse=sparse)


def gathered_products(
    left: Float[Tensor, "n dim"],
    right: Float[Tensor, "m dim"],
    rows: Int[Tensor, " batch"],
    columns: Int[Tensor, "batch width"],
    *,
    sparse: bool = False,
) -> Products:
    """The same by torch's own operations, on any device and in any precision."""
    x, y = embedding(rows, left, sparse=sparse), embedding(columns, right, sparse=sparse)
    return Products(torch.einsum("bd,bnd->bn", x, y), x.square().sum(-1), y.square().sum(-1))


def chosen_products(
    x: Float[Tensor, "n dim"], table: Float[Tensor, "m dim"], columns: Int[Tensor, "n width"]
) -> Float[Tensor, "n width"]:
    """x[n] · table[columns[n, k]]: a few rows of a table for each x, as in losses with negatives of their own.

    On a CPU and in float32 rows are read, and their gradients added up, where they lie; elsewhere they are gathered.

    >>> chosen_products(torch.tensor([[3.0, 4.0]]), torch.eye(2), torch.tensor([[1, 0, 1]])).tolist()
    [[4.0, 3.0, 4.0]]
    """
    if all(t.dtype == torch.float32 and t.is_cpu and t.is_contiguous() for t in (x, table)):
        return _Chosen.apply(x, table, columns.long().contiguous())  # pyright: ignore[reportReturnType]
    return torch.einsum("nd,nkd->nk", x, embedding(columns, table))


class _Products(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor, rows: Tensor, columns: Tensor, sparse: bool) -> Any:
        from itemic.nn._inner_products_kernels import products

        ctx.save_for_backward(left, right, rows, columns)
        ctx.sparse = sparse
        found = left.new_empty(columns.shape), left.new_empty(rows.shape), left.new_empty(columns.shape)
        arrays = _arrays(left, right, rows, columns, *found)
        threads.over(lambda begin, end: products(begin, end, *arrays), len(rows), least=256)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *by_products: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        from itemic.nn._inner_products_kernels import gradients

        left, right, rows, columns = ctx.saved_tensors
        by_left = left.new_empty((*rows.shape, left.shape[1]))
        by_right = left.new_empty((*columns.shape, left.shape[1]))
        by_inner, by_squared, by_squares = (x.contiguous() for x in by_products)
        arrays = _arrays(left, right, rows, columns, by_inner, by_squared, by_squares, by_left, by_right)
        threads.over(lambda begin, end: gradients(begin, end, *arrays), len(rows), least=256)
        found = (
            _of_table(left, rows, by_left, ctx.sparse),
            _of_table(right, columns.flatten(), by_right.flatten(0, 1), ctx.sparse),
        )
        return *found, None, None, None


class _Chosen(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, table: Tensor, columns: Tensor) -> Tensor:
        from itemic.nn._inner_products_kernels import chosen

        ctx.save_for_backward(x, table, columns)
        inner = x.new_empty(columns.shape)
        arrays = _arrays(x, table, columns, inner)
        threads.over(lambda begin, end: chosen(begin, end, *arrays), len(x), least=64)
        return inner

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_inner: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        from itemic.nn._inner_products_kernels import chosen_by_table, chosen_by_x

        x, table, columns = ctx.saved_tensors
        by_x, by_table = torch.zeros_like(x), torch.zeros_like(table)
        to_x = _arrays(table, columns, by_inner.contiguous(), by_x)
        to_table = _arrays(x, columns, by_inner.contiguous(), by_table)
        threads.over(lambda begin, end: chosen_by_x(begin, end, *to_x), len(x), least=64)
        share = len(table) // threads.count()  # each part walks all columns, so one for each thread
        threads.over(lambda begin, end: chosen_by_table(begin, end, *to_table), len(table), least=share)
        return by_x, by_table, None


def _arrays(*tensors: Tensor) -> list[np.ndarray]:
    return [tensor.detach().numpy() for tensor in tensors]


def _of_table(table: Tensor, rows: Tensor, gradients: Tensor, sparse: bool) -> Tensor:
    """The gradient of a table, given those of the rows looked up."""
    if sparse:
        return torch.sparse_coo_tensor(rows[None], gradients, table.shape, check_invariants=False)
    return torch.zeros_like(table).index_add_(0, rows, gradients)
