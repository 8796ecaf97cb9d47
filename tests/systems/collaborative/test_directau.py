"""DirectAU: its two terms by hand, what they leave alone, and what each of them does without the other."""

import math
from statistics import mean

import numpy as np
import pytest
import torch
from torch import Generator
from torch.nn.functional import normalize

from itemic.data import Query
from itemic.data.simulated import planted_groups
from itemic.evaluation import evaluate
from itemic.nn.graph import Graph, propagate
from itemic.registry import find
from itemic.systems.collaborative.directau import DirectAU, alignment, uniformity
from itemic.systems.collaborative.folding import Pairs, Tables

QUICK = {"dim": 16, "gamma": 0.5, "training": {"lr": 0.01, "batch_size": 256, "epochs": 8}}


@pytest.fixture(scope="module")
def planted():
    return planted_groups(seed=0)


@pytest.fixture(scope="module")
def popular(planted):
    return evaluate(find("popularity")().fit(planted[0]), planted[1], "recall@20")["recall@20"]


def drawn(n, dim, seed=0):
    return torch.randn(n, dim, generator=Generator().manual_seed(seed), dtype=torch.float64)


def test_uniformity_is_its_definition_written_as_a_loop():
    x = normalize(drawn(7, 3))
    kernel = [math.exp(-2 * (x[a] - x[b]).square().sum().item()) for a in range(7) for b in range(a)]
    assert uniformity(x).item() == pytest.approx(math.log(mean(kernel)), abs=1e-9)


@pytest.mark.parametrize("block", [2, 3, 64])
def test_the_gradient_of_uniformity_is_that_of_finite_differences_in_blocks_of_any_size(block, monkeypatch):
    monkeypatch.setattr("itemic.systems.collaborative.directau.BLOCK", block)
    x = normalize(drawn(7, 3)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: uniformity(x, t=1.5), x)
    assert torch.autograd.gradcheck(lambda x: uniformity(normalize(x)), x)


def test_alignment_is_two_less_twice_the_cosine():
    x, y = drawn(6, 3, seed=1), drawn(6, 3, seed=2)
    cosines = torch.cosine_similarity(x, y)
    assert alignment(normalize(x), normalize(y)).item() == pytest.approx((2 - 2 * cosines).mean().item(), abs=1e-12)


def test_uniformity_is_zero_at_one_point_and_least_for_two_opposite_ones():
    point = normalize(torch.ones(5, 3, dtype=torch.float64))
    assert uniformity(point).item() == pytest.approx(0, abs=1e-12)
    opposite = torch.tensor([[1.0, 0], [-1, 0]], dtype=torch.float64)
    assert uniformity(opposite, t=3).item() == pytest.approx(-12)


def test_uniformity_in_float32_is_that_in_float64_for_a_large_batch():
    x = normalize(drawn(1024, 64))
    assert uniformity(x.float()).item() == pytest.approx(uniformity(x).item(), abs=1e-5)


def whole(x, y, gamma=0.7):
    x, y = normalize(x), normalize(y)
    return alignment(x, y) + gamma * (uniformity(x) + uniformity(y)) / 2


def test_the_loss_sees_neither_a_rotation_nor_lengths():
    x, y = drawn(8, 4, seed=1), drawn(8, 4, seed=2)
    turned = torch.linalg.qr(drawn(4, 4, seed=3)).Q
    lengths = drawn(8, 1, seed=4).exp()
    assert whole(x @ turned, y @ turned).item() == pytest.approx(whole(x, y).item(), abs=1e-12)
    assert whole(x * lengths, y / lengths).item() == pytest.approx(whole(x, y).item(), abs=1e-12)


def test_the_gradient_is_that_of_finite_differences_and_orthogonal_to_each_vector():
    x, y = drawn(6, 3, seed=1).requires_grad_(), drawn(6, 3, seed=2).requires_grad_()
    assert torch.autograd.gradcheck(whole, (x, y))
    whole(x, y).backward()
    for z in (x, y):
        assert (z * z.grad).sum(1).abs().max() < 1e-12


def test_its_terms_add_up_to_the_loss_of_the_paper(planted):
    model = DirectAU(dim=4, gamma=0.7)
    model._module = module = model.build(planted[0].catalogue)
    user, item = torch.tensor([0, 1, 1, 2]), torch.tensor([5, 5, 6, 7])
    terms = model.loss(Pairs(user, item))
    assert list(terms) == ["alignment", "uniformity"]
    assert sum(terms.values()).item() == pytest.approx(whole(module.user[user], module.item[item]).item(), abs=1e-6)


def test_an_epoch_visits_every_pair_once_draws_no_negatives_and_leaves_out_a_lone_row(planted):
    train, _ = planted
    n = len(train.interactions)
    batches = list(DirectAU(training={"batch_size": n - 1}).batches(train, Generator().manual_seed(0)))
    assert [(type(batch), len(batch.user)) for batch in batches] == [(Pairs, n - 1)]
    user, item = (
        torch.cat(parts).numpy()
        for parts in zip(*DirectAU(training={"batch_size": 1000}).batches(train, Generator().manual_seed(0)))
    )
    order = np.lexsort((item, user))
    np.testing.assert_array_equal(np.stack([user, item])[:, order], train.interactions.distinct_pairs())


def recall(model, test):
    return evaluate(model, test, "recall@20")["recall@20"]


def mean_cosine(x):
    x = normalize(torch.from_numpy(x))
    return (x @ x.T).mean().item()


def test_it_finds_planted_groups_and_needs_uniformity(planted, popular):
    train, test = planted
    full = DirectAU(**QUICK).fit(train)
    collapsed = DirectAU(**{**QUICK, "gamma": 0}).fit(train)
    assert recall(full, test) > 3 * popular
    assert recall(collapsed, test) < 1.5 * popular  # alignment alone draws everything to one point
    assert mean_cosine(collapsed.user_vectors()) > 0.95 > 0.5 > mean_cosine(full.user_vectors())


def test_it_needs_alignment(planted, popular, monkeypatch):
    train, test = planted
    both = DirectAU.loss
    monkeypatch.setattr(DirectAU, "loss", lambda self, batch: {"uniformity": both(self, batch)["uniformity"]})
    spread = DirectAU(**QUICK).fit(train)
    user, item = train.interactions.distinct_pairs()
    x, y = (normalize(torch.from_numpy(v)) for v in (spread.user_vectors()[user], spread.item_vectors()[item]))
    assert alignment(x, y).item() == pytest.approx(2, abs=0.2)
    assert recall(spread, test) < 1.5 * popular


def test_it_finds_more_than_bpr_in_as_many_steps(planted):
    train, test = planted
    few = {"lr": 0.01, "batch_size": 256, "epochs": 4}
    bpr = find("bpr")(dim=16, training=few).fit(train)
    assert recall(DirectAU(dim=16, gamma=0.5, training=few).fit(train), test) > recall(bpr, test)


def test_steps_along_the_graph_average_neighbours_and_none_is_the_mf_encoder():
    module, both = Tables(2, 2, 3), Pairs(torch.tensor([0, 1]), torch.tensor([0, 1]))
    module.graph = Graph.bipartite(np.array([0, 1, 1]), np.array([0, 0, 1]), 2, 2)
    for made, free in zip(module(both, 0), (module.user, module.item)):
        torch.testing.assert_close(made, free)
    user, item = module(both, 1)
    root = 2**-0.5  # 1 / √(degree · degree): item 0 and user 1 have two neighbours
    torch.testing.assert_close(user[0], (module.user[0] + root * module.item[0]) / 2)
    torch.testing.assert_close(item[0], (module.item[0] + root * module.user[0] + module.user[1] / 2) / 2)


def test_the_graph_encoder_finds_planted_groups_and_answers_after_loading(planted, popular, tmp_path):
    train, test = planted
    model = DirectAU(n_layers=2, **QUICK).fit(train)
    assert recall(model, test) > 3 * popular
    again = DirectAU.load(model.save(tmp_path / "model"))
    np.testing.assert_array_equal(again.rank(test.query, 10).items, model.rank(test.query, 10).items)
    assert not np.allclose(model.item_vectors(), model.weights["item"])


@pytest.mark.parametrize("score", ["dot", "cosine"])
def test_with_a_graph_somebody_never_seen_gets_one_pass_from_their_history(planted, score):
    model = DirectAU(n_layers=2, score=score, **QUICK).fit(planted[0])
    log = planted[0].interactions
    folded = model.query_vectors(Query(history=log.histories()))
    with torch.no_grad():
        spread = propagate(model.module.graph, torch.cat([model.module.user, model.module.item]), 2).numpy()
    expected = spread[: log.n_users] - model.weights["user"] / 3  # less their own free part
    expected /= np.linalg.norm(expected, axis=1, keepdims=True) if score == "cosine" else 1
    np.testing.assert_allclose(folded, expected, atol=1e-5)


def test_cosine_ranks_by_direction_alone(planted):
    train, test = planted
    dot, cosine = (DirectAU(score=score, **QUICK).fit(train) for score in ("dot", "cosine"))
    np.testing.assert_array_equal(dot.weights["item"], cosine.weights["item"])
    np.testing.assert_allclose(np.linalg.norm(cosine.item_vectors(), axis=1), 1, rtol=1e-5)
    assert (dot.rank(test.query, 20).items != cosine.rank(test.query, 20).items).any()
