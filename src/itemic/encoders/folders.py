"""Language models as folders that transformers opens, written without a line of its code."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from itemic.encoders.vocabulary import MARKS, Vocabulary

if TYPE_CHECKING:
    from torch import Tensor

    from itemic.nn.modernbert import ModernBert

LAYER = {
    "attend_norm": "attn_norm",
    "attend.out": "attn.Wo",
    "feed_norm": "mlp_norm",
    "feed.inner": "mlp.Wi",
    "feed.outer": "mlp.Wo",
}
"""Our names of what is in a block, and theirs."""


def write_folder(
    folder: Path, model: "ModernBert", vocabulary: Vocabulary, bases: tuple[float, float], longest: int
) -> None:
    """Writes a model with its vocabulary, one from `Vocabulary.readable`: a `ModernBertForMaskedLM`, or where it is
    causal a `ModernBertDecoderForCausalLM`. `longest` sequences were trained on."""
    from safetensors.torch import save_file

    facts = _config(model, vocabulary, bases, longest)
    save_file(
        {name: weight.contiguous() for name, weight in _weights(model).items()},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    tokenizer = json.loads(vocabulary.description)
    marks = [mark["content"] for mark in tokenizer["added_tokens"]]
    names = {f"{kind}_token": mark for kind, mark in zip(("pad", "unk", "cls", "sep", "mask"), MARKS)}
    if model.causal:  # a text is to be gone on with: nothing ends it
        tokenizer["post_processor"]["single"].pop()
        names |= {"bos_token": names["cls_token"], "eos_token": names["sep_token"]}
        ends = {key: facts[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
        _write(folder / "generation_config.json", ends)
    manner = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": longest}
    manner |= {"model_input_names": ["input_ids", "attention_mask"], "clean_up_tokenization_spaces": False}
    _write(folder / "config.json", facts)
    _write(folder / "tokenizer.json", tokenizer)
    _write(folder / "tokenizer_config.json", {**manner, **names, "extra_special_tokens": marks[len(MARKS) :]})


def _config(model: "ModernBert", vocabulary: Vocabulary, bases: tuple[float, float], longest: int) -> dict[str, Any]:
    block: Any = model.stack.blocks[0]
    ends = {"bos": vocabulary.first, "cls": vocabulary.first, "eos": vocabulary.end, "sep": vocabulary.end}
    return {
        "architectures": ["ModernBertDecoderForCausalLM" if model.causal else "ModernBertForMaskedLM"],
        "model_type": "modernbert-decoder" if model.causal else "modernbert",
        "vocab_size": len(model.word.weight),
        "hidden_size": model.dim,
        "intermediate_size": block.feed.outer.in_features,
        "num_hidden_layers": len(model.stack.blocks),
        "num_attention_heads": block.attend.heads,
        "hidden_activation": "gelu",
        "max_position_embeddings": longest,
        "norm_eps": model.norm.eps,
        "norm_bias": False,
        "attention_bias": False,
        "mlp_bias": False,
        "decoder_bias": True,
        "classifier_bias": False,
        "classifier_activation": "gelu",
        # Of the width that a decoder is given there, it sees half to the left with the word itself among them; an
        # encoder sees half to either side beside the word.
        "local_attention": 2 * (model.side + 1) if model.causal else 2 * model.side,
        "layer_types": [
            "sliding_attention" if n % model.every else "full_attention" for n in range(len(model.stack.blocks))
        ],
        "rope_parameters": {
            layer: {"rope_type": "default", "rope_theta": base}
            for layer, base in zip(("full_attention", "sliding_attention"), bases)
        },
        "tie_word_embeddings": True,
        "pad_token_id": vocabulary.mark_of(MARKS[0]),
        **{f"{name}_token_id": number for name, number in ends.items()},
        **({} if model.causal else {"classifier_pooling": "mean"}),
        "dtype": "float32",
    }


def _weights(model: "ModernBert") -> dict[str, "Tensor"]:
    """By their names in transformers, where the two kinds call the head and projections differently."""
    import torch

    given, head, projections = model.state_dict(), "lm_head" if model.causal else "head", ("query", "key", "value")
    names = {
        "word": "model.embeddings.tok_embeddings",
        "norm": "model.embeddings.norm",
        "stack.norm": "model.final_norm",
        "head.dense": f"{head}.dense",
        "head.norm": f"{head}.norm",
    }
    found = {"decoder.bias": given["head.bias"]}
    for n in range(len(model.stack.blocks)):
        ours, theirs = f"stack.blocks.{n}", f"model.layers.{n}"
        names |= {f"{ours}.{name}": f"{theirs}.{other}" for name, other in LAYER.items()}
        if model.causal:
            names |= {f"{ours}.attend.{name}": f"{theirs}.attn.{name[0]}_proj" for name in projections}
        else:
            joined = torch.cat([given[f"{ours}.attend.{name}.weight"] for name in projections])
            found[f"{theirs}.attn.Wqkv.weight"] = joined
    del names["stack.blocks.0.attend_norm"]  # the first block has none
    return found | {f"{theirs}.weight": given[f"{ours}.weight"] for ours, theirs in names.items()}


def _write(path: Path, facts: dict[str, Any]) -> None:
    path.write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
