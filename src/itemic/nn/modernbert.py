"""ModernBERT and its causal twin: one network of words, of which two in three layers see their neighbours alone.

An encoder and a decoder have weights of the same names and shapes; they differ in whom a word may see.
"""

from collections.abc import Callable
from copy import deepcopy

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import gelu

from itemic.nn.attention import Cache, Where
from itemic.nn.losses.softmax import table_cross_entropy
from itemic.nn.masks import Near, Rule, causal
from itemic.nn.packing import Packing
from itemic.nn.positions import Rotary
from itemic.nn.transformer import cut_normal_, modernbert


class Head(nn.Module):
    """What states say of the words that stand there, to be compared with word embeddings; `bias` is for the logits."""

    def __init__(self, n_words: int, dim: int) -> None:
        super().__init__()
        self.dense, self.norm = nn.Linear(dim, dim, bias=False), nn.LayerNorm(dim, bias=False)
        self.bias = nn.Parameter(torch.zeros(n_words))
        cut_normal_(self.dense.weight, 0.02)

    def forward(self, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        return self.norm(gelu(self.dense(x)))


class ModernBert(nn.Module):
    """States of words, and what they say of words; each sees all of its sequence, or with `causal` what came before.

    Every `every`-th layer, from the first on, is global; in the others a word sees `side` words to either side, with
    `causal` to the left. `bases` are those of the rotary positions of global and of local layers.
    """

    def __init__(
        self,
        n_words: int,
        dim: int,
        *,
        layers: int,
        heads: int,
        hidden: int,
        side: int = 64,
        every: int = 3,
        bases: tuple[float, float] = (10_000.0, 10_000.0),
        causal: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.side, self.every, self.causal = side, every, causal
        self.word, self.norm = nn.Embedding(n_words, dim), nn.LayerNorm(dim, bias=False)
        self.stack = modernbert(dim, layers, heads, hidden, dropout=dropout)
        self.head = Head(n_words, dim)
        self.far, self.near = (Rotary(dim // heads, base, kept=True) for base in bases)
        cut_normal_(self.word.weight, 0.02)

    @property
    def dim(self) -> int:
        return self.word.embedding_dim

    def forward(
        self,
        word: Int[Tensor, "*batch"],
        packing: Packing | None = None,
        pos: Int[Tensor, "batch places"] | None = None,
        cache: Cache | None = None,
    ) -> Float[Tensor, "*batch dim"]:
        """The states of packed words [tokens]; or of padded ones [batch, n], by the position of each, -1 at padding.

        With a cache `word` holds the new words alone and `pos` the positions of all so far.
        """
        far, near = self._packed(packing) if packing is not None else self._padded(word, pos)
        places = [near if n % self.every else far for n in range(len(self.stack.blocks))]
        return self.stack(self.norm(self.word(word)), places, cache=cache)

    def logits(self, states: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch words"]:
        """How well each word fits where these states are, before softmax."""
        return self.head(states).float() @ self.word.weight.T + self.head.bias

    def loss(self, states: Float[Tensor, "tokens dim"], target: Int[Tensor, " tokens"]) -> Float[Tensor, ""]:
        """The mean of -log of the chance that each target gets of all words."""
        return table_cross_entropy(self.head(states).float(), self.word.weight, target, bias=self.head.bias)

    def gone_on(
        self,
        word: Int[Tensor, "batch places"],
        pos: Int[Tensor, "batch places"],
        n: int,
        choose: Callable[[Float[Tensor, "batch words"]], Int[Tensor, " batch"]],
        n_ends: int,
    ) -> Int[Tensor, "batch made"]:
        """At most n words behind padded rows, each chosen by its logits; a row ends with the first that is one of the
        `n_ends` first words, and has zeros from there on."""
        cache, over, made = Cache(), word.new_zeros(len(word), dtype=torch.bool), []
        for _ in range(n):
            states = self(word, pos=pos, cache=cache)[:, -1]
            chosen = choose(self.logits(states)).masked_fill(over, 0)
            made.append(chosen)
            over = over | (chosen < n_ends)
            if over.all():
                break
            word, pos = chosen[:, None], torch.cat([pos, pos[:, -1:] + 1], 1)
        return torch.stack(made, 1)

    def twin(self) -> "ModernBert":
        """The same weights in a network of the other kind."""
        other = deepcopy(self)
        other.causal = not self.causal
        return other

    def _packed(self, packing: Packing) -> tuple[Where, Where]:
        far, near = self._rules()
        near = far if packing.longest <= self.side + 1 else near  # all are neighbours
        return Where(far, packing, self.far), Where(near, packing, self.near)

    def _padded(self, word: Tensor, pos: Tensor | None) -> tuple[Where, Where]:
        assert pos is not None
        new, real = pos[:, -word.shape[1] :], (pos >= 0)[:, None]
        far, near = (real if rule is None else real & rule(new, pos) for rule in self._rules())
        return Where(far, None, self.far, pos), Where(near, None, self.near, pos)

    def _rules(self) -> tuple[Rule | None, Rule]:
        """Of global and of local layers."""
        return (causal, Near(self.side, 0)) if self.causal else (None, Near(self.side, self.side))
