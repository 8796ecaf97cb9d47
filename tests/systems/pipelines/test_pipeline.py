"""A pipeline: each stage changes the lists as it says, and says when another had to step in."""

import time

import numpy as np
import pytest

from itemic.data import Dataset, Query, Ragged
from itemic.data.simulated import planted_groups
from itemic.errors import ConfigError, DataError, QueryError
from itemic.evaluation import evaluate
from itemic.model import load
from itemic.registry import find
from itemic.systems.pipelines.config import Config
from itemic.systems.pipelines.pipeline import Pipeline

PEOPLE = Ragged.from_lists([[0, 4, 8], [1, 5], []])
ASKED = Query(history=PEOPLE)
DAY = 86_400_000


@pytest.fixture(scope="module")
def planted():
    return planted_groups(n_users=60, n_items=40, n_groups=4, loyalty=0.8, seed=0)


@pytest.fixture(scope="module")
def models(planted):
    train, _ = planted
    fitted = {name: find(name)().fit(train) for name in ("itemknn", "popularity", "contentknn")}
    fitted["bpr"] = find("bpr")(dim=8, training={"epochs": 2}).fit(train)
    return fitted


def pipeline(models, **config):
    made = Config.model_validate(config)
    return Pipeline.over(made, **{role: models[role] for role in made.roles})


def options(**sources):
    return {"sources": {name: {} if source is None else source for name, source in sources.items()}, "fallback": []}


def test_a_single_source_answers_as_its_model_does(models):
    one = pipeline(models, **options(itemknn=None))
    ours, theirs = one.rank(ASKED, 7), models["itemknn"].rank(ASKED, 7)
    np.testing.assert_array_equal(ours.items, theirs.items)
    np.testing.assert_array_equal(ours.scores, theirs.scores)
    assert set(ours.columns["source"].ravel()) == {"itemknn"}


def test_lists_of_several_sources_are_joined_by_places(models):
    both = pipeline(models, **options(itemknn={"n": 3}, popularity={"n": 3, "weight": 0.5})).rank(ASKED, 6)
    lists = {name: models[name].rank(ASKED, 3).items for name in ("itemknn", "popularity")}
    for row in range(3):
        worth: dict = {}
        for name, weight in (("itemknn", 1), ("popularity", 0.5)):
            for place, item in enumerate(lists[name][row].tolist(), start=1):
                worth[item] = worth.get(item, 0) + weight / (60 + place)
        expected = sorted(worth, key=lambda item: (-worth[item], item))
        assert both.items[row][: len(expected)].tolist() == expected
        firsts = lists["itemknn"][row].tolist()
        assert [name == "itemknn" for name in both.columns["source"][row][: len(expected)]] == [
            i in firsts for i in expected
        ]


def test_a_ranker_orders_what_the_sources_name(models):
    made = pipeline(models, **options(popularity={"n": 12}), ranker="itemknn").rank(ASKED, 12)
    pool = models["popularity"].rank(ASKED, 12).items
    scores = models["itemknn"].score(Query(history=PEOPLE, candidates=Ragged.from_lists(pool.tolist())))
    for row in range(2):
        order = np.lexsort((pool[row], -scores[row]))
        assert made.items[row].tolist() == pool[row][order].tolist()
        np.testing.assert_allclose(made.scores[row], scores[row][order])


def test_filters_leave_out_what_is_closed_blocked_seen_or_not_fitting(models):
    made = pipeline(models, **options(itemknn=None), filters={"where": '"group" <> 3', "blocked": ["2"]})
    made.close_items([0, 6])
    made.open_items([0])
    shown = made.rank(Query(history=Ragged.from_lists([[1]])), 40).items[0]
    expected = {item for item in range(40) if item % 4 != 3} - {1, 2, 6}
    assert set(shown[shown >= 0].tolist()) == expected
    again = pipeline(models, **options(itemknn=None), filters={"seen": False}).rank(ASKED, 40).items[0]
    assert {0, 4, 8} <= set(again.tolist())
    asked = Query(history=PEOPLE, candidates=Ragged.from_lists([[2, 10, 0], [6, 3], [2]]))
    assert [set(row[row >= 0].tolist()) for row in made.rank(asked, 3).items] == [{10}, set(), set()]


def test_what_is_closed_to_many_is_marked_and_to_few_is_left_out_alike(models, monkeypatch):
    made = pipeline(models, **options(bpr=None))
    made.close_items([2, 3, 5])
    few = made.rank(ASKED, 10).items
    monkeypatch.setattr("itemic.systems.pipelines.pipeline.FEW", 0)
    np.testing.assert_array_equal(made.rank(ASKED, 10).items, few)
    assert not {2, 3, 5} & set(few.ravel().tolist())


def test_caps_hold_and_pins_come_first(models):
    diversity = {"caps": {"group": 2}, "pin": ["7", "4"]}
    made = pipeline(models, **options(popularity=None), diversity={"caps": {"group": 2}}).rank(ASKED, 10).items
    for row in made:
        assert (np.bincount(row[row >= 0] % 4) == 2).all()
        assert (row >= 0).sum() == 8
    pinned = pipeline(models, **options(popularity=None), diversity=diversity).rank(ASKED, 6)
    assert pinned.items[:, 0].tolist() == [7, 7, 7]
    assert pinned.items[1:, 1].tolist() == [4, 4]  # the first has seen it
    assert 4 not in pinned.items[0]
    assert pinned.columns["source"][:, 0].tolist() == ["pin"] * 3
    assert all(len(set(row.tolist())) == 6 for row in pinned.items)


def test_variety_makes_lists_less_alike(models):
    unit = models["bpr"].item_vectors() / np.linalg.norm(models["bpr"].item_vectors(), axis=1, keepdims=True)

    def likeness(mmr):
        items = pipeline(models, **options(bpr={"n": 30}), diversity={"mmr": mmr}).rank(ASKED, 8).items
        return np.mean([unit[row] @ unit[row].T for row in items])

    assert likeness(0.8) < likeness(0.0) - 0.1


def test_a_boost_moves_items_up(models):
    plain = pipeline(models, **options(popularity={"n": 40})).rank(ASKED, 10).items
    boosted = pipeline(models, **options(popularity={"n": 40}), diversity={"boost": {'"group" = 2': 3.0}})
    assert (boosted.rank(ASKED, 10).items % 4 == 2).sum() > (plain % 4 == 2).sum()


def test_a_fallback_speaks_where_others_have_nothing_and_says_so(models):
    sources = {"itemknn": {}, "trending": {"kind": "trending"}}
    made = pipeline(models, sources=sources, fallback=["trending"]).rank(ASKED, 5)
    assert made.columns["source"].tolist() == [["itemknn"] * 5] * 2 + [["trending"] * 5]
    assert made.reasons == ("trending spoke for others that had too little",)
    assert pipeline(models, sources=sources, fallback=["trending"]).rank(ASKED.take(np.array([0])), 5).reasons == ()


@pytest.mark.parametrize("system", ["ease", "itemknn", "contentknn"])
def test_items_for_which_nothing_speaks_leave_their_places_to_a_fallback(system):
    logs = {"user": ["ann", "ann", "bob", "bob", "eve"], "item": ["a", "b", "a", "b", "c"]}
    words = {"item": ["z", "c", "a", "b", "y"], "title": ["zebra", "corn", "red cup", "red pot", "yew"]}
    model = find(system)().fit(Dataset.from_frame(logs, items=words))
    code = {name: n for n, name in enumerate(model.catalogue.items.ids.array.to_pylist())}
    sources = {system: {}, "hand": {"kind": "list", "items": ["c"]}}
    made = pipeline({system: model}, sources=sources, fallback=["hand"])
    found = made.rank(Query(history=Ragged.from_lists([[code["a"]], [code["z"]]])), 2)
    assert found.items.tolist() == [[code["b"], code["c"]], [code["c"], -1]]
    assert found.columns["source"].tolist() == [[system, "hand"], ["hand", ""]]
    like = made.similar([code["a"], code["z"]], 2)
    assert like.items.tolist() == [[code["b"], -1], [-1, -1]]
    assert like.reasons == (f"{system} knows of nothing like 1 of 2 items",)


def test_a_list_made_by_hand_fills_up_and_repeats_nothing(models):
    sources = {"itemknn": {}, "hand": {"kind": "list", "items": ["0", "9", "90", "5"][:2]}}
    made = pipeline(models, sources=sources | {"hand": {"kind": "list", "items": ["0", "9", "5"]}}, fallback=["hand"])
    assert made.rank(Query(history=Ragged.from_lists([[9], []])), 3).items[1].tolist() == [0, 9, 5]


def test_a_source_that_is_late_is_not_waited_for(models, monkeypatch):
    class Slow(find("itemknn")):
        def rank(self, query, k=10):
            time.sleep(0.3)
            return super().rank(query, k)

    slow = Slow(models["itemknn"].config)
    slow.__dict__.update(models["itemknn"].__dict__)
    sources = {"slow": {"budget": 20}, "trending": {"kind": "trending"}}
    made = Pipeline.over(Config.model_validate({"sources": sources, "fallback": ["trending"]}), slow=slow)
    start = time.perf_counter()
    first, second = made.rank(ASKED, 5), made.rank(ASKED, 5)
    assert time.perf_counter() - start < 0.25
    assert first.reasons[0] == "slow took longer than its 20 ms"
    assert second.reasons[0] == "slow is still late with an earlier request"
    assert set(first.columns["source"].ravel()) == {"trending"}
    time.sleep(0.35)
    patient = Config.model_validate({"sources": {"slow": {"budget": 5000}}, "fallback": []})
    assert Pipeline.over(patient, slow=slow).rank(ASKED, 5).reasons == ()


def test_a_late_ranker_leaves_the_order_to_the_places(models, monkeypatch):
    made = pipeline(models, **options(popularity={"n": 9}), ranker="itemknn", budget=10)
    monkeypatch.setattr(made, "_ranked", lambda query, pool: time.sleep(0.2))
    late = made.rank(ASKED, 9)
    assert late.reasons == ("ranker took longer than its 10 ms",)
    np.testing.assert_array_equal(late.items, models["popularity"].rank(ASKED, 9).items)


def test_exploring_draws_lists_and_states_their_chance(models):
    drawing = {**options(popularity={"n": 20}), "temperature": 0.5, "seed": 3}
    one, two = (pipeline(models, **drawing).rank(ASKED, 5) for _ in range(2))
    np.testing.assert_array_equal(one.items, two.items)
    assert ((one.columns["propensity"] > 0) & (one.columns["propensity"] < 1)).all()
    third = pipeline(models, **drawing | {"seed": 4}).rank(ASKED, 5)
    assert (third.items != one.items).any()
    assert "propensity" not in pipeline(models, **options(popularity=None)).rank(ASKED, 5).columns
    with pytest.raises(ValueError, match="what is drawn cannot be reordered or pinned"):
        pipeline(models, **drawing, diversity={"mmr": 0.5})


def test_what_many_took_of_late_trends(planted):
    start = 20_000 * DAY
    times = [start] * 3 + [start + 30 * DAY] * 2
    rows = {"user": [1, 2, 3, 4, 5], "item": ["old", "old", "old", "new", "new"], "time": times}
    data = Dataset.from_frame(rows)
    made = Pipeline(sources={"trending": {"kind": "trending", "half_life": 5}}, fallback=[]).fit(data)
    nobody = Query(history=Ragged.from_lists([[]]))
    old, new = data.items.ids.codes(["old", "new"])
    ranking = made.rank(nobody, 2)
    assert ranking.items[0].tolist() == [new, old]
    np.testing.assert_allclose(ranking.scores[0], [2, 3 * 0.5**6])
    made.took([old], [start + 35 * DAY])
    np.testing.assert_allclose(made.rank(nobody, 2).scores[0], [2 + 3 * 0.5**6, 2])
    for item, later in ((new, 59), (old, 200), (new, 330), (old, 1500)):  # where powers of 2 would not fit
        made.took([item], [start + 30 * DAY + 5 * later * DAY])
        ranking = made.rank(nobody, 2)
        assert ranking.items[0, 0] == item
        assert np.isfinite(ranking.scores).all()
    assert ranking.scores[0].tolist() == [1, 0]


def test_of_many_items_those_that_trend_are_put_in_order_once_a_second(planted, monkeypatch):
    data = Dataset.from_frame({"user": [1, 2, 3], "item": ["a", "a", "b"], "time": [0, 0, 0]})
    made = Pipeline(sources={"trending": {"kind": "trending"}}, fallback=[]).fit(data)
    nobody, (a, b), clock = Query(history=Ragged.from_lists([[]])), data.items.ids.codes(["a", "b"]), [100.0]
    monkeypatch.setattr("itemic.systems.pipelines.pipeline.MANY", 1)
    monkeypatch.setattr("itemic.systems.pipelines.pipeline.time.monotonic", lambda: clock[0])
    listed = []
    for moment in (100.0, 100.5, 101.5, 101.6):
        clock[0] = moment
        listed.append(made.rank(nobody, 2).items[0].tolist())
        made.took([b, b], [0, 0])
    assert listed == [[a, b], [a, b], [b, a], [b, a]]


def test_new_items_are_ranked_at_once_by_what_can(planted, models):
    train, _ = planted
    made = Pipeline(sources={"itemknn": {}, "contentknn": {}, "fresh": {"kind": "recent", "n": 1}}, fallback=[]).fit(
        train
    )
    new = {"item": [100, 101], "title": ["item 100 of group 2", "item 101 of group 3"], "group": [2, 3]}
    made.add_items(new)
    assert made.catalogue.n_items == 42
    ranking = made.rank(Query(history=Ragged.from_lists([[2, 40]])), 42)
    assert ranking.items[0][ranking.items[0] >= 0].size == 40
    assert ranking.columns["source"][0][ranking.items[0] == 41].tolist() == ["contentknn"]
    assert made.parts["itemknn"].catalogue.n_items == 40
    made.close_items([41])
    assert 41 not in made.rank(Query(history=Ragged.from_lists([[2]])), 42).items


def test_an_explanation_shares_the_score_among_the_history(models):
    made = pipeline(models, **options(itemknn=None))
    history = np.array([0, 4, 1], np.int32)
    shares = made.shares(history, 8)
    assert sum(share for _, share in shares) == pytest.approx(1)
    candidates = Ragged.from_lists([[8]])

    def score(kept):
        return models["itemknn"].score(Query(history=Ragged.from_lists([kept]), candidates=candidates))[0][0]

    lost = {item: score([0, 4, 1]) - score([i for i in (0, 4, 1) if i != item]) for item in (0, 4, 1)}
    best = max(lost, key=lambda item: lost[item])
    assert shares[0][0] == best
    assert shares[0][1] == pytest.approx(lost[best] / sum(max(v, 0) for v in lost.values()), rel=1e-4)


def test_likeness_leaves_out_what_is_closed(models):
    made = pipeline(models, **options(bpr=None))
    first = made.similar([0], 5).items[0]
    made.close_items([first[1]])
    assert made.similar([0], 4).items[0].tolist() == [item for item in first.tolist() if item != first[1]]


def test_it_is_fitted_saved_and_compared_as_any_system(planted, models, tmp_path):
    train, test = planted
    sources = {"itemknn": {}, "popularity": {"n": 5}, "new": {"kind": "recent", "n": 3}}
    made = Pipeline(sources=sources, fallback=["new"], diversity={"caps": {"group": 4}}).fit(train)
    made.save(tmp_path / "p")
    again = load(tmp_path / "p")
    np.testing.assert_array_equal(again.rank(test.query, 8).items, made.rank(test.query, 8).items)
    assert again.entry == made.entry
    assert (
        evaluate(made, test, "recall@10")["recall@10"] > evaluate(models["popularity"], test, "recall@10")["recall@10"]
    )


def test_mistakes_are_told_in_one_line(planted, models):
    with pytest.raises(ConfigError, match="pipeline has no option 'fallbak'. Did you mean 'fallback'"):
        Pipeline(fallbak=[])
    with pytest.raises(DataError, match="items have no column 'grp'. Did you mean 'group'"):
        pipeline(models, **options(itemknn=None), diversity={"caps": {"grp": 1}})
    with pytest.raises(QueryError, match="1 of 1 items are not in the catalogue: 'x'. Take them out of diversity.pin."):
        pipeline(models, **options(itemknn=None), diversity={"pin": ["x"]})
    with pytest.raises(ConfigError, match="diversity.mmr needs a part with vectors of items, such as bpr. Name"):
        pipeline(models, **options(itemknn=None), diversity={"mmr": 0.5})
    with pytest.raises(QueryError, match="this pipeline has no model: it can rank, but not score, explain"):
        Pipeline(sources={"new": {"kind": "recent"}}, fallback=[]).fit(planted[0]).similar([0])
    for wrong, told in {
        "half_life is an option of sources of the kind 'trending', not 'model'": {
            "sources": {"ease": {"half_life": 3}}
        },
        "a list needs items": {"sources": {"hand": {"kind": "list"}}},
        "the fallback 'x' is no source; sources: ease": {"sources": {"ease": {}}, "fallback": ["x"]},
        "'rank' cannot name a part; take another name": {"sources": {"rank": {}}, "fallback": []},
    }.items():
        with pytest.raises(ConfigError, match=wrong):
            Pipeline(**told)
    pair = Config.model_validate(options(itemknn=None, popularity=None))
    other = find("itemknn")().fit(planted_groups(20, 30, 2)[0])
    with pytest.raises(DataError, match="popularity and itemknn do not have the same items in the same order. Fit all"):
        Pipeline.over(pair, itemknn=other, popularity=models["popularity"])
