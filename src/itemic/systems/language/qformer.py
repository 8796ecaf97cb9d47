"""The Q-Former: queries that draw out of the vectors of an item or user what words can tell of it.

One transformer reads queries and text with the same self-attention; only the queries see the entity, and each kind of
token has a feed-forward layer of its own. Who sees whom is chosen by the task.
Papers: Li et al. (BLIP-2), ICML 2023, arXiv:2301.12597; for items: Yang et al., arXiv:2406.02844.
"""

from copy import deepcopy
from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import gelu

from itemic.nn.attention import Attention, Cache, Where
from itemic.nn.dropout import Dropout
from itemic.nn.masks import causal, prefix, same
from itemic.nn.text import Texts, as_in_bert
from itemic.nn.transformer import Feed

Sight = Literal["apart", "together", "causal"]
"""Who sees whom: queries and text only their own kind; all see all; or text what comes before it, and the queries."""
EPS = 1e-12


class Layer(nn.Module):
    """Shared self-attention, attention of the queries to the entity in some layers, and a feed-forward layer for each
    kind of token; a norm behind each, as in BERT."""

    def __init__(self, dim: int, heads: int, *, entity: int | None, dropout: float) -> None:
        """`entity` is the width of what the queries look at in this layer; None where they do not."""
        super().__init__()
        self.attend, self.attend_norm = Attention(dim, heads, dropout=dropout), nn.LayerNorm(dim, EPS)
        self.cross = Attention(dim, heads, kv_dim=entity, dropout=dropout) if entity is not None else None
        self.cross_norm = nn.LayerNorm(dim, EPS) if entity is not None else None
        self.text_feed, self.text_norm = Feed(dim, 4 * dim, gelu), nn.LayerNorm(dim, EPS)
        as_in_bert(self)
        self.query_feed, self.query_norm = deepcopy(self.text_feed), deepcopy(self.text_norm)
        self.drop = Dropout(dropout)

    def forward(
        self,
        x: Float[Tensor, "batch n dim"],
        n_queries: int,
        where: Where,
        entity: Float[Tensor, "batch tokens entity"] | None = None,
        cache: Cache | None = None,
        wanted: int | None = None,
    ) -> Float[Tensor, "batch wanted dim"]:
        """Only the first `wanted` of the new states are made; all when not given."""
        memory, x = x, x[:, :wanted]
        if isinstance(where.allow, Tensor) and where.allow.shape[-2] > 1:
            where = replace(where, allow=where.allow[..., :wanted, :])
        x = self.attend_norm(x + self.drop(self.attend(x, memory, where, cache)))
        if not n_queries:
            return self.text_norm(x + self.drop(self.text_feed(x)))
        query, text = x[:, :n_queries], x[:, n_queries:]
        if self.cross is not None and self.cross_norm is not None:
            query = self.cross_norm(query + self.drop(self.cross(query, entity)))
        query = self.query_norm(query + self.drop(self.query_feed(query)))
        if text.shape[1]:
            text = self.text_norm(text + self.drop(self.text_feed(text)))
        return torch.cat([query, text], 1)


class QFormer(nn.Module):
    """`n_queries` states of an entity, of width `dim` each; text beside them, or alone, as the task has it."""

    def __init__(
        self,
        n_words: int,
        dim: int,
        *,
        layers: int,
        heads: int,
        n_queries: int,
        entity: int,
        every: int,
        n_places: int,
        dropout: float,
    ) -> None:
        """Queries look at the entity, vectors of width `entity`, in each `every`-th layer, the first among them;
        `n_places` is the length of the longest text."""
        super().__init__()
        self.queries = nn.Parameter(torch.randn(1, n_queries, dim) * 0.02)
        self.word, self.place = nn.Embedding(n_words, dim), nn.Embedding(n_places, dim)
        self.norm, self.drop = nn.LayerNorm(dim, EPS), Dropout(dropout)
        as_in_bert(self)
        self.layers = nn.ModuleList(
            Layer(dim, heads, entity=entity if n % every == 0 else None, dropout=dropout) for n in range(layers)
        )

    def draw(
        self, entity: Float[Tensor, "batch tokens entity"], cache: Cache | None = None
    ) -> Float[Tensor, "batch queries dim"]:
        """The states of the queries after looking at each entity; a cache keeps what `tell` reads."""
        query = self._embedded(len(entity))
        return self._run(query, query.shape[1], Where(), entity, cache)

    def read(self, text: Texts, wanted: int | None = None) -> Float[Tensor, "batch wanted dim"]:
        """The states of texts alone, each word seeing all others; of the first `wanted` words, for less, if given."""
        return self._run(self._embedded(0, text), 0, Where(text.real[:, None]), wanted=wanted)

    def tell(self, text: Texts, cache: Cache) -> Float[Tensor, "batch n dim"]:
        """The states of texts told after the queries that the cache was given in `draw`: each word sees these and the
        words before it."""
        return self._run(self._embedded(0, text), 0, Where(causal), cache=cache)

    def forward(
        self, entity: Float[Tensor, "batch tokens entity"], text: Texts, sight: Sight, *, queries_only: bool = False
    ) -> tuple[Float[Tensor, "batch queries dim"], Float[Tensor, "batch n dim"]]:
        """The states of queries and texts, read in one pass; with `queries_only`, for less, without those of texts."""
        x = self._embedded(len(entity), text)
        n = x.shape[1] - text.token.shape[1]
        places = torch.arange(x.shape[1], device=x.device)
        allow = torch.cat([text.real.new_ones(len(x), n), text.real], 1)[:, None]
        if sight == "apart":
            allow = allow & same((places >= n).long(), (places >= n).long())
        elif sight == "causal":
            allow = allow & (prefix(places, places, n) | causal(places, places))
        x = self._run(x, n, Where(allow), entity, wanted=n if queries_only else None)
        return x[:, :n], x[:, n:]

    def _embedded(self, n_entities: int, text: Texts | None = None) -> Float[Tensor, "batch n dim"]:
        """The queries for so many entities, and the words of texts with their places, through one norm."""
        parts = [self.queries.expand(n_entities, -1, -1)] if n_entities else []
        if text is not None:
            parts.append(self.word(text.token) + self.place.weight[: text.token.shape[1]])
        return self.drop(self.norm(torch.cat(parts, 1)))

    def _run(
        self,
        x: Tensor,
        n_queries: int,
        where: Where,
        entity: Tensor | None = None,
        cache: Cache | None = None,
        wanted: int | None = None,
    ) -> Tensor:
        for n, layer in enumerate(self.layers, start=1):
            x = layer(x, n_queries, where, entity, cache, wanted if n == len(self.layers) else None)
        return x
