"""Who may ask what, and how often: keys, of which only digests are kept, and a bucket of requests for each."""

import secrets
import time
from collections.abc import Callable
from hmac import compare_digest

from itemic.errors import ConfigError, did_you_mean
from itemic.serving.stores.base import Key, Store, digest

SCOPES = ("read", "write", "admin")
"""What a key may do; each may also what those before it may."""
FRESH = 1.0
"""Seconds for which the keys of the store are believed."""


def new_key(store: Store, name: str, scope: str) -> str:
    """A secret that is shown once; the store keeps its digest.

    Raises:
        ConfigError: there is no such scope, or a key of this name.
    """
    if scope not in SCOPES:
        raise ConfigError(f"there is no scope '{scope}'.{did_you_mean(scope, SCOPES)} Scopes: {', '.join(SCOPES)}.")
    secret = "itemic_" + secrets.token_urlsafe(32)
    store.add_key(Key(name, digest(secret), scope))
    return secret


class Doorkeeper:
    """Knows the keys of a store, also those made while it stands there."""

    def __init__(self, store: Store) -> None:
        self._store, self._keys, self._read = store, store.keys(), time.monotonic()

    def keys(self) -> list[Key]:
        """The keys, at most a second old."""
        if time.monotonic() - self._read > FRESH:
            self._keys, self._read = self._store.keys(), time.monotonic()
        return self._keys

    def find(self, secret: str) -> Key | None:
        """The key with this secret; every key is compared in full, so that the time it takes says nothing."""
        wanted, found = digest(secret), None
        for key in self.keys():
            if compare_digest(key.digest, wanted):
                found = key
        return found


class Buckets:
    """How many requests each may still send: `rate` more a second, up to twice that.

    >>> clock = [0.0]
    >>> buckets = Buckets(rate=1, clock=lambda: clock[0])
    >>> [buckets.wait("k") for _ in range(3)]
    [0.0, 0.0, 1.0]
    >>> clock[0] = 1.5
    >>> buckets.wait("k")
    0.0
    """

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._clock = rate, clock
        self._left: dict[str, tuple[float, float]] = {}

    def wait(self, name: str) -> float:
        """Takes a request; seconds until there is one where none is left, else 0."""
        now, full = self._clock(), 2 * self._rate
        left, then = self._left.get(name, (max(full, 1.0), now))
        left = min(max(full, 1.0), left + (now - then) * self._rate)
        if left < 1:
            self._left[name] = left, now
            return (1 - left) / self._rate
        self._left[name] = left - 1, now
        return 0.0
