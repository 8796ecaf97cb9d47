"""The path of recipes/ilm/crs-*.yaml on made-up dialogues: their own parts, vectors of what others took, else text."""

import numpy as np
import pytest

from itemic.data import Dataset
from itemic.evaluation.recipes import Recipe, find_recipe
from itemic.evaluation.reproduce import measure
from itemic.model import load


@pytest.fixture
def rated(tmp_path, monkeypatch):
    """Everybody there took lamps of one colour."""
    rows = {"user": np.repeat(range(20), 5), "item": [100 + u % 4 + 4 * n for u in range(20) for n in range(5)]}
    items = {"item": range(100, 200), "imdbId": range(100)}
    Dataset.from_frame(rows, items=items, name="rated").save(tmp_path / "data" / "rated")
    monkeypatch.setenv("ITEMIC_DATA", str(tmp_path / "data"))


@pytest.mark.parametrize("name", ["crs-opendialkg", "crs-redial"])
def test_a_recipe_goes_from_dialogues_and_ratings_to_lists_beside_others(name, parted_lamps, rated, small_lm, tmp_path):
    real = find_recipe("ilm", name)
    assert (real.split.by, real.lent, real.config["tasks"]) == ("dialogues", ["ml-latest-small"], ["dialogue"])
    brief = {"epochs": 1, "eval_every": 1, "batch_size": 16}
    changed = {"lm": {"model": str(small_lm)}, "fields": ["title", "kind"], "behaviour": {"dim": 8}, "dim": 16}
    changed |= {"phase1": brief, "training": brief, "validated": 4, "vocabulary": 100}
    facts = real.model_dump() | {"dataset": "lamps", "before": {}, "lent": ["rated"], "config": real.config | changed}
    found = measure(Recipe.model_validate(facts), parted_lamps, tmp_path / "kept")
    assert (found["split"], found["queries"]) == ("dialogues", 12)
    assert list(found["metrics"]) == ["recall@1", "recall@10", "recall@50"]
    assert found["metrics"]["recall@50"]["value"] == 1.0  # there are 40
    assert list(found["beside"]) == list(real.beside)
    assert found["beside"]["text retrieval"]["system"] == "bm25"
    assert all(0 <= one["metrics"]["recall@10"] <= 1 for one in found["beside"].values())
    assert found["lent"]["rated"]["by IMDb id"] == 30
    shares = [found["lent"][part]["share of items"] for part in ("the train part", "both")]
    assert shares[0] < shares[1] < 1
    model = load(tmp_path / "kept" / "0" / "model")
    assert model.tables["has"].mean() == pytest.approx(shares[1], abs=1e-6)
    bare = np.flatnonzero(~model.tables["has"])
    assert len(model.asking.mentions[int(bare[0])]) > 2  # its title, as it has no vectors
    assert (model.asking.mentions[int(bare[0])] >= 0).all()
