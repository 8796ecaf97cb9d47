"""Stages with a time budget: one that is late is not waited for, nor asked again before it has ended."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as Late
from typing import Any


class Budgets:
    """Runs stages, those with a budget on threads of their own."""

    def __init__(self, n_stages: int) -> None:
        self._n, self._threads = n_stages, None
        self._late: dict[str, Future] = {}

    def run(self, name: str, budget: float | None, work: Callable[[], Any], reasons: list[str]) -> Any:
        """What `work` gives; None, and a reason, when it takes longer than its milliseconds.

        >>> Budgets(1).run("quick", None, lambda: 7, [])
        7
        """
        if budget is None:
            return work()
        if name in self._late:
            if not self._late[name].done():
                reasons.append(f"{name} is still late with an earlier request")
                return None
            del self._late[name]
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self._n, "itemic-pipeline")
        future = self._threads.submit(work)
        try:
            return future.result(budget / 1000)
        except Late:
            if future.done():  # the work itself ran out of some time of its own
                raise
            self._late[name] = future
            reasons.append(f"{name} took longer than its {budget:g} ms")
            return None

    def wait(self) -> None:
        """Returns when no stage is at work."""
        for future in self._late.values():
            future.exception()
