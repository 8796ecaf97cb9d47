"""EASE against ridge regressions solved one by one, in both forms, with all weights and with the largest."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array

from itemic.data import Dataset, Interactions, Query, Ragged, Table
from itemic.data.simulated import planted_groups
from itemic.errors import ConfigError, DataError
from itemic.evaluation import evaluate
from itemic.systems.baselines import ease
from itemic.systems.baselines.ease import EASE, all_weights, gram, invert, largest_weights
from itemic.systems.baselines.item_item import history_scores
from itemic.systems.baselines.popularity import Popularity

FORMS = ["primal", "dual"]


def random_matrix(n_users: int, n_items: int, seed: int = 0) -> csr_array:
    return csr_array((np.random.default_rng(seed).random((n_users, n_items)) < 0.3).astype(np.float32))


def ridge_regressions(x: np.ndarray, l2: float) -> np.ndarray:
    """Each column predicted from the others by the normal equations of the stacked least-squares problem."""
    n_items = x.shape[1]
    b = np.zeros((n_items, n_items))
    for j in range(n_items):
        others = np.arange(n_items) != j
        stacked = np.vstack([x[:, others], np.sqrt(l2) * np.eye(n_items - 1)])
        b[others, j] = np.linalg.lstsq(stacked, np.concatenate([x[:, j], np.zeros(n_items - 1)]))[0]
    return b


def dataset(x: csr_array) -> Dataset:
    user, item = x.nonzero()
    return Dataset(
        Table.numbered(x.shape[1]), Table.numbered(x.shape[0], "user"), Interactions.of(user, item, *x.shape)
    )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", [(12, 7), (7, 12)])
def test_each_column_is_the_ridge_regression_of_its_item_on_all_others(form, shape):
    x = random_matrix(*shape)
    np.testing.assert_allclose(
        all_weights(x, 0.5, form, np.float64), ridge_regressions(x.toarray(), 0.5), atol=1e-12, rtol=0
    )


def test_dividing_rows_instead_of_columns_would_not_be_ease():
    x = random_matrix(30, 9)
    p = np.linalg.inv(x.T @ x + 2.0 * np.eye(9))
    by_row, by_column = -p / p.diagonal()[:, None], -p / p.diagonal()
    for b in (by_row, by_column):
        np.fill_diagonal(b, 0)
    right = ridge_regressions(x.toarray(), 2.0)
    assert np.abs(by_column - right).max() < 1e-12
    assert np.abs(by_row - right).max() > 0.01


@given(st.integers(1, 25), st.integers(1, 25), st.floats(0.1, 1000), st.integers(0, 2**31))
def test_both_forms_have_the_same_weights(n_users, n_items, l2, seed):
    x = random_matrix(n_users, n_items, seed)
    primal, dual = (all_weights(x, l2, form, np.float64) for form in FORMS)
    np.testing.assert_allclose(primal, dual, atol=1e-12)


def served(weights: dict[str, np.ndarray], n_items: int) -> np.ndarray:
    """The matrix whose rows add up to the scores."""
    return history_scores(Ragged.from_lists([[item] for item in range(n_items)]), weights, n_items)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("block", [1, 7, 64])
def test_the_largest_weights_of_each_column_are_kept_and_the_others_count_as_their_mean(form, block, monkeypatch):
    x = random_matrix(40, 30)
    monkeypatch.setattr(ease, "BLOCK", block)
    expected, users = ridge_regressions(x.toarray(), 1.0), x.toarray().sum(axis=0)
    for j in range(30):
        others = np.setdiff1d(np.argsort(-expected[:, j]), [j, *np.argsort(-expected[:, j])[:4]])
        expected[others, j] = np.average(expected[others, j], weights=users[others])
    np.testing.assert_allclose(served(largest_weights(x, 1.0, form, k=4), 30), expected, atol=1e-5)


def test_weights_left_out_move_the_order_of_items_but_not_the_mean_of_their_scores():
    x = random_matrix(200, 60)
    every = all_weights(x, 5.0, "primal")
    kept = served(largest_weights(x, 5.0, "primal", k=5), 60)
    zeroed = np.where(every >= np.sort(every, axis=0)[-5], every, 0)
    means = [(x @ b).mean(axis=0) for b in (every, kept, zeroed)]
    np.testing.assert_allclose(means[0], means[1], atol=1e-5)
    assert np.abs(means[0] - means[2]).max() > 0.01


def test_gram_counts_the_columns_two_rows_share_whatever_the_blocks():
    x = random_matrix(23, 50)
    expected = x.toarray() @ x.toarray().T + 3 * np.eye(23)
    for block in (1, 5, 100):
        np.testing.assert_array_equal(gram(x, 3.0, block=block), expected)


def test_the_inverse_takes_the_memory_of_its_matrix():
    a = gram(random_matrix(50, 80), 1.0, np.float64)
    expected = np.linalg.inv(a)
    assert invert(a) is a
    np.testing.assert_allclose(a, expected, atol=1e-12)


def test_float32_differs_from_float64_by_rounding_only():
    x = random_matrix(300, 200)
    for form in FORMS:
        np.testing.assert_allclose(all_weights(x, 10, form), all_weights(x, 10, form, np.float64), atol=1e-5)


def test_fewer_users_than_items_are_solved_in_the_dual_form(monkeypatch):
    used = []
    monkeypatch.setattr(ease, "all_weights", lambda x, l2, form: used.append(form) or np.zeros((x.shape[1],) * 2))
    for shape in ((79, 100), (80, 100)):
        EASE().fit(dataset(random_matrix(*shape)))
    assert used == ["dual", "primal"]


def test_large_catalogues_keep_the_largest_weights_unless_all_are_asked_for(monkeypatch):
    monkeypatch.setattr(ease, "SERVED_DENSE", 20)
    monkeypatch.setattr(ease, "SERVED_TOPK", 5)
    large, small = dataset(random_matrix(50, 21)), dataset(random_matrix(50, 20))
    assert len(EASE().fit(large).weights["values"]) == (5 + 1) * 21  # and itself, which never counts
    assert EASE(topk=None).fit(large).weights["dense"].shape == (21, 21)
    assert EASE().fit(small).weights["dense"].shape == (20, 20)
    assert len(EASE(topk=3).fit(small).weights["values"]) == (3 + 1) * 20
    assert EASE(topk=20).fit(small).weights["dense"].shape == (20, 20)


def test_too_many_items_are_refused_with_the_memory_and_the_way_out():
    log = Interactions.of([0, 1], [0, 70_000], 2, 70_001)
    data = Dataset(Table.numbered(70_001), Table.numbered(2, "user"), log, name="huge")
    with pytest.raises(DataError, match=r"up to 60,000 items; huge has 70,001, .* 19.6 GB for the primal .* itemknn"):
        EASE(form="primal").fit(data)


def test_an_l2_too_small_for_float32_is_named():
    x = csr_array(np.ones((50, 30), np.float32))
    with pytest.raises(ConfigError, match="ease: l2 1e-12 is too small to invert in float32. Take 1 or more."):
        EASE(l2=1e-12, form="primal").fit(dataset(x))


def test_repeats_in_a_history_count_once():
    model = EASE().fit(dataset(random_matrix(50, 20)))
    once, twice = (Query(history=Ragged.from_lists([row])) for row in ([4, 9], [9, 4, 9, 9]))
    np.testing.assert_array_equal(model.scores(once), model.scores(twice))


@pytest.mark.parametrize("options", [{}, {"topk": 20}, {"form": "dual"}, {"form": "dual", "topk": 20}])
def test_ease_finds_planted_groups_in_every_form(options):
    train, test = planted_groups(n_users=400, n_items=200, n_groups=8, loyalty=0.9, seed=0)
    popular, found = (evaluate(m.fit(train), test, "recall@10")["recall@10"] for m in (Popularity(), EASE(**options)))
    assert found > 3 * popular
