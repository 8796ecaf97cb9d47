"""evaluate, end to end: by hand on three users, masks, ties, blocks, and what sampled candidates are made of."""

from dataclasses import replace
from math import log2
from typing import ClassVar

import numpy as np
import pytest

from itemic.data import Dataset, EvalSet, Query, Ragged, Ranking
from itemic.errors import ConfigError
from itemic.evaluation import evaluate, protocols
from itemic.evaluation.protocols import draw, label_of, under
from itemic.registry import system
from itemic.systems import base
from itemic.systems.base import ScoreRecommender, SystemConfig


class Config(SystemConfig):
    pass


@system("toy-table", family="toys", answers=["user"])
class TableOfScores(ScoreRecommender[Config]):
    """Scores each user's items as a table given beforehand says."""

    table: ClassVar[list[list[float]]] = []

    def solve(self, train):
        return {"scores": np.asarray(self.table, np.float32)}

    def scores(self, query):
        return self.weights["scores"][query.user]


TRAIN = [(0, 0), (0, 1), (1, 2), (2, 5), (3, 0), (3, 3), (3, 4)]
TEST = [(0, 2), (0, 3), (0, 4), (1, 0), (2, 1), (2, 4)]  # user 3 has nothing to be found
SCORES = [
    [0.9, 0.8, 0.7, 0.1, 0.5, 0.6],  # less 0 and 1: 2, 5, of relevant 2, 3, 4
    [0.5, 0.5, 0.5, 0.5, 0.5, 0.5],  # less 2, all equal: 0, 1, of relevant 0
    [0.1, 0.2, 0.9, 0.9, 0.3, 1.0],  # less 5: 2, 3, of relevant 1, 4
    [0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
]


def frame(pairs):
    return {"user": [u for u, _ in pairs], "item": [i for _, i in pairs]}


@pytest.fixture
def shop():
    return Dataset.from_frame(frame(TRAIN), test=frame(TEST), name="three")


def fitted(shop, table):
    model = TableOfScores()
    model.table = table
    return model.fit(shop.train)


@pytest.fixture
def random_case():
    """Fifty users, thirty items, scores with many ties."""
    rng = np.random.default_rng(0)
    had = [(u, i) for u in range(50) for i in rng.choice(30, 8, replace=False)]
    held = [pair for n, pair in enumerate(had) if n % 8 > 4]
    kept = [pair for n, pair in enumerate(had) if n % 8 <= 4]
    kept += [(49, i) for i in range(30) if not any(i == other for _, other in kept)]
    kept = sorted(set(kept) - set(held))
    data = Dataset.from_frame(frame(kept), test=frame(held))
    return data, fitted(data, rng.integers(0, 4, (50, data.n_items)).tolist())


def test_every_metric_is_what_three_users_give_by_hand(shop):
    metrics = ["recall@2", "precision@2", "ndcg@2", "map@2", "mrr@2", "hit@2", "recall_min@2", "ndcg_hits@2"]
    result = evaluate(fitted(shop, SCORES), shop.test, metrics)
    assert result.lists.tolist() == [[2, 5], [0, 1], [2, 3]]
    first = 1 / (1 + 1 / log2(3))  # one hit at the top where two places could hold one
    by_hand = [(1 / 3 + 1) / 3, (1 / 2 + 1 / 2) / 3, (first + 1) / 3, (1 / 2 + 1) / 3, 2 / 3, 2 / 3, (1 / 2 + 1) / 3]
    assert [result[name] for name in metrics] == pytest.approx([*by_hand, 2 / 3])


def test_users_with_nothing_to_find_are_left_out_and_counted(shop):
    result = evaluate(fitted(shop, SCORES), shop.test, "recall@2")
    assert (result.n_queries, result.n_skipped, shop.n_users) == (3, 1, 4)


def test_seen_items_are_masked_before_the_best_are_taken(shop):
    model, seen = fitted(shop, SCORES), replace(shop.test, query=replace(shop.test.query, repeats=True))
    assert evaluate(model, shop.test, "recall@2").lists[0].tolist() == [2, 5]
    assert evaluate(model, seen, "recall@2").lists[0].tolist() == [0, 1]
    assert evaluate(model, seen, "recall@2")["recall@2"] < evaluate(model, shop.test, "recall@2")["recall@2"]


def test_the_highest_possible_scores_of_seen_items_change_nothing(random_case):
    data, model = random_case
    before = evaluate(model, data.test, "ndcg@5")
    model.weights["scores"][data.train.interactions.user, data.train.interactions.item] = np.inf
    after = evaluate(model, data.test, "ndcg@5")
    assert (before.lists == after.lists).all()
    assert not any(set(row) & set(had) for row, had in zip(after.lists.tolist(), data.test.query.history.to_lists()))


def test_equal_scores_stand_in_the_order_of_their_codes(random_case):
    data, model = random_case
    lists = evaluate(model, data.test, "recall@10").lists
    scores = np.take_along_axis(model.weights["scores"][data.test.users], lists, axis=1)
    rising, falling = np.diff(lists, axis=1) > 0, np.diff(scores, axis=1) < 0
    assert (falling | rising).all()
    assert (np.diff(scores, axis=1) <= 0).all()
    assert (~falling).any()


@pytest.mark.parametrize("protocol", ["full", "sampled-uniform:5", "sampled-popularity:5"])
def test_results_do_not_depend_on_the_size_of_blocks(random_case, monkeypatch, protocol):
    data, model = random_case
    whole = evaluate(model, data.test, ["ndcg@5", "recall@10"], protocol=protocol)
    monkeypatch.setattr(base, "BLOCK_BYTES", 1)
    monkeypatch.setattr(protocols, "BLOCK", 1)
    blocks = evaluate(model, data.test, ["ndcg@5", "recall@10"], protocol=protocol)
    assert (whole.lists == blocks.lists).all()
    assert all((whole.values[name] == blocks.values[name]).all() for name in whole.values)


@pytest.mark.parametrize("protocol", ["sampled-uniform:5", "sampled-popularity:5"])
def test_sampled_candidates_are_what_is_relevant_and_that_many_items_never_seen(random_case, protocol):
    data, _ = random_case
    test = under(protocol, data.test, data.n_items)
    for had, relevant, candidates in zip(test.query.history, test.relevant, test.query.candidates):
        negatives = sorted(set(candidates.tolist()) - set(relevant.tolist()))
        assert len(candidates) == len(set(candidates.tolist())) == len(relevant) + 5
        assert not set(negatives) & set(had.tolist())


def test_negatives_are_fewer_where_fewer_are_left():
    taken = Ragged.from_lists([[0, 1, 2], []])
    assert draw(taken, np.ones(4), 3, seed=0)[0].tolist() == [3]
    assert len(draw(taken, np.ones(4), 9, seed=0)[1]) == 4


def test_items_nobody_has_are_never_drawn_by_popularity():
    drawn = draw(Ragged.empty(200), np.array([0.0, 3, 1, 0]), 2, seed=0)
    assert sorted(set(drawn.values.tolist())) == [1, 2]


def test_items_are_drawn_in_proportion_to_their_weights():
    weights = np.array([1.0, 2.0, 3.0, 4.0])
    first = np.bincount(draw(Ragged.empty(20_000), weights, 1, seed=0).values) / 20_000
    assert first == pytest.approx(weights / 10, abs=0.012)  # over three standard errors
    pairs = np.bincount(draw(Ragged.empty(20_000), weights, 2, seed=1).values) / 20_000
    # in one of two successive draws: first, or second after each of the others
    share = weights / 10
    second = [sum(share[i] * share[j] / (1 - share[i]) for i in range(4) if i != j) for j in range(4)]
    assert pairs == pytest.approx(share + second, abs=0.012)


def test_a_seed_fixes_what_is_drawn_and_popularity_draws_otherwise_than_uniform(random_case):
    data, _ = random_case
    drawn = {
        (p, seed): under(f"sampled-{p}:5", data.test, data.n_items, seed).query.candidates.values.tolist()
        for p in ("uniform", "popularity")
        for seed in (0, 1)
    }
    assert drawn["uniform", 0] == under("sampled-uniform:5", data.test, data.n_items).query.candidates.values.tolist()
    assert drawn["uniform", 0] != drawn["uniform", 1]
    assert drawn["uniform", 0] != drawn["popularity", 0]


def test_sampled_protocols_are_labelled_and_flatter(random_case):
    data, model = random_case
    full, sampled = (evaluate(model, data.test, "recall@5", protocol=p) for p in ("full", "sampled-uniform:5"))
    assert (full.protocol, sampled.protocol) == ("full ranking", "sampled candidates (5, uniform)")
    assert label_of("sampled-popularity:99") == "sampled candidates (99, popularity)"
    assert sampled["recall@5"] > full["recall@5"]


def test_given_candidates_are_ranked_and_nothing_else(shop):
    some = replace(shop.test.query, candidates=Ragged.from_lists([[5, 4], [3, 2, 1], [4]]))
    test = replace(shop.test, query=some)
    assert evaluate(fitted(shop, SCORES), test, "recall@2", protocol="candidates").lists.tolist() == [
        [5, 4],
        [1, 3],
        [4, -1],
    ]
    assert evaluate(fitted(shop, SCORES), test, "recall@2").lists.tolist() == [[2, 5], [0, 1], [2, 3]]


def test_held_out_items_are_ranked_among_themselves(shop):
    result = evaluate(fitted(shop, SCORES), shop.test, "recall@2", protocol="held-out")  # 0 to 4 are sought by somebody
    assert result.lists.tolist() == [[2, 4], [0, 1], [2, 3]]
    assert result.protocol == "held-out items only"


def test_warm_and_cold_items_are_sought_among_themselves_by_those_who_want_some(shop):
    unseen = np.array([False, False, True, False, True, True])
    test = replace(shop.test, unseen=unseen)
    model = fitted(shop, SCORES)
    wanted = [[item for item in row if unseen[item]] for row in test.relevant.to_lists()]
    cold, warm = (evaluate(model, test, ["recall@2", "ndcg@6"], protocol=protocol) for protocol in ("cold", "warm"))
    assert cold.n_queries == sum(map(bool, wanted))
    assert cold.n_skipped == shop.test.n_skipped + len(test) - cold.n_queries
    assert set(cold.lists[cold.lists >= 0].tolist()) <= {2, 4, 5}
    assert set(warm.lists[warm.lists >= 0].tolist()) <= {0, 1, 3}
    assert (cold.protocol, warm.protocol) == ("cold items only", "warm items only")
    by_hand = [np.isin(row, got[:2]).mean() for row, got in zip([row for row in wanted if row], cold.lists)]
    assert cold["recall@2"] == pytest.approx(np.mean(by_hand))
    with pytest.raises(
        ConfigError, match="protocol 'cold' needs to know what was trained on. Use data.test of a split"
    ):
        evaluate(model, replace(test, unseen=None), "recall@2", protocol="cold")


def test_grades_weigh_what_is_found(shop):
    graded = replace(shop.test, grades=np.array([3, 1, 1, 1, 1, 1], np.float32))
    by_hand = (3 / (3 + 1 / log2(3)) + 1) / 3
    assert evaluate(fitted(shop, SCORES), graded, "ndcg@2")["ndcg@2"] == pytest.approx(by_hand)


def test_wrong_names_are_refused_in_one_line(shop):
    model = fitted(shop, SCORES)
    with pytest.raises(
        ConfigError, match="there is no protocol 'ful'. Protocols: full, candidates, held-out, warm, cold, sampled"
    ):
        evaluate(model, shop.test, "recall@2", protocol="ful")
    with pytest.raises(ConfigError, match="there is no metric 'recal'. Did you mean 'recall'"):
        evaluate(model, shop.test, "recal@2")
    with pytest.raises(ConfigError, match="needs an EvalSet whose query has candidates"):
        evaluate(model, shop.test, "recall@2", protocol="candidates")


def test_a_metric_deeper_than_the_catalogue_counts_all_of_it(shop):
    deep = evaluate(fitted(shop, SCORES), shop.test, ["recall@6", "recall@20", "precision@20"])
    assert deep["recall@20"] == deep["recall@6"]
    assert deep["precision@20"] == pytest.approx(np.mean(deep.values["recall@6"] * shop.test.relevant.lengths) / 20)
    assert deep.lists.shape[1] == 20
    assert (deep.lists[:, 6:] == -1).all()


def test_a_set_without_histories_can_be_sampled_too(shop):
    test = EvalSet(Query(user=np.array([0, 1], np.int32)), Ragged.from_lists([[2], [0]]))
    assert under("sampled-uniform:3", test, 6).query.candidates.lengths.tolist() == [4, 4]
    assert evaluate(fitted(shop, SCORES), test, "recall@1", protocol="sampled-uniform:5")["recall@1"] == 0.5


def test_auc_over_the_catalogue_is_its_definition_written_as_a_loop(random_case):
    data, model = random_case
    test, table = data.test, np.asarray(model.weights["scores"])
    by_hand = []
    for row, user in enumerate(test.users):
        seen, good = set(test.query.history[row].tolist()), set(test.relevant[row].tolist())
        others = [i for i in range(data.n_items) if i not in seen | good]
        pairs = [
            (table[user, g] > table[user, o]) + (table[user, g] == table[user, o]) / 2 for g in good for o in others
        ]
        by_hand.append(np.mean(pairs) if pairs else np.nan)
    result = evaluate(model, test, ["auc", "recall@5"])
    np.testing.assert_allclose(result.values["auc"], by_hand)
    assert list(result.values) == ["auc", "recall@5"]


def test_auc_over_candidates_counts_these_alone(shop):
    candidates = Ragged.from_lists([[2, 5, 3], [0, 1], [1, 2, 3]])
    test = replace(shop.test, query=replace(shop.test.query, candidates=candidates))
    result = evaluate(fitted(shop, SCORES), test, "auc", protocol="candidates")
    assert result.values["auc"].tolist() == [0.5, 0.5, 0.0]


def test_auc_of_lists_is_refused(shop):
    class Lists:
        def rank(self, query, k=10):
            return Ranking(np.zeros((len(query), k), np.int32), np.zeros((len(query), k), np.float32))

    with pytest.raises(ConfigError, match="'auc' needs the scores of all candidates; these are lists. Leave it out."):
        evaluate(Lists(), shop.test, "auc")
