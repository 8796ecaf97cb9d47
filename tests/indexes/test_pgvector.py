"""Vectors in PostgreSQL, beside a comparison of everything with everything."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from itemic.errors import ConfigError, SaveError
from itemic.indexes import Exact, pgvector
from itemic.indexes.pgvector import PgVector
from itemic.nn.topk import plain_top_k

pytestmark = pytest.mark.slow
psycopg = pytest.importorskip("psycopg")
DIM = 16


def vectors(n, seed=0):
    """Clustered, of different lengths."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(8, DIM))[rng.integers(0, 8, n)] + 0.5 * rng.normal(size=(n, DIM))
    return (x * rng.lognormal(0, 0.3, (n, 1))).astype(np.float32)


def recall(found, wanted):
    return np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found, wanted)])


class Database:
    """A database that counts who connects."""

    def __init__(self, address):
        self.address, self.connections = address, 0

    def __str__(self):
        return "postgresql://here/shop"

    def connect(self):
        self.connections += 1
        return psycopg.connect(self.address, autocommit=True)

    def run(self, statement):
        with self.connect() as connection:
            done = connection.execute(statement)
            return done.fetchall() if done.description else []

    def tables(self):
        """The tables of vectors and how many each holds."""
        names = self.run("SELECT tablename FROM pg_tables WHERE tablename LIKE 'vectors\\_%' ORDER BY tablename")
        return {name: self.run(f"SELECT count(*) FROM {name}")[0][0] for (name,) in names}

    def end_connections(self):
        self.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")


@pytest.fixture
def database(address):
    return Database(address)


@pytest.fixture(scope="module")
def items():
    return vectors(3000)


@pytest.fixture(scope="module")
def big(server, items):
    """An index that is searched by its graph: a plan without it is not taken."""
    made = PgVector(Database(server), "big", items, links=32)
    made._run("SET enable_seqscan = off")
    made.effort = 400
    yield made
    made.close()


def test_nearly_all_of_the_best_are_found_along_the_graph_and_scored_as_elsewhere(big, items, monkeypatch):
    queries = vectors(100, 1)
    wanted = Exact(items).search(queries, 10)
    monkeypatch.setattr("itemic.indexes.walking.top_k_inner", None)  # nothing is compared with everything
    found, shown = {}, {}
    for effort in (10, 400):
        big.effort = effort
        found[effort], shown[effort] = big.search(queries, 10)
    assert recall(found[10], wanted[0]) < recall(found[400], wanted[0])
    assert recall(found[400], wanted[0]) >= 0.95
    same = found[400] == wanted[0]
    np.testing.assert_array_equal(shown[400][same], wanted[1][same])


def test_what_is_excluded_or_closed_takes_no_place_from_others(big, items):
    queries = vectors(50, 2)
    scores, allowed = queries @ items.T, np.arange(len(items)) % 2 == 0
    best = plain_top_k(scores, 30)[0]
    barred = best.ravel(), np.arange(51) * 30
    wanted = plain_top_k(np.where(allowed, scores, -np.inf), 10, barred)[0]
    found = big.search(queries, 10, barred, allowed)[0]
    assert recall(found, wanted) > 0.9
    assert (found >= 0).all()
    assert (found % 2 == 0).all()
    assert not any(set(a) & set(b) for a, b in zip(found, best))


def test_more_than_a_graph_may_be_asked_for_is_found_nevertheless(big, items):
    queries = vectors(3, 3)
    for k, allowed in ((1500, None), (20, np.arange(len(items)) < 100)):
        for one, other in zip(big.search(queries, k, None, allowed), Exact(items).search(queries, k, None, allowed)):
            np.testing.assert_array_equal(one, other)


@settings(max_examples=20, deadline=None)
@given(n=st.integers(1, 60), k=st.integers(1, 12), seed=st.integers(0, 1000), closed=st.booleans())
def test_small_tables_give_just_what_everything_compared_gives(server, n, k, seed, closed):
    rng, items, queries = np.random.default_rng(seed), vectors(n, seed), vectors(5, seed + 1)
    items[rng.random(n) < 0.1] = np.nan
    queries[rng.random(5) < 0.1] = 0
    exclude = [rng.permutation(n)[: rng.integers(0, n + 1)] for _ in queries]
    barred = np.concatenate(exclude), np.cumsum([0, *map(len, exclude)])
    allowed = rng.random(n) < 0.7 if closed else None
    scores = queries @ items.T
    if allowed is not None:
        scores[:, ~allowed] = -np.inf
    wanted = plain_top_k(scores, k, barred)
    index = PgVector(Database(server), "small", items)
    found = index.search(queries, k, barred, allowed)
    index.close()
    np.testing.assert_array_equal(found[0], wanted[0])
    np.testing.assert_allclose(found[1], wanted[1], rtol=1e-4)


def test_new_items_are_found_and_in_the_table(database):
    items, queries = vectors(200), vectors(20, 3)
    index = PgVector(database, "m", items)
    more = np.concatenate([items, 3 * queries])
    index.extend(more)
    found = index.search(queries, 5)[0]
    np.testing.assert_array_equal(found, Exact(more).search(queries, 5)[0])
    assert (found[:, 0] >= 200).all()
    assert list(database.tables().values()) == [220]
    index.close()
    again = PgVector(database, "m", more)  # what was added is the same as what was there
    assert list(database.tables().values()) == [220]
    again.close()


def test_the_same_vectors_are_not_written_again_and_others_take_their_place(database, monkeypatch):
    items = vectors(100)
    first = PgVector(database, "m", items)
    first.effort = 64
    first.keep_effort()
    first.close()
    with monkeypatch.context() as patch:
        patch.setattr(PgVector, "_write", None)
        again, beside = PgVector(database, "m", items), PgVector(database, "m", items.copy())
    assert again.effort == beside.effort == 64
    (table,) = database.tables()
    newer = PgVector(database, "m", 2 * items)
    other = PgVector(database, "n", items)
    assert newer.effort is None
    assert len(database.tables()) == 3
    again.close()
    assert table in database.tables()  # somebody searches it still
    wanted = Exact(items).search(items[:3], 4)
    np.testing.assert_array_equal(beside.search(items[:3], 4)[0], wanted[0])
    beside.close()
    assert table not in database.tables()
    assert len(database.tables()) == 2
    newer.close()
    other.close()
    assert len(database.tables()) == 2  # they wait for who opens them next


def test_a_table_whose_service_was_killed_is_dropped_when_others_are_opened(database):
    first = PgVector(database, "m", vectors(50))
    database.end_connections()
    assert len(database.tables()) == 1
    newer = PgVector(database, "m", vectors(50, 1))
    assert len(database.tables()) == 1
    newer.close()
    first.close()


def test_nothing_is_half_written(database, monkeypatch):
    real = pgvector._binary

    def broken(vectors, items):
        yield next(real(vectors, items))
        raise KeyboardInterrupt

    monkeypatch.setattr(pgvector, "_binary", broken)
    with pytest.raises(KeyboardInterrupt):
        PgVector(database, "m", vectors(50))
    assert database.tables() == {}
    assert database.run("SELECT * FROM vectors") == []
    monkeypatch.undo()
    PgVector(database, "m", vectors(50)).close()
    assert list(database.tables().values()) == [50]


def test_two_services_on_one_table_do_not_see_the_items_of_each_other(database):
    items = vectors(60)
    one, two = PgVector(database, "m", items), PgVector(database, "m", items)
    own, others = (np.concatenate([items, 5 * vectors(3, seed)]) for seed in (1, 2))
    queries = vectors(10, 1)
    one.extend(own)
    np.testing.assert_array_equal(two.search(queries, 5)[0], Exact(items).search(queries, 5)[0])
    two.extend(others)  # not what the table holds: it is searched in memory
    for index, whole in ((one, own), (two, others)):
        np.testing.assert_array_equal(index.search(queries, 5)[0], Exact(whole).search(queries, 5)[0])
        index.close()


def test_a_server_that_is_gone_is_done_without_and_found_again(database, caplog, monkeypatch):
    items, queries = vectors(100), vectors(5, 1)
    index = PgVector(database, "m", items)
    wanted = Exact(items).search(queries, 5)[0]
    database.end_connections()
    before = database.connections
    for _ in range(3):  # it is not looked for at each request
        np.testing.assert_array_equal(index.search(queries, 5)[0], wanted)
    assert database.connections == before
    more = np.concatenate([items, 3 * queries])
    index.extend(more)
    index._again = time.monotonic()
    np.testing.assert_array_equal(index.search(queries, 5)[0], Exact(more).search(queries, 5)[0])
    assert list(database.tables().values()) == [105]
    said = [record.getMessage() for record in caplog.records]
    assert said[0].startswith("postgresql://here/shop: m is searched in memory: ")
    assert said[1:] == ["postgresql://here/shop: m is searched there again"]
    index.close()
    np.testing.assert_array_equal(index.search(queries, 5)[0], Exact(more).search(queries, 5)[0])


def test_names_of_models_are_values(database):
    name = "m'; DROP TABLE vectors; --"
    PgVector(database, name, vectors(5)).close()
    assert database.run("SELECT model, items FROM vectors") == [(name, 5)]


def test_what_pgvector_cannot_do_is_said_in_one_line(database, server):
    with pytest.raises(
        ConfigError, match="^m has vectors of 2,001 numbers; pgvector searches 1 to 2,000. Serve with v"
    ):
        PgVector(database, "m", np.zeros((3, 2001), np.float32))
    wide = PgVector(database, "m", np.eye(3, 2000, dtype=np.float32))
    assert wide.search(np.eye(1, 2000, dtype=np.float32), 1)[0].tolist() == [[0]]
    wide.close()
    database.run("DROP EXTENSION vector CASCADE")
    database.run("CREATE ROLE guest")

    class Guest(Database):
        def connect(self):
            connection = super().connect()
            connection.execute("SET ROLE guest")
            return connection

    with pytest.raises(ConfigError, match='shop has no pgvector: permission denied to create extension "vector". Inst'):
        PgVector(Guest(database.address), "m", vectors(3))
    database.run("CREATE EXTENSION vector")
    with pytest.raises(
        SaveError, match="shop cannot keep the vectors of m: permission denied for .*. Look at the data"
    ):
        PgVector(Guest(database.address), "m", vectors(3))
