"""The service that answers now, and how it gives way to one with other models while requests come in.

A request is answered to its end by the service that it began with. Models that were put in place are read beside those
that answer; then what changes the store waits for a moment, until the new service has caught up and taken over.
"""

import asyncio
import gc
import logging
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from itemic.errors import ConfigError, ItemicError, SaveError
from itemic.serving.items import Given
from itemic.serving.service import Service
from itemic.serving.stores import Event
from itemic.serving.stores.base import now
from itemic.serving.versions import is_changing, recover, stamps

LOG = logging.getLogger("itemic.serving")
LOOK = 1.0
"""Seconds between two looks at the folders of the models, and at what others stored."""
REFIT = "import os; os.nice(10); from itemic.cli import main; main()"
"""What a process of its own runs to fit models: it leaves the processor to those who answer."""


def set_aside() -> None:
    """Frees what nobody needs and tells Python not to look through the rest for garbage again: all items and histories
    would hold every request up for tenths of a second, whenever some thousand objects more were made."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()


class Current:
    """Stands where a service is expected, and is at each moment the one that answers."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.said: dict[str, Any] = {"running": False, "ended": None, "error": None}
        self._writing, self._nobody_writes, self._open = 0, asyncio.Event(), asyncio.Event()
        self._open.set()
        self._renewing = asyncio.Lock()
        self._tasks: set[asyncio.Task] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.service, name)

    @property
    def folders(self) -> list[str]:
        """Where its models lie."""
        return list(self.service.config.models.values())

    # What changes the store -------------------------------------------------------------------------------------

    async def add_events(self, events: Sequence[Event]) -> dict[str, int]:
        return await self._write(lambda service: service.add_events(events))

    async def put_items(self, items: Given) -> dict[str, Any]:
        return await self._write(lambda service: service.put_items(items))

    async def delete_items(self, names: Sequence[str]) -> dict[str, int]:
        return await self._write(lambda service: service.delete_items(names))

    async def delete_user(self, user: str) -> dict[str, int]:
        return await self._write(lambda service: service.delete_user(user))

    async def _write(self, work: Any) -> Any:
        """Whoever asked may go, or be told that it takes too long: what is begun is done, in the store and here."""
        return await asyncio.shield(self._begin(self._written(work)))

    async def _written(self, work: Any) -> Any:
        await self._open.wait()
        self._writing += 1
        try:
            return await work(self.service)
        finally:
            self._writing -= 1
            if not self._writing:
                self._nobody_writes.set()

    # Going over to other models ---------------------------------------------------------------------------------

    async def renew(self) -> None:
        """Goes over to the models that are in the folders now.

        Raises:
            ItemicError: they cannot be served; those that answer go on.
        """
        async with self._renewing:
            old = self.service
            try:
                new = await asyncio.to_thread(_opened, old)
                self._open.clear()
                while self._writing:
                    self._nobody_writes.clear()
                    await self._nobody_writes.wait()
                await asyncio.to_thread(new.catch_up)
                self.service = new
            finally:
                self._open.set()
            self._begin(self._close(old))

    async def _close(self, old: Service) -> None:
        """Ends a service when the last request that it may still answer is given up."""
        await asyncio.sleep(old.config.timeout)
        await asyncio.to_thread(old.close)
        del old
        set_aside()

    async def follow(self) -> None:
        """Goes over to other models whenever there are some in the folders."""
        refused = None
        while True:
            await asyncio.sleep(LOOK)
            if is_changing(self.folders):  # if nobody is at it any more, it is finished here
                with suppress(SaveError):
                    await asyncio.to_thread(recover, self.folders)
            there = stamps(self.folders)
            if there in (self.service.stamps, refused) or is_changing(self.folders):
                continue
            try:
                await self.renew()
                LOG.warning("goes on with the models fitted last: %s", ", ".join(self.service.pipelines))
            except ItemicError as error:
                refused = there
                LOG.warning("goes on with the models it has: %s", error)

    async def keep_in_step(self) -> None:
        """Follows what other services on the same store take."""
        told = ""
        while True:
            await asyncio.sleep(LOOK)
            try:
                await self.service.keep_up()
                told = ""
            except Exception as error:  # it goes on, whatever it is
                if str(error) != told:
                    LOG.warning("the store cannot be followed: %s", error)
                told = str(error)

    # Fitting in the background ----------------------------------------------------------------------------------

    def refit(self) -> dict[str, Any]:
        """Begins to fit the models again, in a process of its own; they are gone over to when they are in place.

        Raises:
            ConfigError: there is no dataset or folder to fit them on, or it is being done already.
        """
        if self.config.data is None or not self.folders:
            raise ConfigError("to refresh, the dataset is needed. Serve with --data FOLDER.")
        if self.said["running"]:
            raise ConfigError("the models are being fitted already. Ask how it goes: GET /v1/admin/refresh")
        self.said = {"running": True, "ended": None, "error": None}
        self._begin(self._refit())
        return self.said

    async def _refit(self) -> None:
        config = self.config
        told = ["refresh", *map(os.path.abspath, self.folders), "--data", str(config.data)]
        told += ["--tolerance", str(config.refresh.tolerance)]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", REFIT, *told, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE, env={**os.environ, "ITEMIC_SERVE_STORE": config.store},
        )  # fmt: skip
        try:
            _, said = await process.communicate()
        except asyncio.CancelledError:
            with suppress(ProcessLookupError):
                process.terminate()
            raise
        last = (said.decode(errors="replace").strip().splitlines() or [""])[-1].removeprefix("error: ")
        self.said = {"running": False, "ended": now(), "error": last if process.returncode else None}
        if process.returncode:
            LOG.warning("the models were not refreshed: %s", last)

    async def _keep_fresh(self, every: float) -> None:
        """Fits the models again so many seconds after they were last."""
        fitted = min(model.fitted_on.get("store", {}).get("time", now()) for model in self.service.models.values())
        wait = every - (now() - fitted) / 1000
        while True:
            await asyncio.sleep(max(0.0, wait))
            with suppress(ConfigError):  # somebody else has begun
                self.refit()
            wait = every

    # While it runs ----------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def running(self, app: Any = None) -> AsyncIterator[None]:
        """Follows the store, the folders and the schedule while the block runs."""
        self._begin(self.keep_in_step())
        if self.folders:
            self._begin(self.follow())
        if self.config.refresh.seconds is not None:
            self._begin(self._keep_fresh(self.config.refresh.seconds))
        yield
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _begin(self, work: Any) -> asyncio.Task:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _opened(old: Service) -> Service:
    new = Service.open(old.config, old.store)
    new.warm()
    return new
