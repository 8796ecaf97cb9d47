import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from itemic.errors import DataError
from itemic.tokenizers.collisions import WAYS, nearest, numbered, sharing, sinkhorn, suffix

NOBODY = np.empty((0, 2), np.int32)


def costs_of(n, size, seed=0):
    table = np.random.default_rng(seed).random((n, size)).astype(np.float32)
    return lambda rows: table[rows]


def rows(*lists):
    return np.array(lists, np.int32)


def unique(codes):
    return len(np.unique(codes, axis=0)) == len(codes)


def by_cost(prefix, costs, n):
    """Codes whose last one is the cheapest, as tokenizers give them."""
    return np.column_stack([prefix, costs(np.arange(n)).argmin(1)]).astype(np.int32)


def test_duplicates_are_numbered_from_0_in_their_order():
    assert suffix(rows([3, 1], [3, 1], [0, 2], [3, 1]), NOBODY, 8)[:, 2].tolist() == [0, 1, 0, 2]


def test_a_new_item_takes_the_next_free_number():
    known = suffix(rows([3, 1], [3, 1], [0, 2]), NOBODY, 8)
    assert suffix(rows([0, 2], [3, 1], [5, 5], [3, 1]), known, 8)[:, 2].tolist() == [1, 2, 0, 3]


def test_more_duplicates_than_numbers_are_an_error_that_counts_them():
    with pytest.raises(DataError) as error:
        suffix(rows(*[[3, 1]] * 6), NOBODY, 4)
    assert str(error.value) == (
        "6 items share the codes 3-1 and a suffix has 4 numbers. Take more levels, a larger size, or shared codes."
    )


def test_the_one_that_fits_best_keeps_the_code_and_the_other_takes_its_next_nearest():
    table = np.array([[0.2, 0.5, 0.9], [0.1, 0.8, 0.3], [9, 9, 0]], np.float32)
    found = nearest(rows([4, 0], [4, 0], [4, 2]), NOBODY, 3, lambda rows: table[rows])
    assert found.tolist() == [[4, 1], [4, 0], [4, 2]]


def test_a_new_item_does_not_move_a_known_one_that_fits_worse():
    table = np.array([[0.1, 0.5, 0.2]], np.float32)
    assert nearest(rows([4, 0]), rows([4, 0], [4, 2]), 3, lambda rows: table[rows]).tolist() == [[4, 1]]


def test_more_items_than_last_codes_are_an_error_that_says_so():
    costs = costs_of(5, 4)
    for way in (nearest, sinkhorn):
        with pytest.raises(DataError) as error:
            way(by_cost([[7]] * 5, costs, 5), NOBODY, 4, costs)
        assert str(error.value).startswith("5 items share the codes 7 and the last level has 4 codes.")


def test_fifty_items_with_equal_first_codes_end_with_fifty_codes_that_begin_the_same():
    table = 1.0 + 1e-3 * np.random.default_rng(0).random((50, 256)).astype(np.float32)
    table[:, 17] = 0.0
    codes = np.tile(rows([1, 2, 3, 17]), (50, 1))
    found = sinkhorn(codes, np.empty((0, 4), np.int32), 256, lambda rows: table[rows])
    assert unique(found)
    assert (found[:, :3] == [1, 2, 3]).all()


def test_equal_vectors_are_told_apart_too():
    table = np.tile(np.random.default_rng(0).random(64).astype(np.float32), (20, 1))
    codes = by_cost([[5]] * 20, lambda rows: table[rows], 20)
    found = sinkhorn(codes, NOBODY, 64, lambda rows: table[rows])
    assert unique(found)
    by_nearest = nearest(codes, NOBODY, 64, lambda rows: table[rows])
    assert sorted(by_nearest[:, 1]) == sorted(np.argsort(table[0])[:20])  # the nearest twenty


@given(st.integers(0, 10_000), st.sampled_from(["nearest", "sinkhorn"]))
def test_items_without_conflict_and_first_codes_never_change(seed, way):
    rng = np.random.default_rng(seed)
    costs, n = costs_of(24, 16, seed), 24
    codes = by_cost(rng.integers(0, 4, (n, 2)), costs, n)
    found = WAYS[way](codes, np.empty((0, 3), np.int32), 16, costs)
    alone = np.bincount(numbered(codes))[numbered(codes)] == 1
    assert unique(found)
    assert (found[alone] == codes[alone]).all()
    assert (found[:, :-1] == codes[:, :-1]).all()


@given(st.integers(0, 10_000), st.sampled_from(list(WAYS)), st.integers(0, 20))
def test_known_items_keep_their_codes_and_new_ones_are_told_apart_from_them(seed, way, n_known):
    rng, n = np.random.default_rng(seed), 30
    costs = costs_of(n, 32, seed)
    codes = by_cost(rng.integers(0, 2, (n, 1)), costs, n)
    width = 3 if way == "suffix" else 2
    known = WAYS[way](codes[:n_known], np.empty((0, width), np.int32), 32, costs)
    kept = known.copy()
    new = WAYS[way](codes[n_known:], known, 32, lambda rows: costs(rows + n_known))
    assert (known == kept).all()
    together = np.concatenate([known, new])
    if way == "shared":
        groups = [set(group.tolist()) for group in sharing(together)]
        assert groups == [
            set(np.flatnonzero((together == row).all(1)).tolist())
            for row in np.unique(together, axis=0)
            if (together == row).all(1).sum() > 1
        ]
    else:
        assert unique(together)
    if way == "suffix":
        assert (together == WAYS[way](codes, np.empty((0, width), np.int32), 32, costs)).all()
