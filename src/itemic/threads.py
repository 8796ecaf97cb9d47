"""How many threads numeric libraries use: one or all CPUs, whichever a short measurement finds faster here and now.

The best count changes with the machine and its neighbours by factors of two and more, so it is measured at first use
and never taken on trust. ITEMIC_THREADS=1 (or any count) settles it beforehand. Every figure of speed states it.
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from itemic.errors import ConfigError

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

    from threadpoolctl import ThreadpoolController

Part = TypeVar("Part")
Result = TypeVar("Result")


class _Choice(NamedTuple):
    n: int
    reason: str


PARTS = 4
"""Parts of a loop for each thread: a slow one then holds nobody up for long."""
_choice: _Choice | None = None
_pool: "tuple[tuple[int, int], ThreadPoolExecutor] | None" = None
_holding = 0
"""How many `single` blocks are open."""
_controller: "tuple[int, ThreadpoolController] | None" = None
"""What sets the libraries' threads, and how many modules were loaded when it looked for them."""
_lock = threading.Lock()


def count() -> int:
    """The number of threads in use; decided, and applied to the loaded libraries, at the first call."""
    global _choice  # noqa: PLW0603
    if _choice is None:
        _choice = _from_environment() or _measured()
        apply()
    return _choice.n


def describe() -> str:
    """The count and where it comes from, for headers and reports.

    >>> with use(1):
    ...     describe()
    '1 thread (asked for)'
    """
    n = count()
    assert _choice is not None
    return f"{n} thread{'s' if n != 1 else ''} ({_choice.reason})"


@contextmanager
def use(n: int) -> Iterator[None]:
    """Runs the block with n threads in every library loaded so far."""
    global _choice  # noqa: PLW0603
    before = _Choice(count(), _choice.reason if _choice else "")
    try:
        _choice = _Choice(n, "asked for")
        apply()
        yield
    finally:
        _choice = before
        apply()


def apply() -> None:
    """Brings BLAS, numba and torch, where loaded, to the count in use; call it after importing one of them."""
    _limit(count())


def spread(function: Callable[[Part], Result], parts: Sequence[Part]) -> list[Result]:
    """`function` of every part, in order, on `count()` threads; each part computes on one.

    Blocks that fit a cache gain from this and lose from threads inside one product, which wait for each other.

    >>> spread(lambda x: x * x, [1, 2, 3])
    [1, 4, 9]
    """
    workers = min(count(), len(parts))
    with single():
        if workers <= 1:
            return [function(part) for part in parts]
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(workers, initializer=_limit_own, initargs=(1,)) as pool:
            return list(pool.map(function, parts))


def over(function: Callable[[int, int], object], n: int, least: int = 1) -> None:
    """`function(begin, end)` over parts of range(n) of `least` or more, on `count()` threads.

    For compiled loops that let go of the interpreter and write to places of their own; the threads stay for the next.

    >>> found = []
    >>> over(lambda begin, end: found.extend(range(begin, end)), 5)
    >>> sorted(found)
    [0, 1, 2, 3, 4]
    """
    n_parts = min(PARTS * count(), n // max(least, 1))
    if count() == 1 or n_parts < 2:
        function(0, n)
        return
    parts = iter([(n * i // n_parts, n * (i + 1) // n_parts) for i in range(n_parts)])  # whoever is free takes the next

    def work() -> None:
        for begin, end in parts:
            function(begin, end)

    helpers = [_helpers(count() - 1).submit(work) for _ in range(count() - 1)]
    work()
    for helper in helpers:
        helper.result()


def _helpers(n: int) -> "ThreadPoolExecutor":
    global _pool  # noqa: PLW0603
    from concurrent.futures import ThreadPoolExecutor

    at = os.getpid(), n  # a forked process has none of its parent's threads
    if _pool is None or _pool[0] != at:
        _pool = at, ThreadPoolExecutor(n, "itemic")
    return _pool[1]


@contextmanager
def single() -> Iterator[None]:
    """Holds the loaded libraries to one thread inside, for work that brings threads of its own; may run in several."""
    global _holding  # noqa: PLW0603
    n = count()
    if n == 1:
        yield
        return
    with _lock:
        _holding += 1
        if _holding == 1:
            _limit(1)
    try:
        yield
    finally:
        with _lock:
            _holding -= 1
            if _holding == 0:
                _limit(n)


def _limit(n: int) -> None:
    """Brings the libraries to n threads, those that are loaded later too, torch above all."""
    os.environ["OMP_NUM_THREADS"] = str(n)
    # threadpoolctl heeds only the thread that set BLAS first, as long as it lives; one that ends leaves all others free
    setter = threading.Thread(target=_limit_blas, args=(n,))
    setter.start()
    setter.join()
    _limit_own(n)


def _limit_blas(n: int) -> None:
    global _controller  # noqa: PLW0603
    from threadpoolctl import ThreadpoolController

    if _controller is None or _controller[0] != len(sys.modules):  # to look for libraries takes milliseconds
        _controller = len(sys.modules), ThreadpoolController()
    _controller[1].limit(limits=n, user_api="blas")


def _limit_own(n: int) -> None:
    """The counts that libraries keep for each thread, those of the thread that calls."""
    if (numba := sys.modules.get("numba")) is not None:
        numba.set_num_threads(min(n, numba.config.NUMBA_NUM_THREADS))
    if (torch := sys.modules.get("torch")) is not None:  # after numba, whose first call gives OpenMP all CPUs
        torch.set_num_threads(n)


def _from_environment() -> _Choice | None:
    text = os.environ.get("ITEMIC_THREADS", "")
    if not text:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(
            f"ITEMIC_THREADS is {text!r}; give a whole number from 1 up, or unset it to have it measured."
        )
    return _Choice(int(text), "ITEMIC_THREADS")


def _measured() -> _Choice:
    """All CPUs when they multiply small matrices clearly faster than one, else one."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if cpus == 1:
        return _Choice(1, "the only CPU")
    one, every = _product_seconds(1), _product_seconds(cpus)
    reason = f"measured: a small product takes {1e3 * one:.2f} ms on 1, {1e3 * every:.2f} ms on {cpus}"
    return _Choice(cpus if every < 0.8 * one else 1, reason)


def _product_seconds(n: int) -> float:
    """The median of up to five products of 256 by 64 by 2,048, a millisecond each: a bad moment counts as bad."""
    import numpy as np

    x, y = np.ones((256, 64), np.float32), np.ones((64, 2048), np.float32)
    out = np.empty((256, 2048), np.float32)
    _limit(n)
    np.matmul(x, y, out=out)
    seconds: list[float] = []
    while len(seconds) < 5 and sum(seconds) < 0.02:
        start = time.perf_counter()
        np.matmul(x, y, out=out)
        seconds.append(time.perf_counter() - start)
    return median(seconds)
