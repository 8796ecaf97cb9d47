"""Items as sentences of their attributes, and histories as sequences of these, in arrays: made once, then gathered."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int32, Int64, UInt8

from itemic.data import Ragged, Table
from itemic.encoders.fields import texts_of
from itemic.encoders.vocabulary import Vocabulary

BEGIN, KEY, VALUE, N_KINDS = 0, 1, 2, 3
"""Kinds of tokens: what begins a sequence, the name of an attribute, what it is."""


class Sentences(NamedTuple):
    """The tokens of each item, one item after the other."""

    token: Int32[np.ndarray, " tokens"]
    kind: UInt8[np.ndarray, " tokens"]
    begins: Bool[np.ndarray, " tokens"]
    """Whether a word begins here."""
    bounds: Int64[np.ndarray, " bounds"]

    @property
    def rows(self) -> Ragged:
        return Ragged(self.token, self.bounds)


class Sequences(NamedTuple):
    """The tokens of each history: what begins it, then the newest item, then the one before it, and so on."""

    token: Int32[np.ndarray, " tokens"]
    kind: UInt8[np.ndarray, " tokens"]
    begins: Bool[np.ndarray, " tokens"]
    item: Int32[np.ndarray, " tokens"]
    """1 for the tokens of the newest item, 2 for those of the one before; 0 for the first token."""
    bounds: Int64[np.ndarray, " bounds"]


def sentences_of(items: Table, fields: Sequence[str], vocabulary: Vocabulary, longest: int) -> Sentences:
    """Each attribute that an item has as the tokens of its name and of its value, cut at `longest` tokens together."""
    n = len(items)
    whole = Ragged(np.empty((0, 3), np.int32), np.zeros(n + 1, np.int64))
    for field in fields:
        value = _tokens(vocabulary, texts_of(items, field), VALUE)
        key, told = _tokens(vocabulary, [field.replace("_", " ")], KEY).values, value.lengths > 0
        named = Ragged.from_lengths(np.tile(key, (int(told.sum()), 1)), len(key) * told)
        attribute = named.joined(value)
        whole = whole.joined(attribute.keep(attribute.places < longest))
    token, kind, begins = whole.values.T
    return Sentences(token.copy(), kind.astype(np.uint8), begins.astype(bool), whole.offsets)


def _tokens(vocabulary: Vocabulary, texts: Sequence[str], kind: int) -> Ragged:
    """Rows of token, kind, and whether a word begins, for each text."""
    pieces, begins = vocabulary.pieces(texts)
    return Ragged(np.stack([pieces.values, np.full(len(begins), kind), begins], 1).astype(np.int32), pieces.offsets)


def sequences_of(sentences: Sentences, histories: Ragged, first: int, longest: int) -> Sequences:
    """The histories, newest item first, each begun by the token `first` and cut at `longest` tokens.

    >>> of = Sentences(np.array([5, 6, 7], np.int32), np.uint8([1, 2, 2]), np.ones(3, bool), np.array([0, 1, 3]))
    >>> made = sequences_of(of, Ragged.from_lists([[0, 1], []]), first=9, longest=8)
    >>> made.token.tolist(), made.kind.tolist(), made.item.tolist(), made.bounds.tolist()
    ([9, 6, 7, 5, 9], [0, 2, 2, 1, 0], [0, 1, 1, 2, 0], [0, 4, 5])
    """
    row = histories.row_of_value
    back = histories.offsets[row] + histories.offsets[row + 1] - 1 - np.arange(len(row))  # the row from its end
    newest_first = histories.values[back]
    rows = sentences.rows
    n = rows.offsets[newest_first + 1] - rows.offsets[newest_first]
    source = rows.positions(newest_first)
    token_row, item = np.repeat(row, n), np.repeat(np.arange(len(row)) - histories.offsets[row] + 1, n)
    before = np.concatenate([[0], np.bincount(token_row, minlength=len(histories)).cumsum()])
    kept = np.arange(len(source)) - before[token_row] < longest - 1
    source, token_row, item = source[kept], token_row[kept], item[kept]
    lengths = np.bincount(token_row, minlength=len(histories)) + 1
    bounds = np.concatenate([[0], lengths.cumsum()]).astype(np.int64)
    at = np.arange(len(source)) + token_row + 1
    made = Sequences(
        np.full(bounds[-1], first, np.int32),
        np.full(bounds[-1], BEGIN, np.uint8),
        np.ones(bounds[-1], bool),
        np.zeros(bounds[-1], np.int32),
        bounds,
    )
    made.token[at], made.kind[at] = sentences.token[source], sentences.kind[source]
    made.begins[at], made.item[at] = sentences.begins[source], item
    return made
