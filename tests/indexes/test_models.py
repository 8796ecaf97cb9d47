"""Models that search along a graph: what they answer, keep and take in later."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from itemic.cli import main
from itemic.data import Dataset, Query
from itemic.errors import ItemicError
from itemic.indexes import Exact
from itemic.indexes.hnsw import HNSW
from itemic.model import load
from itemic.registry import find
from itemic.systems.base import GRAPH


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    n = 6000
    user, kind = rng.integers(0, 300, n), rng.integers(0, 300, n) % 6
    item = np.where(rng.random(n) < 0.8, user % 6, kind) + 6 * rng.integers(0, 100, n)
    rows = sorted({(int(u), int(i)) for u, i in zip(user, item)})
    words = [f"kind{i % 6} thing{i}" for i in range(600)]
    users, items = zip(*rows)
    return Dataset.from_frame(
        {"user": users, "item": items, "time": range(len(rows))}, items={"item": range(600), "title": words}
    )


@pytest.fixture(scope="module")
def fitted(data):
    model = find("bpr")(dim=16, training={"epochs": 20}).fit(data)
    model.index(recall=0.9, sample=100)
    return model


def asked(model, users):
    return Query(user=np.array(users, np.int32), history=model.histories.take(users))


def test_a_settled_model_with_a_graph_lists_nearly_what_it_lists_without(data, fitted):
    query = asked(fitted, list(range(100)))
    assert isinstance(fitted._index, HNSW)
    along = fitted.rank(query, 10).items
    plain = find("bpr")(dim=16, training={"epochs": 20}).fit(data)
    whole = plain.rank(query, 10).items
    assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(along, whole)]) > 0.85
    assert not any(set(row) & set(own) for row, own in zip(along, query.history.to_lists()))
    plain.settle()
    assert isinstance(plain._index, Exact)
    np.testing.assert_array_equal(plain.rank(query, 10).items, whole)


def test_a_model_that_is_fitted_again_forgets_what_it_was_settled_by(data):
    model = find("bpr")(dim=8, training={"epochs": 1}).fit(data)
    model.settle()
    query = asked(model, list(range(50)))
    model.fit(data)
    assert model._index is None
    assert model.rank(query, 5).items.shape == (50, 5)


def test_a_saved_graph_is_walked_again_and_a_damaged_one_refused(fitted, tmp_path):
    again = load(fitted.save(tmp_path / "b"))
    query = asked(again, list(range(20)))
    again.settle()
    assert isinstance(again._index, HNSW)
    np.testing.assert_array_equal(again.rank(query, 10).items, fitted.rank(query, 10).items)
    again.tables[GRAPH + "neighbours"] = again.tables[GRAPH + "neighbours"] + 600
    with pytest.raises(ItemicError, match="bpr: the graph of the index is not one of these vectors. Index it again"):
        again.settle()


def test_a_new_item_is_found_along_the_graph_and_kept_in_it(data, tmp_path):
    model = find("m2trec")(dim=16, training={"epochs": 1}).fit(data)
    model.index(recall=0.5, sample=100)
    model.add_items({"item": [1000], "title": ["kind3 thing3"]})
    found = model.similar([600], 5).items[0]
    again = load(model.save(tmp_path / "c"))
    later = load(tmp_path / "c").add_items({"item": [1001], "title": ["kind3 thing9"]})
    later.settle()
    assert set(later._index.codes) == set(range(602))
    again.settle()
    ranking = again.rank(Query(history=type(again.histories).from_lists([[3]])), 300).items[0]
    assert 3 in found
    assert 600 in ranking


def test_the_command_says_what_a_graph_finds_and_costs(fitted, data, tmp_path):
    folder = str(find("bpr")(dim=16, training={"epochs": 5}).fit(data).save(tmp_path / "b"))
    done = CliRunner().invoke(main, ["index", folder, "--recall", "0.8", "--json"])
    facts = json.loads(done.stdout)
    assert facts["recall"] >= 0.8
    assert any(name.startswith(GRAPH) for name in load(folder).tables)
    assert load(folder).histories is not None
    refused = CliRunner().invoke(main, ["index", str(find("ease")().fit(data).save(tmp_path / "e"))])
    assert "holds ease, which compares no vectors. Index one that does" in refused.stderr
    never = CliRunner().invoke(main, ["index", folder, "--recall", "1.0", "--links", "2"])
    assert "of the 10 best items, not 100.0%. Give it more links than 2" in never.stderr
