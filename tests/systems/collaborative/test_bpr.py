"""BPR-MF: the gradient of a triple by hand, its draws, and what many negatives buy."""

from statistics import mean

import numpy as np
import pytest
import torch
from torch import Generator

from itemic.data.simulated import planted_groups
from itemic.evaluation import evaluate
from itemic.registry import find
from itemic.systems.collaborative.base import Triples
from itemic.systems.collaborative.bpr import BPR
from itemic.training import TrainingConfig

QUICK = {"dim": 16, "training": {"lr": 0.02, "batch_size": 1024, "epochs": 12}}


@pytest.fixture(scope="module")
def planted():
    return planted_groups(seed=0)


def test_the_gradient_of_one_triple_is_that_of_the_paper(planted):
    """∂w = -(1 - σ)(h⁺ - h⁻) + λ w, ∂h⁺ = -(1 - σ) w + λ h⁺, ∂h⁻ = (1 - σ) w + λ h⁻; no other row is touched."""
    model = BPR(dim=4, l2=0.1)
    model._module = module = model.build(planted[0].catalogue)
    one = torch.tensor([3])
    sum(model.loss(Triples(one, one + 4, one[None] + 6)).values()).backward()
    w, positive, negative = module.user[3], module.item[7], module.item[9]
    rest = 1 - torch.sigmoid(w @ positive - w @ negative)
    user, item = (table.grad.coalesce() for table in (module.user, module.item))
    assert (user.indices().tolist(), item.indices().tolist()) == ([[3]], [[7, 9]])
    found = torch.cat([user.values(), item.values()])
    expected = [-rest * (positive - negative) + 0.1 * w, -rest * w + 0.1 * positive, rest * w + 0.1 * negative]
    torch.testing.assert_close(found, torch.stack(expected))


def test_the_gradient_is_the_same_whether_it_names_rows_or_not(planted):
    batch = Triples(torch.tensor([3, 3]), torch.tensor([7, 8]), torch.tensor([[9, 8], [7, 1]]))
    gradients = {}
    for optimizer in ("adamw", "sgd", "adam", "rowadam"):
        torch.manual_seed(0)
        model = BPR(dim=4, l2=0.1, training={"optimizer": optimizer})
        model._module = module = model.build(planted[0].catalogue)
        sum(model.loss(batch).values()).backward()
        gradients[optimizer] = module.user.grad, module.item.grad
    assert not any(gradient.is_sparse for gradient in gradients["adamw"])
    for optimizer in ("sgd", "adam", "rowadam"):
        for found, expected in zip(gradients[optimizer], gradients["adamw"]):
            assert found.is_sparse
            torch.testing.assert_close(found.to_dense(), expected)


def test_rowadam_finds_the_planted_groups_as_adam_does(planted):
    train, test = planted
    found = {
        name: evaluate(BPR(dim=16, training={**QUICK["training"], "optimizer": name}).fit(train), test, "recall@20")[
            "recall@20"
        ]
        for name in ("adam", "rowadam")
    }
    assert found["rowadam"] > 0.9 * found["adam"]


def test_the_penalty_is_half_the_mean_squared_lengths_of_a_triple(planted):
    model = BPR(dim=4, l2=0.3, n_negatives=2)
    model._module = module = model.build(planted[0].catalogue)
    batch = Triples(torch.tensor([0, 1]), torch.tensor([2, 3]), torch.tensor([[4, 5], [6, 7]]))
    triples = [(u, i, j) for u, i, row in zip(*(x.tolist() for x in batch)) for j in row]
    user, item = module.user.detach(), module.item.detach()
    squares = [(user[u] @ user[u] + item[i] @ item[i] + item[j] @ item[j]).item() for u, i, j in triples]
    assert model.loss(batch)["l2"].item() == pytest.approx(0.3 / 2 * mean(squares), rel=1e-5)


def test_an_epoch_visits_every_pair_once_with_negatives_that_the_user_did_not_take(planted):
    train, _ = planted
    model = BPR(n_negatives=3, training={"batch_size": 1000})
    model._module = model.build(train.catalogue)
    model.prepare(train)
    batches = list(model.batches(train, Generator().manual_seed(0)))
    user, item, negatives = (torch.cat(parts).numpy() for parts in zip(*batches))
    order = np.lexsort((item, user))
    np.testing.assert_array_equal(np.stack([user, item])[:, order], train.interactions.distinct_pairs())
    taken = train.interactions.matrix().toarray()
    assert negatives.shape == (len(user), 3)
    assert not taken[user[:, None], negatives].any()


def test_bpr_finds_planted_groups_and_loses_them_when_held_at_zero(planted):
    train, test = planted
    popular = evaluate(find("popularity")().fit(train), test, "recall@20")["recall@20"]
    found = evaluate(BPR(**QUICK).fit(train), test, "recall@20")["recall@20"]
    held = evaluate(BPR(l2=100, **QUICK).fit(train), test, "recall@20")["recall@20"]
    assert found > 3 * popular
    assert held < 2 * popular


@pytest.mark.parametrize("loss", ["bpr", "sampled_softmax"])
def test_many_negatives_find_more_in_as_many_steps(loss):
    train, test = planted_groups(n_items=800, n_groups=16, seed=0)
    few = {"lr": 0.02, "batch_size": 1024, "epochs": 3}
    models = [BPR(dim=32, loss=loss, n_negatives=n, training=few).fit(train) for n in (1, 10)]
    one, many = (evaluate(model, test, "ndcg@20")["ndcg@20"] for model in models)
    assert many > 1.2 * one


def test_options_of_training_given_in_part_leave_the_others_as_the_system_has_them():
    training = BPR(training={"epochs": 5}).config.training
    assert (training.epochs, training.batch_size) == (5, BPR().config.training.batch_size)
    assert training.batch_size != TrainingConfig().batch_size
