"""Live progress that library code reports and the command line shows; silent unless someone listens.

Code that takes a while says what it does with `stage` and `track`; whoever wants to see it installs a listener
with `listening`. The library itself never prints.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")

Listener = Callable[[str, int, int | None, str], None]
"""Called with (description, done, total or None, note); done == total ends the task."""

_listener: ContextVar[Listener | None] = ContextVar("itemic_progress", default=None)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Sends every progress report made inside the block to `listener`."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def report(description: str, done: int, total: int | None = None, note: str = "") -> None:
    """Tells the listener, if there is one, that `done` of `total` steps are over."""
    listener = _listener.get()
    if listener is not None:
        listener(description, done, total, note)


@contextmanager
def stage(description: str) -> Iterator[None]:
    """Marks one step that cannot say how far it is, such as a matrix inverse."""
    report(description, 0, None)
    yield
    report(description, 1, 1)


def track(steps: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """The same steps, each one reported when it is done.

    >>> seen = []
    >>> with listening(lambda description, done, total, note: seen.append((done, total))):
    ...     _ = list(track("ab", "letters", 2))
    >>> seen
    [(0, 2), (1, 2), (2, 2)]
    """
    report(description, 0, total)
    done = 0
    for step in steps:
        yield step
        done += 1
        report(description, done, total)
    if total is None:
        report(description, done, done)
