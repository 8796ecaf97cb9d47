"""The compiled loop of `Negatives`; imported on first use, because importing numba takes a while."""

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def taken(keys, sieve, shift, factor, known, places):
    """Writes the places of those keys that are among the `known`, sorted, into `places`; how many they are.

    `sieve` says of each hash whether a known key has it, which clears most keys by one look-up.
    """
    n, mask = 0, len(sieve) - 1
    for at in range(len(keys)):
        key = keys[at]
        if sieve[(key * factor >> shift) & mask]:
            place = np.searchsorted(known, key)
            if place < len(known) and known[place] == key:
                places[n] = at
                n += 1
    return n
