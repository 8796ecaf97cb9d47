"""The compiled loop of `Negatives`; imported on first use, because importing numba takes a while."""

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def taken(keys, sieve, shift, factor, known, places):
    """Writes the places of those keys that are among the `known`, sorted, into `places`; how many they are.

    `sieve` has a bit for each hash, set where a known key has it: one look-up clears most keys.
    """
    n, mask = 0, 8 * len(sieve) - 1
    for at in range(len(keys)):
        key = keys[at]
        bit = (key * factor >> shift) & mask
        if sieve[bit >> 3] >> (bit & 7) & 1:
            place = np.searchsorted(known, key)
            if place < len(known) and known[place] == key:
                places[n] = at
                n += 1
    return n
