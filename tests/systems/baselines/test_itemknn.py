"""Item-kNN against similarities written as dense formulas."""

import numpy as np
import pytest
from scipy.sparse import csr_array

from itemic.data import Dataset, Interactions, Query, Ragged, Table
from itemic.data.simulated import planted_groups
from itemic.evaluation import evaluate
from itemic.systems.baselines.item_item import sparse_weights, stored
from itemic.systems.baselines.itemknn import Config, ItemKNN, neighbours, weighted
from itemic.systems.baselines.popularity import Popularity


def random_matrix(n_users: int = 60, n_items: int = 40, seed: int = 0) -> csr_array:
    rng = np.random.default_rng(seed)
    return csr_array((rng.random((n_users, n_items)) < rng.uniform(0.02, 0.5, n_items)).astype(np.float32))


def dataset(x: csr_array) -> Dataset:
    user, item = x.nonzero()
    return Dataset(
        Table.numbered(x.shape[1]), Table.numbered(x.shape[0], "user"), Interactions.of(user, item, *x.shape)
    )


def cosine(a, b, alpha, n):
    return a @ b, np.linalg.norm(a) * np.linalg.norm(b)


def jaccard(a, b, alpha, n):
    return (a * b).sum(), (a * a).sum() + (b * b).sum() - (a * b).sum()


def pearson(a, b, alpha, n):
    return cosine(a - a.mean(), b - b.mean(), alpha, n)


def asymmetric(a, b, alpha, n):
    return a @ b, (a @ a) ** alpha * (b @ b) ** (1 - alpha)


FORMULAS = {f.__name__: f for f in (cosine, jaccard, pearson, asymmetric)}


def brute_force(x: np.ndarray, config: Config) -> np.ndarray:
    """Similarity of neighbour i (row) to target j (column), all but the k largest positive of each column zero."""
    n_items = x.shape[1]
    s = np.zeros((n_items, n_items))
    for i in range(n_items):
        for j in range(n_items):
            both, scale = FORMULAS[config.similarity](x[:, i], x[:, j], config.alpha, len(x))
            s[i, j] = both / (scale + config.shrink) if i != j and scale + config.shrink > 0 else 0
    s = np.float32(np.maximum(s, 0))
    for j in range(n_items):
        order = np.lexsort((np.arange(n_items), -s[:, j]))
        s[order[config.k :], j] = 0
    return s


def fitted(x: csr_array, config: Config, block: int | None = None) -> np.ndarray:
    return stored(sparse_weights(neighbours(x, config, block), x.shape[1]), x.shape[1]).toarray()


@pytest.mark.parametrize("weighting", ["none", "tfidf", "bm25"])
@pytest.mark.parametrize("shrink", [0.0, 3.0])
@pytest.mark.parametrize("similarity", FORMULAS)
def test_weights_are_the_k_largest_of_a_dense_brute_force(similarity, shrink, weighting):
    x = random_matrix()
    config = Config(similarity=similarity, shrink=shrink, weighting=weighting, alpha=0.3, k=40)
    said = weighted(x, weighting).toarray().astype(np.float64)
    np.testing.assert_allclose(fitted(x, config), brute_force(said, config), atol=2e-6)
    few = config.model_copy(update={"k": 5})
    kept = fitted(x, few)
    assert ((kept > 0).sum(axis=0) <= 5).all()
    np.testing.assert_allclose(np.sort(kept, axis=0)[-5:], np.sort(brute_force(said, few), axis=0)[-5:], atol=2e-6)


@pytest.mark.parametrize("similarity", FORMULAS)
def test_blocks_change_nothing(similarity):
    x, config = random_matrix(), Config(similarity=similarity, k=7)
    whole = fitted(x, config, block=40)
    for block in (1, 7, 16):
        np.testing.assert_array_equal(fitted(x, config, block), whole)


def test_neighbours_are_chosen_for_each_target_not_for_each_source():
    x = random_matrix()
    kept = fitted(x, Config(k=3)) > 0
    assert (kept.sum(axis=0) <= 3).all()
    assert (kept.sum(axis=1) > 3).any()
    assert not kept.diagonal().any()


def test_equally_similar_neighbours_are_taken_by_code():
    x = csr_array(np.ones((3, 5), np.float32))
    assert np.argwhere(fitted(x, Config(k=2)).T > 0)[:, 1].tolist() == [1, 2, 0, 2, 0, 1, 0, 1, 0, 1]


def test_tfidf_hears_users_less_the_more_they_took_and_not_at_all_who_took_everything():
    x = csr_array(np.float32([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]]))
    said = weighted(x, "tfidf").toarray()
    np.testing.assert_allclose(said, [[0] * 4, [np.log(2)] * 2 + [0] * 2, [np.log(4)] + [0] * 3], atol=1e-6)


def test_bm25_hears_active_users_and_popular_items_less():
    x = csr_array(np.float32([[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0]]))
    said = weighted(x, "bm25").toarray()
    assert said[2, 0] > said[1, 0] > said[0, 0] > 0
    assert said[0, 2] > said[0, 1] > said[0, 0]


def test_normalised_and_centred_scores_are_the_dense_formula_of_bars():
    x = random_matrix()
    model = ItemKNN(k=6, normalise=True, centre=True).fit(dataset(x))
    s = brute_force(x.toarray().astype(np.float64), Config(k=6)).T.astype(np.float64)  # BARS: a target is a row
    s /= np.maximum(s.sum(axis=1, keepdims=True), 1e-30)
    item_by_user = x.toarray().T.astype(np.float64)
    mean = item_by_user.mean(axis=1, keepdims=True)
    expected = (s @ (item_by_user - mean) + mean).T
    history = Ragged.from_lists([row.nonzero()[0].tolist() for row in x.toarray()])
    np.testing.assert_allclose(model.scores(Query(history=history)), expected, atol=1e-6)


def test_normalising_and_centring_each_change_the_order():
    data = dataset(random_matrix())
    query = Query(history=Ragged.from_lists([[0, 3, 5], [7, 2]]))
    orders = [
        ItemKNN(k=6, normalise=n, centre=c).fit(data).rank(query, 20).items.tolist()
        for n, c in ((False, False), (True, False), (True, True))
    ]
    assert orders[0] != orders[1] != orders[2]


def test_an_item_without_users_has_no_neighbours_and_no_score():
    x = csr_array(np.float32([[1, 1, 0], [1, 1, 0]]))
    for similarity in FORMULAS:
        weights = fitted(x, Config(similarity=similarity))
        assert np.isfinite(weights).all()
        assert not weights[2].any()
        assert not weights[:, 2].any()


@pytest.mark.parametrize("similarity", FORMULAS)
def test_item_knn_finds_planted_groups(similarity):
    train, test = planted_groups(n_users=400, n_items=200, n_groups=8, loyalty=0.9, seed=0)
    model = ItemKNN(similarity=similarity, k=20)
    popular, found = (evaluate(m.fit(train), test, "recall@10")["recall@10"] for m in (Popularity(), model))
    assert found > 3 * popular
