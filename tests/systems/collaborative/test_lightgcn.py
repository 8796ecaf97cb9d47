import numpy as np
import pytest
import torch
from numpy.linalg import matrix_power
from scipy.stats import chisquare

from itemic.data import Dataset, EvalSet, Ids, Interactions, Query, Ragged, Table
from itemic.data.simulated import planted_groups
from itemic.errors import QueryError
from itemic.evaluation import evaluate
from itemic.model import load
from itemic.nn.graph import propagate
from itemic.registry import find
from itemic.systems.collaborative.base import Triples
from itemic.systems.collaborative.lightgcn import LightGCN
from itemic.training import TrainingConfig

ONE_EPOCH = TrainingConfig(lr=0.01, batch_size=256, epochs=1)


def dataset(pairs, n_users, n_items):
    user, item = np.array(pairs).T
    log = Interactions.of(user, item, n_users, n_items)
    return Dataset(Table.of(Ids.numbered(n_items), {}), Table.of(Ids.numbered(n_users), {}), log)


# Users 0 to 3 and items 0 to 4: a path u0 i0 u1 i1 u2 i2; user 3 and items 3 and 4 stand alone
PATH = dataset([(0, 0), (1, 0), (1, 1), (2, 1), (2, 2)], 4, 5)


def dense(data):
    """D^-½ A D^-½ as its definition reads."""
    a = np.zeros((data.n_users + data.n_items,) * 2)
    user, item = data.interactions.user, data.interactions.item + data.n_users
    a[user, item] = a[item, user] = 1
    root = np.sqrt(np.maximum(a.sum(1), 1))
    return a / root[:, None] / root


def fitted(data=PATH, **options):
    return LightGCN(**{"dim": 6, "training": ONE_EPOCH} | options).fit(data)


@pytest.fixture(scope="module")
def groups():
    train, test = planted_groups(n_users=200, n_items=400, n_groups=4, loyalty=0.7, seed=0)
    return fitted(train, dim=16, training=TrainingConfig(lr=0.01, batch_size=1024, epochs=15)), train, test


@pytest.mark.parametrize("n_layers", [0, 1, 3])
def test_the_vectors_that_answer_are_the_mean_of_dense_powers_of_the_graph(n_layers):
    model = fitted(n_layers=n_layers)
    s, nodes = dense(PATH), model.weights["nodes"]
    wanted = sum(matrix_power(s, n) @ nodes for n in range(n_layers + 1)) / (n_layers + 1)
    np.testing.assert_allclose(np.concatenate([model.tables["user"], model.tables["item"]]), wanted, atol=1e-6)


def test_a_score_depends_on_the_free_vectors_within_as_many_steps_as_layers_and_no_others():
    module = fitted().module
    reached = []
    for item, n_layers in ((0, 1), (2, 1), (2, 2)):
        nodes = module.nodes.detach().clone().requires_grad_(True)
        spread = propagate(module.graph, nodes, n_layers)
        (spread[0] * spread[4 + item]).sum().backward()
        assert nodes.grad is not None
        reached.append(set(np.flatnonzero(nodes.grad.abs().sum(1))))
    # Users are nodes 0 to 3, items 4 to 8: u0 and i0 are one step apart, u0 and i2 five
    assert reached == [{0, 4, 1}, {0, 4, 2, 6}, {0, 4, 1, 2, 6, 5}]


def test_the_loss_is_that_computed_by_hand():
    model = fitted(n_layers=2, l2=0.5)
    user, item, negatives = [0, 2, 2], [4, 6, 5], [[6, 7], [4, 8], [4, 7]]
    terms = model.loss(Triples(torch.tensor(user), torch.tensor(item), torch.tensor(negatives)))
    s, nodes = dense(PATH), model.weights["nodes"].astype(float)
    z = (nodes + s @ nodes + s @ s @ nodes) / 3
    margins = [z[u] @ z[i] - z[u] @ z[j] for u, i, js in zip(user, item, negatives) for j in js]
    assert terms["bpr"].item() == pytest.approx(np.mean(-np.log(1 / (1 + np.exp(-np.array(margins))))), abs=1e-6)
    rows = [row for u, i, js in zip(user, item, negatives) for row in (u, i, *js)]
    assert terms["l2"].item() == pytest.approx(0.5 * 0.5 * np.square(nodes[rows]).sum() / 3, abs=1e-6)


def test_the_penalty_pulls_at_the_free_vectors_of_the_batch_and_no_others():
    model = fitted(l2=0.5)
    penalty = model.loss(Triples(torch.tensor([0]), torch.tensor([4]), torch.tensor([[7]])))["l2"]
    gradient, nodes = torch.autograd.grad(penalty, model.module.nodes)[0].numpy(), model.weights["nodes"]
    np.testing.assert_allclose(gradient[[0, 4, 7]], 0.5 * nodes[[0, 4, 7]], rtol=1e-6)
    assert not np.delete(gradient, [0, 4, 7], axis=0).any()


def draws(sampling, n_epochs=20):
    train, _ = planted_groups(n_users=40, n_items=120, n_groups=2, seed=1)
    keep = (train.interactions.user % 4 == 0) | (np.arange(len(train.interactions)) % 5 == 0)  # unequal histories
    data = dataset(np.stack([train.interactions.user, train.interactions.item], 1)[keep], 40, 120)
    model = fitted(data, sampling=sampling)
    rng = torch.Generator().manual_seed(0)
    batches = [batch for _ in range(n_epochs) for batch in model.batches(data, rng)]
    return data, [torch.cat([getattr(batch, name) for batch in batches]).numpy() for name in Triples._fields]


@pytest.mark.parametrize("sampling", ["user_uniform", "edge_uniform"])
def test_draws_are_pairs_of_the_data_and_negatives_never_are(sampling):
    data, (user, item, negatives) = draws(sampling)
    pairs = set(zip(data.interactions.user.tolist(), data.interactions.item.tolist()))
    assert len(user) == 20 * len(pairs)
    assert set(zip(user.tolist(), (item - 40).tolist())) == pairs
    assert not set(zip(user.tolist(), (negatives[:, 0] - 40).tolist())) & pairs
    assert len(np.unique(negatives)) == 120


def test_users_are_drawn_alike_or_by_how_much_they_took():
    for sampling in ("user_uniform", "edge_uniform"):
        data, (user, *_) = draws(sampling)
        seen, n = np.bincount(user, minlength=40), len(user)
        if sampling == "user_uniform":
            assert chisquare(seen).pvalue > 0.01
            assert chisquare(seen, n * data.interactions.histories().lengths / len(data.interactions)).pvalue < 1e-9
        else:
            np.testing.assert_array_equal(seen, 20 * data.interactions.histories().lengths)


def communities(seed=0):
    """Two groups of users and two blocks of items; of 30 % of the own block's cells, a fifth is held out."""
    rng = np.random.default_rng(seed)
    own = np.arange(120)[:, None] % 2 == np.arange(160)[None, :] % 2
    user, item = np.nonzero(own & (rng.random(own.shape) < 0.3))
    held = rng.random(len(user)) < 0.2
    train = dataset(np.stack([user, item], 1)[~held], 120, 160)
    query = Query(user=np.arange(120, dtype=np.int32), history=train.interactions.histories())
    return train, EvalSet(query, Ragged.from_pairs(user[held], item[held].astype(np.int32), 120))


def test_it_finds_two_planted_communities_sooner_than_without_layers():
    train, test = communities()
    budget = TrainingConfig(lr=0.003, batch_size=512, epochs=3)

    def recall(model):
        return evaluate(model.fit(train), test, "recall@20")["recall@20"]

    popular = recall(find("popularity")())
    layers, none = (recall(LightGCN(dim=32, n_layers=n, training=budget)) for n in (3, 0))
    assert layers > 1.5 * popular
    assert layers > 1.3 * none


def test_a_user_folded_in_from_their_history_is_the_trained_one_less_their_own_free_part(groups):
    model, train, _ = groups
    log = train.interactions
    folded = model.query_vectors(Query(history=log.histories()))
    np.testing.assert_allclose(folded, model.tables["user"] - model.weights["nodes"][: log.n_users] / 4, atol=1e-6)


def test_the_list_of_a_user_folded_in_is_nearly_the_trained_list(groups):
    model, _, test = groups
    known = model.rank(test.query, 20).items
    stranger = model.rank(Query(history=test.query.history), 20).items
    assert np.mean([len(np.intersect1d(a, b)) / 20 for a, b in zip(known, stranger)]) > 0.8
    by_chance = np.mean([len(np.intersect1d(a, b)) / 20 for a, b in zip(known, np.roll(stranger, 1, axis=0))])
    assert by_chance < 0.3  # the next user is of another group


def test_items_nobody_took_are_not_ranked_and_do_not_change_a_history():
    model = fitted()
    ranking = model.rank(Query(user=np.arange(3, dtype=np.int32)), 5)
    assert set(ranking.items[:, :3].flat) == {0, 1, 2}
    assert (ranking.items[:, 3:] == -1).all()
    scores = model.score(Query(user=np.zeros(1, np.int32), candidates=np.array([0, 3], np.int32))).values
    assert np.isfinite(scores[0])
    assert scores[1] == -np.inf
    histories = Ragged.from_lists([[1, 0], [3, 0, 1, 0]])
    one, other = model.query_vectors(Query(history=histories))
    np.testing.assert_array_equal(one, other)


def test_somebody_of_whom_nothing_is_known_gets_what_the_mean_user_would():
    model = fitted()
    nothing = [Query(history=Ragged.from_lists([[]])), Query(user=np.array([3], np.int32))]  # user 3 took nothing
    nothing += [Query(history=Ragged.from_lists([[4]]))]
    for query in nothing:
        np.testing.assert_allclose(model.query_vectors(query)[0], model.tables["user"][:3].mean(0), rtol=1e-5)
    with pytest.raises(QueryError, match="lightgcn does not know this user. Give what they did: Query"):
        model.rank(Query(user=np.array([-1], np.int32)), 2)


def test_the_list_of_somebody_unknown_favours_what_many_took():
    rng = np.random.default_rng(0)
    taken = rng.random((80, 60)) < np.linspace(0.6, 0.05, 60)  # item 0 is taken most
    train = dataset(np.argwhere(taken), 80, 60)
    model = fitted(train, dim=16, training=TrainingConfig(lr=0.01, batch_size=256, epochs=20))
    first = model.rank(Query(history=Ragged.from_lists([[]])), 10).items[0]
    assert np.mean(first) < 12


def test_a_loaded_model_answers_without_torch(groups, tmp_path):
    model, _, test = groups
    model.save(tmp_path / "model")
    again = load(tmp_path / "model")
    again.build = None  # what `module` would need
    query = Query(history=test.query.history)
    np.testing.assert_array_equal(again.rank(query, 10).items, model.rank(query, 10).items)


def test_dropped_edges_change_the_loss_in_training_only():
    model = fitted(edge_dropout=0.5)
    batch = Triples(torch.tensor([0]), torch.tensor([4]), torch.tensor([[6]]))
    found = {}
    for training in (False, True):
        model.module.train(training)
        found[training] = {model.loss(batch)["bpr"].item() for _ in range(8)}
    assert len(found[False]) == 1
    assert len(found[True]) > 1
