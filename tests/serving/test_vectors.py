"""A service whose vectors stand in PostgreSQL answers as one that has them in memory."""

import asyncio
from contextlib import contextmanager

import numpy as np
import pytest

from itemic.data.simulated import planted_groups
from itemic.errors import ConfigError
from itemic.indexes import Exact
from itemic.indexes.pgvector import PgVector
from itemic.model import load
from itemic.registry import find
from itemic.serving import vectors as module
from itemic.serving.config import read_config
from itemic.serving.current import Current
from itemic.serving.service import Service
from itemic.serving.stores import Event, open_store


@pytest.fixture(scope="module")
def train():
    return planted_groups(n_users=60, n_items=40, n_groups=4, loyalty=0.8, seed=0)[0]


@pytest.fixture(scope="module")
def folder(train, tmp_path_factory):
    return str(find("bpr")(dim=8, training={"epochs": 5}).fit(train).save(tmp_path_factory.mktemp("runs") / "bpr"))


@contextmanager
def service_of(models, place, **options):
    store = open_store(place)
    service = Service.open(read_config(None, {}, models=models, **options), store)
    try:
        yield service
    finally:
        service.close()
        store.close()


def listed(service, user, **how):
    asked = service.asked(user, None, 10, **how)
    return [(one["item"], one["score"]) for one in asyncio.run(service.recommend(None, user, asked))["items"]]


def tables(address):
    import psycopg

    with psycopg.connect(address) as connection:
        found = connection.execute("SELECT tablename FROM pg_tables WHERE tablename LIKE 'vectors\\_%'")
        return {name for (name,) in found}


@pytest.mark.slow
def test_a_service_with_vectors_in_the_store_lists_what_one_in_memory_lists(folder, address, tmp_path):
    answers = {}
    for where, place in (("memory", tmp_path / "events.db"), ("store", address)):
        with service_of({"bpr": folder}, place, vectors=where) as service:
            assert isinstance(service.models["bpr"]._index, PgVector if where == "store" else Exact)
            users = service.items.names[:3] + [str(user) for user in range(20)]
            answers[where] = [listed(service, user) for user in users]
            asyncio.run(service.add_events([Event("e", "7", service.items.names[3], 1)]))
            asyncio.run(service.delete_items([answers[where][-1][0][0]]))
            answers[where] += [listed(service, user, exclude=service.items.names[:5]) for user in users]
    assert answers["store"] == answers["memory"]
    assert len(tables(address)) == 1


@pytest.mark.slow
def test_a_graph_in_the_store_is_as_good_as_that_of_the_model_was_made(folder, address, tmp_path, monkeypatch):
    model, told = load(folder), []
    model.index(recall=0.9, links=8, by="direction")
    real = module.tuned
    monkeypatch.setattr(module, "tuned", lambda *given, **how: told.append(how) or real(*given, **how))
    with service_of({"bpr": str(model.save(tmp_path / "indexed"))}, address, vectors="store") as service:
        assert isinstance(service.models["bpr"]._index, PgVector)
    assert told == [{"recall": 0.9, "links": 8}]


@pytest.mark.slow
def test_an_item_that_comes_later_is_found_in_the_store(train, address, tmp_path):
    folder = str(find("m2trec")(dim=8, training={"epochs": 1}).fit(train).save(tmp_path / "m2trec"))
    item = {"1000": {name: train.items.column(name)[0].as_py() for name in train.items.names}}
    with service_of({"m": folder}, address, vectors="store") as service:
        asyncio.run(service.put_items(item))
        assert len(service.models["m"]._index.vectors) == 41
        found = [name for name, _ in listed(service, "5", candidates=["1000", service.items.names[0]])]
        whole = service.asked(None, service.items.names[:2], 41)
        listing = asyncio.run(service.recommend(None, None, whole))["items"]
    assert "1000" in found
    assert "1000" in [one["item"] for one in listing]
    before = tables(address)
    with service_of({"m": folder}, address, vectors="store") as service:
        assert len(service.items.names) == 41
        assert tables(address) == before


@pytest.mark.slow
def test_other_models_take_over_with_their_own_table(train, address, tmp_path):
    folder = tmp_path / "bpr"
    system = find("bpr")
    system(dim=8, training={"epochs": 1}).fit(train).save(folder)

    async def change_over(service):
        current, old = Current(service), tables(address)
        newer = system(dim=4, training={"epochs": 1}).fit(train)
        newer.save(tmp_path / "newer")
        folder.rename(tmp_path / "older")
        (tmp_path / "newer").rename(folder)
        await current.renew()
        both = tables(address)
        await asyncio.gather(*current._tasks)
        current.service.close()
        return old, both

    with service_of({"bpr": str(folder)}, address, vectors="store", timeout=0.1) as service:
        old, both = asyncio.run(change_over(service))
    assert len(old) == 1
    assert len(both) == 2
    assert tables(address) == both - old


@pytest.mark.slow
def test_a_graph_that_finds_too_little_is_refused_and_leaves_nothing_open(folder, address, monkeypatch):
    def blind(self, queries, width):
        return np.zeros((len(queries), width), np.int32) + np.arange(width, dtype=np.int32) % 40

    monkeypatch.setattr(PgVector, "_walk", blind)
    with (
        pytest.raises(ConfigError, match=r"^bpr in the store: the graph finds .* not 95.0%. .* or vectors: memory\)$"),
        service_of({"bpr": folder}, address, vectors="store"),
    ):
        pass
    monkeypatch.undo()
    with service_of({"bpr": folder}, address, vectors="store") as service:
        assert service.models["bpr"]._index.effort is not None


def test_a_file_holds_no_vectors(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PgVector", None)
    with (
        pytest.raises(
            ConfigError, match="^vectors: store needs a store in PostgreSQL; this one is the file .*events.db. "
        ),
        service_of({"bpr": folder}, tmp_path / "events.db", vectors="store"),
    ):
        pass


def test_where_vectors_are_may_be_told_by_the_environment():
    assert read_config(None, {"ITEMIC_SERVE_VECTORS": "store"}).vectors == "store"
    with pytest.raises(ConfigError, match="vectors"):
        read_config(None, {"ITEMIC_SERVE_VECTORS": "disk"})
