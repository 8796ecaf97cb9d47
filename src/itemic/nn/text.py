"""An encoder of texts as BERT, RoBERTa and Longformer are built, on packed tokens."""

from dataclasses import replace
from math import sqrt
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor, nn
from torch.nn.functional import gelu

from itemic.nn.attention import Attention, Cache, Where
from itemic.nn.dropout import Dropout
from itemic.nn.masks import prefix, window
from itemic.nn.packing import Packing
from itemic.nn.transformer import Block, Feed, Stack


class Texts(NamedTuple):
    """Texts side by side, padded at their ends."""

    token: Int64[Tensor, "texts n"]
    real: Bool[Tensor, "texts n"]


def side_by_side(token: Int[Tensor, " tokens"], bounds: Int64[Tensor, " bounds"]) -> Texts:
    """Texts of different lengths, of which text n is token[bounds[n] : bounds[n + 1]], as a block.

    >>> side_by_side(torch.tensor([5, 6, 7]), torch.tensor([0, 2, 3])).token.tolist()
    [[5, 6], [7, 0]]
    """
    lengths = bounds.diff()
    real = torch.arange(int(lengths.max()) if len(lengths) else 0, device=token.device) < lengths[:, None]
    return Texts(real.new_zeros(real.shape, dtype=torch.int64).masked_scatter(real, token.long()), real)


class Windowed(Attention):
    """Attention of Longformer: each sees its neighbours and the first token, which sees all by projections of its own.

    `width` is that of the whole window: half of it to either side. For packed tokens only, where no sequence is empty.
    """

    def __init__(self, dim: int, heads: int, width: int, *, dropout: float = 0.0) -> None:
        super().__init__(dim, heads, dropout=dropout)
        self.side = width // 2
        self.query_global, self.key_global, self.value_global = (nn.Linear(dim, dim) for _ in range(3))

    def forward(
        self,
        x: Float[Tensor, "tokens dim"],
        memory: Float[Tensor, "tokens dim"] | None = None,
        where: Where = Where(),  # noqa: B008 (frozen)
        cache: Cache | None = None,
        *,
        fixed: bool = False,
    ) -> Float[Tensor, "tokens dim"]:
        packing = where.packing
        assert packing is not None
        near = replace(where, allow=lambda q, k: window(q, k, self.side) | prefix(q, k, 1))
        first = packing.offsets[:-1]
        made = super().forward(x, memory, near, cache, fixed=fixed)
        return made.index_copy(0, first, self._of_all(x, packing).to(made.dtype))

    def _of_all(self, x: Float[Tensor, "tokens dim"], packing: Packing) -> Float[Tensor, "sequences dim"]:
        """What the first token of each sequence makes of all its tokens: a softmax over segments."""
        row, n = packing.row, len(packing.lengths)
        q = self._heads(self.query_global(x[packing.offsets[:-1]]))
        logits = (q[row] * self._heads(self.key_global(x))).sum(-1).float() / sqrt(self.dim // self.heads)
        at = row[:, None].expand_as(logits)
        top = logits.new_full((n, self.heads), -torch.inf).scatter_reduce(0, at, logits.detach(), "amax")
        shares = (logits - top[row]).exp()
        sums = shares.new_zeros(n, self.heads).index_add(0, row, shares)
        values = (shares / sums[row])[..., None] * self._heads(self.value_global(x))
        return self.out(values.new_zeros(n, *values.shape[1:]).index_add(0, row, values).flatten(1))


class TextEncoder(nn.Module):
    """States of words: embeddings of word, place and kind, normalised, and post-norm blocks of attention and GELU.

    With a `window` attention is that of Longformer, else each token sees all of its sequence.
    """

    def __init__(
        self,
        n_words: int,
        dim: int,
        *,
        layers: int,
        heads: int,
        hidden: int,
        n_places: int,
        n_kinds: int,
        window: int | None = None,
        dropout: float = 0.1,
        eps: float = 1e-12,
    ) -> None:
        super().__init__()
        self.word, self.place, self.kind = (nn.Embedding(n, dim) for n in (n_words, n_places, n_kinds))
        self.norm, self.drop = nn.LayerNorm(dim, eps), Dropout(dropout)

        def attention() -> Attention:
            if window is None:
                return Attention(dim, heads, dropout=dropout)
            return Windowed(dim, heads, window, dropout=dropout)

        self.stack = Stack(
            Block(attention(), Feed(dim, hidden, gelu), "post", dropout=dropout, eps=eps) for _ in range(layers)
        )
        as_in_bert(self)

    def forward(
        self,
        word: Int[Tensor, " tokens"],
        kind: Int[Tensor, " tokens"],
        packing: Packing,
        beside: Float[Tensor, "tokens dim"] | None = None,
    ) -> Float[Tensor, "tokens dim"]:
        """`beside` is added to the embeddings."""
        x = self.word(word) + self.place(packing.place) + self.kind(kind)
        x = x if beside is None else x + beside
        return self.stack(self.drop(self.norm(x)), Where(packing=packing))


class WordHead(nn.Module):
    """What states say of the words that stood there, to be compared with word embeddings; `bias` is for the logits."""

    def __init__(self, n_words: int, dim: int, eps: float = 1e-12) -> None:
        super().__init__()
        self.dense, self.norm = nn.Linear(dim, dim), nn.LayerNorm(dim, eps)
        self.bias = nn.Parameter(torch.zeros(n_words))
        as_in_bert(self)

    def forward(self, x: Float[Tensor, "tokens dim"]) -> Float[Tensor, "tokens dim"]:
        return self.norm(gelu(self.dense(x)))


def as_in_bert(module: nn.Module) -> None:
    """Draws the first weights of linear layers and embeddings from a normal distribution of deviation 0.02."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Embedding):
            nn.init.normal_(layer.weight, std=0.02)
        if isinstance(layer, nn.Linear):
            nn.init.zeros_(layer.bias)


def row_means(x: Float[Tensor, "tokens dim"], packing: Packing) -> Float[Tensor, "sequences dim"]:
    """The mean of the states of each sequence, none of them empty.

    >>> row_means(torch.tensor([[1.0], [3], [5]]), Packing(torch.tensor([0, 2, 3]))).tolist()
    [[2.0], [5.0]]
    """
    sums = x.new_zeros(len(packing.lengths), x.shape[1]).index_add(0, packing.row, x)
    return sums / packing.lengths[:, None]
