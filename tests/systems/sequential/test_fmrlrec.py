"""fMRLRec: every width by itself beside the one model that holds them all, and what only such a training gives."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from itemic.data import Dataset, EvalSet, Query, Ragged
from itemic.errors import ConfigError, DataError
from itemic.evaluation import evaluate
from itemic.model import Encoder, ModelConfig, load
from itemic.nn.packing import Packing
from itemic.progress import listening
from itemic.registry import encoder
from itemic.systems.sequential.base import Followed
from itemic.systems.sequential.fmrlrec import FMRLRec
from itemic.training import TrainingConfig

QUICK = TrainingConfig(lr=3e-3, batch_size=16, epochs=3, optimizer="adamw", clip=5.0, metric="ndcg@10")


@encoder("one-short-for-this-test")
class Short(Encoder[ModelConfig]):
    """A vector too few."""

    def solve(self, train):
        return {}

    def encode(self, content):
        return np.ones((len(content) - 1, 2), np.float32)


def shop(n_items=30, n_users=40, without=(), seed=0):
    """Items with random vectors of five numbers but those `without`, taken at random."""
    rng = np.random.default_rng(seed)
    vectors = [None if i in without else rng.normal(size=5).tolist() for i in range(n_items)]
    return taken(rng.integers(n_items, size=(n_users, 6)), vectors)


def taken(rows, vectors):
    frame = {"user": np.repeat(np.arange(len(rows)), rows.shape[1]), "item": np.ravel(rows)}
    frame["timestamp"] = np.tile(np.arange(rows.shape[1]), len(rows)) + 1
    return Dataset.from_frame(frame, items={"item": list(range(len(vectors))), "vector": vectors}, name="shop")


def model(**options):
    return FMRLRec(**{"vectors": "column-for-tests", "dim": 12, "narrowest": 3, "training": QUICK, **options})


@pytest.fixture(scope="module")
def fitted():
    return model().fit(shop(without=(4,)))


def histories(n=20, n_items=30):
    rng = np.random.default_rng(1)
    return Ragged.from_lists([rng.integers(n_items, size=length).tolist() for length in rng.integers(1, 9, n)])


# Widths ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [3, 6, 12])
def test_a_cut_model_is_one_of_its_width_and_ranks_as_the_slice_of_the_whole_does(fitted, width, tmp_path):
    small = fitted.cut(width)
    assert small.widths == tuple(w for w in (3, 6, 12) if w <= width)
    assert sum(p.numel() for p in small.module.parameters()) == sum(a.size for a in small.weights.values())
    query = Query(history=histories())
    states = fitted.query_vectors(query)[:, :width]
    np.testing.assert_allclose(small.query_vectors(query), states, atol=1e-5)
    wanted = states @ fitted.item_vectors()[:, :width].T
    wanted[:, 4] = -np.inf
    for row, seen in enumerate(query.history):
        wanted[row, seen] = -np.inf
    ranking = load(small.save(tmp_path / "small")).rank(query, 5)
    np.testing.assert_array_equal(ranking.items, np.argsort(-wanted, axis=1)[:, :5])
    np.testing.assert_allclose(ranking.scores, -np.sort(-wanted, axis=1)[:, :5], atol=1e-5)


def test_a_width_that_was_not_trained_is_refused_with_those_that_were(fitted):
    with pytest.raises(ConfigError) as error:
        fitted.cut(8)
    assert str(error.value) == "fmrlrec cannot be cut to 8. Cut it to one of: 3, 6, 12."


@pytest.fixture
def begun():
    """A model before its first step, that answers without dropout."""
    train = shop(without=(4,))
    made = model()
    made._catalogue = train.catalogue
    made.vectors.fit(train)
    made.survey(train)
    torch.manual_seed(0)
    made._module = made.build(train.catalogue).eval()
    made.prepare(train)
    return made, next(iter(made.batches(train, torch.Generator().manual_seed(0))))


def test_the_loss_is_the_mean_over_widths_of_cross_entropies_over_all_items(begun):
    made, batch = begun
    table = made.module.items(made.module.content, made.module.bare)
    states = made.module(table[batch.item], Packing(batch.offsets))
    wanted = [cross_entropy(states[:, :w] @ table[:, :w].T, batch.following) for w in (3, 6, 12)]
    terms = made.loss(batch)
    assert list(terms) == ["width 3", "width 6", "width 12"]
    assert sum(terms.values()).item() == pytest.approx(torch.stack(wanted).mean().item(), abs=1e-5)


def test_what_a_width_learns_moves_nothing_beyond_its_corner_and_all_of_it(begun):
    made, batch = begun
    made.loss(batch)["width 6"].backward()
    small = made.module.project.weight.grad
    assert small[:6].any()
    for name, weight in made.module.named_parameters():
        beyond = weight.grad.clone()
        beyond[tuple(slice(6) if n == 12 else slice(n) for n in weight.shape)] = 0
        assert not beyond.any(), name
        assert weight.grad.any(), name


def test_training_reads_the_items_a_user_took_in_order_and_learns_what_came_next(begun):
    made, _ = begun
    train = shop(without=(4,))
    batches = list(made.batches(train, torch.Generator().manual_seed(0)))
    pairs = {(int(a), int(b)) for batch in batches for a, b in zip(batch.item, batch.following)}
    assert pairs == {(a, b) for row in train.interactions.histories() for a, b in pairwise(row.tolist())}
    assert all(isinstance(batch, Followed) and len(batch.offsets) <= 17 for batch in batches)


# Reading ---------------------------------------------------------------------------------------------------------


def test_step_by_step_with_one_state_a_layer_gives_what_reading_all_at_once_gives(fitted):
    """Serving as a recurrence: only the state of each layer is kept from click to click."""
    network, row = fitted.module, histories()[3]
    read = fitted.query_vectors(Query(history=Ragged.from_lists([row.tolist()])))[0]
    kept = [0] * len(network.blocks)
    with torch.no_grad():
        for item in row:
            x = torch.from_numpy(fitted.item_vectors()[item])
            for n, block in enumerate(network.blocks):
                unit, y = block.recurrent, block.recurrent_norm(x)
                real, imaginary, gain = unit.decay()
                kept[n] = torch.complex(real, imaginary) * kept[n] + gain * torch.complex(
                    unit.real(y), unit.imaginary(y)
                )
                x = x + unit.out(kept[n].real) - unit.out_imaginary(kept[n].imag)
                x = x + block.feed(block.feed_norm(x))
    np.testing.assert_allclose(x.numpy(), read, atol=1e-5)


def test_a_later_item_changes_no_state_before_it_and_histories_read_together_are_as_alone(fitted):
    rows = histories().to_lists()
    together = fitted.query_vectors(Query(history=Ragged.from_lists(rows)))
    for row, state in zip(rows, together):
        alone = fitted.query_vectors(Query(history=Ragged.from_lists([row])))
        np.testing.assert_allclose(alone[0], state, atol=1e-5)
    vectors = torch.from_numpy(fitted.item_vectors())
    packing = Packing(torch.tensor([0, 5]))
    one, other = (fitted.module(vectors[items], packing) for items in ([1, 2, 3, 5, 6], [1, 2, 3, 9, 6]))
    torch.testing.assert_close(one[:3], other[:3], rtol=0, atol=0)
    assert (one[3:] != other[3:]).any()


def test_the_recurrence_begins_with_real_states_in_the_ring_and_learns_imaginary_ones():
    torch.manual_seed(0)
    for ring in (0.0, 0.5):
        made = model(ring=ring, training=TrainingConfig(lr=1e-2, epochs=1)).fit(shop())
        unit = made.module.blocks[0].recurrent
        assert torch.hypot(*unit.decay()[:2]).min() > ring - 0.05
        assert unit.imaginary.weight.any()
        assert unit.out_imaginary.weight.any()


# Content ---------------------------------------------------------------------------------------------------------


def test_an_item_without_a_vector_is_said_read_as_something_unknown_and_never_ranked():
    heard = []
    with listening(lambda description, *_: heard.append(description)):
        made = model().fit(shop(without=(4, 7)))
    assert "2 of 30 items have no vector by column-for-tests: fmrlrec cannot tell them apart" in heard
    query = Query(history=Ragged.from_lists([[4], [7], [1]]))
    one, other, third = made.query_vectors(query)
    np.testing.assert_array_equal(one, other)
    assert one.any()
    assert not np.array_equal(one, third)
    ranking = made.rank(query, 30)
    assert not np.isin(ranking.items, [4, 7]).any()
    candidates = made.score(Query(history=query.history, candidates=np.array([4, 5], np.int32)))
    assert np.isfinite(candidates.values.reshape(3, 2)).tolist() == [[False, True]] * 3


def test_new_items_are_ranked_at_once_by_their_content_and_those_known_keep_theirs(tmp_path):
    made = model().fit(shop())
    before = made.item_vectors().copy()
    like = made.catalogue.items.column("vector").to_pylist()[2]
    made.add_items({"item": [100, 101], "vector": [like, None]})
    np.testing.assert_array_equal(made.item_vectors()[:30], before)
    np.testing.assert_allclose(made.item_vectors()[30], before[2], atol=1e-6)
    again = load(made.save(tmp_path / "model"))
    again.add_items({"item": [102], "vector": [like]})
    query = Query(history=Ragged.from_lists([[0, 1, 5]]))
    scores = again.score(Query(history=query.history, candidates=np.array([2, 30, 31, 32], np.int32))).values
    np.testing.assert_allclose(scores[[1, 3]], scores[0], rtol=1e-4)
    assert scores[2] == -np.inf
    assert {30, 32} <= set(again.rank(query, 32).items[0])
    assert 31 not in again.rank(query, 33).items


def test_vectors_that_do_not_fit_the_catalogue_or_say_nothing_are_refused():
    with pytest.raises(DataError) as error:
        model(vectors=Short()).fit(shop())
    assert str(error.value) == (
        "fmrlrec: one-short-for-this-test gave 29 vectors for 30 items. Make them again, one for each item."
    )
    nothing = Dataset.from_frame(
        {"user": [0, 0, 1], "item": [0, 1, 0], "timestamp": [1, 2, 3]},
        items={"item": [0, 1], "vector": [[float("nan")], [float("inf")]]},
    )
    with pytest.raises(DataError) as error:
        model().fit(nothing)
    assert str(error.value) == (
        "fmrlrec: none of the 2 items has a vector by column-for-tests. Give them what it reads."
    )


# What it is for --------------------------------------------------------------------------------------------------

N_RING = 120


def ring(seed=0):
    """Items in a ring, each followed by the next or the one after it, as a number of its own vector says."""
    rng = np.random.default_rng(seed)
    step = rng.integers(1, 3, N_RING)
    vectors = rng.normal(size=(N_RING, 32))
    vectors[:, 0] = 6 * (step - 1.5)
    rows = [rng.integers(N_RING, size=300)]
    for _ in range(7):
        rows.append((rows[-1] + step[rows[-1]]) % N_RING)
    train = taken(np.stack(rows, 1), (vectors / 8).tolist())
    item = np.arange(N_RING, dtype=np.int32)
    found = Ragged.from_lists([[int(n)] for n in (item + step) % N_RING])
    return train, EvalSet(Query(history=Ragged.from_lists(item[:, None].tolist())), found)


class WidestOnly(FMRLRec):
    def loss(self, batch):
        return {"widest": super().loss(batch)[f"width {self.config.dim}"]}


def test_on_a_planted_ring_wider_is_better_and_training_the_widest_alone_leaves_nothing_to_cut():
    train, test = ring()
    training = TrainingConfig(lr=5e-3, batch_size=32, epochs=25, optimizer="adamw", clip=5.0, metric="ndcg@10")
    curves = []
    for kind in (FMRLRec, WidestOnly):
        options = {"dim": 32, "layers": 1, "dropout": 0.0, "narrowest": 4, "training": training}
        made = kind(vectors="column-for-tests", **options).fit(train)
        curves.append([evaluate(made.cut(w), test, "recall@1")["recall@1"] for w in (4, 8, 16, 32)])
    every, widest = curves
    assert every[3] > 0.9
    assert every[0] < every[1] < every[2] < every[3]
    assert widest[3] > 0.9
    assert widest[2] < every[2] / 3
