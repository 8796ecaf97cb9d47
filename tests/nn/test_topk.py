import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from itemic import threads
from itemic.nn import topk
from itemic.nn.topk import BFLOAT16, FLOAT32, plain_top_k, prepared, score_pairs, top_k, top_k_inner

PRODUCTS = pytest.mark.parametrize("product", [FLOAT32, BFLOAT16], ids=lambda p: p.name)


def vectors(seed: int, n: int, dim: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, dim), dtype=np.float32)


def exclusions(seed: int, n_rows: int, n_items: int, share: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    rows = [rng.permutation(n_items)[: rng.integers(0, max(1, int(2 * share * n_items)))] for _ in range(n_rows)]
    return np.concatenate(rows).astype(np.int32), np.cumsum([0, *map(len, rows)])


def all_scores(queries: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Every float32 score by `score_pairs`, which its own test compares with float64."""
    rows, cols = np.divmod(np.arange(len(queries) * len(items)), len(items))
    return score_pairs(queries, items, rows, cols).reshape(len(queries), len(items))


def assert_same(found: topk.Top, wanted: topk.Top) -> None:
    for a, b in zip(found, wanted):
        assert a.dtype == b.dtype
        assert_array_equal(a, b)


@settings(deadline=None)
@given(st.integers(0, 4), st.integers(1, 200), st.integers(1, 30), st.integers(1, 400), st.integers(0, 2**32 - 1))
def test_dense_lists_are_those_of_whole_rows_sorted_whatever_the_ties(n_rows, n_items, k, levels, seed):
    rng = np.random.default_rng(seed)
    scores = rng.integers(-levels, levels, (n_rows, n_items)).astype(np.float32)
    scores[rng.random(scores.shape) < 0.1] = rng.choice([-np.inf, np.inf, np.nan])
    exclude = exclusions(seed, n_rows, n_items) if n_rows else None
    assert_same(top_k(scores, k, exclude), plain_top_k(scores, k, exclude))


def test_the_plain_form_is_its_definition_written_as_a_loop():
    scores, (values, offsets) = vectors(0, 5, 40).round(1), exclusions(0, 5, 40, share=0.5)
    items, best = plain_top_k(scores, 30, (values, offsets))
    for row in range(5):
        left = sorted(set(range(40)) - set(values[offsets[row] : offsets[row + 1]].tolist()))
        wanted = sorted(left, key=lambda item: (-scores[row, item], item))[:30]
        assert items[row].tolist() == wanted + [-1] * (30 - len(wanted))
        assert best[row].tolist() == [scores[row, item] for item in wanted] + [-np.inf] * (30 - len(wanted))


@PRODUCTS
@pytest.mark.parametrize("dim", [1, 7, 64, 200])
@pytest.mark.parametrize("block", [(256, 2048), (3, 65)])
def test_lists_from_vectors_are_exactly_those_of_all_float32_scores(product, dim, block):
    queries, items = vectors(1, 33, dim), vectors(2, 700, dim)
    exclude = exclusions(3, 33, 700)
    found = top_k_inner(queries, items, 20, exclude, block=block, product=product)
    assert_same(found, plain_top_k(all_scores(queries, items), 20, exclude))


@PRODUCTS
@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1e15])
def test_near_ties_norms_and_scales_do_not_hide_an_item(product, scale):
    rng = np.random.default_rng(4)
    shared = vectors(5, 1, 64)  # all scores of a query agree to three digits, as for items in one narrow cone
    items = (shared + 1e-3 * vectors(6, 500, 64)) * (1 + rng.pareto(2, (500, 1)).astype(np.float32).round()) * scale
    items[::7] = items[0]  # and many agree to the last bit
    queries = np.concatenate([vectors(7, 20, 64), np.zeros((1, 64), np.float32), -shared]).astype(np.float32)
    items = items.astype(np.float32)
    assert_same(top_k_inner(queries, items, 15, product=product), plain_top_k(all_scores(queries, items), 15))


def test_the_error_bounds_hold_and_a_hundredth_of_one_loses_items():
    queries, items = vectors(8, 50, 64), np.repeat(vectors(9, 1, 64), 3000, axis=0) + 1e-3 * vectors(10, 3000, 64)
    wanted, _ = plain_top_k(all_scores(queries, items), 20)
    found, _ = top_k_inner(queries, items, 20, product=BFLOAT16)
    assert_array_equal(found, wanted)
    reckless = BFLOAT16._replace(error=lambda dim: BFLOAT16.error(dim) / 100)
    lost, _ = top_k_inner(queries, items, 20, product=reckless)
    assert (lost != wanted).any()


@given(st.integers(1, 40), st.integers(1, 100), st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_only_allowed_items_are_listed_under_their_own_codes(n_rows, n_items, seed):
    rng = np.random.default_rng(seed)
    queries, items = (rng.integers(-2, 3, (n, 4)).astype(np.float32) for n in (n_rows, n_items))  # many ties
    allowed, exclude = rng.random(n_items) < 0.5, exclusions(seed, n_rows, n_items)
    scores = np.where(allowed, all_scores(queries, items), np.float32(-np.inf))
    assert_same(top_k_inner(queries, items, 10, exclude, allowed), plain_top_k(scores, 10, exclude))


def test_a_batch_is_answered_as_its_queries_one_by_one_and_on_any_number_of_threads():
    queries, items, exclude = vectors(11, 600, 16), vectors(12, 1500, 16), exclusions(13, 600, 1500)
    values, offsets = exclude
    with threads.use(3):
        together = top_k_inner(queries, items, 5, exclude)
    for row in range(0, 600, 50):  # one query takes another path than many
        alone = values[offsets[row] : offsets[row + 1]]
        one = top_k_inner(queries[row : row + 1], items, 5, (alone, np.array([0, len(alone)])))
        assert_same(one, (together[0][row : row + 1], together[1][row : row + 1]))


def test_items_too_short_to_reach_a_list_are_not_scored_and_equal_lengths_all_are():
    queries, directions = (
        x / np.linalg.norm(x, axis=1, keepdims=True) for x in (vectors(23, 30, 6), vectors(24, 900, 6))
    )

    def blocks_scored(items: np.ndarray) -> int:
        calls = []

        def counting(*block):
            calls.append(block)
            return FLOAT32.multiply(*block)

        found = top_k_inner(queries, items, 5, block=(30, 90), product=FLOAT32._replace(multiply=counting))
        assert_same(found, plain_top_k(all_scores(queries, items), 5))
        return len(calls)

    lengths = np.where(np.arange(900) % 9 == 4, 1, 1e-3).astype(np.float32)
    assert (blocks_scored(directions * lengths[:, None]), blocks_scored(directions)) == (2, 10)


@PRODUCTS
def test_no_matrix_of_all_scores_is_ever_held(product):
    queries, items = vectors(21, 1000, 8), vectors(22, 20_000, 8)
    top_k_inner(queries[:16], items, 10, product=product)  # loads what the first call loads
    tracemalloc.start()
    with threads.use(1):
        top_k_inner(queries, items, 10, product=product)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8e6 < len(queries) * len(items) * 4 / 9  # one block of 2 MB and copies of the vectors


def test_an_excluded_code_that_is_no_item_leaves_the_others_excluded():
    scores, exclude = vectors(25, 2, 6), (np.array([4, -1, 2, 3, 99, -1, 0]), np.array([0, 3, 7]))
    wanted = scores.copy()
    wanted[0, [4, 2]] = wanted[1, [3, 0]] = -np.inf
    assert_same(top_k(scores, 6, exclude), plain_top_k(wanted, 6))


def test_nothing_to_list_gives_empty_places():
    queries, none = vectors(14, 2, 3), np.empty((0, 3), np.float32)
    items, scores = top_k_inner(queries, none, 4)
    assert items.shape == (2, 4)
    assert (items == -1).all()
    assert (scores == -np.inf).all()
    assert top_k_inner(none, queries, 4)[0].shape == (0, 4)
    everything = (np.array([0, 1, 0, 1]), np.array([0, 2, 4]))
    assert (top_k_inner(queries, queries, 1, everything)[0] == -1).all()


@pytest.mark.parametrize("dim", [1, 16, 63, 384])
def test_pair_scores_are_inner_products_to_float32_precision(dim):
    queries, items = vectors(15, 30, dim), vectors(16, 40, dim)
    rng = np.random.default_rng(17)
    rows, cols = rng.integers(0, 30, 500), rng.integers(0, 40, 500).astype(np.int32)
    exact = (queries.astype(np.float64)[rows] * items[cols]).sum(axis=1)
    bound = dim * 2**-24 * np.linalg.norm(queries[rows], axis=1) * np.linalg.norm(items[cols], axis=1)
    assert (np.abs(score_pairs(queries, items, rows, cols) - exact) <= bound).all()


def test_rows_outside_the_arrays_are_refused():
    x = vectors(18, 3, 2)
    with pytest.raises(IndexError, match="a column lies outside 0 to 2"):
        score_pairs(x, x, np.array([0]), np.array([3]))


@PRODUCTS
def test_vectors_with_nan_or_infinity_leave_the_other_items_where_they_are(product):
    queries, items = vectors(19, 20, 5), vectors(20, 300, 5)
    items[7, 2], items[8, 3], items[9] = np.nan, np.inf, 0.0
    queries[3, 1] = np.nan
    wanted = plain_top_k(all_scores(queries, items), 12)
    assert_same(top_k_inner(queries, items, 12, product=product), wanted)
    assert (wanted[0] != 7).all()
    assert (wanted[0][3] == -1).all()


def test_float32_is_used_until_torch_is_loaded(monkeypatch):
    monkeypatch.delitem(topk.sys.modules, "torch", raising=False)
    assert topk.fastest_product() is FLOAT32


@pytest.mark.parametrize("n_queries", [1, 5, 40])
@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_prepared_items_give_the_same_lists(n_queries, spread):
    rng = np.random.default_rng(0)
    items = rng.normal(size=(3000, 8)).astype(np.float32) * rng.lognormal(0, spread, (3000, 1)).astype(np.float32)
    items[rng.random(3000) < 0.1] = items[0]  # equal scores
    queries, allowed = rng.normal(size=(n_queries, 8)).astype(np.float32), rng.random(3000) < 0.5
    exclude = (rng.integers(0, 3000, 30 * n_queries), np.arange(0, 30 * n_queries + 1, 30))
    for mask in (None, allowed):
        plain = top_k_inner(queries, items, 20, exclude, mask)
        for rounded in (False, True):
            assert_same(top_k_inner(queries, prepared(items, mask, rounded=rounded), 20, exclude), plain)


@given(st.integers(1, 4), st.integers(1, 3000), st.sampled_from([1, 7, 64, 200]), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=40)
def test_rounded_items_give_exactly_the_lists_of_all_float32_scores(n_queries, n_items, dim, seed):
    rng = np.random.default_rng(seed)
    queries, items = vectors(seed, n_queries, dim), vectors(seed + 1, n_items, dim)
    items *= rng.lognormal(0, rng.choice([0, 1, 3]), (n_items, 1)).astype(np.float32)
    items[rng.random(n_items) < 0.1] = items[0]  # equal scores
    items[rng.random(n_items) < 0.05] = 0
    allowed, exclude = rng.random(n_items) < 0.7, exclusions(seed, n_queries, n_items)
    scores = np.where(allowed, all_scores(queries, items), np.float32(-np.inf))
    found = top_k_inner(queries, prepared(items, allowed, rounded=True), 20, exclude)
    assert_same(found, plain_top_k(scores, 20, exclude))


@pytest.mark.parametrize("scale", [1e-37, 1e-30, 1e-3, 1e15, 1e37])
def test_rounded_items_that_nearly_tie_or_are_no_usual_numbers_are_listed_as_others(scale):
    shared = vectors(5, 1, 64)
    items = ((shared + 1e-3 * vectors(6, 3000, 64)) * np.float32(scale)).astype(np.float32)
    items[::7] = items[0]
    items[5, 2], items[6, 3] = np.nan, np.inf
    queries = np.concatenate([vectors(7, 2, 64), np.zeros((1, 64), np.float32), -shared]).astype(np.float32)
    queries[1, 0] = np.nan
    with np.errstate(all="ignore"):
        wanted = plain_top_k(all_scores(queries, items), 15)
    assert_same(top_k_inner(queries, prepared(items, rounded=True), 15), wanted)


def test_a_hundredth_of_the_error_of_rounding_loses_items(monkeypatch):
    queries, items = vectors(8, 4, 64), np.repeat(vectors(9, 1, 64), 3000, axis=0) + 1e-3 * vectors(10, 3000, 64)
    wanted, _ = plain_top_k(all_scores(queries, items), 20)
    assert_array_equal(top_k_inner(queries, prepared(items, rounded=True), 20)[0], wanted)
    error = topk.Rounded.error
    monkeypatch.setattr(topk.Rounded, "error", staticmethod(lambda dim: error(dim) / 100))
    assert (top_k_inner(queries, prepared(items, rounded=True), 20)[0] != wanted).any()
