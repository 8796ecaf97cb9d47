"""Models are fitted again on all that is known, judged, put in place whole, and gone over to while requests come in."""

import json
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from itemic.cli import main
from itemic.data import Dataset
from itemic.data.simulated import planted_groups
from itemic.errors import ConfigError, LoadError, SaveError
from itemic.indexes.hnsw import HNSW
from itemic.model import load
from itemic.registry import find
from itemic.serving import current, refreshing, versions
from itemic.serving.client import Client, Event, ServiceError
from itemic.serving.config import read_config
from itemic.serving.keys import new_key
from itemic.serving.merging import merged
from itemic.serving.refreshing import refresh, unfitted, worth
from itemic.serving.stores import Event as Happened
from itemic.serving.stores import open_store
from itemic.serving.stores.base import digest, now
from itemic.serving.versions import alone, beside, put_in_place, recover, roll_back

LATER = 2_000_000_000_000


def run(*args, code=0):
    done = CliRunner().invoke(main, [str(arg) for arg in args])
    assert done.exit_code == code, f"{done.stdout}\n{done.stderr}\n{done.exception!r}"
    return done


@pytest.fixture
def shop(tmp_path):
    """Data of 40 items in four groups, two models of them, and a store."""
    train, _ = planted_groups(n_users=60, n_items=40, n_groups=4, loyalty=0.8, seed=0)
    data = train.save(tmp_path / "data")
    folders = [str(tmp_path / name) for name in ("itemknn", "contentknn")]
    for folder in folders:
        find(Path(folder).name)().fit(data).save(folder)
    store = open_store(tmp_path / "events.db")
    yield data, folders, store
    store.close()


def new_tastes(n_users=60, seed=1, first=0, shift=2):
    """Events of people who take items of their group, and of the one that lies `shift` further."""
    rng = np.random.default_rng(seed)
    events = []
    for user in range(n_users):
        group = user % 4
        for n in range(6):
            item = 4 * rng.integers(10) + (group if n % 2 else (group + shift) % 4)
            events.append(Happened(f"n{first}-{user}-{n}", f"new{user}", str(item), LATER + 10 * n + first))
    return sorted(events, key=lambda event: event.time)


def test_what_is_learned_again_is_the_data_and_the_store_without_what_was_deleted(tmp_path):
    items = {"item": [1, 2, 3], "title": ["cup", "pot", "pan"]}
    frame = {"user": [7, 7, 8, 9], "item": [1, 2, 2, 3], "timestamp": [10, 20, 15, 30]}
    data = Dataset.from_frame(frame, items=items).with_features("v", np.eye(3, dtype=np.float32))
    store = open_store(tmp_path / "events.db")
    store.put_items({"5": {"title": "lid"}, "2": {"title": "big pot"}, "3": {"title": "x"}}).result()
    store.delete_items(["3"]).result()
    store.add_events([Happened("a", "9", "1", 40_000), Happened("b", "9", "2", 40_000)]).result()
    store.delete_user("9").result()
    store.delete_user("8").result()
    store.add_events(
        [Happened("c", "8", "5", 50_000), Happened("d", "ann", "2", 60_000), Happened("e", "7", "3", 1),
         Happened("f", "7", "5", 12_000)]
    ).result()  # fmt: skip
    whole = merged(data, store)
    made = whole.dataset
    assert made.items.ids.array.to_pylist() == [1, 2, 5]
    assert made.items.column("title").to_pylist() == ["cup", "big pot", "lid"]
    assert made.users.ids.array.to_pylist() == ["7", "8", "ann"]
    assert made.interactions.histories().to_lists() == [[0, 2, 1], [2], [1]]
    assert made.interactions.time.tolist() == [10_000, 12_000, 20_000, 50_000, 60_000]
    assert whole.place.tolist() == [0, 6, 0, 3, 4]
    assert whole.learned["events"] == 6
    expected = [[1, 0, 0], [0, 1, 0], [np.nan] * 3]
    np.testing.assert_array_equal(made.feature("v"), np.array(expected, np.float32))
    store.close()


def test_a_deletion_that_was_not_yet_on_disk_when_the_store_was_read_is_not_lost(tmp_path, monkeypatch):
    data, store = Dataset.from_frame({"user": ["ann", "bob"], "item": ["a", "b"]}), open_store(tmp_path / "events.db")
    store.add_events([Happened("1", "ann", "b", 9_000)]).result()
    read = []

    def stamped():
        moment = now()
        time.sleep(0.01)
        read.append(merged(data, store))
        return moment

    monkeypatch.setattr("itemic.serving.stores.base.now", stamped)
    store.delete_user("ann").result()
    (whole,) = read
    assert whole.dataset.users.ids.array.to_pylist() == ["ann", "bob"]  # it was read as it had been
    assert store.forgotten(after=whole.learned["deletions"]) == {digest("ann")}
    assert store.forgotten(after=merged(data, store).learned["deletions"]) == set()
    store.close()


def test_weights_and_kinds_of_events_are_learned_where_the_data_has_them(tmp_path):
    frame = {"user": ["u", "u"], "item": ["a", "b"], "timestamp": [1, 2], "kind": ["view", "cart"]}
    data = Dataset.from_frame(frame, columns={"kind": "kind"})
    store = open_store(tmp_path / "events.db")
    store.add_events([Happened("1", "u", "a", 9_000, "buy", 3.0), Happened("2", "v", "a", 9_000, "view")]).result()
    log = merged(data, store).dataset.interactions
    assert [log.kinds[kind] for kind in log.kind] == ["view", "cart", "buy", "view"]
    assert log.weight.tolist() == [1, 1, 3, 1]
    timeless = Dataset.from_frame({"user": ["u", "u"], "item": ["b", "a"]})
    assert merged(timeless, store).dataset.interactions.columns.keys() == {"user", "item", "weight"}
    store.close()


def test_new_models_know_what_happened_and_both_are_judged_by_what_neither_saw(shop):
    data, folders, store = shop
    store.add_events(new_tastes()).result()
    done = run("refresh", *folders, "--data", data.path, "--store", store.database.path)
    _, knn, words, end = done.stdout.splitlines()
    name, before, now, _ = knn.split()
    assert name == folders[0]
    assert float(now) > 1.1 * float(before) > 0  # who takes what together has changed
    assert words.split()[1] == words.split()[2]  # words have not
    assert end.startswith("refreshed: 40 items, 120 users, ")
    new, old = load(folders[0]), load(beside(folders[0], "before"))
    assert (new.catalogue.n_users, old.catalogue.n_users) == (120, 60)
    assert new.config == old.config
    assert new.fitted_on["store"]["events"] == 360
    liked = new.ask(histories=[[0, 4]])
    assert 2 in new.rank(liked, 20).items % 4


def test_the_old_model_is_judged_as_the_service_would_ask_it(shop):
    data, folders, store = shop
    store.add_events(new_tastes()).result()
    whole = merged(data, store)
    log = whole.dataset.interactions
    from itemic.data.splits import held_out

    exam = held_out(whole.dataset, whole.place > 180, "newest")
    old = load(folders[0])
    lists = old.rank(old.ask(histories=exam.valid.query.history.to_lists()), 10).items
    relevant, discount = exam.valid.relevant.to_lists(), 1 / np.log2(np.arange(2, 12))
    gains = [sum(discount[np.isin(row, wanted)]) / sum(discount[: len(wanted)]) for row, wanted in zip(lists, relevant)]
    assert worth(old, exam.valid, whole.dataset) == pytest.approx(np.mean(gains), abs=1e-6)
    assert len(log) == len(data.interactions) + 360


def test_a_model_that_would_be_worse_is_not_taken_unless_it_must_be(shop, tmp_path):
    _, folders, store = shop
    store.add_events(new_tastes(shift=0)).result()
    rng = np.random.default_rng(0)  # as when somebody names the wrong data
    noise = {"user": np.repeat(np.arange(60), 20), "item": rng.integers(0, 40, 1200)}
    wrong = Dataset.from_frame(noise, items={"item": np.arange(40), "title": ["x"] * 40}).save(tmp_path / "noise")
    asked = ("refresh", folders[0], "--data", wrong.path, "--store", store.database.path)
    before = Path(folders[0], "system.json").read_bytes()
    said = run(*asked, code=1).stderr.splitlines()[-1]
    assert said.startswith(f"error: {folders[0]} would be worse: ndcg@10 0.")
    assert said.endswith("Nothing is changed. Take it nevertheless: --force")
    assert Path(folders[0], "system.json").read_bytes() == before
    assert not beside(folders[0], "next").exists()
    run(*asked, "--tolerance", "1")
    assert Path(folders[0], "system.json").read_bytes() != before
    run("refresh", "--rollback", folders[0])
    assert Path(folders[0], "system.json").read_bytes() == before
    run(*asked, "--force")


def test_a_trained_model_stops_by_the_newest_events_and_keeps_its_options(tmp_path):
    train, _ = planted_groups(n_users=60, n_items=40, n_groups=4, loyalty=0.8, seed=0)
    data, folder = train.save(tmp_path / "data"), str(tmp_path / "bpr")
    training = {"epochs": 6, "batch_size": 256, "lr": 0.05, "patience": 2}
    find("bpr")(dim=8, training=training).fit(data).save(folder)
    store = open_store(tmp_path / "events.db")
    store.add_events(new_tastes()).result()
    done = refresh([folder], data, store, force=True)
    new = load(folder)
    assert new.config.dim == 8
    assert new.config.training.epochs == 6
    assert new.fitted_on["best_epoch"] <= 6
    assert new.fitted_on["curve"]
    assert done.n_held >= 20
    assert new.histories.lengths.sum() == len(train.interactions) + 360  # also what judged it
    store.close()


def test_a_deleted_user_is_in_no_file_of_a_model_after_the_refresh(tmp_path):
    train, _ = planted_groups(n_users=30, n_items=40, n_groups=4, loyalty=0.8, seed=0)
    data, folder = train.save(tmp_path / "data"), str(tmp_path / "bpr")
    find("bpr")(dim=4, training={"epochs": 1, "batch_size": 256}).fit(data).save(folder)
    store = open_store(tmp_path / "events.db")
    store.add_events([Happened("1", "ann", "3", LATER), Happened("2", "5", "3", LATER)]).result()
    refresh([folder], data, store)
    assert {"ann", "5"} <= set(pq.read_table(f"{folder}/users.parquet")["id"].to_pylist())
    for user in ("ann", "5"):
        store.delete_user(user).result()
    refresh([folder], data, store)
    assert not {"ann", "5"} & set(pq.read_table(f"{folder}/users.parquet")["id"].to_pylist())
    kept = np.flatnonzero(np.arange(30) != 5)
    assert load(folder).histories.to_lists() == [train.interactions.histories()[user].tolist() for user in kept]
    assert {len(rows) for name, rows in load(folder).weights.items() if "user" in name} == {29}
    assert b"ann" not in b"".join(path.read_bytes() for path in Path(folder).rglob("*") if path.is_file())
    refresh([folder], data, store)  # and then the version before does not know them either
    assert len(load(beside(folder, "before")).catalogue.users) == 29
    store.close()


def test_what_cannot_be_refreshed_is_told_in_one_line(shop, tmp_path):
    data, folders, store = shop
    place = ("--store", store.database.path)
    assert run("refresh", *place, code=1).stderr.startswith("error: there is no model to refresh. Name its folder: ")
    said = "error: to refresh, the dataset is needed. Name it: --data FOLDER, or data: in the file.\n"
    assert run("refresh", folders[0], *place, code=1).stderr == said
    said = f"error: {folders[0]} has no version before. It has one after: itemic refresh {folders[0]}\n"
    assert run("refresh", "--rollback", folders[0], code=1).stderr == said
    with alone(folders), pytest.raises(SaveError, match="itemknn is being refreshed already. Wait until that has end"):
        refresh(folders[:1], data, store)
    Path(folders[0] + ".next").mkdir()
    Path(folders[0] + ".next/mine").write_text("precious")
    with pytest.raises(SaveError, match="itemknn.next holds 'mine', which itemic did not write"):
        refresh(folders[:1], data, store)
    assert Path(folders[0] + ".next/mine").read_text() == "precious"
    with pytest.raises(LoadError, match="is not a saved model"):
        refresh([str(tmp_path / "nothing")], data, store)
    with pytest.raises(ConfigError, match="serve: refresh.every cannot be 'x': 'x' is not a length of time."):
        read_config(None, {}, refresh={"every": "x"}, data="d")
    with pytest.raises(ConfigError, match="serve: to refresh, the dataset is needed: name it in data"):
        read_config(None, {}, refresh={"every": "1d"})


def test_parts_and_their_options_are_fitted_again_too():
    train, _ = planted_groups(n_users=30, n_items=40, n_groups=4, loyalty=0.8, seed=0)
    model = find("pipeline")(sources={"itemknn": {"n": 9}}, fallback=[], itemknn={"k": 7}).fit(train)
    again = unfitted(model)
    assert not again.is_fitted
    assert not again.parts["itemknn"].is_fitted
    assert (again.config, again.parts["itemknn"].config.k) == (model.config, 7)


# Versions -------------------------------------------------------------------------------------------------------

CHANGE = """
    import os, shutil, signal, sys
    from pathlib import Path
    from itemic import files
    from itemic.serving import versions
    def killing(work):
        def run(*args, **told):
            global left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return work(*args, **told)
        return run
    for place, name in ((os, "replace"), (os, "rename"), (os, "unlink"), (os, "rmdir"), (files, "_exchange")):
        setattr(place, name, killing(getattr(place, name)))
    for left, home in enumerate(sys.argv[1:]):
        if not os.fork():
            versions.put_in_place([f"{home}/a", f"{home}/b"])
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.wait()[1]))
"""


def made(folder, text):
    folder.mkdir()
    (folder / "system.json").write_text(json.dumps({"format": "itemic-model", "text": text}))
    return folder


def text(folder):
    return json.loads((Path(folder) / "system.json").read_text())["text"]


def test_a_kill_at_any_point_leaves_all_old_models_or_all_new_ones(tmp_path):
    homes = [tmp_path / str(step) for step in range(25)]
    for home in homes:
        home.mkdir()
        for name in "ab":
            for version, what in (("old", name), ("new", f"{name}.next"), ("oldest", f"{name}.before")):
                made(home / what, version)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CHANGE), *map(str, homes)], capture_output=True, text=True, check=True
    )
    ended, seen = [int(line) for line in done.stdout.split()], []
    for home in homes:
        folders = [str(home / name) for name in "ab"]
        assert {text(folder) for folder in folders} <= {"old", "new"}  # whole, each of them, already now
        recover(folders)
        recover(folders)
        seen.append({(text(folder), text(folder + ".before")) for folder in folders})
        assert seen[-1] in ({("old", "oldest")}, {("new", "old")})
        assert not list(home.glob("*.change"))
    kills = ended.index(0)
    assert kills > 5
    assert ended == [-signal.SIGKILL] * kills + [0] * (25 - kills)
    assert seen[0] != seen[kills - 1] == seen[-1]


def test_who_comes_upon_a_change_waits_for_whoever_makes_it(tmp_path, monkeypatch):
    folder = str(made(tmp_path / "a", "old"))
    made(tmp_path / "a.next", "new")
    finish, both = versions._finish, []

    def slowly(*told):
        helper = threading.Thread(target=recover, args=([folder],))
        helper.start()
        both.append(helper)
        time.sleep(0.1)
        assert helper.is_alive()
        finish(*told)

    monkeypatch.setattr(versions, "_finish", slowly)
    with versions._held([folder]):
        put_in_place([folder])
    both[0].join()
    assert (len(both), text(folder), text(folder + ".before")) == (1, "new", "old")


@pytest.mark.slow
def test_refreshes_that_are_killed_at_any_time_leave_models_that_are_served_together(shop):
    data, folders, store = shop
    code = "from itemic.cli import main; main()"
    asked = ["refresh", *folders, "--data", str(data.path), "--store", str(store.database.path), "--force"]
    took, ended = 0.0, []
    for step in range(21):
        store.put_items({str(100 + step): {"title": "new", "group": 1}}).result()  # each version knows other items
        begun = time.monotonic()
        process = subprocess.Popen([sys.executable, "-c", code, *asked], stderr=subprocess.DEVNULL)
        try:
            process.wait(None if step == 0 else took * (0.8 + 0.015 * step))
        except subprocess.TimeoutExpired:
            process.kill()
        ended.append(process.wait())
        took = took or time.monotonic() - begun
        done = run("serve", *folders, "--data", data.path, "--store", store.database.path, "--check")
        assert done.stdout.splitlines()[-1].startswith("ready: ")
    assert -signal.SIGKILL in ended


def test_a_version_can_be_gone_back_to_and_forth(tmp_path):
    folder = str(made(tmp_path / "a", "old"))
    made(tmp_path / "a.next", "new")
    put_in_place([folder])
    assert (text(folder), text(folder + ".before")) == ("new", "old")
    roll_back([folder])
    assert (text(folder), text(folder + ".before")) == ("old", "new")
    roll_back([folder])
    assert (text(folder), text(folder + ".before")) == ("new", "old")


# While it serves ------------------------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(current, "LOOK", 0.02)


def until(holds, seconds=60):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def since(client):
    return client.call("GET", "/v1/ready")["since"]


class Asker(threading.Thread):
    """Somebody who takes items, deletes what is known of them now and then, and looks whether lists are right."""

    def __init__(self, url, number):
        super().__init__()
        self.client, self.user, self.rng = Client(url), f"w{number}", np.random.default_rng(number)
        self.taken, self.answers, self.wrong, self.stop = [], 0, [], threading.Event()

    def run(self):
        try:
            while not self.stop.is_set():
                self.answers += 1
                item = str(self.rng.integers(40))
                self.client.add_event(self.user, item, id=f"{self.user}-{self.answers}")
                self.taken.append(item)
                listed = [one.item for one in self.client.recommend(self.user, k=5).items]
                if set(listed) & set(self.taken) or len(set(listed)) != 5:
                    self.wrong.append((listed, list(self.taken)))
                if len(self.taken) == 15:
                    self.client.delete_user(self.user)
                    self.taken = []
        except Exception as error:  # the thread that looks tells of it
            self.wrong.append(error)


def test_a_service_goes_over_to_new_models_and_no_request_fails(shop, served, quick):
    data, folders, store = shop
    store.add_events(new_tastes()).result()
    with served(folders, data, store) as client:
        askers = [Asker(client._url.geturl(), number) for number in range(6)]
        for asker in askers:
            asker.start()
        swaps = [since(client)]
        for _ in range(3):
            run("refresh", *folders, "--data", data.path, "--store", store.database.path, "--force")
            until(lambda: since(client) != swaps[-1])
            swaps.append(since(client))
        until(
            lambda: (
                any(asker.wrong for asker in askers)
                or (sum(asker.answers for asker in askers) > 200 and all(asker.taken for asker in askers))
            )
        )
        for asker in askers:
            asker.stop.set()
        for asker in askers:
            asker.join()
        assert [asker.wrong for asker in askers] == [[]] * 6
        for asker in askers:  # nothing was lost or counted twice
            if asker.taken:
                assert client.user(asker.user)["history"] == asker.taken
            else:  # just deleted
                with pytest.raises(ServiceError, match=f"nothing is known of a user '{asker.user}'"):
                    client.user(asker.user)


def test_what_arrives_while_models_are_fitted_is_in_the_answers_of_the_new_ones(shop, served, quick, monkeypatch):
    data, folders, store = shop
    store.add_events(new_tastes()).result()
    with served(folders, data, store) as client:
        before, fit = since(client), refreshing._refitted

        def busy(*args):
            client.add_events([Event("late", "5", "l1"), Event("3", "5", "l2"), Event("new2", "9", "l3")])
            client.put_items({"100": {"title": "item 100 of group 2", "group": 2}})
            client.delete_items(["8"])
            client.delete_user("new1")
            client.add_event("new1", "7", id="l4")
            monkeypatch.setattr(refreshing, "_refitted", fit)
            return fit(*args)

        monkeypatch.setattr(refreshing, "_refitted", busy)
        known = [item for item in client.user("new2")["history"] if item not in ("8", "9")]
        refresh(folders, data, store, force=True)
        until(lambda: since(client) != before)
        assert client.user("late")["history"] == ["5"]
        assert [item for item in client.user("new2")["history"] if item != "8"] == [*known, "9"]
        assert client.user("3")["history"][-1] == "5"
        assert client.user("new1")["history"] == ["7"]
        words = [one.item for one in client.recommend(history=["2", "6"], k=40, model="contentknn").items]
        assert "100" in words
        assert "8" not in words
        assert client.call("GET", "/v1/ready")["items"] == 41
        refresh(folders, data, store, force=True)
        until(lambda: client.call("GET", "/v1/ready")["items"] == 40)  # now also the deleted item is out of the model
        assert client.user("new1")["history"] == ["7"]
        assert client.user("late")["history"] == ["5"]


def test_what_arrives_while_new_models_are_read_is_in_their_answers(shop, served, quick, monkeypatch):
    data, folders, store = shop
    with served(folders, data, store) as client:
        client.add_events([Event("kept", "1", "k1"), Event("gone", "2", "k2")])
        began, opened = since(client), current._opened

        def slowly(old):
            new = opened(old)
            monkeypatch.setattr(current, "_opened", opened)
            client.add_events([Event("kept", "5", "k3"), Event("late", "6", "k4")])
            client.delete_user("gone")
            client.delete_user("3")
            client.add_event("gone", "9", id="k5")
            client.put_items({"100": {"title": "item 100 of group 2", "group": 2}, "6": {"title": "x", "group": 9}})
            client.delete_items(["10", "14"])
            client.put_items({"14": {"title": "item 14 of group 2", "group": 2}})
            return new

        monkeypatch.setattr(current, "_opened", slowly)
        refresh(folders, data, store, force=True)
        until(lambda: since(client) != began)
        assert [client.user(user)["history"] for user in ("kept", "late", "gone")] == [["1", "5"], ["6"], ["9"]]
        with pytest.raises(ServiceError, match="nothing is known of a user '3'"):
            client.user("3")
        words = [one.item for one in client.recommend(history=["2"], k=40, model="contentknn").items]
        assert {"100", "14"} <= set(words)
        assert "10" not in words
        assert client.item("6") == {"title": "x", "group": 9}
        assert client.recommend(history=[], k=1).items[0].item in ("1", "2", "5", "6", "9")  # what trends, by events


def test_a_service_follows_a_rollback_and_starts_again_as_it_was(shop, served, quick, tmp_path):
    (data, folders, store), config = shop, tmp_path / "serve.yaml"
    store.add_events(new_tastes()).result()

    def answers(client):
        lists = [client.recommend(user, k=10) for user in ("new1", "3", "57")]
        return [[one.item for one in answer.items] for answer in lists], client.user("new1")["history"]

    with served(folders, data, store) as client:
        old, began = answers(client), since(client)
        named = "models: {itemknn: " + folders[0] + ", contentknn: " + folders[1] + "}"
        config.write_text(f"{named}\ndata: {data.path}\nstore: {store.database.path}")
        run("refresh", "--config", config)
        until(lambda: since(client) != began)
        new, began = answers(client), since(client)
        assert new[0] != old[0]
        assert new[1] == old[1]
    with served(folders, data, store) as client:
        assert answers(client) == new
        began = since(client)
        run("refresh", "--rollback", "--config", config)
        until(lambda: since(client) != began)
        assert answers(client) == old


def test_models_that_cannot_be_served_are_not_gone_over_to(shop, served, quick, caplog):
    data, folders, store = shop
    with served(folders, data, store) as client:
        began = since(client)
        store.put_items({"100": {"title": "new"}}).result()
        refresh(folders[:1], data, store)  # the other one now knows other items
        until(lambda: "goes on with the models it has: " in caplog.text)
        assert "do not have the same items in the same order. Fit all models that are served together" in caplog.text
        assert client.recommend("3", k=3).items
        assert since(client) == began
        refresh(folders, data, store)
        until(lambda: since(client) != began)
        assert client.recommend("3", k=3).items


def test_a_change_that_was_cut_off_is_finished_by_the_service(shop, served, quick, monkeypatch):
    data, folders, store = shop
    with served(folders, data, store) as client:
        began = since(client)
        monkeypatch.setattr(versions, "_finish", lambda *_: (_ for _ in ()).throw(OSError("cut off")))
        with pytest.raises(SaveError, match="itemknn.change says what is to be put in place, and cannot: cut off."):
            refresh(folders, data, store)
        time.sleep(0.2)
        assert since(client) == began
        monkeypatch.undo()
        monkeypatch.setattr(current, "LOOK", 0.02)
        until(lambda: since(client) != began)
        assert beside(folders[1], "before").is_dir()


def test_the_service_fits_its_models_itself_when_told_and_by_its_schedule(shop, served, quick, monkeypatch):
    monkeypatch.setattr("itemic.serving.keys.FRESH", 0.0)
    data, folders, store = shop
    options = {"store": str(store.database.path)}
    with served(folders[:1], data, store, **options) as client:
        began = since(client)
        assert client.refresh() == {"running": True, "ended": None, "error": None}
        with pytest.raises(ServiceError, match="the models are being fitted already. Ask how it goes: GET /v1/admin"):
            client.refresh()
        until(lambda: not client.refreshed()["running"])
        assert client.refreshed()["error"] is None
        until(lambda: since(client) != began)
        writer, admin = (Client(client._url.geturl(), new_key(store, one, one)) for one in ("write", "admin"))
        with pytest.raises(ServiceError, match="the key 'write' may write; this needs one that may admin."):
            writer.refresh()
        assert admin.refreshed()["running"] is False
        data.path.joinpath("manifest.json").rename(data.path / "hidden")
        admin.refresh()
        until(lambda: not admin.refreshed()["running"])
        assert "is not a dataset: it holds no manifest.json" in admin.refreshed()["error"]
        data.path.joinpath("hidden").rename(data.path / "manifest.json")
        store.remove_key("write")
        store.remove_key("admin")
    with served(folders[:1], data, store, **options, refresh={"every": "1s"}) as client:
        began = since(client)
        until(lambda: since(client) != began)


def test_a_model_with_a_graph_over_its_items_has_one_again(shop, tmp_path):
    data, _, store = shop
    folder = str(tmp_path / "bpr")
    model = find("bpr")(dim=8, training={"epochs": 2}).fit(data)
    model.index(recall=0.5)
    model.save(folder)
    store.put_items({"41": {"title": "new"}}).result()
    store.add_events(new_tastes(40)).result()
    refresh([folder], data, store, force=True)
    fresh = load(folder)
    fresh.settle()
    assert fresh.catalogue.n_items == 41
    assert isinstance(fresh._index, HNSW)
