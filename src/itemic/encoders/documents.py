"""What a language model learns from: what is said of items, and dialogues, each as one document of pieces."""

from typing import Any, NamedTuple

import numpy as np
import pyarrow.compute
from jaxtyping import Bool, Int64

from itemic.data import Dataset, Ragged
from itemic.data.dialogues import ROLES
from itemic.encoders.fields import written
from itemic.encoders.vocabulary import Vocabulary

pc: Any = pyarrow.compute  # its functions are made at import, out of a type checker's sight
ROLE_MARKS = tuple(f"[{role}]" for role in ROLES)
"""The pieces that stand before what is said in a dialogue, by who says it."""


class Documents(NamedTuple):
    """Texts of which some belong together: document d is the texts bounds[d] to bounds[d + 1] - 1."""

    texts: list[str]
    role: Int64[np.ndarray, " texts"]
    """Who says a text, as an index into ROLES; -1 where nobody does."""
    bounds: Int64[np.ndarray, " bounds"]

    def __len__(self) -> int:
        return len(self.bounds) - 1

    @property
    def sizes(self) -> Int64[np.ndarray, " documents"]:
        """How many characters each has."""
        ends = np.cumsum([0, *map(len, self.texts)])[self.bounds]
        return np.diff(ends)

    def take(self, rows: Int64[np.ndarray, " some"]) -> "Documents":
        """These documents, in this order."""
        chosen = Ragged(np.arange(len(self.texts)), self.bounds).take(rows)
        return Documents([self.texts[n] for n in chosen.values], self.role[chosen.values], chosen.offsets)

    def pieces(self, vocabulary: Vocabulary) -> Ragged:
        """The pieces of each document, with the mark of who speaks before what is said."""
        marks = np.array([vocabulary.mark_of(mark) for mark in ROLE_MARKS], np.int32)
        said = self.role >= 0
        cut = Ragged.from_lengths(marks[self.role[said]], said.astype(np.int64)).joined(vocabulary.cut(self.texts))
        return Ragged(cut.values, cut.offsets[self.bounds])


class Rows(NamedTuple):
    """Documents as they are read: pieces between marks of a beginning and an end."""

    tokens: Ragged
    whole: Bool[np.ndarray, " rows"]
    """Which rows end a document; the end of another is nothing that anybody could foresee."""


def documents_of(train: Dataset, fields: list[str], template: str) -> Documents:
    """What the fields say of each item, the same once, and the dialogues where there are any."""
    said = pc.unique(written(train.items, fields, template).drop_null()).to_pylist()
    about = Documents(said, np.full(len(said), -1), np.arange(len(said) + 1))
    if "dialogues" not in train.extras:
        return about
    own = train.dialogues.compact()
    texts, role = said + own.turns.text.to_pylist(), np.concatenate([about.role, own.turns.role])
    return Documents(texts, role.astype(np.int64), np.append(about.bounds, len(said) + own.stop))


def rows_of(documents: Ragged, longest: int, first: int, end: int) -> Rows:
    """Documents cut into rows of at most `longest` pieces, the marks `first` and `end` of each among them.

    >>> rows, whole = rows_of(Ragged.from_lists([[7, 8, 9], [], [5]]), longest=4, first=2, end=3)
    >>> rows.to_lists(), whole.tolist()
    ([[2, 7, 8, 3], [2, 9, 3], [2, 5, 3]], [False, True, True])
    """
    room = longest - 2
    n_rows = -(-documents.lengths // room)
    owner = np.repeat(np.arange(len(documents)), n_rows)
    nth = np.arange(len(owner)) - np.repeat(np.cumsum(n_rows) - n_rows, n_rows)
    offsets = np.concatenate([[0], np.cumsum(np.minimum(documents.lengths[owner] - nth * room, room) + 2)])
    values = np.full(offsets[-1], end, np.int32)
    values[offsets[:-1]] = first
    inside = np.ones(len(values), bool)
    inside[offsets[:-1]] = inside[offsets[1:] - 1] = False
    values[inside] = documents.values
    return Rows(Ragged(values, offsets.astype(np.int64)), np.diff(owner, append=-1) != 0)
