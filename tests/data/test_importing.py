"""Frames and files become a dataset with the codes, times and parts that were written down by hand."""

import datetime as dt
import subprocess
import sys

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from itemic.data import TEST, TRAIN, VALID, Dataset, EvalSet
from itemic.data.columns import find_columns
from itemic.data.importing import import_files
from itemic.errors import DataError

EVENTS = {"user": ["v", "u", "u"], "item": ["b", "c", "a"]}


def triples(data: Dataset) -> list[tuple]:
    log = data.interactions
    return list(zip(data.users.ids.external(log.user).tolist(), data.items.ids.external(log.item).tolist()))


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ("userId,movieId,rating,timestamp", "user,item,rating,time"),
        ("user_id,parent_asin,rating,timestamp,history", "user,item,rating,time,-"),
        ("reviewerID,asin,overall,unixReviewTime", "user,item,rating,time"),
        ("customer ID,SKU,Date,quantity", "user,item,time,weight"),
        ("visitorid,itemid,event,ts", "user,item,kind,time"),
        ("session_id,item_id,timestamp", "user,item,time"),
        ("uid,session,track-id,playcount,event_id", "user,session,item,weight,event_id"),
        ("business_id,user_id,stars,date,text", "item,user,rating,time,-"),
        ("user,product,score,action", "user,item,rating,kind"),
    ],
)
def test_columns_are_recognised_by_the_names_that_public_sets_use(names, found):
    expected = {role: name for role, name in zip(found.split(","), names.split(",")) if role != "-"}
    assert find_columns(names.split(",")) == expected


def test_named_columns_go_before_recognised_ones_and_a_dash_passes_over_one():
    names = ["user", "item", "sku", "time"]
    assert find_columns(names, {"item": "sku", "time": "-"}) == {"user": "user", "item": "sku"}


FRAMES = {
    "dict": lambda columns: columns,
    "arrays": lambda columns: {name: np.array(values) for name, values in columns.items()},
    "arrow": pa.table,
    "polars": pl.DataFrame,
    "lazy": pl.LazyFrame,
}


@pytest.mark.parametrize("make", FRAMES.values(), ids=FRAMES)
def test_every_kind_of_frame_gives_the_same_dataset(make):
    data = Dataset.from_frame(make(EVENTS))
    assert triples(data) == [("u", "c"), ("u", "a"), ("v", "b")]
    assert data.fingerprint == Dataset.from_frame(EVENTS).fingerprint


def test_a_pandas_frame_gives_the_same_dataset():
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    assert Dataset.from_frame(pandas.DataFrame(EVENTS)).fingerprint == Dataset.from_frame(EVENTS).fingerprint


def pairs_of(*ids: st.SearchStrategy) -> st.SearchStrategy:
    return st.one_of(*(st.lists(st.tuples(kind, kind), min_size=1, max_size=20) for kind in ids))


@given(pairs_of(st.integers(-9, 99), st.integers(-(2**62), 2**62), st.text("abé'", min_size=1, max_size=3)))
def test_ids_come_back_as_they_were_and_codes_follow_their_order(pairs):
    data = Dataset.from_frame({"user": [user for user, _ in pairs], "item": [item for _, item in pairs]})
    assert data.users.ids.array.to_pylist() == sorted({user for user, _ in pairs})
    assert data.items.ids.array.to_pylist() == sorted({item for _, item in pairs})
    assert triples(data) == sorted(pairs, key=lambda pair: pair[0])


def test_integer_ids_from_zero_are_their_own_codes():
    data = Dataset.from_frame({"user": [2, 0, 1], "item": ["10", "9", "2"]})
    assert data.users.ids.array.to_pylist() == [0, 1, 2]
    assert data.items.ids.array.to_pylist() == [2, 9, 10]


def test_ids_with_leading_zeros_stay_text(tmp_path):
    (tmp_path / "e.csv").write_text("user,item\n1,0553092626\n2,12\n")
    data = import_files(tmp_path / "e.csv")
    assert data.items.ids.array.to_pylist() == ["0553092626", "12"]
    assert data.users.ids.are_integers


def test_blanks_around_an_id_do_not_make_another_one(tmp_path):
    (tmp_path / "e.csv").write_text("user, item\nu, a\nu,b\nv,a\n")
    assert triples(import_files(tmp_path / "e.csv")) == [("u", "a"), ("u", "b"), ("v", "a")]


@pytest.mark.parametrize("scale", [1, 10**3, 10**6, 10**9])
@pytest.mark.parametrize("kind", [int, float])
def test_the_unit_of_time_is_judged_by_its_size(scale, kind):
    second = 1_600_000_000
    data = Dataset.from_frame(
        {"user": [1, 1], "item": [1, 2], "time": [kind(second * scale), kind((second + 7) * scale)]}
    )
    assert data.interactions.time.tolist() == [second * 1000, second * 1000 + 7000]


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        (["1970-01-02", "1970-01-03"], [86_400_000, 172_800_000]),
        (["1970-01-01 00:00:01", "1970-01-01 00:01:00"], [1000, 60_000]),
        (["1970-01-01T01:00:00+01:00", "1970-01-01T00:00:02Z"], [0, 2000]),
        (["1.5", "2"], [1500, 2000]),
        ([dt.datetime(1970, 1, 1, 0, 0, 1, 5000), dt.datetime(1970, 1, 1, 0, 0, 2)], [1005, 2000]),
        ([dt.date(1970, 1, 2), dt.date(1971, 1, 1)], [86_400_000, 31_536_000_000]),
    ],
)
def test_dates_become_milliseconds(times, expected):
    assert Dataset.from_frame({"user": [1, 1], "item": [1, 2], "time": times}).interactions.time.tolist() == expected


@pytest.mark.parametrize("text", ["2024-05-31", "2024-05-31 18:30:00", "2024-05-31T18:30:00.250Z"])
def test_dates_in_a_file_are_those_of_the_calendar(tmp_path, text):
    (tmp_path / "e.csv").write_text(f"user,item,date\n1,2,{text}\n")
    moment = dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC)
    assert import_files(tmp_path / "e.csv").interactions.time.tolist() == [int(moment.timestamp() * 1000)]


def test_every_column_of_an_event_is_kept_beside_it(tmp_path):
    head = "event_id,user,item,time,kind,session,weight,rating\n"
    (tmp_path / "e.csv").write_text(head + "e2,u,a,20,view,s9,2,0.5\ne1,u,b,10,cart,s1,1.5,4\ne3,t,a,5,view,s1,1,3\n")
    log = import_files(tmp_path / "e.csv").interactions
    assert log.event_id.to_pylist() == ["e3", "e1", "e2"]
    assert [log.kinds[kind] for kind in log.kind] == ["view", "cart", "view"]
    assert log.session.tolist() == [0, 0, 1]
    assert log.weight.tolist() == [1, 1.5, 2]
    assert log.rating.tolist() == [3, 4, 0.5]
    assert (log.rating.dtype, log.kind.dtype, log.session.dtype) == (np.float32, np.int16, np.int32)


def test_a_table_without_header_is_named_column_by_column(tmp_path):
    (tmp_path / "e.tsv").write_text("7\tx\t3\t1\n8\ty\t4\t2\n")
    data = import_files(tmp_path / "e.tsv", columns=["user", "item", "-", "weight"])
    assert triples(data) == [(7, "x"), (8, "y")]
    assert data.interactions.weight.tolist() == [1, 2]


def test_an_item_table_gives_the_catalogue_with_items_that_nobody_took():
    items = {"title": ["Cow", "Ant", "Zoo", "Bee"], "id": ["c", "a", "z", "b"], "price": [3, 1, 9, 2]}
    users = {"user_id": ["w", "u", "v"], "age": [1, 2, 3]}
    data = Dataset.from_frame(EVENTS, items=items, users=users)
    assert data.items.ids.array.to_pylist() == ["a", "b", "c", "z"]
    assert data.items.titles(range(4)) == ["Ant", "Bee", "Cow", "Zoo"]
    assert data.items.where("price < 3").tolist() == [True, True, False, False]
    assert data.users.column("age").to_pylist() == [2, 3, 1]
    assert triples(data) == [("u", "c"), ("u", "a"), ("v", "b")]


def test_text_of_items_may_hold_line_breaks_and_quotes(tmp_path):
    (tmp_path / "e.csv").write_text("user,item\nu,1\n")
    (tmp_path / "i.csv").write_text('item_id,title,description\n1,"A ""b"", c","two\nlines"\n2,,\n')
    data = import_files(tmp_path / "e.csv", items=tmp_path / "i.csv")
    assert data.items.titles([0, 1]) == ['A "b", c', None]
    assert data.items.column("description").to_pylist() == ["two\nlines", None]


@pytest.mark.parametrize(
    ("unknown", "rows", "catalogue", "users"),
    [("drop", [("u", "a")], ["a"], ["u"]), ("add", [("u", "c"), ("u", "a"), ("v", "b")], ["a", "b", "c"], ["u", "v"])],
)
def test_unknown_items_are_dropped_or_added_where_that_is_asked_for(tmp_path, unknown, rows, catalogue, users):
    pl.DataFrame(EVENTS).write_csv(tmp_path / "e.csv")
    (tmp_path / "items.csv").write_text("id,title\na,Ant\n")
    data = import_files(tmp_path / "e.csv", items=tmp_path / "items.csv", unknown=unknown)
    assert triples(data) == rows
    assert data.items.ids.array.to_pylist() == catalogue
    assert data.items.titles([0]) == ["Ant"]
    assert data.users.ids.array.to_pylist() == users


def test_an_own_test_set_is_an_official_split(tmp_path):
    for name, rows in (("e", "u,a\nu,b\nv,b\n"), ("valid", "u,d\n"), ("test", "u,c\nw,a\n")):
        (tmp_path / f"{name}.csv").write_text("user,item\n" + rows)
    data = import_files(tmp_path / "e.csv", valid=tmp_path / "valid.csv", test=tmp_path / "test.csv")
    assert dict(zip(triples(data), data.split.part)) == {
        ("u", "a"): TRAIN,
        ("u", "b"): TRAIN,
        ("v", "b"): TRAIN,
        ("u", "d"): VALID,
        ("u", "c"): TEST,
        ("w", "a"): TEST,
    }
    assert data.split.how == {"by": "official"}
    assert (data.official == data.split.part).all()
    assert data.test.query.user.tolist() == [0, -1]
    assert data.test.query.history.to_lists() == [[0, 1], []]
    assert data.test.relevant.to_lists() == [[2], [0]]


def test_parts_stay_with_their_rows_when_these_are_sorted_by_time():
    events = {"user": [1, 1, 1], "item": [7, 8, 9], "time": [30, 10, 20]}
    data = Dataset.from_frame(events, test={"user": [1], "item": [6], "time": [15]})
    assert data.interactions.item.tolist() == [2, 0, 3, 1]
    assert data.split.part.tolist() == [TRAIN, TEST, TRAIN, TRAIN]


def test_a_test_file_of_another_type_of_id_still_meets_the_same_users():
    data = Dataset.from_frame({"user": [1, 2], "item": ["a", "b"]}, test={"user": ["1"], "item": ["b"]})
    assert data.users.ids.array.to_pylist() == [1, 2]
    assert data.test.relevant.to_lists() == [[1]]


def test_lists_of_a_frame_are_sequences():
    data = Dataset.from_frame(pl.DataFrame({"user": ["v", "u"], "items": [[3, 1], [2]]}))
    assert triples(data) == [("u", 2), ("v", 3), ("v", 1)]
    assert data.ordered


def test_an_eval_set_has_the_train_part_as_history_and_ratings_as_grades(tmp_path):
    data = Dataset.from_frame({"user": [1, 1, 2], "item": [5, 6, 7]}, test={"user": [2], "item": [5]})
    wanted = {"user": [2, 1, 1, 2, 2], "item": [6, 7, 7, 5, 5], "rating": [2, 1, 3, 0, -1]}
    pl.DataFrame(wanted).write_csv(tmp_path / "wanted.csv")
    for given_as in (wanted, tmp_path / "wanted.csv", str(tmp_path / "wanted.csv")):
        asked = EvalSet.from_frame(given_as, data)
        assert asked.users.tolist() == [0, 1]
        assert asked.query.history.to_lists() == [[0, 1], [2]]
        assert asked.relevant.to_lists() == [[2], [1]]
        assert asked.grades.tolist() == [3, 2]
        assert asked.n_skipped == 0


def test_users_whose_grades_are_all_zero_are_left_out_and_counted():
    data = Dataset.from_frame({"user": [1, 2], "item": [5, 6]})
    asked = EvalSet.from_frame({"user": [1, 2], "item": [6, 5], "rating": [0, 1]}, data)
    assert (asked.users.tolist(), asked.n_skipped) == ([1], 1)


def test_repeats_may_be_asked_for_again_where_they_are_declared():
    data = Dataset.from_frame({"user": [1], "item": [5]}, test={"user": [1], "item": [5]}, repeats=True)
    assert data.test.query.repeats
    assert EvalSet.from_frame({"user": [1], "item": [5]}, data).relevant.to_lists() == [[0]]


def test_a_failed_import_leaves_what_was_there(tmp_path):
    Dataset.from_frame(EVENTS).save(tmp_path / "data")
    before = {path: path.read_bytes() for path in (tmp_path / "data").rglob("*") if path.is_file()}
    (tmp_path / "e.csv").write_text("user,item,rating\n1,2,bad\n")
    with pytest.raises(DataError):
        import_files(tmp_path / "e.csv").save(tmp_path / "data")
    assert {path: path.read_bytes() for path in (tmp_path / "data").rglob("*") if path.is_file()} == before


def test_importing_and_opening_load_neither_torch_nor_polars(tmp_path):
    (tmp_path / "e.csv").write_text("user,item\n1,2\n")
    code = (
        "import sys; from itemic.data import Dataset; from itemic.data.importing import import_files; "
        "import_files('e.csv').save('d'); Dataset.open('d'); "
        "print([name for name in ('torch', 'polars', 'numba') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
