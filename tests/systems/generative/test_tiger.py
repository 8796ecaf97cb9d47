"""TIGER beside transformers' T5 with the same weights, beside scoring every item, and on what only codes can tell."""

import numpy as np
import pytest
import torch

from itemic.data import Dataset, Query, Ragged, Table
from itemic.data.ids import Ids
from itemic.errors import DataError, QueryError
from itemic.model import Encoder, ModelConfig, Tokenizer, load
from itemic.nn.packing import Packing
from itemic.registry import encoder, tokenizer
from itemic.systems.generative.tiger import TIGER, Network


@encoder("nothing-for-this-test")
class Nothing(Encoder[ModelConfig]):
    def solve(self, train):
        return {}


@tokenizer("written-for-this-test")
class Written(Tokenizer[ModelConfig]):
    """Codes that stand in a column."""

    vectors: Encoder = Nothing()

    @property
    def sizes(self):
        return (4, 4, 8)

    def solve(self, train):
        self.tables["codes"] = self.read(train.items)
        return {}

    def read(self, items):
        told = [row if row is not None else [-1] * 3 for row in items.column("codes").to_pylist()]
        return np.array(told, np.int32)

    def add_items(self, items):
        self.tables["codes"] = np.concatenate([self.tables["codes"], self.read(items)])
        return self


TINY = {"dim": 32, "layers": 2, "heads": 2, "head_dim": 16, "hidden": 64, "dropout": 0.0, "beam": 10}
TRAINING = {"lr": 3e-3, "batch_size": 64, "epochs": 4, "warmup": 0, "precision": "float32"}


def model(training=None, **options):
    return TIGER(codes=Written(), **{**TINY, "training": {**TRAINING, **(training or {})}, **options})


def taken(n_users=150, length=7, seed=0):
    """Everybody goes round 8 kinds of 8 items, taking any of the next kind; the nth of the nth kind only at the end."""
    rng = np.random.default_rng(seed)
    kind = (rng.integers(8, size=(n_users, 1)) + np.arange(length)) % 8
    within = (kind + rng.integers(1, 8, (n_users, length))) % 8
    within[:, -1] = rng.integers(8, size=n_users)
    return within + 8 * kind


def rounds(codes, rows=None):
    rows = taken() if rows is None else rows
    names = np.array([f"i{item:02}" for item in range(64)])
    frame = {"user": np.repeat(np.arange(len(rows)), rows.shape[1]), "item": names[rows.ravel()]}
    frame["timestamp"] = np.tile(np.arange(rows.shape[1]), len(rows)) + 1
    items = {"item": names, "codes": [None if row is None else [int(code) for code in row] for row in codes]}
    return Dataset.from_frame(frame, items=items, name="rounds")


def of_kinds():
    """The first two codes tell the kind, the third the item."""
    item = np.arange(64)
    return np.stack([item // 8 % 4, item // 32, item % 8], 1)


def at_random(seed=0):
    return of_kinds()[np.random.default_rng(seed).permutation(64)]


@pytest.fixture(scope="module")
def fitted():
    return model().fit(rounds(of_kinds()))


def queries(data, n=12):
    return data.query_of(np.arange(n))


# The network -----------------------------------------------------------------------------------------------------


def test_the_network_is_t5_with_the_same_weights():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    ours = Network((4, 4, 8), TIGER(codes=Written(), **TINY).config).eval()
    config = transformers.T5Config(
        vocab_size=8, d_model=32, d_kv=16, d_ff=64, num_layers=2, num_decoder_layers=2, num_heads=2, dropout_rate=0.0
    )
    theirs = transformers.T5Model(config).eval()
    given = {}
    for side, stack, positions in (("encoder", ours.encoder, ours.around), ("decoder", ours.decoder, ours.before)):
        given[f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"] = positions.table
        given[f"{side}.final_layer_norm.weight"] = stack.norm.weight
        for n, block in enumerate(stack.blocks):
            layers = [("SelfAttention", block.attend, block.attend_norm)]
            layers += [("EncDecAttention", block.cross, block.cross_norm)] * (side == "decoder")
            for place, (name, attend, norm) in enumerate(layers):
                at = f"{side}.block.{n}.layer.{place}"
                given[f"{at}.layer_norm.weight"] = norm.weight
                scale = 16**-0.5  # theirs does not divide by the root of a head's width
                for letter, layer in zip("qkvo", (attend.query, attend.key, attend.value, attend.out)):
                    given[f"{at}.{name}.{letter}.weight"] = layer.weight * (scale if letter == "q" else 1)
            at = f"{side}.block.{n}.layer.{len(layers)}"
            given[f"{at}.layer_norm.weight"] = block.feed_norm.weight
            given[f"{at}.DenseReluDense.wi.weight"] = block.feed.inner.weight
            given[f"{at}.DenseReluDense.wo.weight"] = block.feed.outer.weight
    missing, unknown = theirs.load_state_dict(given, strict=False)
    assert not unknown
    assert all("embed_tokens" in name or name == "shared.weight" for name in missing)
    codes = torch.tensor([[0, 1, 2], [3, 2, 7], [1, 1, 0], [2, 3, 5], [0, 0, 1]])
    packing, target = Packing(torch.tensor([0, 9, 15])), torch.tensor([[1, 2, 3], [3, 0, 6]])
    told = ours(codes, packing, target)
    words = ours.code(codes + ours.first).flatten(0, 1)
    padded = torch.zeros(2, 9, 32)
    padded[0], padded[1, :6] = words[:9], words[9:]
    said = torch.cat([ours.begin.expand(2, 1, -1), ours.code((target + ours.first)[:, :-1])], 1)
    mask = torch.tensor([[1] * 9, [1] * 6 + [0] * 3])
    states = theirs(inputs_embeds=padded, attention_mask=mask, decoder_inputs_embeds=said).last_hidden_state
    for level, (mine, head) in enumerate(zip(told, ours.heads)):
        torch.testing.assert_close(mine, head(states[:, level]), atol=1e-4, rtol=1e-4)


def test_reading_a_history_does_not_depend_on_those_beside_it():
    torch.manual_seed(0)
    network = Network((4, 4, 8), TIGER(codes=Written(), **TINY).config).eval()
    codes = torch.tensor([[0, 1, 2], [3, 2, 7], [1, 1, 0], [2, 3, 5]])
    both = network.read(codes, Packing(torch.tensor([0, 9, 12])))
    alone = network.read(codes[3:], Packing(torch.tensor([0, 3])))
    torch.testing.assert_close(both[9:], alone)


# Answers ---------------------------------------------------------------------------------------------------------


def test_the_ranking_is_that_of_the_scores_of_all_items(fitted):
    query = queries(rounds(of_kinds()))
    everything = Ragged.from_lists([np.arange(64)] * len(query))
    scores = fitted.score(Query(history=query.history, candidates=everything)).values.reshape(len(query), 64)
    ranking = fitted.rank(Query(history=query.history, repeats=True), 64)
    np.testing.assert_allclose(ranking.scores, -np.sort(-scores, 1), atol=1e-4)
    np.testing.assert_allclose(np.take_along_axis(scores, ranking.items, 1), ranking.scores, atol=1e-4)


def test_the_chances_of_all_items_are_at_most_one_together(fitted):
    query = queries(rounds(of_kinds()), 3)
    scores = fitted.rank(Query(history=query.history, repeats=True), 64).scores
    assert (np.exp(scores.astype(float)).sum(1) <= 1 + 1e-5).all()


def test_a_request_among_some_items_is_searched_among_them(fitted):
    query = queries(rounds(of_kinds()))
    some = np.array([1, 2, 30, 40, 41, 63], np.int32)
    whole = fitted.rank(Query(history=query.history), 64)
    part = fitted.rank(Query(history=query.history, candidates=some), 4)
    for found, everything in zip(part.items, whole.items):
        assert found.tolist() == [item for item in everything if item in some][:4]


def test_a_new_item_is_ranked_by_its_codes_and_the_others_keep_theirs(tmp_path):
    codes = [None if item in (3, 20) else row for item, row in enumerate(of_kinds())]
    data = rounds(codes)
    model_ = model({"epochs": 3}).fit(data)
    query = queries(data)
    before = model_.rank(query, 10)
    assert not np.isin(before.items, (3, 20)).any()  # without codes they are not ranked
    new = Table.of(Ids(["new"]), {"codes": [[0, 0, 3]]})
    kept = model_.codes.codes.copy()
    model_.add_items(new)
    assert (model_.codes.codes[:64] == kept).all()
    assert 64 in model_.rank(query, 63).items
    model_.save(tmp_path / "model")
    again = load(tmp_path / "model")
    assert again.rank(query, 20).items.tolist() == model_.rank(query, 20).items.tolist()


def test_new_items_that_are_refused_leave_the_model_as_it_was(monkeypatch):
    model_, before = model({"epochs": 1}).fit(rounds(of_kinds())), of_kinds()

    def refuse(self, items):
        raise DataError("no code is left")

    monkeypatch.setattr(Written, "add_items", refuse)
    with pytest.raises(DataError):
        model_.add_items(Table.of(Ids(["new"]), {"codes": [[0, 0, 3]]}))
    assert len(model_.catalogue.items) == 64
    assert model_.item_codes().tolist() == before.tolist()
    assert model_.rank(queries(rounds(before)), 57).items.max() < 64


def test_requests_that_are_all_without_a_history_are_answered_together(fitted):
    ranking = fitted.rank(Query(history=Ragged.from_lists([[], []])), 5)
    assert ranking.items[0].tolist() == ranking.items[1].tolist()
    assert (ranking.items >= 0).all()


def test_who_took_nothing_that_can_be_read_gets_what_is_popular(fitted):
    ranking = fitted.rank(Query(history=Ragged.from_lists([[], [1, 9]])), 3)
    assert any("no history" in reason for reason in ranking.reasons)
    with pytest.raises(QueryError):
        fitted.rank(Query(user=np.array([0])), 3)


# What codes are for ----------------------------------------------------------------------------------------------


def test_codes_of_content_find_items_held_out_of_all_sequences_and_random_codes_do_not():
    rows, found = taken(300), {}
    wanted = rows[:, -1] % 8 == rows[:, -1] // 8
    histories = Ragged.from_lists(rows[wanted, :-1])
    for name, codes in (("content", of_kinds()), ("random", at_random())):
        small = model({"lr": 0.02, "epochs": 8}, layers=1, dim=16, hidden=32)
        ranking = small.fit(rounds(codes, rows[:, :-1])).rank(Query(history=histories, repeats=True), 8)
        found[name] = (ranking.items == rows[wanted, -1:]).any(1).mean()
    assert found["content"] > 0.7
    assert found["random"] < 0.2
