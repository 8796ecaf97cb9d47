"""Popularity counts users, not rows; lately and by segment where asked to."""

import numpy as np
import pytest

from itemic.data import Dataset, Ids, Interactions, Query, Ragged, Table
from itemic.errors import DataError
from itemic.systems.baselines.popularity import Popularity, user_counts

DAY = 86_400_000


def shop(user, item, time=None, n_items=4, country=None) -> Dataset:
    n_users = max(user) + 1
    users = Ids(np.arange(n_users), "user")
    log = Interactions.of(user, item, n_users, n_items, time=None if time is None else [t * DAY for t in time])
    table = Table(users) if country is None else Table.of(users, {"country": country})
    return Dataset(Table.numbered(n_items), table, log, name="shop")


def anyone(n: int = 1, **fields) -> Query:
    return Query(n=n, **fields)


def test_items_rank_by_their_number_of_users_and_ties_by_code():
    data = shop(user=[0, 1, 2, 0, 1, 0, 1], item=[3, 3, 3, 2, 2, 1, 1])
    ranking = Popularity().fit(data).rank(anyone(), k=4)
    assert ranking.items.tolist() == [[3, 1, 2, 0]]
    assert ranking.scores.tolist() == [[3, 2, 2, 0]]


def test_a_user_who_repeats_counts_once():
    data = shop(user=[0, 0, 0, 1, 2], item=[0, 0, 0, 1, 1])
    assert Popularity().fit(data).rank(anyone(), k=2).items.tolist() == [[1, 0]]


def test_seen_items_are_left_out():
    data = shop(user=[0, 1, 2, 0], item=[3, 3, 3, 2])
    query = Query(history=Ragged.from_lists([[3], [2, 3]]))
    assert Popularity().fit(data).rank(query, k=2).items.tolist() == [[2, 0], [0, 1]]


def test_half_life_is_its_definition_written_as_a_loop():
    rng = np.random.default_rng(0)
    user, item, age = rng.integers(6, size=80), rng.integers(5, size=80), rng.uniform(0, 30, size=80)
    expected = [
        sum(
            0.5 ** (min(a for u, i, a in zip(user, item, age) if (u, i) == (who, what)) / 7)
            for who in range(6)
            if ((user == who) & (item == what)).any()
        )
        for what in range(5)
    ]
    np.testing.assert_allclose(user_counts(user, item, 5, age, half_life=7), expected)


def test_recent_items_overtake_old_ones_by_half_life_or_window():
    data = shop(user=[0, 1, 2, 3, 4], item=[0, 0, 0, 1, 1], time=[0, 0, 0, 100, 99])
    tops = {name: Popularity(**{name: 10}).fit(data).rank(anyone(), k=1) for name in ("half_life", "window")}
    assert Popularity().fit(data).rank(anyone(), k=1).items.tolist() == [[0]]
    assert {name: top.items.tolist() for name, top in tops.items()} == {"half_life": [[1]], "window": [[1]]}
    assert tops["window"].scores[0, 0] == 2
    assert tops["half_life"].scores[0, 0] == pytest.approx(1 + 0.5**0.1)


def test_recent_popularity_without_times_says_so():
    with pytest.raises(DataError, match="recent popularity needs times; shop has none. Drop half_life and window."):
        Popularity(window=7).fit(shop(user=[0], item=[1]))


def test_each_segment_has_its_own_order_and_the_unknown_get_everyones(tmp_path):
    data = shop(user=[0, 1, 2, 3, 4], item=[0, 0, 0, 1, 1], country=["de", "de", "de", "fr", None])
    fitted = Popularity(segment="country").fit(data)
    fitted.save(tmp_path / "model")
    for model in (fitted, Popularity.load(tmp_path / "model")):
        by_user = model.rank(Query(user=np.array([0, 3, 4, -1], np.int32)), k=1).items[:, 0]
        assert by_user.tolist() == [0, 1, 0, 0]
        said = anyone(3, context={"country": np.array(["fr", "de", "atlantis"])})
        assert model.rank(said, k=1).items[:, 0].tolist() == [1, 0, 0]
    assert fitted.rank(anyone(), k=1).scores.tolist() == [[3]]
    assert fitted.rank(anyone(context={"country": np.array(["fr"])}), k=1).scores.tolist() == [[1]]


def test_what_the_request_says_comes_before_what_is_known_of_the_user():
    data = shop(user=[0, 1], item=[0, 1], country=["de", "fr"])
    query = Query(user=np.array([0], np.int32), context={"country": np.array(["fr"])})
    assert Popularity(segment="country").fit(data).rank(query, k=1).items.tolist() == [[1]]


def test_an_unknown_segment_column_is_named():
    data = shop(user=[0], item=[0], country=["de"])
    with pytest.raises(DataError, match="users have no column 'county'. Did you mean 'country'?"):
        Popularity(segment="county").fit(data)
