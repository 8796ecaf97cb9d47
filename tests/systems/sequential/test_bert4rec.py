"""BERT4Rec: which places are masked, what the network sees of them, its loss by hand, and what masking teaches."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator
from torch.nn.functional import gelu, layer_norm

from itemic.data import Dataset, Ids, Interactions, Query, Ragged, Table
from itemic.data.simulated import planted_groups
from itemic.nn.packing import Packing
from itemic.registry import find
from itemic.systems.sequential.bert4rec import EPS, BERT4Rec, Cloze, Config, Network, gaps, windows

CYCLE, LENGTH = 20, 10
STILL = {"dropout": 0.0, "attention_dropout": 0.0}


def dataset(rows, n_items):
    rows = np.asarray(rows)
    n, length = rows.shape
    log = Interactions.of(np.repeat(np.arange(n), length), rows.ravel(), n, n_items, time=np.tile(range(length), n))
    return Dataset(Table.of(Ids.numbered(n_items), {}), Table.of(Ids.numbered(n, "user"), {}), log)


def offsets_of(lengths):
    return torch.tensor([0, *lengths]).cumsum(0)


def network(n_items=12, seed=0, **options):
    """In float64, with weights large enough to matter."""
    torch.manual_seed(seed)
    module = Network(n_items, Config(**{"dim": 8, "max_length": 10, **STILL, **options})).double().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return module


def found(module, rows, gap):
    rows = Ragged.from_lists(rows)
    return module(torch.from_numpy(rows.values), Packing(torch.from_numpy(rows.offsets)), torch.tensor(gap))


# Windows and gaps ----------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 30), min_size=1), st.integers(1, 8), st.integers(1, 8))
def test_windows_are_those_of_a_loop_and_miss_no_item(lengths, length, step):
    rows = [list(range(100 * n, 100 * n + size)) for n, size in enumerate(lengths)]
    expected = []
    for row in filter(None, rows):
        starts = [0, *sorted(range(len(row) - length, 0, -step))]
        expected += [row[start : start + length] for start in starts]
    histories = Ragged.from_lists(rows)
    assert windows(histories, length, step).to_lists() == expected
    assert windows(histories, length).to_lists() == [row[-length:] for row in rows if row]


@given(
    st.lists(st.integers(1, 40), min_size=1),
    st.floats(0.01, 1),
    st.none() | st.integers(1, 10),
    st.integers(0, 5),
)
def test_a_window_has_its_share_of_gaps_at_least_one_and_at_most_so_many(lengths, share, most, seed):
    masked = gaps(offsets_of(lengths), share, most, 0.0, Generator().manual_seed(seed))
    for part, length in zip(masked.split(lengths), lengths):
        assert part.sum() == min(most or length, max(1, round(length * np.float32(share))))


def test_in_a_share_of_the_windows_the_last_item_alone_is_masked():
    rng, lengths = Generator().manual_seed(0), [7, 1, 4] * 1000
    for part in gaps(offsets_of(lengths), 0.9, None, 1.0, rng).split(lengths):
        assert part.nonzero().tolist() == [[len(part) - 1]]
    some = gaps(offsets_of(lengths), 0.6, None, 0.25, rng).split(lengths)
    assert sum(part.sum() == 1 for part in some if len(part) > 1) / 2000 == pytest.approx(0.25, abs=0.04)


def test_each_place_is_masked_as_often_as_any_other_and_apart_from_the_rest():
    masked = gaps(offsets_of([6] * 10_000), 0.5, None, 0.0, Generator().manual_seed(0)).view(-1, 6).double()
    deviation = math.sqrt(0.25 / 10_000)
    assert (masked.mean(0) - 0.5).abs().max() < 4 * deviation
    together = (masked.T @ masked / 10_000)[~torch.eye(6, dtype=torch.bool)]
    assert (together - 0.2).abs().max() < 4 * deviation  # 3/6 · 2/5, as draws without replacement have it


# The network ---------------------------------------------------------------------------------------------------------


def by_hand(module, row, gap, heads, from_end, transform):
    """The states of one sequence at its gaps, from the formulas of BERT."""
    weights, dim = dict(module.named_parameters()), module.item.shape[1]

    def linear(x, name):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(x, name):
        return layer_norm(x, (dim,), weights[f"{name}.weight"], weights[f"{name}.bias"], EPS)

    places = range(len(row))[::-1] if from_end else range(len(row))
    x = norm(torch.stack([module.item[i] + module.positions.table[p] for i, p in zip(row, places)]), "norm")
    for n in range(len(module.stack.blocks)):
        block, mixed = f"stack.blocks.{n}", torch.zeros_like(x)
        q, k, v = (linear(x, f"{block}.attend.{name}") for name in ("query", "key", "value"))
        for h in range(heads):
            part = slice(h * dim // heads, (h + 1) * dim // heads)
            for i in range(len(row)):
                share = torch.stack([q[i, part] @ k[j, part] / math.sqrt(dim / heads) for j in range(len(row))])
                mixed[i, part] = share.softmax(0) @ v[:, part]
        x = norm(x + linear(mixed, f"{block}.attend.out"), f"{block}.attend_norm")
        inner = gelu(linear(x, f"{block}.feed.inner"))
        x = norm(x + linear(inner, f"{block}.feed.outer"), f"{block}.feed_norm")
    return norm(gelu(linear(x[gap], "head.0")), "head.2") if transform else x[gap]


@pytest.mark.parametrize(
    "options",
    [
        {"positions": "from_start"},
        {"positions": "from_end", "heads": 1, "layers": 3},
        {"head": "linear", "out_bias": False},
    ],
)
def test_the_loss_is_that_of_a_reference_at_each_gap_of_each_window(options):
    model = BERT4Rec(**options)
    model._module = module = network(**options)
    batch = Cloze(torch.tensor([3, 12, 5, 12, 12, 7]), torch.tensor([0, 4, 6]), torch.tensor([1, 3, 4]), [4, 6, 1])
    batch = batch._replace(missing=torch.tensor(batch.missing))
    config = model.config
    how = (config.heads, config.positions == "from_end", config.head == "transform")
    states = [by_hand(module, [3, 12, 5, 12], [1, 3], *how), by_hand(module, [12, 7], [0], *how)]
    logits = torch.cat(states) @ module.item[:-1].T + (module.bias if config.out_bias else 0)
    shares = [logits[n].exp()[item] / logits[n].exp().sum() for n, item in enumerate([4, 6, 1])]
    expected = -torch.stack(shares).log().mean()
    loss = model.loss(batch)["cloze"]
    torch.testing.assert_close(loss, expected)
    by_loss, by_expected = (torch.autograd.grad(value, list(module.parameters())) for value in (loss, expected))
    torch.testing.assert_close(by_loss, by_expected)


def test_gradients_reach_items_as_read_and_as_answers_and_the_gap_only_as_read():
    module = network(n_items=6)
    made = found(module, [[0, 6, 2]], [1])
    (as_read,) = torch.autograd.grad((made * torch.randn_like(made)).sum(), module.item, retain_graph=True)
    assert (as_read.abs().sum(1) > 0).tolist() == [True, False, True, False, False, False, True]
    (as_answers,) = torch.autograd.grad((made.detach() @ module.item[:-1].T).logsumexp(1).sum(), module.item)
    assert (as_answers.abs().sum(1) > 0).tolist() == [True] * 6 + [False]


def test_items_moved_together_with_their_positions_change_nothing():
    module = network()
    before = found(module, [[3, 5, 7, 12]], [3])
    moved = found(module, [[7, 3, 5, 12]], [3])
    assert not torch.allclose(moved, before)
    with torch.no_grad():
        table = module.positions.table  # from the end: places 3, 2, 1, 0
        table[[3, 2, 1]] = table[[1, 3, 2]]
    torch.testing.assert_close(found(module, [[7, 3, 5, 12]], [3]), before)


def test_each_place_sees_those_on_both_sides_of_it_and_nothing_of_other_windows():
    module = network()
    before = found(module, [[3, 12, 5, 1], [12, 2, 7, 4, 4, 9]], [1, 4])
    for row in ([8, 12, 5, 1], [3, 12, 5, 8]):
        after = found(module, [row, [12, 2, 7, 4, 4, 9]], [1, 4])
        assert not torch.allclose(after[0], before[0], atol=1e-4)
        assert torch.equal(after[1], before[1])
    torch.testing.assert_close(found(module, [[3, 12, 5, 1]], [1])[0], before[0])  # alone, without padding


def test_from_the_end_what_is_asked_for_stands_at_the_same_place_however_short_the_history():
    for positions, same in (("from_end", True), ("from_start", False)):
        module = network(positions=positions, layers=0)
        long, short = found(module, [[1, 2, 12], [12]], [2, 3])
        assert torch.equal(long, short) == same


# Training ------------------------------------------------------------------------------------------------------------


def batches(model, train, seed):
    model._catalogue = train.catalogue
    model.prepare(train)
    return list(model.batches(train, Generator().manual_seed(seed)))


def test_an_epoch_reads_every_window_once_and_never_what_is_missing_with_fresh_gaps_each_time():
    rows = np.random.default_rng(0).integers(0, 30, (9, 7))
    model = BERT4Rec(max_length=4, sliding=0.5, mask_share=0.4, training={"batch_size": 5})
    train = dataset(rows, 30)
    parts = batches(model, train, seed=0)
    read = []
    for batch in parts:
        assert (batch.token[batch.gap] == 30).all()
        assert (batch.token == 30).sum() == len(batch.gap) == len(batch.missing)
        whole = batch.token.clone()
        whole[batch.gap] = batch.missing
        read += Ragged(whole.numpy(), batch.offsets.numpy()).to_lists()
    assert sorted(read) == sorted(windows(train.interactions.histories(), 4, 2).to_lists())
    assert [len(batch.offsets) - 1 for batch in parts] == [5, 5, 5, 5, 5, 2]
    again, other = batches(model, train, seed=0), batches(model, train, seed=1)
    assert all(torch.equal(a.token, b.token) for a, b in zip(parts, again))
    assert not all(torch.equal(a.gap, b.gap) for a, b in zip(parts, other))


@pytest.fixture(scope="module")
def cycle():
    """Everybody takes the items of one cycle in its order, each from another item on."""
    rng = np.random.default_rng(0)
    following = np.empty(CYCLE, int)
    order = rng.permutation(CYCLE)
    following[order] = np.roll(order, -1)
    rows = [rng.integers(0, CYCLE, 200)]
    for _ in range(LENGTH - 1):
        rows.append(following[rows[-1]])
    return dataset(np.stack(rows, 1), CYCLE), following


def right(model, cycle):
    """The share of items after which the next one comes first, asked with whole histories."""
    train, following = cycle
    histories = train.interactions.histories()
    ranked = model.rank(Query(history=histories, repeats=True), 1).items[:, 0]
    return (ranked == following[histories.values[histories.offsets[1:] - 1]]).mean()


TOY = {"dim": 32, "max_length": LENGTH, "layers": 1, **STILL}
TRAINING = {"batch_size": 32, "schedule": "linear", "warmup": 30}


def test_it_learns_what_follows_what(cycle):
    model = BERT4Rec(**TOY, training={**TRAINING, "lr": 0.005, "epochs": 60}).fit(cycle[0])
    assert right(model, cycle) > 0.95


def test_what_holds_at_the_end_only_is_learned_from_windows_that_miss_the_last_item_alone():
    rows = np.random.default_rng(0).integers(6, 12, (300, 6))
    rows[:, 0] %= 6
    rows[:, -1] = 12 + rows[:, 0]  # the rest is noise
    training = {**TRAINING, "lr": 0.01, "epochs": 20}
    options = {**TOY, "dim": 16, "max_length": 6, "mask_share": 0.1, "training": training}
    query = Query(history=Ragged.from_lists(rows[:, :-1].tolist()))
    often, seldom = (
        (model.rank(query, 1).items[:, 0] == rows[:, -1]).mean()
        for share in (0.5, 0.0)
        for model in [BERT4Rec(**options, last_item_share=share).fit(dataset(rows, 18))]
    )
    assert often > 0.95 > 0.5 > seldom


def test_it_reads_both_ways_where_one_side_says_too_little():
    n, both = 4, 2 * 4  # the middle item tells the pair around it, and the pair the middle item
    first, last = np.random.default_rng(0).integers(0, n, (2, 400))
    middle, gap = both + n * first + last, both + n * n
    train = dataset(np.stack([first, middle, n + last], 1), gap)
    options = {**TOY, "max_length": 3, "mask_share": 0.3, "last_item_share": 0.0, "positions": "from_start"}
    model = BERT4Rec(**options, training={"lr": 0.005, "batch_size": 32, "epochs": 20}).fit(train)

    def guessed(rows, gaps):
        with torch.no_grad():
            return (found(model.module, rows, gaps) @ model.module.item[:-1].T + model.module.bias).argmax(1).numpy()

    row = np.arange(len(first))
    assert (guessed([[a, gap, n + b] for a, b in zip(first, last)], 3 * row + 1) == middle).mean() > 0.95
    assert (guessed([[a, gap] for a in first], 2 * row + 1) == middle).mean() < 1.5 / n


def test_dropout_of_values_and_of_weights_is_for_training_alone():
    rows = [[3, 12, 5, 1]]
    for options in ({"dropout": 0.5}, {"attention_dropout": 0.5}):
        module = network(**options)
        torch.testing.assert_close(found(module, rows, [1]), found(network(), rows, [1]))
        module.train()
        torch.manual_seed(0)
        assert not torch.allclose(found(module, rows, [1]), found(module, rows, [1]))


# Answers -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted():
    train, _ = planted_groups(n_users=60, n_items=60, seed=0)
    return BERT4Rec(dim=8, max_length=6, training={"lr": 0.01, "epochs": 3, "batch_size": 16}).fit(train)


def test_the_newest_items_and_a_gap_are_read_and_the_state_at_the_gap_is_compared(fitted):
    query = Query(history=Ragged.from_lists([[9, 8, 1, 2, 3, 4, 5], [7]]))
    with torch.no_grad():
        states = found(fitted.module, [[1, 2, 3, 4, 5, 60], [7, 60]], [5, 7])
        expected = states @ fitted.module.item[:-1].T + fitted.module.bias
    made = fitted.query_vectors(query) @ fitted.item_vectors().T
    np.testing.assert_allclose(made, expected.numpy(), atol=1e-5)
    assert fitted.item_vectors().shape == (60, 9)


def test_items_are_alike_by_direction_and_not_by_how_popular_they_are(fitted):
    vectors = torch.from_numpy(fitted.weights["item"][:-1])
    cosine = torch.cosine_similarity(vectors[4], vectors, dim=1)
    cosine[4] = -1
    assert fitted.similar([4], 5).items[0].tolist() == cosine.topk(5).indices.tolist()


def test_without_a_bias_items_are_their_vectors():
    train, _ = planted_groups(n_users=40, n_items=60, seed=0)
    model = BERT4Rec(dim=8, out_bias=False, training={"epochs": 1}).fit(train)
    np.testing.assert_array_equal(model.item_vectors(), model.weights["item"][:60])
    assert "bias" not in model.weights
    assert model.query_vectors(Query(history=Ragged.from_lists([[1]]))).shape == (1, 8)


def test_somebody_of_whom_nothing_is_known_gets_what_most_took(fitted):
    train, _ = planted_groups(n_users=60, n_items=60, seed=0)
    nobody = Query(history=Ragged.empty(1))
    popular = find("popularity")().fit(train).rank(nobody, 5)
    np.testing.assert_array_equal(fitted.rank(nobody, 5).items, popular.items)
