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
    begin, end, first, weight, pull, root, last, least, gradients, fade1, fade2, step, scale, beta1, beta2, eps
):
    """Step number `step` of Adam for the rows from `begin` to `end`, after `gather`; without a place, a gradient of 0.

    `root` is the root of the second moment and `pull` the first one over `root` + `least`: all as they were at the step
    `last`, since when the moments have shrunk by `fade1[age]` and `fade2[age]`. With c = sqrt(1 - beta2^step), `scale`
    is lr c / (1 - beta1^step) and `eps` Adam's times c; all of it float32.
    """
    new1, new2 = np.float32(1) - beta1, np.float32(1) - beta2
    for row in range(begin, end):
        age = min(step - last[row], len(fade1) - 1)
        left1, left2 = fade1[age], fade2[age]
        w, p = weight[row], pull[row]
        if first[row] >= 0:  # with the branches the other way round the loops are not vectorised
            r, g, then = root[row], gradients[first[row]], least[row]  # r named above the branch halves the speed below
            for j in range(len(w)):
                first_moment = left1 * (p[j] * (r[j] + then)) + new1 * g[j]
                second_moment = left2 * (r[j] * r[j]) + new2 * (g[j] * g[j])
                new_root = np.sqrt(second_moment)
                new_pull = first_moment / (new_root + eps)
                p[j], r[j] = new_pull, new_root
                w[j] -= scale * new_pull
            last[row], least[row] = step, eps
        else:  # nearly all rows: no root is drawn, and one table less is read
            share = scale * left1 / np.sqrt(left2)
            for j in range(len(w)):
                w[j] -= share * p[j]


@njit(cache=True, nogil=True, fastmath={"contract"})
def subtract(weight, rows, gradients, lr):
    """Takes lr times each gradient off the row it names: a seventh of the time that torch's index_add_ takes."""
    for at in range(len(rows)):
        w, g = weight[rows[at]], gradients[at]
        for j in range(len(w)):
            w[j] -= lr * g[j]
