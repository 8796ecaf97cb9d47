"""RecGPT beside transformers' GPT-2 with the same weights, beside its definition in loops, and on catalogues unseen."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

from itemic.cli import main
from itemic.data import Dataset, Ids, Interactions, Query, Ragged, Table
from itemic.errors import ConfigError, DataError
from itemic.model import Encoder, ModelConfig, Tokenizer, load, part
from itemic.nn.packing import Packing
from itemic.registry import find, tokenizer
from itemic.systems.generative.recgpt import Network, RecGPT
from itemic.systems.sequential.base import Followed

SLOTS = 4


@tokenizer("written-for-recgpt")
class Written(Tokenizer[ModelConfig]):
    """Codes that stand in a column."""

    vectors: Encoder = part("column-for-tests")

    @property
    def sizes(self):
        return (12,) * SLOTS

    def solve(self, train):
        self.tables["codes"] = self.read(train.items)
        return {}

    def read(self, items):
        told = [[-1] * SLOTS if row is None else row for row in items.column("codes").to_pylist()]
        return np.array(told, np.int32)

    def add_items(self, items):
        self.tables["codes"] = np.concatenate([self.tables["codes"], self.read(items)])
        return self


TINY = {"dim": 16, "layers": 2, "heads": 2, "dropout": 0.0, "max_length": 8}
TRAINING = {"lr": 5e-3, "batch_size": 32, "epochs": 3, "precision": "float32"}


def model(training=None, **options):
    return RecGPT(**{"codes": Written(), **TINY, "training": {**TRAINING, **(training or {})}, **options})


def dataset(rows, vectors, codes=None, first=0, name="data"):
    """Users who took these items, one after the other; vectors and codes stand in columns."""
    ids = Ids([f"i{first + n}" for n in range(len(vectors))])
    columns = {"vector": [None if row is None else [float(x) for x in row] for row in vectors]}
    if codes is not None:
        columns["codes"] = [None if row is None else [int(code) for code in row] for row in codes]
    user = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    log = Interactions.of(user, np.concatenate(rows), len(rows), len(vectors), time=np.arange(len(user)))
    return Dataset(Table.of(ids, columns), Table.numbered(len(rows), "user"), log, name=name)


def shop(seed=0, n_items=30, n_users=25):
    """Items with random codes, some of them shared, and random histories; the last item has neither text nor codes."""
    rng = np.random.default_rng(seed)
    codes, vectors = rng.integers(0, 3, (n_items, SLOTS)), rng.normal(size=(n_items, 8))
    codes[5] = codes[3]
    rows = [rng.integers(0, n_items, rng.integers(2, 12)) for _ in range(n_users)]
    return dataset(rows, [*vectors[:-1], None], [*codes[:-1], None])


@pytest.fixture(scope="module")
def fitted():
    return model().fit(shop())


@pytest.fixture
def network():
    torch.manual_seed(0)
    made = Network((12,) * SLOTS, 8, model().config).eval()
    for weight in made.parameters():
        nn.init.normal_(weight, std=0.5)
    return made


def asked(*rows, **more):
    return Query(history=Ragged.from_lists([list(row) for row in rows]), **more)


def read(network, codes, content, lengths):
    return network(codes, content, Packing(torch.tensor([0, *np.cumsum(lengths)]) * SLOTS))


# The network -----------------------------------------------------------------------------------------------------


def test_one_way_and_without_aux_the_network_is_gpt2_with_the_same_weights():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    ours = Network((12,) * SLOTS, 0, model(mask="causal", aux=False).config).eval()
    ours.code_norm = nn.Identity()  # GPT-2 does not normalise what it reads
    for weight in ours.parameters():
        nn.init.normal_(weight, std=0.3)
    config = transformers.GPT2Config(vocab_size=12, n_positions=32, n_embd=16, n_layer=2, n_head=2)
    theirs = transformers.GPT2Model(config).eval()
    given = {"wte.weight": ours.code.weight, "wpe.weight": ours.positions.table}
    layers = {"ln_f": ours.stack.norm}
    for n, block in enumerate(ours.stack.blocks):
        layers |= {f"h.{n}.ln_1": block.attend_norm, f"h.{n}.ln_2": block.feed_norm}
        attend = block.attend
        for name, parts in (
            ("attn.c_attn", (attend.query, attend.key, attend.value)),
            ("attn.c_proj", (attend.out,)),
            ("mlp.c_fc", (block.feed.inner,)),
            ("mlp.c_proj", (block.feed.outer,)),
        ):
            given[f"h.{n}.{name}.weight"] = torch.cat([layer.weight.T for layer in parts], 1)
            given[f"h.{n}.{name}.bias"] = torch.cat([layer.bias for layer in parts])
    given |= {f"{name}.{kind}": getattr(layer, kind) for name, layer in layers.items() for kind in ("weight", "bias")}
    theirs.load_state_dict(given)
    codes = torch.randint(0, 12, (7, SLOTS))
    found = read(ours, codes, None, [5, 2])
    for start, stop in ((0, 5), (5, 7)):
        alone = theirs(codes[start:stop].flatten()[None]).last_hidden_state[0]
        torch.testing.assert_close(found[start * SLOTS : stop * SLOTS], alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("mask", ["hybrid", "causal"])
def test_a_code_changes_all_of_its_item_and_what_comes_later_and_one_way_only_what_comes_later(network, mask):
    network.hybrid = mask == "hybrid"
    codes, content = torch.randint(0, 12, (4, SLOTS)), torch.randn(4, 8)
    before = read(network, codes, content, [4])
    for slot in range(SLOTS):
        other = codes.clone()
        other[1, slot] = (codes[1, slot] + 1) % 12
        moved = (read(network, other, content, [4]) - before).abs().amax(1) > 1e-6
        first = SLOTS if mask == "hybrid" else SLOTS + slot
        assert moved.tolist() == [n >= first for n in range(4 * SLOTS)]


def test_what_is_read_is_two_norms_added_so_that_the_size_of_either_table_does_not_matter(network):
    codes, content = torch.randint(0, 12, (5, SLOTS)), torch.randn(5, 8)
    before = network.read(codes, content)
    with torch.no_grad():
        network.code.weight *= 10
        network.aux.weight *= 10
    torch.testing.assert_close(network.read(codes, content), before, atol=1e-3, rtol=1e-3)
    assert not torch.allclose(network.read(codes, content[[1, 0, 2, 3, 4]])[:SLOTS], before[:SLOTS], atol=0.1)


def test_first_weights_are_those_of_gpt2():
    torch.manual_seed(0)
    made = Network((500,) * 4, 256, RecGPT(dim=128, layers=3, heads=2).config)
    plain, joins = 0.02, 0.02 / 6**0.5
    for name, weight in made.named_parameters():
        if weight.ndim == 2:
            wanted = joins if name.endswith(("attend.out.weight", "feed.outer.weight")) else plain
            assert weight.std().item() == pytest.approx(wanted, rel=0.05), name
        else:
            assert (weight == (1 if "norm" in name and name.endswith("weight") else 0)).all(), name


# Training and answers --------------------------------------------------------------------------------------------


def test_the_loss_of_three_items_is_that_of_the_first_eight_codes_each_foreseeing_the_one_four_on(fitted):
    items = np.array([4, 9, 3])
    codes = torch.from_numpy(fitted.item_codes()[items]).long()
    content = torch.from_numpy(fitted.tables["content"][items])
    logits = fitted.module.head(read(fitted.module, codes, content, [3])).log_softmax(-1)
    labels = codes.flatten()
    wanted = -sum(logits[p, labels[p + 4]] for p in range(8)) / 8
    batch = Followed(torch.tensor([4, 9]), torch.tensor([9, 3]), torch.tensor([0, 2]))
    assert fitted.loss(batch)["codes"].item() == pytest.approx(wanted.item(), abs=1e-5)


def test_the_score_of_an_item_is_that_of_its_codes_one_by_one(fitted):
    everything = Ragged.from_lists([np.arange(30)] * 2)
    history = [3, 9, 4]
    scores = fitted.score(asked(history, [7], candidates=everything)).values.reshape(2, 30)
    codes = torch.from_numpy(fitted.item_codes()).long()
    content = torch.from_numpy(fitted.tables["content"])
    with torch.no_grad():
        states = read(fitted.module, codes[history], content[history], [3])
        said = fitted.module.head(states[-SLOTS:]).log_softmax(-1)
    for item in range(29):
        assert scores[0, item] == pytest.approx(sum(said[s, codes[item, s]].item() for s in range(SLOTS)), abs=1e-4)
    assert scores[0, 29] == -np.inf  # it has no codes


@pytest.mark.parametrize("beam", [None, 30])
def test_lists_are_those_of_all_scores_and_items_that_share_codes_are_all_there(fitted, beam):
    rows = [[3, 9, 4], [29, 7], [1, 1, 2, 8]]
    scores = fitted.score(asked(*rows, candidates=Ragged.from_lists([np.arange(30)] * 3))).values.reshape(3, 30)
    other = fitted if beam is None else model(decode="beam", beam=beam).fit(shop())
    ranking = other.rank(asked(*rows, repeats=True), 29)
    np.testing.assert_array_equal(np.sort(ranking.items), np.tile(np.arange(29), (3, 1)))
    np.testing.assert_allclose(ranking.scores, -np.sort(-scores[:, :29], 1), atol=1e-5)
    for row in ranking.items.tolist():
        assert row.index(5) == row.index(3) + 1  # the same codes, and the lower number first
    left = other.rank(asked(*rows, candidates=np.array([1, 2, 3, 8, 29], np.int32), exclude=np.array([2])), 3)
    assert [sorted(row) for row in left.items.tolist()] == [[-1, 1, 8], [1, 3, 8], [-1, -1, 3]]


def test_answers_do_not_depend_on_who_asks_beside(fitted):
    rng = np.random.default_rng(1)
    short, others = [[3, 4]], [rng.integers(0, 29, n).tolist() for n in (8, 1, 5)]
    alone, beside = fitted.rank(asked(*short), 10), fitted.rank(asked(*others, *short), 10)
    assert alone.items[0].tolist() == beside.items[3].tolist()
    np.testing.assert_allclose(alone.scores[0], beside.scores[3], atol=1e-5)


def test_only_the_newest_items_are_read(fitted):
    long = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
    whole, newest = fitted.rank(asked(long, repeats=True), 5), fitted.rank(asked(long[-8:], repeats=True), 5)
    np.testing.assert_array_equal(whole.scores, newest.scores)


def test_new_items_are_ranked_by_their_codes_and_kept(fitted, tmp_path):
    made = load(fitted.save(tmp_path / "first"))
    codes = fitted.item_codes()[4].tolist()
    made.add_items(Table.of(Ids(["new"]), {"vector": [[0.0] * 8], "codes": [codes]}))
    row = made.rank(asked([1, 2, 3], repeats=True), 30).items[0].tolist()
    assert row.index(30) == row.index(4) + 1


def test_more_slots_than_the_vector_can_be_cut_into_are_refused():
    data = dataset([[0, 1, 2]] * 20, np.random.default_rng(0).normal(size=(20, 8)))
    codes = {"vectors": "column-for-tests", "slots": 2, "heads": 1, "collisions": "suffix"}
    codes["training"] = {"epochs": 1}
    with pytest.raises(ConfigError) as error:
        model(codes=codes).fit(data)
    assert str(error.value) == (
        "recgpt: vectors of width 8 cannot be cut into 3 slots. Set codes.collisions=shared, or aux=False."
    )
    model(codes=codes, aux=False).fit(data)


# What it is for --------------------------------------------------------------------------------------------------

KINDS, WIDTH = 8, 16
FSQ = {"vectors": "column-for-tests", "scalars": (4, 4), "heads": 2, "layers": 1, "dropout": 0.0}
FSQ |= {"training": {"lr": 3e-3, "batch_size": 64, "epochs": 10, "metric": "explained"}}


def catalogue(seed, n_items=96, n_users=150, length=6, shuffle=False):
    """Items of 8 kinds, whose vectors are near that of their kind; everybody goes round the kinds. Of what comes last,
    the kind can be known. With `shuffle` vectors say nothing of kinds."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(KINDS, WIDTH))
    vectors = centres[np.arange(n_items) % KINDS] + 0.1 * rng.normal(size=(n_items, WIDTH))
    kind = (rng.integers(KINDS, size=(n_users, 1)) + np.arange(length)) % KINDS
    rows = kind + KINDS * rng.integers(n_items // KINDS, size=kind.shape)
    if shuffle:
        rng.shuffle(vectors)
    return dataset(list(rows[:, :-1]), vectors, first=1000 * seed, name=f"catalogue {seed}"), rows


def found(model, rows, k=12):
    """How often the next item is among the k best; there are 12 of its kind."""
    ranking = model.rank(asked(*rows[:, :-1], repeats=True), k)
    return (ranking.items == rows[:, -1:]).any(1).mean()


@pytest.fixture(scope="module")
def abroad():
    """A model of another catalogue."""
    return model({"epochs": 10}, codes=FSQ, max_length=5).fit(catalogue(1)[0])


def test_a_model_of_one_catalogue_answers_for_another_by_its_texts_and_by_those_alone(abroad, tmp_path):
    there, rows = catalogue(2)
    before = abroad.item_codes().copy()
    adopted = abroad.adopt(there)
    popular = found(find("popularity")().fit(there), rows)
    shuffled = found(abroad.adopt(catalogue(2, shuffle=True)[0]), rows)
    chance = 12 / 96
    assert found(adopted, rows) > 0.8 > 3 * popular
    assert shuffled == pytest.approx(chance, abs=0.1)
    assert adopted.fitted_on["train_fingerprint"] == there.fingerprint
    assert adopted.catalogue.items.ids.array[0].as_py() == "i2000"
    assert (abroad.item_codes() == before).all()
    again = load(adopted.save(tmp_path / "adopted"))
    np.testing.assert_array_equal(again.rank(asked([1, 2]), 10).items, adopted.rank(asked([1, 2]), 10).items)


def test_nothing_needs_to_have_happened_in_the_other_catalogue(abroad):
    there, rows = catalogue(2)
    assert found(abroad.adopt(there.catalogue), rows) > 0.8
    with pytest.raises(DataError, match="items have no column 'vector'"):
        abroad.adopt(Dataset.from_frame({"user": [1, 1], "item": [2, 3]}))


def test_training_goes_on_from_what_was_learned_elsewhere(abroad):
    (there, _), (_, rows) = catalogue(3, n_users=20), catalogue(3)  # few users, and many of the same catalogue
    before = {name: array.copy() for name, array in abroad.weights.items()}
    tuned, anew = abroad.tuned(there), RecGPT(abroad.config, codes=FSQ).fit(there)
    assert found(tuned, rows) > 0.8
    assert found(tuned, rows) > found(anew, rows) + 0.1
    vectors = np.random.default_rng(0).normal(size=(50, WIDTH)).astype(np.float32)
    assert (tuned.codes.encode(vectors) == abroad.codes.encode(vectors)).all()
    assert not (tuned.weights["head.weight"] == before["head.weight"]).all()
    assert all((abroad.weights[name] == array).all() for name, array in before.items())


def test_where_items_share_codes_the_vector_beside_them_tells_what_comes_next():
    """The codes tell two kinds together; which one it is decides what comes next, and only the vector says so."""
    rng, n = np.random.default_rng(0), 64
    kind = np.arange(n) % KINDS
    vectors = np.eye(KINDS)[kind] + 0.05 * rng.normal(size=(n, KINDS))
    pair = kind // 2
    following = np.array([0, 2, 4, 6, 1, 3, 5, 7])[kind]  # of the pairs 0, 1, 2, 3, 0, 1, 2, 3
    first = rng.integers(n, size=300)
    last = following[first] + KINDS * rng.integers(n // KINDS, size=300)
    data = dataset(list(np.stack([first, last], 1)), vectors, np.repeat(pair[:, None], SLOTS, 1))
    share = {}
    for aux in (True, False):
        made = model({"epochs": 20}, aux=aux).fit(data)
        ranking = made.rank(asked(*[[item] for item in range(n)], repeats=True), 1)
        share[aux] = (pair[ranking.items[:, 0]] == following // 2).mean()
    assert share[True] > 0.9
    assert share[False] < 0.6


def test_from_the_command_line_catalogues_are_put_together_and_a_model_of_them_answers_for_another(tmp_path):
    def run(*words):
        done = CliRunner().invoke(main, [str(word) for word in words])
        return done.stdout + done.stderr

    for seed, name in enumerate(("cups", "pots", "pans")):
        data, _ = catalogue(seed, n_items=24, n_users=20)
        titles = [f"{name} of kind{n % KINDS}" for n in range(24)]
        replace(data, items=Table.of(data.items.ids, {"title": titles}), name=name).save(tmp_path / name)
    both = tmp_path / "both"
    assert "40 users, 48 items" in run("data", "together", tmp_path / "cups", tmp_path / "pots", "--out", both)
    options = ["dim=8", "layers=1", "heads=1", "training.epochs=1", "codes.vectors=words-for-tests", "codes.slots=2"]
    options += ["codes.heads=1", "codes.training.epochs=1", "codes.training.metric=explained"]
    settings = [f"--set={option}" for option in options]
    assert "saved" in run("fit", "recgpt", both, *settings, "--out", tmp_path / "model")
    assert "next: itemic compare" in run("adopt", tmp_path / "model", tmp_path / "pans", "--out", tmp_path / "here")
    ranked = run("rank", tmp_path / "here", "--history", "i2000,i2001", "--k", "2")
    assert ranked.count("pans of kind") >= 2
    run("fit", "popularity", both, "--out", tmp_path / "popular")
    message = run("adopt", tmp_path / "popular", tmp_path / "pans", "--out", tmp_path / "no")
    assert "error: popularity knows only the items that it was fitted with. Fit it on pans." in message
    run("fit", "words-for-tests", both, "--out", tmp_path / "words")
    message = run("adopt", tmp_path / "words", tmp_path / "pans", "--out", tmp_path / "no")
    assert "words is words-for-tests, no system. Adopt a system that it is a part of." in message
    assert not (tmp_path / "no").exists()
