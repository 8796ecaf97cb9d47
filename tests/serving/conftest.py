"""A small service on a free port of this machine, as a client meets it."""

import asyncio
import copy
import threading
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import uvicorn

from itemic.data.simulated import planted_groups
from itemic.registry import find
from itemic.serving.app import make_app
from itemic.serving.client import Client
from itemic.serving.config import read_config
from itemic.serving.service import Service
from itemic.serving.stores import open_store


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def place(request, tmp_path):
    """Where a store is made: a file, or a database of its own."""
    if request.param == "sqlite":
        return tmp_path / "events.db"
    return request.getfixturevalue("address")


@pytest.fixture(scope="session")
def models():
    """Two systems that know 40 items of four groups: one knows them by who took them, one by their words."""
    train, _ = planted_groups(n_users=60, n_items=40, n_groups=4, loyalty=0.8, seed=0)
    return {name: find(name)().fit(train) for name in ("itemknn", "contentknn")}


class Server(uvicorn.Server):
    async def serve(self, sockets=None):
        self.loop = asyncio.get_running_loop()
        await super().serve(sockets)


@contextmanager
def running(service):
    """The address of a service while it runs."""
    settings = uvicorn.Config(make_app(service), host="127.0.0.1", port=0, log_level="warning", access_log=False)
    server = Server(settings)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.005)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        service.within = lambda work: asyncio.run_coroutine_threadsafe(work, server.loop).result(timeout=60)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def served():
    """A function that runs a service which follows these folders, and gives a client of it."""

    @contextmanager
    def run(folders, data, kept, **options):
        models = {Path(folder).name: folder for folder in folders}
        service = Service.open(read_config(None, {}, models=models, data=str(data.path), **options), kept)
        with running(service) as url:
            yield Client(url)

    return run


@pytest.fixture(scope="session")
def serving_at(models):
    """A function that runs a service with these options over a store at a place, and gives a client of it."""

    @contextmanager
    def run(place, key=None, only=("itemknn", "contentknn"), items=None, **options):
        store = open_store(place)
        fresh = {name: copy.copy(models[name]) for name in only}
        for model in fresh.values():  # they grow by new items, those of the other tests shall not
            model.weights, model.tables = dict(model.weights), dict(model.tables)
        service = Service(read_config(None, {}, **options), fresh, store, items)
        try:
            with running(service) as url:
                client = Client(url, key)
                client.service, client.url, client.within = service, url, service.within
                yield client
        finally:
            service.close()
            store.close()

    return run


@pytest.fixture
def serving(serving_at, tmp_path):
    """The same over a store that outlives the service."""
    return partial(serving_at, place=tmp_path / "events.db")
