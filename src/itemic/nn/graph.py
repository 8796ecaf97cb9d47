"""Graphs of users and items as sparse matrices, and what vectors become when they pass along the edges."""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int, Int32
from torch import Generator, Tensor, nn
from torch.nn.functional import embedding, pad

from itemic import threads

Norm = Literal["sym", "row_selfloop", "row_plus_identity"]
Combine = Literal["mean", "last", "concat"]
Edges = tuple[Tensor, Tensor, Tensor, tuple[int, int]]
"""Offsets, columns, values and shape of a sparse matrix in rows."""

with warnings.catch_warnings(action="ignore"):  # torch calls these tensors beta, once a process: here, unheard
    torch.sparse_csr_tensor(torch.tensor([0, 0]), torch.tensor([], dtype=torch.int64), torch.tensor([]), (1, 1))


class Graph(nn.Module):
    """A constant sparse matrix in rows of (column, value), to be multiplied with vectors: `graph @ x`.

    A module so that it moves with the module that holds it; its arrays are no part of any state_dict. Rows and columns
    are numbered in int32, which halves what a product reads of them.
    """

    offsets: Int32[Tensor, " rows+1"]
    columns: Int32[Tensor, " values"]
    values: Float[Tensor, " values"]
    order: Int32[Tensor, " values"]
    """Where the values of the transpose stand among `values`."""
    back_offsets: Int32[Tensor, " columns+1"]
    back_columns: Int32[Tensor, " values"]
    back_values: Float[Tensor, " values"]

    def __init__(
        self,
        offsets: Int[np.ndarray, " bounds"],
        columns: Int[np.ndarray, " values"],
        values: Float[np.ndarray, " values"],
        n_columns: int,
        *,
        symmetric: bool = False,
    ) -> None:
        """Row r holds `values` at `columns`, both from offsets[r] to offsets[r + 1] - 1.

        `symmetric` promises that the matrix is its own transpose, which is then neither computed nor kept.
        """
        super().__init__()
        n_rows = len(offsets) - 1
        self.shape = (n_rows, n_columns)
        order = np.argsort(columns, kind="stable")  # by column and then by row: the rows of the transpose
        back_offsets, back_columns, back_values = offsets, columns, values
        if not symmetric:
            back_offsets = np.concatenate([[0], np.cumsum(np.bincount(columns, minlength=n_columns))])
            back_columns = np.repeat(np.arange(n_rows), np.diff(offsets))[order]
            back_values = values[order]
        arrays = {"offsets": offsets, "columns": columns, "order": order}
        arrays |= {"back_offsets": back_offsets, "back_columns": back_columns}
        for name, array in arrays.items():
            self.register_buffer(name, torch.from_numpy(array.astype(np.int32)), persistent=False)
        for name, array in (("values", values), ("back_values", back_values)):
            self.register_buffer(name, torch.from_numpy(np.array(array)), persistent=False)

    @classmethod
    def bipartite(
        cls,
        user: Int[np.ndarray, " pairs"],
        item: Int[np.ndarray, " pairs"],
        n_users: int,
        n_items: int,
        norm: Norm = "sym",
    ) -> "Graph":
        """The graph of users (first) and items with an edge both ways for every pair; a repeated pair counts once.

        With degrees d on the diagonal of D, and 1/0 taken as 0: `sym` is D^-½ A D^-½, `row_selfloop` is
        (D + I)^-1 (A + I), whose rows sum to 1, and `row_plus_identity` is D^-1 A + I.

        >>> graph = Graph.bipartite(np.array([0, 0, 1]), np.array([0, 1, 1]), n_users=2, n_items=2)
        >>> graph @ torch.eye(4)[:, 2:]
        tensor([[0.7071, 0.5000],
                [0.0000, 0.7071],
                [0.0000, 0.0000],
                [0.0000, 0.0000]])
        """
        n, other = n_users + n_items, np.asarray(item, np.int64) + n_users
        keys = np.sort(np.concatenate([user * np.int64(n) + other, other * n + user]))
        row, column = np.divmod(keys[np.diff(keys, prepend=-1) > 0], n)  # np.unique takes a hundred times as long
        degree = np.bincount(row, minlength=n)
        if norm == "sym":
            value = 1 / np.sqrt(degree[row] * degree[column])
        else:
            nodes = np.arange(n)
            value = 1 / (degree + 1)[row] if norm == "row_selfloop" else 1 / degree[row]
            own = 1 / (degree + 1) if norm == "row_selfloop" else np.ones(n)
            row, column = np.concatenate([row, nodes]), np.concatenate([column, nodes])
            order = np.lexsort((column, row))
            row, column, value = row[order], column[order], np.concatenate([value, own])[order]
        offsets = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=n))])
        return cls(offsets, column, value.astype(np.float32), n, symmetric=norm == "sym")

    def __matmul__(self, x: Float[Tensor, "columns dim"]) -> Float[Tensor, "rows dim"]:
        """The matrix times x; its gradient is the transpose times the gradient."""
        return _Linear.apply(x, self.times, self.back_times)

    def times(
        self, x: Float[Tensor, "columns dim"], plus: Float[Tensor, "rows dim"] | None = None
    ) -> Float[Tensor, "rows dim"]:
        """The matrix times x, plus `plus`, without a gradient."""
        return _times(self.offsets, self.columns, self.values, self.shape, x, plus)

    def back_times(
        self, x: Float[Tensor, "rows dim"], plus: Float[Tensor, "columns dim"] | None = None
    ) -> Float[Tensor, "columns dim"]:
        """The transpose times x, plus `plus`, without a gradient."""
        return _times(self.back_offsets, self.back_columns, self.back_values, (self.shape[1], self.shape[0]), x, plus)

    def times_rows(self, rows: Int[Tensor, " chosen"], x: Float[Tensor, "columns dim"]) -> Float[Tensor, "chosen dim"]:
        """These rows of the matrix times x, with their own edges alone; its gradient too.

        >>> graph = Graph.bipartite(np.array([0]), np.array([0]), 1, 1)
        >>> graph.times_rows(torch.tensor([1]), torch.tensor([[2.0], [3.0]]))
        tensor([[2.]])
        """
        chosen = Chosen(self, rows)
        return _Linear.apply(x, chosen.times, chosen.back_times)

    def edges_of(self, rows: Int[Tensor, " chosen"]) -> Edges:
        """Offsets, columns, values and shape of the matrix that has these rows of this one."""
        start = self.offsets[rows]
        counts = self.offsets[rows + 1] - start
        offsets = pad(counts.cumsum(0, dtype=torch.int32), (1, 0))
        shift = (start - offsets[:-1]).repeat_interleave(counts)
        places = torch.arange(len(shift), dtype=torch.int32, device=shift.device) + shift
        return offsets, self.columns[places], self.values[places], (len(rows), self.shape[1])

    def dropped(self, p: float, rng: Generator | None = None) -> "Graph":
        """The graph without a share p of its values, each drawn by itself, and the others divided by 1 - p.

        >>> graph = Graph.bipartite(np.array([0]), np.array([0]), 1, 1)
        >>> graph.dropped(0.5, torch.Generator().manual_seed(1)).values
        tensor([2., 0.])
        """
        kept = torch.rand(len(self.values), generator=rng, device=self.values.device) >= p
        thinned = Graph.__new__(Graph)
        nn.Module.__init__(thinned)
        thinned.shape = self.shape
        for name, buffer in self._buffers.items():
            thinned.register_buffer(name, buffer, persistent=False)
        thinned.values = self.values * kept / (1 - p)
        thinned.back_values = thinned.values[self.order]
        return thinned


def propagate(
    graph: Graph,
    x: Float[Tensor, "nodes dim"],
    n_layers: int,
    combine: Combine = "mean",
    rows: Int[Tensor, " rows"] | None = None,
) -> Float[Tensor, "rows out"]:
    """Layers x, Sx, S²x, ... up to `n_layers` products with the graph: their mean, the last, or all side by side.

    With `rows` only these of the result; their mean goes through the last product, and the first one of the gradient,
    with their own edges alone.

    >>> graph = Graph.bipartite(np.array([0]), np.array([0]), 1, 1)
    >>> propagate(graph, torch.tensor([[1.0], [3.0]]), 1).T
    tensor([[2., 2.]])
    """
    if combine == "mean" and rows is not None and n_layers > 0:
        few = (Chosen(graph, rows), n_layers)
        return _Linear.apply(x, partial(_mean_of, *few), partial(_mean_of_back, *few))
    if combine == "mean":
        found = _Linear.apply(x, partial(_mean, graph.times, n_layers), partial(_mean, graph.back_times, n_layers))
    else:
        layers = [x]
        for _ in range(n_layers):
            layers.append(graph @ layers[-1])
        found = layers[-1] if combine == "last" else torch.cat(layers, 1)
    return found if rows is None else embedding(rows, found)


class Chosen:
    """Some rows of a graph as a matrix of their own."""

    def __init__(self, graph: Graph, rows: Int[Tensor, " chosen"]) -> None:
        self.graph, self.rows = graph, rows

    def times(
        self, x: Float[Tensor, "columns dim"], plus: Float[Tensor, "chosen dim"] | None = None
    ) -> Float[Tensor, "chosen dim"]:
        """These rows of the matrix times x, plus `plus`, without a gradient."""
        graph = self.graph
        if _compiles(graph.values, x):
            return _compiled(graph.offsets, graph.columns, graph.values, self.rows, x, plus)
        return _times(*graph.edges_of(self.rows), x, plus)

    def back_times(self, x: Float[Tensor, "chosen dim"]) -> Float[Tensor, "columns dim"]:
        """The transpose of these rows times x, without a gradient."""
        graph = self.graph
        if not _compiles(graph.values, x):
            offsets, columns, values, shape = graph.edges_of(self.rows)
            matrix = torch.sparse_csc_tensor(offsets, columns, values, shape[::-1], check_invariants=False)
            with torch.autocast(x.device.type, enabled=False):
                return matrix @ x.to(values.dtype)
        from itemic.nn._graph_kernels import back_times

        out = x.new_zeros((graph.shape[1], x.shape[1]))
        tensors = (graph.offsets, graph.columns, graph.values, self.rows, x.contiguous(), out)
        back_times(*(tensor.detach().numpy() for tensor in tensors))
        return out


def _sum(times: Callable[[Tensor, Tensor], Tensor], n_layers: int, x: Tensor) -> Tensor:
    """x + Sx + ... + S^n x after Horner: no layer but the current one is kept."""
    total = x
    for _ in range(n_layers):
        total = times(total, x)
    return total


def _mean(times: Callable[[Tensor, Tensor], Tensor], n_layers: int, x: Tensor) -> Tensor:
    return _sum(times, n_layers, x) / (n_layers + 1)


def _mean_of(chosen: Chosen, n_layers: int, x: Tensor) -> Tensor:
    """The chosen rows of the mean."""
    return chosen.times(_sum(chosen.graph.times, n_layers - 1, x), x[chosen.rows]).div_(n_layers + 1)


def _mean_of_back(chosen: Chosen, n_layers: int, gradient: Tensor) -> Tensor:
    """The adjoint of `_mean_of`."""
    gradient = gradient / (n_layers + 1)
    total = _sum(chosen.graph.back_times, n_layers - 1, chosen.back_times(gradient))
    return total.index_add_(0, chosen.rows, gradient)


class _Linear(torch.autograd.Function):
    """A linear function given with its adjoint: nothing is kept for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, function: Callable[[Tensor], Tensor], adjoint: Callable[[Tensor], Tensor]) -> Any:
        ctx.adjoint = adjoint
        return function(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return ctx.adjoint(gradients[0]), None, None


def _times(
    offsets: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int], x: Tensor, plus: Tensor | None
) -> Tensor:
    """A sparse matrix in rows times x, plus `plus`."""
    if _compiles(values, x):
        return _compiled(offsets, columns, values, None, x, plus)
    matrix = torch.sparse_csr_tensor(offsets, columns, values, shape, check_invariants=False)
    with torch.autocast(x.device.type, enabled=False):  # sparse products know no bfloat16
        found = matrix @ x.to(values.dtype)
    return found if plus is None else found.add_(plus)


def _compiles(values: Tensor, x: Tensor) -> bool:
    return values.is_cpu and x.is_cpu and values.dtype == x.dtype


def _compiled(
    offsets: Tensor, columns: Tensor, values: Tensor, rows: Tensor | None, x: Tensor, plus: Tensor | None
) -> Tensor:
    """The same by a loop that reads and writes nothing twice, on `threads.count()` threads."""
    from itemic.nn._graph_kernels import times

    out = x.new_empty((len(offsets) - 1 if rows is None else len(rows), x.shape[1]))
    tensors = (offsets, columns, values, rows, x, plus, out)
    arrays = [None if z is None else z.detach().contiguous().numpy() for z in tensors]
    threads.over(lambda begin, end: times(begin, end, *arrays), len(out), least=256)
    return out
