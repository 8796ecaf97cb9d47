"""Dialogues in words of a language model, a line a turn, with the items they name as vectors, titles or both."""

import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Int64

from itemic.data import Query, Ragged
from itemic.data.dialogues import Dialogues, Turns
from itemic.data.ragged import runs
from itemic.encoders.vocabulary import Vocabulary
from itemic.systems.language.prompts import newest_that_fit

SPEAKER = ("User", "Recommender")
"""Who speaks, by role, in plain words."""
BLANKS = re.compile(r"\s+")


def lines_of(turns: Turns, cutter: Vocabulary, mentions: Ragged) -> Ragged:
    """Each turn as a line that says who speaks; items stand in it as they are `mentions`, where they are named, or
    behind the text where the place is not known.

    A line break within a text becomes a blank: nobody can speak for the other by writing `Recommender:` on a new line.
    """
    texts: list[str] = []
    parts, lengths, n_texts = [], [], 0
    for text, role, named in zip(turns.text.to_pylist(), turns.role.tolist(), _named(turns)):
        line = list(_parts(f"\n{SPEAKER[role]}: ", text, named))
        for one in line:
            parts.append(-1 - one if isinstance(one, int) else n_texts)
            if isinstance(one, str):
                texts.append(one)
                n_texts += 1
        lengths.append(len(line))
    words, items = cutter.cut(texts), mentions.take(turns.mentions.values)
    offsets = np.concatenate([words.offsets, words.offsets[-1] + items.offsets[1:]])
    both = Ragged(np.concatenate([words.values.astype(np.int64), items.values]), offsets)
    order = np.array(parts, np.int64)
    whole = both.take(np.where(order < 0, n_texts - 1 - order, order))
    return Ragged(whole.values, whole.offsets[np.cumsum([0, *lengths])])


def newest_turns(
    talk: Dialogues, lines: Ragged, room: Int64[np.ndarray, " dialogues"]
) -> tuple[Ragged, Bool[np.ndarray, " dialogues"]]:
    """The newest turns of each dialogue that fit into its room, as words, and which dialogues lost some.

    Of a newest turn that is itself too long the last words are there.
    """
    turns = Ragged.from_lengths(runs(talk.first, talk.lengths), talk.lengths)
    fitting = newest_that_fit(turns, lines, room, 0)
    alone = (fitting.lengths == 0) & (turns.lengths > 0)
    kept = turns.keep(turns.places >= np.repeat(turns.lengths - np.where(alone, 1, fitting.lengths), turns.lengths))
    whole = lines.take(kept.values)
    words = Ragged(whole.values, whole.offsets[kept.offsets])
    words = words.keep(words.places >= np.repeat(words.lengths - room.clip(min=0), words.lengths))
    return words, alone | (kept.lengths < turns.lengths)


def with_taste(query: Query) -> Query:
    """The request with a history where it has only a dialogue: what is named there, but for what was not liked.

    Of that too nothing is ranked, unless things may come back. A history that is given is left as it is: who makes
    requests of dialogues knows what was known when.
    """
    talk = query.dialogue
    if query.history is not None or talk is None:
        return query
    where, lengths = talk.mentioned()
    named = Ragged.from_lengths(talk.turns.mentions.values[where], lengths)
    barred = query.masked() if query.repeats else query.masked().joined(named)
    return replace(query, history=named.keep(talk.turns.liked[where] != 0), exclude=barred)


def _named(turns: Turns) -> Iterator[list[tuple[int, int, int]]]:
    """Of each turn where the items that it names begin and end, and their places among all that are named."""
    start, end, bounds = turns.start.tolist(), turns.end.tolist(), turns.mentions.offsets.tolist()
    for first, stop in pairwise(bounds):
        yield [(start[n], end[n], n) for n in range(first, stop)]


def _parts(line: str, text: str, named: list[tuple[int, int, int]]) -> Iterator[str | int]:
    """A line in order: what is said, and numbers for what is named.

    >>> list(_parts("User: ", "Like  Heat, but new", [(6, 10, 7), (-1, -1, 8)]))
    ['User: Like', 7, ', but new', ',', 8]
    """
    at, behind = 0, []
    for start, end, n in sorted(named):
        if start < at:
            behind.append(n)
            continue
        yield (line + BLANKS.sub(" ", text[at:start])).rstrip()
        yield n
        line, at = "", end
    if rest := (line + BLANKS.sub(" ", text[at:])).rstrip():
        yield rest
    for n in behind:
        yield ","
        yield n
