"""The compiled loops of `packed_attention`; imported on first use, because numba takes a while.

Sequences and heads are walked one after the other, and so many queries at a time that what belongs to them stays in the
cache: nothing as large as all pairs is ever held, and the gradient makes the weights again.
"""

import numpy as np
from numba import njit

from itemic.nn._dropout_kernels import mixed

ROWS = 64
"""Queries at a time."""
FAST = {"reassoc", "contract", "nsz", "nnan"}
LOG2E = np.float32(np.log2(np.e))
NEVER = np.float32(-1e30)
"""The logit of what may not be seen."""


@njit(cache=True, nogil=True, fastmath=FAST)
def _powers(x, n, bits):
    """Turns the first n of x, none above 0, into powers of e, in place and exact to some 1e-6; 0 below e^-88.

    2^-whole is written as the bits of a float32, 2^rest is a polynomial: without a call, so that several are made at
    once.
    """
    for j in range(n):
        below = -x[j] * LOG2E
        below = below if below < np.float32(127) else np.float32(127)
        whole = np.int32(below)
        bits[j] = np.int32(np.int32(127) - whole) << np.int32(23)
        x[j] = np.float32(whole) - below
    power = bits.view(np.float32)
    for j in range(n):
        rest = x[j]
        series = np.float32(1.52527e-5) * rest + np.float32(1.540353e-4)
        series = series * rest + np.float32(1.33335581e-3)
        series = series * rest + np.float32(9.61812911e-3)
        series = series * rest + np.float32(5.55041087e-2)
        series = series * rest + np.float32(2.40226507e-1)
        series = series * rest + np.float32(6.93147181e-1)
        x[j] = (series * rest + np.float32(1)) * power[j]


@njit(cache=True, nogil=True, fastmath=FAST)
def _weights(q, turned, bias, head, start, first, before, after, room, bits):
    """Weights of queries, that stand at `start` and behind it in their sequence, of keys from `first` on; in `room`."""
    n, m = len(q), turned.shape[1]
    logits = room[: n * m].reshape(n, m)
    np.dot(q, turned, logits)
    for i in range(n):
        row, place = logits[i], start + i - first
        if len(bias):
            more = bias[head % len(bias), start + i]
            for j in range(m):
                row[j] += more[first + j]
        for j in range(place - before):
            row[j] = NEVER
        for j in range(place + after + 1, m):
            row[j] = NEVER
        top = np.float32(NEVER / 2)
        for j in range(m):
            top = row[j] if row[j] > top else top
        for j in range(m):  # where a query may see nothing all stay far below 0, and become 0
            row[j] -= top
    _powers(room, n * m, bits)
    for i in range(n):
        row, total = logits[i], np.float32(0)
        for j in range(m):
            total += row[j]
        share = np.float32(1) / total if total > 0 else np.float32(0)
        for j in range(m):
            row[j] *= share
    return logits


@njit(cache=True, nogil=True, fastmath=FAST)
def _fall(weights, seed, falls):
    """Leaves of a query's weights what dropout leaves of them."""
    for j in range(len(weights)):
        bits = mixed(np.uint32(seed + np.uint32(j))) >> np.uint32(16)
        weights[j] = weights[j] if bits >= falls else np.float32(0)


@njit(cache=True, nogil=True, fastmath=FAST)
def _back(weights, by_weights, mean, seed, falls, kept):
    """Turns the gradient of a query's weights into that of its logits, and fills in the weights that stayed."""
    for j in range(len(weights)):
        stays = mixed(np.uint32(seed + np.uint32(j))) >> np.uint32(16) >= falls
        kept[j] = weights[j] if stays else np.float32(0)
        by_weights[j] = weights[j] * ((by_weights[j] if stays else np.float32(0)) - mean)


@njit(cache=True, nogil=True, fastmath=FAST)
def _take(x, begin, end, head, scale, out):
    for i in range(begin, end):
        for d in range(x.shape[2]):
            out[i - begin, d] = x[i, head, d] * scale


@njit(cache=True, nogil=True, fastmath=FAST)
def _turn(x, begin, end, head, scale, room):
    """The same with places and coordinates exchanged; in `room`."""
    out = room[: x.shape[2] * (end - begin)].reshape(x.shape[2], end - begin)
    for i in range(begin, end):
        for d in range(x.shape[2]):
            out[d, i - begin] = x[i, head, d] * scale
    return out


@njit(cache=True, nogil=True)
def _rows(n, dim):
    return np.empty((n, dim), np.float32)


@njit(cache=True, nogil=True)
def attention(begin, end, q, k, v, of_q, of_k, bias, before, after, seed, falls, scale, out):
    """Fills out, [queries, heads, width], for the sequences from `begin` to `end`.

    Sequence s has the queries from of_q[s] to of_q[s + 1], and keys likewise; query n sees the keys from n - before to
    n + after. bias is [heads or 1, queries, keys], or has no heads.
    """
    heads, dim, width = q.shape[1], q.shape[2], v.shape[2]
    longest = 0
    for s in range(begin, end):
        longest = max(longest, of_k[s + 1] - of_k[s])
    some_q, some_o, values = _rows(ROWS, dim), _rows(ROWS, width), _rows(longest, width)
    keys = np.empty(dim * longest, np.float32)
    room, bits = np.empty(ROWS * longest, np.float32), np.empty(ROWS * longest, np.int32)
    root = np.float32(1 / np.sqrt(dim))
    for s in range(begin, end):
        n, m = of_q[s + 1] - of_q[s], of_k[s + 1] - of_k[s]
        for head in range(heads):
            _take(v, of_k[s], of_k[s + 1], head, scale, values)
            for start in range(0, n, ROWS):
                stop = min(start + ROWS, n)
                first, last = max(0, start - before), min(m, stop + after)
                at, size = of_q[s] + start, stop - start
                if last <= first:
                    out[at : at + size, head] = 0
                    continue
                _take(q, at, at + size, head, root, some_q)
                turned = _turn(k, of_k[s] + first, of_k[s] + last, head, np.float32(1), keys)
                weights = _weights(some_q[:size], turned, bias, head, start, first, before, after, room, bits)
                if falls:
                    for i in range(size):
                        _fall(weights[i], mixed(np.uint32(seed + (at + i) * heads + head)), falls)
                np.dot(weights, values[first:last], some_o[:size])
                for i in range(size):
                    for d in range(width):
                        out[at + i, head, d] = some_o[i, d]


@njit(cache=True, nogil=True)
def gradients(
    begin, end, q, k, v, of_q, of_k, bias, before, after, seed, falls, scale, made, by, by_q, by_k, by_v, by_bias
):
    """Fills by_q, by_k and by_v, and adds to by_bias, given what `attention` made and its gradient."""
    heads, dim, width = q.shape[1], q.shape[2], v.shape[2]
    longest = 0
    for s in range(begin, end):
        longest = max(longest, of_k[s + 1] - of_k[s])
    some_q, by_some, some_o = _rows(ROWS, dim), _rows(ROWS, dim), _rows(ROWS, width)
    keys, sum_k, part_k = _rows(longest, dim), _rows(longest, dim), _rows(longest, dim)
    sum_v, part_v = _rows(longest, width), _rows(longest, width)
    turned_k, turned_v = np.empty(dim * longest, np.float32), np.empty(width * longest, np.float32)
    n_room = ROWS * longest
    room, room_by, room_kept = np.empty(n_room, np.float32), np.empty(n_room, np.float32), np.empty(n_room, np.float32)
    bits = np.empty(n_room, np.int32)
    root = np.float32(1 / np.sqrt(dim))
    for s in range(begin, end):
        n, m = of_q[s + 1] - of_q[s], of_k[s + 1] - of_k[s]
        for head in range(heads):
            _take(k, of_k[s], of_k[s + 1], head, np.float32(1), keys)
            sum_k[:m] = 0
            sum_v[:m] = 0
            for start in range(0, n, ROWS):
                stop = min(start + ROWS, n)
                first, last = max(0, start - before), min(m, stop + after)
                at, size, seen = of_q[s] + start, stop - start, last - first
                if last <= first:
                    by_q[at : at + size, head] = 0
                    continue
                _take(q, at, at + size, head, root, some_q)
                _take(by, at, at + size, head, np.float32(1), some_o)
                turned = _turn(k, of_k[s] + first, of_k[s] + last, head, np.float32(1), turned_k)
                weights = _weights(some_q[:size], turned, bias, head, start, first, before, after, room, bits)
                by_weights = room_by[: size * seen].reshape(size, seen)
                kept = room_kept[: size * seen].reshape(size, seen)
                turned = _turn(v, of_k[s] + first, of_k[s] + last, head, scale, turned_v)
                np.dot(some_o[:size], turned, by_weights)
                for i in range(size):
                    mean = np.float32(0)
                    for d in range(width):
                        mean += made[at + i, head, d] * some_o[i, d]
                    key = mixed(np.uint32(seed + (at + i) * heads + head))
                    _back(weights[i], by_weights[i], mean, key, falls, kept[i])
                np.dot(kept.T, some_o[:size], part_v[:seen])
                np.dot(by_weights.T, some_q[:size], part_k[:seen])
                np.dot(by_weights, keys[first:last], by_some[:size])
                sum_v[first:last] += part_v[:seen]
                sum_k[first:last] += part_k[:seen]
                for i in range(size):
                    for d in range(dim):
                        by_q[at + i, head, d] = by_some[i, d] * root
                    if len(by_bias):
                        row = by_bias[head % len(by_bias), start + i]
                        for j in range(seen):
                            row[first + j] += by_weights[i, j]
            for j in range(m):
                for d in range(dim):
                    by_k[of_k[s] + j, head, d] = sum_k[j, d]
                for d in range(width):
                    by_v[of_k[s] + j, head, d] = sum_v[j, d] * scale
