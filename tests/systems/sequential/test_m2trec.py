"""M2TRec: items are what their metadata say, new ones rank at once, and the category heads speed up learning."""

import math
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch.nn.functional import cross_entropy, log_softmax

from itemic.data import Dataset, Ids, Interactions, Query, Ragged, Table
from itemic.data.dataset import replace
from itemic.data.readers.known import known_set
from itemic.data.simulated import shop
from itemic.data.splits import split
from itemic.errors import ConfigError, DataError, ItemicError
from itemic.evaluation import evaluate
from itemic.model import load
from itemic.nn.attributes import Said
from itemic.nn.packing import Packing
from itemic.progress import listening
from itemic.registry import find
from itemic.systems.sequential.m2trec import M2TRec

SMALL = {"dim": 16, "layers": 1, "heads": 2, "rare": 1}
BRIEF = {"lr": 0.01, "batch_size": 64, "epochs": 1}


def lines(n_items=60, n_brands=6, n_users=40, length=6, seed=0):
    """Histories that keep to a brand and go through its categories in turn; a category has items as it happens."""
    rng = np.random.default_rng(seed)
    brand = np.arange(n_items) % n_brands
    category = np.arange(n_items) // n_brands % 5
    at = (brand[None] == np.arange(n_brands)[:, None])[:, None] & (category[None] == np.arange(5)[:, None])[None]
    steps = (rng.integers(5, size=n_users)[:, None] + np.arange(length)) % 5
    own = rng.integers(n_brands, size=n_users)
    item = np.array([[rng.choice(np.flatnonzero(at[b, c])) for c in row] for b, row in zip(own, steps)])
    columns = {
        "title": [f"thing {n % 7} of {'red' if n % 2 else 'blue'} tin" for n in range(n_items)],
        "category": [f"top {c % 2} > kind {c}" for c in category],
        "brand": [f"brand {b}" for b in brand],
        "tags": [[f"tag {b % 3}", f"tag {b % 2 + 3}"] for b in brand],
        "price": [1.5 + n % 9 for n in range(n_items)],
    }
    user, time = np.repeat(np.arange(n_users), length), np.tile(np.arange(length), n_users)
    log = Interactions.of(user, item.ravel(), n_users, n_items, time=time)
    table = Table.of(Ids([f"i{n:05}" for n in range(n_items)]), columns)
    return Dataset(table, Table.numbered(n_users, "user"), log, name="lines", repeats=True)


@pytest.fixture(scope="module")
def data():
    return lines()


def started(data, **options):
    """A model as it stands before its first step."""
    model = M2TRec(**{**SMALL, "unknown": 0.0, "word_dropout": 0.0, "dropout": 0.0, **options})
    model._catalogue = data.catalogue
    model.survey(data)
    torch.manual_seed(0)
    model._module = model.build(data.catalogue).eval()
    model.prepare(data)
    for parameter in model.module.parameters():  # the last layers of the blocks begin at zero and would hide the rest
        parameter.data += 0.02 * torch.randn_like(parameter)
    model.finish()
    return model


@pytest.fixture(scope="module")
def fitted(data):
    return M2TRec(**SMALL, training=BRIEF).fit(data)


def histories(*rows):
    return Query(history=Ragged.from_lists(rows), repeats=True)


# What is read of items ------------------------------------------------------------------------------------------------


def test_every_kind_of_field_is_read_by_its_role_and_type(data):
    model = started(data)
    read = {feature.name: feature for feature in model.read_features}
    assert {name: feature.kind for name, feature in read.items()} == {
        "title": "words",
        "category/1": "level",
        "category/2": "level",
        "brand": "values",
        "tags": "values",
        "price": "amount",
    }
    assert sorted(read["category/2"].values)[0] == "top 0 > kind 0"
    assert [f.name for f in model.predicted_features] == ["category/1", "category/2", "tags"]


@pytest.mark.parametrize("weighting", ["none", "idf"])
def test_the_vector_of_an_item_is_its_definition_written_as_a_loop(data, weighting):
    model = started(data, weighting=weighting)
    module, item = model.module, 7
    row = {name: data.items.column(name)[item].as_py() for name in data.items.names}
    said = {
        "title": set(row["title"].split()),
        "category/1": {"top 1"} if "top 1" in row["category"] else {"top 0"},
        "category/2": {row["category"]},
        "brand": {row["brand"]},
        "tags": set(row["tags"]),
    }
    parts, taken = [], np.unique(data.interactions.item)
    for feature, table in zip(model.read_features, module.attributes.tables):
        known, part = feature.bags(data.items.take(taken)).values, torch.zeros(table.shape[1])
        for value in said[feature.name]:
            number = feature.values.index(value) + 1
            holders = (known == number).sum()
            weight = 1 - math.log(holders) / math.log(len(taken) + 1) if weighting == "idf" else 1
            part += weight * table[number]
        parts.append(part)
    logs = np.log1p(data.items.column("price").to_numpy())
    parts.append(torch.tensor([(logs[item] - logs.mean()) / logs.std()], dtype=torch.float32))
    x = module.attributes.joined(torch.cat(parts))
    x = x - x.mean()
    np.testing.assert_allclose(model.item_vectors()[item], (x / x.norm()).detach(), atol=1e-5)


def test_no_parameter_belongs_to_an_item():
    few, many = (started(lines(n_items=n)) for n in (210, 2100))
    assert len(many.item_vectors()) == 10 * len(few.item_vectors())
    sizes = [sum(p.numel() for p in m.module.parameters()) for m in (few, many)]
    assert sizes[0] == sizes[1]


def test_other_ids_and_another_order_of_the_items_change_nothing_but_their_numbers(data, fitted):
    order = np.random.default_rng(1).permutation(data.n_items)
    place = np.argsort(order)
    moved = M2TRec(**SMALL, training=BRIEF)
    moved.vocabulary, moved.weights, moved._catalogue = fitted.vocabulary, fitted.weights, data.catalogue
    moved.tables = {"item": fitted._vectors(fitted._described(data.items.take(order)))}
    moved.tables["taken_by"] = fitted.tables["taken_by"][order]
    everything = np.tile(np.arange(data.n_items), (2, 1))
    candidates = Ragged.from_lists(everything)
    plain = Query(history=Ragged.from_lists([[3, 9], [5]]), candidates=candidates)
    other = Query(
        history=Ragged.from_lists([place[[3, 9]], place[[5]]]), candidates=Ragged.from_lists(place[everything])
    )
    np.testing.assert_allclose(moved.score(other).values, fitted.score(plain).values, atol=1e-5)


def test_items_with_equal_metadata_score_equally_and_one_attribute_tells_them_apart(data):
    columns = {name: data.items.column(name).to_pylist() for name in data.items.names}
    for name in columns:
        columns[name][1] = columns[name][0]
        columns[name][2] = columns[name][0]
    columns["brand"][2] = "brand 5"
    twins = replace(data, items=Table.of(data.items.ids, columns))
    said = []
    with listening(lambda text, *_: said.append(text)):
        model = M2TRec(**SMALL, training=BRIEF).fit(twins)
    assert "1 of 60 items say what another says: m2trec sees no difference" in said
    everybody = model.score(Query(history=data.interactions.histories(), candidates=np.array([0, 1, 2])))
    scores = everybody.values.reshape(-1, 3)
    np.testing.assert_array_equal(scores[:, 0], scores[:, 1])
    assert (scores[:, 0] != scores[:, 2]).all()


def test_a_word_of_one_item_stands_for_no_item_unless_asked_for(data):
    columns = {"title": [f"tin serial{n}" for n in range(data.n_items)]}
    named = replace(data, items=Table.of(data.items.ids, columns))
    assert started(named, rare=2).read_features[0].values == ("tin",)
    assert len(started(named, rare=1).read_features[0].values) == data.n_items + 1


# Histories ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"pooling": "last"}, {"all_positions": True}], ids=str)
def test_others_in_the_batch_and_their_lengths_change_nothing(data, options):
    model = started(data, **options)
    rows = [[4], [8, 3, 11, 20, 5], [7, 7], [1, 2, 3]]
    together = model.query_vectors(histories(*rows))
    for row, vector in zip(rows, together):
        np.testing.assert_allclose(model.query_vectors(histories(row))[0], vector, atol=1e-6)


def test_a_history_is_the_mean_of_its_states_or_the_last_of_them(data):
    rows = Ragged.from_lists([[8, 3, 11], [5, 6]])
    packing = Packing(torch.from_numpy(rows.offsets))
    for pooling in ("mean", "last"):
        model = started(data, pooling=pooling)
        x = torch.from_numpy(model.item_vectors()[rows.values]) * math.sqrt(16)
        with torch.no_grad():
            seen = []
            model.module.stack.register_forward_hook(lambda _m, _i, out, seen=seen: seen.append(out))
            states = model.module(x, packing)
        parts = seen[0].split([3, 2])
        expected = torch.stack([part.mean(0) if pooling == "mean" else part[-1] for part in parts])
        torch.testing.assert_close(states, expected)


def test_read_forward_only_no_place_knows_what_comes_later(data):
    model = started(data, all_positions=True)
    rows = torch.from_numpy(model.item_vectors()[[8, 3, 11, 20]]) * 4
    changed = rows.clone()
    changed[2] = -rows[1]
    packing = Packing(torch.tensor([0, 4]))
    with torch.no_grad():
        before, after = model.module(rows, packing), model.module(changed, packing)
        shorter = model.module(rows[:2], Packing(torch.tensor([0, 2])))
    torch.testing.assert_close(before[:2], after[:2], rtol=0, atol=0)
    assert not torch.allclose(before[2:], after[2:])
    torch.testing.assert_close(before[:2], shorter)


@pytest.mark.parametrize("all_positions", [False, True])
def test_the_examples_of_an_epoch_are_every_beginning_and_what_came_next(data, all_positions):
    model = started(data, all_positions=all_positions, max_length=3)
    found = set()
    for batch in model.batches(data, torch.Generator().manual_seed(0)):
        rows = Ragged(batch.item.numpy(), batch.offsets.numpy()).to_lists()
        if all_positions:
            rows = [row[: n + 1] for row in rows for n in range(len(row))]
        found |= {(tuple(row), int(n)) for row, n in zip(rows, batch.following, strict=True)}
    taken = np.unique(data.interactions.item)
    logs = [np.searchsorted(taken, row).tolist() for row in data.interactions.histories()]
    start = [max(0, len(log) - 4) if all_positions else 0 for log in logs]
    logs = [log[s:] for log, s in zip(logs, start)]
    assert found == {(tuple(log[max(0, n - 3) : n]), log[n]) for log in logs for n in range(1, len(log))}


# Losses ---------------------------------------------------------------------------------------------------------------


def batch_of(model, data):
    return next(iter(model.batches(data, torch.Generator().manual_seed(0))))


def test_the_loss_is_cross_entropy_of_the_item_and_of_each_category_that_is_known(data):
    columns = {name: data.items.column(name).to_pylist() for name in data.items.names}
    columns["category"][: data.n_items // 2] = [None] * (data.n_items // 2)
    half = replace(data, items=Table.of(data.items.ids, columns))
    model = started(half, category_weight=0.5)
    batch = batch_of(model, half)
    terms = model.loss(batch)
    table = model.module.items(model._taken) / 4
    states = model.module(table[batch.item] * 4, Packing(batch.offsets))
    asked = torch.nn.functional.normalize(model.module.asks(states))
    by_hand = {"item": cross_entropy(asked @ table.T / 0.07, batch.following.long())}
    codes = np.unique(half.interactions.item)[batch.following]
    for feature, head in zip(model.predicted_features, model.module.predicts):
        chances, known = log_softmax(head(states), 1), []
        for row, said in enumerate(feature.bags(half.items).take(codes)):
            known += [chances[row, said - 1].mean()] if len(said) else []
        assert len(known) == len(codes) if feature.name == "tags" else 0 < len(known) < len(codes)
        by_hand[feature.name] = -0.5 * torch.stack(known).mean()
    assert list(terms) == list(by_hand) == ["item", "category/1", "category/2", "tags"]
    for name in terms:
        torch.testing.assert_close(terms[name], by_hand[name], atol=1e-5, rtol=1e-5)


def test_category_losses_move_items_and_encoder_and_without_them_only_their_heads_stand_still(data):
    model = started(data)
    model.loss(batch_of(model, data))["category/1"].backward()
    module = model.module
    assert all(
        p.grad is not None and p.grad.any()
        for p in (*module.attributes.tables, *module.stack.blocks[0].feed.parameters())
    )
    assert module.asks.weight.grad is None
    without = started(data, category_weight=0.0)
    terms = without.loss(batch_of(without, data))
    assert list(terms) == ["item"]
    terms["item"].backward()
    still = {name for name, p in without.module.named_parameters() if p.grad is None}
    assert still == {name for name, _ in without.module.named_parameters() if name.startswith("predicts")}


def test_with_all_items_drawn_the_sampled_loss_is_the_whole_one(data):
    model = started(data)
    batch = batch_of(model, data)
    assert len(batch.negatives) == 0
    drawn = batch._replace(negatives=torch.randperm(model._n_items))
    whole, sampled = model.loss(batch)["item"], model.loss(drawn)["item"]
    torch.testing.assert_close(whole, sampled)
    some = started(data, n_negatives=20)
    assert len(batch_of(some, data).negatives) == 20
    assert some.loss(batch_of(some, data))["item"] != whole


def test_a_hidden_field_is_as_a_missing_one_and_nothing_is_hidden_in_answering(data):
    model = started(data, unknown=0.5)
    module = model.module
    bare = Table.of(Ids(["x"]), {name: pa_nulls(data, name) for name in data.items.names}, data.items.roles)
    missing = module.items(model._described(bare))[0]
    module.train()
    module.attributes.unknown = 1 - 1e-9
    hidden = module.items(Said([*model._all.bags], torch.full_like(model._all.numbers, torch.nan)))
    torch.testing.assert_close(hidden, missing.expand_as(hidden))
    module.eval()
    torch.testing.assert_close(module.items(model._all)[3], torch.from_numpy(model.item_vectors()[3]) * 4)


def pa_nulls(data, name):
    return pa.nulls(1, data.items.column(name).type)


def test_words_are_left_out_in_training_alone(data):
    model = started(data, word_dropout=0.5)
    module = model.module
    assert torch.equal(module.items(model._all), module.items(model._all))
    module.train()
    assert not torch.equal(module.items(model._all), module.items(model._all))
    whole = started(data).module.train()
    assert torch.equal(whole.items(model._all), whole.items(model._all))


def test_before_the_first_step_a_history_asks_for_what_shares_rare_words_with_it():
    rng = np.random.default_rng(0)
    topic = np.arange(200) // 5
    titles = [" ".join([f"telling{t}", *(f"common{n}" for n in rng.choice(12, 6, replace=False))]) for t in topic]
    data = lines(n_items=200, n_users=150)
    data = replace(data, items=Table.of(data.items.ids, {"title": titles}))
    found = {}
    for weighting in ("none", "idf"):
        model = M2TRec(dim=64, training=BRIEF | {"lr": 1e-9}, weighting=weighting).fit(data)
        vectors = model.item_vectors()
        asked = model.query_vectors(histories(*[[n, n + 1] for n in range(0, 200, 5)]))
        mean = vectors[0::5] + vectors[1::5]
        assert (np.sum(asked * mean, 1) / np.linalg.norm(mean, axis=1)).min() > 0.99
        near = np.argsort(-asked @ vectors.T, axis=1)[:, :5]
        found[weighting] = (topic[near] == np.arange(40)[:, None]).mean()
    assert found["idf"] == 1
    assert found["none"] < 0.9


def test_amounts_alone_are_metadata_enough(data):
    model = M2TRec(**SMALL, fields=("price",), training=BRIEF).fit(data)
    assert model.item_vectors().std() > 0


def test_topics_are_the_singular_vectors_of_the_items_half_whitened(data):
    model = started(data)
    bags = model._taken.bags
    whole = np.concatenate([(graph @ torch.eye(graph.shape[1])).numpy() for graph in bags], 1)
    whole /= np.linalg.norm(whole, axis=1, keepdims=True)
    left, size, _ = np.linalg.svd(whole)
    topics = model._taken.topics(1000).numpy()
    near = whole @ topics @ topics.T @ whole.T
    np.testing.assert_allclose(near, left[:, : len(size)] * size @ left[:, : len(size)].T, atol=1e-3)
    rank = (size > 1e-4).sum()
    assert topics.shape == (whole.shape[1], rank)
    assert model._taken.topics(3).shape == (whole.shape[1], 3)


# New items ------------------------------------------------------------------------------------------------------------


def test_a_new_item_scores_as_if_it_had_been_there_and_a_saved_model_keeps_it(data, tmp_path):
    model = M2TRec(**SMALL, training=BRIEF).fit(data)
    before = model.item_vectors().copy()
    rows = {name: data.items.column(name).take([7, 12]).to_pylist() for name in data.items.names}
    model.save(tmp_path / "early")
    for grown in (model, load(tmp_path / "early")):
        grown.add_items({"item_id": ["new 1", "new 2"], **rows, "colour": ["red", "red"]})
        assert grown.catalogue.n_items == data.n_items + 2
        assert grown.histories.to_lists() == data.interactions.histories().to_lists()
        np.testing.assert_array_equal(grown.item_vectors()[: data.n_items], before)
        np.testing.assert_allclose(grown.item_vectors()[data.n_items :], before[[7, 12]], atol=1e-6)
        grown.save(tmp_path / "late")
        again = load(tmp_path / "late")
        query = again.ask(histories=[["new 1", "i00003"]], candidates=["new 1", "i00007"])
        new, old = again.score(query)[0]
        assert new == pytest.approx(old, abs=1e-6)
        assert set(again.rank(query, 2).to_frame()["item"]) <= {"i00007", "new 1"}


def test_what_cannot_be_added_is_refused_in_one_line(data, fitted):
    columns = {name: [None] for name in data.items.names}
    with pytest.raises(DataError, match="1 of 1 new items are known already: 'i00000'. Leave them out."):
        fitted.add_items({"item_id": ["i00000"], **columns})
    del columns["brand"]
    with pytest.raises(
        DataError, match="m2trec reads brand of an item; the new ones have: .*brandt.*Did you mean 'brandt'"
    ):
        fitted.add_items({"item_id": ["z"], **columns, "brandt": [None]})
    popular = find("popularity")().fit(data)
    with pytest.raises(
        ItemicError, match="popularity ranks only items that it was fitted with. .* use one of: .*m2trec"
    ):
        popular.add_items({"item_id": ["z"]})
    assert fitted.catalogue.n_items == data.n_items


def test_without_metadata_it_refuses_and_single_items_without_are_one_to_it(data):
    bare = replace(data, items=Table(data.items.ids))
    with pytest.raises(
        DataError, match="m2trec reads what items are, and finds nothing to read in their columns: none."
    ):
        M2TRec(**SMALL, training=BRIEF).fit(bare)
    columns = {"brand": data.items.column("brand").to_pylist()}
    columns["brand"][4:6] = [None, None]
    said = []
    with listening(lambda text, *_: said.append(text)):
        model = M2TRec(**SMALL, training=BRIEF).fit(replace(data, items=Table.of(data.items.ids, columns)))
    assert "2 of 60 items have no metadata: they are one item to m2trec" in said
    np.testing.assert_array_equal(model.item_vectors()[4], model.item_vectors()[5])
    assert model.rank(histories([4, 5]), 60).items.min() >= 0


def test_fields_that_cannot_be_read_or_predicted_are_refused_with_the_reason(data):
    columns = {"sku": [f"s{n}" for n in range(data.n_items)], "brand": data.items.column("brand").to_pylist()}
    coded = replace(data, items=Table.of(data.items.ids, columns))
    assert [f.name for f in started(coded).read_features] == ["brand"]
    with pytest.raises(DataError, match="m2trec cannot read items.sku: 60 different values of 60 items make it an id."):
        started(coded, fields=("sku",))
    with pytest.raises(DataError, match="items have no column 'brnd'. Did you mean 'brand'"):
        started(coded, fields=("brnd",))
    with pytest.raises(
        ConfigError, match="m2trec predicts values, not amounts such as 'price'. Leave it out of predict."
    ):
        started(data, predict=("price",))


# What it learns -------------------------------------------------------------------------------------------------------

LEARNS = {
    "dim": 32,
    "layers": 1,
    "heads": 2,
    "all_positions": True,
    "dropout": 0.1,
    "word_dropout": 0.0,
    "fields": ("brand", "category"),
}


@pytest.fixture(scope="module")
def planted():
    """500 items, of which a fifth is held out of training whole; the next item is of the brand, one category on."""
    data = lines(n_items=500, n_brands=10, n_users=400, length=8)
    return split(data, by="items", test=0.2, valid=0.0, seed=0)


def test_it_ranks_items_that_nobody_took_as_their_metadata_tell_and_shows_their_category_and_attributes(planted):
    model = M2TRec(**LEARNS, training={"lr": 0.01, "batch_size": 64, "epochs": 6}).fit(planted.train)
    cold = np.unique(planted.test.relevant.values)
    assert not np.isin(cold, planted.train.interactions.item).any()
    test = planted.test
    blind = find("itemknn")().fit(planted.train)
    found = evaluate(model, test, "hit@5", protocol="held-out")["hit@5"]
    chance = np.mean([1 - (1 - 5 / len(cold)) ** n for n in test.relevant.lengths])
    assert found > 4 * chance  # of about a hundred items, not of five hundred
    assert evaluate(blind, test, "hit@5")["hit@5"] == 0
    assert evaluate(model, test, "recall@20")["recall@20"] > 5 * 20 / 500
    chances = model.chances(histories([0], [10]), "category/2")
    assert sum(row for row in chances.values()) == pytest.approx([1, 1], abs=1e-5)
    assert max(chances, key=lambda value: chances[value][0]) == "top 1 > kind 1"
    tags = model.chances(histories([0, 10], [11, 1]), "tags")
    for row, expected in enumerate(({"tag 0", "tag 3"}, {"tag 1", "tag 4"})):  # of brands 0 and 1
        assert set(sorted(tags, key=lambda tag: -tags[tag][row])[:2]) == expected
    with pytest.raises(ConfigError, match="m2trec does not predict 'brand' here, but category/1, category/2, tags."):
        model.chances(histories([0]), "brand")


def test_predicting_categories_speeds_up_learning_what_titles_mean():
    """Where categories are read themselves, items in common with them teach as much: there it changes nothing."""
    data = lines(n_items=500, n_brands=10, n_users=400, length=8)
    titles = [f"word{n} word{n * 7 % 500}" for n in range(500)]
    columns = {**{name: data.items.column(name) for name in data.items.names}, "title": titles}
    data = split(replace(data, items=Table.of(data.items.ids, columns)), by="last", valid=0.0)
    options = LEARNS | {"fields": ("title",), "predict": ("brand", "category"), "rare": 1}
    training = {"lr": 0.003, "batch_size": 64, "epochs": 10, "metric": "recall@20", "patience": None}
    found = {3.0: 0.0, 0.0: 0.0}
    for weight in found:
        for seed in (0, 1, 2):  # 1.26, 1.16 and 1.14 times as much over the last epochs
            model = M2TRec(**options, seed=seed, category_weight=weight, training=training).fit(data.train, data.test)
            found[weight] += sum(epoch["recall@20"] for epoch in model.fitted_on["curve"][4:])
    assert found[3.0] > 1.05 * found[0.0]


def test_category_levels_of_a_shop_are_read_and_predicted():
    data = split(shop(150, 300, 2500, seed=0), by="items", seed=0)
    model = M2TRec(**LEARNS | {"fields": None}, training={"lr": 0.005, "batch_size": 32, "epochs": 3}).fit(data.train)
    assert [f.name for f in model.predicted_features] == ["category/1", "category/2", "category/3"]
    popular = find("popularity")().fit(data.train)
    values = [evaluate(m, data.test, "recall@20")["recall@20"] for m in (model, popular)]
    assert values[0] > 5 * values[1]


def test_category_levels_of_real_sessions_are_read_predicted_and_find_what_nobody_took(real_data):
    """Of what people took last, 95 % was taken by nobody before: ids say nothing there."""
    data = split(known_set(real_data("bundle-clothing")), by="last", valid=0.0)
    training = {"lr": 0.005, "batch_size": 32, "epochs": 3}
    model = M2TRec(**LEARNS | {"fields": ("category",)}, training=training).fit(data.train)
    levels = model.predicted_features
    assert [feature.name for feature in levels] == [f"category/{n}" for n in range(1, 9)]
    for upper, lower in pairwise(levels):
        assert {path.rpartition(" > ")[0] for path in lower.values} <= set(upper.values)
    for feature in levels[1:4]:
        bags, chances = feature.bags(data.items), model.chances(data.test.query, feature.name)
        following, most = (
            bags.take(data.test.relevant.values),
            np.bincount(bags.take(data.train.interactions.item).values),
        )
        guess = np.stack([*chances.values()]).argmax(0)[following.row_of_value] + 1
        assert (guess == following.values).mean() > 1.15 * (following.values == most.argmax()).mean()
    assert evaluate(model, data.test, "recall@20")["recall@20"] > 5 * 20 / data.n_items


@pytest.mark.parametrize("name", ["amazon-beauty", "yelp-s3rec"])
def test_without_category_paths_it_is_the_attribute_set_that_is_predicted(real_data, name):
    data, model = known_set(real_data(name)), M2TRec(fields=("attributes",))
    model.survey(data)
    (feature,) = model.predicted_features
    assert (feature.name, feature.kind) == ("attributes", "values")
    assert feature.said(data.items).mean() > 3
