"""Our vectors of texts are those of sentence-transformers, which most such models were made with."""

import json
import shutil
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from itemic.data import Dataset, Ids, Table
from itemic.data.interactions import Interactions
from itemic.encoders.cache import Cache
from itemic.encoders.pretrained import model_folder
from itemic.encoders.text import Text
from itemic.encoders.vocabulary import Vocabulary
from itemic.errors import ConfigError, DataError, ItemicError, LoadError
from itemic.model import load
from itemic.progress import listening

transformers = pytest.importorskip("transformers", reason="transformers is not installed (pip install 'itemic[dev]')")
peers = pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
from sentence_transformers.base.modules import Transformer  # noqa: E402
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling  # noqa: E402

TEXTS = ["red lipstick", "nail polish, red", "blue nail file " * 9, "red", "file", "polish the blue lipstick"]
CONFIGS = {
    "Bert": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48},
    "Roberta": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48},
    "XLMRoberta": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48},
    "DistilBert": {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48},
    "T5": {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4},
    "GPT2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "bos_token_id": 0, "eos_token_id": 0},
}
PLACES = {"GPT2": "n_positions", "T5": None}


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch):
    monkeypatch.setattr(Cache, "memory", {})


@pytest.fixture
def folder(tmp_path):
    """Makes the folder of a tiny model with random weights; with a pooling by sentence-transformers."""

    def make(kind="Bert", pooling=None, *, normalise=False, **options):
        torch.manual_seed(0)
        place = PLACES.get(kind, "max_position_embeddings")
        sizes = {"vocab_size": 60, "pad_token_id": int(kind in ("Roberta", "XLMRoberta"))} | CONFIGS[kind]
        sizes |= {place: 24} if place else {}
        model = getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**sizes))
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        model.save_pretrained(tmp_path / "plain")
        tokenizer = json.loads(Vocabulary.trained(TEXTS, 60).description)
        marks = [{"SpecialToken": {"id": mark, "type_id": 0}} for mark in ("[CLS]", "[SEP]")]
        single, ids = [marks[0], {"Sequence": {"id": "A", "type_id": 0}}, marks[1]], {"[CLS]": 2, "[SEP]": 3}
        special = {mark: {"id": mark, "ids": [n], "tokens": [mark]} for mark, n in ids.items()}
        tokenizer["post_processor"] = {
            "type": "TemplateProcessing", "single": single, "pair": single, "special_tokens": special
        }  # fmt: skip
        (tmp_path / "plain" / "tokenizer.json").write_text(json.dumps(tokenizer))
        facts = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]", "model_max_length": 20}
        (tmp_path / "plain" / "tokenizer_config.json").write_text(json.dumps(facts))
        if pooling is None:
            return tmp_path / "plain"
        steps = [Transformer(str(tmp_path / "plain")), Pooling(32, pooling), *[Normalize()] * normalise]
        peers.SentenceTransformer(modules=steps, **options).save(str(tmp_path / "whole"))
        return tmp_path / "whole"

    return make


def theirs(place, texts, **options):
    return peers.SentenceTransformer(str(place), device="cpu", **options).encode(texts)


def ours(place, **options):
    return Text(model=str(place), **({"precision": "float32"} | options))


def shop(columns, path=None):
    items = Table.of(Ids([f"i{n}" for n in range(len(next(iter(columns.values()))))]), columns)
    return Dataset(items, Table.numbered(0, "user"), Interactions.none(0, len(items)), path=path)


@pytest.mark.parametrize("kind", CONFIGS)
def test_vectors_of_a_plain_model_equal_those_of_sentence_transformers(folder, kind):
    place = folder(kind)
    np.testing.assert_allclose(ours(place).encode_texts(TEXTS), theirs(place, TEXTS), atol=1e-4)


@pytest.mark.parametrize(("pooling", "kind"), [("mean", "Bert"), ("cls", "Bert"), ("lasttoken", "GPT2")])
@pytest.mark.parametrize("normalise", [False, True])
def test_pooling_and_normalisation_are_those_of_the_folder(folder, pooling, kind, normalise):
    place = folder(kind, pooling, normalise=normalise)
    found = ours(place).encode_texts(TEXTS)
    np.testing.assert_allclose(found, theirs(place, TEXTS), atol=1e-4)
    assert np.allclose(np.linalg.norm(found, axis=1), 1) == normalise


def test_a_folder_of_an_old_sentence_transformers_is_read_as_well(folder):
    place = folder(pooling="cls")
    (place / "1_Pooling" / "config.json").write_text('{"word_embedding_dimension": 32, "pooling_mode_cls_token": true}')
    (place / "sentence_bert_config.json").write_text('{"max_seq_length": 5, "do_lower_case": true}')
    told = peers.SentenceTransformer(str(place))
    told.max_seq_length = 5
    shouted = [text.upper() for text in TEXTS]
    np.testing.assert_allclose(ours(place).encode_texts(shouted), told.encode(TEXTS), atol=1e-4)


def test_the_default_prompt_of_a_model_is_put_in_front_unless_another_is_given(folder):
    place = folder(pooling="mean", prompts={"item": "file: "}, default_prompt_name="item")
    expected = theirs(place, TEXTS)
    np.testing.assert_allclose(ours(place).encode_texts(TEXTS), expected, atol=1e-4)
    other = ours(place, prompt="red ").encode_texts(TEXTS)
    np.testing.assert_allclose(other, peers.SentenceTransformer(str(place)).encode(TEXTS, prompt="red "), atol=1e-4)
    assert not np.allclose(other, expected, atol=1e-2)


def test_items_of_other_data_are_read_in_those_of_its_fields_that_are_there_or_by_role_where_none_were_named(folder):
    place = folder()
    first, second = {"title": ["red", "nail"], "words": ["file", None]}, {"words": ["blue", "red"], "price": [1, 2]}
    named = ours(place, fields=("title", "words")).fit(shop(first))
    there = named.adopt(shop(second))
    np.testing.assert_allclose(there.encode(shop(second).items), theirs(place, ["blue", "red"]), atol=1e-4)
    assert named.shape["fields"] == ["title", "words"]
    by_role = ours(place).fit(shop({"title": ["red"]})).adopt(shop({"description": ["nail polish"]}))
    assert by_role.shape["fields"] == ["description"]
    with pytest.raises(DataError, match="items have no column 'title'"):
        named.adopt(shop({"plot": ["red"]}))


def test_options_take_the_place_of_what_the_folder_says(folder):
    place = folder(pooling="mean", normalise=True)
    peer = peers.SentenceTransformer(str(place))
    peer.max_seq_length = 4
    np.testing.assert_allclose(ours(place, max_tokens=4).encode_texts(TEXTS), peer.encode(TEXTS), atol=1e-4)
    first, plain = ours(place, pooling="cls", normalise=False), folder(pooling="cls")
    np.testing.assert_allclose(first.encode_texts(TEXTS), theirs(plain, TEXTS), atol=1e-4)


def test_a_shorter_vector_is_the_beginning_of_the_whole_one_at_length_1(folder):
    place = folder(pooling="mean", normalise=True)
    whole, short = (ours(place, dim=dim).encode_texts(TEXTS) for dim in (None, 8))
    np.testing.assert_allclose(short, whole[:, :8] / np.linalg.norm(whole[:, :8], axis=1, keepdims=True), atol=1e-6)
    with pytest.raises(ConfigError, match="text: dim is 33, but vectors of .* have 32. Lower it."):
        ours(place, dim=33).encode_texts(TEXTS)


def test_texts_read_together_have_the_vectors_of_each_read_alone(folder, monkeypatch):
    monkeypatch.setattr("itemic.encoders.reading.TOKENS", 8)
    text = ours(folder())
    alone = np.concatenate([text.reader.read([one]) for one in TEXTS])
    np.testing.assert_allclose(text.encode_texts([*TEXTS, "red", ""])[:-2], alone, atol=1e-5)


def made_up(n, words=("red", "nail", "lip", "polish", "cream", "hair", "for", "dry", "skin", "SPF 30", "12 oz", "&")):
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(words, size)) for size in rng.integers(1, 40, n)]


def cosines(text):
    vectors = [Text(precision=precision).encode_texts(text) for precision in ("float32", "bfloat16")]
    one, other = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in vectors)
    return (one * other).sum(1)


def minilm():
    try:
        return model_folder("minilm")
    except ConfigError as error:
        pytest.skip(str(error))


def test_the_default_model_has_the_vectors_of_sentence_transformers():
    place, texts = minilm(), made_up(20)
    found = Text(precision="float32").encode_texts(texts)
    np.testing.assert_allclose(found, theirs(place, texts), atol=1e-4)


def test_half_the_precision_leaves_each_vector_where_it_is():
    minilm()
    assert cosines(made_up(60)).min() > 0.999


def test_half_the_precision_leaves_the_vectors_of_real_titles_where_they_are(real_data):
    minilm()
    titles = pq.read_table(real_data("amazon-beauty") / "items.parquet").column("title").drop_null().to_pylist()
    assert cosines(titles[:100]).min() > 0.999


# Items ---------------------------------------------------------------------------------------------------------


def test_items_are_read_by_role_or_by_the_fields_and_the_template_given(folder):
    place, data = folder(), shop({"title": ["red", "nail"], "price": [1, 2], "tags": [["blue", "file"], None]})
    np.testing.assert_array_equal(
        ours(place).fit(data).encode(data.items), ours(place).encode_texts(["red. blue, file", "nail"])
    )
    told = ours(place, fields=["tags", "title"], template="{name} {text}!").fit(data)
    expected = ours(place).encode_texts(["tags blue, file!. title red!", "title nail!"])
    np.testing.assert_array_equal(told.encode(data.items), expected)


def test_items_without_text_are_nan_and_told_of_once(folder):
    data, told = shop({"title": ["red", None, "", "  ", "file"]}), []
    text = ours(folder()).fit(data)
    with listening(lambda description, *_: told.append(description)):
        vectors = text.encode(data.items)
    assert np.isnan(vectors).all(1).tolist() == [False, True, True, True, False]
    assert not np.isnan(vectors[[0, 4]]).any()
    assert told.count("3 of 5 items have no text: their vectors are nan") == 1


def test_vectors_are_kept_beside_the_dataset_and_its_parts_find_them(folder, tmp_path, monkeypatch):
    place, frame = folder(), {"user": ["u", "u", "u", "v"], "item": ["a", "b", "c", "a"]}
    items = {"id": ["a", "b", "c"], "title": ["red", "nail", "red"]}
    data = Dataset.from_frame(frame, items=items).save(tmp_path / "data")
    text = ours(place).fit(data.train)
    vectors = text.encode(data.items)
    assert len(list((tmp_path / "data" / "features").glob("text-*/*.safetensors"))) == 1
    again = ours(place).fit(Dataset.open(tmp_path / "data").train)
    monkeypatch.setattr(again.reader, "read", None)  # it is not asked
    np.testing.assert_array_equal(again.encode(data.items), vectors)
    ours(place, pooling="cls").fit(data).encode(data.items)
    assert len(list((tmp_path / "data" / "features").glob("text-*"))) == 2


def test_a_saved_encoder_is_a_reference_and_refuses_another_model(folder, tmp_path):
    place, data = folder(), shop({"title": ["red", "nail"]})
    text = ours(place, dim=8).fit(data)
    saved = text.save(tmp_path / "saved")
    assert sum(path.stat().st_size for path in saved.rglob("*")) < 20_000
    again = load(saved)
    assert again.dim == text.dim == 8
    np.testing.assert_array_equal(again.encode(data.items), text.encode(data.items))
    shutil.copytree(place, tmp_path / "copy")
    facts = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps(facts | {"hidden_act": "relu"}))
    with pytest.raises(LoadError, match="saved was fitted with another text model than .*plain is now. Put that back"):
        load(saved)
    shutil.rmtree(place)
    with pytest.raises(
        LoadError, match="saved needs the text model it was fitted with: there is no text model '.*plain'"
    ):
        load(saved)


# Bad input -----------------------------------------------------------------------------------------------------


def test_items_that_say_nothing_are_refused(folder):
    place = folder()
    with pytest.raises(DataError, match="no column of the items of data is known as text. Name some .*: price."):
        ours(place).fit(shop({"price": [1.0, 2.0]}))
    with pytest.raises(DataError, match="items have no column 'titel'. Did you mean 'title'?"):
        ours(place, fields=["titel"]).fit(shop({"title": ["red"]}))
    with pytest.raises(DataError, match="no item of data has a text in title. Name others: --set fields=.NAME."):
        ours(place).fit(shop({"title": [None, " "]}))
    with pytest.raises(DataError, match="items have no column 'title'"):
        ours(place).fit(shop({"title": ["red"]})).encode(Table.numbered(2))
    with pytest.raises(ItemicError, match="text is not fitted. Call fit"):
        ours(place).encode(Table.numbered(2))
    with pytest.raises(ConfigError, match="text: template cannot be 'name': String should match pattern"):
        Text(template="name")


def test_a_model_that_is_not_there_or_not_read_here_is_refused_in_one_line(folder, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")

    def offline(name, allow_patterns):
        raise OSError("cannot reach the hub\nmore")

    monkeypatch.setattr(hub, "snapshot_download", offline)
    with pytest.raises(
        ConfigError, match="there is no text model 'some/e5': cannot reach the hub. Name a folder, or mi"
    ):
        Text(model="some/e5").encode_texts(["red"])
    place = folder("DistilBert", "mean")
    facts = json.loads((place / "1_Pooling" / "config.json").read_text())
    (place / "1_Pooling" / "config.json").write_text(json.dumps(facts | {"pooling_mode": "weightedmean"}))
    with pytest.raises(ConfigError, match="whole pools by weightedmean. Use a model that pools by mean, cls, last."):
        ours(place).encode_texts(["red"])
    steps = json.loads((place / "modules.json").read_text())
    dense = {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"}
    (place / "modules.json").write_text(json.dumps([*steps, dense]))
    with pytest.raises(ConfigError, match="whole has a step Dense, which is not known here. Use a model without."):
        ours(place).encode_texts(["red"])
    (place / "modules.json").write_text("[{")
    with pytest.raises(ConfigError, match="modules.json is damaged: .*. Restore the folder of the model."):
        ours(place).encode_texts(["red"])


def test_a_kind_that_needs_transformers_says_so_and_damage_is_told(folder, monkeypatch):
    place = folder("DistilBert")
    (place / "model.safetensors").write_bytes(b"junk")
    with pytest.raises(ConfigError, match="transformers cannot read .*plain: .*. Name another folder, or minilm."):
        ours(place).encode_texts(["red"])
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(
        ConfigError, match="is of type distilbert, which needs the package transformers. Install it: pip"
    ):
        ours(place).encode_texts(["red"])
    (place / "tokenizer.json").unlink()
    with pytest.raises(ConfigError, match="plain has no tokenizer.json. Give the folder or the name of a model"):
        ours(place).encode_texts(["red"])
