"""Cross-entropy against a large table of items, whole or sampled, without a matrix of [tokens, items].

Logits are made a few rows at a time and used at once: gradients are computed together with the loss, so each logit is
computed once, and `backward` only scales them.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import embedding, pad, softplus

from itemic.nn.masks import NEVER
from itemic.nn.products import fast_products

CHUNK = 1 << 21
"""Logits computed at a time: 8 MB, which stay in the cache of a CPU; half of them make the products slower."""
ROWS = 32
"""Rows are computed in multiples of this at a time; fewer waste the products."""


def table_cross_entropy(
    x: Float[Tensor, "tokens dim"],
    table: Float[Tensor, "items dim"],
    target: Int[Tensor, " tokens"],
    *,
    negatives: Int[Tensor, " negatives"] | None = None,
    log_q: Float[Tensor, " negatives"] | None = None,
    allowed: Bool[Tensor, " items"] | None = None,
    bias: Float[Tensor, " items"] | None = None,
    weight: Float[Tensor, " tokens"] | None = None,
    temperature: float = 1.0,
    chunk: int = CHUNK,
) -> Float[Tensor, ""]:
    """Mean of -log of the target's share in the softmax of `x @ table.T / temperature + bias`; log(items) when all tie.

    With `negatives`, shared by all tokens, a target competes with these alone; where it is among them, it does not
    compete with itself. `log_q` is the log of how often each of them was expected to be drawn (draws times chance):
    with it their sum estimates that over all items without bias, so that the loss nears the full one as draws grow.
    `allowed` marks the items that compete at all; targets must be among them. `weight` says how much each token counts.

    Beside x, the table and their gradients this holds two blocks of `chunk` logits or of 32 rows, whichever is more,
    however many tokens there are: 16 MB up to 65,536 items. With a million items of 64 it took 499 MB beside the 256 of
    the table: its gradient and the blocks. Under autocast products are made in its lower precision; sums are not.

    >>> x, table, target = torch.zeros(2, 3), torch.ones(8, 3), torch.tensor([0, 5])
    >>> round(table_cross_entropy(x, table, target).item(), 4)  # log 8
    2.0794
    >>> round(table_cross_entropy(x, table, target, negatives=torch.tensor([1, 2, 5])).item(), 4)  # (log 4 + log 3) / 2
    1.2425
    """
    weight = torch.full_like(x[:, 0], 1 / max(1, len(x))) if weight is None else weight / weight.sum()
    x = x if temperature == 1.0 else x / temperature
    offset = bias if bias is None or negatives is None else bias[negatives]
    if log_q is not None:
        offset = -log_q if offset is None else offset - log_q
    if allowed is not None:
        barred = ~(allowed if negatives is None else allowed[negatives])
        offset = (x.new_zeros(len(barred)) if offset is None else offset).masked_fill(barred, NEVER)
    lift = None if bias is None else bias[target]
    device = x.device.type
    low = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    with torch.autocast(device, enabled=False), fast_products():
        return _Softmax.apply(x, table, offset, lift, target, weight, negatives, chunk, low, torch.is_grad_enabled())


class _Softmax(torch.autograd.Function):
    """The loss of a token is log(Σ exp a) - h, a being the logits of its candidates and h that of its target. Where the
    target is not among the candidates, exp h joins the sum, and the candidates have a share s < 1 of it, else s = 1.
    The gradient by the token's x is then s (softmax(a) @ candidates - table[target]), and so on for the rest.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        table: Tensor,
        offset: Tensor | None,
        lift: Tensor | None,
        target: Tensor,
        weight: Tensor,
        negatives: Tensor | None,
        chunk: int,
        low: torch.dtype | None,
        differentiate: bool,
    ) -> Tensor:
        n_tokens, candidates = len(x), table if negatives is None else embedding(negatives, table)
        fill = -n_tokens % ROWS  # to few sizes of blocks, as oneDNN compiles kernels for each; weight 0 undoes them
        x, target, weight = pad(x, (0, 0, 0, fill)), pad(target, (0, fill)), pad(weight, (0, fill))
        lift = None if lift is None else pad(lift, (0, fill))
        rows = max(ROWS, chunk // max(1, len(candidates)) // ROWS * ROWS)
        logits, shares = x.new_empty(2, min(rows, len(x)), len(candidates))
        right = candidates if low is None else candidates.to(low)
        by_x, by_table, by_lift = torch.empty_like(x), torch.zeros_like(table), torch.empty_like(weight)
        by_candidates = by_table if negatives is None else torch.zeros_like(candidates)
        by_offset = None if offset is None else torch.zeros_like(offset)
        loss = x.new_zeros(())
        for start in range(0, len(x), rows):
            part = slice(start, start + rows)
            left, wanted, scale = x[part], target[part], weight[part]
            a, p = logits[: len(left)], shares[: len(left)]
            positives = embedding(wanted, table)
            hit = (left * positives).sum(1) if lift is None else (left * positives).sum(1) + lift[part]
            _product(left, right.T, a)
            if offset is not None:
                a += offset
            if negatives is not None:
                a.masked_fill_(negatives == wanted[:, None], NEVER)
            torch.softmax(a, 1, out=p)
            gap = a.amax(1) - p.amax(1).log() - hit  # the largest logit and its share tell the sum of all
            loss += scale @ (gap if negatives is None else softplus(gap))
            if differentiate:
                scale = scale if negatives is None else scale * torch.sigmoid(gap)
                scaled, lowered = left * scale[:, None], p if low is None else p.to(low)
                torch.mul(_product(lowered, right, by_x[part]).sub_(positives), scale[:, None], out=by_x[part])
                if low is None:
                    by_candidates.addmm_(p.T, scaled)  # in place: a product beside it would be as large as the table
                else:
                    by_candidates += _product(lowered.T, scaled)
                by_table.index_add_(0, wanted, scaled, alpha=-1)
                by_lift[part] = -scale
                if by_offset is not None:
                    by_offset += scale @ p
        if negatives is not None:
            by_table.index_add_(0, negatives, by_candidates)
        ctx.save_for_backward(by_x[:n_tokens], by_table, by_offset, None if lift is None else by_lift[:n_tokens])
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        made = (None if by is None else by * gradients[0] for by in ctx.saved_tensors)
        return (*made, None, None, None, None, None, None)


def _product(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """a @ b where both have one type; else the product in the lower of the two, as a tensor of the higher."""
    if a.dtype == b.dtype and (out is None or out.dtype == a.dtype):
        return torch.mm(a, b, out=out)
    low = min(a.dtype, b.dtype, key=lambda dtype: dtype.itemsize)
    made = torch.mm(a.to(low), b.to(low))
    return made.float() if out is None else out.copy_(made)
