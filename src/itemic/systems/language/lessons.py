"""What phase 1 of ILM is taught with: batches of items with their texts, and of what goes together."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Bool, Float, Int64
from torch import Generator, Tensor

from itemic.data import Ragged
from itemic.devices import moved
from itemic.encoders.vocabulary import Vocabulary
from itemic.nn.text import side_by_side
from itemic.systems.language import alignment
from itemic.systems.language.reader import Reader
from itemic.training import shuffled

ITEMS, USERS = 1, 2
"""Kinds of pairs: items taken one after the other, and users with what they took."""


class ItemRows(NamedTuple):
    """A batch: items whose texts are read."""

    item: Int64[Tensor, " batch"]


class PairRows(NamedTuple):
    """A batch: what goes together, of one kind."""

    left: Int64[Tensor, " batch"]
    right: Int64[Tensor, " batch"]
    kind: Int64[Tensor, " batch"]


class Lessons:
    """Vectors are scaled; `has` says which items have one, and a text is null where an item has none."""

    def __init__(
        self,
        texts: pa.Array,
        cutter: Vocabulary,
        text_tokens: int,
        histories: Ragged,
        items: Float[Tensor, "items width"],
        users: Float[Tensor, "users width"],
        has: Bool[np.ndarray, " items"],
        kinds: Sequence[str],
    ) -> None:
        self.items, self.users, self.begin = items, users, len(cutter)
        rows = cutter.cut(texts.fill_null("").to_pylist())
        self.words = Ragged.repeated([cutter.first], len(rows)).joined(rows.keep(rows.places < text_tokens - 1))
        self.like = torch.from_numpy(texts.dictionary_encode().indices.fill_null(-1).to_numpy().astype(np.int64))
        told = texts.is_valid().to_numpy(zero_copy_only=False) & has
        self.told = torch.from_numpy(np.flatnonzero(told))
        self.teaches_texts = "text" in kinds
        user, item = histories.row_of_value, histories.values.astype(np.int64)
        follows = np.flatnonzero((user[1:] == user[:-1]) & (item[1:] != item[:-1]))
        follows = follows[has[item[follows]] & has[item[follows + 1]]]
        pairs = {"items": (item[follows], item[follows + 1], ITEMS), "users": (user, item, USERS)}
        self.pairs = [pairs[kind] for kind in ("items", "users") if kind in kinds]
        self.taken = torch.from_numpy(np.unique(user * len(has) + item))

    def batches(self, size: int, rng: Generator) -> Iterator[ItemRows | PairRows]:
        """Batches of texts and of pairs in turn: each text once, and of pairs as many batches."""
        for n, rows in enumerate(shuffled(len(self.told), size, rng)):
            if self.teaches_texts and len(rows) > 1:
                yield ItemRows(self.told[rows])
            if self.pairs:
                left, right, kind = self.pairs[n % len(self.pairs)]
                drawn = torch.randint(len(left), (size,), generator=rng).numpy()
                pair = torch.from_numpy(left[drawn]), torch.from_numpy(right[drawn])
                yield PairRows(*pair, torch.full((size,), kind))

    def losses(self, reader: Reader, batch: ItemRows | PairRows) -> dict[str, Float[Tensor, ""]]:
        """What is minimised on a batch; equal items and equal texts are no negatives of each other, nor of a user is
        what that user took."""
        if isinstance(batch, ItemRows):
            item, device = batch.item.cpu(), batch.item.device
            rows = self.words.take(item.numpy())
            texts = side_by_side(torch.from_numpy(rows.values), torch.from_numpy(rows.offsets))
            like, vectors, texts = moved((self.like[item], self.items[item], texts), device)
            entity = reader.entities(vectors)
            same = like[:, None] == like
            return alignment.item_text_losses(reader.qformer, reader.heads, entity, texts, same, self.begin)
        left, right, kind = batch.left.cpu(), batch.right.cpu(), int(batch.kind[0])
        same = (left[:, None] == left) | (right[:, None] == right)
        same |= self._have_taken(left, right) if kind == USERS else left[:, None] == right
        vectors = self.users if kind == USERS else self.items
        same, one, other = moved((same, vectors[left], self.items[right]), batch.left.device)
        sides = reader.entities(one), reader.entities(other)
        loss = alignment.pair_loss(reader.qformer, reader.heads, *sides, same, kind)
        return {"users" if kind == USERS else "items": loss}

    def _have_taken(self, users: Int64[Tensor, " n"], items: Int64[Tensor, " m"]) -> Bool[Tensor, "n m"]:
        key = users[:, None] * len(self.items) + items
        at = torch.searchsorted(self.taken, key).clamp(max=len(self.taken) - 1)
        return self.taken[at] == key
