"""Attention over padded blocks or packed tokens, to itself or to a memory, at once or token by token with a cache."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import sqrt
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor, nn
from torch.amp import custom_bwd, custom_fwd
from torch.autograd.function import once_differentiable
from torch.nn.functional import scaled_dot_product_attention

from itemic.nn import masks
from itemic.nn.dropout import share, stays
from itemic.nn.masks import NEVER, Near, Rule
from itemic.nn.packed import ALL, packed_attention
from itemic.nn.packing import Packing
from itemic.nn.positions import Positions
from itemic.nn.products import usual_products

BLOCK = 1 << 20
"""Weights of attention made at a time where dropout falls on them: 4 MB, which stay in the cache of a CPU."""
ROWS = 64
"""Queries of a history made at a time where each sees a part of it: few, so that little of the rest is."""


def attend(
    q: Float[Tensor, "*batch queries dim"],
    k: Float[Tensor, "*batch keys dim"],
    v: Float[Tensor, "*batch keys width"],
    allow: Bool[Tensor, "..."] | None = None,
    bias: Float[Tensor, "..."] | None = None,
    *,
    causal: bool = False,
    near: Near | None = None,
    dropout: float = 0.0,
) -> Float[Tensor, "*batch queries width"]:
    """The values of each query's keys, averaged by softmax of q·k/√dim + bias; zeros for a query that may see nothing.

    `allow` and `bias` are [..., queries, keys] and spread over the batch; `causal` lets query n see the keys up to n,
    in place of `allow`, `near` those near n that `allow` lets it see too. `dropout` is the chance of each weight of the
    average to fall away.

    >>> x = torch.eye(2)[None, None]
    >>> attend(x, x, x, allow=torch.tensor([[True, False], [False, False]]))
    tensor([[[[1., 0.],
              [0., 0.]]]])
    """
    if q.device.type == "cpu" and (dropout or (q.dtype == torch.bfloat16 and q.requires_grad)):
        near = Near(k.shape[-2], 0) if causal else near
        return _InBlocks.apply(q, k, v, allow, bias, near, dropout)
    if near is not None:
        within = near(*(torch.arange(x.shape[-2], device=q.device) for x in (q, k)))
        allow = within if allow is None else allow & within
    if causal and bias is not None:
        allow, causal = _tril(q.shape[-2], k.shape[-2]).to(q.device), False
    mask = allow
    if bias is not None:
        mask = bias if allow is None else bias.masked_fill(~allow, -torch.inf)
    with usual_products():
        return scaled_dot_product_attention(q, k, v, mask, dropout, causal)


class _InBlocks(torch.autograd.Function):
    """The same, some queries at a time: torch's own way takes several times as long on a CPU, with dropout and, forth
    and back, in bfloat16.

    The gradient makes the weights again with the same random bits, so that memory grows with tokens, not with pairs.
    """

    @staticmethod
    @custom_fwd(device_type="cpu")
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        allow: Tensor | None,
        bias: Tensor | None,
        near: Near | None,
        p: float,
    ) -> Tensor:
        ctx.near, ctx.p, ctx.random = near, p, torch.get_rng_state()
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
        worth = v * share(p)
        made = torch.empty(*q.shape[:-1], v.shape[-1], dtype=v.dtype)
        for batch, rows, seen, weights in _weights(q, k, allow, bias, near):
            if p:
                weights.mul_(stays(weights.shape, p, weights.dtype))
            made[batch][..., rows, :] = weights @ worth[batch][..., seen, :]
        ctx.save_for_backward(q, k, v, allow, bias, made)
        return made

    @staticmethod
    @once_differentiable
    @custom_bwd(device_type="cpu")
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        by_made = gradients[0].contiguous()
        q, k, v, allow, bias, made = ctx.saved_tensors
        by_q, by_k, by_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        by_bias, scale = None if bias is None else torch.zeros_like(bias), 1 / sqrt(q.shape[-1])
        mean = (made * by_made).sum(-1, keepdim=True)  # of a query's gradients by its weights, weighted by these
        by_made, steep_q, steep_k = by_made * share(ctx.p), q * scale, k * scale
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(ctx.random)
            for batch, rows, seen, weights in _weights(q, k, allow, bias, ctx.near):
                by, stay = by_made[batch][..., rows, :], stays(weights.shape, ctx.p, weights.dtype) if ctx.p else None
                by_v[batch][..., seen, :] += (weights if stay is None else weights * stay).mT @ by
                by_weights = (by @ v[batch][..., seen, :].mT).to(weights.dtype)
                by_weights = by_weights if stay is None else by_weights.mul_(stay)
                by_logits = by_weights.sub_(mean[batch][..., rows, :]).mul_(weights)
                if by_bias is not None:
                    part = _part(by_bias, batch, q)[..., rows, seen]
                    part += by_logits.sum_to_size(part.shape)
                by_logits = by_logits.to(by.dtype)
                by_q[batch][..., rows, :] = by_logits @ steep_k[batch][..., seen, :]
                by_k[batch][..., seen, :] += by_logits.mT @ steep_q[batch][..., rows, :]
        return by_q, by_k, by_v, None, by_bias, None, None


def _weights(
    q: Tensor, k: Tensor, allow: Tensor | None, bias: Tensor | None, near: Near | None
) -> Iterator[tuple[slice, slice, slice, Tensor]]:
    """The softmax of some queries of some of the batch after the others: which of the batch, which queries, the keys
    they may see at most, and the weights."""
    n_batch, n, n_keys = len(q), q.shape[-2], k.shape[-2]
    a_row = max(1, q.shape[1:-2].numel() * n_keys)
    size = max(1, min(n, BLOCK // a_row, ROWS if near else n))
    many = max(1, BLOCK // (a_row * size))
    blind = allow is not None and not bool(allow.any(-1).all())
    for first, start in product(range(0, n_batch, many), range(0, n, size)):
        batch, rows = slice(first, min(first + many, n_batch)), slice(start, min(start + size, n))
        seen = slice(0, n_keys)
        if near is not None:
            seen = slice(max(0, start - near.before), min(n_keys, rows.stop + near.after))
        logits = (q[batch][..., rows, :] / sqrt(q.shape[-1])) @ k[batch][..., seen, :].mT
        if bias is not None:
            logits = logits + _part(bias, batch, q)[..., rows, seen]
        if near is not None:
            logits += _never(near(torch.arange(start, rows.stop), torch.arange(seen.start, seen.stop)), logits)
        if allow is not None:
            allow_ = _part(allow, batch, q)[..., seen]
            allowed = allow_ if allow_.shape[-2] == 1 else allow_[..., rows, :]
            logits += _never(allowed, logits)
            if blind:  # rows that see nothing
                yield batch, rows, seen, logits.softmax(-1).masked_fill_(~allowed, 0)
                continue
        yield batch, rows, seen, logits.softmax(-1)


def _part(x: Tensor, batch: slice, q: Tensor) -> Tensor:
    """Of what spreads over the batch of q, what belongs to these."""
    return x[batch] if x.ndim == q.ndim and len(x) > 1 else x


def _tril(n_queries: int, n_keys: int, start: int = 0) -> Tensor:
    return torch.ones(n_queries, n_keys, dtype=torch.bool).tril(start)


def _never(allow: Tensor, like: Tensor) -> Tensor:
    """What to add to logits; a sum takes one pass where filling takes two, forward and back."""
    return torch.zeros(allow.shape, dtype=like.dtype, device=like.device).masked_fill_(~allow, NEVER)


class Cache:
    """Keys and values so far, [batch, tokens, heads, dim], of each attention that was given this cache."""

    def __init__(self) -> None:
        self._kept: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def get(self, owner: nn.Module) -> tuple[Tensor, Tensor] | None:
        return self._kept.get(owner)

    def extend(self, owner: nn.Module, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """The keys and values of the owner, with these as the last."""
        if owner in self._kept:
            k, v = (torch.cat(pair, 1) for pair in zip(self._kept[owner], (k, v)))
        self._kept[owner] = k, v
        return k, v

    def take(self, rows: Int[Tensor, " batch"]) -> None:
        """Goes on with these rows of the batch, in this order: the beams that survive."""
        self._kept = {owner: (k[rows], v[rows]) for owner, (k, v) in self._kept.items()}


@dataclass(frozen=True)
class Where:
    """Where tokens stand and whom they may see: all that attention needs beside their vectors."""

    allow: Rule | Bool[Tensor, "..."] | None = None
    """A rule of places, or for padded blocks a mask; everybody sees everybody when not given."""
    packing: Packing | None = None
    """How packed tokens lie; vectors are then [tokens, dim], else [batch, n, dim]."""
    positions: Positions | None = None
    pos: Num[Tensor, "..."] | None = None
    """The position of each token, with a cache of all so far; its place in the sequence when not given."""
    queries: int | None = None
    """Of a packed memory: how many packed tokens read each of its sequences, all of which hold something; the tokens
    of the memory itself when not given."""

    def positions_of(self, x: Float[Tensor, "*batch dim"], start: int = 0) -> Num[Tensor, "..."]:
        """What `pos` says of these tokens, else the places, from `start` on in padded blocks."""
        if self.pos is not None:
            return self.pos[..., start:]
        if self.packing is not None:
            return self.packing.place
        return torch.arange(start, start + x.shape[-2], device=x.device)


class Attention(nn.Module):
    """Multi-head attention of x to itself, or to a memory.

    As in BERT and its kin with the defaults. Without `out` there is no projection behind it, as in the first SASRec.
    """

    def __init__(
        self,
        dim: int,
        heads: int = 1,
        *,
        kv_dim: int | None = None,
        width: int | None = None,
        out: bool = True,
        bias: bool = True,
        dropout: float = 0.0,
    ) -> None:
        """`kv_dim` is the width of the memory, and `width` that of all heads together, where they are not `dim`;
        `dropout` falls on the weights of the average."""
        super().__init__()
        width = width or dim
        if width % heads:
            raise ValueError(f"a width of {width} cannot be divided among {heads} heads")
        self.dim, self.heads, self.dropout = dim, heads, dropout
        self.query = nn.Linear(dim, width, bias)
        self.key = nn.Linear(kv_dim or dim, width, bias)
        self.value = nn.Linear(kv_dim or dim, width, bias)
        self.out = nn.Linear(width, dim, bias) if out else nn.Identity()

    def forward(
        self,
        x: Float[Tensor, "*batch dim"],
        memory: Float[Tensor, "*keys kv_dim"] | None = None,
        where: Where = Where(),
        cache: Cache | None = None,
        *,
        fixed: bool = False,
    ) -> Float[Tensor, "*batch dim"]:
        """Of packed tokens, `memory` holds the same tokens (in another state); of padded blocks, any others too.

        With a cache x holds the newest tokens only. A `fixed` memory is the same at every call, so that its keys and
        values are made once.
        """
        kept = cache.get(self) if cache is not None else None
        q = self._heads(self.query(x))
        if fixed and kept is not None:
            return self._mixed(q, *kept, where)
        source = x if memory is None else memory
        k, v = self._heads(self.key(source)), self._heads(self.value(source))
        start = 0 if kept is None else kept[0].shape[1]
        if where.positions is not None:
            q, k = where.positions.turn(q, k, where.positions_of(x, start))
        if cache is not None:
            k, v = cache.extend(self, k, v)
        return self._mixed(q, k, v, where, start)

    def _heads(self, states: Tensor) -> Tensor:
        return states.unflatten(-1, (self.heads, -1))

    def _mixed(self, q: Tensor, k: Tensor, v: Tensor, where: Where, start: int = 0) -> Tensor:
        mix, dropout = _padded if where.packing is None else _packed, self.dropout if self.training else 0.0
        return self.out(mix(q, k, v, where, start, dropout).flatten(-2))


def _padded(q: Tensor, k: Tensor, v: Tensor, where: Where, start: int, dropout: float) -> Tensor:
    """Attention of blocks [batch, n, heads, dim]; the first query stands at place `start`."""
    allow, bias = where.allow, None
    places_q = torch.arange(start, start + q.shape[1], device=q.device)
    places_k = torch.arange(k.shape[1], device=q.device)
    causal = allow is masks.causal and len(places_q) == len(places_k)
    if callable(allow):
        allow = None if causal else allow(places_q, places_k)
    if where.positions is not None:
        pos = (places_q, places_k) if where.pos is None else (where.pos[..., start:], where.pos)
        bias = where.positions.bias(*pos)
    q, k, v = (tensor.transpose(1, 2) for tensor in (q, k, v))
    return attend(q, k, v, _of_all_heads(allow), bias, causal=causal, dropout=dropout).transpose(1, 2)


def _packed(q: Tensor, k: Tensor, v: Tensor, where: Where, start: int, dropout: float) -> Tensor:
    """Attention of packed tokens [tokens, heads, dim], as they lie by a kernel where one fits, else by buckets."""
    rule, positions, packing = where.allow, where.positions, where.packing
    assert packing is not None
    assert not isinstance(rule, Tensor), "packed tokens take a rule of places, not a mask"
    if positions is not None and type(positions).bias is Positions.bias:
        positions = None
    causal, near = rule is masks.causal, rule if isinstance(rule, Near) else None
    of_q = packing if where.queries is None else packing.evenly(where.queries)
    if dropout and q.device.type == "cpu" and q.dtype == torch.float32 and (positions is None or where.pos is None):
        places_q, places_k = torch.arange(of_q.longest), torch.arange(packing.longest)
        bias = None if positions is None else positions.bias(places_q, places_k)
        if rule is not None and not causal and near is None:
            never = _never(rule(places_q, places_k), q)
            bias = never[None] if bias is None else bias + never
        return packed_attention(q, k, v, of_q, packing, bias, Near(ALL.before, 0) if causal else near or ALL, dropout)
    if (rule is None or causal) and positions is None and dropout == 0 and runs_unpadded(q):
        from torch.nn.attention.varlen import varlen_attn  # takes a second to import

        bounds_q, bounds_k = (of.offsets.int().to(q.device) for of in (of_q, packing))
        sides = (-1, 0 if causal else -1)
        made = varlen_attn(q, k, v, bounds_q, bounds_k, of_q.longest, packing.longest, window_size=sides)
        assert isinstance(made, Tensor)
        return made
    return _by_buckets(q, k, v, where, packing, positions, dropout) if packing.buckets else v


def _by_buckets(
    q: Tensor, k: Tensor, v: Tensor, where: Where, packing: Packing, positions: Positions | None, dropout: float
) -> Tensor:
    """The same with the sequences of a bucket side by side."""
    rule: Any = where.allow
    causal, near = rule is masks.causal, rule if isinstance(rule, Near) else None
    pos = None if positions is None or where.pos is None else packing.split(where.pos)
    parts = []
    for n, (bucket, *qkv) in enumerate(zip(packing.buckets, _split_queries(q, where), *map(packing.split, (k, v)))):
        places = torch.arange(bucket.longest, device=q.device)
        allow = bias = None
        if near is not None:
            allow = bucket.real if near.after else None
        elif not causal:  # a rule that looks back alone hides padding by itself, as it comes last
            allow = bucket.real if rule is None else bucket.real & rule(places, places)
        if positions is not None:
            at = places if pos is None else pos[n]
            bias = positions.bias(at, at)
        q, k, v = (tensor.transpose(1, 2) for tensor in qkv)
        made = attend(q, k, v, _of_all_heads(allow), bias, causal=causal, near=near, dropout=dropout)
        parts.append(made.transpose(1, 2))
    if where.queries is not None:
        return torch.cat(parts)[packing.order.argsort()].flatten(0, 1)
    return packing.join(parts)


def _split_queries(q: Tensor, where: Where) -> Sequence[Tensor]:
    """The queries of each bucket of the memory."""
    packing = where.packing
    assert packing is not None
    if where.queries is None:
        return packing.split(q)
    return q.unflatten(0, (-1, where.queries))[packing.order].split([len(b.lengths) for b in packing.buckets])


def runs_unpadded(q: Float[Tensor, "tokens heads dim"]) -> bool:
    """Whether torch has an attention kernel here for sequences of different lengths that can be trained."""
    return q.is_cuda and q.dtype in (torch.float16, torch.bfloat16)


def _of_all_heads(allow: Tensor | None) -> Tensor | None:
    return None if allow is None else allow[..., None, :, :]
