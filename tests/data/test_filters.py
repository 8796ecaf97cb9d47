"""Filters: exact small cases, the definition of a k-core as a property, and what they say when nothing is left."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from itemic.data import TEST, TRAIN, Dataset, Ids, Interactions, Split, Table
from itemic.data.filters import between, deduplicate, iso, k_core, milliseconds, min_rating
from itemic.errors import DataError

DAY = 86_400_000


def dataset(user, item, **columns) -> Dataset:
    n_users, n_items = max(user) + 1, max(item) + 1
    log = Interactions.of(user, item, n_users, n_items, **columns)
    users = Table(Ids([f"u{n}" for n in range(n_users)], "user"))
    items = Table.of(Ids([f"i{n}" for n in range(n_items)], "item"), {"title": [f"Item {n}" for n in range(n_items)]})
    return Dataset(items, users, log, name="shop")


def rows(data: Dataset) -> list[tuple[str, str]]:
    """The interactions in external ids."""
    log = data.interactions
    pairs = zip(data.users.ids.external(log.user), data.items.ids.external(log.item), strict=True)
    return [(str(user), str(item)) for user, item in pairs]


def test_a_k_core_is_repeated_until_nothing_falls_below():
    # u2 has only i2; without it i2 has one user; without that u1 has one item left; then i1 has one user: all fall
    chain = dataset([0, 1, 1, 2], [1, 1, 2, 2])
    with pytest.raises(DataError, match="no interactions are left of 4 after k-core of 2 per user and 2 per item"):
        k_core(chain, 2, 2)
    square = dataset([0, 0, 1, 1, 2, 2], [1, 2, 1, 2, 2, 3])
    assert rows(k_core(square, 2, 2)) == [("u0", "i1"), ("u0", "i2"), ("u1", "i1"), ("u1", "i2")]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=60),
    st.integers(1, 4),
    st.integers(1, 4),
)
def test_a_k_core_is_the_largest_set_in_which_all_have_enough(pairs, users, items):
    expected = Counter(pairs)
    while True:
        of_user = Counter(user for user, _ in expected.elements())
        of_item = Counter(item for _, item in expected.elements())
        smaller = Counter({p: n for p, n in expected.items() if of_user[p[0]] >= users and of_item[p[1]] >= items})
        if smaller == expected:
            break
        expected = smaller
    data = dataset(*map(list, zip(*pairs, strict=True)))
    if not expected:
        with pytest.raises(DataError, match="no interactions are left"):
            k_core(data, users, items)
    else:
        assert Counter(rows(k_core(data, users, items))) == Counter(
            {(f"u{u}", f"i{i}"): n for (u, i), n in expected.items()}
        )


def test_compacting_keeps_ids_and_titles_and_drops_who_has_nothing_left():
    data = dataset([0, 0, 2, 2, 3], [1, 3, 1, 3, 0])
    core = k_core(data, 2, 2)
    assert core.users.ids.external([0, 1]).tolist() == ["u0", "u2"]
    assert core.items.titles([0, 1]) == ["Item 1", "Item 3"]
    assert (core.n_users, core.n_items, core.interactions.n_users, core.interactions.n_items) == (2, 2, 2, 2)
    assert core.interactions.histories().to_lists() == [[0, 1], [0, 1]]
    loose = k_core(data, 2, 2, compact=False)
    assert (loose.n_users, loose.n_items) == (4, 4)
    assert loose.interactions.histories().to_lists() == [[1, 3], [], [1, 3], []]
    assert rows(loose) == rows(core)


def test_a_split_in_place_stays_with_its_rows():
    part = np.array([TRAIN, TEST, TRAIN, TEST], np.uint8)
    data = dataset([0, 0, 1, 1], [0, 1, 0, 2], rating=[5, 4, 1, 3])
    data = replace(data, split=Split(part, {"by": "last"}), official=part)
    kept = min_rating(data, 3)
    assert kept.split is not None
    assert kept.split.part.tolist() == [TRAIN, TEST, TEST]
    assert kept.split.how == {"by": "last"}
    assert kept.official is not None
    assert kept.official.tolist() == [TRAIN, TEST, TEST]


def test_a_filtered_dataset_does_not_live_in_the_folder_it_came_from(tmp_path):
    opened = dataset([0, 0, 1], [0, 1, 0], rating=[5, 4, 1]).save(tmp_path / "shop")
    kept = min_rating(opened, 4)
    assert kept.path is None
    assert rows(kept.save(tmp_path / "liked")) == [("u0", "i0"), ("u0", "i1")]
    assert len(Dataset.open(tmp_path / "shop").interactions) == 3


def test_a_rating_threshold_keeps_what_reaches_it_and_drops_the_ratings():
    data = dataset([0, 0, 1], [0, 1, 2], rating=[4.0, 3.9, 5.0])
    kept = min_rating(data, 4)
    assert rows(kept) == [("u0", "i0"), ("u1", "i2")]
    assert kept.interactions.rating is None
    assert data.interactions.rating is not None
    assert rows(min_rating(data, 3.9)) == rows(data)  # 3.9 as float32, the precision of ratings


@pytest.mark.parametrize(("keep", "times"), [("first", [1, 2]), ("last", [4, 5]), ("max", [2, 3])])
def test_duplicates_leave_the_first_the_last_or_the_highest_rated(keep, times):
    data = dataset([0] * 5, [1, 0, 1, 1, 0], time=[1, 2, 3, 4, 5], rating=[2, 3, 4, 4, 3])
    data = replace(data, repeats=True)
    kept = deduplicate(data, keep)
    assert kept.interactions.time is not None
    assert kept.interactions.time.tolist() == times
    assert kept.repeats is False
    assert len(set(rows(kept))) == len(kept.interactions) == 2


def test_a_window_holds_its_start_and_not_its_end():
    data = dataset([0] * 4, [0, 1, 2, 3], time=[0, DAY, 2 * DAY - 1, 2 * DAY])
    for start, end in (("1970-01-02", "1970-01-03"), (DAY, 2 * DAY)):
        assert [item for _, item in rows(between(data, start, end))] == ["i1", "i2"]
    assert [item for _, item in rows(between(data, end="1970-01-02"))] == ["i0"]
    assert [item for _, item in rows(between(data, "1970-01-02T02:00+02:00"))] == ["i1", "i2", "i3"]


def test_times_are_read_as_utc_and_written_shortly():
    assert milliseconds("2024-02-29") == 1_709_164_800_000
    assert milliseconds("2024-02-29T12:30:00+05:30") == 1_709_164_800_000 + 7 * 3_600_000
    assert milliseconds(np.int64(7)) == 7
    assert iso(milliseconds("2024-02-29")) == "2024-02-29"
    assert iso(milliseconds("1969-12-31T23:59:59")) == "1969-12-31 23:59:59"


def test_kinds_sessions_and_event_ids_are_filtered_along():
    data = dataset(
        [0, 0, 1], [0, 1, 1], time=[1, 2, 3], session=[5, 6, 7], kind=[0, 1, 0], kinds=("view", "buy"),
        event_id=pa.array(["a", "b", "c"]),
    )  # fmt: skip
    log = between(data, 2).interactions
    assert log.session is not None
    assert log.kind is not None
    assert log.event_id is not None
    assert (log.session.tolist(), log.kind.tolist(), log.kinds) == ([6, 7], [1, 0], ("view", "buy"))
    assert log.event_id.to_pylist() == ["b", "c"]


PLAIN = dataset([0, 0, 1], [0, 1, 1])
RATED = dataset([0, 0, 1], [0, 1, 1], rating=[1, 2, 3.5], time=[0, DAY, 2 * DAY])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: k_core(PLAIN, 5, 10),
            "no interactions are left of 3 after k-core of 5 per user and 10 per item. Lower these numbers.",
        ),
        (
            lambda: min_rating(RATED, 4),
            "no interactions are left of 3 after min_rating 4. Ratings run from 1 to 3.5; lower the threshold.",
        ),
        (
            lambda: between(RATED, "1980-01-01", "1980-02-01"),
            "no interactions are left of 3 after keeping from 1980-01-01 before 1980-02-01. "
            "Times run from 1970-01-01 to 1970-01-03; widen the window.",
        ),
        (
            lambda: min_rating(PLAIN, 4),
            "min_rating needs a 'rating' column; interactions has user, item. "
            "Name it when importing: --columns rating=NAME",
        ),
        (
            lambda: deduplicate(PLAIN, "max"),
            "keep='max' needs a 'rating' column; interactions has user, item. "
            "Name it when importing: --columns rating=NAME",
        ),
        (
            lambda: deduplicate(PLAIN, "frist"),
            "keep cannot be 'frist'. Did you mean 'first'? Choose first, last or max.",
        ),
        (
            lambda: between(RATED, "May 2024"),
            "'May 2024' is not a date. Write it like 2024-05-31 or 2024-05-31T18:00, or as milliseconds since 1970.",
        ),
    ],
)
def test_a_filter_that_cannot_says_why_and_what_to_do(call, message):
    with pytest.raises(DataError) as error:
        call()
    assert str(error.value) == message
