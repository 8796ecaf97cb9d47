"""Counts of a service, as Prometheus reads them."""

import time
from collections import deque
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
RECENT = 20_000
"""Requests that are remembered one by one."""


class Seen(NamedTuple):
    """A request that was answered."""

    moment: float
    """Seconds since 1970."""
    route: str
    status: int
    seconds: float


class Metrics:
    """Of one service; several in a process do not mix."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        kinds = ["method", "route", "status"]
        self._requests = Counter("itemic_requests", "Requests answered", kinds, registry=self.registry)
        self._seconds = Histogram(
            "itemic_request_seconds", "Seconds to an answer", ["route"], buckets=SECONDS, registry=self.registry
        )
        self.events = Counter("itemic_events", "Events stored", registry=self.registry)
        self.items = Gauge("itemic_items", "Items of the catalogue", registry=self.registry)
        self.recent: deque[Seen] = deque(maxlen=RECENT)
        self._known: dict = {}

    def seen(self, method: str, route: str, status: int, seconds: float) -> None:
        """Counts a request."""
        key = method, route, status
        if key not in self._known:  # looking labels up by name takes longer than counting
            self._known[key] = self._requests.labels(method, route, str(status)), self._seconds.labels(route)
        counter, histogram = self._known[key]
        counter.inc()
        histogram.observe(seconds)
        self.recent.append(Seen(time.time(), route, status, seconds))

    def text(self) -> bytes:
        """All of them in the format of Prometheus."""
        return generate_latest(self.registry)
