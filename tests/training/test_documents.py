"""How documents are dealt out in steps."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from itemic.training.documents import dealt, growing


def test_steps_grow_one_by_one_and_each_size_takes_tokens_in_proportion_to_it():
    sizes = growing(2_000_000, row=100, size=20, first=4, share=0.2)
    assert (np.diff(sizes) >= 0).all()
    assert set(np.diff(sizes)) == {0, 1}
    assert (sizes[0], sizes[-1]) == (4, 20)
    steps = np.bincount(sizes)[4:20]
    assert steps.max() - steps.min() <= 1
    assert 100 * sizes[sizes < 20].sum() == pytest.approx(0.2 * 2_000_000, rel=0.02)
    assert 100 * sizes.sum() == pytest.approx(2_000_000, rel=0.01)


@pytest.mark.parametrize(("first", "share"), [(8, 0.3), (2, 0.0)])
def test_steps_do_not_grow_where_they_begin_as_they_end(first, share):
    assert growing(10_000, row=10, size=8, first=first, share=share).tolist() == [8] * 125


def test_few_tokens_are_a_step_at_least():
    assert growing(1, row=100, size=8, first=2, share=0.07).tolist() == [8]


@given(
    st.lists(st.integers(1, 10), min_size=1, max_size=30),
    st.lists(st.integers(10, 60), min_size=1, max_size=20),
    st.integers(0, 5),
)
def test_each_step_has_its_budget_and_each_document_its_turn(lengths, budgets, seed):
    lengths, budgets = np.array(lengths), np.array(budgets)
    steps = dealt(lengths, budgets, np.random.default_rng(seed))
    assert len(steps) == len(budgets)
    used = np.array([lengths[step].sum() for step in steps])
    assert (used > 0).all()
    assert (np.cumsum(used) <= np.cumsum(budgets)).all()
    assert (np.cumsum(used) > np.cumsum(budgets) - 10).all()
    times = np.bincount(np.concatenate(steps), minlength=len(lengths))
    assert times.max() - times.min() <= 1
