"""Work that is shared by those who ask for it at the same time: a model answers requests that came while it answered
others together, and one look at the store is enough for all who wait for the next."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from concurrent.futures import Executor
from typing import Any

LARGEST = 64
"""Requests of one call: more would make the first of them wait."""


class Gatherer:
    """One call at a time on a thread; a request never waits for others while the thread is idle.

    `answer` is given a key and the requests that share it, and gives an answer or an exception for each.
    """

    def __init__(self, answer: Callable[[Any, Sequence[Any]], Sequence[Any]], thread: Executor) -> None:
        self._answer, self._thread = answer, thread
        self._waiting: dict[Hashable, list[tuple[Any, asyncio.Future]]] = {}
        self._running: asyncio.Task | None = None

    async def ask(self, key: Hashable, request: Any) -> Any:
        """The answer to one request."""
        done = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, []).append((request, done))
        if self._running is None:
            self._running = asyncio.create_task(self._run())
        return await done

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            key = next(iter(self._waiting))  # the key that waits longest
            group = self._waiting.pop(key)
            group, rest = group[:LARGEST], group[LARGEST:]
            if rest:
                self._waiting[key] = rest
            requests = [request for request, _ in group]
            try:
                answers = await loop.run_in_executor(self._thread, self._answer, key, requests)
            except Exception as error:  # it belongs to those who asked
                answers = [error] * len(group)
            for (_, done), answer in zip(group, answers):
                if done.done():  # who asked has gone
                    continue
                if isinstance(answer, BaseException):
                    done.set_exception(answer)
                else:
                    done.set_result(answer)
        self._running = None


class Rounds:
    """Does the same work again and again, never twice at once; who asks waits for a round that begins after that."""

    def __init__(self, work: Callable[[], Awaitable[None]]) -> None:
        self._work = work
        self._running: asyncio.Task | None = None
        self._next: asyncio.Task | None = None

    async def next(self) -> None:
        """Returns when a round that began after this has ended; raises what that raises."""
        if self._next is None:
            self._next = asyncio.create_task(self._run(self._running))
        await asyncio.shield(self._next)

    async def _run(self, before: asyncio.Task | None) -> None:
        if before is not None and not before.done():
            await asyncio.wait([before])
        self._running, self._next = self._next, None
        await self._work()
