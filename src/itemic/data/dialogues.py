"""What people said to a recommender and what it answered: turns, the items they name, and what was liked in the end.

A batch of dialogues is a range of turns for each, in arrays that all of them share. So the beginnings of one dialogue,
which a recommender reads before each of its turns, cost two numbers each.
"""

import hashlib
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute
from jaxtyping import Bool, Int8, Int32, Int64, UInt8

from itemic.data.interactions import Interactions
from itemic.data.query import EvalSet, Query
from itemic.data.ragged import Ragged, runs

pc: Any = pyarrow.compute  # its functions are made at import, out of a type checker's sight

ROLES = ("user", "recommender")
"""Who speaks: turns hold an index into it."""
USER, RECOMMENDER = 0, 1
KINDS = ("mentioned", "recommended")
"""The kinds of the interactions that dialogues are made into."""
MENTIONED, RECOMMENDED = 0, 1


class Turn(NamedTuple):
    """One turn, for people to read."""

    role: str
    text: str
    items: list[int]
    """Codes of the items it names, in order."""


@dataclass(frozen=True)
class Turns:
    """Turns in order, dialogue after dialogue, and the items that each names."""

    text: pa.Array
    """What was said, a string a turn."""
    role: Int8[np.ndarray, " turns"]
    """USER or RECOMMENDER."""
    mentions: Ragged
    """Codes of the items that each turn names, in order; the next four fields are aligned with its values."""
    start: Int32[np.ndarray, " mentions"]
    """Where in the text the item is named, counted in characters; -1 where the place is not known."""
    end: Int32[np.ndarray, " mentions"]
    """The place after its last character."""
    liked: Int8[np.ndarray, " mentions"]
    """1 liked, 0 not liked, -1 not said: what came out in the end, perhaps turns later."""
    recommended: Bool[np.ndarray, " mentions"]
    """Whether this turn recommends the item; only turns of a recommender do."""
    part: UInt8[np.ndarray, " turns"]
    """TRAIN, VALID or TEST: the split that came with the data, all TRAIN where none did."""

    def __len__(self) -> int:
        return len(self.role)

    @property
    def recommends(self) -> Bool[np.ndarray, " turns"]:
        """Which turns recommend anything."""
        return self.mentions.keep(self.recommended).lengths > 0

    def take(self, rows: Int64[np.ndarray, " taken"]) -> "Turns":
        """These turns, in this order."""
        where = self.mentions.positions(rows)
        aligned = {name: getattr(self, name)[where] for name in ("start", "end", "liked", "recommended")}
        text = self.text.take(pa.array(rows))
        return Turns(text, self.role[rows], self.mentions.take(rows), **aligned, part=self.part[rows])

    def fault(self, n_items: int) -> tuple[int, str] | None:
        """The first turn that is not what it should be and what is wrong with it; None where all are well."""
        named, turn = self.mentions.values, self.mentions.row_of_value
        length = pc.utf8_length(self.text).to_numpy(zero_copy_only=False)[turn]
        placed = (self.start != -1) | (self.end != -1)
        inside = (self.start >= 0) & (self.start < self.end) & (self.end <= length)
        faults = {
            "the role is neither user nor recommender": np.flatnonzero((self.role < 0) | (self.role > 1)),
            f"a mention is none of the {n_items:,} items": turn[(named < 0) | (named >= n_items)],
            "a mention stands outside of the text": turn[placed & ~inside],
            "liked is none of 1 (liked), 0 (not liked) and -1 (not said)": turn[(self.liked < -1) | (self.liked > 1)],
            "a user recommends an item": turn[self.recommended & (self.role[turn] != RECOMMENDER)],
            "the part is none of train, valid and test": np.flatnonzero(self.part > 2),
        }
        found = [(int(rows.min()), fault) for fault, rows in faults.items() if len(rows)]
        return min(found, key=lambda each: each[0], default=None)


@dataclass(frozen=True)
class Dialogues:
    """A batch of dialogues, or of beginnings of them: row r is the turns `first[r]` to `stop[r] - 1`.

    >>> from itemic.data import Dataset
    >>> talk = {"dialogue": [7, 7, 7], "role": ["user", "recommender", "user"], "text": ["Like Heat?", "Ronin", "No"]}
    >>> dialogues = Dataset.from_dialogues({**talk, "items": [["heat"], ["ronin"], []]}).dialogues
    >>> dialogues[0][1]
    Turn(role='recommender', text='Ronin', items=[1])
    >>> cases = dialogues.cases()
    >>> cases.query.dialogue.texts().to_pylist(), cases.query.history.to_lists(), cases.relevant.to_lists()
    (['Like Heat?'], [[0]], [[1]])
    """

    turns: Turns
    """The turns of all rows, and perhaps others."""
    first: Int64[np.ndarray, " dialogues"]
    stop: Int64[np.ndarray, " dialogues"]
    ids: pa.Array
    """What the data call each dialogue: integers or strings."""
    user: Int32[np.ndarray, " dialogues"]
    """The code of the user who speaks; where the data name no users, each dialogue is one."""

    def __len__(self) -> int:
        return len(self.first)

    def __getitem__(self, row: int) -> list[Turn]:
        row = range(len(self))[row]
        turns = self.turns
        return [
            Turn(ROLES[turns.role[t]], turns.text[t].as_py(), turns.mentions[t].tolist())
            for t in range(int(self.first[row]), int(self.stop[row]))
        ]

    @property
    def lengths(self) -> Int64[np.ndarray, " dialogues"]:
        """How many turns each has."""
        return self.stop - self.first

    def take(self, rows: np.ndarray) -> "Dialogues":
        """These dialogues, in this order; the turns are shared."""
        ids = self.ids.take(pa.array(rows))
        return replace(self, first=self.first[rows], stop=self.stop[rows], ids=ids, user=self.user[rows])

    def block(self, start: int, stop: int) -> "Dialogues":
        """Dialogues start to stop - 1; the turns are shared."""
        cut = {name: getattr(self, name)[start:stop] for name in ("first", "stop", "user")}
        return replace(self, **cut, ids=self.ids.slice(start, stop - start))

    def compact(self) -> "Dialogues":
        """The same dialogues with turns of their own and no others."""
        turns, stop = self.turns.take(runs(self.first, self.lengths)), np.cumsum(self.lengths)
        return replace(self, turns=turns, first=stop - self.lengths, stop=stop)

    def texts(self, separator: str = "\n") -> pa.Array:
        """All that was said in each dialogue, a string a dialogue."""
        said = self.turns.text.take(pa.array(runs(self.first, self.lengths)))
        offsets = np.concatenate([[0], np.cumsum(self.lengths)]).astype(np.int32)
        return pc.binary_join(pa.ListArray.from_arrays(pa.array(offsets), said), separator)

    def mentions(self) -> Ragged:
        """Codes of the items that each dialogue names, in order."""
        where, lengths = self.mentioned()
        return Ragged.from_lengths(self.turns.mentions.values[where], lengths)

    def cases(self, part: int | None = None, repeats: bool = True) -> EvalSet:
        """Each turn that recommends something, of this part or of all: what was said before, and what it recommends.

        The history is what was named so far, with its kind (of `KINDS`). `liked` is not told: it may have come out
        later. Without `repeats` an item named before is not sought, as those who leave out what was seen cannot find
        it; turns that recommend nothing else are left out and counted.
        """
        turns = self.turns
        owner, turn = self._owners(), runs(self.first, self.lengths)
        chosen = turns.recommends[turn]
        if part is not None:
            chosen &= turns.part[turn] == part
        owner, turn = owner[chosen], turn[chosen]
        before = replace(self.take(owner), stop=turn)
        where, lengths = before.mentioned()
        history = Ragged.from_lengths(turns.mentions.values[where], lengths)
        relevant = _distinct(turns.mentions.keep(turns.recommended).take(turn), None if repeats else history)
        kind = turns.recommended[where].astype(np.int16)
        rows = np.flatnonzero(relevant.lengths)
        query = Query(history=history, history_kind=kind, dialogue=before, repeats=repeats)
        return EvalSet(query.take(rows), relevant.take(rows), n_skipped=len(turn) - len(rows), label="dialogues")

    def held_out_from(self, *parts: int) -> Int64[np.ndarray, " dialogues"]:
        """The first turn of each dialogue that is of none of these parts; its `stop` where all are of them."""
        turn, stop = runs(self.first, self.lengths), self.stop.copy()
        held = ~np.isin(self.turns.part[turn], parts)
        np.minimum.at(stop, self._owners()[held], turn[held])
        return stop

    def until_held_out(self, *parts: int) -> "Dialogues":
        """Each dialogue up to its first turn that is of none of these parts, without those that begin so.

        What was said afterwards may tell what the held-out turn recommended.
        """
        stop = self.held_out_from(*parts)
        return replace(self, stop=stop).take(np.flatnonzero(stop > self.first)).compact()

    def interactions(self, n_users: int, n_items: int) -> tuple[Interactions, Int64[np.ndarray, " rows"]]:
        """What was named as interactions of the users, in order, but for what was not liked; and the turn of each."""
        where, lengths = self.mentioned()
        user = np.repeat(self.user, lengths)
        rows = np.flatnonzero(self.turns.liked[where] != 0)
        rows = rows[np.argsort(user[rows], kind="stable")]
        where, user = where[rows], user[rows]
        kind = self.turns.recommended[where].astype(np.int16)
        log = Interactions(user, self.turns.mentions.values[where], n_users, n_items, kind=kind, kinds=KINDS)
        return log, self.turns.mentions.row_of_value[where]

    def digest(self) -> str:
        """A hash of what was said by whom, the same on every machine."""
        own, sha = self.compact(), hashlib.blake2b(digest_size=16)
        arrays = [getattr(own.turns, name) for name in ("role", "start", "end", "liked", "recommended")]
        for array in (*arrays, own.turns.mentions.values, own.turns.mentions.offsets, own.stop, own.user):
            sha.update(np.ascontiguousarray(array).data)
        for words in (own.turns.text, own.ids.cast(pa.string())):
            sha.update(pc.binary_length(words).to_numpy(zero_copy_only=False).tobytes())
            sha.update("".join(words.to_pylist()).encode())
        return sha.hexdigest()

    def _owners(self) -> Int64[np.ndarray, " turns"]:
        """The dialogue of each turn, of `runs(self.first, self.lengths)`."""
        return np.repeat(np.arange(len(self)), self.lengths)

    def mentioned(self) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " dialogues"]]:
        """Where the mentions of each dialogue stand, dialogue after dialogue, and how many each has."""
        bounds = self.turns.mentions.offsets
        lengths = bounds[self.stop] - bounds[self.first]
        return runs(bounds[self.first], lengths), lengths


def _distinct(rows: Ragged, without: Ragged | None) -> Ragged:
    """Each value of a row once, the first time that it stands there, and none that `without` has in the same row."""
    width = 1 + max(int(each.values.max(initial=0)) for each in (rows, without) if each is not None)
    keys = rows.row_of_value * width + rows.values
    kept = np.zeros(len(keys), bool)
    kept[np.unique(keys, return_index=True)[1]] = True
    if without is not None:
        kept &= ~np.isin(keys, without.row_of_value * width + without.values)
    return rows.keep(kept)
