"""From vectors to codes and back: residual and finite scalar quantisation, their gradients, and Sinkhorn's balance."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Float64, Int, Int64
from torch import Generator, Tensor
from torch.nn.functional import normalize

from itemic.nn.kmeans import nearest

Codebooks = Sequence[Float[Tensor, "k dim"]]
"""A table of vectors for each level; the sum of one of each stands for a vector."""


def residual_codes(
    x: Float[Tensor, "rows dim"], codebooks: Codebooks
) -> tuple[Int64[Tensor, "rows levels"], Float[Tensor, "rows dim"]]:
    """The codes of each row, each level the nearest to what the levels before left over, and what all leave over.

    >>> coarse, fine = torch.tensor([[0.0], [10.0]]), torch.tensor([[-1.0], [2.0]])
    >>> codes, rest = residual_codes(torch.tensor([[11.5], [-1.0]]), [coarse, fine])
    >>> codes.tolist(), rest.tolist()
    ([[1, 1], [0, 0]], [[-0.5], [0.0]])
    """
    codes = []
    for codebook in codebooks:
        code, _ = nearest(x, codebook)
        x = x - codebook[code]
        codes.append(code)
    return torch.stack(codes, 1), x


def residual_sum(codes: Int[Tensor, "rows levels"], codebooks: Codebooks) -> Float[Tensor, "rows dim"]:
    """What codes stand for; of the first levels alone where there are more codebooks than codes.

    >>> residual_sum(torch.tensor([[1, 0]]), [torch.tensor([[0.0], [10.0]]), torch.tensor([[-1.0], [2.0]])]).tolist()
    [[9.0]]
    """
    first, *others = (codebook[code] for code, codebook in zip(codes.T, codebooks))
    return sum(others, first)


def straight_through(x: Float[Tensor, "*shape"], quantised: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """What was quantised, with the gradient of its value handed to x as it is."""
    return x + (quantised - x).detach()


def rotated_through(x: Float[Tensor, "rows dim"], quantised: Float[Tensor, "rows dim"]) -> Float[Tensor, "rows dim"]:
    """What was quantised, as x turned and stretched onto it: the gradient reaches x turned back and stretched alike.

    So x is pushed along with what stands for it, not past it. Paper: Fifty et al., ICLR 2025, arXiv:2410.06424.

    >>> x = torch.tensor([[2.0, 0.0]], requires_grad=True)
    >>> rotated_through(x, torch.tensor([[0.0, 3.0]]))[0, 1].backward()  # a quarter turn, 1.5 times as long
    >>> x.grad.round(decimals=3).tolist()
    [[1.5, 0.0]]
    """
    with torch.no_grad():
        e, q = normalize(x, dim=1), normalize(quantised, dim=1)
        middle = normalize(e + q, dim=1)
        stretch = quantised.norm(dim=1, keepdim=True) / x.norm(dim=1, keepdim=True).clamp(min=1e-12)

    def along(direction: Tensor) -> Tensor:
        return (x * direction).sum(1, keepdim=True)

    turned = stretch * (x - 2 * along(middle) * middle + 2 * along(e) * q)
    return turned + (quantised - turned).detach()  # the same to the last bit, where x is 0 or opposite too


def moved_average(
    codebook: Float[Tensor, "k dim"],
    counts: Float[Tensor, " k"],
    x: Float[Tensor, "rows dim"],
    code: Int[Tensor, " rows"],
    decay: float,
) -> tuple[Float[Tensor, "k dim"], Float[Tensor, " k"]]:
    """Each vector of a codebook as the mean of the rows it stood for, older ones counting less, and the new counts.

    A vector that stands for no row stays where it is while its count falls.

    >>> moved_average(torch.zeros(2, 1), torch.ones(2), torch.tensor([[4.0], [8.0]]), torch.tensor([1, 1]), decay=0.5)
    (tensor([[0.],
            [4.]]), tensor([0.5000, 1.5000]))
    """
    sums = (codebook * counts[:, None]) * decay
    sums = sums.index_add(0, code, x, alpha=1 - decay)
    new = counts * decay + (1 - decay) * code.bincount(minlength=len(counts))
    there = new[:, None] > 1e-12
    return torch.where(there, sums / new[:, None].clamp(min=1e-12), codebook), new


def revived(
    codebook: Float[Tensor, "k dim"], alive: Bool[Tensor, " k"], x: Float[Tensor, "rows dim"], rng: Generator
) -> Float[Tensor, "k dim"]:
    """The codebook with rows of x, drawn without repeats while there are enough, in place of vectors not alive.

    >>> revived(torch.zeros(3, 1), torch.tensor([True, False, True]), torch.ones(5, 1), Generator()).tolist()
    [[0.0], [1.0], [0.0]]
    """
    dead = (~alive).nonzero()[:, 0]
    drawn = torch.randperm(len(x), generator=rng).repeat(1 + len(dead) // len(x))[: len(dead)]
    return codebook.index_copy(0, dead, x[drawn])


def sinkhorn(cost: Float[Tensor, "rows k"], epsilon: float = 0.003, steps: int = 50) -> Float64[Tensor, "rows k"]:
    """The logarithm of the plan that moves 1 / rows from every row to columns that each receive 1 / k, at least cost.

    `epsilon` blurs it: near 0 all of a row goes one way. Worked in logarithms and float64, so that no share is lost.
    Columns are exact, rows as near as so many steps bring them; a cost of infinity is a way that is barred.

    >>> sinkhorn(torch.tensor([[0.0, 1.0], [0.0, 2.0]]), epsilon=0.5).exp().round(decimals=2).tolist()
    [[0.13, 0.37], [0.37, 0.13]]
    """
    plan = -cost.double() / epsilon
    rows, columns = (torch.tensor(float(n), dtype=torch.float64).log() for n in cost.shape)
    for _ in range(steps):
        plan = plan - plan.logsumexp(1, keepdim=True) - rows
        plan = plan - plan.logsumexp(0, keepdim=True).nan_to_num(neginf=0.0) - columns
    return plan


def balanced_codes(cost: Float[Tensor, "rows k"], epsilon: float = 0.003, steps: int = 50) -> Int64[Tensor, " rows"]:
    """The column that gets most of each row when all columns get the same, costs being brought to -1 to 1 before.

    >>> balanced_codes(torch.tensor([[0.0, 1.0], [0.0, 2.0]])).tolist()
    [1, 0]
    """
    there = cost[cost.isfinite()].double()
    middle = (there.max() + there.min()) / 2
    return sinkhorn((cost.double() - middle) / (there.max() - middle + 1e-5), epsilon, steps).argmax(1)


# Finite scalar quantisation ------------------------------------------------------------------------------------------


def finite_scalars(z: Float[Tensor, "*rows numbers"], levels: Sequence[int]) -> Float[Tensor, "*rows numbers"]:
    """Each number `bounded` and rounded to one of so many whole numbers; the gradient is that of the bound.

    Paper: Mentzer et al., ICLR 2024, arXiv:2309.15505.

    >>> finite_scalars(torch.tensor([[-99.0, 0.0, 99.0], [-99.0, 0.0, 99.0]]), [5, 5, 4]).tolist()
    [[-2.0, 0.0, 1.0], [-2.0, 0.0, 1.0]]
    """
    x = bounded(z, levels)
    return straight_through(x, x.round())


def bounded(z: Float[Tensor, "*rows numbers"], levels: Sequence[int]) -> Float[Tensor, "*rows numbers"]:
    """Each number brought by a tanh to where so many whole numbers about 0 are nearest; 0 stays 0.

    >>> bounded(torch.tensor([-99.0, 0.0, 99.0]), [5, 5, 4]).tolist()
    [-1.9980000257492065, 0.0, 0.9984999895095825]
    """
    count = torch.tensor(levels, device=z.device)
    half = (count - 1) * (1 - 1e-3) / 2
    offset = (count % 2 == 0) * 0.5
    return (z + (offset / half).tan()).tanh() * half - offset


def scalar_codes(scalars: Float[Tensor, "*rows numbers"], levels: Sequence[int]) -> Int64[Tensor, "*rows"]:
    """One number for each row of `finite_scalars`, from 0 to the product of the levels less 1, the first digit lowest.

    >>> scalar_codes(torch.tensor([[-2.0, -2.0], [2.0, 1.0]]), [5, 4]).tolist()
    [0, 19]
    """
    count = torch.tensor(levels, device=scalars.device)
    return ((scalars.round().long() + count // 2) * _basis(count)).sum(-1)


def scalars_of(codes: Int[Tensor, "*rows"], levels: Sequence[int]) -> Float[Tensor, "*rows numbers"]:
    """The whole numbers that codes stand for: `scalar_codes` undone.

    >>> scalars_of(torch.tensor([0, 19]), [5, 4]).tolist()
    [[-2.0, -2.0], [2.0, 1.0]]
    """
    count = torch.tensor(levels, device=codes.device)
    return (codes[..., None] // _basis(count) % count - count // 2).float()


def _basis(count: Int[Tensor, " numbers"]) -> Int64[Tensor, " numbers"]:
    return torch.cat([count.new_ones(1), count[:-1]]).cumprod(0)
