"""Queries are taken and cut row by row, rankings become frames, and what is masked is what was said."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from itemic.data import Ids, Query, Ragged, Ranking, Table

HISTORY = Ragged.from_lists([[4, 0], [], [1, 2, 3]])


def full() -> Query:
    """Three requests with every field, each value telling the row (and place) that it belongs to."""
    return Query(
        user=np.array([10, -1, 12], np.int32),
        history=HISTORY,
        history_time=np.array([1, 2, 31, 32, 33], np.int64),
        history_kind=np.array([0, 1, 0, 1, 0], np.int16),
        history_weight=np.array([0.1, 0.2, 3.1, 3.2, 3.3], np.float32),
        basket=Ragged.from_lists([[7], [8, 9], []]),
        context={"place": np.array(["home", "work", "out"])},
        candidates=Ragged.from_lists([[0], [1], [2, 3]]),
        exclude=np.array([5, 6], np.int32),
        repeats=True,
    )


def row(query: Query, r: int) -> dict:
    """All that is said about one request."""
    where = slice(query.history.offsets[r], query.history.offsets[r + 1])
    return {
        "user": query.user[r],
        "history": query.history[r].tolist(),
        "time": query.history_time[where].tolist(),
        "kind": query.history_kind[where].tolist(),
        "weight": query.history_weight[where].tolist(),
        "basket": query.basket[r].tolist(),
        "place": query.context["place"][r],
        "candidates": query.candidates[r].tolist(),
        "exclude": query.exclude.tolist(),
        "repeats": query.repeats,
    }


@given(st.lists(st.integers(0, 2), max_size=5))
def test_taking_requests_takes_all_that_is_said_about_each(rows):
    query, taken = full(), full().take(np.array(rows, np.int64))
    assert len(taken) == len(rows)
    assert [row(taken, r) for r in range(len(rows))] == [row(query, r) for r in rows]


@given(st.integers(0, 3), st.integers(0, 4))
def test_a_block_of_requests_is_the_same_as_taking_them(start, length):
    block, rows = full().block(start, start + length), range(start, min(start + length, 3))
    assert len(block) == len(rows)
    assert [row(block, r) for r in range(len(rows))] == [row(full(), r) for r in rows]


def test_the_fields_that_say_something_are_listed():
    assert Query(history=HISTORY, context={"place": np.array([1, 2, 3])}).fields == ["history", "context"]
    assert Query(user=np.array([1]), exclude=np.array([3])).fields == ["user"]


def test_what_is_masked_is_history_and_exclusions_unless_repeats_are_asked_for():
    own, shared = Ragged.from_lists([[9], [8], []]), np.array([5, 6])
    assert Query(history=HISTORY).masked().to_lists() == HISTORY.to_lists()
    assert Query(history=HISTORY, exclude=own).masked().to_lists() == [[4, 0, 9], [8], [1, 2, 3]]
    assert Query(history=HISTORY, exclude=shared).masked().to_lists() == [[4, 0, 5, 6], [5, 6], [1, 2, 3, 5, 6]]
    assert Query(history=HISTORY, exclude=own, repeats=True).masked().to_lists() == own.to_lists()
    assert Query(history=HISTORY, repeats=True).masked().to_lists() == [[], [], []]
    assert Query(n=2).masked().to_lists() == [[], []]


def test_fields_that_do_not_fit_together_are_refused():
    with pytest.raises(ValueError, match="the fields of a Query differ in length: {'user': 1, 'history': 3}"):
        Query(user=np.array([1]), history=HISTORY)
    with pytest.raises(ValueError, match="history_time must have one value for every item of history"):
        Query(history=HISTORY, history_time=np.array([1, 2]))
    with pytest.raises(ValueError, match="a Query needs at least one field with a row a request, or n"):
        Query(exclude=np.array([1]))


def test_a_ranking_becomes_a_frame_of_ranks_ids_and_titles_without_the_gaps():
    items = Table.of(Ids(["a", "b", "c"]), {"title": ["Ant", "Bee", None]})
    ranking = Ranking(np.array([[2, 0], [1, -1]], np.int32), np.array([[3, 1], [2, 0]], np.float32), items)
    assert ranking.to_frame(["u", "v"]).rows(named=True) == [
        {"user": "u", "rank": 1, "item": "c", "score": 3.0, "title": None},
        {"user": "u", "rank": 2, "item": "a", "score": 1.0, "title": "Ant"},
        {"user": "v", "rank": 1, "item": "b", "score": 2.0, "title": "Bee"},
    ]
    bare = Ranking(ranking.items, ranking.scores).to_frame()
    assert bare.rows() == [(0, 1, 2, 3.0), (0, 2, 0, 1.0), (1, 1, 1, 2.0)]
    assert bare.columns == ["query", "rank", "item", "score"]
