"""Estimates from logs of another model, against a truth that is computed from every list that there is."""

from itertools import permutations

import numpy as np
import pytest

from itemic.errors import DataError
from itemic.evaluation.offpolicy import off_policy
from itemic.nn.reranking import drawn

CLICKS = np.array([0.8, 0.5, 0.3, 0.1, 0.05])
"""How likely each item is clicked at the first place; at the second, half of it if the first was clicked, else all."""
LOGGING, JUDGED, TEMPERATURE = np.array([0.0, 0.2, 0.4, 0.6, 0.8]), np.array([0.9, 0.6, 0.4, 0.2, 0.0]), 0.5


def chances(scores, items):
    """How likely each item of the lists was drawn for its place, given those above it: the definition."""
    weight = np.exp(scores / TEMPERATURE)
    first = weight[items[:, 0]] / weight.sum()
    return np.stack([first, weight[items[:, 1]] / (weight.sum() - weight[items[:, 0]])], 1)


def truth(scores):
    """The mean reward of a list, over all lists of two of five items."""
    lists = np.array(list(permutations(range(5), 2)))
    first = CLICKS[lists[:, 0]]
    reward = first + CLICKS[lists[:, 1]] * (1 - first / 2)
    return float((chances(scores, lists).prod(1) * reward).sum())


def log(n, rng):
    items, logged = drawn(np.tile(LOGGING, (n, 1)), 2, TEMPERATURE, rng)
    np.testing.assert_allclose(logged, chances(LOGGING, items))
    first = rng.random(n) < CLICKS[items[:, 0]]
    second = rng.random(n) < CLICKS[items[:, 1]] * np.where(first, 0.5, 1.0)
    return items, np.stack([first, second], 1).astype(float), logged, chances(JUDGED, items)


def modelled(items, quality):
    """A model of rewards that knows a share of the truth, and what it expects of the judged model at each place."""
    guess = quality * CLICKS + (1 - quality) * 0.9
    weight = np.exp(JUDGED / TEMPERATURE)
    first = np.full(len(items), weight @ guess / weight.sum())
    left = np.tile(weight, (len(items), 1))
    left[np.arange(len(items)), items[:, 0]] = 0
    second = 0.75 * (left @ guess) / left.sum(1)
    return np.stack([guess[items[:, 0]], 0.75 * guess[items[:, 1]]], 1), np.stack([first, second], 1)


@pytest.fixture(scope="module")
def repeated():
    """Estimates from 300 logs of 500 lists."""
    rng, found = np.random.default_rng(0), []
    for _ in range(300):
        items, rewards, logged, target = log(500, rng)
        good = off_policy(rewards, logged, target, *modelled(items, 1.0))
        bad = off_policy(rewards, logged, target, *modelled(items, 0.0))
        found.append({**good, "dr, wrong model": bad["dr"], "naive": off_policy(rewards, logged, logged)["ips"]})
    return found


@pytest.mark.parametrize("name", ["ips", "snips", "dr", "dr, wrong model"])
def test_estimates_are_right_on_average_and_their_intervals_hold_the_truth(name, repeated):
    values = np.array([found[name].value for found in repeated])
    assert values.mean() == pytest.approx(truth(JUDGED), abs=3.5 * values.std() / np.sqrt(len(values)))
    held = np.mean([found[name].low <= truth(JUDGED) <= found[name].high for found in repeated])
    assert 0.91 < held < 0.99


def test_the_mean_of_the_log_is_that_of_the_model_that_drew_it(repeated):
    naive = np.mean([found["naive"].value for found in repeated])
    assert naive == pytest.approx(truth(LOGGING), abs=0.01)
    assert abs(naive - truth(JUDGED)) > 0.1


def test_a_model_of_rewards_makes_the_estimate_sharper(repeated):
    spread = {name: np.std([found[name].value for found in repeated]) for name in repeated[0]}
    assert spread["dr"] < 0.8 * spread["ips"]
    assert spread["snips"] < spread["ips"]


def test_a_log_without_propensities_is_refused():
    rewards = np.ones((3, 2))
    with pytest.raises(
        DataError, match="2 of 3 logged lists have no propensities: they were not drawn, so nothing says"
    ):
        off_policy(rewards, np.array([[0.5, 0.5], [np.nan, 1], [0, 1]]), rewards)
    with pytest.raises(DataError, match="the log holds no list. Judge by a longer one."):
        off_policy(np.empty((0, 2)), np.empty((0, 2)), np.empty((0, 2)))
