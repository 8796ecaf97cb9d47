"""What people do by mistake, and with data that is small or odd: nothing is lost, and each hint that is given works."""

import json
import shlex

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

import itemic
from itemic import Dataset
from itemic.cli import main
from itemic.errors import DataError, QueryError


def run(*args, code=0):
    done = CliRunner().invoke(main, [str(arg) for arg in args])
    assert done.exit_code == code, f"{done.stdout}\n{done.stderr}\n{done.exception!r}"
    return done


def fails(*args):
    done = run(*args, code=1)
    assert done.stdout == ""
    return done.stderr.strip().splitlines()[-1].removeprefix("error: ")


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """Four items with awkward ids and titles, in a file with names that nobody could guess."""
    folder = tmp_path_factory.mktemp("odd")
    rows = [
        ("Jürgen", "a, b"),
        ("Jürgen", 'say "hi"'),
        ("Åsa B", "日本"),
        ("Åsa B", "a, b"),
        ("李", "日本"),
        ("李", "x"),
    ]
    pl.DataFrame(rows, schema=["Kunde", "Ding"], orient="row").write_csv(folder / "odd.csv")
    titles = {"item": ["a, b", 'say "hi"', "日本", "x"], "title": ["two\nlines", "b", "c", "d"]}
    pl.DataFrame(titles).write_csv(folder / "items.csv")
    run("data", "import", folder / "odd.csv", "--columns", "user=Kunde,item=Ding", "--items", folder / "items.csv",
        "--out", folder / "data")  # fmt: skip
    run("fit", "itemknn", folder / "data", "--out", folder / "knn")
    return folder


@pytest.fixture(scope="module")
def numbered(tmp_path_factory):
    """Twelve users and thirty items whose ids are integers."""
    folder = tmp_path_factory.mktemp("numbered")
    rng = np.random.default_rng(0)
    pairs = sorted({(int(u), int(i)) for u in range(12) for i in rng.choice(30, 10)})
    pl.DataFrame(pairs, schema=["user", "item"], orient="row").write_csv(folder / "events.csv")
    run("data", "import", folder / "events.csv", "--out", folder / "data")
    run("fit", "itemknn", folder / "data", "--out", folder / "knn")
    return folder


@pytest.mark.parametrize("command", ["import", "fit"])
def test_an_output_folder_that_holds_something_else_is_not_touched(odd, tmp_path, command):
    (tmp_path / "thesis.txt").write_text("precious")
    source = ["data", "import", odd / "odd.csv"] if command == "import" else ["fit", "popularity", odd / "data"]
    message = fails(*source, "--out", tmp_path)
    assert message == (
        f"{tmp_path} holds 'thesis.txt', which itemic did not write and would delete. Give a new folder with --out."
    )
    assert [path.read_text() for path in tmp_path.iterdir()] == ["precious"]


def test_the_hint_for_columns_nobody_could_guess_works_as_it_stands(odd, tmp_path):
    message = fails("data", "import", odd / "odd.csv", "--out", tmp_path / "data")
    assert "has no user and no item column; its columns are Kunde, Ding." in message
    hint = message.partition("Name them: ")[2].split()
    assert hint == ["--columns", "user=Kunde,item=Ding"]
    run("data", "import", odd / "odd.csv", *hint, "--out", tmp_path / "data")
    half = fails("data", "import", odd / "odd.csv", "--columns", "user=Kunde", "--out", tmp_path / "data")
    assert half.endswith("Name it: --columns user=Kunde,item=Ding")


def test_what_fit_says_to_try_next_works_on_few_items_and_odd_ids(odd):
    said = run("fit", "itemknn", odd / "data", "--out", odd / "again").stdout.partition("next: itemic ")[2]
    assert said.endswith("--k 4\n")
    assert run(*shlex.split(said)).stdout.startswith("rank")
    assert run("rank", odd / "knn", "--user", "Åsa B").stdout.startswith("rank")  # 10 by default, where there are 10


def test_an_id_with_a_comma_is_given_in_quotes(odd):
    ranked = json.loads(run("rank", odd / "knn", "--history", '"a, b",x', "--json").stdout)
    assert {best["item"] for best in ranked["answers"][0]["items"]} == {"日本", 'say "hi"'}


def test_a_title_with_a_line_break_stays_on_one_line(odd):
    lines = run("rank", odd / "knn", "--history", "日本").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["rank", "1", "2", "3"]
    assert any(line.endswith("two lines") for line in lines)


def test_ids_come_back_in_the_type_they_came_in(numbered, tmp_path):
    asked = json.loads(run("rank", numbered / "knn", "--user", "3", "--user", "4", "--json").stdout)["answers"]
    assert [answer["user"] for answer in asked] == [3, 4]
    like = json.loads(run("similar", numbered / "knn", "--item", "3", "--json").stdout)["answers"]
    assert [answer["item"] for answer in like] == [3]
    run("rank", numbered / "knn", "--users", "3,4", "--out", tmp_path / "some.parquet")
    run("rank", numbered / "knn", "--all-users", "--out", tmp_path / "all.parquet")
    some, everybody = (pl.read_parquet(tmp_path / f"{name}.parquet") for name in ("some", "all"))
    assert everybody.filter(pl.col("user").is_in([3, 4])).equals(some)


def test_several_users_are_told_apart_in_the_notes(numbered):
    notes = run("rank", numbered / "knn", "--users", "3,4").stderr.splitlines()
    assert [note.partition(" had ")[0] for note in notes] == ["user 3", "user 4"]


def test_a_comparison_of_few_items_takes_the_lists_that_there_are(odd, tmp_path):
    (tmp_path / "test.csv").write_text("user,item\n李,x\nÅsa B,x\n")
    (tmp_path / "train.csv").write_text("user,item\n李,y\nÅsa B,z\n李,w\n")
    run("data", "import", tmp_path / "train.csv", "--test", tmp_path / "test.csv", "--out", tmp_path / "data")
    run("fit", "itemknn", tmp_path / "data", "--out", tmp_path / "knn")
    assert "recall@20" in run("compare", tmp_path / "knn", tmp_path / "data").stdout


def test_the_demonstration_of_a_file_saves_the_data_that_it_names(numbered, tmp_path):
    out = run("demo", numbered / "events.csv", "--out", tmp_path / "demo").stdout
    told = [line.split()[1:] for line in out.splitlines() if line.startswith("  itemic ")]
    fit = next(args for args in told if args[0] == "fit")
    assert Dataset.open(fit[2]).n_users == 12
    for args in told:
        if args[0] in ("rank", "similar"):
            run(*args)


def test_the_demonstration_splits_data_that_has_no_split(numbered, tmp_path):
    data = Dataset.open(numbered / "data")
    Dataset(data.items, data.users, data.interactions, name="plain").save(tmp_path / "plain")
    assert "ndcg@10" in run("demo", tmp_path / "plain", "--out", tmp_path / "demo").stdout


def test_a_file_too_small_to_split_can_still_be_fitted(odd, tmp_path):
    (tmp_path / "few.csv").write_text("user,item\n1,a\n2,b\n1,b\n")
    done = run("fit", "itemknn", tmp_path / "few.csv", "--out", tmp_path / "knn")
    assert "without a split: split by random of 3 interactions" in done.stderr
    assert "fitting on all: 3 interactions" in done.stderr


def test_scores_that_mean_nothing_are_owned_up_to(tmp_path):
    (tmp_path / "events.csv").write_text("user,item\n1,a\n1,b\n2,b\n2,a\n")
    (tmp_path / "users.csv").write_text("user\n1\n2\n3\n")
    run("data", "import", tmp_path / "events.csv", "--users", tmp_path / "users.csv", "--out", tmp_path / "data")
    for system, told in (("itemknn", True), ("popularity", False)):
        run("fit", system, tmp_path / "data", "--all", "--out", tmp_path / system)
        notes = run("rank", tmp_path / system, "--user", "3").stderr
        assert notes.startswith("had nothing yet")
        assert (f"{system} ranks by history and so has nothing to go by here" in notes) == told


@pytest.mark.parametrize("columns", [{"user": [1, 2], "item": [1]}, {"user": [1, "a"], "item": [1, 2]}])
def test_columns_that_make_no_table_are_refused(columns):
    with pytest.raises(
        DataError, match=r"the columns make no table: .*\. Give lists of one length, each of one type\."
    ):
        Dataset.from_frame(columns)


MISTAKES = {
    "a set nobody knows": (["fit", "ease", "{}/none"], "none does not exist, and there is no known set of that name."),
    "a set nearly known": (["fit", "ease", "ml-1n"], "Did you mean 'ml-1m'?"),
    "a value that is none": (["fit", "ease", "{}/data", "--set", "l2=["], "--set 'l2=[': '[' is no value."),
    "an option under a value": (
        ["fit", "ease", "{}/data", "--set", "l2=1", "--set", "l2.x=1"],
        "--set 'l2.x=1': l2 has a value already",
    ),
    "more than the memory": (["fit", "ials", "{}/data", "--set", "dim=10000000000000"], "not enough memory: "),
    "a list that is not there": (["rank", "{}/knn", "--users", "{}/none.txt"], "none.txt does not exist."),
    "no field of a query": (
        ["systems", "--answers", "histry"],
        "Did you mean 'history'? Fields: dialogue, ",
    ),
    "lists below a file": (
        ["rank", "{}/knn", "--all-users", "--out", "{}/events.csv/x.csv"],
        "cannot write {}/events.csv/x.csv",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_with_the_mend(name, numbered):
    args, expected = MISTAKES[name]
    assert expected.format(numbered) in fails(*[arg.format(numbered) for arg in args])


def damaged(folder, name, content):
    data = Dataset.open(folder / "data").save(folder / "copy")
    assert data.path is not None
    path = data.path / name
    path.write_bytes(content(path.read_bytes()))
    return fails("data", "describe", data.path)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (lambda old: old[:-4] + b"\xff\xff\xff\x7f", "interactions/item.npy holds codes that are not those of its 30 "),
        (lambda old: old[:-4] + b"\xff\xff\xff\xff", "interactions/item.npy holds codes that are not those of its 30 "),
        (lambda old: old[:-4], "item.npy is cut short or no column of numbers."),
        (lambda old: b"junk", "item.npy is cut short or no column of numbers."),
        (lambda old: b"", "item.npy is cut short or no column of numbers."),
    ],
    ids=["a code above", "a code below", "cut short", "junk", "empty"],
)
def test_a_damaged_column_is_named(numbered, tmp_path, content, fault):
    Dataset.open(numbered / "data").save(tmp_path / "data")
    message = damaged(tmp_path, "interactions/item.npy", content)
    assert message.startswith(f"{tmp_path}/copy is damaged: {fault}")
    assert message.endswith("Import the data again or restore the folder.")
    assert "pickle" not in message


def test_names_given_for_a_file_that_has_them_as_its_header_do_not_become_a_row(tmp_path):
    (tmp_path / "h.csv").write_text("user,item\n1,2\n1,3\n2,2\n")
    done = run("data", "import", tmp_path / "h.csv", "--columns", "user,item", "--out", tmp_path / "h")
    assert "2 users, 2 items, 3 interactions" in done.stdout


def test_a_broken_json_row_is_counted_from_one(tmp_path):
    (tmp_path / "j.jsonl").write_text('{"user":1,"item":2}\n{"user":1,"item":}\n')
    assert "j.jsonl row 2: Invalid value. Mend the row." in fails(
        "data", "import", tmp_path / "j.jsonl", "--out", tmp_path / "j"
    )


def test_an_infinite_option_is_refused(numbered, tmp_path):
    message = fails("fit", "ease", numbered / "data", "--set", "l2=.inf", "--out", tmp_path / "e")
    assert "l2 cannot be inf: Input should be a finite number" in message


def test_one_flat_history_is_told_from_a_list_of_them():
    model = itemic.system("itemknn").fit(Dataset.from_frame({"user": [1, 1, 2], "item": [3, 4, 4]}))
    with pytest.raises(QueryError, match=r"each a list of items: histories=\[\[3, 4\]\]"):
        model.ask(histories=[3, 4])
