"""How ILM puts a request: in words of the language model, with places for what users and items become."""

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int, Int32

from itemic.data import Ragged, Table
from itemic.data.dialogues import Dialogues, Turns
from itemic.devices import moved
from itemic.encoders.fields import texts_of
from itemic.encoders.lm import PretrainedLM
from itemic.encoders.talking import SOFT, Prompts, Talker
from itemic.errors import QueryError
from itemic.nn.decoding import END
from itemic.systems.language.dialogue import lines_of, newest_turns
from itemic.systems.language.prompts import (
    TEMPLATES,
    entity_of,
    filled,
    listed,
    mentions,
    newest_that_fit,
    pieces_of,
    soft,
)
from itemic.systems.language.reader import Network

NEEDS = {
    "item": ("an item", "items"),
    "user": ("a user", "histories"),
    "history": ("a history", "histories"),
    "dialogue": ("a dialogue", "dialogues"),
}
"""What stands in each place of a request, and what is given for it."""


class Asked(NamedTuple):
    """Requests: words of the language model, negative numbers for vectors; the vector of each user; and of which
    requests the language model reads only the newest of a history or a dialogue."""

    token: Ragged
    users: Float32[np.ndarray, "requests width"]
    short: Bool[np.ndarray, " requests"]


class Asking:
    """Writes requests for a language model, and reads them out to it."""

    def __init__(
        self,
        lm: PretrainedLM,
        titles: Ragged,
        vectors: Float32[np.ndarray, "items width"],
        has: Bool[np.ndarray, " items"],
        users_of: Callable[[Ragged], Float32[np.ndarray, "histories width"]],
        *,
        n_queries: int,
        write: str,
        max_length: int,
        longest_answer: int,
    ) -> None:
        """`titles` are in words of the language model; `has` says which items have a vector, and `users_of` gives one
        to whoever has these items in a history; with `n_queries` 0 nobody has one."""
        self.lm, self.vectors, self.n_queries, self.max_length = lm, torch.from_numpy(vectors), n_queries, max_length
        self.has, self.users_of = has & (n_queries > 0), users_of
        self.mentions = mentions(titles, self.has, n_queries, write)
        self.comma = lm.cutter.cut([","]).values.astype(np.int64)
        self.somebody = lm.cutter.cut([" somebody"]).values.astype(np.int64)
        self.room = lm.longest - longest_answer - len(lm.first)
        self._lines: tuple[Turns, Ragged] | None = None

    def ask(
        self,
        task: str,
        template: int,
        *,
        histories: Ragged | None = None,
        items: Int[np.ndarray, " requests"] | None = None,
        talk: Dialogues | None = None,
    ) -> Asked:
        """Requests of a task, in one of its ways to ask: about items, to whoever has these histories, after what was
        said. Of a history or a dialogue that is too long for the language model the newest items or turns are told.

        Raises:
            QueryError: the task speaks of something that is not given, or of an item that is not there.
        """
        pieces = pieces_of(TEMPLATES[task][template], self.lm.cutter)
        given = {"item": items, "user": histories, "history": histories, "dialogue": talk}
        wanted = {piece.place for piece in pieces if piece.place}
        for place in sorted(wanted):
            if given[place] is None:
                raise QueryError(
                    f"the task '{task}' speaks of {NEEDS[place][0]}; none is given. Give {NEEDS[place][1]}."
                )
        n_rows = len(next(one for one in given.values() if one is not None))
        places, users = {}, np.empty((0, self.vectors.shape[1]), np.float32)
        if items is not None:
            places["item"] = self.mentions.take(self._known(items))
        if histories is not None:
            places["user"] = self._somebody(histories)
            users = self.users_of(histories) if self.n_queries else users
        fixed = np.full(n_rows, sum(len(piece.words) for piece in pieces))
        room, short = self.room - sum((x.lengths for x in places.values()), fixed), np.zeros(n_rows, bool)
        if "history" in wanted and histories is not None:
            newest = histories.last(self.max_length)
            fitting = newest_that_fit(newest, self.mentions, room, len(self.comma))
            short = fitting.lengths < newest.lengths
            places["history"] = listed(fitting, self.mentions, self.comma)
        if talk is not None:
            places["dialogue"], short = newest_turns(talk, self.lines(talk.turns), room)
        first = Ragged.repeated(self.lm.first, n_rows)
        return Asked(first.joined(filled(pieces, places, n_rows)), users, short)

    def lines(self, turns: Turns) -> Ragged:
        """What is said in each turn; the last ones asked for are kept, as all beginnings of dialogues share them."""
        if self._lines is None or self._lines[0] is not turns:
            self._lines = turns, lines_of(turns, self.lm.cutter, self.mentions)
        return self._lines[1]

    def _known(self, items: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        n = len(self.mentions)
        strange = items[(items < 0) | (items >= n)]
        if len(strange):
            raise QueryError(f"there is no item of code {strange[0]:,}. Codes go from 0 to {n - 1:,}.")
        return items

    def _somebody(self, histories: Ragged) -> Ragged:
        """Who has these histories: vectors, or a word where nothing of a history has one."""
        known = np.bincount(histories.row_of_value[self.has[histories.values]], minlength=len(histories)) > 0
        codes = soft(len(self.vectors) + np.flatnonzero(known), max(1, self.n_queries))
        rows = [np.repeat(np.flatnonzero(known), codes.shape[1]), np.repeat(np.flatnonzero(~known), len(self.somebody))]
        values = [codes.ravel(), np.tile(self.somebody, int((~known).sum()))]
        return Ragged.from_pairs(np.concatenate(rows), np.concatenate(values), len(histories))

    def prompts(self, asked: Asked, network: Network, talker: Talker) -> Prompts:
        """The requests as a language model reads them; who is named in several is made into words once."""
        token, n_items, n = asked.token.values, len(self.vectors), self.n_queries
        places, made = token[token < 0], torch.empty(0, self.lm.dim)
        if len(places):
            entity, at = np.unique(entity_of(places, n), return_inverse=True)
            items = self.vectors[torch.from_numpy(entity[entity < n_items])]
            users = torch.from_numpy(asked.users[entity[entity >= n_items] - n_items])
            where = torch.from_numpy(at), torch.from_numpy((-1 - places) % n)
            items, users, where = moved((items, users, where), talker.device)
            made = network.soft(items, users)[where]
        words = torch.from_numpy(token).clamp(min=SOFT)
        return talker.prompts(words, torch.from_numpy(asked.token.offsets), made)


def titles_of(
    items: Table, lm: PretrainedLM, named_by: str | None = None
) -> tuple[Int32[np.ndarray, "items n"], Ragged]:
    """The titles of items in words of a language model: as they are answered, or what column is answered instead, with
    the word that ends them and filled up with END; and as they stand in prompts."""
    titles = [f" {title}" for title in told_apart(items)]
    names = titles if named_by is None else [f" {name}" for name in told_apart(items, named_by)]
    rows, whole = lm.cutter.cut(titles), lm.ended(names)
    answers = np.full((len(rows), int(whole.lengths.max(initial=1))), END, np.int32)
    answers[whole.row_of_value, whole.places] = whole.values
    return answers, rows


def told_apart(items: Table, named_by: str | None = None) -> list[str]:
    """A title for each item, or what another column says, or `id`; none twice: equal ones are told apart by the year
    where there is one, else by the id.

    >>> told_apart(Table.of(Table.numbered(3).ids, {"title": ["Heat", "Heat", None]}))
    ['Heat (0)', 'Heat (1)', '2']
    """
    ids = [str(one) for one in items.ids.external(np.arange(len(items)))]
    said = items.titles(np.arange(len(items)))
    if named_by is not None:
        said = texts_of(items, named_by) if named_by in items.names else ids
    titles = [title or own for title, own in zip(said, ids)]
    for by in [*([items.column("year").to_pylist()] if "year" in items.names else []), ids]:
        again = {title for title, n in Counter(titles).items() if n > 1}
        titles = [f"{title} ({mark})" if title in again and mark else title for title, mark in zip(titles, by)]
    return titles


def until_end(codes: Int32[np.ndarray, "n words"]) -> Ragged:
    """The words of answers that are filled up with END.

    >>> until_end(np.array([[4, 1], [1, -1]], np.int32)).to_lists()
    [[4, 1], [1]]
    """
    return Ragged.from_lengths(codes[codes >= 0], (codes >= 0).sum(1))
