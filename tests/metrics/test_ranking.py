"""Ranking metrics against ir-measures (pytrec_eval), plain loops, worked examples and their properties."""

import math

import ir_measures
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ir_measures import AP, RR, P, R, Rprec, Success, nDCG

from itemic.data.ragged import Ragged
from itemic.errors import ConfigError, DataError
from itemic.metrics import (
    METRICS,
    auc,
    average_precision,
    evaluate_lists,
    hit,
    hits,
    leave_out_empty,
    metric,
    ndcg,
    ndcg_hits,
    precision,
    r_precision,
    recall,
    recall_min,
    reciprocal_rank,
)

N_ITEMS = 12


def random_case(seed, n_queries=60, n_items=50, depth=20):
    """Full-depth lists, one to 30 relevant items with grades 0 to 3."""
    rng = np.random.default_rng(seed)
    ranked = np.argsort(rng.random((n_queries, n_items)), axis=1)[:, :depth].astype(np.int32)
    rows = [rng.choice(n_items, size=rng.integers(1, 31), replace=False) for _ in range(n_queries)]
    relevant = Ragged.from_lists(rows)
    return ranked, relevant, rng.integers(0, 4, len(relevant.values)).astype(np.float32)


def peer(ranked, relevant, grades, measure):
    """ir-measures' value of each query, of scores that fall with our places."""
    rows = zip(relevant.row_of_value.tolist(), relevant.values.tolist(), grades.tolist())
    qrels = [ir_measures.Qrel(str(q), str(item), int(grade)) for q, item, grade in rows]
    run = [
        ir_measures.ScoredDoc(str(q), str(item), -float(place))
        for q, row in enumerate(ranked.tolist())
        for place, item in enumerate(row)
    ]
    values = {int(m.query_id): m.value for m in ir_measures.iter_calc([measure], qrels, run)}
    return np.array([values[q] for q in range(len(ranked))])


@pytest.mark.parametrize("k", [1, 5, 10, 20])
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(recall, R), (precision, P), (ndcg, nDCG), (reciprocal_rank, RR), (hit, Success)],
    ids=lambda f: getattr(f, "__name__", ""),
)
def test_binary_metrics_agree_with_ir_measures(ours, theirs, k):
    ranked, relevant, grades = random_case(seed=k)
    expected = peer(ranked, relevant, np.ones_like(grades), theirs @ k)
    np.testing.assert_allclose(ours(ranked, relevant, k), expected, atol=1e-9)


def test_r_precision_agrees_with_ir_measures():
    ranked, relevant, grades = random_case(seed=3)
    np.testing.assert_allclose(r_precision(ranked, relevant), peer(ranked, relevant, np.ones_like(grades), Rprec))


@pytest.mark.parametrize("k", [1, 5, 20])
def test_average_precision_is_that_of_ir_measures_over_the_smaller_denominator(k):
    ranked, relevant, grades = random_case(seed=4)
    rescale = relevant.lengths / np.minimum(k, relevant.lengths)  # trec_eval divides by all relevant items
    expected = peer(ranked, relevant, np.ones_like(grades), AP @ k) * rescale
    np.testing.assert_allclose(average_precision(ranked, relevant, k), expected, atol=1e-9)


@pytest.mark.parametrize("k", [1, 5, 20])
def test_graded_ndcg_agrees_with_ir_measures_and_items_graded_zero_are_not_relevant(k):
    ranked, relevant, grades = random_case(seed=5)
    some_relevant = np.bincount(relevant.row_of_value, grades) > 0
    linear, steep = (ndcg(ranked, relevant, k, grades=grades, gain=gain) for gain in ("linear", "exp2"))
    np.testing.assert_allclose(linear[some_relevant], peer(ranked, relevant, grades, nDCG @ k)[some_relevant])
    exp2 = peer(ranked, relevant, 2**grades - 1, nDCG @ k)
    np.testing.assert_allclose(steep[some_relevant], exp2[some_relevant], atol=1e-9)
    assert (np.isnan(linear) == ~some_relevant).all()

    by_hits = recall(hits(ranked, relevant, grades), k=k)
    expected = peer(ranked, relevant, grades, R @ k)
    np.testing.assert_allclose(by_hits[some_relevant], expected[some_relevant], atol=1e-9)


def test_three_users_worked_by_hand():
    """|relevant| of 5 > k = 3, of 2 < k, and of 1 that is not found; places 1, 2, 3 weigh 1, 1/log2(3), 1/2."""
    ranked = np.array([[4, 9, 7, 0], [8, 3, 6, 1], [1, 2, 3, 4]], dtype=np.int32)
    relevant = Ragged.from_lists([[7, 0, 4, 5, 6], [1, 3], [9]])
    b = 1 / math.log2(3)
    worked = {
        recall: [2 / 5, 1 / 2, 0],
        recall_min: [2 / 3, 1 / 2, 0],
        precision: [2 / 3, 1 / 3, 0],
        hit: [1, 1, 0],
        reciprocal_rank: [1, 1 / 2, 0],
        average_precision: [(1 + 2 / 3) / 3, (1 / 2) / 2, 0],
        ndcg: [(1 + 1 / 2) / (1 + b + 1 / 2), b / (1 + b), 0],
        # NGCF's best list orders the list's own hits, also those below k: three and two of them here.
        ndcg_hits: [(1 + 1 / 2) / (1 + b + 1 / 2), b / (1 + b), 0],
    }
    for formula, expected in worked.items():
        assert formula(ranked, relevant, 3).tolist() == pytest.approx(expected), formula.__name__
    assert ndcg_hits(ranked[:, :3], relevant, 3).tolist() == pytest.approx([1.5 / (1 + b), b, 0])
    assert r_precision(ranked, relevant).tolist() == pytest.approx([3 / 5, 1 / 2, 0])  # four places for five items


def loop(name, row, relevant, k):
    """The definition of each metric for one query, written as a loop over the list."""
    seen, found = set(), []
    for item in (row + [-1] * k)[: max(k, len(row))]:
        found.append(item in relevant and item not in seen)
        seen.add(item)
    cut, n = found[:k], len(relevant)
    weights = [1 / math.log2(place + 2) for place in range(max(k, len(found)))]
    dcg = sum(w for w, f in zip(weights, cut) if f)
    own = sum(weights[: min(k, sum(found))])
    match name:
        case "recall":
            return sum(cut) / n
        case "recall_min":
            return sum(cut) / min(k, n)
        case "precision":
            return sum(cut) / k
        case "hit":
            return float(any(cut))
        case "mrr":
            return next((1 / (place + 1) for place, f in enumerate(cut) if f), 0.0)
        case "map":
            return sum(sum(cut[: i + 1]) / (i + 1) for i in range(k) if cut[i]) / min(k, n)
        case "ndcg" | "ndcg_exp2":  # with grades of 1 both gains are 1
            return dcg / sum(weights[: min(k, n)])
        case "ndcg_hits":
            return dcg / own if own else 0.0


lists = st.lists(st.lists(st.integers(-1, N_ITEMS - 1), min_size=5, max_size=5), min_size=1, max_size=6)
"""Lists with repeated items and empty places, also before full ones."""


def truth_for(data, rows):
    sets = st.sets(st.integers(0, N_ITEMS - 1), min_size=1)
    return [sorted(row) for row in data.draw(st.lists(sets, min_size=len(rows), max_size=len(rows)))]


@given(st.data(), lists, st.integers(1, 8))
def test_every_metric_is_its_definition_for_repeats_empty_places_and_k_beyond_the_list(data, rows, k):
    truth = truth_for(data, rows)
    h = hits(np.array(rows, dtype=np.int32), Ragged.from_lists(truth))
    for name, formula in METRICS.items():
        expected = [loop(name, row, wanted, k) for row, wanted in zip(rows, truth, strict=True)]
        np.testing.assert_allclose(formula(h, k=k), expected, atol=1e-12, err_msg=name)


@given(st.data(), lists, st.integers(1, 5))
def test_a_batch_equals_its_queries_one_by_one(data, rows, k):
    ranked, relevant = np.array(rows, dtype=np.int32), Ragged.from_lists(truth_for(data, rows))
    for name in [*(f"{word}@{k}" for word in METRICS), "r_precision"]:
        single = [metric(name)(ranked[[q]], relevant.take([q])).item() for q in range(len(ranked))]
        np.testing.assert_allclose(metric(name)(ranked, relevant), single, rtol=1e-12, err_msg=name)


@given(st.lists(st.permutations(range(8)), min_size=1, max_size=5), st.sets(st.integers(0, 7), min_size=1))
def test_recall_never_falls_as_k_grows_and_ends_at_one(lists, relevant):
    ranked, truth = np.array(lists, dtype=np.int32), Ragged.from_lists([sorted(relevant)] * len(lists))
    by_k = np.stack([recall(ranked, truth, k) for k in range(1, 9)])
    assert (np.diff(by_k, axis=0) >= 0).all()
    assert (by_k[-1] == 1).all()


@given(st.permutations(range(8)), st.dictionaries(st.integers(0, 7), st.integers(1, 4), min_size=1), st.integers(1, 10))
def test_ndcg_lies_between_zero_and_one_below_its_inflated_form(order, grades, k):
    ranked, truth = np.array([order], dtype=np.int32), Ragged.from_lists([list(grades)])
    for gain in ("linear", "exp2"):
        value = ndcg(ranked, truth, k, grades=np.array(list(grades.values()), float), gain=gain).item()
        assert 0 <= value <= 1 + 1e-12
    assert ndcg(ranked[:, :5], truth, k).item() <= ndcg_hits(ranked[:, :5], truth, k).item() + 1e-12 <= 1 + 2e-12


@given(st.dictionaries(st.integers(0, 7), st.integers(1, 4), min_size=1), st.integers(1, 10))
def test_the_perfect_list_scores_one(grades, k):
    best_first = sorted(grades, key=lambda item: -grades[item])
    ranked = np.array([best_first + [item for item in range(8) if item not in grades]], dtype=np.int32)
    h = hits(ranked, Ragged.from_lists([list(grades)]), np.array(list(grades.values()), float))
    for word in ("recall_min", "ndcg", "ndcg_exp2", "ndcg_hits", "map", "mrr", "hit"):
        assert METRICS[word](h, k=k).item() == pytest.approx(1), word
    assert r_precision(h).item() == 1


def test_a_relevant_item_named_twice_counts_once_with_its_first_grade():
    h = hits(np.array([[3, 1]]), Ragged.from_lists([[3, 3]]), np.array([2.0, 1.0]))
    assert h.n_relevant.tolist() == [1]
    assert h.grade.tolist() == [[2, 0]]


def test_ties_broken_to_the_lower_code_give_the_values_of_the_sorted_scores():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 3, (30, N_ITEMS))
    ranked = np.argsort(-scores, axis=1, kind="stable")[:, :5].astype(np.int32)
    truth = [sorted(rng.choice(N_ITEMS, 4, replace=False).tolist()) for _ in scores]
    by_hand = [sorted(range(N_ITEMS), key=lambda item, row=row: (-row[item], item))[:5] for row in scores]
    expected = [loop("ndcg", row, wanted, 5) for row, wanted in zip(by_hand, truth)]
    np.testing.assert_allclose(ndcg(ranked, Ragged.from_lists(truth), 5), expected)


@pytest.mark.parametrize("name", [*(f"{word}@3" for word in METRICS), "r_precision"])
def test_a_query_without_relevant_items_is_nan_left_out_and_counted(name):
    ranked, relevant = np.array([[0, 1, 2], [0, 1, 2]]), Ragged.from_lists([[1], []])
    values = evaluate_lists(ranked, relevant, metrics=[name, "hit@3"])
    assert np.isnan(values[name]).tolist() == [False, True]
    kept, n_empty = leave_out_empty(values)
    assert n_empty == 1
    assert kept["hit@3"].tolist() == [1]


def test_the_largest_item_codes_match_themselves_only():
    top = np.iinfo(np.int32).max
    ranked = np.array([[top, -1], [0, top]], dtype=np.int32)
    assert hits(ranked, Ragged.from_lists([[0], [top]])).grade.tolist() == [[0, 0], [0, 1]]


def test_no_queries_give_no_values():
    assert ndcg(np.empty((0, 5), np.int32), Ragged.empty(0), 5).shape == (0,)


def test_hits_are_made_once_and_give_what_the_lists_give():
    ranked, relevant, grades = random_case(seed=6)
    shared = evaluate_lists(ranked, relevant, metrics=["ndcg@10", "recall@5", "r_precision"], grades=grades)
    keep = grades > 0
    np.testing.assert_array_equal(shared["ndcg@10"], ndcg(ranked, relevant, 10, grades=grades))
    np.testing.assert_array_equal(shared["recall@5"], recall(ranked, relevant.keep(keep), 5))
    np.testing.assert_array_equal(shared["r_precision"], r_precision(ranked, relevant.keep(keep)))


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=20), st.integers(0, 20))
def test_auc_is_the_share_of_pairs_in_the_right_order(candidates, cut):
    scores, labels = (np.array(column) for column in zip(*candidates, strict=True))
    cut = min(cut, len(scores))
    expected = []
    for part in (slice(0, cut), slice(cut, None)):
        good, bad = scores[part][labels[part]], scores[part][~labels[part]]
        wins = [(g > b) + (g == b) / 2 for g in good for b in bad]
        expected.append(np.mean(wins) if wins else np.nan)
    rows = Ragged.from_lengths(scores.astype(float), np.array([cut, len(scores) - cut]))
    np.testing.assert_allclose(auc(rows, labels), expected)


def test_names_are_read_as_people_write_them():
    ranked, relevant, _ = random_case(seed=7)
    assert (metric("ndcg@10")(ranked, relevant) == ndcg(ranked, relevant, 10)).all()
    assert (metric("map@5")(ranked, relevant) == average_precision(ranked, relevant, 5)).all()
    assert metric("recall@20").k == 20


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ndgc@10", r"there is no metric 'ndgc'. Did you mean 'ndcg'\? Metrics: recall@k, .*, r_precision\."),
        ("NDCG@10", r"there is no metric 'NDCG'. Did you mean 'ndcg'\?"),
        ("recall", r"'recall' needs a depth of 1 or more, as in 'recall@20'\."),
        ("recall@0", r"'recall@0' needs a depth of 1 or more"),
        ("recall@ten", r"'recall@ten' needs a depth"),
        ("r_precision@5", r"'r_precision@5': r_precision takes no depth"),
        ("recall@9", r"'recall@9' needs lists of 9 places; these have 3\. Rank deeper\."),
    ],
)
def test_a_metric_that_cannot_be_computed_is_refused_by_name(name, message):
    with pytest.raises(ConfigError, match=message):
        evaluate_lists(np.array([[0, 1, 2]]), Ragged.from_lists([[1]]), metrics=[name])


def test_lists_that_do_not_fit_the_relevant_items_are_refused():
    ranked, relevant = np.array([[0, 1, 2]]), Ragged.from_lists([[1, 2]])
    with pytest.raises(DataError, match="1 lists cannot be compared with 0 rows of relevant items"):
        hits(ranked, Ragged.empty(0))
    with pytest.raises(DataError, match="3 grades for 2 relevant items: give one for each"):
        hits(ranked, relevant, np.ones(3))
    with pytest.raises(DataError, match=r"include -1, which is no item\. Leave items without a code out"):
        hits(ranked, Ragged.from_lists([[1, -1]]))
    with pytest.raises(DataError, match="1 labels for 2 scores: give one for each"):
        auc(relevant, np.array([True]))
    with pytest.raises(ConfigError, match="k must be at least 1, not 0"):
        recall(ranked, relevant, 0)
    with pytest.raises(ConfigError, match=r"there is no gain 'exp'. Did you mean 'exp2'\? Gains: linear, exp2"):
        ndcg(ranked, relevant, 3, gain="exp")
    with pytest.raises(ValueError, match="hits already hold the relevant items"):
        recall(hits(ranked, relevant), relevant, 3)
