"""Measures beyond accuracy against loops over lists and items, and on cases whose value is known."""

import math
from collections import Counter
from itertools import combinations
from statistics import mean

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from itemic.data.ragged import Ragged
from itemic.metrics import (
    average_popularity,
    beyond,
    coverage,
    diversity,
    exposure,
    gini,
    label_diversity,
    miscalibration,
    novelty,
    popularity_ratio,
)

N_ITEMS, K = 9, 4
LISTS = np.array([[0, 3, 5, 7, 1], [2, 2, 8, -1, -1], [4, -1, -1, -1, -1], [-1, -1, -1, -1, -1]], dtype=np.int32)
SHOWN = [[item for item in row[:K] if item >= 0] for row in LISTS.tolist()]
COUNTS = np.array([40, 3, 7, 0, 1, 12, 5, 5, 2])


def means(per_list):
    """The mean of each list's numbers, nan where there are none."""
    return [mean(numbers) if numbers else math.nan for numbers in per_list]


def test_exposure_and_coverage_count_the_items_shown():
    counted = Counter(item for row in SHOWN for item in row)
    assert exposure(LISTS, N_ITEMS, K).tolist() == [counted[item] for item in range(N_ITEMS)]
    assert coverage(LISTS, N_ITEMS, K) == len(counted) / N_ITEMS
    assert coverage(np.arange(N_ITEMS)[:, None], N_ITEMS, 1) == 1


@given(st.lists(st.integers(0, 50), min_size=1, max_size=12).filter(any))
def test_gini_is_half_the_mean_absolute_difference_over_the_mean(amounts):
    differences = [abs(a - b) for a in amounts for b in amounts]
    assert gini(np.array(amounts)) == pytest.approx(mean(differences) / mean(amounts) / 2, abs=1e-12)


def test_novelty_and_popularity_are_means_over_the_list():
    surprise = [-math.log2(max(count, 1) / 50) for count in COUNTS]
    expected = means([[surprise[item] for item in row] for row in SHOWN])
    np.testing.assert_allclose(novelty(LISTS, COUNTS, 50, K), expected)
    popularity = means([[int(COUNTS[item]) for item in row] for row in SHOWN])
    np.testing.assert_allclose(average_popularity(LISTS, COUNTS, K), popularity)


def test_popularity_ratio_is_one_when_the_list_is_the_history_and_nan_without_one():
    history = Ragged.from_lists([[0, 3, 5, 7], [5], [], [0]])
    ratio = popularity_ratio(LISTS, COUNTS, history, K)
    np.testing.assert_allclose(ratio, [1, mean([7, 7, 2]) / 12, np.nan, np.nan])


@pytest.mark.parametrize("block", [beyond.BLOCK, 1])
def test_diversity_is_the_mean_cosine_distance_of_pairs_in_blocks_of_any_size(block, monkeypatch):
    monkeypatch.setattr(beyond, "BLOCK", block)
    x = np.random.default_rng(0).normal(size=(N_ITEMS, 3)).astype(np.float32)
    cosine = (x @ x.T) / np.outer(np.linalg.norm(x, axis=1), np.linalg.norm(x, axis=1))
    expected = means([[1 - float(cosine[a, b]) for a, b in combinations(row, 2)] for row in SHOWN])
    np.testing.assert_allclose(diversity(LISTS, x, K), expected, atol=1e-6)


def test_label_diversity_is_the_share_of_pairs_that_differ_and_that_of_one_hot_vectors():
    labels = np.array([0, 1, 2, 0, 1, 0, 2, 2, 1])
    expected = means([[float(labels[a] != labels[b]) for a, b in combinations(row, 2)] for row in SHOWN])
    np.testing.assert_allclose(label_diversity(LISTS, labels, K), expected)
    np.testing.assert_allclose(diversity(LISTS, np.eye(3)[labels], K), expected)


CATEGORIES = Ragged.from_lists([[0], [0, 1], [2], [1, 2], [], [2], [0], [1], [0, 1, 2]])
HISTORY = [[0, 1, 2, 8], [6, 6, 7], [2], [1]]


def mix(items):
    labels = CATEGORIES.to_lists()
    shares = [sum(1 / len(labels[i]) for i in items if c in labels[i]) for c in range(3)]
    return [share / sum(shares) for share in shares] if sum(shares) else None


@pytest.mark.parametrize("block", [beyond.BLOCK, 1])
@pytest.mark.parametrize("alpha", [0.01, 0.3])
def test_miscalibration_is_stecks_divergence_in_blocks_of_any_size(block, alpha, monkeypatch):
    monkeypatch.setattr(beyond, "BLOCK", block)
    expected = []
    for shown, past in zip(SHOWN, HISTORY, strict=True):
        p, q = mix(past), mix(shown)
        terms = [a * math.log(a / ((1 - alpha) * b + alpha * a)) for a, b in zip(p, q) if a] if p and q else [math.nan]
        expected.append(sum(terms))
    assert np.isnan(expected).tolist() == [False, False, True, True]  # a list of one item without a category; no list
    measured = miscalibration(LISTS, Ragged.from_lists(HISTORY), CATEGORIES, K, alpha)
    np.testing.assert_allclose(measured, expected, atol=1e-12)


def test_miscalibration_prefers_the_planted_mix_to_the_majority_category():
    """Steck's example: of a history with 70 % and 30 %, accuracy alone shows the larger category only."""
    categories = Ragged.from_lists([[0]] * 10 + [[1]] * 10)
    history = Ragged.from_lists([list(range(7)) + [10, 11, 12]])
    majority, mirrored = np.arange(10)[None], np.array([[0, 1, 2, 3, 4, 5, 6, 17, 18, 19]])
    assert miscalibration(mirrored, history, categories, 10).item() == pytest.approx(0, abs=1e-12)
    assert miscalibration(majority, history, categories, 10).item() > 1
