"""The compiled loops of `inner_products`, from `begin` to `end`; imported on first use, because numba takes a while."""

import numpy as np
from numba import njit


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def products(begin, end, left, right, rows, columns, inner, squared, squares):
    """Fills inner[b, k] with left[rows[b]] · right[columns[b, k]] and the others with the squared lengths of both."""
    width = columns.shape[1]
    dim = left.shape[1]
    for b in range(begin, end):
        x = left[rows[b]]
        total = np.float32(0)
        for j in range(dim):
            total += x[j] * x[j]
        squared[b] = total
        for k in range(width):
            y = right[columns[b, k]]
            along, total = np.float32(0), np.float32(0)
            for j in range(dim):
                along += x[j] * y[j]
                total += y[j] * y[j]
            inner[b, k] = along
            squares[b, k] = total


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def gradients(begin, end, left, right, rows, columns, by_inner, by_squared, by_squares, by_left, by_right):
    """Fills the last two with the gradients of the rows looked up, given those of what `products` gave."""
    two = np.float32(2)  # an int would make what it multiplies float64, and the loops half as wide
    width = columns.shape[1]
    dim = left.shape[1]
    for b in range(begin, end):
        x, grad = left[rows[b]], by_left[b]
        along = two * by_squared[b]
        for j in range(dim):
            grad[j] = along * x[j]
        for k in range(width):
            y, other = right[columns[b, k]], by_right[b, k]
            across, along = by_inner[b, k], two * by_squares[b, k]
            for j in range(dim):
                grad[j] += across * y[j]
                other[j] = across * x[j] + along * y[j]


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def chosen(begin, end, x, table, columns, inner):
    """Fills inner[b, k] with x[b] · table[columns[b, k]]."""
    width = columns.shape[1]
    dim = table.shape[1]
    for b in range(begin, end):
        left = x[b]
        for k in range(width):
            right = table[columns[b, k]]
            along = np.float32(0)
            for j in range(dim):
                along += left[j] * right[j]
            inner[b, k] = along


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def chosen_by_x(begin, end, table, columns, by_inner, by_x):
    """Adds to by_x[b] what `chosen` passes on to x[b]."""
    width = columns.shape[1]
    dim = table.shape[1]
    for b in range(begin, end):
        grad = by_x[b]
        for k in range(width):
            right = table[columns[b, k]]
            across = by_inner[b, k]
            for j in range(dim):
                grad[j] += across * right[j]


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def chosen_by_table(begin, end, x, columns, by_inner, by_table):
    """Adds to rows `begin` to `end` of by_table what `chosen` passes on to them; others may fill the rest."""
    width = columns.shape[1]
    dim = x.shape[1]
    for b in range(columns.shape[0]):
        left = x[b]
        for k in range(width):
            row = columns[b, k]
            if begin <= row < end:
                grad = by_table[row]
                across = by_inner[b, k]
                for j in range(dim):
                    grad[j] += across * left[j]
