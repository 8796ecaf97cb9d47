"""BUIR: its loss by hand, what moves and what does not, and the collapse that its two halves prevent."""

import numpy as np
import pytest
import torch
from torch import Generator, nn
from torch.nn.functional import normalize

from itemic.data import Query
from itemic.data.simulated import planted_groups
from itemic.evaluation import evaluate
from itemic.nn.graph import propagate
from itemic.registry import find
from itemic.systems.collaborative.buir import BUIR, apart
from itemic.systems.collaborative.folding import Pairs, smoothed
from itemic.training import Stage, Trainer, TrainingConfig

QUICK = {"dim": 16, "training": {"lr": 0.01, "batch_size": 256, "epochs": 12}}
BATCH = Pairs(torch.tensor([0, 1, 1]), torch.tensor([5, 5, 6]))


@pytest.fixture(scope="module")
def planted():
    return planted_groups(seed=0)


@pytest.fixture(scope="module")
def fitted(planted):
    return BUIR(**QUICK).fit(planted[0])


@pytest.fixture
def unfitted(planted):
    def make(**options):
        torch.manual_seed(0)
        model = BUIR(dim=4, **options)
        model._catalogue = planted[0].catalogue
        model._module = model.build(planted[0].catalogue)
        model.prepare(planted[0])
        return model, model.module

    return make


def test_apart_is_the_squared_distance_of_directions():
    rng = Generator().manual_seed(0)
    x, y = (torch.randn(5, 3, generator=rng, dtype=torch.float64) for _ in range(2))
    expected = (normalize(x) - normalize(y)).square().sum(1).mean().item()
    assert apart(x, y).item() == pytest.approx(expected, abs=1e-12)
    assert apart(x, 3 * x).item() == pytest.approx(0, abs=1e-12)
    assert apart(x, -x).item() == pytest.approx(4, abs=1e-12)


def test_each_side_predicts_the_slow_copy_of_the_other(unfitted):
    model, m = unfitted()
    m.slow_user.add_(1)  # else a mistake of fast for slow would not show
    m.slow_item.sub_(1)
    terms, expected = model.loss(BATCH), {"user": 0.0, "item": 0.0}
    for u, v in zip(*BATCH):
        a, b = m.predictor(m.user[u]), m.predictor(m.item[v])
        expected["user"] += (normalize(a, dim=0) - normalize(m.slow_item[v], dim=0)).square().sum().item() / 3
        expected["item"] += (normalize(b, dim=0) - normalize(m.slow_user[u], dim=0)).square().sum().item() / 3
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(expected, rel=1e-5)


def test_only_the_rows_of_the_batch_and_the_predictor_get_gradients(unfitted):
    model, m = unfitted()
    sum(model.loss(BATCH).values()).backward()
    assert m.user.grad.any(1).nonzero().flatten().tolist() == [0, 1]
    assert m.item.grad.any(1).nonzero().flatten().tolist() == [5, 6]
    assert m.predictor.weight.grad.any()
    assert m.predictor.bias.grad.any()
    assert not m.slow_user.requires_grad
    assert not m.slow_item.requires_grad


def test_with_a_graph_neighbours_get_gradients_too(unfitted, planted):
    model, m = unfitted(n_layers=1, drop_edges=0)
    sum(model.loss(Pairs(torch.tensor([0]), torch.tensor([5]))).values()).backward()
    user, item = planted[0].interactions.distinct_pairs()
    assert m.item.grad.any(1).nonzero().flatten().tolist() == sorted({5, *item[user == 0].tolist()})
    assert m.user.grad.any(1).nonzero().flatten().tolist() == sorted({0, *user[item == 5].tolist()})


def stepped(model, n_steps=1):
    """The model after some steps on one batch, as the trainer takes them."""
    for step in range(n_steps):
        config = TrainingConfig(lr=0.01, epochs=1)
        Trainer(model.module, [Stage("one", config, lambda _: [BATCH], model.loss)]).fit()
        model.on_step(step)
    return model.module


def test_after_a_step_the_slow_copy_is_a_mean_of_what_it_was_and_the_new_table(unfitted):
    model, m = unfitted(momentum=0.9)
    old_user, old_item = m.slow_user.clone(), m.slow_item.clone()
    stepped(model)
    assert not torch.equal(m.user, old_user)
    torch.testing.assert_close(m.slow_user, 0.9 * old_user + 0.1 * m.user.detach())
    torch.testing.assert_close(m.slow_item, 0.9 * old_item + 0.1 * m.item.detach())


def test_with_momentum_one_the_slow_copy_never_moves(unfitted):
    model, m = unfitted(momentum=1)
    old = m.slow_user.clone()
    stepped(model, 3)
    assert torch.equal(m.slow_user, old)


def test_its_score_is_both_directions_added_up(fitted):
    m = fitted.module
    with torch.no_grad():
        user, item = m.user[:7], m.item[:9]
        expected = m.predictor(user) @ item.T + user @ m.predictor(item).T
    found = fitted.user_vectors()[:7] @ fitted.item_vectors()[:9].T
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-6)


def test_the_views_of_a_graph_differ_and_answers_use_the_whole_one(unfitted):
    model, m = unfitted(n_layers=2, drop_edges=0.5)
    one, other = (smoothed(m.thinned(0.5), m.user, m.item, BATCH, 2) for _ in range(2))
    assert not torch.equal(one[0], other[0])
    model._take_weights()
    model.finish()
    before = model.tables["item"].copy()
    model.finish()
    np.testing.assert_array_equal(before, model.tables["item"])
    np.testing.assert_allclose(before[BATCH.item, :4], m(BATCH, 2)[1].detach().numpy(), atol=1e-6)


def test_with_a_graph_somebody_never_seen_gets_one_pass_from_their_history_and_its_prediction(unfitted, planted):
    model, m = unfitted(n_layers=2)
    model._take_weights()
    model.finish()
    log = planted[0].interactions
    folded = model.query_vectors(Query(history=log.histories()))
    with torch.no_grad():
        spread = propagate(m.graph, torch.cat([m.user, m.item]), 2)[: log.n_users] - m.user / 3
        expected = torch.cat([m.predictor(spread), spread], 1).numpy()
    np.testing.assert_allclose(folded, expected, atol=1e-5)


def test_a_normal_predictor_starts_far_along_its_bias(unfitted):
    lengths = {init: unfitted(predictor_init=init)[1].predictor.bias.norm().item() for init in ("small", "normal")}
    assert lengths["normal"] > 2 * lengths["small"]


def test_an_epoch_visits_every_pair_once_and_draws_no_negatives(planted):
    train, _ = planted
    batches = list(BUIR(training={"batch_size": 1000}).batches(train, Generator().manual_seed(0)))
    user, item = (torch.cat(parts).numpy() for parts in zip(*batches))
    order = np.lexsort((item, user))
    np.testing.assert_array_equal(np.stack([user, item])[:, order], train.interactions.distinct_pairs())


def mean_cosine(x):
    x = normalize(torch.from_numpy(x))
    return (x @ x.T).mean().item()


def test_without_predictor_and_slow_copy_all_vectors_collapse(planted, fitted, monkeypatch):
    build = BUIR.build

    def without_predictor(self, catalogue):
        module = build(self, catalogue)
        module.predictor = nn.Identity()
        return module

    monkeypatch.setattr(BUIR, "build", without_predictor)
    collapsed = BUIR(momentum=0, **QUICK).fit(planted[0])
    assert mean_cosine(collapsed.weights["user"]) > 0.9
    assert mean_cosine(fitted.weights["user"]) < 0.5


@pytest.mark.parametrize("n_layers", [0, 2])
def test_it_finds_planted_groups_with_and_without_neighbours(n_layers, planted):
    train, test = planted
    popular = evaluate(find("popularity")().fit(train), test, "recall@20")["recall@20"]
    found = evaluate(BUIR(n_layers=n_layers, **QUICK).fit(train), test, "recall@20")["recall@20"]
    assert found > 3 * popular
