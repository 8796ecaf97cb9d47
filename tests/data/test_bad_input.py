"""What a user can get wrong in a file: one line that names the file, the row, the value and the mend."""

import gzip

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from itemic.data import Dataset, EvalSet
from itemic.data.importing import import_files
from itemic.errors import DataError, LeakError

GOOD = "user,item,rating,timestamp\nu,a,5,10\nv,b,4,20\n"


def refused(tmp_path, text: str | bytes, name: str = "events.csv", error: type = DataError, **options) -> str:
    """The message with which a file of this text is refused, from the file name on."""
    path = tmp_path / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(error) as caught:
        import_files(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message.replace(f"{tmp_path}/", "")


def test_a_missing_file(tmp_path):
    with pytest.raises(DataError, match=r"gone.csv does not exist. Check the name.$"):
        import_files(tmp_path / "gone.csv")


@pytest.mark.parametrize("text", ["", "\n\n"])
def test_an_empty_file(tmp_path, text):
    assert refused(tmp_path, text) == "events.csv is empty. It should hold at least one row of user and item."


def test_a_file_of_nothing_but_a_header(tmp_path):
    assert refused(tmp_path, "user,item\n") == (
        "events.csv holds no interactions. A dataset needs at least one row of user and item."
    )


def test_nothing_left_after_unknown_items_are_dropped(tmp_path):
    (tmp_path / "items.csv").write_text("id,title\nz,Zoo\n")
    message = refused(tmp_path, GOOD, items=tmp_path / "items.csv", unknown="drop")
    assert message.startswith("events.csv holds no interactions.")


def test_no_item_column(tmp_path):
    assert refused(tmp_path, "user_id,itemm,when\n1,2,3\n") == (
        "events.csv has no item column; its columns are user_id, itemm, when. Did you mean 'itemm'? "
        "Name it: --columns item=itemm"
    )


def test_a_named_column_that_is_not_there(tmp_path):
    assert refused(tmp_path, "customer,sku\n1,2\n", columns={"user": "custmer"}) == (
        "events.csv has no column 'custmer'. Did you mean 'customer'? Columns: customer, sku."
    )


def test_a_role_that_does_not_exist(tmp_path):
    message = refused(tmp_path, GOOD, columns={"ratings": "rating"})
    assert message.startswith("there is no role 'ratings'. Did you mean 'rating'? Roles: user, item, time,")


def test_a_file_without_header(tmp_path):
    assert refused(tmp_path, "1,2\n3,4\n") == (
        "events.csv seems to have no header: its first line is '1,2'. "
        "Name the columns in order, with '-' for those to pass over: --columns user,item"
    )


def test_more_columns_than_are_named(tmp_path):
    assert refused(tmp_path, "1,2,9\n3,4,9\n", columns=["user", "item"]) == (
        "events.csv has 3 columns and --columns names 2: its first line is '1,2,9'. "
        "Name them all, with '-' for those to pass over."
    )


def test_a_time_that_is_no_time(tmp_path):
    assert refused(tmp_path, GOOD + "w,a,3,yesterday\n") == (
        "events.csv row 3: time 'yesterday' is not a number or a date such as 2024-05-31 18:30:00. "
        "Mend the row, or pass over the column: --columns time=-"
    )


def test_a_time_that_is_no_time_far_into_a_large_file(tmp_path):
    text = "user,item,timestamp\n" + "".join(f"{row % 97},{row % 89},{row}\n" for row in range(200_000)) + "1,2,soon\n"
    assert refused(tmp_path, text).startswith("events.csv row 200,001: time 'soon' is not a number or a date")


def test_a_missing_time(tmp_path):
    assert refused(tmp_path, GOOD + "w,a,3,\n") == (
        "events.csv row 3: the time is missing. Fill it in, or pass over it: --columns time=-"
    )


@pytest.mark.parametrize(
    ("rating", "fault"), [("nan", "missing"), ("", "missing"), ("inf", "inf"), ("-inf", "-inf"), ("1e60", "inf")]
)
def test_a_rating_that_is_not_finite(tmp_path, rating, fault):
    assert refused(tmp_path, GOOD + f"w,a,{rating},30\n") == (
        f"events.csv row 3: the rating is {fault}, not a finite number. "
        "Mend the row, or pass over the column: --columns rating=-"
    )


@pytest.mark.parametrize("rating", [np.nan, np.inf, None])
def test_a_rating_of_a_frame_that_is_not_finite(rating):
    with pytest.raises(DataError, match=r"^the events row 2: the rating is (nan|inf|missing), not a finite number"):
        Dataset.from_frame({"user": [1, 1], "item": [1, 2], "rating": [1.0, rating]})


def test_a_rating_that_is_no_number(tmp_path):
    assert refused(tmp_path, GOOD + "w,a,good,30\n") == (
        "events.csv row 3: rating 'good' is not a number. Mend the row, or pass over the column: --columns rating=-"
    )


def test_an_item_that_is_not_in_the_item_table(tmp_path):
    (tmp_path / "items.csv").write_text("id,title\na,Ant\nz,Zoo\n")
    assert refused(tmp_path, GOOD + "u,c,1,1\n", items=tmp_path / "items.csv").replace(f"{tmp_path}/", "") == (
        "events.csv row 2: item 'b' is not in items.csv (2 unknown in all). "
        "Add what is missing there, or say --unknown drop or --unknown add."
    )


def test_a_user_that_is_not_in_the_user_table(tmp_path):
    (tmp_path / "users.csv").write_text("id,age\nu,30\n")
    assert "row 2: user 'v' is not in" in refused(tmp_path, GOOD, users=tmp_path / "users.csv")


def test_an_item_id_in_two_rows(tmp_path):
    (tmp_path / "items.csv").write_text("id,title\na,Ant\nb,Bee\na,Ape\n")
    message = refused(tmp_path, GOOD, items=tmp_path / "items.csv").replace(f"{tmp_path}/", "")
    assert message == "items.csv rows 1 and 3 have the same item id 'a' (1 such ids in all). Keep one row for each."


def test_an_item_table_without_ids(tmp_path):
    (tmp_path / "items.csv").write_text("title,price\nAnt,3\n")
    message = refused(tmp_path, GOOD, items=tmp_path / "items.csv").replace(f"{tmp_path}/", "")
    assert message == "items.csv has no item id column; its columns are title, price. Call it 'id' or 'item_id'."


def test_an_id_with_a_line_break(tmp_path):
    assert refused(tmp_path, GOOD + '"w\nx",a,3,30\n') == (
        "events.csv row 3: the user id 'w\\nx' holds a line break. Take it out."
    )


def test_an_id_in_the_item_table_with_a_line_break(tmp_path):
    (tmp_path / "items.csv").write_text('id,title\na,Ant\nb,Bee\n"c\r\nd",Cow\n')
    message = refused(tmp_path, GOOD, items=tmp_path / "items.csv").replace(f"{tmp_path}/", "")
    assert message == "items.csv row 3: the item id 'c\\r\\nd' holds a line break. Take it out."


@pytest.mark.parametrize("missing", ["", "  "])
def test_a_missing_id(tmp_path, missing):
    assert refused(tmp_path, GOOD + f"{missing},a,3,30\n") == "events.csv row 3: the user id is missing. Fill it in."


def test_a_missing_id_of_a_frame():
    with pytest.raises(DataError, match=r"^the events row 2: the item id is missing. Fill it in.$"):
        Dataset.from_frame({"user": [1, 1], "item": ["a", None]})


def test_an_id_that_is_half_a_number():
    with pytest.raises(DataError, match=r"^the events row 2: the item id 1.5 is not a whole number. Mend it.$"):
        Dataset.from_frame({"user": [1, 1], "item": [1.0, 1.5]})


def test_an_id_that_is_no_id():
    with pytest.raises(DataError, match=r"the user id is of the type bool. Give integers or text."):
        Dataset.from_frame({"user": [True, False], "item": [1.0, 1.5]})


def test_a_row_with_too_few_fields(tmp_path):
    assert refused(tmp_path, GOOD + "w,a\n") == ("events.csv row 3: Expected 4 columns, got 2: w,a. Mend the row.")


def test_text_that_is_not_utf_8(tmp_path):
    message = refused(tmp_path, GOOD.encode() + "w,é,3,30\n".encode("latin-1"))
    assert message == "events.csv row 3: conversion error to string: invalid UTF8 data. Mend the row."


def test_a_truncated_parquet_file(tmp_path):
    pq.write_table(pa.table({"user": np.arange(1000), "item": np.arange(1000)}), tmp_path / "whole.parquet")
    half = (tmp_path / "whole.parquet").read_bytes()[:2000]
    message = refused(tmp_path, half, "events.parquet")
    assert message.startswith("events.parquet cannot be read: ")
    assert message.endswith("Mend the file or get it again.")


def test_a_truncated_gzip_file(tmp_path):
    rows = "".join(f"{n * 7919 % 10007},{n * 104729 % 10009}\n" for n in range(20_000))
    packed = gzip.compress(b"user,item\n" + rows.encode())
    message = refused(tmp_path, packed[: len(packed) // 2], "events.csv.gz")
    assert message.startswith("events.csv.gz cannot be read: ")


def test_json_that_is_no_json(tmp_path):
    assert refused(tmp_path, '{"user": 1, "item"\n', "events.jsonl").startswith("events.jsonl row 1: Missing a colon")


def test_a_test_row_that_is_in_the_events_too(tmp_path):
    (tmp_path / "test.csv").write_text("user,item\nu,b\nv,b\n")
    message = refused(tmp_path, GOOD, error=LeakError, test=tmp_path / "test.csv")
    assert message.startswith("1 of 2 test and validation interactions of events are in its train part too")
    assert "user 'v' with item 'b'" in message


def test_a_fault_in_the_test_file_is_told_by_its_own_rows(tmp_path):
    (tmp_path / "test.csv").write_text("user,item\nu,b\n,a\n")
    message = refused(tmp_path, GOOD, test=tmp_path / "test.csv").replace(f"{tmp_path}/", "")
    assert message == "test.csv row 2: the user id is missing. Fill it in."


def test_a_dataset_that_is_imported_again(tmp_path):
    Dataset.from_frame({"user": [1], "item": [2]}).save(tmp_path / "data")
    with pytest.raises(DataError, match="is a dataset already. Use it as it is: itemic fit ease"):
        import_files(tmp_path / "data")


def test_what_is_no_table():
    with pytest.raises(DataError, match="^int is not a table. Give a Polars, pandas or Arrow table"):
        Dataset.from_frame(3)


def test_lists_that_differ_in_length():
    with pytest.raises(DataError, match="^the events row 1 has 2 items but 1 values of time."):
        Dataset.from_frame({"user": [1], "items": [[1, 2]], "time": [[5]]})


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"user": ["u"], "item": ["q"]}, "the test rows: 1 items are not in the dataset: 'q'. Take their rows out"),
        ({"user": ["q"], "item": ["a"]}, "the test rows: 1 users are not in the dataset: 'q'. Take their rows out"),
        ({"user": ["u"], "item": ["b"], "rating": [0]}, "nothing in the test rows is relevant."),
    ],
)
def test_an_own_test_set_that_does_not_fit(rows, message):
    data = Dataset.from_frame({"user": ["u", "v"], "item": ["a", "b"]})
    with pytest.raises(DataError, match=message):
        EvalSet.from_frame(rows, data)


def test_an_own_test_set_that_was_trained_on():
    data = Dataset.from_frame({"user": ["u", "v"], "item": ["a", "b"]})
    with pytest.raises(LeakError, match="1 of 1 pairs of the test rows are in the train part of data too, .*'u'.*'a'"):
        EvalSet.from_frame({"user": ["u"], "item": ["a"]}, data)


def test_a_damaged_dataset_folder(tmp_path):
    folder = tmp_path / "data"
    Dataset.from_frame({"user": [1, 2], "item": [2, 1]}).save(folder)
    (folder / "interactions" / "item.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(DataError, match="is damaged: .* Import the data again or restore the folder.$"):
        Dataset.open(folder)
    with pytest.raises(DataError, match="is not a dataset: there is no such folder. Make one: itemic data import"):
        Dataset.open(tmp_path / "nothing")


def test_a_dataset_folder_of_a_later_version(tmp_path):
    folder = tmp_path / "data"
    Dataset.from_frame({"user": [1], "item": [2]}).save(folder)
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"version": 1', '"version": 9'))
    with pytest.raises(DataError, match="has format version 9; this itemic reads up to 1. Upgrade itemic."):
        Dataset.open(folder)
