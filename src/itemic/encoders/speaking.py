"""What a decoder makes of texts, cut by its vocabulary: states, chances, and what goes on after them."""

import json
from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Generator, Tensor

from itemic.data import Ragged
from itemic.data.dialogues import ROLES
from itemic.devices import moved
from itemic.encoders.documents import ROLE_MARKS, Documents
from itemic.encoders.reading import TOKENS
from itemic.encoders.vocabulary import MARKS, Vocabulary
from itemic.errors import QueryError
from itemic.model import C, LanguageModel, M
from itemic.nn.decoding import sample
from itemic.nn.modernbert import ModernBert
from itemic.nn.packing import Packing
from itemic.nn.products import fast_products

N_MARKS = len(MARKS) + len(ROLE_MARKS)
"""The first pieces of the vocabulary are marks, which no text holds."""
UNSAID = [MARKS.index(mark) for mark in ("[PAD]", "[UNK]", "[CLS]", "[MASK]")]
"""Those that a decoder never writes."""
SIDE_BY_SIDE = 64
"""Prompts that are gone on with together."""
Prompt = str | Sequence[tuple[str, str]]
"""A text, or a dialogue of roles and what they say."""


class Speaker(LanguageModel[C, M]):
    """A language model gives its `decoder`, and says how many tokens are the `longest` row that it reads."""

    @property
    def decoder(self) -> ModernBert:
        """What goes on with texts."""
        raise TypeError(f"{type(self).__name__} has no decoder")

    @cached_property
    def cutter(self) -> Vocabulary:
        """What cuts its texts into pieces."""
        return Vocabulary(json.dumps(self.vocabulary))

    @property
    def longest(self) -> int:
        """How many tokens it reads at most."""
        raise TypeError(f"{type(self).__name__} does not say how much it reads")

    @torch.inference_mode()
    def states(self, texts: Sequence[str]) -> Ragged:
        rows = self._begun(self.cutter.cut(texts))
        self._check_lengths(rows.lengths, "text")
        return Ragged(np.concatenate([states.numpy(force=True) for _, states in self._decoded(rows)]), rows.offsets)

    @torch.inference_mode()
    def log_probs(self, texts: Sequence[str], given: Sequence[str] | None = None) -> Ragged:
        before = self._begun(self.cutter.cut(["" for _ in texts] if given is None else given))
        rows = before.joined(self.cutter.cut(texts)).joined(Ragged.repeated([self.cutter.end], len(texts)))
        self._check_lengths(rows.lengths, "text")
        chances = [np.empty(0, np.float32)]
        for token, states in self._decoded(rows):
            logits = self.decoder.logits(states[:-1])
            chance = logits.log_softmax(-1).gather(1, token[1:, None])[:, 0]
            first = np.float32(0)  # of the first token in all nothing is known
            chances.append(np.append(first, chance.numpy(force=True)))
        said = rows.places >= np.repeat(before.lengths, rows.lengths)
        return Ragged(np.concatenate(chances), rows.offsets).keep(said)

    def generate(
        self,
        prompts: Sequence[Prompt],
        n_tokens: int = 64,
        *,
        role: str | None = None,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> list[str]:
        """What goes on after each prompt, a text or a dialogue of (role, text): up to so many pieces, or to the end.

        With a `role` it is what that one says next. At a temperature of 0 each piece is the likeliest one, else it is
        drawn from the likeliest ones whose chances come to `top_p`.

        Raises:
            QueryError: a prompt leaves no room for so many pieces, or a role is neither user nor recommender.
        """
        rows = self._begun(self._prompted(prompts, role))
        self._check_lengths(rows.lengths + n_tokens, "prompt", f" with the {n_tokens:,} to come")
        rng, order = Generator().manual_seed(seed), np.argsort(rows.lengths, kind="stable")
        made: list[list[int]] = [[]] * len(rows)

        unsaid = moved(torch.tensor(UNSAID), self.device)

        def choose(logits: Tensor) -> Tensor:
            logits.index_fill_(1, unsaid, -torch.inf)
            return sample(logits, temperature, top_p, rng)

        with torch.inference_mode(), fast_products():
            for start in range(0, len(order), SIDE_BY_SIDE):
                some = order[start : start + SIDE_BY_SIDE]
                word, pos = moved(_side_by_side(rows.take(some)), self.device)
                for n, said in zip(some, self.decoder.gone_on(word, pos, n_tokens, choose, N_MARKS).tolist()):
                    made[n] = [piece for piece in said if piece >= N_MARKS]
        return self.cutter.texts(Ragged.from_lists(made))

    def _prompted(self, prompts: Sequence[Prompt], role: str | None) -> Ragged:
        last = [] if role is None else [(role, "")]
        turns = [[*([("", prompt)] if isinstance(prompt, str) else prompt), *last] for prompt in prompts]
        who = [name for said in turns for name, _ in said]
        for name in who:
            if name not in ("", *ROLES):
                raise QueryError(f"'{name}' is no role. Roles: {', '.join(ROLES)}.")
        roles = np.array([ROLES.index(name) if name else -1 for name in who], np.int64)
        bounds = np.cumsum([0, *map(len, turns)])
        return Documents([text for said in turns for _, text in said], roles, bounds).pieces(self.cutter)

    def _begun(self, pieces: Ragged) -> Ragged:
        return Ragged.repeated([self.cutter.first], len(pieces)).joined(pieces)

    def _check_lengths(self, lengths: Int64[np.ndarray, " rows"], what: str, more: str = "") -> None:
        if len(lengths) and lengths.max() > self.longest:
            n = int(lengths.argmax())
            raise QueryError(
                f"{what} {n + 1} of {len(lengths):,} has {lengths[n]:,} tokens{more}; ettin was trained to read "
                f"{self.longest:,}. Shorten it, or fit with longer lengths."
            )

    def _decoded(self, rows: Ragged) -> Iterator[tuple[Int64[Tensor, " tokens"], Float[Tensor, "tokens dim"]]]:
        """The tokens of some rows after the others, and the states of them."""
        ends = np.flatnonzero(np.diff(rows.lengths.cumsum() // TOKENS)) + 1
        with fast_products():
            for some in np.split(np.arange(len(rows)), ends) if len(rows) else []:
                token, packing = packed(rows.take(some), self.device)
                yield token, self.decoder(token, packing)


def packed(rows: Ragged, device: str = "cpu") -> tuple[Int64[Tensor, " tokens"], Packing]:
    token, offsets = moved((torch.from_numpy(rows.values).long(), torch.from_numpy(rows.offsets)), device)
    return token, Packing(offsets)


def _side_by_side(rows: Ragged) -> tuple[Int64[Tensor, "rows places"], Int64[Tensor, "rows places"]]:
    """Rows as a block, padded in front, and the position of each token, -1 where there is none."""
    token, packing = packed(rows)
    pos = torch.arange(packing.longest) - (packing.longest - packing.lengths)[:, None]
    word = torch.zeros_like(pos)
    word[pos >= 0] = token
    return word, pos.clamp(min=-1)
