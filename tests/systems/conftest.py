"""Encoders that need no text model, by name, and a tiny language model: systems that are made of others are tried with
these."""

import atexit
import shutil
import sys
import tempfile
import zlib
from functools import cache
from pathlib import Path

import numpy as np

from itemic.encoders.lm import PretrainedLM
from itemic.encoders.vocabulary import Vocabulary
from itemic.model import Encoder, ModelConfig
from itemic.registry import encoder

sys.path.insert(0, str(Path(__file__).parent))  # the modules beside the tests


@encoder("column-for-tests")
class Column(Encoder[ModelConfig]):
    """The lists of floats in the column `vector`; nan where an item has none."""

    def solve(self, train):
        self.shape = {"dim": len(next(row for row in train.items.column("vector").to_pylist() if row is not None))}
        return {}

    @property
    def dim(self):
        return self.shape["dim"]

    def encode(self, content):
        rows = content.column("vector").to_pylist()
        nothing = [np.nan] * self.dim
        return np.array([nothing if row is None else row for row in rows], np.float32).reshape(-1, self.dim)


@encoder("words-for-tests")
class Words(Encoder[ModelConfig]):
    """A random vector for each word of the title, added up."""

    def solve(self, train):
        return {}

    @property
    def dim(self):
        return 16

    def encode(self, content):
        titles = [title.split() for title in content.column("title").to_pylist()]
        known = {word: np.random.default_rng(zlib.crc32(word.encode())).normal(size=16) for t in titles for word in t}
        return np.array([np.sum([known[word] for word in title], 0) for title in titles], np.float32)


@cache
def _tiny() -> Path:
    """The folder of a language model with random weights that spells."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM  # takes seconds to import

    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    cutter = Vocabulary.readable(["red hat, blue hat"] * 9, 264)
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "head_dim": 8}
    ends = {"eos_token_id": cutter.end, "bos_token_id": None, "tie_word_embeddings": True}
    torch.manual_seed(0)
    Qwen3ForCausalLM(
        Qwen3Config(vocab_size=264, num_attention_heads=2, num_key_value_heads=2, **shape, **ends)
    ).save_pretrained(folder)
    (folder / "tokenizer.json").write_text(cutter.description)
    return folder


@encoder("language-model-for-tests", needs=[])
class TinyLM(PretrainedLM):
    @property
    def folder(self):
        return _tiny()
