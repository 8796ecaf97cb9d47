"""Networks stand on a device; systems learn and answer there as on the CPU, and everything else stays where it was."""

import numpy as np
import other_device
import pytest
import torch
from quick_options import QUICK

from itemic.data import Dataset, Ids, Query, Ragged, Table
from itemic.data.interactions import Interactions
from itemic.data.simulated import planted_groups
from itemic.errors import ConfigError
from itemic.model import load
from itemic.registry import entries, find
from itemic.training import trainer

ONCE = {"epochs": 1, "precision": "float32"}
NOTHING_FALLS = dict.fromkeys(("dropout", "attention_dropout", "word_dropout", "unknown"), 0.0)
TITLES = {
    "answer": "titles",
    "lm_trainable": "lora",
    "rank": 2,
    "aligned": [],
    "places": 1,
    "beam": 100,
    "training": ONCE,
}
CASES = [
    *((name, {}) for name in entries() if name in QUICK),
    ("bpr", {"training": {"optimizer": "rowadam"} | ONCE}),
    ("directau", {"n_layers": 2, "training": ONCE}),
    pytest.param("ilm", TITLES, marks=pytest.mark.slow),
    ("m2trec", {"n_negatives": 8, "training": ONCE}),
    ("recgpt", {"decode": "beam", "training": ONCE}),
    ("sasrec", {"loss": "sampled_ce", "positions": "rotary", "training": ONCE}),
    ("sasrec", {"loss": "gbce", "time_gaps": True, "training": ONCE}),
]


@pytest.fixture(scope="module", autouse=True)
def known():
    other_device.available()


@pytest.fixture(scope="module")
def planted():
    return planted_groups(n_users=60, n_items=100, n_groups=4, loyalty=0.7, seed=0)


def brief(name, **more):
    """The system as it is tried, for one epoch and without anything that falls away: devices draw random numbers of
    their own."""
    options = QUICK[name] | {key: 0.0 for key in NOTHING_FALLS if key in find(name).Config.model_fields}
    for key in {"training", "phase1"} & options.keys():
        given = options[key]
        options[key] = (given if isinstance(given, dict) else given.model_dump()) | ONCE
    return find(name)(**options | more)


def alike(there, here):
    for key, array in here.weights.items():
        if not key.endswith("key.bias"):  # which changes no attention: Adam makes steps of rounding
            np.testing.assert_allclose(there.weights[key], array, rtol=1e-3, atol=1e-4, err_msg=key)


@pytest.mark.parametrize(("name", "more"), CASES)
def test_it_learns_and_answers_on_another_device_as_on_the_cpu(name, more, planted):
    train, test = planted
    here, there = brief(name, **more).fit(train, test), brief(name, **more).fit(train, test, device="other")
    assert next(there.module.parameters()).device.type == "other"
    alike(there, here)
    asked = test.query.take(np.arange(15))
    wanted = Query(history=asked.history, candidates=Ragged.repeated(np.arange(0, 100, 9), len(asked)))
    for query in (asked, wanted):
        scores = [model.rank(query, 10).scores for model in (here, there)]
        assert np.isclose(*scores, rtol=1e-3, atol=1e-4).mean() > 0.98  # a search may pass by what is as good


@pytest.mark.parametrize("name", ["fsq", "rqvae"])
def test_a_tokenizer_gives_the_codes_it_gives_on_the_cpu(name, planted):
    train, _ = planted
    training = ONCE | {"epochs": 3, "batch_size": 32, "patience": None}
    more = {"slots": 2, "scalars": (4, 4), "layers": 1, "heads": 2, "dropout": 0.0}
    more = more if name == "fsq" else {"size": 16, "levels": 2, "latent": 4, "hidden": (16,), "revive": 1}
    made = find(name, "tokenizer")
    here, there = (
        made(vectors="words-for-tests", training=training, **more).fit(train, device=device)
        for device in ("cpu", "other")
    )
    assert (here.codes == there.codes).mean() > 0.98
    np.testing.assert_allclose(there.decode(here.codes), here.decode(here.codes), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_twins_learn_and_speak_on_another_device():
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefghij"), 6)) for _ in range(300)]
    titles = [" ".join(rng.choice(words, 8)) for _ in range(200)]
    items = Table.of(Ids([f"i{n}" for n in range(len(titles))]), {"title": titles})
    data = Dataset(items, Table.numbered(0, "user"), Interactions.none(0, len(items)))
    how = {"size": "nano", "vocabulary": 512, "tokens": 900, "lengths": (32, 48, 48), "attn_out_dropout": 0.0}
    how |= {"training": {"batch_size": 4, "warmup": 10, "precision": "float32"}}
    here, there = (find("ettin", "encoder")(**how).fit(data, device=device) for device in ("cpu", "other"))
    alike(there, here)
    np.testing.assert_allclose(there.log_probs(titles[:3]).values, here.log_probs(titles[:3]).values, atol=1e-3)
    np.testing.assert_allclose(there.encode_texts(titles[:3]), here.encode_texts(titles[:3]), atol=1e-3)
    for how in ({}, {"temperature": 1.0}):
        assert there.generate(titles[:2], 4, **how) == here.generate(titles[:2], 4, **how)


def test_texts_are_read_on_another_device(planted):
    text = find("text", "encoder")(precision="float32")
    words = ["red shoes", "blue shoes of leather", "a lamp"]
    here = text.encode_texts(words)
    np.testing.assert_allclose(text.to("other").encode_texts(words), here, atol=1e-5)


def test_a_folder_knows_no_device_and_opens_on_any(planted, tmp_path, monkeypatch):
    train, test = planted
    fitted = brief("sasrec").fit(train, device="other")
    fitted.save(tmp_path / "model")
    again = load(tmp_path / "model")
    assert again.device == "cpu"
    before = again.rank(test.query, 10)
    moved = again.to("other").rank(test.query, 10)
    assert next(again.module.parameters()).device.type == "other"
    np.testing.assert_allclose(moved.scores, before.scores, rtol=1e-5)
    monkeypatch.setenv("ITEMIC_DEVICE", "other")
    settled = load(tmp_path / "model")
    assert next(settled.module.parameters()).device.type == "other"
    np.testing.assert_array_equal(settled.rank(test.query, 10).items, moved.items)


def test_what_was_made_to_answer_on_one_device_is_made_again_on_another(planted):
    train, test = planted
    model, asked = brief("tiger").fit(train), test.query.take(np.arange(5))
    here = model.rank(asked, 5).scores
    np.testing.assert_allclose(model.to("other").rank(asked, 5).scores, here, rtol=1e-4)
    np.testing.assert_allclose(model.to("cpu").rank(asked, 5).scores, here, rtol=1e-4)


def test_a_run_resumes_on_another_device(planted, tmp_path):
    train, _ = planted
    training = {"epochs": 4, "checkpoint_steps": 3, "batch_size": 25, "lr": 0.01}
    whole = brief("sasrec", training=training).fit(train)

    class Cut(Exception):
        pass

    cut = brief("sasrec", training=training)
    cut.on_step = lambda step: step == 8 and (_ for _ in ()).throw(Cut)
    with pytest.raises(Cut):
        cut.fit(train, folder=tmp_path)
    alike(brief("sasrec", training=training).fit(train, folder=tmp_path, resume=True, device="other"), whole)


def test_parts_go_with_it(planted):
    train, _ = planted
    model = brief("recgpt")
    assert model.to("other").codes.device == "other"
    assert brief("recgpt").fit(train, device="other").codes.module.mean.device.type == "other"


@pytest.mark.parametrize("name", ["cuda:77", "banana", "meta"])
def test_a_device_that_is_not_there_is_named(name, planted):
    train, _ = planted
    with pytest.raises(ConfigError, match=rf"finds no device '{name}' here. Give cpu"):
        brief("bpr").fit(train, device=name)


def test_several_processes_share_no_device(planted):
    train, _ = planted
    with pytest.raises(ConfigError, match="train on the CPU, not on other"):
        brief("bpr").fit(train, device="other", devices=2)


def test_the_other_device_refuses_what_a_gpu_refuses():
    there = torch.ones(2, device="other")
    with pytest.raises(RuntimeError, match="same device"):
        there + torch.ones(2)
    with pytest.raises(TypeError, match="numpy"):
        there.numpy()
    with pytest.raises(RuntimeError, match="nobody waits"):
        there.to("cpu", non_blocking=True)
    assert (there + torch.ones(())).tolist() == [2.0, 2.0]


def test_bfloat16_is_had_where_a_device_is_no_cpu():
    config = trainer.TrainingConfig(precision="bfloat16")
    with trainer.autocast(config, "other"):
        assert torch.is_autocast_enabled("other")
        assert torch.get_autocast_dtype("other") == torch.bfloat16
