"""Group commit: what arrives within a few milliseconds becomes one transaction, acknowledged after its flush."""

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from itemic.errors import SaveError

GATHERED = 0.002
"""Seconds for which the first change of a transaction waits for others."""
LARGEST = 2000
"""Changes in one transaction."""
WAITING = 20_000
"""Changes that may wait; beyond it they are refused, so that a slow disk does not fill the memory."""

Change = Callable[[Any], Any]
"""What is done on a connection; its result is that of the future."""


class Writer:
    """A thread with the one connection that writes; `told` says an error of the database in words of our own."""

    def __init__(self, connect: Callable[[], Any], begin: str, told: Callable[[Exception], Exception]) -> None:
        self._connect, self._begin = connect, begin
        self._connection, self._told = connect(), told
        self._queue: queue.Queue[tuple[Change, Future] | None] = queue.Queue(WAITING)
        self._closing = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="itemic-store", daemon=True)
        self._thread.start()

    def submit(self, change: Change) -> Future:
        """The result of a change, there when it is on disk; an exception of the change is the future's. A change whose
        future is cancelled is not made, unless it is being made already.

        Raises:
            SaveError: too many changes wait for the disk, or the store is closed.
        """
        done: Future = Future()
        with self._closing:
            if self._closed:
                raise SaveError("the store is closed. Open it again.")
            try:
                self._queue.put_nowait((change, done))
            except queue.Full:
                raise SaveError(f"{WAITING:,} changes wait for the disk. Send more slowly.") from None
        return done

    def close(self) -> None:
        """Writes what waits and ends the thread."""
        with self._closing:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        open_ = True
        while open_:
            group = [self._queue.get()]
            if group[0] is not None:
                time.sleep(GATHERED)
            while group[-1] is not None and len(group) < LARGEST and not self._queue.empty():
                group.append(self._queue.get())
            open_ = group[-1] is not None
            self._commit([one for one in group if one is not None and one[1].set_running_or_notify_cancel()])
        self._connection.close()

    def _commit(self, group: list[tuple[Change, Future]]) -> None:
        if not group:
            return
        connection = self._connection
        try:
            if getattr(connection, "closed", False):  # by a server that was started again
                connection = self._connection = self._connect()
            connection.execute(self._begin)
            results = [change(connection) for change, _ in group]
            connection.execute("COMMIT")
        except Exception as error:  # whatever it is belongs to who asked for the change, not to this thread
            _roll_back(connection)
            if len(group) == 1:
                group[0][1].set_exception(self._told(error))
                return
            for one in group:  # the others shall not suffer from the one that failed
                self._commit([one])
            return
        for (_, done), result in zip(group, results):
            done.set_result(result)


def _roll_back(connection: Any) -> None:
    if getattr(connection, "in_transaction", True) and not getattr(connection, "closed", False):
        connection.execute("ROLLBACK")
