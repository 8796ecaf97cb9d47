"""Content-kNN against cosines of tf-idf written as dense formulas, and on items that nobody took."""

from dataclasses import replace

import numpy as np
import pytest

from itemic.data import Dataset, Ids, Interactions, Query, Ragged, Table
from itemic.data.splits import split
from itemic.errors import DataError
from itemic.evaluation import evaluate
from itemic.model import load
from itemic.progress import listening
from itemic.registry import find
from itemic.systems.baselines.contentknn import ContentKNN

COLUMNS = {
    "title": ["red cup", "blue cup", "red pot", "blue tea pot", "tea"],
    "tags": [["a", "b"], ["a"], ["b"], [], ["a", "b", "only"]],
}
OPTIONS = ({}, {"weighting": "none"}, {"weighting": "bm25"}, {"shrink": 1.0}, {"fields": ("title",)})


@pytest.fixture
def data():
    items = Table.of(Ids(list("vwxyz")), COLUMNS)
    return Dataset(items, Table.numbered(2, "user"), Interactions.of([0, 0, 1], [0, 1, 2], 2, 5), name="cups")


def cosines():
    """Of tf-idf vectors; 'only' is in one item alone and joins none."""
    words = ["red", "blue", "cup", "pot", "tea"]
    said = [[*(w in title.split() for w in words)] for title in COLUMNS["title"]]
    said = np.column_stack([said, [["a" in tags, "b" in tags] for tags in COLUMNS["tags"]]]).astype(float)
    x = said * np.log(5 / said.sum(0))
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    return unit @ unit.T * (1 - np.eye(5))


def test_scores_are_sums_of_cosines_of_what_items_say(data):
    model = ContentKNN(k=5).fit(data)
    scores = model.scores(Query(history=Ragged.from_lists([[0, 3], [4]])))
    np.testing.assert_allclose(scores, [cosines()[[0, 3]].sum(0), cosines()[4]], atol=1e-6)
    nearest = ContentKNN(k=1).fit(data).scores(Query(history=Ragged.from_lists([[0], [1], [2], [3], [4]])))
    best = cosines().argmax(0)
    np.testing.assert_array_equal(np.argwhere(nearest.T)[:, 1], best)


def test_a_new_item_scores_as_if_it_had_been_there_and_a_saved_model_keeps_it(data, tmp_path):
    longer = {"title": [*COLUMNS["title"], "Cup, red!"], "tags": [*COLUMNS["tags"], ["b", "a"]]}
    items = Table.of(Ids([*"vwxyz", "new"]), longer)
    whole = ContentKNN().fit(replace(data, items=items, interactions=Interactions.of([0, 0, 1], [0, 1, 2], 2, 6)))
    model = ContentKNN().fit(data)
    model.add_items({"id": ["new"], **{name: column[5:] for name, column in longer.items()}})
    model.save(tmp_path / "m")
    query = Query(history=Ragged.from_lists([[0], [3], [5]]))
    np.testing.assert_array_equal(load(tmp_path / "m").scores(query), whole.scores(query))
    assert whole.scores(query)[0, 5] == pytest.approx(1, abs=1e-6)  # it says what item 0 says
    with pytest.raises(
        DataError, match="contentknn reads tags of an item; the new ones have: title. Add what is missing"
    ):
        model.add_items({"id": ["newer"], "title": ["pot"]})


def test_numbers_are_no_words_and_are_refused_where_they_are_asked_for(data):
    priced = Table.of(data.items.ids, {**COLUMNS, "price": [1.5, 2.5, 3.5, 4.5, 5.5]})
    query = Query(history=Ragged.from_lists([[0, 3], [4]]))
    with_prices = ContentKNN().fit(replace(data, items=priced))
    np.testing.assert_array_equal(with_prices.scores(query), ContentKNN().fit(data).scores(query))
    with_prices.add_items({"id": ["new"], "title": ["pot"], "tags": [[]]})
    told = r"contentknn compares words and values, not amounts such as 'price'. Name titles, .*: --set fields=\[NAME\]."
    with pytest.raises(DataError, match=told):
        ContentKNN(fields=("title", "price")).fit(replace(data, items=priced))
    with pytest.raises(DataError, match=told):
        ContentKNN().fit(replace(data, items=Table.of(data.items.ids, {"price": [1.5, 2.5, 3.5, 4.5, 5.5]})))


def test_without_metadata_it_refuses_and_single_items_without_have_no_neighbours(data):
    with pytest.raises(
        DataError, match="contentknn reads what items are, and finds nothing to read in their columns: "
    ):
        ContentKNN().fit(replace(data, items=Table(data.items.ids)))
    bare = {"title": [None, *COLUMNS["title"][1:-1], "own"], "tags": [[], *COLUMNS["tags"][1:-1], ["only"]]}
    said = []
    with listening(lambda text, *_: said.append(text)):
        model = ContentKNN().fit(replace(data, items=Table.of(data.items.ids, bare)))
    assert "2 of 5 items share no word or value: contentknn has no neighbours for them" in said
    scores = model.scores(Query(history=Ragged.from_lists([[0, 4], [1, 2, 3]])))
    assert not scores[0].any()
    assert not scores[:, [0, 4]].any()
    assert scores[1].any()


def test_how_words_are_weighted_and_which_fields_are_compared_matter(data):
    query = Query(history=Ragged.from_lists([[0]]))
    rows = [ContentKNN(**options).fit(data).scores(query)[0] for options in OPTIONS]
    assert not any(np.allclose(a, b) for n, a in enumerate(rows) for b in rows[:n])


def test_it_finds_items_that_nobody_took_by_what_they_say():
    rng = np.random.default_rng(0)
    group = np.arange(200) % 4
    items = Table.of(Ids.numbered(200), {"brand": [f"brand {g}" for g in group]})
    taken = np.array([rng.choice(np.flatnonzero(group == u % 4), 12, replace=False) for u in range(100)])
    log = Interactions.of(np.repeat(np.arange(100), 12), taken.ravel(), 100, 200)
    data = split(Dataset(items, Table.numbered(100, "user"), log, name="brands"), by="items", test=0.2)
    found, by_chance = (
        evaluate(find(name)().fit(data.train), data.test, "recall@10", protocol="held-out")["recall@10"]
        for name in ("contentknn", "popularity")
    )
    assert found > 2 * by_chance
    assert evaluate(find("itemknn")().fit(data.train), data.test, "recall@10")["recall@10"] == 0
