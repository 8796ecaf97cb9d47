"""Ragged rows behave as the nested lists they stand for."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from itemic.data import Ragged

rows = st.lists(st.lists(st.integers(0, 9), max_size=6), max_size=8)
some_rows = st.lists(st.lists(st.integers(0, 9), max_size=6), min_size=1, max_size=8)


@given(rows)
def test_lists_come_back_and_are_counted(lists):
    ragged = Ragged.from_lists(lists)
    assert ragged.to_lists() == lists
    assert [row.tolist() for row in ragged] == lists
    assert ragged.lengths.tolist() == [len(row) for row in lists]
    assert ragged.row_of_value.tolist() == [r for r, row in enumerate(lists) for _ in row]


@given(some_rows, st.data())
def test_taking_rows_is_indexing_the_list(lists, data):
    chosen = data.draw(st.lists(st.integers(0, len(lists) - 1), max_size=10))
    ragged = Ragged.from_lists(lists)
    assert ragged.take(chosen).to_lists() == [lists[row] for row in chosen]
    assert ragged.values[ragged.positions(chosen)].tolist() == [value for row in chosen for value in lists[row]]
    assert ragged[-1].tolist() == lists[-1]


@given(some_rows, st.data())
def test_a_block_is_a_slice_that_shares_its_values(lists, data):
    start = data.draw(st.integers(0, len(lists)))
    stop = data.draw(st.integers(start, len(lists) + 3))
    ragged = Ragged.from_lists(lists)
    block = ragged.block(start, stop)
    assert block.to_lists() == lists[start:stop]
    assert len(block.values) == 0 or np.shares_memory(block.values, ragged.values)


@given(rows, st.integers(0, 9), st.integers(0, 4))
def test_keeping_and_the_last_values_are_those_of_each_row(lists, threshold, n):
    ragged = Ragged.from_lists(lists)
    assert ragged.keep(ragged.values > threshold).to_lists() == [[v for v in row if v > threshold] for row in lists]
    assert ragged.last(n).to_lists() == [row[max(len(row) - n, 0) :] for row in lists]


@given(
    st.lists(st.tuples(st.lists(st.integers(0, 9), max_size=5), st.lists(st.integers(0, 9), max_size=5)), max_size=6)
)
def test_joining_puts_each_row_behind_its_partner(pairs):
    left, right = Ragged.from_lists([a for a, _ in pairs]), Ragged.from_lists([b for _, b in pairs])
    assert left.joined(right).to_lists() == [a + b for a, b in pairs]


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 99)), max_size=20))
def test_pairs_are_grouped_by_row_in_their_order(pairs):
    row, value = (np.array([pair[side] for pair in pairs], np.int64) for side in (0, 1))
    grouped = Ragged.from_pairs(row, value, 5)
    assert grouped.to_lists() == [[v for r, v in pairs if r == wanted] for wanted in range(5)]


@pytest.mark.parametrize("offsets", [[1, 3], [0, 2], [], [0, 1, 4]])
def test_offsets_that_do_not_span_the_values_are_refused(offsets):
    with pytest.raises(ValueError, match="offsets must run from 0 to 3, the number of values"):
        Ragged(np.array([1, 2, 3]), np.array(offsets, np.int64))


def test_rows_that_do_not_pair_up_are_refused():
    with pytest.raises(ValueError, match="cannot join 1 rows with 2 rows"):
        Ragged.empty(1).joined(Ragged.empty(2))


def test_there_is_no_row_beyond_the_last():
    with pytest.raises(IndexError):
        Ragged.from_lists([[1]])[1]
