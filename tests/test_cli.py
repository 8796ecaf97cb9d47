"""The command line as a user meets it: results on stdout, notes on stderr, one-line errors, one JSON document."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file

from itemic.cli import main

ITEMIC = Path(sys.executable).parent / "itemic"


def run(*args, code=0):
    done = CliRunner().invoke(main, [str(arg) for arg in args])
    assert done.exit_code == code, f"{done.stdout}\n{done.stderr}\n{done.exception!r}"
    return done


def fails(*args, code=1):
    done = run(*args, code=code)
    assert done.stdout == ""
    message = done.stderr.strip().splitlines()[-1]
    assert message.startswith("error: ")
    assert "Traceback" not in done.stderr
    return message


@pytest.fixture(scope="module")
def events(tmp_path_factory):
    """A plain user,item file with two groups of tastes, and an item table."""
    folder = tmp_path_factory.mktemp("events")
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(60), 12)
    item = np.where(rng.random(720) < 0.8, user % 2 * 20 + rng.integers(0, 20, 720), rng.integers(0, 40, 720))
    frame = pl.DataFrame({"user": [f"u{u}" for u in user], "item": [f"i{i}" for i in item]}).unique(maintain_order=True)
    frame.write_csv(folder / "events.csv")
    items = {"item": [f"i{i}" for i in range(40)], "title": [f"Thing {i}" for i in range(40)]}
    pl.DataFrame(items | {"brand": ["X" if i % 3 else "Y" for i in range(40)]}).write_csv(folder / "items.csv")
    return folder


@pytest.fixture(scope="module")
def shelf(events):
    """The three commands of the README: import, fit, rank."""
    run("data", "import", events / "events.csv", "--items", events / "items.csv", "--out", events / "data")
    run("fit", "ease", events / "data", "--set", "l2=5", "--out", events / "runs/e")
    return events


def test_help_is_there_in_half_a_second_and_imports_nothing_heavy():
    code = (
        "import sys; from itemic.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numba', 'scipy', 'polars', 'pyarrow', 'matplotlib', 'pydantic', 'rich'}\n"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    seconds = []
    for _ in range(3):  # the best of three, of the processor: other work on the machine is not ours
        start = os.times()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        taken = os.times()
        seconds.append(taken.children_user + taken.children_system - start.children_user - start.children_system)
    assert done.returncode == 0, done.stderr
    assert "itemic demo" in done.stdout
    assert min(seconds) < 0.5


@pytest.mark.parametrize("module", ["itemic", "itemic.data", "itemic.systems", "itemic.systems.base"])
def test_importing_the_package_imports_no_torch(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules or 'polars' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def every_command(group=main, path=()):
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from every_command(command, (*path, name))
        else:
            yield (*path, name)


@pytest.mark.parametrize("path", list(every_command()), ids=" ".join)
def test_every_command_has_help_with_examples_and_json(path):
    shown = run(*path, "--help").stdout
    assert f"itemic {' '.join(path)}" in shown.split("Examples:")[1]
    assert "--json" in shown


def test_rank_shows_ids_titles_and_what_the_user_had(shelf):
    done = run("rank", shelf / "runs/e", "--user", "u1", "--k", 3)
    assert done.stdout.splitlines()[0].split() == ["rank", "item", "score", "title"]
    assert "Thing" in done.stdout.splitlines()[1]
    assert done.stderr.startswith("had ")


def test_rank_json_is_one_document_and_agrees_with_the_table(shelf):
    done = run("rank", shelf / "runs/e", "--user", "u1", "--k", 3, "--json")
    (answer,) = json.loads(done.stdout)["answers"]
    table = run("rank", shelf / "runs/e", "--user", "u1", "--k", 3).stdout
    assert [item["item"] for item in answer["items"]] == [line.split()[1] for line in table.splitlines()[1:]]


def test_a_history_of_somebody_never_seen_is_answered_by_taste(shelf):
    done = run("rank", shelf / "runs/e", "--history", "i1,i2,i3", "--k", 5, "--json")
    ranked = [item["item"] for item in json.loads(done.stdout)["answers"][0]["items"]]
    assert not {"i1", "i2", "i3"} & set(ranked)
    assert sum(int(item[1:]) < 20 for item in ranked) >= 4


def test_where_candidates_and_exclude_limit_the_answer(shelf):
    asked = ["rank", shelf / "runs/e", "--history", "i1,i2", "--k", 30, "--json"]
    items = json.loads(run(*asked, "--where", "brand = 'Y'", "--exclude", "i0,i3").stdout)["answers"][0]["items"]
    assert {int(i["item"][1:]) % 3 for i in items} == {0}
    assert not {"i0", "i3"} & {i["item"] for i in items}
    items = json.loads(run(*asked, "--candidates", "i5,i6").stdout)["answers"][0]["items"]
    assert {i["item"] for i in items} == {"i5", "i6"}


def test_all_users_are_written_to_a_file_that_says_what_rank_says(shelf, tmp_path):
    run("rank", shelf / "runs/e", "--all-users", "--k", 5, "--out", tmp_path / "recs.parquet")
    frame = pl.read_parquet(tmp_path / "recs.parquet")
    assert frame.columns == ["user", "rank", "item", "score", "title"]
    assert frame["user"].n_unique() == 60
    answer = json.loads(run("rank", shelf / "runs/e", "--user", "u7", "--k", 5, "--json").stdout)["answers"][0]
    assert frame.filter(pl.col("user") == "u7")["item"].to_list() == [item["item"] for item in answer["items"]]
    run("rank", shelf / "runs/e", "--users", "u7,u8", "--k", 2, "--out", tmp_path / "two.csv")
    assert pl.read_csv(tmp_path / "two.csv")["user"].to_list() == ["u7", "u7", "u8", "u8"]


def test_similar_items_share_the_planted_group(shelf):
    done = run("similar", shelf / "runs/e", "--item", "i3", "--k", 5, "--json")
    likes = [int(item["item"][1:]) for item in json.loads(done.stdout)["answers"][0]["items"]]
    assert 3 not in likes
    assert sum(i < 20 for i in likes) >= 4


def test_compare_adds_the_baselines_and_says_so(shelf, tmp_path):
    done = run("compare", shelf / "runs/e", shelf / "data", "--html", tmp_path / "report.html")
    assert "popularity" in done.stdout
    assert "random, test 10 %, valid 10 %" in done.stdout
    assert "popularity" in done.stderr
    assert "<svg" in (tmp_path / "report.html").read_text()


def test_compare_refuses_a_model_fitted_on_the_test_part(shelf):
    run("fit", "itemknn", shelf / "data", "--all", "--out", shelf / "leaky")
    message = fails("compare", shelf / "runs/e", shelf / "leaky", shelf / "data")
    assert "leaky" in message
    assert "test" in message


def test_fit_says_what_it_is_fitted_on(shelf, tmp_path):
    done = run("fit", "popularity", shelf / "data", "--out", tmp_path / "p")
    assert "the train part of the split (random" in done.stderr
    done = run("fit", "popularity", shelf / "data", "--all", "--out", tmp_path / "p")
    assert "fitting on all" in done.stderr


def test_a_trained_system_stops_by_the_validation_part_and_leaves_a_clean_folder_and_a_log(shelf, tmp_path):
    run("data", "import", shelf / "events.csv", "--out", tmp_path / "d")
    run("data", "split", tmp_path / "d", "--by", "random", "--valid", 0.2)
    options = ["--set", "dim=4", "--set", "training.epochs=3", "--set", "training.eval_every=1"]
    done = run("fit", "bpr", tmp_path / "d", *options, "--set", "training.checkpoint_steps=1", "--out", tmp_path / "b")
    assert "best: epoch " in done.stdout
    assert {path.suffix for path in (tmp_path / "b").iterdir()} == {".json", ".parquet", ".safetensors"}
    assert [path.name for path in (tmp_path / "b.run").iterdir()] == ["metrics.jsonl"]
    log = [json.loads(line) for line in (tmp_path / "b.run/metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in log] == [1, 2, 3]
    assert all("ndcg@20" in line for line in log)
    facts = json.loads((tmp_path / "b/system.json").read_text())
    assert facts["config"]["training"]["epochs"] == 3
    assert facts["fitted_on"]["curve"] == log
    done = run("fit", "bpr", tmp_path / "d", *options, "--all", "--out", tmp_path / "b", "--json")
    assert "all 3 epochs are run and the last one counts" in done.stderr
    assert json.loads(done.stdout)["curve"] == []


def test_resume_without_a_checkpoint_or_for_a_closed_form_says_so(shelf, tmp_path):
    message = fails("fit", "bpr", shelf / "data", "--out", tmp_path / "b", "--resume")
    assert message.endswith("b.run holds no checkpoint to resume from. Start without --resume.")
    message = fails("fit", "ease", shelf / "data", "--out", tmp_path / "e", "--resume")
    assert "ease is solved in one step: there is nothing to resume." in message
    message = fails("fit", "bpr", shelf / "data", "--set", "training.learning_rate=1", "--out", tmp_path / "b")
    assert (
        "bpr has no option 'training.learning_rate'. Did you mean 'training.lr'?" in message or "training." in message
    )
    message = fails("fit", "bpr", shelf / "data", "--set", "training.lr=-1", "--out", tmp_path / "b")
    assert "bpr: training.lr cannot be -1: Input should be greater than 0" in message
    assert not (tmp_path / "b.run").exists()


def test_two_processes_fit_what_one_does_and_validate_and_log_once(shelf, tmp_path):
    options = ["--set", "dim=4", "--set", "training.epochs=2", "--json"]
    one = run("fit", "bpr", shelf / "data", *options, "--out", tmp_path / "one")
    two = run("fit", "bpr", shelf / "data", *options, "--out", tmp_path / "two", "--devices", 2)
    assert two.stderr.splitlines()[0].endswith("; 2 processes")
    assert json.loads(two.stdout)["config"] == json.loads(one.stdout)["config"]
    assert len((tmp_path / "two.run/metrics.jsonl").read_text().splitlines()) == 2
    weights = [load_file(tmp_path / name / "weights.safetensors") for name in ("one", "two")]
    np.testing.assert_allclose(weights[1]["item"], weights[0]["item"], rtol=0, atol=1e-6)
    message = fails("fit", "ease", shelf / "data", "--out", tmp_path / "e", "--devices", 2)
    assert message == "error: ease is solved in one step, on one device. Leave out devices."
    assert "0 is not in the range x>=1" in run("fit", "bpr", shelf / "data", "--devices", 0, code=2).stderr


def test_a_device_that_is_not_there_is_told_before_anything_is_done(shelf, tmp_path, monkeypatch):
    message = fails("fit", "bpr", shelf / "data", "--out", tmp_path / "b", "--device", "cuda:77")
    assert message.startswith("error: torch ")
    assert "finds no device 'cuda:77' here. Give cpu" in message
    assert not list(tmp_path.iterdir())
    monkeypatch.setenv("ITEMIC_DEVICE", "banana")
    assert "finds no device 'banana'" in fails("fit", "bpr", shelf / "data", "--out", tmp_path / "b")
    run("fit", "ease", shelf / "data", "--out", tmp_path / "e")  # which has no network


def test_dialogues_are_imported_described_split_and_compared(tmp_path):
    rows = [
        {"dialogue": d, "role": role, "text": "said", "items": [f"i{(d + n) % 9}"]}
        for d in range(40)
        for n, role in enumerate(["user", "recommender"])
    ]
    (tmp_path / "talk.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    folder = tmp_path / "talk"
    done = run("data", "import", tmp_path / "talk.jsonl", "--form", "dialogues", "--out", folder)
    assert done.stdout.splitlines()[0] == (
        f"saved {folder}: 40 users, 9 items, 80 interactions, 40 dialogues of 80 turns; split: dialogues, test 10 %, "
        "valid 10 %, seed 0"
    )
    described = run("data", "describe", folder, "--json")
    assert json.loads(described.stdout)["dialogues"]["recommendations"] == 40
    split = run("data", "split", folder, "--by", "dialogues", "--test", 0.25, "--valid", 0)
    assert split.stdout == f"{folder}: dialogues, test 25 %, seed 0: train 60, valid 0, test 10\n"
    run("fit", "ease", folder, "--out", tmp_path / "e")
    compared = json.loads(run("compare", tmp_path / "e", folder, "--metrics", "recall@1", "--json").stdout)
    assert compared["queries"] == 10
    filtered = run("data", "filter", folder, "--k-core", 2, "--out", tmp_path / "less")
    assert "without the dialogues, which tell of what is filtered out" in filtered.stderr
    assert "40 dialogues" not in filtered.stdout


def test_a_split_is_chosen_saved_and_shown(shelf, tmp_path):
    run("data", "import", shelf / "events.csv", "--out", tmp_path / "d")
    done = run("data", "split", tmp_path / "d", "--by", "users", "--seed", 3, "--json")
    assert json.loads(done.stdout)["how"]["by"] == "users"
    again = run("data", "split", tmp_path / "d", "--by", "users", "--seed", 3, "--json")
    assert done.stdout == again.stdout
    message = fails("data", "split", tmp_path / "d", "--by", "time")
    assert "needs a 'time' column" in message


def test_a_gzip_file_and_named_columns_are_read(shelf, tmp_path):
    raw = (shelf / "events.csv").read_text().replace("user,item", "customer,sku")
    (tmp_path / "log.csv.gz").write_bytes(gzip.compress(raw.encode()))
    done = run(
        "data", "import", tmp_path / "log.csv.gz", "--columns", "user=customer,item=sku", "--out", tmp_path / "d"
    )
    assert "60 users, 40 items" in done.stdout


def test_describe_prints_and_writes_a_page(shelf, tmp_path):
    done = run("data", "describe", shelf / "data", "--html", tmp_path / "d.html")
    assert "60" in done.stdout
    assert "<svg" in (tmp_path / "d.html").read_text()


def test_systems_lists_the_registry_and_the_options_of_one():
    listed = json.loads(run("systems", "--json").stdout)
    assert {"popularity", "itemknn", "ease", "ials"} <= {entry["name"] for entry in listed}
    assert "l2" in run("systems", "ease").stdout


@pytest.mark.parametrize(("kind", "name", "option"), [("tokenizer", "rqkmeans", "levels"), ("encoder", "text", "pool")])
def test_systems_lists_what_systems_are_made_of_and_the_options_of_one(kind, name, option):
    assert name in {entry["name"] for entry in json.loads(run("systems", "--kind", kind, "--json").stdout)}
    assert name in run("systems", "--kind", kind).stdout
    assert option in run("systems", name).stdout


ERRORS = {
    "an unknown user": (["rank", "{}/runs/e", "--user", "nobody"], "1 of 1 users are not in the catalogue: 'nobody'"),
    "an unknown history": (["rank", "{}/runs/e", "--history", "a,b"], "none of the items of the history 'a,b'"),
    "a large k": (
        ["rank", "{}/runs/e", "--user", "u1", "--k", "41"],
        "k is 41; the catalogue has 40 items. Ask for 1 to 40.",
    ),
    "an unknown candidate": (["rank", "{}/runs/e", "--user", "u1", "--candidates", "i1,z"], "1 of 2 items are not"),
    "an unknown option": (["fit", "ease", "{}/data", "--set", "l3=5"], "ease has no option 'l3'. Did you mean 'l2'?"),
    "a wrong value": (["fit", "ease", "{}/data", "--set", "l2=many"], "ease: l2 cannot be 'many'"),
    "a setting without value": (["fit", "ease", "{}/data", "--set", "l2"], "--set 'l2' is not OPTION=VALUE"),
    "an unknown system": (["fit", "eas", "{}/data"], "there is no system 'eas'. Did you mean 'ease'?"),
    "a missing dataset": (["data", "describe", "{}/none"], "none"),
    "a place that is a file": (
        ["fit", "ease", "{}/data", "--out", "{}/events.csv"],
        "events.csv is a file, not a folder",
    ),
    "a place below a file": (
        ["fit", "ease", "{}/data", "--out", "{}/events.csv/x"],
        "events.csv is a file, not a folder",
    ),
    "a condition on no column": (
        ["rank", "{}/runs/e", "--user", "u1", "--where", "brnd = 'X'"],
        "Columns: title, brand, id",
    ),
    "a condition nothing meets": (["rank", "{}/runs/e", "--user", "u1", "--where", "brand = 'Z'"], "no item satisfies"),
    "another ending": (["rank", "{}/runs/e", "--all-users", "--out", "{}/recs.xls"], "must end with .parquet or .csv"),
    "a foreign model": (["rank", "{}/data", "--user", "u1"], "is not a saved model: it holds no system.json"),
    "an unknown metric": (["compare", "{}/runs/e", "{}/data", "--metrics", "ndgc@10"], "Did you mean 'ndcg"),
    "an unknown recipe": (["reproduce", "ease", "nothing"], "nothing"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_a_mistake_is_one_line_with_the_mend(name, shelf):
    args, expected = ERRORS[name]
    assert expected in fails(*[arg.format(shelf) for arg in args])


def test_misuse_ends_with_2(shelf):
    assert "say for whom" in run("rank", shelf / "runs/e", code=2).stderr
    assert "needs --out" in run("rank", shelf / "runs/e", "--all-users", code=2).stderr
    assert "No such option" in run("rank", shelf / "runs/e", "--usr", "1", code=2).stderr


def test_a_failed_fit_leaves_what_was_there(shelf, tmp_path):
    run("fit", "popularity", shelf / "data", "--out", tmp_path / "p")
    before = {path.name: path.read_bytes() for path in (tmp_path / "p").iterdir()}
    fails("fit", "popularity", shelf / "data", "--set", "half_life=-1", "--out", tmp_path / "p")
    assert {path.name: path.read_bytes() for path in (tmp_path / "p").iterdir()} == before


def test_a_reader_that_has_seen_enough_gets_no_stack_trace(shelf):
    command = f"{ITEMIC} rank {shelf}/runs/e --users u1,u2,u3 --k 20 | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, env=os.environ)
    assert "Traceback" not in done.stderr
    assert done.stdout.count("\n") == 1


def test_sessions_become_users_of_a_new_dataset_split_by_sessions(tmp_path):
    rows = [f"ann,{item},2024-05-{day:02}T09:{minute:02}" for day in range(1, 21) for minute, item in enumerate("xyz")]
    (tmp_path / "log.csv").write_text("\n".join(["user,item,timestamp", *rows]) + "\n")
    run("data", "import", tmp_path / "log.csv", "--out", tmp_path / "log", "--repeats")
    made = json.loads(run("data", "filter", tmp_path / "log", "--sessions", "30m", "--out", tmp_path / "visits",
                          "--json").stdout)  # fmt: skip
    assert (made["users"], made["interactions"], made["split"]["by"]) == (20, 60, "sessions")
    run("fit", "itemknn", tmp_path / "visits", "--out", tmp_path / "knn")
    assert run("rank", tmp_path / "knn", "--user", "ann/3", "--k", 1).stdout.startswith("rank")


def test_rank_says_that_popularity_answered_somebody_without_a_history(tmp_path):
    rows = [f"u{user},{item},{day}" for user in range(5) for day, item in enumerate("wxyz"[user % 2 :], start=1)]
    (tmp_path / "log.csv").write_text("\n".join(["user,item,timestamp", *rows]) + "\n")
    (tmp_path / "users.csv").write_text("user\n" + "\n".join(f"u{user}" for user in range(6)) + "\n")
    run("data", "import", tmp_path / "log.csv", "--users", tmp_path / "users.csv", "--out", tmp_path / "log")
    run("data", "split", tmp_path / "log", "--by", "last", "--valid", 0)
    run("fit", "sasrec", tmp_path / "log", "--set", "dim=4", "--set", "training.epochs=1", "--out", tmp_path / "s")
    said = "1 of 1 requests have no history: these lists are the most popular items"
    done = run("rank", tmp_path / "s", "--user", "u5")
    assert done.stderr.splitlines()[-1].endswith(said)
    assert json.loads(run("rank", tmp_path / "s", "--user", "u5", "--json").stdout)["notes"] == [said]
    assert "notes" not in json.loads(run("rank", tmp_path / "s", "--user", "u1", "--json").stdout)
