"""Ettin's twins, small and on made-up products: what they learn, how they are kept, and what they refuse."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from itemic.cli import main
from itemic.data import Dataset, Ids, Ragged, Table
from itemic.data.interactions import Interactions
from itemic.encoders import ettin
from itemic.encoders.documents import documents_of, rows_of
from itemic.encoders.ettin import SHAPES, Ettin, Network
from itemic.encoders.speaking import N_MARKS
from itemic.encoders.vocabulary import Vocabulary
from itemic.errors import ConfigError, DataError, QueryError
from itemic.model import load
from itemic.nn.packing import Packing

pytest.importorskip("tokenizers", reason="tokenizers is not installed (pip install 'itemic[text]')")
BRANDS = ["Noa", "Brill", "Tamsin", "Corvo", "Ister", "Quell"]
KINDS = {"kettle": "kitchen", "pan": "kitchen", "lamp": "living room", "rug": "living room", "tent": "garden"}
COLOURS = ["red", "blue", "green", "amber", "violet"]
QUICK = {"size": "nano", "vocabulary": 512, "tokens": 12_000, "lengths": (32, 48, 48), "held_out": 0.1}
QUICK |= {"training": {"batch_size": 8, "warmup": 10, "precision": "float32"}}


def products(n=900, seed=0):
    """Titles by a small grammar: the room says which kind of thing it is, and comes first."""
    rng = np.random.default_rng(seed)
    kinds = list(KINDS)
    titles = []
    for number in range(n):
        kind, brand, colour = kinds[rng.integers(5)], BRANDS[rng.integers(6)], COLOURS[rng.integers(5)]
        titles.append(f"For the {KINDS[kind]}: {colour} {kind} by {brand}, model {rng.integers(10, 99)}{number:03d}")
    return titles


def shop(columns):
    items = Table.of(Ids([f"i{n}" for n in range(len(next(iter(columns.values()))))]), columns)
    return Dataset(items, Table.numbered(0, "user"), Interactions.none(0, len(items)))


def talk(titles=None):
    turns = [(1, "user", "I need a lamp."), (1, "recommender", "Try the red lamp by Noa!"), (1, "user", "Fine")]
    turns += [(2, "user", "A tent?"), (2, "recommender", "The blue tent by Corvo.")]
    columns = dict(zip(("dialogue", "role", "text"), map(list, zip(*turns))))
    named = {"item": [0, 1, 2, 3], "title": titles} if titles else {"item": [0, 1, 2, 3]}
    return Dataset.from_dialogues({**columns, "items": [[], [0], [], [], [1]]}, items=named)


@pytest.fixture(scope="module")
def data():
    return shop({"title": products()})


@pytest.fixture(scope="module")
def fitted(data):
    return Ettin(**QUICK).fit(data)


CUT = QUICK | {"tokens": 900, "training": QUICK["training"] | {"checkpoint_steps": 1, "batch_size": 4}}


@pytest.fixture(scope="module")
def uncut(data):
    return Ettin(**CUT).fit(data)


# What is learned --------------------------------------------------------------------------------------------------


def test_both_twins_learn_and_neither_without_training(fitted, data):
    untrained = Ettin(**QUICK | {"tokens": 500}).fit(data)
    for twin, least in (("encoder", 0.6), ("decoder", 0.6)):
        assert fitted.fitted_on["perplexity"][twin] < least * untrained.fitted_on["perplexity"][twin]


def test_the_decoder_knows_what_is_likely_and_the_encoder_what_is_alike(fitted):
    def chance(text):
        return fitted.log_probs([text])[0].sum()

    assert chance("For the kitchen: red pan by Noa") > chance("For the kitchen: red Noa by pan")
    near = fitted.encode_texts(["For the garden: red tent by Noa", "For the garden: red tent by Quell", "by by the"])
    assert near[0] @ near[1] > near[0] @ near[2]


def test_the_same_fit_twice_gives_the_same_bits(data, uncut):
    again = Ettin(**CUT).fit(data)
    assert all(np.array_equal(uncut.weights[name], again.weights[name]) for name in uncut.weights)


def test_twins_are_trained_on_the_same_steps_and_the_last_phase_has_the_longer_rows_and_base(data):
    model = Ettin(**QUICK)
    model._catalogue = data.catalogue
    model.survey(data)
    model._module = model.build(data)
    stages = model.stages(data)
    assert [stage.name for stage in stages] == [
        f"{twin}, {phase}" for twin in ("encoder", "decoder") for phase in ("pretraining", "longer texts", "decay")
    ]
    drawn = []
    for stage in stages:
        stage.begin()
        drawn.append([rows.tolist() for rows in stage.batches(torch.Generator())])
    assert drawn[:3] == drawn[3:]
    assert [stage.continues for stage in stages[:3]] == [None, "encoder, pretraining", "encoder, pretraining"]
    bases = [160_000 ** (-2 / 64), 160_000 ** (-2 / 64)]
    network = model.module
    assert [network.encoder.far.frequencies[1].item(), network.decoder.near.frequencies[1].item()] == pytest.approx(
        bases
    )
    read = sum(len(model._seen[0].tokens.positions(np.array(rows))) for rows in drawn[0])
    assert read == pytest.approx(0.85 * 12_000, rel=0.05)


def test_the_local_base_stays_where_one_is_given(data):
    model = Ettin(**QUICK, local_rope_base=10_000.0)
    model._catalogue = data.catalogue
    model.survey(data)
    model._module = model.build(data)
    model._enter("decoder", 2)
    first, second = (p.frequencies[1].item() for p in (model.module.decoder.far, model.module.decoder.near))
    assert first == pytest.approx(160_000 ** (-2 / 64))
    assert second == pytest.approx(10_000 ** (-2 / 64))


def test_6_the_end_of_a_row_that_ends_no_document_is_nothing_to_be_told(data):
    model = Ettin(**QUICK)
    model._catalogue = data.catalogue
    model.survey(data)
    model._module = model.build(data).eval()
    long = Ragged.from_lists([[10, 11, 12, 13, 14], [20, 21]])
    rows = model.rows(long, 5)
    assert rows.tokens.to_lists() == [[2, 10, 11, 12, 3], [2, 13, 14, 3], [2, 20, 21, 3]]
    _, target = model._asked("decoder", rows, np.arange(3), 0.0)
    assert target.tolist() == [10, 11, 12, 13, 14, 3, 20, 21, 3]


def test_5_marks_are_never_hidden_and_all_else_is_as_often_as_asked(data):
    torch.manual_seed(0)
    model = Ettin(**QUICK | {"vocabulary": 520})
    model._catalogue = data.catalogue
    model.survey(data)
    model._module = model.build(data).eval()
    rows = model._seen[0]
    _, target = model._asked("encoder", rows, np.arange(len(rows.tokens)), 0.3)
    n = int((rows.tokens.values >= N_MARKS).sum())
    assert target.min() >= N_MARKS
    assert len(target) / n == pytest.approx(0.3, abs=0.02)


def test_small_sets_are_read_so_many_times_at_most(data):
    model = Ettin(**QUICK | {"tokens": 10**9, "training": QUICK["training"] | {"epochs": 2}})
    model._catalogue = data.catalogue
    model.survey(data)
    n_tokens = len(model._seen[0].tokens.values)
    read = np.concatenate(model._steps[0])
    assert len(model._seen[0].tokens.positions(read)) == pytest.approx(0.85 * 2 * n_tokens, rel=0.05)


# What is read -----------------------------------------------------------------------------------------------------


@given(st.text(st.characters(exclude_categories=["Cs"])))
@settings(max_examples=200)
def test_any_text_comes_back_from_its_pieces(text):
    vocabulary = Vocabulary(VOCABULARY)
    assert vocabulary.texts(vocabulary.whole([text], 10_000)) == [text]
    assert vocabulary.texts(vocabulary.cut([text])) == [text]
    assert (vocabulary.cut([text]).values >= N_MARKS).all()


VOCABULARY = Vocabulary.readable(products(100), 512, ["[user]", "[recommender]"]).description


@pytest.mark.parametrize("text", ["[CLS]", "a [MASK] b", "[user] I hate you[SEP]", "[recommender]"])
def test_marks_in_a_text_are_letters(text):
    vocabulary = Vocabulary(VOCABULARY)
    assert (vocabulary.cut([text]).values >= N_MARKS).all()
    assert vocabulary.texts(vocabulary.whole([text], 1000)) == [text]


def test_dialogues_are_documents_with_a_mark_before_each_turn():
    vocabulary = Vocabulary(VOCABULARY)
    documents = documents_of(talk(["red pan", "red pan", "lamp", None]), ["title"], "{text}")
    user, recommender = (vocabulary.mark_of(f"[{role}]") for role in ("user", "recommender"))
    rows = documents.pieces(vocabulary)
    expected = [["red pan"], ["lamp"], [user, "I need a lamp.", recommender, "Try the red lamp by Noa!", user, "Fine"]]
    expected += [[user, "A tent?", recommender, "The blue tent by Corvo."]]
    assert [row.tolist() for row in rows] == [
        [n for part in parts for n in ([part] if isinstance(part, int) else vocabulary.cut([part]).values.tolist())]
        for parts in expected
    ]
    assert documents.take(np.array([2, 0])).pieces(vocabulary).to_lists() == [rows[2].tolist(), rows[0].tolist()]


def test_a_share_is_held_out_and_of_much_text_so_much_as_is_soon_read(monkeypatch, data):
    model = Ettin(**QUICK)
    model.shape = {"fields": ["title"]}
    read, held = model.parted(data)
    assert (len(read), len(held)) == (810, 90)
    assert sorted(read.texts + held.texts) == sorted(set(products()))
    monkeypatch.setattr(ettin, "HELD_OUT", 1000)
    assert 900 < sum(map(len, model.parted(data)[1].texts)) < 1000
    monkeypatch.setattr(ettin, "HELD_OUT", 1)
    assert len(model.parted(data)[1]) == 1


def test_dialogues_alone_are_enough():
    model = Ettin(**QUICK)
    assert model._fields(talk()) == []
    model.shape = {"fields": []}
    read, held = model.parted(talk())
    assert sorted([len(read.texts), len(held.texts)]) == [2, 3]


@given(st.lists(st.integers(0, 12), min_size=1, max_size=8), st.integers(4, 9))
def test_rows_hold_every_piece_once_in_order_and_know_which_of_them_end_a_document(lengths, longest):
    pieces = Ragged.from_lengths(np.arange(100, 100 + sum(lengths), dtype=np.int32), np.array(lengths))
    rows, whole = rows_of(pieces, longest, 2, 3)
    assert all(row[0] == 2 and row[-1] == 3 and 3 <= len(row) <= longest for row in rows)
    assert [n for row in rows for n in row[1:-1]] == pieces.values.tolist()
    assert whole.sum() == sum(length > 0 for length in lengths)
    starts = np.concatenate([[True], whole[:-1]]) if len(rows) else []
    assert [row[1] for row, begins in zip(rows, starts) if begins] == [p[0] for p in pieces if len(p)]


# Answers ----------------------------------------------------------------------------------------------------------


def test_vectors_are_means_of_the_encoder_s_states_of_length_one_and_nan_without_text(fitted):
    made = fitted.encode(shop({"title": ["red pan by Noa", None, "x" * 400]}).items)
    assert np.isnan(made[1]).all()
    ids = torch.from_numpy(fitted.cutter.whole(["red pan by Noa"], 48).values).long()
    with torch.no_grad():
        mean = fitted.module.encoder(ids, Packing(torch.tensor([0, len(ids)]))).mean(0)
    np.testing.assert_allclose(made[0], mean / mean.norm(), atol=1e-5)
    assert np.linalg.norm(made[2]) == pytest.approx(1, abs=1e-5)
    np.testing.assert_array_equal(np.isnan(fitted.encode_texts(["", " ", "a"])).all(1), [True, True, False])


def test_chances_are_those_of_the_decoder_s_softmax_and_add_up_along_a_text(fitted):
    found = fitted.log_probs(["red pan", "", "blue lamp by Noa"])
    for text, chances in zip(["red pan", "", "blue lamp by Noa"], found):
        ids = torch.from_numpy(fitted.cutter.whole([text], 48).values).long()
        with torch.no_grad():
            logits = fitted.decoder.logits(fitted.decoder(ids, Packing(torch.tensor([0, len(ids)]))))
        expected = logits.log_softmax(-1)[:-1].gather(1, ids[1:, None])[:, 0]
        np.testing.assert_allclose(chances, expected, atol=1e-4)
    (whole,), (after,) = fitted.log_probs(["a pan by Noa"]), fitted.log_probs([" by Noa"], given=["a pan"])
    np.testing.assert_allclose(after, whole[-len(after) :], atol=1e-4)  # the pieces are cut at the same place
    assert fitted.log_probs([]).to_lists() == []


def test_states_are_those_of_each_text_read_alone(fitted):
    found = fitted.states(["red pan", "", "blue lamp by Noa"])
    assert found.lengths.tolist() == (fitted.cutter.cut(["red pan", "", "blue lamp by Noa"]).lengths + 1).tolist()
    np.testing.assert_allclose(found[2], fitted.states(["blue lamp by Noa"])[0], atol=1e-5)


def test_what_is_gone_on_with_a_cache_is_what_is_read_all_at_once(fitted):
    prompts = ["For the kitchen: red", "For", "", "For the living room: amber lamp by"]
    for prompt, found in zip(prompts, fitted.generate(prompts, 12)):
        ids = fitted.cutter.whole([prompt], 48).values[:-1].tolist()
        said = []
        for _ in range(12):
            with torch.no_grad():
                word = torch.tensor(ids + said)
                logits = fitted.decoder.logits(fitted.decoder(word, Packing(torch.tensor([0, len(word)]))))[-1]
            logits[[0, 1, 2, 4]] = -torch.inf
            said.append(int(logits.argmax()))
            if said[-1] < N_MARKS:
                break
        assert found == fitted.cutter.texts(Ragged.from_lists([[n for n in said if n >= N_MARKS]]))[0]


def test_drawn_texts_differ_by_seed_and_come_from_likely_pieces_alone_where_asked(fitted):
    ask = {"prompts": ["For the"] * 3, "n_tokens": 10}
    first, again, other = (fitted.generate(**ask, temperature=1.0, seed=seed) for seed in (0, 0, 1))
    assert first == again != other
    assert len(set(first)) > 1
    assert fitted.generate(**ask, temperature=1.0, top_p=1e-6) == fitted.generate(**ask)


def test_a_dialogue_is_gone_on_with_by_who_is_asked_for(fitted):
    said = [("user", "I need a lamp."), ("recommender", "Try this.")]
    pieces = fitted._prompted([said, "a lamp"], "recommender")
    marks = [fitted.cutter.mark_of(f"[{role}]") for role in ("user", "recommender")]
    cut = [row.tolist() for row in fitted.cutter.cut(["I need a lamp.", "Try this.", "a lamp"])]
    assert pieces.to_lists() == [[marks[0], *cut[0], marks[1], *cut[1], marks[1]], [*cut[2], marks[1]]]
    assert len(fitted.generate([said], 4, role="recommender")) == 1
    with pytest.raises(QueryError, match="'seeker' is no role. Roles: user, recommender."):
        fitted.generate([[("seeker", "hello")]], 4)


# Keeping ----------------------------------------------------------------------------------------------------------


def test_a_saved_model_is_enough_to_answer_and_to_write_folders(fitted, tmp_path):
    loaded = load(fitted.save(tmp_path / "model"))
    texts = ["red pan by Noa", "lamp"]
    np.testing.assert_array_equal(loaded.encode_texts(texts), fitted.encode_texts(texts))
    assert loaded.generate(texts, 8) == fitted.generate(texts, 8)
    assert loaded.fitted_on["perplexity"] == fitted.fitted_on["perplexity"]
    done = CliRunner().invoke(main, ["export", str(tmp_path / "model"), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert done.output.split() == ["wrote", str(tmp_path / "out/decoder"), "wrote", str(tmp_path / "out/encoder")]
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    word = torch.from_numpy(fitted.cutter.whole(texts, 48).values[:8]).long()
    for twin, kind in (("encoder", "ForMaskedLM"), ("decoder", "ForCausalLM")):
        theirs = getattr(transformers, f"AutoModel{kind}").from_pretrained(tmp_path / "out" / twin).eval()
        model = fitted.module.twin(twin)
        with torch.no_grad():
            ours = model.logits(model(word, Packing(torch.tensor([0, 8]))))
            assert (theirs(word[None]).logits[0] - ours).abs().max() < 1e-4


def test_another_model_cannot_be_written_for_others(tmp_path):
    from itemic.systems.baselines.popularity import Popularity

    Popularity().fit(Dataset.from_frame({"user": [1], "item": [2]})).save(tmp_path / "p")
    done = CliRunner().invoke(main, ["export", str(tmp_path / "p"), "--out", str(tmp_path / "out")])
    assert done.exit_code == 1
    assert "is popularity, which no other library opens. Export a language model: ettin." in done.output


@pytest.mark.parametrize("step", [3, 8, 12])
def test_a_resumed_fit_ends_with_the_same_bits(data, uncut, tmp_path, monkeypatch, step):
    """Cut in the encoder's first phase, at the border of its last two, and in the decoder's first."""

    class Cut(Exception):
        pass

    def on_step(self, at):
        if at == step + 1:
            raise Cut

    with monkeypatch.context() as patch:
        patch.setattr(Ettin, "on_step", on_step)
        with pytest.raises(Cut):
            Ettin(**CUT).fit(data, folder=tmp_path)
    log = [json.loads(line)["stage"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert len(log) == {3: 0, 8: 2, 12: 3}[step]
    resumed = Ettin(**CUT).fit(data, folder=tmp_path, resume=True)
    assert all(np.array_equal(uncut.weights[name], resumed.weights[name]) for name in uncut.weights)


def test_sizes_are_those_of_the_paper():
    for name, millions in (("17m", 16.8), ("32m", 31.9), ("68m", 68.1)):
        with torch.device("meta"):
            twin = Network(50_368, Ettin(size=name, vocabulary=50_368).config).encoder
        n = sum(weight.numel() for part in (twin.word, twin.stack) for weight in part.parameters())
        assert n / 1e6 == pytest.approx(millions, abs=0.05)
    assert SHAPES["1b"] == (28, 1792, 3840, 28)


# What is refused --------------------------------------------------------------------------------------------------


def test_what_cannot_be_learned_from_is_refused_in_one_line(data):
    with pytest.raises(DataError, match="no column of the items of data is known as text."):
        Ettin().fit(shop({"price": [1.0, 2.0]}))
    with pytest.raises(
        DataError, match=r"ettin learns from two texts or more; data has 1 in title. Name other fields: "
    ):
        Ettin().fit(shop({"title": ["red pan", "red pan", None]}))
    with pytest.raises(
        DataError, match=r"a vocabulary of 4,096 pieces is more than these texts give: [\d,]+. Set vocabulary=\d+."
    ):
        Ettin().fit(data)
    for options, text in (
        ({"window": 7}, "window"),
        ({"phases": (0, 0, 0)}, "more than 0"),
        ({"vocabulary": 513}, "vocab"),
    ):
        with pytest.raises(ConfigError, match=text):
            Ettin(**options)


def test_the_vocabulary_that_the_message_names_can_be_had(data):
    with pytest.raises(DataError) as refused:
        Ettin().fit(data)
    size = int(str(refused.value).rsplit("=", 1)[1].rstrip("."))
    assert len(Vocabulary.readable(products(), size, ["[user]", "[recommender]"])) == size


def test_texts_longer_than_it_was_trained_to_read_are_refused_by_the_decoder(fitted):
    text = "tent " * 60
    for ask in (fitted.states, fitted.log_probs):
        with pytest.raises(
            QueryError, match=r"text 2 of 2 has \d+ tokens; ettin was trained to read 48. Shorten it, or "
        ):
            ask(["lamp", text])
    with pytest.raises(
        QueryError, match=r"prompt 1 of 1 has \d+ tokens with the 47 to come; ettin was trained to read 48."
    ):
        fitted.generate(["lamp"], 47)
