"""The compiled loop of `RowAdam`; imported on first use, because importing numba takes a while."""

import numpy as np
from numba import njit


@njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")
def update(weight, mean, square, filled, rows, gradients, lr, beta1, beta2, eps, decay):
    """One step of Adam for each row named, however often it is; the gradients of a repeated row are added up in place.

    `lr`, `beta1` and the others are float32: one float64 among them would halve the width of every vector.
    """
    first = np.empty(len(weight), np.int32)  # only what `rows` name is written and read
    for at in range(len(rows) - 1, -1, -1):
        first[rows[at]] = at
    for at in range(len(rows)):
        if first[rows[at]] != at:
            total, more = gradients[first[rows[at]]], gradients[at]
            for j in range(len(more)):
                total[j] += more[j]
    new1, new2 = np.float32(1) - beta1, np.float32(1) - beta2
    for at in range(len(rows)):
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
