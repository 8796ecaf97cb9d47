"""Contrastive losses: rows that belong together are told apart from the other rows of their batch."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import cross_entropy

from itemic.nn.masks import NEVER


def in_batch(
    a: Float[Tensor, "batch dim"],
    b: Float[Tensor, "batch dim"],
    temperature: float,
    same: Bool[Tensor, "batch batch"] | None = None,
) -> Float[Tensor, ""]:
    """Mean of -log of the share of a row's partner in the softmax of a @ b.T / temperature; log(batch) when all tie.

    Row n of `b` is the partner of row n of `a`, the other rows of `b` are its negatives, except those that `same` marks
    as no negatives of it. Give unit rows to compare by cosine.

    >>> a = torch.eye(2)
    >>> round(in_batch(a, a, temperature=1.0).item(), 4)  # log(1 + e) - 1
    0.3133
    >>> in_batch(a, a, temperature=1.0, same=torch.ones(2, 2, dtype=torch.bool)).item()
    0.0
    """
    return paired(a @ b.T / temperature, same)


def paired(
    logits: Float[Tensor, "batch batch"],
    same: Bool[Tensor, "batch batch"] | None = None,
    *,
    smooth: float = 0.0,
    both: bool = False,
) -> Float[Tensor, ""]:
    """Mean of -log of each row's share of its own column, the one of the same number, in the softmax of the row.

    Columns that `same` marks do not compete with it. With `smooth` that much of what is wished for is spread evenly
    over all columns that compete, its own among them (label smoothing). With `both` the rows of the transpose are told
    apart too, and the loss is the mean of the two.

    >>> logits = torch.tensor([[1.0, 0.0], [2.0, 1.0]])
    >>> round(paired(logits).item(), 4), round(paired(logits, both=True).item(), 4)
    (0.8133, 0.8133)
    >>> round(paired(logits, smooth=0.1).item(), 4)
    0.8133
    """
    if same is not None:
        own = torch.eye(len(logits), dtype=torch.bool, device=logits.device)
        logits = logits.masked_fill(same & ~own, NEVER)
    found = _told_apart(logits.float(), smooth)
    return (found + _told_apart(logits.T.float(), smooth)) / 2 if both else found


def _told_apart(logits: Tensor, smooth: float) -> Tensor:
    if not smooth:
        return cross_entropy(logits, torch.arange(len(logits), device=logits.device))
    shares = logits.log_softmax(1)
    competes = logits > NEVER / 2
    spread = shares.masked_fill(~competes, 0.0).sum(1) / competes.sum(1)
    return -((1 - smooth) * shares.diagonal() + smooth * spread).mean()
