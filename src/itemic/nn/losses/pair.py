"""Losses of one positive score beside sampled negative ones: compared with them, or each judged as a yes or no."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus


def bpr(positive: Float[Tensor, " batch"], negative: Float[Tensor, "batch negatives"]) -> Float[Tensor, ""]:
    """Mean of -log σ(positive - negative) over all pairs: log 2 when nothing is told apart, 0 at best.

    Rendle et al., UAI 2009, arXiv:1205.2618.

    >>> round(bpr(torch.tensor([0.0]), torch.zeros(1, 3)).item(), 4)
    0.6931
    """
    return softplus(negative - positive[:, None]).mean()


def sampled_softmax(positive: Float[Tensor, " batch"], negative: Float[Tensor, "batch negatives"]) -> Float[Tensor, ""]:
    """Mean of -log of the softmax share of the positive among its negatives: log(n + 1) when all n + 1 are equal.

    >>> round(sampled_softmax(torch.tensor([0.0]), torch.zeros(1, 3)).item(), 4)  # log 4
    1.3863
    """
    return (torch.logsumexp(torch.cat([positive[:, None], negative], 1), 1) - positive).mean()


def bce(
    positive: Float[Tensor, " batch"],
    negative: Float[Tensor, "batch negatives"],
    weight: Float[Tensor, " batch"] | None = None,
) -> Float[Tensor, ""]:
    """Mean of -log σ of positives plus mean of -log (1 - σ) of negatives: 2 log 2 when all scores are 0, 0 at best.

    Simple and overconfident: with few negatives a catalogue of thousands looks as likely as its few best (see `gbce`).
    `weight` says how much each row counts.

    >>> round(bce(torch.zeros(2), torch.zeros(2, 3)).item(), 4)
    1.3863
    """
    return _mean(softplus(-positive), weight) + _mean(softplus(negative).mean(-1), weight)


def gbce(
    positive: Float[Tensor, " batch"],
    negative: Float[Tensor, "batch negatives"],
    beta: float,
    weight: Float[Tensor, " batch"] | None = None,
) -> Float[Tensor, ""]:
    """Mean over the 1 + n scores of a row of -log σ(positive)^beta and -log (1 - σ(negative)).

    A beta below 1 (`gbce_beta`) undoes the overconfidence that comes of seeing few of all negatives (Petrov and
    Macdonald, RecSys 2023, arXiv:2308.07192). `weight` says how much each row counts.

    >>> round(gbce(torch.zeros(2), torch.zeros(2, 3), beta=0.5).item(), 4)  # 3.5 / 4 · log 2
    0.6065
    """
    return _mean(beta * softplus(-positive) + softplus(negative).sum(-1), weight) / (1 + negative.shape[-1])


def gbce_beta(n_negatives: int, n_items: int, calibration: float) -> float:
    """The power of positives: 1 at calibration 0, which is plain BCE; at 1 the share of the negatives that are drawn,
    with which σ(score) tends to the true chance.

    >>> gbce_beta(256, 1025, 0.0), gbce_beta(256, 1025, 0.75), gbce_beta(256, 1025, 1.0)
    (1.0, 0.4375, 0.25)
    """
    return 1 - calibration * (1 - n_negatives / (n_items - 1))


def _mean(losses: Float[Tensor, " batch"], weight: Float[Tensor, " batch"] | None) -> Float[Tensor, ""]:
    return losses.mean() if weight is None else (weight * losses).sum() / weight.sum()
