"""Prompts with places for users and items, and how these places are filled with words, with vectors, or with both.

A prompt is a row of numbers: those from 0 on are words of the language model, the others stand for vectors (`soft`).
What somebody wrote is only ever words: no text can open a place.
"""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64

from itemic.data import Ragged
from itemic.encoders.vocabulary import Vocabulary

PLACE = re.compile(r"\{(user|history|item|dialogue)\}")
TEMPLATES: dict[str, tuple[str, ...]] = {
    "next": (
        "{user} has taken, oldest first: {history}. The next one will be",
        "So far {user} chose {history}. Now comes",
        "History of {user}: {history}. Recommend one more:",
        "After {history}, {user} wants",
        "Here is what {user} enjoyed, in order: {history}. A good next choice is",
        "{user} went from one to the next: {history}. What follows is",
        "Given {history}, the best thing to show {user} is",
        "List of {user}, newest last: {history}. Continue with",
        "What would {user} like after {history}? Probably",
        "Taken before: {history}. {user} will now take",
        "Somebody like {user}, who already knows {history}, should try",
    ),
    "next for user": (
        "Recommend something to {user}:",
        "{user} is looking for something new. A good choice is",
        "What fits the taste of {user} is",
        "The next thing that {user} takes is",
        "Among all there is, {user} would choose",
        "For {user} the best suggestion is",
        "Guess what {user} wants:",
        "A present for {user} could be",
        "{user} asks what to take next. The answer is",
        "One that {user} does not know yet but will like is",
        "If {user} could have only one more, it would be",
    ),
    "describe": (
        "Describe {item}:",
        "What is {item}?",
        "Tell somebody who never heard of it what {item} is:",
        "A short note on {item}:",
        "The facts about {item} are",
        "How would a catalogue present {item}?",
        "Say in words what {item} is:",
        "{item} can be described as",
        "Information on {item}:",
        "Write what one should know of {item}:",
        "In a few words, {item} is",
    ),
    "similar": (
        "Who likes {item} also likes",
        "Things like {item}:",
        "Others of the same kind as {item} are",
        "If {item} is not to be had, take",
        "Close to {item} are",
        "People take {item} together with",
        "What goes with {item}?",
        "The neighbours of {item} are",
        "Besides {item} one could take",
        "Similar to {item} are",
        "Name some that are akin to {item}:",
    ),
    "why": (
        "Why is {item} something for {user}, who took {history}?",
        "Explain to {user}, who knows {history}, what speaks for {item}:",
        "{user} took {history}. A reason to take {item} too is",
        "What connects {item} with {history}, the history of {user}?",
        "Because of {history}, {item} is suggested to {user}. The reason is",
        "Justify recommending {item} to {user} after {history}:",
        "Given {history}, {user} may like {item} because",
        "What would one tell {user}, who liked {history}, about {item}?",
        "The link between {history} and {item} for {user} is",
        "{item} fits {user} with the history {history} since",
        "How does {item} follow from {history} in the eyes of {user}?",
    ),
    "dialogue": (
        "{user} talks with a recommender.{dialogue}\nThe recommender now names",
        "A talk of {user} and a recommender:{dialogue}\nWhat should be named next is",
        "{user} said and heard:{dialogue}\nThe recommendation is",
        "Read what {user} and a recommender say.{dialogue}\nA good answer would be to name",
        "This is said between {user} and a recommender:{dialogue}\nNow the recommender suggests",
        "In this talk {user} is looking for something.{dialogue}\nWhat fits is",
        "A recommender helps {user}.{dialogue}\nTo this one replies with",
        "{user} asks, a recommender answers.{dialogue}\nThe next thing to be recommended:",
        "Go on with the talk of {user} and a recommender.{dialogue}\nThe title that is named is",
        "What {user} and the recommender said, oldest first:{dialogue}\nThe best match is",
        "After what is said here, one would recommend something to {user}:{dialogue}\nThat is",
    ),
    "reply": (
        "{user} talks with a recommender, who now names {item}.{dialogue}\nRecommender:",
        "A talk of {user} and a recommender, whose next turn recommends {item}:{dialogue}\nRecommender:",
        "Recommend {item} to {user} in this talk.{dialogue}\nRecommender:",
        "{item} is the right thing for {user}. The recommender says so.{dialogue}\nRecommender:",
        "The recommender wants to suggest {item} to {user}.{dialogue}\nRecommender:",
        "Answer {user} kindly and name {item}.{dialogue}\nRecommender:",
        "What comes next in this talk with {user} is about {item}.{dialogue}\nRecommender:",
        "{user} is about to hear of {item}.{dialogue}\nRecommender:",
        "Go on with this talk: {user} should take {item}.{dialogue}\nRecommender:",
        "To what {user} says the recommender answers with {item}.{dialogue}\nRecommender:",
        "Lead {user} to {item} with the next words.{dialogue}\nRecommender:",
    ),
}
"""For each task ten ways to ask, and last one that is never trained on."""


class Piece(NamedTuple):
    """A part of a template: words, or the name of a place."""

    words: Int64[np.ndarray, " words"]
    place: str | None = None


def pieces_of(template: str, vocabulary: Vocabulary) -> list[Piece]:
    """The words of a template and its places, in order.

    >>> [piece.place for piece in pieces_of("to {user}:", Vocabulary.trained(["to", ":"], 20))]
    [None, 'user', None]
    """
    parts = PLACE.split(template)  # words and names of places in turn
    cut = vocabulary.cut([part.rstrip() for part in parts[::2]])  # what stands in a place begins with its blank
    found = []
    for n, words in enumerate(cut):
        found.append(Piece(words.astype(np.int64)))
        if 2 * n + 1 < len(parts):
            found.append(Piece(np.empty(0, np.int64), parts[2 * n + 1]))
    return [piece for piece in found if piece.place or len(piece.words)]


def soft(entities: Int64[np.ndarray, " n"], n_queries: int) -> Int64[np.ndarray, "n queries"]:
    """The numbers that stand for the vectors of entities, `n_queries` each; all are negative.

    >>> soft(np.array([0, 2]), 2).tolist(), entity_of(np.array([-5]), 2).tolist()
    ([[-1, -2], [-5, -6]], [2])
    """
    return -1 - (entities[:, None] * n_queries + np.arange(n_queries))


def entity_of(token: Int64[np.ndarray, " n"], n_queries: int) -> Int64[np.ndarray, " n"]:
    """The entity of each of these numbers."""
    return (-1 - token) // n_queries


def mentions(titles: Ragged, has_vectors: Bool[np.ndarray, " items"], n_queries: int, how: str) -> Ragged:
    """How each item is written: its title, its vectors, or `both`; one without vectors is always its title.

    >>> mentions(Ragged.from_lists([[7], [8, 9]]), np.array([True, False]), 1, "both").to_lists()
    [[7, -1], [8, 9]]
    """
    vectors = has_vectors if how != "text" else np.zeros_like(has_vectors)
    named = titles if how != "soft" else titles.keep(~vectors[titles.row_of_value])
    items = np.flatnonzero(vectors)
    codes = Ragged.from_pairs(np.repeat(items, n_queries), soft(items, n_queries).ravel(), len(titles))
    return Ragged(named.values.astype(np.int64), named.offsets).joined(codes)


def listed(histories: Ragged, written: Ragged, between: Int64[np.ndarray, " words"]) -> Ragged:
    """The items of each history as they are written, with these words between any two of them.

    >>> listed(Ragged.from_lists([[1, 0], []]), Ragged.from_lists([[5], [6, 7]]), np.array([9])).to_lists()
    [[6, 7, 9, 5], []]
    """
    n, first = len(histories.values), histories.offsets[:-1][histories.lengths > 0]
    items = written.take(histories.values)
    gaps = np.full(n, len(between))
    gaps[first] = 0
    whole = Ragged.repeated(between, n).keep(np.repeat(gaps > 0, len(between))).joined(items)
    return Ragged(whole.values, whole.offsets[histories.offsets])


def filled(template: Sequence[Piece], places: Mapping[str, Ragged], n_rows: int) -> Ragged:
    """The template for each row, with what each place holds in that row.

    >>> template = [Piece(np.array([3])), Piece(np.empty(0, np.int64), "item")]
    >>> filled(template, {"item": Ragged.from_lists([[5], [6, 7]])}, 2).to_lists()
    [[3, 5], [3, 6, 7]]
    """
    rows, values = [], []
    for words, place in template:
        part = places[place] if place else Ragged.repeated(words, n_rows)
        rows.append(part.row_of_value)
        values.append(part.values.astype(np.int64))
    return Ragged.from_pairs(np.concatenate(rows), np.concatenate(values), n_rows)


def newest_that_fit(histories: Ragged, written: Ragged, room: Int64[np.ndarray, " histories"], between: int) -> Ragged:
    """The newest items of each history, as many as can be written in its room, `between` words between any two.

    >>> written = Ragged.from_lists([[5], [6, 7]])
    >>> newest_that_fit(Ragged.from_lists([[0, 0, 1], [1]]), written, np.array([4, 9]), 1).to_lists()
    [[0, 1], [1]]
    """
    cost = written.lengths[histories.values] + between
    spent = np.concatenate([[0], np.cumsum(cost)])
    row = histories.row_of_value
    behind = spent[histories.offsets[1:]][row] - spent[:-1][: len(row)]  # this item and all newer ones
    return histories.keep(behind - between <= room[row])
