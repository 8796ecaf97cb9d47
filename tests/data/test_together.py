"""Several datasets as one: nobody's rows change, and nothing is confused that only looks the same."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from itemic.data import Dataset, Ids, Interactions, Table
from itemic.data.splits import split
from itemic.data.together import lent
from itemic.errors import DataError


def dataset(name, rows, items=None, roles=None, **more):
    n_items = max((item for row in rows for item in row), default=-1) + 1
    user = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    columns = {key: more.pop(key) for key in ("time", "kind", "kinds", "rating") if key in more}
    log = Interactions.of(user, np.array([i for row in rows for i in row], int), len(rows), n_items, **columns)
    table = Table.of(Ids(np.arange(n_items)), items, roles) if items else Table.numbered(n_items)
    return Dataset(table, Table.numbered(len(rows), "user"), log, name=name, **more)


lists = st.lists(st.lists(st.integers(0, 5), max_size=5), min_size=1, max_size=4)


@given(st.lists(lists, min_size=2, max_size=4))
def test_everybody_keeps_their_history_under_the_ids_of_their_dataset(sets):
    parts = [dataset(f"set{n}", rows) for n, rows in enumerate(sets)]
    whole = Dataset.together(parts)
    assert whole.n_items == sum(part.n_items for part in parts)
    histories = whole.interactions.histories()
    found = {
        user: whole.items.ids.external(row).tolist() for user, row in zip(whole.users.ids.array.to_pylist(), histories)
    }
    assert found == {
        f"set{n}/{user}": [f"set{n}/{item}" for item in row]
        for n, rows in enumerate(sets)
        for user, row in enumerate(rows)
    }
    assert whole.items.column("source").to_pylist() == [part.name for part in parts for _ in range(part.n_items)]


def test_tables_have_the_columns_and_roles_of_all_and_nulls_where_one_lacks_a_column():
    a = dataset("a", [[0, 1]], {"title": ["x", "y"], "price": [1, 2]})
    b = dataset("b", [[0]], {"description": ["z"], "title": ["w"], "price": [0.5]})
    whole = Dataset.together([a, b], name="shops")
    assert whole.name == "shops"
    assert whole.items.frame.to_pydict() == {
        "title": ["x", "y", "w"],
        "price": [1.0, 2.0, 0.5],
        "source": ["a", "a", "b"],
        "description": [None, None, "z"],
    }
    assert whole.items.roles == {"title": ["title"], "text": ["title", "description"]}
    assert whole.items.titles([2]) == ["w"]


def test_columns_of_rows_are_kept_where_all_have_them_and_kinds_mean_the_same():
    a = dataset("a", [[0, 1]], time=[1, 2], kind=[0, 1], kinds=("view", "buy"), rating=[1, 2])
    b = dataset("b", [[0, 0]], time=[5, 6], kind=[0, 1], kinds=("buy", "save"))
    log = Dataset.together([a, b]).interactions
    assert log.time.tolist() == [1, 2, 5, 6]
    assert [log.kinds[kind] for kind in log.kind] == ["view", "buy", "buy", "save"]
    assert log.rating is None
    timeless = Dataset.together([a, dataset("c", [[0, 1]], ordered=True)])
    assert timeless.interactions.time is None
    assert timeless.ordered
    assert not Dataset.together([a, dataset("c", [[0, 1]])]).ordered
    assert Dataset.together([a, dataset("c", [[0, 0]], repeats=True)]).repeats


def test_the_whole_is_saved_opened_and_split_like_any_other(tmp_path):
    parts = [dataset(name, [[0, 1, 2], [2, 1, 0]], {"title": ["x", "y", "z"]}, ordered=True) for name in "ab"]
    whole = Dataset.together(parts).save(tmp_path / "whole")
    assert whole.items.column("source").to_pylist() == ["a"] * 3 + ["b"] * 3
    assert split(whole, "last").test.relevant.to_lists() == [[2], [0], [5], [3]]
    again = Dataset.together([whole, dataset("c", [[0]], {"title": ["w"]})], name="more")
    assert again.items.column("source").to_pylist() == ["a"] * 3 + ["b"] * 3 + ["c"]


def test_what_does_not_fit_together_is_refused_with_the_mend():
    a = dataset("a", [[0]], {"price": [1]})
    with pytest.raises(DataError, match="cannot be put together: two are named 'a'. Rename one."):
        Dataset.together([a, a])
    with pytest.raises(DataError, match="cannot be put together: there is 1. Give two or more."):
        Dataset.together([a])
    with pytest.raises(DataError, match="the item tables of a, b do not fit together: .*price.* Rename it.") as error:
        Dataset.together([a, dataset("b", [[0]], {"price": [["low"]]})])
    assert "\n" not in str(error.value)


FILMS = {"item": list("abc"), "title": ["Heat (1995)", "Ronin", "Up (2009)"], "imdb_id": [None, "tt0122690", None]}
OTHERS = {"item": [1, 2, 3], "title": ["Heat (1995)", "Ronin, The (1999)", "Alien (1979)"], "imdbId": [9, 122690, 8]}


def lending(**more):
    rows = {"user": [5, 5, 6, 7, 7], "item": [3, 2, 3, 1, 2], "rating": [4.0, 5, 3, 2, 1], "timestamp": [2, 1, 1, 1, 2]}
    return Dataset.from_frame(rows, items=OTHERS, name="lender", **more)


def test_a_train_part_is_lent_the_users_who_took_what_both_have():
    talk = {"dialogue": [1, 1], "role": ["user", "recommender"], "text": ["Heat?", "Up"], "items": [["a"], ["c"]]}
    own = Dataset.from_dialogues(talk, items=FILMS, name="talk")
    both, found = lent(own, lending())
    assert both.users.ids.array.to_pylist() == ["1", "lender/5", "lender/7"]
    assert both.interactions.histories().to_lists() == [[0, 2], [1], [0, 1]]  # by title, by id
    assert found == {
        "items": 3,
        "by title and year": 1,
        "by IMDb id": 1,
        "taken": 2,
        "users": 2,
        "interactions": 3,
    }
    assert both.items is own.items
    assert both.dialogues.cases().relevant.to_lists() == own.dialogues.cases().relevant.to_lists() == [[2]]
    assert both.ordered
    assert both.fingerprint != own.fingerprint


def test_what_is_lent_to_a_train_part_leaves_it_one_that_may_not_know_what_is_tested():
    talk = {"dialogue": [1, 1, 2, 2], "role": ["user", "recommender"] * 2, "text": list("abcd")}
    talk |= {"items": [["a"], ["c"], ["b"], ["a"]], "part": ["train", "train", "test", "test"]}
    whole = split(Dataset.from_dialogues(talk, items=FILMS, name="talk"), by="dialogues")
    both, _ = lent(whole.train, lending())
    assert both.origin == whole.train.origin
    assert both.interactions.histories().to_lists()[: whole.n_users] == [[0, 2], []]


def test_two_items_that_are_one_elsewhere_are_both_taken_and_nothing_in_common_is_refused():
    own = {"item": ["a", "b"], "title": ["Heat (1995)", "Heat, The (1995)"], "imdb_id": ["tt9", "9"]}
    own = Dataset.from_frame({"user": [1], "item": ["a"]}, items=own, name="own")
    assert lent(own, lending())[0].interactions.histories().to_lists() == [[0], [0, 1]]
    bare = Dataset.from_frame({"user": [1], "item": ["a"]}, items={"item": ["a"], "title": ["Up (2009)"]}, name="bare")
    with pytest.raises(DataError, match="lender lends bare nothing: nobody there took an item that is in both"):
        lent(bare, lending())
