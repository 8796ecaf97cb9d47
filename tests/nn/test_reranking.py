"""Joined, varied and drawn lists against their definitions, written as loops."""

import math
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from itemic.nn.reranking import diverse, drawn, from_0_to_1, joined

LISTS = st.lists(st.lists(st.integers(0, 9), unique=True, max_size=6), min_size=1, max_size=3)


@given(LISTS)
def test_joined_lists_are_the_sums_of_reciprocal_places(lists):
    matrices = [np.array([one + [-1] * (6 - len(one))], np.int32) for one in lists]
    weights = [1.0, 0.5, 2.0][: len(lists)]
    expected: dict = {}
    for one, weight in zip(lists, weights):
        for place, item in enumerate(one, start=1):
            expected[item] = expected.get(item, 0) + weight / (60 + place)
    pool = joined(matrices, weights)
    order = sorted(expected, key=lambda item: (-expected[item], item))
    assert pool.items[0].tolist() == order
    np.testing.assert_allclose(pool.scores[0], [expected[item] for item in order], rtol=1e-6)
    assert pool.source[0].tolist() == [next(n for n, one in enumerate(lists) if item in one) for item in order]


def greedy(relevance, k, vectors, share, groups):
    """Maximal marginal relevance as its definition reads, one request at a time."""
    taken: list = []
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for _ in range(k):
        best, value = -1, -math.inf
        for item in range(len(relevance)):
            if item in taken or relevance[item] == -math.inf:
                continue
            if any(sum(group[t] == group[item] for t in taken) >= cap and group[item] >= 0 for group, cap in groups):
                continue
            cosines = [unit[item] @ unit[t] for t in taken]
            worth = (1 - share) * relevance[item] - share * max(cosines, default=-1)
            if worth > value + 1e-12:
                best, value = item, worth
        if best < 0:
            break
        taken.append(best)
    return taken + [-1] * (k - len(taken))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("cap", [1, 2, 9])
def test_varied_lists_are_those_of_the_loop(share, cap):
    rng = np.random.default_rng(0)
    relevance, vectors = rng.random((20, 12)), rng.normal(size=(20, 12, 3))
    relevance[rng.random(relevance.shape) < 0.2] = -np.inf
    group = rng.integers(-1, 4, (20, 12))
    chosen = diverse(relevance, 8, vectors, share, [(group, cap)])
    for row in range(20):
        assert chosen[row].tolist() == greedy(relevance[row], 8, vectors[row], share, [(group[row], cap)])


def test_more_share_means_less_alike():
    rng = np.random.default_rng(1)
    relevance, vectors = rng.random((50, 30)), rng.normal(size=(50, 30, 4))

    def likeness(share):
        chosen = diverse(relevance, 5, vectors, share)
        unit = np.take_along_axis(vectors / np.linalg.norm(vectors, axis=2, keepdims=True), chosen[..., None], 1)
        return (unit @ unit.transpose(0, 2, 1)).mean()

    assert likeness(0.9) < likeness(0.5) < likeness(0.0)


def test_a_drawn_list_has_the_chance_that_it_states():
    logits, temperature = np.array([1.0, 0.5, 0.0]), 0.7
    n = 30_000
    chosen, chance = drawn(np.tile(logits, (n, 1)), 2, temperature, np.random.default_rng(0))
    weight = np.exp(logits / temperature)
    for first, second in permutations(range(3), 2):
        expected = [weight[first] / weight.sum(), weight[second] / (weight.sum() - weight[first])]
        rows = (chosen == [first, second]).all(1)
        np.testing.assert_allclose(chance[rows][0], expected, rtol=1e-9)
        assert rows.mean() == pytest.approx(math.prod(expected), abs=0.01)  # three standard errors


def test_coldness_draws_the_best_list():
    relevance = np.random.default_rng(0).random((10, 8))
    chosen, chance = drawn(relevance, 8, 1e-4, np.random.default_rng(1))
    np.testing.assert_array_equal(chosen, np.argsort(-relevance, 1))
    assert (chance[:, :7] > 0.9).mean() > 0.9


def test_an_empty_pool_gives_empty_lists():
    nothing = np.full((2, 3), -np.inf)
    assert (diverse(nothing, 2) == -1).all()
    assert (drawn(nothing, 4, 1.0, np.random.default_rng(0))[0] == -1).all()
    assert joined([np.full((2, 3), -1)], [1.0]).items.shape == (2, 0)
    assert (diverse(np.empty((2, 0)), 2) == -1).all()
    assert (from_0_to_1(nothing) == -np.inf).all()
