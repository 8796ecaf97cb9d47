"""How ILM puts a request: in words of the language model, with places for what users and items become."""

from collections import Counter
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int, Int32

from itemic.data import Ragged, Table
from itemic.encoders.lm import PretrainedLM
from itemic.encoders.talking import SOFT, Prompts, Talker
from itemic.nn.decoding import END
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


class Asked(NamedTuple):
    """Requests: words of the language model, negative numbers for vectors; and the vector of each user."""

    token: Ragged
    users: Float32[np.ndarray, "requests width"]


class Asking:
    """Writes requests for a language model, and reads them out to it."""

    def __init__(
        self,
        lm: PretrainedLM,
        titles: Ragged,
        vectors: Float32[np.ndarray, "items width"],
        has: Bool[np.ndarray, " items"],
        *,
        n_queries: int,
        write: str,
        max_length: int,
        longest_answer: int,
    ) -> None:
        """`titles` are in words of the language model; `has` says which items have a vector; with `n_queries` 0 nobody
        has one."""
        self.lm, self.vectors, self.n_queries, self.max_length = lm, torch.from_numpy(vectors), n_queries, max_length
        self.mentions = mentions(titles, has & (n_queries > 0), n_queries, write)
        self.comma = lm.cutter.cut([","]).values.astype(np.int64)
        self.somebody = lm.cutter.cut([" somebody"]).values.astype(np.int64)
        self.room = lm.longest - longest_answer - len(lm.first)

    def ask(
        self,
        task: str,
        template: int,
        *,
        histories: Ragged | None = None,
        users: Float32[np.ndarray, "requests width"] | None = None,
        items: Int[np.ndarray, " requests"] | None = None,
    ) -> Asked:
        """Requests of a task, in one of its ways to ask: about items, or to whoever has these histories and vectors, or
        both. Of a history that is too long for the language model the newest items are told."""
        pieces, places = pieces_of(TEMPLATES[task][template], self.lm.cutter), {}
        n_rows = len(histories) if histories is not None else len(items) if items is not None else 0
        if items is not None:
            places["item"] = self.mentions.take(items)
        if histories is not None:
            numbers = len(self.vectors) + np.arange(n_rows)
            somebody = soft(numbers, self.n_queries) if self.n_queries else np.tile(self.somebody, (n_rows, 1))
            places["user"] = Ragged.from_lengths(somebody.ravel(), np.full(n_rows, somebody.shape[1]))
            words = sum(
                (x.lengths for x in places.values()), np.full(n_rows, sum(len(piece.words) for piece in pieces))
            )
            newest = histories.last(self.max_length)
            newest = newest_that_fit(newest, self.mentions, self.room - words, len(self.comma))
            places["history"] = listed(newest, self.mentions, self.comma)
        first = Ragged.repeated(self.lm.first, n_rows)
        nobody = np.empty((0, self.vectors.shape[1]), np.float32)
        return Asked(first.joined(filled(pieces, places, n_rows)), nobody if users is None else users)

    def prompts(self, asked: Asked, network: Network, talker: Talker) -> Prompts:
        """The requests as a language model reads them; who is named in several is made into words once."""
        token, n_items, n = asked.token.values, len(self.vectors), self.n_queries
        places, made = token[token < 0], torch.empty(0, self.lm.dim)
        if len(places):
            entity, at = np.unique(entity_of(places, n), return_inverse=True)
            items = self.vectors[torch.from_numpy(entity[entity < n_items])]
            users = torch.from_numpy(asked.users[entity[entity >= n_items] - n_items])
            made = network.soft(items, users)[torch.from_numpy(at), torch.from_numpy((-1 - places) % n)]
        words = torch.from_numpy(token).clamp(min=SOFT)
        return talker.prompts(words, torch.from_numpy(asked.token.offsets), made)


def titles_of(items: Table, lm: PretrainedLM) -> tuple[Int32[np.ndarray, "items n"], Ragged]:
    """The titles of items in words of a language model: as they are answered, with the word that ends them and filled
    up with END; and as they stand in prompts."""
    titles = [f" {title}" for title in told_apart(items)]
    rows, whole = lm.cutter.cut(titles), lm.ended(titles)
    answers = np.full((len(rows), int(whole.lengths.max(initial=1))), END, np.int32)
    answers[whole.row_of_value, whole.places] = whole.values
    return answers, rows


def told_apart(items: Table) -> list[str]:
    """A title for each item, none twice: equal ones are told apart by the year where there is one, else by the id.

    >>> told_apart(Table.of(Table.numbered(3).ids, {"title": ["Heat", "Heat", None]}))
    ['Heat (0)', 'Heat (1)', '2']
    """
    ids = [str(one) for one in items.ids.external(np.arange(len(items)))]
    titles = [title or own for title, own in zip(items.titles(np.arange(len(items))), ids)]
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
