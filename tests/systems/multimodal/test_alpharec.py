"""AlphaRec beside its definition written out, and on tastes that only content and graph together tell."""

import numpy as np
import pytest
import torch
from numpy.linalg import matrix_power
from torch.nn.functional import cross_entropy

from itemic.data import Dataset, EvalSet, Ids, Interactions, Query, Ragged, Table
from itemic.errors import DataError, QueryError
from itemic.evaluation import evaluate
from itemic.model import load
from itemic.progress import listening
from itemic.registry import find
from itemic.systems.collaborative.base import Triples
from itemic.systems.multimodal.alpharec import AlphaRec, means
from itemic.training import TrainingConfig

QUICK = TrainingConfig(lr=3e-3, batch_size=64, epochs=3, metric="recall@20")


def dataset(pairs, vectors, n_users, first=0):
    """Users who took these items, whose vectors stand in a column."""
    vectors = [None if row is None else [float(x) for x in row] for row in vectors]
    items = Table.of(Ids([f"i{first + n}" for n in range(len(vectors))]), {"vector": vectors})
    user, item = np.array(pairs).T
    return Dataset(items, Table.of(Ids.numbered(n_users), {}), Interactions.of(user, item, n_users, len(vectors)))


def shop(without=(), seed=0, n_users=12, n_items=20):
    """Everybody takes a third of the items at random; the last two items nobody, the last user nothing."""
    rng = np.random.default_rng(seed)
    pairs = np.argwhere(rng.random((n_users - 1, n_items - 2)) < 0.3)
    vectors = [None if n in without else row for n, row in enumerate(rng.normal(size=(n_items, 6)))]
    return dataset(pairs, vectors, n_users)


def model(**options):
    return AlphaRec(**{"vectors": "column-for-tests", "dim": 5, "hidden": 7, "training": QUICK, **options})


@pytest.fixture(scope="module")
def fitted():
    return model(n_negatives=4).fit(shop())


def asked(*rows, **more):
    return Query(history=Ragged.from_lists([list(row) for row in rows]), **more)


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def content_of(data):
    return np.array(data.items.column("vector").to_pylist(), np.float32)


def by_definition(made, data, n_layers):
    """The projected vectors of all nodes times (1 + S + S² + ...) / (layers + 1), dense."""
    n = data.n_users + data.n_items
    a = np.zeros((n, n))
    user, item = data.interactions.distinct_pairs()
    a[user, data.n_users + item] = a[data.n_users + item, user] = 1
    root = np.sqrt(a.sum(1).clip(min=1))
    s, content = a / root[:, None] / root, content_of(data)
    taken = a[: data.n_users, data.n_users :]
    mean = taken @ content / taken.sum(1, keepdims=True).clip(min=1)
    with torch.no_grad():
        own = made.module.project(torch.from_numpy(np.concatenate([mean, content]).astype(np.float32))).numpy()
    own[: data.n_users][taken.sum(1) == 0] = 0
    return sum(matrix_power(s, k) @ own for k in range(n_layers + 1)) / (n_layers + 1)


# Vectors and loss ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_layers", [0, 1, 2])
@pytest.mark.parametrize("projector", ["mlp", "linear"])
def test_items_and_users_have_the_vectors_of_the_dense_polynomial_and_scores_are_cosines(n_layers, projector):
    data = shop()
    made = model(n_layers=n_layers, projector=projector).fit(data)
    nodes = by_definition(made, data, n_layers)
    np.testing.assert_allclose(made.item_vectors(), unit(nodes[data.n_users :]), atol=1e-5)
    histories = data.interactions.histories().take(np.arange(11))
    np.testing.assert_allclose(made.query_vectors(Query(history=histories)), unit(nodes[:11]), atol=1e-5)


def test_without_a_graph_the_linear_form_is_a_cosine_after_one_matrix_which_commutes_with_the_mean():
    data = shop()
    made = model(n_layers=0, projector="linear").fit(data)
    weight, content = made.module.project.weight.detach().numpy(), content_of(data)
    assert [name for name, _ in made.module.named_parameters()] == ["project.weight"]
    of_mean, mean_of = weight @ content[[2, 5, 9]].mean(0), (content[[2, 5, 9]] @ weight.T).mean(0)
    np.testing.assert_allclose(of_mean, mean_of, atol=1e-6)
    found = made.score(asked([2, 5, 9], candidates=np.array([7], np.int32))).values
    wanted = unit(of_mean[None]) @ unit((content[7] @ weight.T)[None]).T
    np.testing.assert_allclose(found, wanted[0], atol=1e-5)


def test_an_mlp_does_not_commute_with_the_mean(fitted):
    content = torch.from_numpy(content_of(shop())[[2, 5, 9]])
    project = fitted.module.project
    assert not torch.allclose(project(content.mean(0)), project(content).mean(0), atol=1e-3)


def test_the_loss_is_the_cross_entropy_of_the_taken_one_among_its_negatives(fitted):
    data = shop()
    nodes = torch.from_numpy(unit(by_definition(fitted, data, 2)[[0, 1, *range(12, 32)]]))  # users 0, 1 and the items
    cosines = [
        nodes[u] @ nodes[[2 + i, *(2 + n for n in negatives)]].T for u, i, negatives in ((0, 3, [8, 9]), (1, 4, [3, 3]))
    ]
    wanted = cross_entropy(torch.stack(cosines) / 0.15, torch.tensor([0, 0]))
    loss = fitted.loss(Triples(torch.tensor([0, 1]), torch.tensor([15, 16]), torch.tensor([[20, 21], [15, 15]])))
    assert loss["contrast"].item() == pytest.approx(wanted.item(), abs=1e-5)
    loss["contrast"].backward()
    assert fitted.module.content.grad is None
    assert all(weight.grad.any() for weight in fitted.module.parameters())


def test_draws_are_pairs_of_the_data_with_negatives_that_are_not(fitted):
    data = shop()
    user, item, negatives = (torch.cat(x) for x in zip(*fitted.batches(data, torch.Generator().manual_seed(0))))
    taken = set(zip(*(x.tolist() for x in data.interactions.distinct_pairs())))
    assert negatives.shape == (len(taken), 4)
    assert {(int(u), int(i) - 12) for u, i in zip(user, item)} <= taken
    assert not {(int(u), int(i) - 12) for u, row in zip(user, negatives) for i in row} & taken


def test_nothing_is_learned_of_single_users_or_items(fitted):
    other = model().fit(shop(n_users=30, n_items=50))
    assert {k: v.shape for k, v in other.weights.items()} == {k: v.shape for k, v in fitted.weights.items()}
    content = content_of(shop())
    content[18] = content[19]  # nobody took either
    pairs = np.stack(shop().interactions.distinct_pairs(), 1)
    twins = fitted.adopt(dataset(pairs, content, 12)).item_vectors()
    np.testing.assert_allclose(twins[18], twins[19], atol=1e-6)


def test_items_in_another_order_have_the_same_vectors(fitted):
    data, order = shop(), np.random.default_rng(3).permutation(20)
    pairs = np.stack(data.interactions.distinct_pairs(), 1)
    moved = [(user, order[item]) for user, item in pairs]
    content = np.empty((20, 6), np.float32)
    content[order] = content_of(data)
    again = fitted.adopt(dataset(moved, content, 12)).item_vectors()
    np.testing.assert_allclose(again[order], fitted.item_vectors(), atol=1e-5)


def test_what_is_held_out_changes_no_vector():
    from itemic.data.splits import split

    data = split(shop(), by="random", test=0.2, valid=0.1, seed=0)
    part, log = data.split.part, data.interactions
    item = log.item.copy()
    item[part != 0] = np.random.default_rng(0).permutation(item[part != 0])
    held = item[part != 0] != log.item[part != 0]
    assert held.any()
    pairs = np.stack([log.user, item], 1)[part == 0]
    one, other = model().fit(data.train), model().fit(dataset(pairs, content_of(data), 12))
    np.testing.assert_array_equal(one.item_vectors(), other.item_vectors())


# Who and what is new ---------------------------------------------------------------------------------------------


def test_a_new_item_is_ranked_at_once_as_one_that_was_there_and_that_nobody_took(fitted, tmp_path):
    made = load(fitted.save(tmp_path / "model"))
    like = content_of(shop())[19].tolist()
    made.add_items({"item": ["new", "bare"], "vector": [like, None]})
    np.testing.assert_array_equal(made.item_vectors()[:20], fitted.item_vectors())
    np.testing.assert_allclose(made.item_vectors()[20], fitted.item_vectors()[19], atol=1e-6)
    assert 20 in made.rank(asked([1, 2]), 21).items
    assert 21 not in made.rank(asked([1, 2]), 22).items
    np.testing.assert_allclose(*made.query_vectors(asked([3, 19], [3, 20])), atol=1e-6)


def test_new_items_that_are_refused_leave_the_model_as_it_was(fitted, tmp_path, monkeypatch):
    made = load(fitted.save(tmp_path / "model"))
    before, whole = made.item_vectors(), type(made.vectors).encode
    monkeypatch.setattr(type(made.vectors), "encode", lambda self, content: whole(self, content)[:-1])
    with pytest.raises(DataError, match="gave 1 vectors for 2 items"):
        made.add_items({"item": ["new", "other"], "vector": [content_of(shop())[19].tolist()] * 2})
    assert len(made.catalogue.items) == 20
    np.testing.assert_array_equal(made.item_vectors(), before)
    assert made.rank(asked([1, 2]), 18).items.max() < 20


def test_an_item_without_a_vector_is_known_by_who_took_it_and_else_not_ranked():
    heard, data = [], shop(without=(3, 19))
    with listening(lambda description, *_: heard.append(description)):
        made = model().fit(data)
    assert "2 of 20 items have no vector by column-for-tests: alpharec cannot tell them apart" in heard
    assert made.item_vectors()[3].any()
    assert not made.item_vectors()[19].any()
    ranking = made.rank(asked([0, 1]), 18)
    assert 3 in ranking.items
    assert 19 not in ranking.items
    assert made.score(asked([0, 1], candidates=np.array([19], np.int32))).values[0] == -np.inf
    assert np.isfinite(made.query_vectors(asked([3], [3, 5], [19]))).all()


def test_whoever_shows_nothing_gets_what_is_popular_and_a_history_is_a_set(fitted):
    ranking = fitted.rank(asked([], [1, 2], [2, 1, 2]), 5)
    counts = shop().interactions.item_counts()
    assert ranking.items[0].tolist() == np.lexsort((np.arange(20), -counts))[:5].tolist()
    np.testing.assert_array_equal(ranking.items[1], ranking.items[2])
    assert ranking.reasons == ("1 of 3 requests have no history: these lists are the most popular items",)


def test_the_mean_is_that_of_the_items_that_have_a_vector():
    content = np.array([[1, 1], [np.nan, np.nan], [3, 5]], np.float32)
    found = means(Ragged.from_lists([[0, 1, 2], [1], []]), content)
    np.testing.assert_array_equal(found, [[2, 3], [np.nan] * 2, [np.nan] * 2])


# What is sought --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_layers", [0, 2])
def test_what_is_sought_takes_its_share_of_a_users_own_vector(n_layers):
    data = shop()
    histories, content = Ragged.from_lists([[1, 2], [8]]), content_of(data)
    made = {share: model(n_layers=n_layers, intention=share).fit(data) for share in (0.0, 0.3, 1.0)}
    query = Query(history=histories, context={"intention": content[[15, 15]]})
    plain = made[0.3].query_vectors(Query(history=histories))
    np.testing.assert_array_equal(made[0.0].query_vectors(query), plain)
    own = made[0.3]._own(np.stack([content[[1, 2]].mean(0), content[8], content[15]]))
    mixed = 0.7 * own[:2] + 0.3 * own[2]
    found = made[0.3].query_vectors(query)
    if n_layers == 0:
        np.testing.assert_allclose(found, unit(mixed), atol=1e-5)
        one, other = made[1.0].query_vectors(query)
        np.testing.assert_allclose(one, other, atol=1e-6)  # whatever the history
        np.testing.assert_allclose(one, made[1.0].item_vectors()[15], atol=1e-5)
    else:
        assert not np.allclose(found, plain, atol=1e-3)
        one, other = made[1.0].query_vectors(query)
        assert not np.allclose(one, other, atol=1e-3)


def test_somebody_without_a_history_may_say_what_they_seek_and_nan_seeks_nothing(fitted):
    sought = content_of(shop())[[15, 15]]
    sought[1] = np.nan
    ranking = fitted.rank(asked([], [], context={"intention": sought}), 3)
    counts = shop().interactions.item_counts()
    assert ranking.items[1].tolist() == np.lexsort((np.arange(20), -counts))[:3].tolist()
    assert ranking.reasons == ("1 of 2 requests have no history: these lists are the most popular items",)
    own = unit(fitted._own(sought[:1]))
    assert ranking.items[0, 0] == np.argmax(own @ fitted.item_vectors().T)


def test_what_is_sought_in_vectors_of_another_width_is_refused(fitted):
    with pytest.raises(QueryError) as error:
        fitted.rank(asked([1], context={"intention": np.ones((1, 4), np.float32)}), 3)
    assert str(error.value) == (
        "alpharec: intention is 1 x 4, not one vector of 6 numbers a request. Encode it as the items are, by the part "
        "vectors."
    )


# What it is for --------------------------------------------------------------------------------------------------


def tastes(seed=0, n_users=80, n_items=120, shuffle=False, first=0):
    """Two tastes that show in 4 of 64 numbers; of the items of their taste users take a fifth, a third held out."""
    rng = np.random.default_rng(seed)
    taste, liked = np.arange(n_items) % 2, np.arange(n_users) % 2
    vectors = rng.normal(size=(n_items, 64)) * 3
    vectors[:, :4] = (2 * taste[:, None] - 1) + 0.5 * rng.normal(size=(n_items, 4))
    if shuffle:
        vectors = rng.permutation(vectors)
    user, item = np.nonzero((taste == liked[:, None]) & (rng.random((n_users, n_items)) < 0.2))
    held = rng.random(len(user)) < 0.3
    train = dataset(np.stack([user, item], 1)[~held], vectors, n_users, first)
    relevant = Ragged.from_pairs(user[held], item[held].astype(np.int32), n_users)
    some = np.flatnonzero(relevant.lengths)
    return train, EvalSet(Query(history=train.interactions.histories().take(some)), relevant.take(some))


TOY = {"dim": 16, "n_negatives": 16, "training": TrainingConfig(lr=5e-3, batch_size=256, epochs=15, metric="recall@20")}


def recall(made, test):
    return evaluate(made, test, "recall@20")["recall@20"]


def raw_neighbours(train, test):
    """Recall@20 of the items nearest to the mean of the history, as the encoder has them."""
    content = unit(content_of(train))
    scores = unit(means(test.query.history, content)) @ content.T
    found = []
    for row, seen, wanted in zip(scores, test.query.history, test.relevant):
        row[seen] = -np.inf
        found.append(np.isin(wanted, np.argsort(-row)[:20]).mean())
    return np.mean(found)


def test_a_linear_map_finds_tastes_that_noise_hides_and_shuffled_content_loses_most_of_them():
    (train, test), (mixed, _) = tastes(), tastes(shuffle=True)
    options = {**TOY, "projector": "linear", "n_layers": 0}
    found, shuffled = (recall(model(**options).fit(data), test) for data in (train, mixed))
    graph = recall(model(**options | {"n_layers": 2}).fit(mixed), test)
    assert found > 1.3 * raw_neighbours(train, test)
    assert found > 1.3 * shuffled
    assert graph > 1.2 * shuffled  # of tastes the graph still knows


def test_without_training_it_serves_another_catalogue_better_than_popularity_and_a_random_network_does_not():
    train, _ = tastes()
    there, test = tastes(seed=9, first=1000)
    made = model(**TOY, n_layers=0).fit(train)
    other = made.adopt(there)
    assert other.catalogue.items.ids.array[0].as_py() == "i1000"
    assert other.fitted_on["train_fingerprint"] == there.fingerprint
    random = model(**TOY, n_layers=0).fit(train)
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in random.module.parameters():
            torch.nn.init.normal_(weight, std=0.1)
    popular, chance = recall(find("popularity")().fit(there), test), 20 / (120 - 8)  # 8 are masked on average
    assert recall(other, test) > max(1.5 * popular, 1.4 * chance)
    assert recall(random.adopt(there), test) == pytest.approx(chance, abs=0.04)


def test_an_adopted_model_is_saved_and_loaded_like_any_other_and_leaves_the_first_as_it_was(fitted, tmp_path):
    before = fitted.item_vectors().copy()
    other = fitted.adopt(shop(seed=5, n_users=8, n_items=15))
    again = load(other.save(tmp_path / "other"))
    np.testing.assert_array_equal(again.rank(asked([1, 2]), 10).items, other.rank(asked([1, 2]), 10).items)
    np.testing.assert_array_equal(fitted.item_vectors(), before)
    with pytest.raises(DataError, match="items have no column 'vector'"):
        fitted.adopt(Dataset.from_frame({"user": [1, 1], "item": [2, 3]}, items={"item": [2, 3], "title": ["a", "b"]}))
