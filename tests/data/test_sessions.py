"""Sessions as users: where a log is cut, what becomes of users and rows, and a split that trains on older ones only."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from itemic.data import TEST, TEST_HISTORY, TRAIN, UNUSED, VALID, VALID_HISTORY, Dataset, Ids, Interactions, Table
from itemic.data.filters import sessions
from itemic.data.readers.known import known_set
from itemic.data.simulated import shop
from itemic.data.splits import split
from itemic.errors import DataError

MINUTE = 60_000


def dataset(user, item, **columns):
    n_users, n_items = max(user) + 1, max(item) + 1
    users = Table.of(Ids([f"u{n}" for n in range(n_users)], "user"), {"age": [20 + n for n in range(n_users)]})
    log = Interactions.of(user, item, n_users, n_items, **columns)
    return Dataset(Table.numbered(n_items), users, log, name="shop")


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 50)), min_size=1, max_size=40), st.integers(1, 12))
def test_a_log_is_cut_where_a_pause_is_longer_and_nowhere_else(rows, pause):
    user, time = zip(*rows, strict=True)
    data = dataset(user, np.arange(len(rows)), time=time)
    log, expected = data.interactions, []
    for row in range(len(log)):
        together = row and log.user[row] == log.user[row - 1] and log.time[row] - log.time[row - 1] <= pause
        if together:
            expected[-1].append(int(log.item[row]))
        else:
            expected.append([int(log.item[row])])
    assert sessions(data, pause).interactions.histories().to_lists() == expected


def test_sessions_are_named_after_their_user_and_know_what_the_table_says_of_them():
    data = dataset([0, 0, 2, 2, 2], [0, 1, 0, 1, 2], time=[0, 31 * MINUTE, 5, 6, 40 * MINUTE], kind=[0, 1, 0, 0, 1])
    made = sessions(data, "30m")
    assert made.users.ids.array.to_pylist() == ["u0/1", "u0/2", "u2/1", "u2/2"]
    assert made.users.frame.to_pydict() == {"age": [20, 20, 22, 22], "user": ["u0", "u0", "u2", "u2"]}
    assert made.interactions.kind.tolist() == [0, 1, 0, 0, 1]
    assert made.interactions.session is None
    assert made.n_items == 3


def test_the_session_column_is_followed_where_sessions_overlap():
    data = dataset([0] * 5 + [1], [0, 1, 2, 3, 4, 0], time=[1, 2, 3, 4, 5, 1], session=[7, 3, 7, 3, 3, 7])
    made = sessions(data)
    assert made.interactions.histories().to_lists() == [[0, 2], [1, 3, 4], [0]]
    assert made.users.ids.array.to_pylist() == ["u0/1", "u0/2", "u1/1"]


@pytest.mark.parametrize(("pause", "length"), [("90s", 90_000), ("1.5h", 90 * MINUTE), ("1 d", 1440 * MINUTE), (7, 7)])
def test_a_pause_may_be_given_in_any_unit(pause, length):
    data = dataset([0, 0, 0], [0, 1, 2], time=[0, length, 2 * length + 1])
    assert sessions(data, pause).interactions.histories().to_lists() == [[0, 1], [2]]


@pytest.mark.parametrize(
    ("columns", "pause", "message"),
    [
        ({}, "30m", "sessions by pauses needs a 'time' column; interactions has user, item. Name it when importing: "
         "--columns time=NAME"),
        ({"time": [1, 2]}, None, "sessions needs a 'session' column; interactions has user, item, time. Name it when "
         "importing (--columns session=NAME), or cut where a pause is longer than some time: 30m"),
        ({"time": [1, 2]}, "half an hour", "'half an hour' is not a length of time. Write it like 90s, 30m, 2h or 1d."),
        ({"time": [1, 2]}, "0m", "'0m' is not a length of time. Write it like 90s, 30m, 2h or 1d."),
    ],
)  # fmt: skip
def test_what_cannot_be_cut_says_why_and_what_to_do(columns, pause, message):
    with pytest.raises(DataError) as error:
        sessions(dataset([0, 0], [0, 1], **columns), pause)
    assert str(error.value) == message


def test_a_split_by_sessions_trains_on_nothing_as_new_as_the_sessions_it_tests():
    rng = np.random.default_rng(0)
    data = dataset(rng.integers(80, size=600), rng.integers(300, size=600), time=rng.integers(10**6, size=600))
    done = split(data, by="sessions", test=0.2, valid=0.1)
    log, part = done.interactions, done.split.part
    ended = log.time[log.offsets[1:] - 1]
    whose = {code: set(log.user[np.isin(part, codes)].tolist()) for code, codes in
             {TRAIN: [TRAIN], VALID: [VALID, VALID_HISTORY], TEST: [TEST, TEST_HISTORY]}.items()}  # fmt: skip
    assert not whose[TRAIN] & whose[VALID]
    assert not whose[TRAIN] & whose[TEST]
    assert max(ended[list(whose[TRAIN])]) < min(ended[list(whose[VALID])])
    assert max(ended[list(whose[VALID])]) < min(ended[list(whose[TEST])])
    assert (len(whose[TEST]), len(whose[VALID])) == (16, 8)
    assert len(done.test) == 16


def test_new_sessions_of_one_item_are_neither_tested_nor_trained_on():
    data = dataset([0, 0, 1, 1, 2, 3, 3, 4], [0, 1, 2, 0, 1, 2, 3, 0], time=[1, 2, 3, 4, 5, 6, 7, 8])
    part = split(data, by="sessions", test=0.6, valid=0).split.part
    assert part.tolist() == [TRAIN, TRAIN, TRAIN, TRAIN, UNUSED, TEST_HISTORY, TEST, UNUSED]


def test_sessions_cannot_be_split_by_time_where_there_is_none():
    with pytest.raises(DataError, match="split by sessions needs a 'time' column; interactions has user, item"):
        split(dataset([0, 0], [0, 1]), by="sessions")


def test_the_planted_sessions_of_the_shop_are_found_by_their_pauses():
    data = shop(300, 400, 12_000)
    planted, found = (sessions(data, pause).interactions.histories().to_lists() for pause in (None, "30m"))
    assert len(found) == pytest.approx(len(planted), rel=0.01)
    assert len({tuple(s) for s in planted} & {tuple(s) for s in found}) > 0.97 * len({tuple(s) for s in planted})


def test_evenings_of_movielens(real_data):
    data = known_set(real_data("ml-latest-small"))
    made = sessions(data, "1h")
    assert made.n_users == 6346
    assert len(made.interactions) == len(data.interactions) == 100_004
    assert made.users.column("user").unique().to_pylist() == data.users.ids.array.to_pylist()
    done = split(made, by="sessions")
    assert len(done.test) == 301
    assert done.test.query.history.lengths.min() >= 1
