"""Losses of pairs: their definitions, what they tend to, and calibration in the form in which gBCE was published."""

import math
from statistics import mean

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator

from itemic.nn.losses.pair import bce, bpr, gbce, gbce_beta, sampled_softmax


@pytest.fixture
def scores():
    rng = Generator().manual_seed(0)
    positive = torch.randn(5, generator=rng, dtype=torch.float64, requires_grad=True)
    negative = torch.randn(5, 3, generator=rng, dtype=torch.float64, requires_grad=True)
    return positive, negative


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def test_bce_is_its_definition_written_as_a_loop(scores):
    positive, negative = (x.tolist() for x in scores)
    expected = -sum(math.log(sigmoid(p)) for p in positive) / 5
    expected -= sum(math.log(1 - sigmoid(n)) for row in negative for n in row) / 15
    assert bce(*scores).item() == pytest.approx(expected)


def test_gbce_is_its_definition_written_as_a_loop(scores):
    positive, negative = (x.tolist() for x in scores)
    expected = 0.0
    for p, row in zip(positive, negative):
        expected -= (math.log(sigmoid(p) ** 0.3) + sum(math.log(1 - sigmoid(n)) for n in row)) / 4 / 5
    assert gbce(*scores, beta=0.3).item() == pytest.approx(expected)


def test_gbce_is_bce_of_the_positives_transformed_as_published(scores):
    """The authors keep BCE and replace a positive score s by log(1 / (σ(s)^-β - 1)), whose σ is σ(s)^β."""
    positive, negative = scores
    transformed = torch.log(1 / (torch.sigmoid(positive) ** -0.3 - 1))
    every = torch.cat([transformed[:, None], negative], 1)
    labels = torch.zeros_like(every)
    labels[:, 0] = 1
    published = torch.nn.functional.binary_cross_entropy_with_logits(every, labels)
    torch.testing.assert_close(gbce(*scores, beta=0.3), published)
    for one, other in zip(*(torch.autograd.grad(loss, scores) for loss in (gbce(*scores, beta=0.3), published))):
        torch.testing.assert_close(one, other)


def test_beta_is_the_published_formula_and_runs_from_one_to_the_share_drawn():
    for k, n_items, t in ((256, 3417, 0.75), (1, 1001, 0.3)):
        alpha = k / (n_items - 1)
        assert gbce_beta(k, n_items, t) == pytest.approx(alpha * (t * (1 - 1 / alpha) + 1 / alpha))
    assert gbce_beta(8, 33, 0.0) == 1
    assert gbce_beta(8, 33, 1.0) == 0.25


def test_with_beta_one_gbce_is_the_mean_of_all_terms_of_bce(scores):
    positive, negative = scores
    one = bce(positive, negative[:, :1])
    torch.testing.assert_close(gbce(positive, negative[:, :1], beta=1.0), one / 2)


@pytest.mark.parametrize("loss", [bce, lambda p, n: gbce(p, n, 0.4), bpr, sampled_softmax])
def test_gradients_are_those_of_finite_differences(loss, scores):
    assert torch.autograd.gradcheck(loss, scores)


@given(st.floats(-1000, 1000))
def test_no_score_overflows(score):
    x = torch.tensor([score])
    assert math.isfinite(bce(x, -x[None]).item())
    assert math.isfinite(gbce(x, -x[None], 0.5).item())


def test_bpr_is_its_definition_written_as_a_loop(scores):
    positive, negative = (x.tolist() for x in scores)
    terms = [-math.log(1 / (1 + math.exp(n - p))) for p, row in zip(positive, negative) for n in row]
    assert bpr(*scores).item() == pytest.approx(mean(terms), abs=1e-12)


def test_sampled_softmax_is_its_definition_written_as_a_loop(scores):
    positive, negative = (x.tolist() for x in scores)
    terms = [-math.log(math.exp(p) / (math.exp(p) + sum(map(math.exp, row)))) for p, row in zip(positive, negative)]
    assert sampled_softmax(*scores).item() == pytest.approx(mean(terms), abs=1e-12)


def test_with_one_negative_both_losses_are_the_same(scores):
    positive, negative = scores
    assert bpr(positive, negative[:, :1]).item() == pytest.approx(sampled_softmax(positive, negative[:, :1]).item())


def test_a_score_of_a_thousand_overflows_neither_loss():
    far = torch.tensor([-1000.0]), torch.tensor([[1000.0]])
    assert bpr(*far).item() == sampled_softmax(*far).item() == 2000.0


@pytest.mark.parametrize("loss", [bce, lambda *scores, weight=None: gbce(*scores, 0.4, weight)], ids=["bce", "gbce"])
def test_a_weight_counts_a_row_as_often_as_it_says(loss):
    positive, negative = torch.randn(3), torch.randn(3, 5)
    rows = torch.tensor([0, 0, 0, 2])
    weighed = loss(positive, negative, weight=torch.tensor([1.5, 0.0, 0.5]))
    torch.testing.assert_close(weighed, loss(positive[rows], negative[rows]))
