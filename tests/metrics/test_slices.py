"""Slices part queries and items without loss, and the metrics of a slice are those of its own relevant items."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from itemic.data.ragged import Ragged
from itemic.metrics import by_activity, by_popularity, by_warmth, hits, leave_out_empty, only, recall

counts = st.lists(st.integers(0, 30), min_size=1, max_size=40).map(np.array)


@given(counts, st.integers(1, 6))
def test_activity_bins_part_the_queries_by_length_and_never_part_equals(lengths, bins):
    masks = by_activity(lengths, bins)
    assert (sum(mask.astype(int) for mask in masks.values()) == 1).all()
    parts = [lengths[mask] for mask in masks.values()]
    assert all(a.max() < b.min() for a, b in pairwise(parts))
    assert 1 <= len(masks) <= bins


def test_activity_bins_are_equal_when_lengths_differ():
    masks = by_activity(np.random.default_rng(0).permutation(100), bins=4)
    assert {name: int(mask.sum()) for name, mask in masks.items()} == {
        "history 0-24": 25,
        "history 25-49": 25,
        "history 50-74": 25,
        "history 75-99": 25,
    }


@given(counts)
def test_popularity_slices_part_the_items_in_falling_order_of_counts(item_counts):
    masks = by_popularity(item_counts)
    assert (sum(mask.astype(int) for mask in masks.values()) == 1).all()
    parts = [item_counts[mask] for mask in masks.values() if mask.any()]
    assert all(a.min() >= b.max() for a, b in pairwise(parts))


def test_popularity_slices_hold_a_third_of_the_interactions_each():
    item_counts = np.random.default_rng(0).permutation(np.arange(1000) + 1)
    for mask in by_popularity(item_counts).values():
        assert item_counts[mask].sum() / item_counts.sum() == pytest.approx(1 / 3, abs=0.002)


def test_of_equally_popular_items_the_lower_code_leads():
    masks = by_popularity(np.full(6, 5))
    assert [np.flatnonzero(masks[name]).tolist() for name in ("head", "mid", "tail")] == [[0, 1], [2, 3], [4, 5]]


def test_a_metric_of_a_slice_counts_only_its_items_and_the_slices_add_up():
    ranked = np.array([[0, 1, 2], [3, 4, 0]], dtype=np.int32)
    relevant = Ragged.from_lists([[1, 2, 4], [0]])
    slices = by_warmth(np.array([5, 2, 0, 1, 0]))
    assert recall(ranked, only(relevant, slices["warm"]), 2).tolist() == [1, 0]
    cold = recall(ranked, only(relevant, slices["cold"]), 3)
    assert leave_out_empty({"recall@3": cold}) == ({"recall@3": [0.5]}, 1)
    found = sum(hits(ranked, only(relevant, items)).found(3).sum(1) for items in slices.values())
    assert (found == hits(ranked, relevant).found(3).sum(1)).all()
