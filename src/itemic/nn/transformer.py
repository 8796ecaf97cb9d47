"""A transformer from parts: blocks of attention and feed-forward layers, in the three orders of norms in use.

Works on packed tokens [tokens, dim] and on padded blocks [batch, n, dim] alike; `Where` says which.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import gelu, relu

from itemic.nn.attention import Attention, Cache, Where
from itemic.nn.dropout import Dropout

Norm = Literal["pre", "post", "sasrec"]


class Feed(nn.Module):
    """Two linear layers with an activation between them; dropout behind the activation."""

    def __init__(
        self, dim: int, hidden: int, activation: Callable[[Tensor], Tensor], dropout: float = 0.0, bias: bool = True
    ) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(dim, hidden, bias), nn.Linear(hidden, dim, bias)
        self.activation, self.drop = activation, Dropout(dropout)

    def forward(self, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        return self.outer(self.drop(self.activation(self.inner(x))))


class GatedFeed(nn.Module):
    """Two linear layers, of which the first gives each hidden value twice: behind an activation, and as its scale.

    With `gelu` this is GeGLU (Shazeer, 2020).
    """

    def __init__(self, dim: int, hidden: int, activation: Callable[[Tensor], Tensor], bias: bool = True) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(dim, 2 * hidden, bias), nn.Linear(hidden, dim, bias)
        self.activation = activation

    def forward(self, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        value, gate = self.inner(x).chunk(2, -1)
        return self.outer(self.activation(value) * gate)


class Block(nn.Module):
    """Attention, to a memory too with `cross`, and a feed-forward layer, each added to the stream x.

    - `pre`: x + f(LN(x)). Trains without warm-up.
    - `post`: LN(x + f(x)), as in the first transformer and BERT.
    - `sasrec`: LN(x) + f, where queries are of LN(x), keys and values of x, as in SASRec's code. The stream goes on
      normalised; dropout is for the feed-forward layer only.
    """

    def __init__(
        self,
        attend: Attention,
        feed: nn.Module,
        norm: Norm = "pre",
        cross: Attention | None = None,
        *,
        dropout: float = 0.0,
        feed_dropout: float | None = None,
        eps: float = 1e-5,
        centre: bool = True,
        bias: bool = True,
    ) -> None:
        """`dropout` falls on what joins the stream, `feed_dropout` on what the feed-forward layer adds where that is to
        be another. Without `bias` norms have none; without `centre` they do not take off the mean either, as in T5."""
        super().__init__()
        normed = partial(nn.LayerNorm, bias=bias) if centre else nn.RMSNorm
        self.attend, self.feed, self.cross, self.norm = attend, feed, cross, norm
        self.attend_norm, self.feed_norm = normed(attend.dim, eps), normed(attend.dim, eps)
        self.cross_norm = normed(attend.dim, eps) if cross is not None else None
        self.drop = Dropout(dropout)
        self.feed_drop = self.drop if feed_dropout is None else Dropout(feed_dropout)

    def forward(
        self,
        x: Float[Tensor, "*batch dim"],
        where: Where,
        memory: Float[Tensor, "*keys kv_dim"] | None = None,
        memory_where: Where = Where(),  # noqa: B008 (frozen)
        cache: Cache | None = None,
    ) -> Float[Tensor, "*batch dim"]:
        if self.norm == "sasrec":
            q = self.attend_norm(x)
            x = self.feed_norm(q + self.attend(q, x, where, cache))
            return x + self.feed_drop(self.feed(x))
        x = self._added(x, self.attend_norm, lambda x: self.drop(self.attend(x, None, where, cache)))
        if self.cross is not None and self.cross_norm is not None:
            cross = self.cross
            x = self._added(x, self.cross_norm, lambda x: self.drop(cross(x, memory, memory_where, cache, fixed=True)))
        return self._added(x, self.feed_norm, lambda x: self.feed_drop(self.feed(x)))

    def _added(self, x: Tensor, norm: nn.Module, f: Callable[[Tensor], Tensor]) -> Tensor:
        return x + f(norm(x)) if self.norm == "pre" else norm(x + f(x))


class Stack(nn.Module):
    """Blocks in a row, and a norm behind the last where its stream is not normalised yet (`pre`, `sasrec`)."""

    def __init__(self, blocks: Iterable[Block], norm: nn.Module | None = None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.norm = norm if norm is not None else nn.Identity()

    def forward(
        self,
        x: Float[Tensor, "*batch dim"],
        where: Where | Sequence[Where],
        memory: Float[Tensor, "*keys kv_dim"] | None = None,
        memory_where: Where = Where(),  # noqa: B008 (frozen)
        cache: Cache | None = None,
    ) -> Float[Tensor, "*batch dim"]:
        """The states of the last block; `where` is one for all blocks, or one for each.

        With a cache x holds the tokens that are new since the last call with it.
        """
        places = [where] * len(self.blocks) if isinstance(where, Where) else where
        for block, place in zip(self.blocks, places, strict=True):
            x = block(x, place, memory, memory_where, cache)
        return self.norm(x)


def t5(
    dim: int, layers: int, heads: int, width: int, hidden: int, *, cross: bool = False, dropout: float = 0.0
) -> Stack:
    """The blocks of T5's encoder, or with `cross` of its decoder: no biases, norms by the root of the mean square.

    Positions are the caller's, by `Where`. Queries are divided by the root of a head's width, where T5's are not: with
    first weights as many times larger this is the same network.
    """

    def attention() -> Attention:
        return Attention(dim, heads, width=width, bias=False, dropout=dropout)

    def block() -> Block:
        feed = Feed(dim, hidden, relu, dropout, bias=False)
        beside = attention() if cross else None
        return Block(attention(), feed, "pre", beside, dropout=dropout, eps=1e-6, centre=False)

    stack = Stack([block() for _ in range(layers)], nn.RMSNorm(dim, 1e-6))
    for layer in stack.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
    return stack


def gpt2(dim: int, layers: int, heads: int, *, dropout: float = 0.0) -> Stack:
    """The blocks of GPT-2 with its first weights: what joins the stream is smaller the more layers there are.

    Positions and whom tokens may see are the caller's, by `Where`.
    """

    def block() -> Block:
        feed = Feed(dim, 4 * dim, partial(gelu, approximate="tanh"))
        return Block(Attention(dim, heads, dropout=dropout), feed, "pre", dropout=dropout)

    stack = Stack([block() for _ in range(layers)], nn.LayerNorm(dim))
    for name, weight in stack.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(weight)
        elif weight.ndim == 2:
            joins = name.endswith(("attend.out.weight", "feed.outer.weight"))
            nn.init.normal_(weight, std=0.02 / (2 * layers) ** 0.5 if joins else 0.02)
    return stack


def modernbert(dim: int, layers: int, heads: int, hidden: int, *, dropout: float = 0.0) -> Stack:
    """The blocks of ModernBERT with its first weights: no biases, GeGLU, dropout behind attention alone.

    Embeddings come normalised, so the first block has no norm before its attention. Positions and whom tokens may see
    are the caller's, by a `Where` for each block.
    """

    def block() -> Block:
        attend, feed = Attention(dim, heads, bias=False), GatedFeed(dim, hidden, gelu, bias=False)
        return Block(attend, feed, "pre", dropout=dropout, feed_dropout=0.0, bias=False)

    stack = Stack([block() for _ in range(layers)], nn.LayerNorm(dim, bias=False))
    stack.blocks[0].attend_norm = nn.Identity()
    for name, weight in stack.named_parameters():
        if weight.ndim == 2:
            joins = name.endswith(("attend.out.weight", "feed.outer.weight"))
            cut_normal_(weight, 0.02 / (2 * layers) ** 0.5 if joins else 0.02)
    return stack


def cut_normal_(weight: Float[Tensor, "..."], std: float) -> Float[Tensor, "..."]:
    """Draws a weight from a normal distribution, without what is more than two deviations from 0; in place."""
    return nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)
