"""SASRec: what it sees and what not, its losses, order as the thing it learns, and who is answered how."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator, nn

from itemic.data import Dataset, Query, Ragged
from itemic.data.filters import sessions
from itemic.data.simulated import shop
from itemic.data.splits import split
from itemic.errors import ConfigError, DataError
from itemic.evaluation import evaluate
from itemic.nn.packing import Packing
from itemic.progress import listening
from itemic.registry import find
from itemic.systems.sequential.base import next_items
from itemic.systems.sequential.sasrec import Config, Network, Places, SASRec

FAST = {"lr": 0.01, "batch_size": 32, "epochs": 1}


def histories_as_data(rows, n_items, **columns):
    """A dataset whose users have these histories, and columns with a value for each of their items in turn."""
    user = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    item = np.concatenate([np.asarray(row, np.int64) for row in rows])
    frame = {"user": [f"u{u}" for u in user], "item": [f"i{i:03}" for i in item], "timestamp": np.arange(len(user))}
    data = Dataset.from_frame(frame | columns)
    assert data.n_items == n_items
    order = np.argsort([int(name[1:]) for name in data.items.ids.array.to_pylist()])
    assert (order == np.arange(n_items)).all()
    return data


def top_one(model, histories, repeats=False):
    return model.rank(Query(history=Ragged.from_lists(histories), repeats=repeats), 1).items[:, 0]


def cycles(n_users, length, n_items, step, seed=0):
    start = np.random.default_rng(seed).integers(n_items, size=n_users)
    return ((start[:, None] + step * np.arange(length)) % n_items).tolist()


@given(st.lists(st.lists(st.integers(0, 9), max_size=6), min_size=1, max_size=6), st.integers(1, 4))
def test_each_place_knows_what_came_before_what_follows(rows, length):
    known, following = next_items(Ragged.from_lists(rows), length)
    windows = [row[-length - 1 :] for row in rows if len(row) > 1]
    assert known.to_lists() == [row[:-1] for row in windows]
    assert following.to_lists() == [row[1:] for row in windows]


@pytest.fixture(params=["pre", "post", "original", "ported"])
def network(request):
    torch.manual_seed(0)
    return Network(20, Config(dim=8, heads=2, norm=request.param, max_length=6)).eval()


def states(network, *histories):
    rows = Ragged.from_lists(histories)
    return network(torch.from_numpy(rows.values), Packing(torch.from_numpy(rows.offsets)))


def test_a_place_is_blind_to_what_comes_after_it_and_sees_all_before(network):
    before, after = states(network, [1, 2, 3, 4, 5]), states(network, [1, 2, 9, 4, 5])
    assert (before != after).any(1).tolist() == [False, False, True, True, True]


def test_a_history_is_read_the_same_in_any_company(network):
    together = states(network, [1, 2, 3], [4, 5, 6, 7, 8, 9], [2], [3, 2, 1])
    for rows, history in ((slice(0, 3), [1, 2, 3]), (slice(9, 10), [2]), (slice(10, 13), [3, 2, 1])):
        torch.testing.assert_close(together[rows], states(network, history), rtol=1e-4, atol=1e-5)


def test_without_blocks_the_score_is_that_of_the_last_item_and_its_position():
    network = Network(20, Config(dim=8, layers=0, max_length=6)).eval()
    x = math.sqrt(8) * network.item[5] + network.positions.table[0]
    expected = (x - x.mean()) / x.var(unbiased=False).sqrt()
    torch.testing.assert_close(states(network, [1, 5])[-1], expected)


def test_the_ported_blocks_are_those_of_torchs_attention_beside_a_normalised_stream():
    torch.manual_seed(0)
    network = Network(20, Config(dim=8, heads=2, norm="ported", positions="from_start", max_length=6)).eval()
    history = torch.tensor([1, 5, 2, 7])
    x = math.sqrt(8) * network.item[history] + network.positions.table[:4]
    for block in network.stack.blocks:
        attend = nn.MultiheadAttention(8, 2, batch_first=True).eval()
        own = block.attend
        attend.in_proj_weight = nn.Parameter(torch.cat([own.query.weight, own.key.weight, own.value.weight]))
        attend.out_proj.weight = own.out.weight
        q = block.attend_norm(x)
        later = torch.ones(4, 4, dtype=torch.bool).triu(1)
        x = block.feed_norm(q + attend(q[None], x[None], x[None], attn_mask=later)[0][0])
        x = x + block.feed.outer(block.feed.inner(x).relu())
    torch.testing.assert_close(states(network, history.tolist()), network.stack.norm(x))


def test_the_ported_blocks_begin_as_torchs_attention_does_and_else_small():
    block = Network(20, Config(dim=64, norm="ported")).stack.blocks[0]
    torchs = nn.MultiheadAttention(64, 1).in_proj_weight.std().item()
    for layer in (block.attend.query, block.attend.key, block.attend.value):
        assert layer.weight.std().item() == pytest.approx(torchs, rel=0.05)
    for layer in (block.attend.out, block.feed.inner, block.feed.outer):
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize("positions", ["from_end", "from_start", "none"])
def test_positions_are_told_from_the_chosen_end(positions):
    network = Network(20, Config(dim=8, layers=0, max_length=6, positions=positions)).eval()
    two, three = states(network, [4, 4]), states(network, [4, 4, 4])
    assert torch.equal(two, three[:2]) == (positions != "from_end")
    assert torch.equal(two, three[1:]) == (positions != "from_start")


def test_rotary_positions_tell_order_and_none_tell_less():
    options = {"dim": 8, "max_length": 6, "layers": 1}
    moved = {}
    for positions in ("rotary", "none"):
        torch.manual_seed(0)
        network = Network(20, Config(positions=positions, **options)).eval()
        nn.init.normal_(network.item)
        moved[positions] = not torch.allclose(states(network, [1, 2, 3])[-1], states(network, [2, 1, 3])[-1], atol=1e-4)
    assert moved == {"rotary": True, "none": False}


def batch_of(rows, negatives=()):
    known, following = next_items(Ragged.from_lists(rows), 10)
    item, wanted = torch.from_numpy(known.values), torch.from_numpy(following.values)
    return Places(item, wanted, torch.from_numpy(known.offsets), torch.as_tensor(negatives))


def unfitted(n_items=20, **options):
    model = SASRec(dim=8, dropout=0, **options)
    torch.manual_seed(0)
    model._module = Network(n_items, model.config)
    model._n_drawn = model.config.n_negatives or 0
    return model


def test_with_all_items_drawn_the_sampled_loss_is_the_full_one():
    rows = [[1, 2, 3], [4, 5, 6, 7]]
    (full,) = unfitted().loss(batch_of(rows)).values()
    for log_q in (True, False):
        (sampled,) = unfitted(loss="sampled_ce", log_q=log_q).loss(batch_of(rows, np.arange(20))).values()
        torch.testing.assert_close(sampled, full)


def test_log_q_makes_few_negatives_stand_for_all():
    rows, some = [[1, 2, 3], [4, 5, 6, 7]], np.arange(8, 18)
    (with_it,) = unfitted(loss="sampled_ce").loss(batch_of(rows, some)).values()
    (without,) = unfitted(loss="sampled_ce", log_q=False).loss(batch_of(rows, some)).values()
    (full,) = unfitted().loss(batch_of(rows)).values()
    assert abs(with_it - full) < 0.1 < abs(without - full)


def test_bce_is_its_definition_over_places():
    model = unfitted(loss="bce", n_negatives=1)
    batch = batch_of([[1, 2, 3], [4, 5]], [[7], [8], [9]])
    made = states(model.module, [1, 2], [4])
    table = model.module.item
    expected = 0.0
    for n, (wanted, other) in enumerate([(2, 7), (3, 8), (5, 9)]):
        expected -= torch.log(torch.sigmoid(made[n] @ table[wanted])) + torch.log(
            1 - torch.sigmoid(made[n] @ table[other])
        )
    torch.testing.assert_close(model.loss(batch)["bce"], expected / 3)


def test_gbce_lies_below_bce_by_what_its_beta_takes_off_the_positives():
    batch = batch_of([[1, 2, 3]], [[7, 9], [8, 8]])
    losses = [unfitted(loss="gbce", n_negatives=2, calibration=t).loss(batch)["gbce"] for t in (0.0, 1.0)]
    made, table = states(unfitted().module, [1, 2]), unfitted().module.item
    positives = -torch.log(torch.sigmoid((made * table[[2, 3]]).sum(1))).mean()
    torch.testing.assert_close(losses[0] - losses[1], (1 - 2 / 19) * positives / 3)


@pytest.mark.parametrize("tied", [True, False])
def test_an_item_learns_where_it_is_read_and_where_it_comes_next(tied):
    model = unfitted(tied=tied, loss="bce", n_negatives=1)
    model.loss(batch_of([[1, 2], [3, 4]], [[5], [6]]))["bce"].backward()
    read = model.module.item.grad.any(1).nonzero().flatten().tolist()
    compared = model.module.table.grad.any(1).nonzero().flatten().tolist()
    assert read == ([1, 2, 3, 4, 5, 6] if tied else [1, 3])
    assert compared == ([1, 2, 3, 4, 5, 6] if tied else [2, 4, 5, 6])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"norm": "post", "loss": "sampled_ce", "n_negatives": 20},
        {"norm": "original", "loss": "bce", "n_negatives": 4, "tied": False},
        {"positions": "rotary", "loss": "gbce", "n_negatives": 16},
    ],
    ids=str,
)
def test_it_learns_a_cycle_in_less_than_three_hundred_steps(options):
    data = histories_as_data(cycles(320, 4, 50, 1), 50)
    training = {"lr": 0.01, "batch_size": 32, "epochs": 29}  # of 10 steps
    model = SASRec(dim=32, max_length=12, dropout=0, training=training, **options).fit(data)
    histories = cycles(50, 4, 50, 1, seed=1)
    expected = [(history[-1] + 1) % 50 for history in histories]
    assert (top_one(model, histories) == expected).mean() > 0.99


def test_it_learns_from_order_what_no_set_and_no_last_item_can_tell():
    """The next item follows from the one two steps back; the last one is drawn from the other half, at random."""

    def mixed(n, seed):
        rng = np.random.default_rng(seed)
        rows = np.empty((n, 6), np.int64)
        rows[:, 0], rows[:, 1] = rng.integers(10, size=n), 10 + rng.integers(10, size=n)
        for place in range(2, 6):
            back = rows[:, place - 2]
            rows[:, place] = np.where(back < 10, (back + 3) % 10, 10 + (back + 7) % 10)
        return rows

    data, test = histories_as_data(mixed(200, 0).tolist(), 20), mixed(100, 1)
    training = {"lr": 0.02, "batch_size": 20, "epochs": 20}

    def found(**options):
        model = SASRec(dim=32, max_length=12, dropout=0, training=training, **options).fit(data)
        return (top_one(model, test[:, :5].tolist(), repeats=True) == test[:, 5]).mean()

    assert found() > 0.99
    assert found(layers=0) < 0.25


def test_more_negatives_or_calibration_cure_overconfidence():
    """All histories are one item and then one of 200, half of the time the first: a chance that scores should tell."""
    rng = np.random.default_rng(0)
    after = np.where(rng.random(2000) < 0.5, 1, rng.integers(1, 201, size=2000))
    after[:200] = np.arange(1, 201)
    data = histories_as_data([[0, item] for item in after], 201)

    def told(**options):
        training = {"lr": 0.02, "batch_size": 500, "epochs": 30}
        model = SASRec(dim=8, layers=0, dropout=0, training=training, **options).fit(data)
        score = model.score(Query(history=Ragged.from_lists([[0]]), candidates=Ragged.from_lists([[1]]), repeats=True))
        return 1 / (1 + math.exp(-score.values[0]))

    truth = (after == 1).mean()
    assert told(loss="bce", n_negatives=1) > 0.95
    assert told(loss="gbce", n_negatives=20, calibration=0.0) > 0.85
    assert told(loss="gbce", n_negatives=20, calibration=1.0) == pytest.approx(truth, abs=0.1)


@pytest.fixture(scope="module")
def fitted():
    data = histories_as_data([*cycles(60, 6, 30, 1), [7, 8], [7, 9], [3]], 30)
    return SASRec(dim=8, max_length=5, training={**FAST, "epochs": 2}).fit(data)


def test_somebody_without_a_history_gets_the_most_popular_items_and_is_told_so(fitted):
    histories = Ragged.from_lists([[4, 5], [], [6]])
    counts = fitted.tables["taken_by"]
    ranking = fitted.rank(Query(history=histories, exclude=np.array([0], np.int32)), 5)
    best = [item for item in np.lexsort((np.arange(30), -counts)) if item != 0][:5]
    assert ranking.items[1].tolist() == best
    assert ranking.reasons == ("1 of 3 requests have no history: these lists are the most popular items",)
    alone = fitted.rank(Query(history=histories.take([0, 2]), exclude=np.array([0], np.int32)), 5)
    np.testing.assert_array_equal(ranking.items[[0, 2]], alone.items)
    assert alone.reasons == ()
    candidates = Ragged.from_lists([[1], [1, 8], [2]])
    assert fitted.score(Query(history=histories, candidates=candidates))[1].tolist() == counts[[1, 8]].tolist()
    allowed = np.array([3, 4, 11], np.int32)
    assert set(fitted.rank(Query(history=histories, candidates=allowed), 3).items[1]) == {3, 4, 11}


def test_only_the_newest_items_of_a_long_history_count(fitted):
    short, long = [3, 4, 5, 6, 7], [20, 21, 9, 3, 4, 5, 6, 7]
    vectors = fitted.query_vectors(Query(history=Ragged.from_lists([short, long, long[:-1]])))
    np.testing.assert_array_equal(vectors[0], vectors[1])
    assert not np.allclose(vectors[0], vectors[2])


def test_fitting_says_once_that_histories_were_cut():
    said = []
    data = histories_as_data([*cycles(3, 9, 9, 1), [0, 1]], 9)
    with listening(lambda description, done, total, note: said.append(description)):
        SASRec(dim=8, max_length=4, training=FAST).fit(data)
    assert said.count("3 histories exceed max_length=4: their newest items count") == 1


def test_rows_in_no_known_order_are_refused():
    data = Dataset.from_frame({"user": ["a", "a"], "item": ["x", "y"]}, name="heap")
    with pytest.raises(DataError, match="sasrec learns from the order of what people did; heap has no times, and its"):
        SASRec().fit(data)


def test_histories_of_one_item_teach_nothing_and_that_is_said():
    data = Dataset.from_frame({"user": ["a", "b"], "item": ["x", "y"], "timestamp": [1, 2]}, name="brief")
    with pytest.raises(DataError, match="sasrec learns what follows what; nobody in brief has two interactions."):
        SASRec(training=FAST).fit(data)


def test_histories_of_one_item_beside_longer_ones_are_left_out(fitted):
    assert len(fitted._known) == 62
    assert sum(len(batch.item) for batch in fitted.batches(None, Generator().manual_seed(0))) == 60 * 5 + 2


def test_sessions_of_the_shop_it_never_met_are_continued():
    made = split(sessions(shop(150, 300, 5_000), "30m"), by="sessions")
    model = SASRec(dim=32, max_length=10, training={"lr": 0.01, "batch_size": 64, "epochs": 3}).fit(made.train)
    assert (made.test.query.user == -1).all()
    popular = evaluate(find("popularity")().fit(made.train), made.test, "recall@20")["recall@20"]
    assert evaluate(model, made.test, "recall@20")["recall@20"] > 1.5 * popular


def with_kinds(n=300, seed=0):
    """An item of the first ten, then a view of it plus 10 or a purchase of it plus 20, of each as many."""
    rng = np.random.default_rng(seed)
    first, bought = rng.integers(10, size=n), rng.integers(2, size=n)
    rows = np.column_stack([first, first + 10 + 10 * bought]).tolist() + [[item, item] for item in range(30)]
    kind = np.column_stack([np.zeros(n, int), bought]).ravel().tolist() + [0] * 60
    return histories_as_data(rows, 30, kind=np.array(["view", "buy"])[kind])


@pytest.mark.parametrize(
    "options", [{}, {"loss": "sampled_ce"}, {"loss": "bce", "n_negatives": 4}, {"loss": "gbce", "n_negatives": 8}]
)
def test_the_kinds_that_weigh_are_foreseen(options):
    data, training = with_kinds(), {"lr": 0.02, "batch_size": 64, "epochs": 12}

    def share_of_buys(kinds):
        model = SASRec(dim=16, layers=1, dropout=0, kinds=kinds, training=training, **options).fit(data)
        return (top_one(model, [[item] for item in range(10)]) >= 20).mean()

    assert share_of_buys({"buy": 1}) == 1
    assert share_of_buys({"buy": 1, "view": 0.1}) == 1
    assert share_of_buys({"view": 1, "buy": 0.1}) == 0


def test_places_before_other_kinds_weigh_nothing_and_histories_of_them_are_left_out():
    kind = ["view", "view", "buy", "buy", "view", "view", "buy"]
    data = histories_as_data([[0, 1, 2], [3, 4], [5, 6]], 7, kind=kind)
    model = SASRec(dim=8, kinds={"buy": 2.0}, loss="bce", training={**FAST, "batch_size": 3}).fit(data)
    (batch,) = model.batches(data, Generator().manual_seed(0))
    weight = dict(zip(batch.following.tolist(), batch.weight.tolist()))
    assert weight == {1: 0, 2: 2, 6: 2}


def test_of_the_newest_places_alone_is_learned():
    data = histories_as_data([[0, 1, 2, 3], [4, 5], [6]], 7, kind=["v", "b", "v", "b", "v", "b", "v"])

    def weights(**options):
        model = SASRec(dim=8, training={**FAST, "batch_size": 3}, **options).fit(data)
        (batch,) = model.batches(data, Generator().manual_seed(0))
        return dict(zip(batch.following.tolist(), batch.weight.tolist()))

    assert weights(places=2) == {1: 0, 2: 1, 3: 1, 5: 1}
    assert weights(places=2, kinds={"b": 0.5}) == {1: 0, 2: 0, 3: 0.5, 5: 0.5}
    assert weights(places=9) == {1: 1, 2: 1, 3: 1, 5: 1}
    with pytest.raises(DataError, match=r"^none of the newest places of data weighs: raise places, or name other"):
        weights(places=1, kinds={"v": 1})


def test_a_kind_that_is_not_there_is_refused_with_those_that_are():
    data = with_kinds()
    with pytest.raises(ConfigError) as error:
        SASRec(kinds={"bye": 1}).fit(data)
    assert str(error.value) == (
        "sasrec: data has no interactions of the kind 'bye'. Did you mean 'buy'? Kinds: buy, view."
    )
    with pytest.raises(ConfigError, match="sasrec: kinds.buy cannot be 0: Input should be greater than 0."):
        SASRec(kinds={"buy": 0})


def test_kinds_cannot_weigh_where_there_are_none_or_none_follows_anything():
    data = histories_as_data([[0, 1]], 2)
    with pytest.raises(DataError, match="sasrec cannot weigh kinds of interaction: data has no 'kind' column. Name it"):
        SASRec(kinds={"buy": 1}).fit(data)
    data = histories_as_data([[0, 1]], 2, kind=["buy", "view"])
    with pytest.raises(DataError, match="nobody in data did anything before a buy. Name other kinds."):
        SASRec(kinds={"buy": 1}).fit(data)


def timed(n, seed):
    """Two items a minute or a day apart; the third is the second plus 10 in the one case, plus 20 in the other."""
    rng = np.random.default_rng(seed)
    rows = np.column_stack([30 + rng.integers(5, size=n), rng.integers(10, size=n), np.zeros(n, int)])
    long = rng.integers(2, size=n)
    rows[:, 2] = rows[:, 1] + 10 + 10 * long
    gap = np.where(long, 86_400_000, 60_000) * rng.uniform(0.6, 1.6, n)
    return rows, 1_700_000_000_000 + np.column_stack([np.zeros(n), gap, 2 * gap]).astype(np.int64)


def test_time_gaps_tell_what_order_alone_cannot():
    rows, times = timed(400, 0)
    data = histories_as_data(rows.tolist(), 35, timestamp=times.ravel())
    rows, times = timed(200, 1)
    history = Ragged.from_lists(rows[:, :2].tolist())
    with_times = Query(history=history, history_time=times[:, :2].ravel())
    training = {"lr": 0.02, "batch_size": 40, "epochs": 15}

    def fitted(**options):
        return SASRec(dim=32, layers=1, dropout=0, training=training, **options).fit(data)

    def found(model, query):
        ranking = model.rank(query, 1)
        return (ranking.items[:, 0] == rows[:, 2]).mean(), ranking.reasons

    model = fitted(time_gaps=True)
    assert found(model, with_times) == (pytest.approx(1, abs=0.02), ())
    share, said = found(model, Query(history=history))
    assert share < 0.65
    assert said == ("none of the 200 requests says when its items were taken: they are read by their order alone",)
    assert found(fitted(), with_times)[0] < 0.65


def test_time_gaps_need_times_to_be_fitted():
    data = Dataset.from_frame({"items": [["x", "y"], ["y", "z"]]}, name="lists")
    with pytest.raises(DataError, match="sasrec reads the time between items only where there are times; lists has"):
        SASRec(time_gaps=True).fit(data)


def test_only_the_times_of_the_items_that_are_read_count():
    data = histories_as_data(cycles(20, 6, 10, 1), 10)
    model = SASRec(dim=8, max_length=2, time_gaps=True, training=FAST).fit(data)
    history = Ragged.from_lists([[1, 2, 3], [2, 3]])
    for times, same in (([0, 10**9, 2 * 10**9, 0, 10**9], True), ([0, 0, 10, 0, 10**9], False)):
        vectors = model.query_vectors(Query(history=history, history_time=np.array(times)))
        assert np.allclose(*vectors) == same


def test_what_was_taken_comes_back_only_where_repeats_are_declared():
    data = histories_as_data(cycles(100, 12, 4, 1), 4)
    training = {"lr": 0.02, "batch_size": 20, "epochs": 10}
    model = SASRec(dim=16, max_length=6, dropout=0, training=training).fit(replace(data, repeats=True))
    asked = model.ask(histories=[["i000", "i001", "i002", "i003"]])
    assert model.rank(asked, 1).items.tolist() == [[0]]
    assert model.rank(replace(asked, repeats=False), 1).items.tolist() == [[-1]]


def test_rows_in_any_order_are_fitted_as_if_they_came_sorted():
    rng = np.random.default_rng(0)
    frame = {"user": rng.integers(9, size=200), "item": rng.integers(30, size=200), "timestamp": rng.permutation(200)}
    mixed, ordered = (
        SASRec(dim=8, training=FAST).fit(Dataset.from_frame({name: column[order] for name, column in frame.items()}))
        for order in (np.arange(200), np.argsort(frame["timestamp"]))
    )
    np.testing.assert_array_equal(mixed.item_vectors(), ordered.item_vectors())


def test_a_missing_time_is_refused_with_its_row():
    frame = {"user": ["a", "a"], "item": ["x", "y"], "timestamp": [1, None]}
    with pytest.raises(DataError, match="row 2: the time is missing. Fill it in, or pass over it: --columns time=-"):
        Dataset.from_frame(frame)
