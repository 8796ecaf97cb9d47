"""What phase 2 of ILM is taught with: requests of each task, and what is to be said to them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute
import torch
from jaxtyping import Int, Int32, Int64
from torch import Generator, Tensor

from itemic.data import EvalSet, Ragged, Table
from itemic.encoders.fields import written
from itemic.systems.histories import cut
from itemic.systems.language.asking import Asked, Asking, until_end
from itemic.systems.language.facts import Facts
from itemic.systems.language.prompts import TEMPLATES
from itemic.training import shuffled

pc: Any = pyarrow.compute  # its functions are made at import, out of a type checker's sight
ABOUT_ITEMS = ("describe", "similar")
"""The tasks that are about an item alone."""
OF_DIALOGUES = ("dialogue", "reply")
"""The tasks that are learned from dialogues."""
REPLY = 64
"""Words of a turn that are learned, at most."""


class Examples(NamedTuple):
    """A batch of phase 2: a task, one of the ways to ask for it, and where its examples stand: users and places in
    their histories, items (and 0), or turns that recommend and places among what they do."""

    task: str
    template: int
    row: Int64[Tensor, " batch"]
    place: Int64[Tensor, " batch"]


@dataclass(frozen=True)
class Exercises:
    """All there is to learn from, and how it becomes requests and answers in words of a language model."""

    asking: Asking
    titles: Int32[np.ndarray, "items words"]
    """The answers that name items."""
    items: Table
    fields: Sequence[str]
    """What is told of an item that is described."""
    known: Int64[Tensor, " known"]
    """The items that have both a text and interactions."""
    histories: Ragged
    places: int | None
    """The newest places of each history that are learned from; None for all."""
    facts: Callable[[], Facts]
    turns: EvalSet | None
    """Turns that recommend, with what was said before them; None without dialogues."""

    def batches(self, tasks: Sequence[str], size: int, rng: Generator) -> Iterator[Examples]:
        """Batches in random order, each of one task, put in one of the ways to ask for it."""
        batches = []
        for task in tasks:
            rows, places = self._places_of(task)
            batches += [(task, rows[some], places[some]) for some in shuffled(len(rows), size, rng)]
        for n in torch.randperm(len(batches), generator=rng).tolist():
            task, rows, places = batches[n]
            yield Examples(task, int(torch.randint(len(TEMPLATES[task]) - 1, (), generator=rng)), rows, places)

    def of(self, batch: Examples) -> tuple[Asked, Ragged]:
        """The requests of a batch, and the words that answer each."""
        task, row, place = batch.task, batch.row.numpy(force=True), batch.place.numpy(force=True)
        if task in OF_DIALOGUES:
            return self._of_dialogues(task, batch.template, row, place)
        if task in ABOUT_ITEMS:
            said = self._texts(row) if task == "describe" else self.facts().similar(row)
            return self.asking.ask(task, batch.template, items=row), self._ended(said)
        before, item = cut(self.histories, row, place)
        if task == "why":
            asked = self.asking.ask(task, batch.template, histories=before, items=item)
            return asked, self._ended(self.facts().why(item, before))
        return self.asking.ask(task, batch.template, histories=before), until_end(self.titles[item])

    def named(self, batch: Examples) -> Int64[Tensor, " batch"] | None:
        """The items that the answers of a batch name; None where they say something else."""
        row, place = batch.row.numpy(force=True), batch.place.numpy(force=True)
        if batch.task in ("next", "next for user"):
            rows = self.histories
        elif batch.task == "dialogue" and self.turns is not None:
            rows = self.turns.relevant
        else:
            return None
        return torch.from_numpy(rows.values[rows.offsets[row] + place].astype(np.int64))

    def _of_dialogues(
        self, task: str, template: int, row: Int64[np.ndarray, " batch"], place: Int64[np.ndarray, " batch"]
    ) -> tuple[Asked, Ragged]:
        turns = self.turns
        assert turns is not None
        query, item = turns.query.take(row), turns.relevant.values[turns.relevant.offsets[row] + place]
        talk = query.dialogue
        assert talk is not None
        if task == "dialogue":
            asked = self.asking.ask(task, template, histories=query.history, talk=talk)
            return asked, until_end(self.titles[item])
        said = self._ended(self._replies(row).to_pylist())
        asked = self.asking.ask(task, template, histories=query.history, talk=talk, items=item)
        return asked, said.keep(said.places < REPLY)

    def _places_of(self, task: str) -> tuple[Int64[Tensor, " n"], Int64[Tensor, " n"]]:
        """What there is to learn a task from."""
        if task in ABOUT_ITEMS:
            return self.known, torch.zeros_like(self.known)
        if task in OF_DIALOGUES:
            assert self.turns is not None
            wanted = self.turns.relevant
            row, place = wanted.row_of_value, wanted.places
            if task == "reply":
                row = np.flatnonzero(pc.not_equal(self._replies(np.arange(len(wanted))), ""))
                place = np.zeros_like(row)
            return torch.from_numpy(row), torch.from_numpy(place)
        row, longest = self.histories.row_of_value, int(self.histories.lengths.max())
        place = self.histories.places
        known = np.flatnonzero(place >= np.maximum(1, self.histories.lengths - (self.places or longest))[row])
        return torch.from_numpy(row[known]), torch.from_numpy(place[known])

    def _replies(self, rows: Int64[np.ndarray, " n"]) -> pa.Array:
        """What is said in each of these turns."""
        assert self.turns is not None
        talk = self.turns.query.dialogue
        assert talk is not None
        return talk.turns.text.take(pa.array(talk.stop[rows]))

    def _texts(self, items: Int[np.ndarray, " n"]) -> list[str]:
        return written(self.items.take(items), list(self.fields), "{text}").to_pylist()

    def _ended(self, texts: Sequence[str]) -> Ragged:
        return self.asking.lm.ended([f" {text}" for text in texts])
