"""BM25 against its formula written out, on conversations, on histories, and on items that came later."""

import math

import numpy as np
import pytest

from itemic.data import Dataset, Query, Ragged
from itemic.errors import DataError
from itemic.model import load
from itemic.systems.baselines.bm25 import BM25

TITLES = ["Red cup", "Blue cup, blue", "Red pot", "Tea"]
TALK = {
    "dialogue": [1, 1, 2, 2, 2],
    "role": ["user", "recommender", "user", "recommender", "recommender"],
    "text": ["Blue? A cup, please: BLUE!", "Here.", "Something red", "No tea?", "This."],
    "items": [[], ["x"], ["w"], ["z"], ["y"]],
}


@pytest.fixture
def shop():
    return Dataset.from_dialogues(TALK, items={"item": list("wxyz"), "title": TITLES}, name="shop")


def by_hand(words, k1=1.2, b=0.75):
    texts = [["red", "cup"], ["blue", "cup", "blue"], ["red", "pot"], ["tea"]]
    mean, scores = np.mean([len(text) for text in texts]), []
    for text in texts:
        score = 0.0
        for word in words:
            having = sum(word in other for other in texts)
            times = text.count(word)
            rarity = math.log(1 + (4 - having + 0.5) / (having + 0.5))
            score += rarity * times * (k1 + 1) / (times + k1 * (1 - b + b * len(text) / mean))
        scores.append(score)
    return scores


def test_scores_are_those_of_the_formula_for_the_words_that_were_said(shop):
    cases = shop.dialogues.cases().query  # before the recommender's turns: one of the first dialogue, two of the second
    said = [["cup", "blue"], ["red"], ["red", "tea"]]
    for options in ({}, {"k1": 0.5, "b": 0.2}, {"b": 0.0}):
        scores = BM25(**options).fit(shop).scores(cases)
        np.testing.assert_allclose(scores, [by_hand(words, **options) for words in said], rtol=1e-6)
    np.testing.assert_array_equal(BM25().fit(shop).rank(cases, 1).items[:, 0], [1, 0, 3])


def test_only_the_newest_turns_are_read_where_so_many_are_asked_for(shop):
    cases = shop.dialogues.cases().query
    newest = BM25(turns=1).fit(shop).scores(cases)
    np.testing.assert_allclose(newest, [by_hand(words) for words in (["cup", "blue"], ["red"], ["tea"])], rtol=1e-6)


def test_a_history_stands_for_the_texts_of_its_items(shop):
    scores = BM25().fit(shop).scores(Query(history=Ragged.from_lists([[0, 3], [], [1]])))
    np.testing.assert_allclose(
        scores, [by_hand(["red", "cup", "tea"]), [0] * 4, by_hand(["blue", "cup", "blue"])], rtol=1e-6
    )


def test_what_was_named_comes_back_unless_it_may_not(shop):
    cases = shop.dialogues.cases().query
    assert cases.repeats
    assert cases.history.to_lists()[1] == [0]
    assert BM25().fit(shop).rank(cases, 4).items[1].tolist() == [0, 2, 1, 3]
    assert BM25(named=False).fit(shop).rank(cases, 4).items[1].tolist() == [2, 1, 3, -1]


def test_new_items_are_found_by_words_that_are_known_and_a_saved_model_keeps_them(shop, tmp_path):
    model = BM25().fit(shop)
    query = Query(history=Ragged.from_lists([[2]]))
    before = model.scores(query)
    model.add_items({"item": ["v", "u"], "title": ["red kettle", None]})
    scores = model.scores(query)[0]
    assert scores[4] > before[0, 0] > scores[5] == 0  # fewer known words than "Red cup"
    model.save(tmp_path / "model")
    np.testing.assert_array_equal(load(tmp_path / "model").scores(query)[0], scores)


def test_items_that_say_nothing_are_refused():
    data = Dataset.from_frame({"user": [1], "item": ["x"]}, items={"item": ["x"], "title": ["?"]}, name="bare")
    with pytest.raises(DataError, match="no item of bare has a text in title"):
        BM25().fit(data)
