"""Conversation: what somebody says, what ILM answers, and the list of real items that the answer drew from."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa

from itemic.data import Query, Ragged
from itemic.data.dialogues import RECOMMENDER, ROLES, USER, Dialogues, Turns
from itemic.errors import QueryError
from itemic.systems.language.feelings import NOT_LIKED, NOT_SAID, feelings
from itemic.systems.language.titles import Titles, guarded

if TYPE_CHECKING:
    from itemic.systems.language.ilm import ILM


class Shown(NamedTuple):
    """The list that an answer drew from, best first."""

    items: list[int]
    titles: list[str]
    reasons: list[str]
    """What speaks for each: facts of the item table, and what of the taste is near it."""
    notes: tuple[str, ...]
    """What to know about the list, such as that nothing was known of anybody."""


class Said(NamedTuple):
    """A turn: who said what, where it names items, and whether they are liked."""

    role: int
    text: str
    items: list[int]
    places: list[tuple[int, int]]
    liked: list[int]


class Conversation:
    """Remembers what was said; `say` answers it.

    What is named is matched with the titles of the catalogue. What somebody said not to like is no taste. Nothing that
    was named, and nothing of the history, is recommended. An answer names items of its list, and what the user named.
    """

    def __init__(
        self,
        model: "ILM",
        *,
        history: Sequence[int] = (),
        k: int = 5,
        exclude: Sequence[int] = (),
        titles: Titles | None = None,
    ) -> None:
        """`history` is what somebody took before; `titles`, by `titles_of(model)`, spares making them again.

        Raises:
            QueryError: k is not between 1 and the size of the catalogue.
        """
        if not 1 <= k <= model.catalogue.n_items:
            n = model.catalogue.n_items
            raise QueryError(f"k is {k:,}; the catalogue has {n:,} items. Ask for 1 to {n:,}.")
        self.model, self.k, self.exclude = model, k, list(exclude)
        self.history, self.said = list(history), list[Said]()
        self.titles = titles_of(model) if titles is None else titles

    def hear(self, role: str, text: str) -> None:
        """Takes a turn that is not to be answered.

        Raises:
            QueryError: the role is neither user nor recommender.
        """
        if role not in ROLES:
            raise QueryError(f"'{role}' is no role. Roles: {', '.join(ROLES)}.")
        named = self.titles.named(text)
        places = [(one.start, one.end) for one in named]
        liked = feelings(text, places) if role == "user" else [NOT_SAID] * len(named)
        self.said.append(Said(ROLES.index(role), text, [one.items[0] for one in named], places, liked))

    def say(self, text: str) -> Iterator[str | Shown]:
        """The answer, piece after piece as it comes, and last the list that it drew from."""
        self.hear("user", text)
        taste, talk = self.taste, dialogue_of(self.said)
        history = Ragged.from_lists([taste])
        barred = Ragged.from_lists([[*self.named, *self.history, *self.exclude]])
        ranking = self.model.rank(Query(dialogue=talk, history=history, exclude=barred), self.k)
        items = [item for item in ranking.items[0].tolist() if item >= 0]
        facts = self.model.facts
        why = [facts.reason(item, np.array(taste, np.int64)) for item in items]
        shown = Shown(items, [facts.titles[item] for item in items], why, ranking.reasons)
        said = ""
        if items and self.model.speaks:
            spoken = self.model.reply(talk, history, items[0])
            asked = {item for one in self.said if one.role == USER for item in one.items}
            for piece in guarded(spoken, self.titles, {*items, *asked}):
                new = piece if said else piece.lstrip()
                said += new
                if new:
                    yield new
        if not any(item in items for one in self.titles.named(said) for item in one.items):
            plain = f"You could try {shown.titles[0]}: {why[0]}" if items else "There is nothing left to recommend."
            if said:
                plain = f" {plain}" if said.rstrip().endswith((".", "!", "?", "…")) else f". {plain}"
            said += plain
            yield plain
        self.hear("recommender", said)
        yield shown

    @property
    def named(self) -> list[int]:
        """The items that were named so far by either."""
        return [item for said in self.said for item in said.items]

    @property
    def taste(self) -> list[int]:
        """What the user took or named, in order, without what was last said not to be liked."""
        liked = dict.fromkeys(self.history, NOT_SAID)
        for said in self.said:
            if said.role == USER:
                for item, feeling in zip(said.items, said.liked):
                    liked[item] = liked.get(item, NOT_SAID) if feeling == NOT_SAID else feeling
        return [item for item, feeling in liked.items() if feeling != NOT_LIKED]


def titles_of(model: "ILM") -> Titles:
    """The titles of a model's items as they are found in texts."""
    return Titles(model.facts.titles, model.tables["taken_by"])


def dialogue_of(said: Sequence[Said]) -> Dialogues:
    """A batch of one dialogue, with these turns."""
    items = Ragged.from_lists([one.items for one in said])
    role = np.array([one.role for one in said], np.int8)
    start, end = np.array([place for one in said for place in one.places], np.int32).reshape(-1, 2).T
    liked = np.array([feeling for one in said for feeling in one.liked], np.int8)
    recommended = role[items.row_of_value] == RECOMMENDER
    text = pa.array([one.text for one in said], pa.string())
    turns = Turns(text, role, items, start, end, liked, recommended, np.zeros(len(said), np.uint8))
    bounds = np.array([0]), np.array([len(said)])
    return Dialogues(turns, *bounds, pa.array([0]), np.array([-1], np.int32))
