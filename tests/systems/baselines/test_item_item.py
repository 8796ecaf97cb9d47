"""Histories scored with item-to-item weights, however these are kept."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from itemic.data import Ragged
from itemic.systems.baselines.item_item import history_scores, sparse_weights

histories = st.lists(st.lists(st.integers(0, 5), max_size=6), min_size=1, max_size=4)


@given(histories, st.integers(0, 2**31), st.integers(1, 6))
def test_sparse_and_dense_weights_score_as_a_loop_over_the_items_of_the_history(lists, seed, block):
    rng = np.random.default_rng(seed)
    dense = np.where(rng.random((6, 6)) < 0.5, rng.normal(size=(6, 6)), 0).astype(np.float32)
    source = np.where(dense.T != 0, np.arange(6), -1).astype(np.int32)
    sparse = sparse_weights(((source[s : s + block], dense.T[s : s + block]) for s in range(0, 6, block)), 6)
    expected = [sum((dense[item] for item in set(row)), np.zeros(6)) for row in lists]
    for weights in (sparse, {"dense": dense}):
        scores = history_scores(Ragged.from_lists(lists), weights, 6)
        np.testing.assert_allclose(scores, expected, atol=1e-5)
        assert scores.dtype == np.float32
