"""The compiled loops of `Adam`, `RowAdam` and `SGD`; imported on first use, because importing numba takes a while."""

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def gather(first, rows, gradients):
    """Sets first[row] to the place where it is named for the first time, and there adds up its gradients, in place."""
    for at in range(len(rows) - 1, -1, -1):
        first[rows[at]] = at
    for at in range(len(rows)):
        if first[rows[at]] != at:
            total, more = gradients[first[rows[at]]], gradients[at]
            for j in range(len(more)):
                total[j] += more[j]


@njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")
def row_update(begin, end, first, weight, mean, square, filled, rows, gradients, lr, beta1, beta2, eps, decay):
    """One step of Adam for the rows named first at the places from `begin` to `end`, after `gather`.

    `lr`, `beta1` and the others are float32: one float64 among them would halve the width of every vector.
    """
    new1, new2 = np.float32(1) - beta1, np.float32(1) - beta2
    for at in range(begin, end):
        row = rows[at]
        if first[row] != at:
            continue
        filled[row, 0] += new1 * (np.float32(1) - filled[row, 0])
        filled[row, 1] += new2 * (np.float32(1) - filled[row, 1])
        scale, spread = lr / filled[row, 0], np.float32(1) / np.sqrt(filled[row, 1])
        w, m, s, g = weight[row], mean[row], square[row], gradients[at]
        for j in range(len(w)):
            slope = g[j] + decay * w[j]
            first_moment = m[j] + new1 * (slope - m[j])
            second_moment = s[j] + new2 * (slope * slope - s[j])
            m[j], s[j] = first_moment, second_moment
            w[j] -= scale * first_moment / (np.sqrt(second_moment) * spread + eps)


@njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")
def table_update(
    begin, end, first, weight, mean, root, last, gradients, fade1, fade2, step, scale, spread, beta1, beta2, eps
):
    """Step number `step` of Adam for the rows from `begin` to `end`, after `gather`; without a place, a gradient of 0.

    `root` is the root of the second moment. Moments are written where a gradient is; `last` says at which step that
    was, since when they have shrunk by `fade1[age]` and `fade2[age]`. `scale` is lr / (1 - beta1^step), `spread`
    1 / sqrt(1 - beta2^step), in float32.
    """
    new1, new2 = np.float32(1) - beta1, np.float32(1) - beta2
    for row in range(begin, end):
        age = min(step - last[row], len(fade1) - 1)
        left1, left2 = fade1[age], fade2[age]
        w, m, r = weight[row], mean[row], root[row]
        if first[row] >= 0:  # with the branches the other way round the loops are not vectorised
            g = gradients[first[row]]
            for j in range(len(w)):
                first_moment = left1 * m[j] + new1 * g[j]
                second_moment = left2 * (r[j] * r[j]) + new2 * (g[j] * g[j])
                m[j], r[j] = first_moment, np.sqrt(second_moment)
                w[j] -= scale * first_moment / (r[j] * spread + eps)
            last[row] = step
        else:  # nearly all rows: no root is drawn
            pull, grown = scale * left1, spread * np.sqrt(left2)
            for j in range(len(w)):
                w[j] -= pull * m[j] / (r[j] * grown + eps)


@njit(cache=True, nogil=True, fastmath={"contract"})
def subtract(weight, rows, gradients, lr):
    """Takes lr times each gradient off the row it names: a seventh of the time that torch's index_add_ takes."""
    for at in range(len(rows)):
        w, g = weight[rows[at]], gradients[at]
        for j in range(len(w)):
            w[j] -= lr * g[j]
