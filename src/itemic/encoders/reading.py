"""How a pretrained text model reads: cut as its folder says, run without padding, pooled to a vector for each text.

BERT and RoBERTa run on our own blocks, any other kind through transformers; no code of a folder is run.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Int
from safetensors import SafetensorError
from torch import Tensor, nn

from itemic import threads
from itemic.data import Ragged
from itemic.devices import checked, moved
from itemic.encoders.pretrained import FIRST_PLACE, SAFE, pretrained
from itemic.encoders.vocabulary import Vocabulary
from itemic.errors import ConfigError
from itemic.nn.packing import Packing
from itemic.nn.products import fast_products
from itemic.nn.text import TextEncoder, row_means

TOKENS = 4096
"""Tokens read at a time by one thread: their states stay in the cache of a processor."""
LONGEST = 8192
"""Tokens of a text that are read where no file of the model says how many."""
OURS = FIRST_PLACE.keys() - {"longformer"}
"""The kinds that run on our own blocks; Longformer's window reaches further than most texts, but not than all."""
Pool = Literal["mean", "cls", "last"]
POOLS: dict[str, Pool] = {"mean": "mean", "mean_tokens": "mean", "cls": "cls", "cls_token": "cls"}
POOLS |= {"lasttoken": "last"}
"""Their names of poolings, of new and of old folders, and ours."""


class Manner(NamedTuple):
    """How texts are read for a model, as its sentence-transformers files say; the defaults are for one without."""

    inner: str = ""
    """The folder of the transformer, in that of the model."""
    pooling: Pool = "mean"
    normalise: bool = False
    max_tokens: int | None = None
    prompt: str = ""
    lower: bool = False


def manner_of(folder: Path) -> Manner:
    """What the folder of a model says of the manner in which it reads.

    Raises:
        ConfigError: it asks for something that is not done here.
    """
    listed = _facts(folder / "modules.json") or [{"type": "Transformer", "path": ""}]
    steps = {step["type"].rpartition(".")[2]: step["path"] for step in listed}
    others = [step for step in steps if step not in ("Transformer", "Pooling", "Normalize")]
    if others or "Transformer" not in steps:
        raise ConfigError(f"{folder} has a step {(others or ['?'])[0]}, which is not known here. Use a model without.")
    inner = folder / steps["Transformer"]
    pooling = _facts(folder / steps["Pooling"] / "config.json") if "Pooling" in steps else {}
    old = [
        name.removeprefix("pooling_mode_") for name, on in pooling.items() if name.startswith("pooling_mode_") and on
    ]
    named = pooling.get("pooling_mode", "+".join(old) or "mean")
    if named not in POOLS:
        raise ConfigError(
            f"{folder} pools by {named}. Use a model that pools by {', '.join(dict.fromkeys(POOLS.values()))}."
        )
    saved, prompts = _facts(inner / "sentence_bert_config.json"), _facts(folder / "config_sentence_transformers.json")
    limit = saved.get("max_seq_length") or _facts(inner / "tokenizer_config.json").get("model_max_length")
    prompt = prompts.get("prompts", {}).get(prompts.get("default_prompt_name"), "")
    return Manner(
        steps["Transformer"], POOLS[named], "Normalize" in steps, limit, prompt, saved.get("do_lower_case", False)
    )


class Reader:
    """Texts to vectors, not normalised, by the model in a folder."""

    def __init__(
        self, folder: Path, max_tokens: int | None, pooling: Pool | None, *, bfloat16: bool, device: str = "cpu"
    ) -> None:
        """`max_tokens` and `pooling` where they are not to be as the folder says.

        Raises:
            ConfigError: the model cannot be read.
        """
        self.manner, self.bfloat16, self.device = manner_of(folder), bfloat16, checked(device)
        self.pooling = pooling or self.manner.pooling
        inner = folder / self.manner.inner
        facts = _facts(inner / "config.json")
        self.network, self.vocabulary, places = _own(inner) if _is_ours(facts) else _theirs(inner, facts)
        self.max_tokens = int(min(places or LONGEST, max_tokens or self.manner.max_tokens or LONGEST))
        self.network.to(self.device).eval()

    def read(self, texts: Sequence[str]) -> Float32[np.ndarray, "texts dim"]:
        """The vector of each text; nan for one without a token."""
        if self.manner.lower:
            texts = [text.lower() for text in texts]
        rows = self.vocabulary.whole(texts, self.max_tokens)
        return vectors_of(rows, self.dim, self._vectors)

    @property
    def dim(self) -> int:
        return self.network.dim

    def _vectors(self, rows: Ragged) -> Float32[np.ndarray, "texts dim"]:
        token, offsets = moved((torch.from_numpy(rows.values).long(), torch.from_numpy(rows.offsets)), self.device)
        packing = Packing(offsets)
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            states = self.network(token, packing).float()
            if self.pooling == "mean":
                return row_means(states, packing).numpy(force=True)
            at = offsets[:-1] if self.pooling == "cls" else offsets[1:] - 1
            return states[at].numpy(force=True)


def vectors_of(
    rows: Ragged, dim: int, read: Callable[[Ragged], Float32[np.ndarray, "some dim"]]
) -> Float32[np.ndarray, "rows dim"]:
    """What `read` makes of rows of tokens, those of like length at a time, on all threads; nan for rows without any."""
    order = np.argsort(-rows.lengths, kind="stable")[: int((rows.lengths > 0).sum())]
    ends = np.flatnonzero(np.diff(rows.lengths[order].cumsum() // TOKENS)) + 1
    found = np.full((len(rows), dim), np.nan, np.float32)

    def made(batch: np.ndarray) -> None:
        found[batch] = read(rows.take(batch))

    with fast_products():
        threads.spread(made, np.split(order, ends) if len(order) else [])
    return found


class Own(nn.Module):
    """Our own blocks with the weights of a BERT or RoBERTa."""

    def __init__(self, text: TextEncoder) -> None:
        super().__init__()
        self.text, self.dim = text, text.word.embedding_dim

    def forward(self, word: Int[Tensor, " tokens"], packing: Packing) -> Float[Tensor, "tokens dim"]:
        return self.text(word, torch.zeros_like(word), packing)


class Theirs(nn.Module):
    """A model of transformers, given texts of like length side by side."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.dim = model, model.config.hidden_size

    def forward(self, word: Int[Tensor, " tokens"], packing: Packing) -> Float[Tensor, "tokens dim"]:
        parts = [
            self.model(input_ids=tokens, attention_mask=bucket.real[:, 0].long()).last_hidden_state
            for bucket, tokens in zip(packing.buckets, packing.split(word))
        ]
        return packing.join(parts)


def _is_ours(facts: dict[str, Any]) -> bool:
    built = facts.get("hidden_act"), facts.get("position_embedding_type", "absolute")
    return facts.get("model_type") in OURS and built == ("gelu", "absolute") and not facts.get("is_decoder")


def _own(folder: Path) -> "tuple[Own, Vocabulary, int]":
    """The network in a folder, its vocabulary, and how many tokens it reads at most."""
    begin = pretrained(str(folder))
    with torch.random.fork_rng(devices=[]):  # the first weights are drawn and thrown away
        text = TextEncoder(**begin.shape, dropout=0.0)
    nn.init.zeros_(text.kind.weight)
    begin.put_into(text)
    return Own(text), begin.vocabulary, begin.shape["n_places"]


def _theirs(folder: Path, facts: dict[str, Any]) -> "tuple[Theirs, Vocabulary, int | None]":
    kind = facts.get("model_type")
    if not (folder / "tokenizer.json").is_file():
        raise ConfigError(
            f"{folder} has no tokenizer.json. Give the folder or the name of a model that was saved with it."
        )
    try:
        from transformers import AutoModel
    except ImportError:
        raise ConfigError(
            f"{folder} is of type {kind}, which needs the package transformers. Install it: pip install transformers, "
            f"or name a folder of type {', '.join(sorted(OURS))}."
        ) from None
    try:
        model = AutoModel.from_pretrained(folder, dtype=torch.float32, **SAFE)
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise ConfigError(f"transformers cannot read {folder}: {reason}. Name another folder, or minilm.") from error
    model = model.get_encoder() if facts.get("is_encoder_decoder") else model
    return Theirs(model), Vocabulary.read(folder / "tokenizer.json"), facts.get("max_position_embeddings")


def _facts(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise ConfigError(f"{path} is damaged: {error}. Restore the folder of the model.") from error
