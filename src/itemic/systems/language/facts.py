"""What can be said of items without a language model: their fields, their neighbours, and what they share with a
history. Answers to learn from, and reasons that are true."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int

from itemic.data import Ragged, Table
from itemic.encoders.fields import texts_of
from itemic.nn.topk import top_k_inner

NEIGHBOURS = 3
"""Items named where somebody asks for similar ones."""
REASONS = 2
"""Items of a history that are named as a reason."""


class Facts(NamedTuple):
    """Items in words, and unit vectors of what goes together; zeros for items without."""

    titles: list[str]
    traits: list[frozenset[str]]
    """The single values of categories and attributes of each item."""
    unit: Float32[np.ndarray, "items dim"]
    named: Bool[np.ndarray, " items"]
    """Those that have a title of their own: an id says nothing to anybody, so no other is named as similar or as a
    reason."""

    @classmethod
    def of(cls, items: Table, titles: Sequence[str], vectors: Float32[np.ndarray, "items dim"]) -> "Facts":
        titles_in = set(items.roles.get("title", []))
        columns = [name for role in ("category", "attributes", "text") for name in items.roles.get(role, [])]
        columns = [name for name in dict.fromkeys(columns) if name not in titles_in and _is_short(items, name)]
        values = [[_values(text) for text in texts_of(items, name)] for name in columns]
        traits = [frozenset().union(*row) for row in zip(*values)] if values else [frozenset()] * len(items)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        named = np.array([bool(title) for title in items.titles(np.arange(len(items)))], bool)
        return cls(list(titles), traits, (vectors / lengths.clip(min=1e-12)).astype(np.float32), named)

    def similar(self, items: Int[np.ndarray, " n"]) -> list[str]:
        """The titles of the nearest neighbours of each item."""
        itself = items.astype(np.int32), np.arange(len(items) + 1)
        found, _ = top_k_inner(self.unit[items], self.unit, NEIGHBOURS, exclude=itself, allowed=self.named)
        return [", ".join(self.titles[n] for n in row if n >= 0) for row in found.tolist()]

    def why(self, items: Int[np.ndarray, " n"], histories: Ragged) -> list[str]:
        """What connects each item with a history: the nearest of what was taken, and what all of these share."""
        told = []
        for item, history in zip(items.tolist(), histories):
            taken = np.unique(history[(history != item) & self.named[history]])
            near = self.unit[taken] @ self.unit[item]
            best = taken[np.argsort(-near, kind="stable")[:REASONS]].tolist()
            told.append(self._because(item, best))
        return told

    def reason(self, item: int, taste: Int[np.ndarray, " n"]) -> str:
        """What speaks for an item: those of a taste that are near it, and what it shares with them; else what it is."""
        taste = taste[self.named[taste]]
        near = self.unit[taste] @ self.unit[item]
        best = [int(taste[n]) for n in np.argsort(-near, kind="stable")[:REASONS] if near[n] > 0]
        if best:
            return self._because(item, best)
        known = ", ".join(sorted(self.traits[item]))
        return f"it is {known}." if known else "nothing is known of it but its title."

    def _because(self, item: int, taken: list[int]) -> str:
        if not taken:
            return "many others took it."
        named = " and ".join(self.titles[n] for n in taken)
        shared = self.traits[item].intersection(*(self.traits[n] for n in taken))
        common = f", which are {', '.join(sorted(shared))} too" if shared else ""
        return f"it goes with {named}{common}."


def _is_short(items: Table, name: str) -> bool:
    """Whether a column holds names of kinds, not prose: few different words for its rows."""
    texts = [text for text in texts_of(items, name) if text]
    return len(set().union(*map(_values, texts))) < max(2, len(texts)) if texts else False


def _values(text: str) -> set[str]:
    """The single values of a field, of one written with commas or bars between them.

    >>> sorted(_values("Drama|War, History"))
    ['Drama', 'History', 'War']
    """
    return {value for part in text.split("|") for value in (v.strip() for v in part.split(",")) if value}
