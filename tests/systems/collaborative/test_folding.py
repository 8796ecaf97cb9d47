"""Folding in: the vector of somebody never seen, and what is never ranked."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from itemic.data import EvalSet, Query, Ragged
from itemic.data.simulated import planted_groups
from itemic.errors import QueryError
from itemic.registry import find
from itemic.systems.collaborative.bpr import BPR
from itemic.systems.collaborative.folding import RIDGES, best_ridge, ridge_fold_in

QUICK = {
    "bpr": {"dim": 16, "training": {"lr": 0.02, "batch_size": 1024, "epochs": 12}},
    "directau": {"dim": 16, "gamma": 0.5, "training": {"lr": 0.01, "batch_size": 256, "epochs": 8}},
    "buir": {"dim": 16, "training": {"lr": 0.01, "batch_size": 256, "epochs": 12}},
}
QUICK |= {f"{name} with a graph": {**QUICK[name], "n_layers": 2} for name in ("directau", "buir")}


@given(st.lists(st.lists(st.integers(0, 11), max_size=8), min_size=1, max_size=4), st.sampled_from([0.1, 1.0, 30.0]))
def test_the_fold_in_is_the_least_squares_solution_of_numpy(histories, ridge):
    items = np.random.default_rng(0).standard_normal((12, 4)).astype(np.float32)
    scale = np.square(items).sum(1).mean()
    found = ridge_fold_in(items, Ragged.from_lists(histories), ridge)
    for row, history in enumerate(histories):
        seen = items[sorted(set(history))]
        stacked = np.concatenate([seen, np.sqrt(ridge * scale) * np.eye(4)])
        wanted = np.concatenate([np.ones(len(seen)), np.zeros(4)])
        expected = np.linalg.lstsq(stacked, wanted, rcond=None)[0]
        np.testing.assert_allclose(found[row], expected, atol=1e-5)


def test_the_fold_in_ranks_alike_at_every_scale_of_the_vectors():
    items = np.random.default_rng(0).standard_normal((12, 4)).astype(np.float32)
    histories = Ragged.from_lists([[0, 1, 2], [5]])
    small, large = ridge_fold_in(items, histories, 1.0), ridge_fold_in(100 * items, histories, 1.0)
    np.testing.assert_allclose(items @ small.T, 100 * items @ large.T, rtol=1e-4)


def test_the_best_ridge_is_the_one_that_finds_most():
    # Item 3 points where the sum of the history does; item 4 is nearer to the vector that satisfies item 2 alone too.
    items = np.array([[1, 0], [1, 0], [0, 0.2], [1, 0.1], [0.1, 1]], np.float32)
    history = Ragged.from_lists([[0, 1, 2]])
    assert best_ridge(items, history, Ragged.from_lists([[3]])) == RIDGES[0]  # the first of those that put 3 on top
    assert best_ridge(items, history, Ragged.from_lists([[4]])) == 0.1  # the first of those small enough


@pytest.fixture(scope="module")
def planted():
    return planted_groups(seed=0)


@pytest.fixture(scope="module", params=list(QUICK))
def fitted(request, planted):
    return find(request.param.split()[0])(**QUICK[request.param]).fit(planted[0])


def test_the_fold_in_of_a_training_user_ranks_much_as_their_trained_vector(fitted, planted):
    query = planted[1].query
    trained, folded = fitted.rank(query, 20).items, fitted.rank(replace(query, user=None), 20).items
    others = np.roll(folded, 1, axis=0)  # the neighbour in number is of another group

    def shared(a, b):
        return np.mean([len(set(x) & set(y)) for x, y in zip(a, b)])

    assert shared(trained, folded) > 10 > 3 > shared(trained, others)


def test_the_ridge_is_chosen_on_the_validation_part_and_saved(planted, tmp_path):
    train, test = planted
    some = EvalSet(test.query.block(0, 50), test.relevant.block(0, 50), grades=None, n_skipped=0, label="some")
    model = BPR(**QUICK["bpr"]).fit(train, some)
    assert model.shape["ridge"] == best_ridge(model.item_vectors(), some.query.history, some.relevant)
    assert BPR(**QUICK["bpr"]).fit(train).shape["ridge"] == RIDGES[0]
    assert BPR(ridge=2.5, **QUICK["bpr"]).fit(train, some).shape["ridge"] == 2.5
    assert BPR.load(model.save(tmp_path / "m")).shape == model.shape


def test_an_untrained_user_is_answered_by_history_and_an_untrained_item_is_never_ranked(planted):
    train, test = planted
    log = train.interactions
    kept = log.select((log.user != 5) & (log.item != 7))
    model = BPR(**QUICK["bpr"]).fit(replace(train, interactions=kept))
    query = test.query.take(np.array([5]))
    known, stranger = model.query_vectors(query), model.query_vectors(replace(query, user=None))
    np.testing.assert_array_equal(known, stranger)
    ranked = model.rank(Query(history=Ragged.from_lists([[3, 11]])), 400).items
    assert 7 not in ranked
    scores = model.score(Query(history=Ragged.from_lists([[3, 11]]), candidates=Ragged.from_lists([[7, 15]])))
    assert scores[0][0] == -np.inf < scores[0][1]


def test_somebody_of_whom_nothing_is_known_gets_what_the_average_user_gets(fitted):
    vectors = fitted.query_vectors(Query(history=Ragged.from_lists([[]])))
    np.testing.assert_allclose(vectors[0], fitted.user_vectors().mean(0), rtol=1e-5)


def test_a_stranger_without_a_history_is_refused(fitted):
    name = fitted.entry.name
    with pytest.raises(QueryError, match=rf"{name} does not know this user. Give what they did: Query\(history=...\)"):
        fitted.rank(Query(user=np.array([-1], np.int32)), 5)
