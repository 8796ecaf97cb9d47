"""Repeat-last: the newest first, and popularity behind them or where nothing is known."""

import numpy as np
import pytest

from itemic.data import Dataset, Interactions, Query, Ragged, Table
from itemic.data.splits import split
from itemic.errors import QueryError
from itemic.evaluation import evaluate
from itemic.registry import find


def shop(rows, n_items, repeats=True):
    user = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    log = Interactions.of(user, np.concatenate(rows), len(rows), n_items, time=np.arange(len(user)))
    tables = Table.numbered(n_items), Table.numbered(len(rows), "user")
    return Dataset(*tables, log, name="shop", repeats=repeats)


@pytest.fixture(scope="module")
def fitted():
    return find("repeatlast")().fit(shop([[0, 1], [0, 2], [0, 1, 1]], 5))


def asked(*rows, **more):
    return Query(history=Ragged.from_lists([list(row) for row in rows]), **more)


def test_the_newest_items_come_first_each_once_at_its_last_place_and_popular_ones_after(fitted):
    ranking = fitted.rank(asked([3, 4, 3, 2], [4], repeats=True), 5)
    assert ranking.items.tolist() == [[2, 3, 4, 0, 1], [4, 0, 1, 2, 3]]


def test_where_seen_items_are_masked_or_nothing_is_known_it_is_popularity(fitted):
    assert fitted.rank(asked([3, 0]), 5).items.tolist() == [[1, 2, 4, -1, -1]]
    assert fitted.rank(asked([], repeats=True), 3).items.tolist() == [[0, 1, 2]]
    assert fitted.rank(Query(user=np.array([0], np.int32)), 3).items.tolist() == [[0, 1, 2]]


def test_among_candidates_the_same_holds(fitted):
    query = asked([3, 4], candidates=Ragged.from_lists([[0, 3, 4]]), repeats=True)
    assert fitted.rank(query, 3).items.tolist() == [[4, 3, 0]]


def test_it_finds_the_share_of_people_who_take_the_last_again():
    rng = np.random.default_rng(0)
    rows = [
        np.append(row, row[-1] if n % 4 == 0 else 50 + n % 50) for n, row in enumerate(rng.integers(0, 50, (80, 5)))
    ]
    data = split(shop(rows, 100), "last", valid=0)
    found = evaluate(find("repeatlast")().fit(data.train), data.test, "recall@1")["recall@1"]
    assert found == pytest.approx(0.25)


def test_it_knows_nothing_of_likeness(fitted):
    with pytest.raises(QueryError, match="repeatlast knows nothing of likeness between items"):
        fitted.similar([0])
