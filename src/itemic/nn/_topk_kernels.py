"""The compiled loops of `topk`; imported on first use, because importing numba takes longer than most answers."""

import numpy as np
from numba import njit

ROWS = 1024  # items scored for one query, then for the next: they stay in the cache
CHUNK = 64  # scores tested at once, with vector instructions

MISSING = np.int32(2**31 - 1)  # worse than any item of the same score


@njit(cache=True, nogil=True)
def _offer(scores, items, score, item):
    """Replaces the worst entry of a heap whose root is the worst: the lowest score, of equals the highest item."""
    n, at = len(scores), 0
    while True:
        child = 2 * at + 1
        if child >= n:
            break
        right = child + 1
        if right < n and (
            scores[right] < scores[child] or (scores[right] == scores[child] and items[right] > items[child])
        ):
            child = right
        if scores[child] > score or (scores[child] == score and items[child] < item):
            break
        scores[at], items[at] = scores[child], items[child]
        at = child
    scores[at], items[at] = score, item


@njit(cache=True, nogil=True)
def _offer_if_better(scores, items, score, item, excluded, start, stop):
    """Offers an item that beats the worst of the heap and is not among excluded[start:stop]; says whether it did."""
    better = score > scores[0] or (score == scores[0] and item < items[0] and score > -np.inf)
    if better and not _contains(excluded, start, stop, item):
        _offer(scores, items, score, item)
        return True
    return False


@njit(cache=True, nogil=True)
def _contains(values, start, stop, value):
    """Whether the sorted run values[start:stop] holds the value."""
    end = stop
    while start < stop:
        middle = (start + stop) // 2
        if values[middle] < value:
            start = middle + 1
        else:
            stop = middle
    return start < end and values[start] == value


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _dot(x, y):
    total = np.float32(0)
    for i in range(len(x)):
        total += x[i] * y[i]
    return total


@njit(cache=True, nogil=True)
def _bar(score, error, shift, integer):
    """The least key (see `_any_reach`) of an approximate score whose float32 score might pass this one."""
    bits = np.float32(score - error).view(np.int32)
    key = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return integer((key - 2) >> shift)  # two steps down: below the rounding of the difference, and -0.0 below 0.0


@njit(cache=True, nogil=True)
def _any_reach(line, start, bar, half, sign):
    """Whether one of the next CHUNK keys is at least `bar`: the bits of a float, ordered as the floats are."""
    found = np.uint8(0)
    for i in range(CHUNK):
        x = line[np.uint64(start) + np.uint64(i)]  # unsigned: the check for negative indices stops the vectoriser
        found |= np.uint8((x ^ ((x >> sign) & half)) >= bar)
    return found != 0


@njit(cache=True, nogil=True)
def _which_reach(line, start, stop, bar, half, sign, hits):
    """How many keys of line[start:stop] are at least `bar`; where they stand goes into `hits`."""
    n = 0
    for i in range(np.uint64(start), np.uint64(stop)):
        x = line[i]
        hits[n] = i
        n += (x ^ ((x >> sign) & half)) >= bar
    return n


@njit(cache=True, nogil=True)
def screen(keys, first, error, shift, queries, items, codes, excluded, offsets, top_scores, top_items):
    """Scores in float32 the items whose approximate score might reach a row's list, and offers them to its heap.

    `keys` are the bits of the approximate scores of items `first` onwards: int32 of float32, or with shift 16 int16 of
    bfloat16. `error[row]` bounds their distance from the float32 score.
    """
    n, integer = keys.shape[1], keys.dtype.type
    whole = n - n % CHUNK
    half, sign = integer((1 << (31 - shift)) - 1), integer(31 - shift)
    hits = np.empty(CHUNK + 1, np.int64)
    for row in range(len(keys)):
        line, heap, names, query = keys[row], top_scores[row], top_items[row], queries[row]
        bar = _bar(heap[0], error[row], shift, integer)
        for start in range(0, n, CHUNK):
            if start < whole and not _any_reach(line, start, bar, half, sign):
                continue
            for hit in range(_which_reach(line, start, min(start + CHUNK, n), bar, half, sign, hits)):
                at = first + hits[hit]
                score = _dot(query, items[at])
                if _offer_if_better(heap, names, score, codes[at], excluded, offsets[row], offsets[row + 1]):
                    bar = _bar(heap[0], error[row], shift, integer)


@njit(cache=True, nogil=True)
def select(scores, excluded, offsets, top_scores, top_items):
    """Offers to each row's heap the scores of its row."""
    n = scores.shape[1]
    for row in range(len(scores)):
        line, heap, names = scores[row], top_scores[row], top_items[row]
        for start in range(0, n, CHUNK):
            stop, bar, found = min(start + CHUNK, n), heap[0], np.uint8(0)
            if stop - start == CHUNK:
                for i in range(CHUNK):
                    found |= np.uint8(line[np.uint64(start) + np.uint64(i)] > bar)
                if found == 0:
                    continue
            for item in range(start, stop):
                score = line[item]
                _offer_if_better(heap, names, score, item, excluded, offsets[row], offsets[row + 1])


@njit(cache=True, nogil=True)
def finish(scores, items):
    """Turns heaps into lists, best first; what was never filled becomes item -1."""
    for row in range(len(scores)):
        heap, names = scores[row], items[row]
        for last in range(len(heap) - 1, 0, -1):
            score, name = heap[last], names[last]
            heap[last], names[last] = heap[0], names[0]
            _offer(heap[:last], names[:last], score, name)
        for place in range(len(heap)):
            if names[place] == MISSING:
                names[place] = -1


@njit(cache=True, nogil=True)
def direct(queries, items, codes, excluded, offsets, top_scores, top_items):
    """Offers to each query's heap every item, with its float32 score."""
    for row in range(len(queries)):
        heap, names, query = top_scores[row], top_items[row], queries[row]
        for at in range(len(items)):
            score = _dot(query, items[at])
            _offer_if_better(heap, names, score, codes[at], excluded, offsets[row], offsets[row + 1])


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def norms(vectors, out):
    """The Euclidean length of every row, in float64."""
    for row in range(len(vectors)):
        vector, total = vectors[row], 0.0
        for i in range(len(vector)):
            total += np.float64(vector[i]) * np.float64(vector[i])
        out[row] = np.sqrt(total)


@njit(cache=True, nogil=True)
def pairs(queries, items, rows, cols, out):
    """The inner product of queries[rows[i]] and items[cols[i]] for every i."""
    for i in range(len(out)):
        out[i] = _dot(queries[rows[i]], items[cols[i]])


@njit(cache=True, nogil=True, error_model="numpy")
def rounded(vectors, whole, scale):
    """Fills whole and scale with the vectors; a scale that is no usual number becomes nan."""
    for row in range(len(vectors)):
        vector, largest = vectors[row], np.float32(0)
        for i in range(len(vector)):
            size = abs(vector[i])
            largest = size if not size <= largest else largest  # a nan is the largest
        step = largest / np.float32(127)
        usual = largest == 0 or np.float32(1e-30) < step < np.float32(1e30)
        scale[row] = step if usual else np.float32(np.nan)
        for i in range(len(vector)):
            whole[row, i] = np.int8(np.rint(vector[i] / step)) if usual and largest > 0 else np.int8(0)


@njit(cache=True, nogil=True, inline="always")
def _whole_dot(x, y, n):
    total = np.int32(0)
    for i in range(n):
        total = np.int32(total + np.int32(np.int32(x[i]) * np.int32(y[i])))  # or it would be 64 bits
    return total


@njit(cache=True, nogil=True)
def by_rounded(
    queries,
    small_queries,
    query_scale,
    items,
    small_items,
    item_scale,
    codes,
    query_norms,
    item_norms,
    share,
    tiny,
    excluded,
    offsets,
    top_scores,
    top_items,
):
    """Offers to each query's heap the items whose rounded score might reach it, with their float32 scores."""
    for first in range(0, len(items), ROWS):
        last, reaches = min(first + ROWS, len(items)), False
        for row in range(len(queries)):
            heap, names, query = top_scores[row], top_items[row], queries[row]
            small = small_queries[row].astype(np.int16)  # 16 bits times 8 is one instruction for many
            reach = query_norms[row] * item_norms[first]
            error, scale = reach * share + tiny, query_scale[row]
            if reach + error < heap[0]:
                continue
            reaches, bar = True, np.float32(heap[0] - 1.000001 * error)
            for at in range(first, last):
                item = small_items[at]  # of the usual width the turns are known: a third less time
                total = _whole_dot(small, item, 64) if len(small) == 64 else _whole_dot(small, item, len(small))
                if np.float32(total) * (scale * item_scale[at]) < bar:  # never of a nan
                    continue
                score = _dot(query, items[at])
                if _offer_if_better(heap, names, score, codes[at], excluded, offsets[row], offsets[row + 1]):
                    bar = np.float32(heap[0] - 1.000001 * error)
        if not reaches:
            return
