"""lm: what a pretrained language model says of texts, beside transformers' own calls; and folders that are none."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3ForCausalLM

from itemic.data import Dataset
from itemic.encoders.lm import PretrainedLM
from itemic.encoders.vocabulary import Vocabulary
from itemic.errors import ConfigError, LoadError, QueryError
from itemic.model import load

TEXTS = ["a red hat", "a blue hat", "red and blue"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("lm")
    cutter = Vocabulary.readable(TEXTS * 9, 272)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "head_dim": 8}
    ends = {"eos_token_id": cutter.end, "bos_token_id": None, "tie_word_embeddings": False}
    torch.manual_seed(0)
    network = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=272, num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=40, **shape, **ends
        )
    )
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    network.save_pretrained(place)
    description = json.loads(cutter.description) | {"post_processor": None}
    (place / "tokenizer.json").write_text(json.dumps(description))
    return place


@pytest.fixture(scope="module")
def lm(folder):
    return PretrainedLM(model=str(folder))


def test_chances_are_those_of_each_text_read_alone(lm, folder):
    network = AutoModelForCausalLM.from_pretrained(folder)
    given, said = ["a", "a blue", "red"], [" red hat", " hat", " and blue"]
    found = lm.log_probs(said, given).to_lists()
    for before, text, chances in zip(given, said, found):
        rows = [lm.cutter.cut([part])[0].tolist() for part in (before, text)]
        whole = torch.tensor([[*rows[0], *rows[1], lm.cutter.end]])
        with torch.no_grad():
            shares = network(whole[:, :-1]).logits[0].log_softmax(-1)
        wanted = shares.gather(1, whole[0, 1:, None])[len(rows[0]) - 1 :, 0]
        np.testing.assert_allclose(chances, wanted, atol=1e-4)


def test_what_goes_on_is_what_transformers_makes_of_each_prompt_alone(lm, folder):
    network = AutoModelForCausalLM.from_pretrained(folder)
    for prompt, made in zip(TEXTS, lm.generate(TEXTS, 6)):
        token = torch.from_numpy(lm.cutter.cut([prompt])[0]).long()[None]
        with torch.no_grad():
            whole = network.generate(token, max_new_tokens=6, do_sample=False, pad_token_id=0)
        words = whole[0, token.shape[1] :].numpy().astype(np.int32)
        assert made == lm.texts_of(words[None])[0]


def test_a_text_without_room_or_beginning_is_refused(lm):
    with pytest.raises(QueryError, match=r"text 2 of 2 has \d+ tokens with what is to come; .* has room for 40"):
        lm.generate(["a hat", "a hat " * 20], 8)
    with pytest.raises(QueryError, match="needs something to go on from"):
        lm.log_probs(["a hat"])


def test_a_saved_one_is_a_reference_that_notices_another_model(lm, folder, tmp_path):
    data = Dataset.from_frame({"user": [1], "item": [1]})
    saved = PretrainedLM(model=str(folder)).fit(data).save(tmp_path / "lm")
    assert load(saved).generate(["a red"], 3) == lm.generate(["a red"], 3)
    assert not (saved / "weights.safetensors").exists()
    before = (folder / "config.json").read_text()
    try:
        (folder / "config.json").write_text(before + " ")
        with pytest.raises(LoadError, match="was fitted with another language model than"):
            load(saved)
    finally:
        (folder / "config.json").write_text(before)


def test_an_incomplete_folder_is_told_in_a_line(folder, tmp_path):
    for name in ("config.json", "generation_config.json", "tokenizer.json"):
        (tmp_path / name).write_text((folder / name).read_text())
    weights = load_file(folder / "model.safetensors")
    save_file(
        {name: value for name, value in weights.items() if "layers.1" not in name}, tmp_path / "model.safetensors"
    )
    with pytest.raises(ConfigError, match=r"lacks the weights .*layers\.1.*Restore the folder"):
        _ = PretrainedLM(model=str(tmp_path)).talker
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="transformers cannot read"):
        _ = PretrainedLM(model=str(tmp_path)).talker
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(ConfigError, match=r"has no tokenizer\.json"):
        _ = PretrainedLM(model=str(tmp_path)).cutter
