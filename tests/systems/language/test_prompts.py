"""Prompts: what stands where a user, a history or an item is named, and that nobody's words open such a place."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from itemic.data import Ragged
from itemic.encoders.vocabulary import Vocabulary
from itemic.systems.language.prompts import (
    TEMPLATES,
    Piece,
    entity_of,
    filled,
    listed,
    mentions,
    newest_that_fit,
    pieces_of,
    soft,
)

TITLES = Ragged.from_lists([[10], [11, 12], [13]])


@pytest.fixture(scope="module")
def cutter():
    return Vocabulary.readable([text for ways in TEMPLATES.values() for text in ways] * 3, 400)


@pytest.mark.parametrize("task", TEMPLATES)
def test_each_task_has_eleven_different_ways_with_the_same_places(task, cutter):
    ways = TEMPLATES[task]
    assert len(set(ways)) == 11
    places = {frozenset(piece.place for piece in pieces_of(way, cutter) if piece.place) for way in ways}
    assert len(places) == 1


@given(st.integers(1, 9), st.lists(st.integers(0, 10**6), min_size=1, max_size=5))
def test_numbers_of_vectors_are_negative_and_say_whose_they_are(n, entities):
    numbers = soft(np.array(entities), n)
    assert (numbers < 0).all()
    assert entity_of(numbers.ravel(), n).tolist() == np.repeat(entities, n).tolist()
    assert len(np.unique(numbers)) == n * len(set(entities))


def test_an_item_without_a_vector_is_its_title_however_items_are_written():
    has = np.array([True, False, True])
    assert mentions(TITLES, has, 2, "soft").to_lists() == [[-1, -2], [11, 12], [-5, -6]]
    assert mentions(TITLES, has, 2, "both").to_lists() == [[10, -1, -2], [11, 12], [13, -5, -6]]
    assert mentions(TITLES, has, 2, "text").to_lists() == TITLES.to_lists()


def test_a_prompt_is_its_words_with_the_places_filled_in_order(cutter):
    template = pieces_of("{user} took {history} and", cutter)
    places = {"user": Ragged.from_lists([[-9], [-10]]), "history": Ragged.from_lists([[7, 8], []])}
    took, end = (cutter.cut([text])[0].tolist() for text in (" took", " and"))
    assert filled(template, places, 2).to_lists() == [[-9, *took, 7, 8, *end], [-10, *took, *end]]


@given(st.lists(st.lists(st.integers(0, 2), max_size=6), min_size=1, max_size=4), st.integers(0, 12), st.integers(0, 2))
def test_the_newest_items_that_fit_are_told_and_no_more_would(histories, room, n_between):
    whole = Ragged.from_lists(histories)
    told = newest_that_fit(whole, TITLES, np.full(len(whole), room), n_between)
    between = np.full(n_between, 99)
    for before, after in zip(histories, told.to_lists()):
        assert after == before[len(before) - len(after) :]
        assert len(listed(Ragged.from_lists([after]), TITLES, between).values) <= max(room, 0)
        if len(after) < len(before):
            longer = before[len(before) - len(after) - 1 :]
            assert len(listed(Ragged.from_lists([longer]), TITLES, between).values) > room


def test_a_title_that_looks_like_a_place_or_a_mark_is_words(cutter):
    cut = cutter.cut([" {item} {user} [MASK] [SEP]"])[0]
    assert (cut >= 0).all()
    assert not set(cut.tolist()) & {cutter.mask, cutter.end}
    assert filled([Piece(np.empty(0, np.int64), "item")], {"item": Ragged.from_lists([cut])}, 1)[0].tolist() == list(
        cut
    )
