"""A dataset comes back from its folder as it was, keeps what it does not know, and hashes what it holds."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from itemic.data import TEST, TEST_HISTORY, TRAIN, UNUSED, VALID, Dataset, Ids, Interactions, Split, Table
from itemic.data.table import guessed_roles
from itemic.errors import DataError, SaveError

EVENTS = {
    "user": ["u", "u", "v", "w"],
    "item": ["a", "b", "b", "c"],
    "time": [10, 20, 30, 40],
    "rating": [1.0, 2.5, 3.0, 4.0],
    "weight": [1.0, 2.0, 3.0, 4.0],
    "kind": ["view", "cart", "view", "cart"],
    "session": [3, 3, 1, 2],
    "event_id": ["e1", "e2", "e3", "e4"],
}
ITEMS = {"id": ["c", "b", "a", "d"], "title": ["Cow", "Bee", "Ant", None], "price": [3, 2, 1, 4]}


@pytest.fixture
def data() -> Dataset:
    made = Dataset.from_frame(EVENTS, items=ITEMS, name="shop", repeats=True)
    parts = np.array([TRAIN, TEST, VALID, TRAIN], np.uint8)
    return replace(
        made,
        split=Split(parts, {"by": "random", "test": 0.1, "seed": 3}),
        official=parts[::-1].copy(),
        ordered=True,
        extras={"links": pa.table({"left": ["a"], "right": ["b"]})},
    )


def assert_same(a: Dataset, b: Dataset) -> None:
    assert a.fingerprint == b.fingerprint
    assert (a.name, a.repeats, a.ordered) == (b.name, b.repeats, b.ordered)
    for left, right in ((a.items, b.items), (a.users, b.users)):
        assert left.ids == right.ids
        assert left.frame.to_pydict() == right.frame.to_pydict()
        assert left.roles == right.roles
    assert a.interactions.columns.keys() == b.interactions.columns.keys()
    for name, column in a.interactions.columns.items():
        assert column.dtype == b.interactions.columns[name].dtype
        assert (column == b.interactions.columns[name]).all()
    assert a.interactions.kinds == b.interactions.kinds
    assert a.interactions.event_id.equals(b.interactions.event_id)
    assert (a.split.part == b.split.part).all()
    assert a.split.how == b.split.how
    assert (a.official == b.official).all()
    assert a.extras.keys() == b.extras.keys()


def test_a_saved_dataset_comes_back_whole_and_memory_mapped(data, tmp_path):
    saved = data.save(tmp_path / "shop")
    assert_same(saved, data)
    assert_same(Dataset.open(tmp_path / "shop"), data)
    assert isinstance(saved.interactions.item, np.memmap)
    assert saved.path == tmp_path / "shop"
    assert saved.items.titles([3, 0]) == [None, "Ant"]


def test_a_dataset_can_be_saved_over_itself(data, tmp_path):
    first = data.save(tmp_path / "shop")
    second = replace(first, name="again").save(tmp_path / "shop")
    assert_same(replace(second, name="shop"), data)


def test_manifest_parts_and_files_of_others_are_kept_on_rewrite(data, tmp_path):
    saved = data.save(tmp_path / "shop")
    manifest = json.loads((tmp_path / "shop" / "manifest.json").read_text())
    manifest["licence"] = {"name": "CC0"}
    manifest["tables"]["outfits"] = {"rows": 7}
    (tmp_path / "shop" / "manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "shop" / "outfits.parquet").write_bytes(b"theirs")
    (tmp_path / "shop" / "features").mkdir()
    (tmp_path / "shop" / "features" / "image.npy").write_bytes(b"ours later")

    replace(Dataset.open(tmp_path / "shop"), name="renamed").save(tmp_path / "shop")

    kept = json.loads((tmp_path / "shop" / "manifest.json").read_text())
    assert kept["licence"] == {"name": "CC0"}
    assert kept["tables"]["outfits"] == {"rows": 7}
    assert kept["name"] == "renamed"
    assert (tmp_path / "shop" / "outfits.parquet").read_bytes() == b"theirs"
    assert (tmp_path / "shop" / "features" / "image.npy").read_bytes() == b"ours later"
    assert Dataset.open(tmp_path / "shop").fingerprint == saved.fingerprint


def test_a_new_split_replaces_only_the_split(data, tmp_path):
    saved = data.save(tmp_path / "shop")
    before = (tmp_path / "shop" / "interactions" / "item.npy").stat().st_mtime_ns
    other = Split(np.array([TEST, TRAIN, TRAIN, TEST], np.uint8), {"by": "time", "test": 0.5})
    replace(saved, split=other).save_split()
    opened = Dataset.open(tmp_path / "shop")
    assert opened.split.part.tolist() == [TEST, TRAIN, TRAIN, TEST]
    assert opened.split.label == "time, test 50 %"
    assert (opened.official == data.official).all()
    assert (tmp_path / "shop" / "interactions" / "item.npy").stat().st_mtime_ns == before
    assert len(list((tmp_path / "shop").glob("split*"))) == 1


def test_a_failed_save_leaves_the_old_folder(data, tmp_path, monkeypatch):
    data.save(tmp_path / "shop")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(SaveError, match="cannot write .*shop: No space left on device"):
        replace(data, name="new").save(tmp_path / "shop")
    assert Dataset.open(tmp_path / "shop").name == "shop"
    assert [path.name for path in tmp_path.iterdir()] == ["shop"]


CHANGES = {
    "another user": {"user": ["u", "u", "v", "v"]},
    "another item": {"item": ["a", "b", "b", "a"]},
    "another id": {"item": ["a", "b", "b", "cc"]},
    "another time": {"time": [10, 20, 30, 41]},
    "another rating": {"rating": [1.0, 2.5, 3.0, 4.5]},
    "another weight": {"weight": [1.0, 2.0, 3.0, 5.0]},
    "no time": {"time": None},
}


def test_a_fingerprint_is_that_of_the_data_and_not_of_the_rest(data):
    again = Dataset.from_frame({name: column[::-1] for name, column in EVENTS.items()}, items=ITEMS, name="other")
    assert again.fingerprint == data.fingerprint


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_fingerprint_changes_with_the_data(change):
    events = {name: column for name, column in (EVENTS | change).items() if column is not None}
    assert Dataset.from_frame(events).fingerprint != Dataset.from_frame(EVENTS).fingerprint


def test_a_part_has_the_same_catalogue_and_says_where_it_is_from(data):
    train = data.train
    assert (train.n_users, train.n_items) == (3, 4)
    assert train.interactions.histories().to_lists() == [[0], [], [2]]
    assert train.origin == {
        "name": "shop",
        "fingerprint": data.fingerprint,
        "split": {"by": "random", "test": 0.1, "seed": 3},
        "part": "train",
    }
    assert train.split is None
    assert train.train is train


def test_without_a_split_everything_is_for_training_and_nothing_to_test(data):
    whole = replace(data, split=None)
    assert whole.train is whole
    with pytest.raises(DataError, match="shop has no split. Make one: itemic data split DIR$"):
        _ = whole.test


@pytest.mark.parametrize(("mask_valid", "history"), [(False, [[0]]), (True, [[0, 1]])])
def test_validation_items_are_history_at_test_where_they_came_before(mask_valid, history):
    data = Dataset.from_frame({"user": [1, 1, 1, 1], "item": [5, 6, 7, 8], "time": [1, 2, 3, 4]})
    part = np.array([TRAIN, VALID, TEST, UNUSED], np.uint8)
    data = replace(data, split=Split(part, {"by": "random", "mask_valid": mask_valid}))
    assert data.valid.query.history.to_lists() == [[0]]
    assert data.valid.relevant.to_lists() == [[1]]
    assert data.test.query.history.to_lists() == history
    assert data.test.query.history_time.tolist() == [1000, 2000][: len(history[0])]
    assert data.test.relevant.to_lists() == [[2]]


def test_a_held_out_user_asks_with_a_history_and_without_a_code():
    data = Dataset.from_frame({"user": [1, 1, 2, 2, 3], "item": [5, 6, 7, 5, 5]})
    part = np.array([TRAIN, TRAIN, TEST_HISTORY, TEST, TRAIN], np.uint8)
    test = replace(data, split=Split(part, {"by": "users"})).test
    assert test.query.user.tolist() == [-1]
    assert test.users.tolist() == [1]
    assert test.query.history.to_lists() == [[2]]
    assert test.relevant.to_lists() == [[0]]
    assert test.n_skipped == 2


logs = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4), st.integers(0, 5)), min_size=1, max_size=25)


@given(logs)
def test_interactions_are_sorted_by_user_and_time_and_otherwise_keep_their_order(rows):
    user, item, time = map(list, zip(*rows))
    log = Interactions.of(user, item, 4, 5, time=time)
    expected = sorted(rows, key=lambda row: (row[0], row[2]))
    assert list(zip(log.user, log.item, log.time)) == expected
    assert log.histories().to_lists() == [[i for u, i, _ in expected if u == user] for user in range(4)]
    pairs = sorted({(u, i) for u, i, _ in rows})
    assert list(zip(*(side.tolist() for side in log.distinct_pairs()))) == pairs
    assert log.item_counts().tolist() == [sum(i == item for _, i in pairs) for item in range(5)]
    assert [tuple(place) for place in np.argwhere(log.matrix().toarray() == 1)] == pairs


@given(logs, st.data())
def test_selecting_and_joining_parts_gives_the_whole_again(rows, data):
    user, item, time = (np.array(column) for column in zip(*rows))
    log = Interactions.of(user, item, 4, 5, time=time, event_id=pa.array(range(len(rows))))
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows))), bool)
    kept, rest = log.select(mask), log.select(~mask)
    assert kept.event_id.to_pylist() == [event for event, stays in zip(log.event_id.to_pylist(), mask) if stays]
    whole = kept.joined(rest)
    assert sorted(zip(whole.user, whole.time, whole.item)) == sorted(zip(log.user, log.time, log.item))
    assert whole.order() is None


def test_a_table_is_asked_by_column_and_condition():
    table = Table.of(Ids([3, 1, 2]), {"title": ["a", None, "c"], "brand": ["X", "Y", "X"], "price": [1.0, 2.0, None]})
    assert table.where("brand = 'X' and price < 20").tolist() == [True, False, False]
    assert table.where("id in (1, 2)").tolist() == [False, True, True]
    assert table.where("1 = 1").tolist() == [True, True, True]
    assert table.take(np.array([2, 0])).titles([0, 1]) == ["c", "a"]
    with pytest.raises(
        DataError, match="items have no column 'brnd'. Did you mean 'brand'. Columns: title, brand, price."
    ):
        table.column("brnd")
    with pytest.raises(DataError, match="cannot apply --where 'brnd = 1': .* Columns: title, brand, price, id."):
        table.where("brnd = 1")


def test_roles_are_guessed_by_name():
    assert guessed_roles(["name", "description", "image_path", "category", "tags", "x"]) == {
        "title": ["name"],
        "text": ["name", "description"],
        "image": ["image_path"],
        "category": ["category"],
        "attributes": ["tags"],
    }


def test_a_table_is_extended_in_its_own_columns_and_refuses_what_does_not_fit():
    table = Table.of(Ids([4, 7]), {"title": ["cup", "pot"], "tags": [["a"], ["b", "c"]]})
    longer = table.extended(Table.of(Ids([9]), {"tags": [["d"]], "size": [1]}))
    assert longer.ids.codes([9, 4]).tolist() == [2, 0]
    assert longer.frame.to_pydict() == {"title": ["cup", "pot", None], "tags": [["a"], ["b", "c"], ["d"]]}
    assert longer.roles == table.roles
    for ids, columns, text in (
        ([8, 4], {}, "1 of 2 new items are known already: 4. Leave them out."),
        (["x"], {}, "item ids are integers here, not text as 'x'. Give integers."),
        ([8], {"tags": ["d"]}, "column 'tags' of the new items does not fit: .*. Mend it."),
    ):
        with pytest.raises(DataError, match=text):
            table.extended(Table.of(Ids(ids), columns))
