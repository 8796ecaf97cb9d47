"""What a service is started with: options read strictly, a door that is shut to others, keys, folders of models."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from click.testing import CliRunner

from itemic.cli import main
from itemic.data.simulated import planted_groups
from itemic.errors import ConfigError
from itemic.registry import find
from itemic.serving.client import Client, ServiceError
from itemic.serving.config import names_of, read_config
from itemic.serving.run import check_door
from itemic.serving.stores import Event, open_store


def run(*args, code=0):
    done = CliRunner().invoke(main, [str(arg) for arg in args])
    assert done.exit_code == code, f"{done.stdout}\n{done.stderr}\n{done.exception!r}"
    return done


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two fitted models and their data."""
    folder = tmp_path_factory.mktemp("runs")
    train, _ = planted_groups(n_users=60, n_items=40, n_groups=4, loyalty=0.8, seed=0)
    train.save(folder / "data")
    for name in ("itemknn", "popularity"):
        find(name)().fit(train).save(folder / name)
    return folder


CONFIG = """
port: 8400
pipelines:
  main:
    sources:
      itemknn: {n: 50}
      trending: {kind: trending, half_life: 3}
    filters: {where: '"group" <> 3'}
    diversity: {caps: {group: 2}}
"""


def written(folder, text):
    (folder / "serve.yaml").write_text(text)
    return folder / "serve.yaml"


def test_options_come_from_a_file_the_environment_and_the_command_line_in_this_order(tmp_path):
    path = written(tmp_path, CONFIG)
    config = read_config(path, {"ITEMIC_SERVE_STORE": "a.db", "ITEMIC_SERVE_PORT": "1"}, port=2, host=None)
    assert (config.port, config.store, config.host) == (2, "a.db", "127.0.0.1")
    assert config.pipelines["main"].sources["trending"].half_life == 3


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("prot: 1", "serve.yaml has no option 'prot'. Did you mean 'port'? Options: host, port, "),
        ("port: x", "serve.yaml: port cannot be 'x': Input should be a valid integer"),
        ("limits: {boddy: 1}", "serve.yaml has no option 'limits.boddy'. Did you mean 'limits.body'?"),
        ("pipelines: {main: {sorces: {}}}", "'pipelines.main.sorces'. Did you mean 'pipelines.main.sources'?"),
        ("pipelines: {main: {sources: {a: {nn: 1}}}}", "has no option 'pipelines.main.sources.a.nn'."),
        (
            "pipelines: {main: {sources: {a: {}}, fallback: [b]}}",
            "pipelines.main: the fallback 'b' is no source; sources: a",
        ),
        (
            "pipelines: {main: {diversity: {mmr: 2}}}",
            "pipelines.main.diversity.mmr cannot be 2: Input should be less than 1",
        ),
        ("[1, 2]", "serve.yaml holds no options by name. Write for example: port: 8321"),
        ("a: [", "serve.yaml is no YAML: while parsing"),
    ],
)
def test_a_mistake_in_the_file_is_told_with_its_path_and_the_nearest_spelling(text, told, tmp_path):
    with pytest.raises(ConfigError) as caught:
        read_config(written(tmp_path, text), {})
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_mistake_elsewhere_is_told_too(tmp_path):
    with pytest.raises(
        ConfigError, match="the environment variable ITEMIC_SERVE_PROT sets no option. There are: ITEMIC_"
    ):
        read_config(None, {"ITEMIC_SERVE_PROT": "1"})
    with pytest.raises(ConfigError, match="nothing.yaml cannot be read: .*Give the file of the service's options."):
        read_config(tmp_path / "nothing.yaml", {})
    with pytest.raises(ConfigError, match="would both be served as 'a'. Name them in models: of a file."):
        names_of(["x/a", "y/a"])


def test_others_are_let_in_only_by_a_key():
    for host in ("127.0.0.1", "127.0.0.9", "::1", "localhost"):
        check_door(read_config(None, {}, host=host), has_keys=False)
    for host in ("0.0.0.0", "192.168.0.3", "::", "shop.example"):
        check_door(read_config(None, {}, host=host), has_keys=True)
        with pytest.raises(
            ConfigError, match=f"{host} can be reached by others, and there is no key. Make one: itemic serve k"
        ):
            check_door(read_config(None, {}, host=host), has_keys=False)


def test_check_says_what_would_be_served_and_serves_nothing(runs, tmp_path):
    store = ("--store", tmp_path / "events.db")
    done = run("serve", runs / "itemknn", runs / "popularity", *store, "--data", runs / "data", "--check")
    assert done.stdout.splitlines()[-1] == "ready: 40 items, 60 users, at http://127.0.0.1:8321"
    done = run("serve", runs / "itemknn", *store, "--config", written(tmp_path, CONFIG), "--check")
    assert done.stdout.splitlines()[1].split() == ["main", "itemknn,", "trending"]
    wrong = CONFIG.replace("itemknn:", "itemnn:")
    done = run("serve", runs / "itemknn", *store, "--config", written(tmp_path, wrong), "--check", code=1)
    said = (
        "error: pipelines.main names the model 'itemnn', which is not served. Did you mean 'itemknn'? Models: itemknn."
    )
    assert done.stderr.strip() == said
    assert run("serve", "--check", *store, code=1).stderr == (
        "error: there is no model to serve. Name its folder: itemic serve runs/e\n"
    )
    assert "is not a saved model" in run("serve", tmp_path, *store, "--check", code=1).stderr


def test_keys_are_made_listed_and_removed(tmp_path):
    store = ("--store", tmp_path / "events.db")
    secret = run("serve", "key", "add", "shop", "--scope", "write", *store).stdout.strip()
    assert secret.startswith("itemic_")
    assert len(secret) > 40
    assert run("serve", "key", "list", *store).stdout.split() == ["key", "scope", "shop", "write"]
    wrong = run("serve", "key", "add", "page", "--scope", "reed", *store, code=1).stderr
    assert wrong == "error: there is no scope 'reed'. Did you mean 'read'? Scopes: read, write, admin.\n"
    run("serve", "key", "remove", "shop", *store)
    assert run("serve", "key", "list", *store, "--json").stdout == "[]\n"


def test_a_store_is_copied_while_it_is_used(tmp_path):
    place, copy = tmp_path / "events.db", tmp_path / "copy.db"
    kept = open_store(place)
    kept.add_events([Event("1", "u", "i", 1)]).result()
    run("serve", "backup", copy, "--store", place)
    kept.add_events([Event("2", "u", "i", 1)]).result()
    kept.close()
    again = open_store(copy)
    assert [event.id for event in again.events()] == ["1"]
    again.close()
    assert run("serve", "backup", copy, "--store", place, code=1).stderr == (
        f"error: {copy} is there already. Give another name.\n"
    )


RUN = [sys.executable, "-c", "from itemic.cli import main; main()", "serve"]


def started(*args):
    """A service in a process of its own, and a client of it."""
    process = subprocess.Popen([*RUN, *map(str, args), "--port", "0"], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("http"):
            return process, Client(line.split()[0])
    raise AssertionError(f"it ended with {process.wait()}")


@pytest.mark.parametrize("how", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM])
def test_the_command_serves_until_it_is_told_to_end(how, runs, tmp_path):
    process, shop = started(runs / "popularity", "--store", tmp_path / "events.db")
    assert shop.recommend("3", k=2).items
    process.send_signal(how)
    assert process.wait(10) == 0
    kept = open_store(tmp_path / "events.db")
    assert [shown.user for shown in kept.impressions()] == ["3"]  # also what was not waited for
    kept.close()


@pytest.mark.slow
def test_twenty_kills_of_a_service_lose_no_acknowledged_event(runs, tmp_path):
    place, acknowledged = tmp_path / "events.db", set()
    for round_ in range(21):
        process, shop = started(runs / "popularity", "--store", place)

        def send(worker, shop=shop, round_=round_):
            try:
                for n in range(10_000):
                    name = f"{round_}-{worker}-{n}"
                    shop.add_event(f"u{n % 5}", str(n % 40), id=name)
                    acknowledged.add(name)
            except ServiceError:  # it was killed
                pass

        with ThreadPoolExecutor(8) as pool:
            for worker in range(8):
                pool.submit(send, worker)
            time.sleep(0.2 + 0.03 * (round_ % 7))
            process.kill()
        process.wait()
        kept = open_store(place)
        happened = list(kept.events())
        kept.close()
        stored = {event.id: event.user for event in happened}
        assert len(stored) == len(happened)
        assert acknowledged <= set(stored)
    process, shop = started(runs / "popularity", "--store", place)
    seen = [len(shop.user(user)["events"]) for user in set(stored.values())]
    process.kill()
    assert sum(seen) == len(stored) > 0


@pytest.mark.slow
def test_10000_mixed_requests_stay_under_a_memory_ceiling(runs, tmp_path):
    process, shop = started(runs / "itemknn", "--store", tmp_path / "events.db", "--data", runs / "data")
    ways = (
        lambda n: shop.recommend(f"u{n % 500}", k=5),
        lambda n: shop.recommend(history=[str(n % 40)], k=5, where='"group" = 1'),
        lambda n: shop.add_event(f"u{n % 500}", str(n % 40), id=str(n)),
        lambda n: shop.search("item", k=5),
        lambda n: shop.similar(str(n % 40), k=5),
        lambda n: shop.explain(str(n % 40), history=[str((n + 1) % 40)]),
        lambda n: shop.put_items({str(n % 40): {"group": n % 4}}),
        lambda n: shop.rank([str(n % 40), str((n + 7) % 40)], user=f"u{n % 500}"),
    )
    megabytes = []
    with ThreadPoolExecutor(4) as pool:
        for start in range(0, 10_000, 2000):
            done = [pool.submit(ways[n % len(ways)], n) for n in range(start, start + 2000)]
            assert all(one.result() is not None for one in done)
            status = Path(f"/proc/{process.pid}/status").read_text()
            megabytes.append(int(status.split("VmRSS:")[1].split()[0]) / 1024)
    process.kill()
    process.wait()
    assert megabytes[-1] < 600
    assert megabytes[-1] - megabytes[0] < 40


def test_serving_is_not_imported_where_it_is_not_used():
    code = "import sys, itemic, itemic.cli; sys.exit('fastapi' in sys.modules or 'sqlite3' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, env=os.environ).returncode == 0
