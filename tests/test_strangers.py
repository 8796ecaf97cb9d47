"""Folders of strangers: whoever made them, loading them runs none of their code."""

import contextlib
import io
import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import DistilBertConfig, DistilBertModel, Qwen3Config, Qwen3ForCausalLM

from itemic.data.simulated import planted_groups
from itemic.encoders.reading import Reader
from itemic.encoders.talking import talker_of
from itemic.errors import ConfigError, ItemicError
from itemic.model import load
from itemic.registry import find
from itemic.sealed import seal_of
from itemic.serving.config import Config
from itemic.serving.service import Service
from itemic.serving.stores import open_store


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def pickled(bomb):
    return pickle.dumps(bomb)


def numpys(bomb):
    file = io.BytesIO()
    np.save(file, np.array([bomb], dtype=object), allow_pickle=True)
    return file.getvalue()


def torchs(bomb):
    file = io.BytesIO()
    torch.save({"weight": bomb}, file)
    return file.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    train, _ = planted_groups(n_users=40, n_items=60, n_groups=4, loyalty=0.9, seed=0)
    codes = find("rqkmeans", "tokenizer")(vectors="attributes", levels=2, size=16)
    tiny = {"dim": 16, "layers": 1, "heads": 2, "head_dim": 8, "hidden": 32}
    model = find("tiger")(codes=codes, **tiny, training={"epochs": 1, "batch_size": 64}).fit(train)
    return model.save(tmp_path_factory.mktemp("runs") / "tiger")


@pytest.mark.parametrize("disguise", [pickled, numpys, torchs])
def test_no_file_of_a_model_is_unpickled(disguise, folder, tmp_path):
    mark = tmp_path / "mark"
    pickle.loads(pickled(Bomb(mark)))
    mark.rmdir()  # a bomb works, then
    files = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 8
    for n, name in enumerate(files):
        copy = Path(shutil.copytree(folder, tmp_path / f"copy{n}"))
        (copy / name).write_bytes(disguise(Bomb(mark)))
        sealed_again(copy)
        with pytest.raises(ItemicError):
            load(copy)
        assert not mark.exists(), name


def sealed_again(folder):
    """What somebody does who knows how files are known again."""
    for path in sorted(folder.rglob("system.json"), key=lambda path: -len(path.parts)):
        try:
            facts = json.loads(path.read_bytes())
        except ValueError:
            continue
        facts["files"] = {name: seal_of(path.parent / name) for name in facts["files"]}
        path.write_text(json.dumps(facts))


@pytest.mark.parametrize("name", ["os", "os.system", "../evil", "itemic.cli", "evil:run"])
def test_no_module_is_imported_that_a_folder_names(name, folder, tmp_path, monkeypatch):
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / "evil.py").write_text(f"import os; os.mkdir({str(tmp_path / 'mark')!r})")
    monkeypatch.chdir(copy)
    monkeypatch.syspath_prepend(copy)
    facts = json.loads((copy / "system.json").read_text())
    (copy / "system.json").write_text(json.dumps(facts | {"system": name}))
    store = open_store(str(tmp_path / "shop.db"))
    with contextlib.closing(store), pytest.raises(ItemicError):
        Service.open(Config(models={"tiger": str(copy)}), store)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("known", [True, False], ids=["of a known type", "of a type of its own"])
@pytest.mark.parametrize("kind", ["words", "texts"])
def test_the_code_in_a_folder_of_transformers_is_not_run(kind, known, tmp_path, monkeypatch):
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    if kind == "words":
        network = Qwen3ForCausalLM(
            Qwen3Config(vocab_size=20, **shape, num_key_value_heads=1, head_dim=8, eos_token_id=1)
        )
    else:
        network = DistilBertModel(DistilBertConfig(vocab_size=20, dim=16, n_layers=1, n_heads=2, hidden_dim=16))
    network.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "evil.py").write_text(f"import os; os.mkdir({str(tmp_path / 'mark')!r})")
    facts = json.loads((tmp_path / "model" / "config.json").read_text())
    facts["auto_map"] = {
        "AutoConfig": "evil.Config", "AutoModel": "evil.Model", "AutoModelForCausalLM": "evil.Model"
    }  # fmt: skip
    if not known:
        facts["model_type"] = "evil"
    (tmp_path / "model" / "config.json").write_text(json.dumps(facts))
    (tmp_path / "model" / "tokenizer.json").write_text("{}")
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # nobody is asked, so nobody can say yes
    with contextlib.nullcontext() if known and kind == "words" else pytest.raises(ConfigError):
        if kind == "words":
            talker_of(tmp_path / "model")
        else:
            Reader(tmp_path / "model", None, None, bfloat16=False)
    assert not (tmp_path / "mark").exists()
