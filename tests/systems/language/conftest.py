"""A shop in which one asks for a colour, and a language model of two layers that has learned nothing yet."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from itemic.data import Dataset
from itemic.encoders.vocabulary import Vocabulary
from itemic.registry import find
from itemic.systems.language.prompts import TEMPLATES

COLOURS = ("Amber", "Birch", "Coral", "Delta")
N_ITEMS = 40
THINGS = {
    "item": list(range(N_ITEMS)),
    "title": [f"{COLOURS[n % 4]} Lamp {n // 4}" for n in range(N_ITEMS)],
    "kind": [COLOURS[n % 4] for n in range(N_ITEMS)],
}


def turns_of(n_dialogues=200, seed=0):
    """Somebody had a thing of some colour and asks for one of another; a thing of that one is recommended."""
    rng, rows = np.random.default_rng(seed), []
    for dialogue in range(n_dialogues):
        had, wanted = rng.integers(N_ITEMS), rng.integers(4)
        given = int(rng.choice(np.arange(wanted, N_ITEMS, 4)))
        ask = f"I had {THINGS['title'][had]} but want one in {COLOURS[wanted]}."
        rows.append((dialogue, "user", ask, [int(had)], [6], [6 + len(THINGS["title"][had])]))
        answer = f"Then take {THINGS['title'][given]}."
        rows.append((dialogue, "recommender", answer, [given], [10], [10 + len(THINGS["title"][given])]))
    return dict(zip(("dialogue", "role", "text", "items", "starts", "ends"), map(list, zip(*rows))))


def small_language_model(folder: Path, texts) -> Path:
    """A Qwen3 as it begins, whose vocabulary is that of these texts."""
    ways = [way for task in ("next", "dialogue", "reply") for way in TEMPLATES[task]]
    cutter = Vocabulary.readable([*texts, *ways] * 3, 400)
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 16}
    ends = {"bos_token_id": None, "eos_token_id": cutter.end, "pad_token_id": 0, "tie_word_embeddings": True}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    Qwen3ForCausalLM(Qwen3Config(vocab_size=len(cutter), **heads, **shape, **ends)).save_pretrained(folder)
    description = json.loads(cutter.description)
    description["post_processor"] = None
    (folder / "tokenizer.json").write_text(json.dumps(description))
    return folder


@pytest.fixture(scope="session")
def lamps():
    return Dataset.from_dialogues(turns_of(), items=THINGS, name="lamps", repeats=False)


@pytest.fixture(scope="session")
def parted_lamps():
    """Fewer dialogues, in parts of their own; thirty lamps have an IMDb id."""
    part = np.where(np.arange(60) < 40, "train", np.where(np.arange(60) < 48, "valid", "test"))
    items = {**THINGS, "imdb_id": [f"tt{n:07}" if n < 30 else None for n in range(N_ITEMS)]}
    return Dataset.from_dialogues({**turns_of(60), "part": np.repeat(part, 2)}, items=items, name="lamps")


@pytest.fixture(scope="session")
def small_lm(lamps, tmp_path_factory):
    return small_language_model(tmp_path_factory.mktemp("small"), lamps.dialogues.turns.text.to_pylist())


@pytest.fixture(scope="session")
def new_ilm(small_lm):
    """A function that makes an ILM over that language model, all of which is trained."""

    def make(**options):
        brief = {"epochs": 1, "batch_size": 20, "eval_every": 1, "lr": 5e-3, "warmup": 1}
        shape = {"dim": 32, "layers": 1, "heads": 2, "n_queries": 2, "vocabulary": 100, "fields": ["kind"]}
        taught = {"epochs": 4, "batch_size": 20, "lr": 2e-3, "warmup": 20, "precision": "float32"}
        given = {"lm_trainable": "all", "phase1": brief, "training": taught, "lm": {"model": str(small_lm)}}
        return find("ilm")(**{"behaviour": {"dim": 16}, **shape, **given, **options})

    return make


@pytest.fixture(scope="session")
def talker(new_ilm, lamps):
    """An ILM that learned to talk of lamps."""
    taught = {"epochs": 40, "batch_size": 20, "lr": 1.5e-3, "warmup": 20, "precision": "float32"}
    return new_ilm(tasks=["dialogue", "reply"], write="soft", training=taught).fit(lamps)
