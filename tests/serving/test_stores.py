"""The store forgets nothing that it acknowledged, and takes nothing twice."""

import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from itemic.errors import ConfigError, LoadError, SaveError
from itemic.serving.stores import Event, Impression, Key, open_store
from itemic.serving.stores import base as stores

FEW = settings(max_examples=10)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "events.db"


@pytest.fixture
def store(place):
    opened = open_store(place)
    yield opened
    opened.close()


def test_events_come_back_by_time_and_then_as_they_were_stored(store):
    late, early = Event("1", "ann", "cup", 20, "view", 0.5, "shown-1"), Event("2", "ann", "pot", 10)
    also = Event("3", "bob", "cup", 10)
    assert store.add_events([late, early, also]).result() == [True, True, True]
    assert list(store.events()) == [early, also, late]
    assert list(store.events(user="ann")) == [early, late]
    assert list(store.events(item="cup")) == [also, late]


def test_events_are_found_again_by_the_place_where_they_were_stored(store):
    first, second, third = (Event(name, user, "cup", 30 - n) for n, (name, user) in enumerate(["1a", "2b", "3a"]))
    store.add_events([first, second]).result()
    place = store.last_places()["events"]
    store.add_events([third]).result()
    assert list(store.events(after=place)) == [third]
    assert list(store.events(until=place)) == [second, first]
    assert list(store.events(user="a", after=place, until=store.last_places()["events"])) == [third]
    places, events = store.placed(until=store.last_places()["events"])
    assert events == [first, second, third]
    assert places == sorted(set(places))
    assert places[1] == place


def test_a_place_is_not_given_again_after_its_event_is_deleted(store):
    store.add_events([Event("1", "ann", "cup", 1), Event("2", "bob", "cup", 1)]).result()
    place = store.last_places()["events"]
    store.delete_user("bob").result()
    store.add_events([Event("3", "eve", "cup", 1)]).result()
    assert [event.user for event in store.events(after=place)] == ["eve"]


def test_who_was_deleted_after_a_place_is_told_by_the_last_time(store):
    places = [store.last_places()["deletions"]]
    for user in ("ann", "bob", "ann"):
        store.delete_user(user).result()
        places.append(store.last_places()["deletions"])
    ann, bob = stores.digest("ann"), stores.digest("bob")
    assert [store.forgotten(after=place) for place in places] == [{ann, bob}, {ann, bob}, {ann}, set()]
    assert store.forgotten() == {ann, bob}


TOLD = st.tuples(st.sampled_from("abcdef"), st.sampled_from("uv"), st.sampled_from("xyz"), st.integers(0, 3))
EVENTS = st.lists(TOLD.map(lambda told: Event(*told)), max_size=6)


@pytest.mark.slow
def test_a_server_that_does_not_answer_is_told_without_the_password():
    with pytest.raises(LoadError, match="postgresql://127.0.0.1/shop cannot be opened as a store: .*refused") as caught:
        open_store("postgresql://me:secret@127.0.0.1:9/shop")
    assert "secret" not in str(caught.value)


@pytest.mark.slow
def test_a_store_goes_on_when_its_server_was_started_again(place):
    if isinstance(place, Path):
        pytest.skip("a file has no server")
    import psycopg

    store = open_store(place)
    with psycopg.connect(place, autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
    with pytest.raises(SaveError, match="terminating connection"):
        store.add_events([Event("1", "u", "i", 1)]).result()
    with pytest.raises(SaveError, match="terminating connection"):
        store.events()
    assert store.add_events([Event("1", "u", "i", 1)]).result() == [True]
    assert len(list(store.events())) == 1
    store.close()


@FEW
@given(calls=st.lists(EVENTS, max_size=5))
def test_an_id_counts_once_however_often_and_wherever_it_comes(calls, tmp_path_factory):
    store = open_store(tmp_path_factory.mktemp("store") / "events.db")
    done = [store.add_events(call) for call in calls]
    kept: dict = {}
    for call, answer in zip(calls, done):
        expected = []
        for event in call:
            expected.append(event.id not in kept)
            kept.setdefault(event.id, event)
        assert answer.result() == expected
    assert sorted(store.events()) == sorted(kept.values())
    store.close()


def test_items_are_put_replaced_deleted_and_put_again(store):
    store.put_items({"cup": {"title": "Tasse", "price": 2.5, "tags": ["a", "b"]}, "pot": {}}).result()
    store.put_items({"cup": {"title": "Cup"}}).result()
    store.delete_items(["pot", "never seen"]).result()
    assert list(store.items()) == [("cup", {"title": "Cup"}), ("pot", None), ("never seen", None)]
    store.put_items({"pot": {"price": 3}}).result()
    assert dict(store.items())["pot"] == {"price": 3}


def test_impressions_come_back_with_their_propensities(store):
    drawn, plain = Impression("r1", "ann", 5, "main", ["a", "b"], [0.5, 1.0]), Impression("r2", None, 6, "main", [3])
    store.log(drawn).result()
    store.log(plain).result()
    assert list(store.impressions()) == [drawn, plain]
    assert list(store.impressions(user="ann")) == [drawn]


def test_a_deleted_user_leaves_a_digest_and_nothing_else(store):
    store.add_events([Event("1", "ann", "cup", 1), Event("2", "bob", "cup", 1)]).result()
    store.log(Impression("r", "ann", 5, "main", ["a"])).result()
    assert store.delete_user("ann").result() == {"events": 1, "impressions": 1}
    assert [event.user for event in store.events()] == ["bob"]
    assert store.forgotten() == {stores.digest("ann")}


def test_a_deleted_user_is_not_in_the_file(file):
    store = open_store(file)
    store.add_events([Event("1", "ann", "cup", 1)]).result()
    store.delete_user("ann").result()
    store.close()
    assert b"ann" not in file.read_bytes()


def test_a_store_is_what_it_was_after_closing(store, place):
    store.add_events([Event("1", "ann", "cup", 1)])
    store.put_items({"cup": {"title": "Cup"}})
    store.add_key(Key("mine", "d", "read"))
    store.close()
    again = open_store(place)
    assert [event.id for event in again.events()] == ["1"]
    assert list(again.items()) == [("cup", {"title": "Cup"})]
    assert again.keys() == [Key("mine", "d", "read")]
    with pytest.raises(
        ConfigError, match="there is a key named 'mine' already. Give another name, or remove that one."
    ):
        again.add_key(Key("mine", "e", "read"))
    with pytest.raises(ConfigError, match="there is no key named 'yours'. Keys: mine."):
        again.remove_key("yours")
    again.remove_key("mine")
    assert again.keys() == []
    again.close()
    with pytest.raises(SaveError, match="the store is closed. Open it again."):
        again.add_events([])


def test_what_arrives_together_is_committed_together(store):
    commits = []
    commit = store._writer._commit
    store._writer._commit = lambda group: (commits.append(len(group)), commit(group))
    with ThreadPoolExecutor(20) as pool:
        done = list(pool.map(lambda n: store.add_events([Event(str(n), "u", "i", n)]).result(), range(200)))
    assert done == [[True]] * 200
    assert sum(commits) == 200
    assert len(commits) < 100


def test_a_change_that_fails_does_not_take_others_with_it(store):
    gate = threading.Event()
    store._change(lambda run: gate.wait())  # the following wait for it, and so go into one transaction
    good = store.add_events([Event("1", "u", "i", 1)])
    bad = store.add_events([Event("2", "u", None, 1)])  # pyright: ignore[reportArgumentType]
    other = store.add_events([Event("3", "u", "i", 1)])
    gate.set()
    assert good.result() == other.result() == [True]
    with pytest.raises(SaveError, match=r"cannot be written: .*item.*\. Look at the database\.$"):
        bad.result()


def test_a_change_that_nobody_waits_for_any_more_is_not_made_and_stops_no_other(store):
    gate, at_it = threading.Event(), threading.Event()

    def held(run):
        at_it.set()
        gate.wait()

    going = store._change(held)
    at_it.wait()
    given_up, other = (store.add_events([Event(str(n), "u", "i", 1)]) for n in range(2))
    assert (going.cancel(), given_up.cancel()) == (False, True)
    gate.set()
    assert other.result(timeout=10) == [True]
    assert [event.id for event in store.events()] == ["1"]


def test_a_long_reading_holds_up_no_other(store):
    found = []
    with store._reading():
        other = threading.Thread(target=lambda: found.extend([store.keys(), *store.events()]), daemon=True)
        other.start()
        other.join(timeout=20)
    assert found == [[]]
    assert len({id(reader) for reader in store._readers}) == 2


def test_a_disk_that_is_too_slow_makes_the_store_refuse(store, monkeypatch):
    gate = threading.Event()
    held = store._change(lambda run: gate.wait())
    time.sleep(0.05)
    monkeypatch.setattr(store._writer._queue, "maxsize", 1)
    store.add_events([])
    with pytest.raises(SaveError, match="20,000 changes wait for the disk. Send more slowly."):
        store.add_events([])
    gate.set()
    held.result()


def test_every_commit_is_flushed(file):
    store = open_store(file)
    synchronous = sqlite3.connect(file)
    assert synchronous.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert store.database.connect().execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
    assert file.stat().st_mode & 0o777 == 0o600
    store.close()


def test_a_store_is_brought_to_the_newest_version_step_by_step(place, monkeypatch):
    with monkeypatch.context() as before:
        before.setattr(stores, "MIGRATIONS", stores.MIGRATIONS[:1])
        first = open_store(place)
        first._writer.submit(lambda c: c.execute("INSERT INTO forgotten (digest, time) VALUES ('d', 5)")).result()
        first.close()
    now = open_store(place)
    assert (now.version, now.forgotten(), now.forgotten(after=0)) == (2, {"d"}, set())
    now.close()
    monkeypatch.setattr(stores, "MIGRATIONS", (*stores.MIGRATIONS, ("ALTER TABLE items ADD COLUMN colour TEXT",)))
    newer = open_store(place)
    assert newer.version == 3
    newer.close()
    monkeypatch.setattr(stores, "MIGRATIONS", (*stores.MIGRATIONS, ("CREATE TABLE x (y TEXT)", "nonsense")))
    with pytest.raises(LoadError, match='cannot be read as a store: .*"nonsense"'):
        open_store(place)
    monkeypatch.setattr(stores, "MIGRATIONS", (*stores.MIGRATIONS[:3], ("CREATE TABLE x (y TEXT)",)))
    open_store(place).close()  # the failed step left nothing
    monkeypatch.undo()
    with pytest.raises(LoadError, match="is a store of version 4; this itemic knows 2. Upgrade itemic."):
        open_store(place)


def test_a_file_that_is_no_store_and_an_unknown_database_are_refused(tmp_path):
    with pytest.raises(LoadError, match="none.db: there is no store here. Serve first: itemic serve RUN --store "):
        open_store(tmp_path / "none.db", make=False)
    assert not (tmp_path / "none.db").exists()
    (tmp_path / "notes.txt").write_text("not a database, but long enough to be looked at " * 20)
    with pytest.raises(LoadError, match="notes.txt cannot be opened as a store: file is not a database. Give another"):
        open_store(tmp_path / "notes.txt")
    with pytest.raises(
        ConfigError, match="there is no store of the kind 'mysql'. Give a file, for SQLite, or postgresql:"
    ):
        open_store("mysql://here")


WRITE = """
import sys, threading
from itemic.serving.stores import Event, open_store
store, round_ = open_store(sys.argv[1]), sys.argv[2]
lock = threading.Lock()
def write(worker):
    for n in range(10**6):
        names = [f"{round_}-{worker}-{n}-{i}" for i in range(3)]
        store.add_events([Event(name, "u", "i", n) for name in names]).result()
        with lock:
            print(*names, flush=True)
for worker in range(8):
    threading.Thread(target=write, args=(worker,), daemon=True).start()
threading.Event().wait()
"""


def killed_under_load(place, round_):
    """The ids that a writer said were stored before it was killed."""
    writer = subprocess.Popen([sys.executable, "-c", WRITE, place, str(round_)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    said = [writer.stdout.readline() for _ in range(20)]
    time.sleep(0.01 * (round_ % 7))
    writer.kill()
    said += writer.stdout.readlines()
    writer.wait()
    return {name for line in said if line.endswith("\n") for name in line.split()}


@pytest.mark.parametrize("n", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_kills_lose_no_acknowledged_event_and_apply_none_twice(place, n):
    acknowledged: set = set()
    for round_ in range(n):
        acknowledged |= killed_under_load(place, round_)
        store = open_store(place)
        kept = [event.id for event in store.events()]
        assert len(kept) == len(set(kept))
        assert acknowledged <= set(kept)
        again = store.add_events([Event(name, "u", "i", 0) for name in sorted(acknowledged)])  # as a client would retry
        assert not any(again.result())
        assert len(list(store.events())) == len(kept)
        store.close()
