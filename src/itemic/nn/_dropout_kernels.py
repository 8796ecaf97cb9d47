"""The compiled loop of `dropout`; imported on first use, because numba takes a while."""

import numpy as np
from numba import njit


@njit(cache=True, nogil=True, inline="always")
def mixed(n):
    """32 bits that look like chance, of a count (Wellons' search for hash functions, "lowbias32")."""
    n = np.uint32(n ^ (n >> np.uint32(16)))
    n = np.uint32(n * np.uint32(0x7FEB352D))
    n = np.uint32(n ^ (n >> np.uint32(15)))
    n = np.uint32(n * np.uint32(0x846CA68B))
    return np.uint32(n ^ (n >> np.uint32(16)))


@njit(cache=True, nogil=True)
def dropped(begin, end, x, seed, falls, scale, out):
    """Fills out with x from `begin` to `end`, times `scale` where the bits of its place are `falls` or more, else 0."""
    first, step = mixed(np.uint32(seed)), mixed(np.uint32(seed >> 32)) | np.uint32(1)  # an odd step meets each once
    for i in range(begin, end):
        bits = mixed(np.uint32(np.uint32(i) * step + first)) >> np.uint32(16)
        out[i] = x[i] * scale if bits >= falls else np.float32(0)
