import hashlib
import itertools
import sys
import tracemalloc
from collections import Counter
from time import process_time

import numpy as np
import pytest

from itemic.data import Dataset
from itemic.data.simulated import shop
from itemic.data.simulated.shop import (
    DAY_MS,
    DAYS,
    KINDS,
    SHELVES,
    START,
    Catalogue,
    Users,
    draw_catalogue,
    draw_demand,
    draw_log,
    draw_users,
)
from itemic.errors import DataError

SIZE = (3000, 2000, 120_000)
OPENED = START.astype("datetime64[ms]").astype(np.int64)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.fixture(scope="module")
def data() -> Dataset:
    return shop(*SIZE, seed=0)


@pytest.fixture(scope="module")
def truth() -> tuple[Catalogue, Users]:
    """What was planted: the shop draws its catalogue first, then its users."""
    rng = np.random.default_rng(0)
    return draw_catalogue(SIZE[1], rng), draw_users(SIZE[0], SIZE[1], SIZE[2], rng)


def digests(data: Dataset) -> dict[str, str]:
    tables = {"items": data.items.frame, "users": data.users.frame, **data.extras}
    texts = {
        f"{table}.{name}": str(frame[name].to_pylist())
        for table, frame in tables.items()
        for name in frame.column_names
    }
    arrays = {name: column.tobytes() for name, column in data.interactions.columns.items()}
    raw = arrays | {name: text.encode() for name, text in texts.items()}
    return {name: hashlib.sha256(value).hexdigest() for name, value in raw.items()}


def by_time(data: Dataset, share: float = 0.9) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Train counts [users, items], the users of the last part who are known, and what each of them took there."""
    log = data.interactions
    early = log.time < np.quantile(log.time, share)
    counts = np.zeros((data.n_users, data.n_items), np.float32)
    counts[log.user[early], log.item[early]] = 1
    users = np.intersect1d(log.user[~early], log.user[early])
    return counts, users, [log.item[(log.user == user) & ~early] for user in users]


def recall_at_20(scores: np.ndarray, seen: np.ndarray, relevant: list[np.ndarray]) -> float:
    top = np.argsort(-np.where(seen > 0, -np.inf, scores), axis=1, kind="stable")[:, :20]
    return float(np.mean([np.isin(wanted, row).mean() for wanted, row in zip(relevant, top)]))


@pytest.mark.parametrize("size", [(1, 200, 25), (300, 200, 300), (300, 200, 7500), (50, 3000, 10_000), SIZE])
def test_the_log_has_exactly_the_rows_asked_for_and_no_pair_twice(size):
    n_users, n_items, n = size
    data = shop(*size, seed=3)
    log = data.interactions
    assert (data.n_users, data.n_items, len(log), data.repeats) == (n_users, n_items, n, False)
    assert len(np.unique(log.user.astype(np.int64) * n_items + log.item)) == n
    assert log.order() is None  # by user, then time
    assert log.user.min() == 0
    assert np.unique(log.user).size == n_users
    assert 0 <= log.item.min() <= log.item.max() < n_items
    assert [str(column.dtype) for column in log.columns.values()] == ["int32", "int32", "int64", "int16", "int32"]
    assert list(log.columns) == ["user", "item", "time", "kind", "session"]


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others():
    first, again, other = (digests(shop(200, 300, 4000, seed=seed)) for seed in (5, 5, 6))
    assert first == again
    assert not {name for name in first if first[name] == other[name]} - {"links.kind"}


def test_drawing_in_many_blocks_keeps_counts_and_session_numbers_apart(monkeypatch):
    monkeypatch.setattr(sys.modules[draw_users.__module__], "BLOCK", 500)
    log = shop(200, 300, 4000, seed=5).interactions
    assert len(log) == 4000
    assert len({(s, u) for s, u in zip(log.session.tolist(), log.user.tolist())}) == log.session.max() + 1


def test_attributes_explain_the_tastes_of_groups_on_items_never_looked_at_and_permuted_ones_do_not(data, truth, rng):
    counts, users, relevant = by_time(data)
    catalogue, people = truth
    looked_at = rng.random(data.n_items) < 0.5
    wanted = [items[~looked_at[items]] for items in relevant]
    asking = np.array([len(items) > 0 for items in wanted])
    users, wanted = users[asking], [items for items in wanted if len(items)]
    seen = np.where(looked_at, 1, counts[users])
    popular, group = counts.sum(0), np.eye(people.group.max() + 1, dtype=np.float32)[people.group]

    def oracle(cell: np.ndarray) -> float:
        """Learns from half of the items how much groups like a cell (shelf and brand) and ranks the others by it."""
        of_cell = np.eye(cell.max() + 1, dtype=np.float32)[cell] * looked_at[:, None]
        liking = (group.T @ (counts @ of_cell) + 0.01) / (popular @ of_cell + 1)  # [group, cell]
        return recall_at_20((liking[:, cell] * popular)[people.group[users]], seen, wanted)

    cell = np.unique(catalogue.shelf * 1000 + catalogue.brand, return_inverse=True)[1]
    plain = recall_at_20(np.tile(popular, (len(users), 1)), seen, wanted)
    assert oracle(cell) > 1.7 * plain
    assert oracle(rng.permutation(cell)) < 1.1 * plain


def test_a_collaborative_model_beats_neighbours_and_neighbours_beat_popularity(data):
    counts, users, relevant = by_time(data)
    gram = (counts.T @ counts).astype(np.float64)
    inverse = np.linalg.inv(gram + 200 * np.eye(len(gram)))
    ease = -inverse / np.diag(inverse)
    norm = np.sqrt(np.maximum(np.diag(gram), 1))
    knn = gram / norm / norm[:, None]
    for weights in (ease, knn):
        np.fill_diagonal(weights, 0)
    knn[knn < np.partition(knn, -100, axis=0)[-100]] = 0
    popular = np.tile(counts.sum(0), (len(users), 1))
    scores = popular, counts[users] @ knn, counts[users] @ ease
    by_popularity, by_knn, by_ease = (recall_at_20(score, counts[users], relevant) for score in scores)
    assert 0.05 < by_popularity < 0.12
    assert by_popularity * 1.5 < by_knn < by_ease / 1.05
    assert 2 * by_popularity < by_ease < 4 * by_popularity


def test_users_have_a_colour_of_their_own_and_not_that_of_their_neighbour(data, truth):
    catalogue, people = truth
    log = data.interactions
    share = [
        (catalogue.colour[log.item] == colour[log.user]).mean() for colour in (people.colour, np.roll(people.colour, 1))
    ]
    assert share[0] > 0.15
    assert share[1] < 0.115


def test_the_segment_hints_at_the_group_and_the_country_does_not(data, truth):
    def best_guess(column: str) -> float:
        """Share of users whose group is the most frequent one of their value in the column."""
        values = data.users.column(column).to_pylist()
        groups = {value: Counter(truth[1].group[np.array(values) == value].tolist()) for value in set(values)}
        return sum(c.most_common(1)[0][1] for c in groups.values()) / data.n_users

    assert best_guess("segment") > 0.3
    assert best_guess("country") < 0.15


def test_popularity_is_skewed_as_chance_alone_is_not(data, rng):
    n = len(data.interactions)

    def top_tenth(counts: np.ndarray) -> float:
        return np.sort(counts)[-len(counts) // 10 :].sum() / n

    even = np.bincount(rng.integers(data.n_items, size=n), minlength=data.n_items)
    assert top_tenth(data.interactions.item_counts()) > 2.5 * top_tenth(even)
    assert top_tenth(np.bincount(data.interactions.user)) > 0.25


def test_later_interactions_look_different_from_earlier_ones(data, truth, rng):
    log, (catalogue, people) = data.interactions, truth
    old = catalogue.launched <= 0  # else new items alone would make the difference

    def change(cell: np.ndarray, time: np.ndarray) -> float:
        """Half the sum of absolute differences between the first and the last third: 0 equal, 1 disjoint."""
        first, last = time < np.quantile(time, 1 / 3), time > np.quantile(time, 2 / 3)
        shares = [np.bincount(cell[part], minlength=cell.max() + 1) / part.sum() for part in (first, last)]
        return abs(shares[0] - shares[1]).sum() / 2

    kept = old[log.item]
    taste = (people.group[log.user] * SHELVES + catalogue.shelf[log.item])[kept]
    for cell, least in ((taste, 0.15), (log.item[kept], 0.12)):
        assert change(cell, log.time[kept]) > max(least, 1.5 * change(cell, rng.permutation(log.time[kept])))


def test_a_session_is_one_user_on_one_shelf_within_minutes(data, truth, rng):
    log, (catalogue, _) = data.interactions, truth

    def mixed(session: np.ndarray, values: np.ndarray) -> float:
        """Share of neighbours in a session that differ."""
        order = np.argsort(session, kind="stable")
        same = np.diff(session[order]) == 0
        return float((np.diff(values[order])[same] != 0).mean())

    shelf = catalogue.shelf[log.item]
    permuted = np.concatenate([rng.permutation(log.session[log.user == u]) for u in range(data.n_users)])
    assert mixed(log.session, log.user) == 0
    assert mixed(log.session, shelf) == 0
    assert mixed(permuted, shelf) > 0.4

    order = np.lexsort((log.time, log.session))
    gap = np.diff(log.time[order])[np.diff(log.session[order]) == 0] / 60_000
    assert gap.min() >= 1 / 3
    assert np.median(gap) < 5
    assert gap.max() < 120
    assert np.array_equal(np.unique(log.session), np.arange(log.session.max() + 1))


def test_fewer_carts_and_purchases_than_views_and_purchases_come_together(data, rng):
    log = data.interactions
    view, cart, purchase = (float((log.kind == code).mean()) for code in range(3))
    assert log.kinds == KINDS
    assert view > 0.6
    assert 0.05 < cart < purchase < 0.25

    bought = log.kind == KINDS.index("purchase")
    sessions, by_chance = (len(np.unique(log.session[mask])) for mask in (bought, rng.permutation(bought)))
    assert sessions < 0.75 * by_chance


def test_baskets_are_what_was_purchased_together(data):
    log = data.interactions
    expected = {}
    for session, item, user, kind in zip(*(a.tolist() for a in (log.session, log.item, log.user, log.kind))):
        if kind == 2:
            expected.setdefault((session, user + 1), []).append(item + 1)
    baskets = data.extras["baskets"].to_pylist()
    found = {(row["session"], row["user"]): row["items"] for row in baskets}
    assert found == {key: items for key, items in expected.items() if len(items) > 1}
    assert len(baskets) > 2000
    assert all(OPENED <= row["time"] < OPENED + DAYS * DAY_MS for row in baskets)


def test_linked_items_are_taken_together_more_than_other_pairs_of_the_same_kinds(data, truth, rng):
    catalogue, people = truth
    left, right = (data.extras["links"][side].to_numpy() - 1 for side in ("left", "right"))
    swapped = right.copy()
    for leaf in np.unique(catalogue.leaf[right]):
        swapped[catalogue.leaf[right] == leaf] = np.roll(right[catalogue.leaf[right] == leaf], 1)
    differs = swapped != right

    def lift(session: np.ndarray, item: np.ndarray) -> float:
        """Sessions with a linked pair for each session with a pair of the same two kinds that is not linked."""
        visits = np.split(item, np.flatnonzero(np.diff(session)) + 1)
        together = Counter(pair for items in visits for pair in itertools.permutations(items.tolist(), 2))
        planted, others = (sum(together[pair] for pair in zip(left[differs], r[differs])) for r in (right, swapped))
        return planted / others

    nothing_goes_with_anything = catalogue._replace(complement=np.full(data.n_items, -1))
    without = draw_log(nothing_goes_with_anything, people, draw_demand(catalogue, rng), rng)
    assert (catalogue.complement[left] == right).all()
    assert set(data.extras["links"]["kind"].to_pylist()) == {"complement"}
    assert lift(data.interactions.session, data.interactions.item) > 3
    assert lift(without.session, without.item) < 1.3


def test_nobody_has_an_item_before_its_launch_and_cold_items_have_few_or_none(data):
    log = data.interactions
    launched = data.items.column("launched").to_numpy().astype("datetime64[ms]").astype(np.int64)
    assert (log.time >= launched[log.item]).all()
    assert launched[log.item].max() > OPENED + 300 * DAY_MS

    counts, end = log.item_counts(), OPENED + DAYS * DAY_MS
    never, cold = launched > end, (launched >= end - 28 * DAY_MS) & (launched <= end)
    assert never.sum() == 20
    assert counts[never].sum() == 0
    assert 50 <= cold.sum() <= 70
    assert (counts[cold] > 0).mean() > 0.5
    assert not np.isin(log.item[log.time < np.quantile(log.time, 0.85)], np.flatnonzero(cold)).any()


def test_users_do_nothing_before_they_sign_up(data):
    signed_up = data.users.column("signed_up").to_numpy().astype("datetime64[ms]").astype(np.int64)
    assert (data.interactions.time >= signed_up[data.interactions.user]).all()


def test_titles_tell_the_attributes_and_hardly_ever_repeat(data):
    items = data.items.frame.to_pylist()
    assert all(row["brand"] in row["title"] and row["title"].endswith(f", {row['colour']}") for row in items)
    assert all(row["brand"] in row["description"] and row["colour"] in row["description"] for row in items)
    assert len({row["title"] for row in items}) > 0.99 * len(items)
    assert all(row["category"].count(" > ") == 2 for row in items)
    assert len({row["category"] for row in items}) == 72
    assert data.items.roles == {
        "title": ["title"],
        "text": ["title", "description"],
        "category": ["category"],
    }
    assert min(row["price"] for row in items) > 1


def test_a_saved_shop_opens_as_it_was(tmp_path):
    data = shop(100, 200, 1000, seed=1)
    assert digests(data.save(tmp_path / "shop")) == digests(data)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((100, 199, 1000), "a shop of 199 items and 100 users is too small: at least 200 items and 1 user."),
        ((100, 200, 99), "100 users and 200 items have from 100 to 2,500 interactions here, not 99: "),
        ((100, 200, 2501), "here, not 2,501: one a user at least, and one pair in eight at most."),
    ],
)
def test_sizes_that_cannot_be_are_refused_with_the_bounds(size, message):
    with pytest.raises(DataError) as error:
        shop(*size)
    assert message in str(error.value)


@pytest.mark.slow
def test_ten_million_interactions_take_under_half_a_minute_and_a_gigabyte():
    tracemalloc.start()
    start = process_time()
    log = shop(100_000, 20_000, 10_000_000).interactions
    seconds, (_, peak) = process_time() - start, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(np.unique(log.user.astype(np.int64) * 20_000 + log.item)) == 10_000_000
    assert seconds < 30
    assert peak < 1e9
