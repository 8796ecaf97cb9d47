"""Splits: what each kind promises, on small cases written out and on random ones."""

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from itemic.data import (
    TEST,
    TEST_HISTORY,
    TRAIN,
    UNUSED,
    VALID,
    VALID_HISTORY,
    Dataset,
    Ids,
    Interactions,
    Split,
    Table,
)
from itemic.data.splits import check_leak, split
from itemic.errors import DataError, LeakError

KINDS = ("time", "last", "random", "users", "sessions", "items", "cold")


def dataset(user, item, time=None, **more) -> Dataset:
    n_users, n_items = max(user, default=0) + 1, max(item, default=0) + 1
    log = Interactions.of(user, item, n_users, n_items, time=time)
    users = Table(Ids([f"u{n}" for n in range(n_users)], "user"))
    items = Table(Ids([f"i{n}" for n in range(n_items)], "item"))
    return Dataset(items, users, log, name="shop", **more)


def busy(n_users=60, n_items=40, n=3000, seed=0, **more) -> Dataset:
    rng = np.random.default_rng(seed)
    return dataset(
        rng.integers(n_users, size=n), rng.integers(n_items, size=n), time=rng.integers(n // 2, size=n), **more
    )


def pairs(data: Dataset, *parts: int) -> set[tuple[int, int]]:
    assert data.split is not None
    log, rows = data.interactions, np.isin(data.split.part, parts)
    return set(zip(log.user[rows].tolist(), log.item[rows].tolist(), strict=True))


def part_of(data: Dataset) -> np.ndarray:
    assert data.split is not None
    return data.split.part


@st.composite
def datasets(draw) -> Dataset:
    rows = draw(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 7), st.integers(0, 30)), min_size=15, max_size=80))
    user, item, time = map(list, zip(*rows, strict=True))
    return dataset(user, item, time=time, repeats=draw(st.booleans()))


def tried(data: Dataset, by: str, **options) -> Dataset | None:
    """The split, or nothing where the few rows do not allow it."""
    try:
        return split(data, by=by, **options)
    except DataError:
        return None


@settings(max_examples=60, deadline=None)
@given(datasets(), st.sampled_from(KINDS), st.floats(0.15, 0.5), st.floats(0, 0.4), st.integers(0, 9))
def test_every_row_has_one_part_and_none_leaks(data, by, test, valid, seed):
    done = tried(data, by, test=test, valid=valid, seed=seed)
    assume(done is not None)
    assert done is not None
    part = part_of(done)
    allowed = {TRAIN, VALID, TEST} | ({VALID_HISTORY, TEST_HISTORY} if by in ("users", "sessions") else set())
    assert part.dtype == np.uint8
    assert len(part) == len(data.interactions)
    assert set(part.tolist()) <= allowed | (set() if data.repeats else {UNUSED})
    assert (part == TEST).any()
    assert (part == TRAIN).any()
    assert done.split is not None
    assert done.split.how.get("n_repeats_dropped", 0) == (part == UNUSED).sum()
    check_leak(done)
    if not data.repeats:
        assert not pairs(done, TEST) & pairs(done, TRAIN, VALID, TEST_HISTORY)
        assert not pairs(done, VALID) & pairs(done, TRAIN, VALID_HISTORY)


@settings(max_examples=60, deadline=None)
@given(datasets(), st.floats(0.15, 0.5), st.floats(0, 0.4))
def test_a_time_split_never_trains_on_anything_as_new_as_what_it_tests(data, test, valid):
    done = tried(data, "time", test=test, valid=valid)
    assume(done is not None)
    assert done is not None
    part, time = part_of(done), data.interactions.time
    assert time is not None
    newest = {p: time[part == p].max() for p in (TRAIN, VALID) if (part == p).any()}
    oldest = {p: time[part == p].min() for p in (VALID, TEST) if (part == p).any()}
    assert newest[TRAIN] < oldest[TEST]
    if VALID in newest:
        assert newest[TRAIN] < oldest[VALID]
        assert newest[VALID] < oldest[TEST]


@settings(max_examples=60, deadline=None)
@given(datasets(), st.booleans())
def test_a_last_split_takes_exactly_the_last_of_users_with_enough(data, with_valid):
    data = replace(data, repeats=True)
    done = tried(data, "last", valid=0.1 if with_valid else 0)
    assume(done is not None)
    assert done is not None
    part, offsets = part_of(done), data.interactions.offsets
    for first, last in pairwise(offsets.tolist()):
        held = [VALID, TEST] if with_valid else [TEST]
        mine = part[first:last].tolist()
        assert mine == ([TRAIN] * (len(mine) - len(held)) + held if len(mine) > len(held) else [TRAIN] * len(mine))


@settings(max_examples=60, deadline=None)
@given(datasets(), st.floats(0.15, 0.5), st.floats(0, 0.4), st.integers(0, 9))
def test_a_random_split_takes_rounded_shares_of_every_user_and_leaves_one(data, test, valid, seed):
    data = replace(data, repeats=True)
    done = tried(data, "random", test=test, valid=valid, seed=seed)
    assume(done is not None)
    assert done is not None
    for user in np.unique(data.interactions.user):
        mine = part_of(done)[data.interactions.user == user]
        n_test = min(int(test * len(mine) + 0.5), len(mine) - 1)
        n_valid = min(int(valid * len(mine) + 0.5), len(mine) - 1 - n_test)
        assert [(mine == p).sum() for p in (TEST, VALID)] == [n_test, n_valid]


def test_a_time_split_keeps_equal_times_together_in_the_newer_part():
    data = dataset([0] * 10, range(10), time=[0, 1, 2, 3, 4, 4, 4, 7, 8, 8])
    assert part_of(split(data, by="time", test=0.1, valid=0.2)).tolist() == [TRAIN] * 4 + [VALID] * 4 + [TEST] * 2


def test_a_time_split_of_distinct_times_has_the_shares_asked_for():
    data = dataset(np.arange(1000) % 7, np.arange(1000) % 31, time=np.arange(1000)[::-1], repeats=True)
    assert np.bincount(part_of(split(data, test=0.2, valid=0.05))).tolist() == [750, 50, 200]


def test_the_known_part_of_a_held_out_user_is_older_than_the_20_percent_to_be_found():
    data = dataset(np.repeat(np.arange(20), 10), np.tile(np.arange(10), 20), time=np.tile(np.arange(10), 20))
    done = split(data, by="users", test=0.1, valid=0.2)
    by_user = part_of(done).reshape(20, 10).tolist()
    assert by_user.count([TEST_HISTORY] * 8 + [TEST] * 2) == 2
    assert by_user.count([VALID_HISTORY] * 8 + [VALID] * 2) == 4
    assert by_user.count([TRAIN] * 10) == 14


def test_the_known_part_of_a_held_out_user_is_random_where_no_order_is_known():
    data = dataset(np.repeat(np.arange(40), 10), np.tile(np.arange(10), 40))
    part = part_of(split(data, by="users", test=0.5, valid=0)).reshape(40, 10)
    held = part[(part != TRAIN).any(1)]
    assert ((held == TEST).sum(1) == 2).all()
    assert len(np.unique(held, axis=0)) > 5
    ordered = part_of(split(replace(data, ordered=True), by="users", test=0.5, valid=0)).reshape(40, 10)
    assert len(np.unique(ordered[(ordered != TRAIN).any(1)], axis=0)) == 1


def test_held_out_users_are_unknown_to_the_model_but_have_a_history():
    done = split(busy(), by="users", test=0.2)
    assert set(done.test.query.user.tolist()) == {-1}
    assert (done.test.query.history.lengths > 0).all()


def test_cold_items_are_held_out_whole_and_only_where_they_have_five_interactions():
    rare = dataset([*range(50), 0, 1], [n % 10 for n in range(50)] + [10, 10], repeats=True)
    done = split(rare, by="items", test=0.3, valid=0.2, seed=3)
    part, item = part_of(done), rare.interactions.item
    assert all(len(set(part[item == i].tolist())) == 1 for i in range(11))
    assert [len(np.unique(item[part == p])) for p in (TRAIN, VALID, TEST)] == [6, 2, 3]
    assert (part[item == 10] == TRAIN).all()


def test_after_a_cold_split_the_rest_is_split_by_last_and_nothing_of_a_cold_item_is_known():
    data = dataset(
        np.repeat(np.arange(8), 6), [(u + n) % 9 for u in range(8) for n in range(6)], time=np.tile(range(6), 8)
    )
    done = split(data, by="cold", test=0.2, seed=1)
    part, log = part_of(done), data.interactions
    cold = np.flatnonzero(done.test.unseen)
    assert len(cold) == 2
    assert (part[np.isin(log.item, cold)] == TEST).all()
    for user in range(8):
        warm = part[(log.user == user) & ~np.isin(log.item, cold)]
        assert warm.tolist() == [*[TRAIN] * (len(warm) - 2), VALID, TEST]
    assert not np.isin(done.test.query.history.values, cold).any()
    assert done.test.query.history.lengths.sum() == (part == TRAIN).sum() + (part == VALID).sum()
    assert (part_of(split(data, by="cold", test=0.2, valid=0, seed=1)) != VALID).all()


@pytest.mark.parametrize("by", KINDS)
def test_the_recipe_of_a_split_makes_it_again_and_another_seed_does_not(by):
    data = busy()
    done = split(data, by=by, test=0.15, valid=0.05, seed=4)
    assert done.split is not None
    how = json.loads(json.dumps(done.split.how))
    how.pop("n_repeats_dropped")
    assert np.array_equal(part_of(split(data, **how)), part_of(done))
    other = part_of(split(data, by=by, test=0.15, valid=0.05, seed=5))
    assert np.array_equal(other, part_of(done)) == (by in ("time", "last", "sessions"))


def test_a_seed_gives_these_parts_on_every_machine():
    # PCG64(1) draws .51 .95 .14 .95 .31 .42 for the first user's rows and .83 .41 .55 .03 .75 .54 for the second's
    data = dataset([0] * 6 + [1] * 6, list(range(6)) * 2)
    part = part_of(split(data, by="random", test=0.34, valid=0.17, seed=1))
    assert part.tolist() == [0, 0, 2, 0, 2, 1, 0, 2, 0, 2, 0, 1]


def test_a_split_survives_saving_and_opening(tmp_path):
    done = split(busy(), by="random", mask_valid=True)
    opened = done.save(tmp_path / "shop")
    assert opened.split is not None
    assert done.split is not None
    assert opened.split.how == done.split.how
    assert opened.split.mask_valid
    assert np.array_equal(part_of(opened), part_of(done))
    again = split(opened, by="time")
    again.save_split()
    assert np.array_equal(part_of(Dataset.open(tmp_path / "shop")), part_of(again))


def test_the_split_leaves_the_dataset_it_came_from_alone():
    data = busy()
    official = np.zeros(len(data.interactions), np.uint8)
    official[:9] = TEST
    data = replace(data, official=official, repeats=True)
    assert np.array_equal(part_of(split(data)), official)
    assert data.split is None
    assert split(data, by="time").official is official


@pytest.mark.parametrize(
    ("more", "by"),
    [
        ({"time": True, "official": True}, "official"),
        ({"time": True}, "time"),
        ({"ordered": True}, "last"),
        ({}, "random"),
    ],
)
def test_auto_takes_the_first_that_is_possible(more, by):
    user, item = [0, 0, 0, 1, 1, 1] * 2, range(12)
    options = {"official": np.array([TRAIN, TEST] * 6, np.uint8)} if more.get("official") else {}
    data = dataset(
        user, item, time=range(12) if more.get("time") else None, ordered=more.get("ordered", False), **options
    )
    done = split(data, test=0.2)
    assert done.split is not None
    assert done.split.how["by"] == by


@pytest.mark.parametrize(
    ("options", "expected"),
    [({"by": "time", "test": 0.2}, True), ({"by": "last"}, True), ({"by": "random"}, False)],
)
def test_validation_is_masked_at_test_where_it_came_before_unless_told_otherwise(options, expected):
    done = split(busy(), **options).split
    assert done is not None
    assert done.mask_valid is expected
    assert "mask_valid" not in done.how
    told = split(busy(), **options, mask_valid=not expected).split
    assert told is not None
    assert told.mask_valid is not expected
    assert told.how["mask_valid"] is not expected


def test_a_repeat_of_an_earlier_item_is_unused_unless_repeats_are_declared():
    data = dataset([0, 0, 0, 0, 1, 1, 1], [0, 1, 2, 0, 0, 1, 2], time=[1, 2, 3, 4, 1, 2, 3])
    done = split(data, by="last")
    assert part_of(done).tolist() == [TRAIN, TRAIN, VALID, UNUSED, TRAIN, VALID, TEST]
    assert done.split is not None
    assert done.split.how == {"by": "last", "n_repeats_dropped": 1}
    kept = split(replace(data, repeats=True), by="last")
    assert part_of(kept).tolist() == [TRAIN, TRAIN, VALID, TEST, TRAIN, VALID, TEST]


def test_a_test_interaction_that_is_also_in_train_is_refused_unless_repeats_are_declared():
    part = np.array([TRAIN, TRAIN, TEST, VALID], np.uint8)
    data = dataset([0, 0, 0, 0], [4, 5, 4, 6], official=part)
    message = (
        "1 of 2 test and validation interactions of shop are in its train part too, the first of user 'u0' with item "
        "'i4'. Drop one of each pair, or declare that taking an item again counts (--repeats)."
    )
    for refused in (lambda: split(data), lambda: check_leak(replace(data, split=Split(part, {"by": "mine"})))):
        with pytest.raises(LeakError) as error:
            refused()
        assert str(error.value) == message
    check_leak(data)  # nothing is split yet
    check_leak(split(replace(data, repeats=True)))


PLAIN = dataset([0, 0, 0, 1], [0, 1, 2, 0])
TIMED = dataset([0, 0, 0, 1], [0, 1, 2, 0], time=[1, 2, 3, 4])


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (
            PLAIN,
            {"by": "time"},
            "split by time needs a 'time' column; interactions has user, item. "
            "Name it when importing (--columns time=NAME), or split by random.",
        ),
        (
            PLAIN,
            {"by": "last"},
            "split by last needs a 'time' column or rows in order; interactions has user, item, in no known order. "
            "Name it when importing (--columns time=NAME), or split by random.",
        ),
        (
            PLAIN,
            {"by": "tiem"},
            "there is no split by 'tiem'. Did you mean 'time'? "
            "Choose one of auto, time, last, random, users, sessions, items, cold, dialogues, official.",
        ),
        (
            PLAIN,
            {"by": "official"},
            "shop came without a split of its own. Split by time, last, random, users, sessions, items or cold.",
        ),
        (
            PLAIN,
            {"test": 0.6, "valid": 0.5},
            "test 0.6 and valid 0.5 leave no train part or are no shares. Give test above 0, valid 0 or more, "
            "and together less than 1.",
        ),
        (PLAIN, {"seed": -1}, "a seed is 0 or more, not -1."),
        (
            dataset([], []),
            {},
            "shop has no interactions to split. Import some first.",
        ),
        (
            TIMED,
            {"by": "time", "test": 0.1},
            "split by time of 4 interactions leaves no test part: a share of 0.1 is less than one. "
            "Raise test or use another split.",
        ),
        (
            TIMED,
            {"by": "items"},
            "split by items of 4 interactions leaves no test part: too few items have 5 or more for a share of 0.1. "
            "Raise test or use another split.",
        ),
        (
            dataset([0, 1], [0, 0], time=[1, 2]),
            {"by": "last"},
            "split by last of 2 interactions leaves no test part: no user has enough interactions. "
            "Raise test or use another split.",
        ),
        (
            dataset([0, 1], [0, 0], time=[5, 5]),
            {"by": "time", "test": 0.5},
            "split by time of 2 interactions leaves no train part. Lower test and valid or use another split.",
        ),
        (
            dataset([0, 0, 0], [0, 0, 0], time=[1, 2, 3]),
            {"by": "last"},
            "split by last leaves no test part: each of its interactions repeats an item that its user had before. "
            "Declare that repeats count (repeats=True), or use another split.",
        ),
    ],
)
def test_an_impossible_split_says_why_and_what_to_do(data, options, message):
    with pytest.raises(DataError) as error:
        split(data, **options)
    assert str(error.value) == message


@pytest.mark.parametrize(("test", "valid"), [(0, 0.1), (1, 0), (-0.1, 0.1), (0.1, -0.1), (float("nan"), 0.1)])
def test_numbers_that_are_no_shares_are_refused(test, valid):
    with pytest.raises(DataError, match="are no shares"):
        split(PLAIN, test=test, valid=valid)
