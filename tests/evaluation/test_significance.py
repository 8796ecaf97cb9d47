"""Intervals, paired tests and Holm's correction: against SciPy, worked cases and what they promise in simulations."""

import numpy as np
import pytest
from scipy import stats

from itemic.errors import DataError
from itemic.evaluation import significance
from itemic.evaluation.significance import holm, intervals, paired_test


def test_the_interval_is_that_of_resampled_means_for_skewed_values():
    values = np.random.default_rng(0).beta(0.3, 2, 400)
    ours = intervals({"x": values}, resamples=20_000)["x"]
    peer = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=1).confidence_interval
    assert ours.mean == pytest.approx(values.mean())
    assert (ours.low, ours.high) == pytest.approx((peer.low, peer.high), abs=0.02 * (peer.high - peer.low))


def test_the_interval_covers_the_true_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    samples = {i: rng.beta(0.5, 2, 200) for i in range(400)}  # true mean 0.2
    for level, low, high in [(0.95, 0.91, 0.98), (0.5, 0.43, 0.57)]:
        covered = [each.low <= 0.2 <= each.high for each in intervals(samples, resamples=400, level=level).values()]
        assert low < np.mean(covered) < high


def test_a_seed_fixes_the_interval_which_does_not_depend_on_the_other_metrics():
    rng = np.random.default_rng(0)
    a, b = rng.random(100), rng.random(100)
    assert intervals({"a": a}, seed=1)["a"] == pytest.approx(intervals({"b": b, "a": a}, seed=1)["a"], abs=1e-12)
    assert intervals({"a": a}, seed=1)["a"].low != intervals({"a": a}, seed=2)["a"].low


def test_small_blocks_draw_the_same_resamples(monkeypatch):
    values = {"a": np.random.default_rng(0).random(50)}
    whole = intervals(values)
    monkeypatch.setattr(significance, "BLOCK", 130)
    assert intervals(values)["a"] == pytest.approx(whole["a"], abs=1e-12)


def test_the_paired_test_is_scipys():
    rng = np.random.default_rng(0)
    values, baseline = rng.random(50), rng.random(50)
    ours = paired_test(values, baseline)
    assert ours.p == pytest.approx(stats.ttest_rel(values, baseline).pvalue)
    assert ours.mean == pytest.approx(values.mean() - baseline.mean())


def test_the_paired_test_agrees_with_random_signs_on_recall_like_values():
    """The randomisation test it stands in for, on differences that are mostly zero and otherwise lumpy."""
    rng = np.random.default_rng(1)
    difference = rng.choice([0, 0, 0, 0.2, 0.5, -0.2, -0.5, 1], 600, p=[0.3, 0.3, 0.1, 0.1, 0.06, 0.06, 0.06, 0.02])
    signs = rng.choice([-1, 1], (20_000, 600))
    randomised = (np.abs(signs @ difference) >= abs(difference.sum()) - 1e-9).mean()
    p = paired_test(difference, np.zeros(600)).p
    assert 0.0005 < p < 0.05
    assert p == pytest.approx(randomised, rel=0.2)


def test_p_values_are_uniform_without_a_difference_and_small_with_one():
    rng = np.random.default_rng(0)
    query = rng.random((500, 300))  # queries differ in difficulty far more than systems do: pairing removes that
    a, b = (query + 0.1 * rng.standard_exponential(query.shape) for _ in range(2))
    p = np.array([paired_test(x, y).p for x, y in zip(a, b, strict=True)])
    assert stats.kstest(p, "uniform").pvalue > 0.01
    assert (p < 0.05).mean() == pytest.approx(0.05, abs=0.03)
    planted = np.array([paired_test(x + 0.03, y).p for x, y in zip(a, b, strict=True)])
    unpaired = np.array([stats.ttest_ind(x + 0.03, y).pvalue for x, y in zip(a, b, strict=True)])
    assert (planted < 0.05).mean() > 0.9
    assert (unpaired < 0.05).mean() < 0.5


def test_equal_systems_have_no_difference_and_a_constant_one_is_certain():
    values = np.array([0.25, 0.5, 1.0])
    assert paired_test(values, values) == (0, 1)
    assert paired_test(values, values - 0.25) == (0.25, 0)


def test_holm_on_a_case_worked_by_hand():
    """Sorted .005 .01 .03 .04 times 4 3 2 1 = .02 .03 .06 .04, the last raised to .06; in the order given."""
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm(np.array([0.6, 0.7])).tolist() == [1, 1]
    assert holm(np.array([0.2])).tolist() == [0.2]
    assert holm(np.array([])).tolist() == []


def test_holm_keeps_the_family_below_its_level_where_plain_p_values_do_not():
    p = np.random.default_rng(0).random((2000, 5))
    assert (p.min(1) < 0.05).mean() > 0.2
    assert (np.array([holm(row) for row in p]).min(1) < 0.05).mean() < 0.06


def test_values_that_cannot_be_averaged_are_refused():
    with pytest.raises(DataError, match=r"hold nan, a query without relevant items\. Use leave_out_empty"):
        intervals({"recall@20": np.array([0.5, np.nan])})
    with pytest.raises(DataError, match="these hold no queries"):
        intervals({"recall@20": np.array([])})
    with pytest.raises(DataError, match="two or more queries, the same for both; got 3 and 2"):
        paired_test(np.zeros(3), np.zeros(2))
    with pytest.raises(DataError, match="these hold nan"):
        paired_test(np.array([0.5, np.nan]), np.zeros(2))
