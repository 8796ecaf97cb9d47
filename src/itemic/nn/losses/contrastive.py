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
    logits = a @ b.T / temperature
    own = torch.arange(len(a), device=a.device)
    if same is not None:
        logits = logits.masked_fill(same & (own != own[:, None]), NEVER)
    return cross_entropy(logits.float(), own)
