"""The compiled loops of sparse products; imported on first use, because importing numba takes a while."""

from numba import njit


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def times(begin, end, offsets, columns, values, rows, x, plus, out):
    """Fills out[begin:end] with these rows of the matrix times x; on top of those of `plus` unless it is None.

    Row i of `out` is row rows[i] of the matrix, or row i where `rows` is None.
    """
    for i in range(begin, end):
        row = i
        if rows is not None:
            row = rows[i]
        total = out[i]
        if plus is None:
            for j in range(len(total)):
                total[j] = 0
        else:
            start = plus[i]
            for j in range(len(total)):
                total[j] = start[j]
        for at in range(offsets[row], offsets[row + 1]):
            value, sent = values[at], x[columns[at]]
            for j in range(len(total)):
                total[j] += value * sent[j]


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def back_times(offsets, columns, values, rows, x, out):
    """Adds to `out` the transpose of these rows of the matrix times x."""
    for i in range(len(rows)):
        sent = x[i]
        for at in range(offsets[rows[i]], offsets[rows[i] + 1]):
            value, total = values[at], out[columns[at]]
            for j in range(len(total)):
                total[j] += value * sent[j]
