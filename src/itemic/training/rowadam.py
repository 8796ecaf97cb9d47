"""Adam that moves only the rows of a table that a batch looked at."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.optim import Optimizer

from itemic import threads


class Rows(NamedTuple):
    """A weight and what Adam remembers of each of its rows."""

    weight: Float[Tensor, "rows ..."]
    mean: Float[Tensor, "rows ..."]
    square: Float[Tensor, "rows ..."]
    filled: Float[Tensor, "rows 2"]
    """What both moments would be had every gradient been 1: Adam's 1 - beta^steps."""


class Options(NamedTuple):
    lr: float
    beta1: float
    beta2: float
    eps: float
    decay: float


class RowAdam(Optimizer):
    """Adam for each row of a weight by itself: a row without a gradient keeps its values, its moments and its count.

    Where every row has a gradient at every step it is Adam. With sparse gradients a step costs as much as the rows they
    name, not as the table; it adds up repeated rows in place, in the gradient.

    >>> weight = nn.Parameter(torch.ones(3, 2))
    >>> weight.grad = torch.tensor([[0.5, -0.5], [0, 0], [0, 0]])
    >>> _ = RowAdam([weight], lr=0.1).step()
    >>> weight.data
    tensor([[0.9000, 1.1000],
            [1.0000, 1.0000],
            [1.0000, 1.0000]])
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        """`weight_decay` pulls the rows that have a gradient, as they are moved."""
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            options = Options(group["lr"], beta1, beta2, group["eps"], group["weight_decay"])
            for weight in group["params"]:
                if weight.grad is not None:
                    self._move(weight, options)

    def _move(self, weight: nn.Parameter, options: Options) -> None:
        table, gradient = torch.atleast_1d(weight.detach(), weight.grad)
        state = self.state[weight]
        if not state:
            state |= {"mean": torch.zeros_like(table), "square": torch.zeros_like(table)}
            state["filled"] = table.new_zeros(len(table), 2)
        kept = Rows(table, state["mean"], state["square"], state["filled"])
        (_update_compiled if compiles(table) else update)(kept, *named_rows(gradient), options)


def compiles(table: Tensor) -> bool:
    """Whether the compiled loops take it."""
    return table.is_cpu and table.dtype == torch.float32 and table.dim() == 2 and table.is_contiguous()


def named_rows(gradient: Tensor) -> tuple[Int64[Tensor, " n"], Float[Tensor, "n ..."]]:
    """The rows that have a gradient, and it: those named by a sparse tensor, of others those that are not all 0.

    >>> named_rows(torch.tensor([[0.0, 0], [0, 2]]))
    (tensor([1]), tensor([[0., 2.]]))
    """
    if gradient.is_sparse:
        return gradient._indices()[0], gradient._values()  # those of a sum, too, which are not yet coalesced
    rows = gradient.reshape(len(gradient), -1).any(1).nonzero().squeeze(1)
    return rows, gradient[rows]


def update(table: Rows, named: Int64[Tensor, " n"], gradients: Float[Tensor, "n ..."], options: Options) -> None:
    """One step for each row named, in place, by torch's own operations: on any device and in any precision."""
    weight, mean, square, filled = table
    lr, beta1, beta2, eps, decay = options
    rows, place = named.unique(return_inverse=True)
    sums = gradients.new_zeros((len(rows), *gradients.shape[1:])).index_add_(0, place, gradients)
    slope = sums.add_(weight[rows], alpha=decay)
    mean[rows] = m = mean[rows].lerp(slope, 1 - beta1)
    square[rows] = s = square[rows].lerp(slope.square(), 1 - beta2)
    filled[rows] = f = filled[rows].lerp(
        filled.new_ones(()), torch.tensor([1 - beta1, 1 - beta2], dtype=filled.dtype).to(filled.device)
    )
    full1, full2 = (x.view(-1, *[1] * (weight.dim() - 1)) for x in f.unbind(1))
    weight[rows] -= lr * (m / full1) / ((s / full2).sqrt() + eps)


def _update_compiled(table: Rows, named: Int64[Tensor, " n"], gradients: Tensor, options: Options) -> None:
    """The same, compiled."""
    from itemic.training._adam_kernels import gather, row_update

    arrays = [tensor.numpy() for tensor in (*table, named, gradients.contiguous())]
    first = np.empty(len(table.weight), np.int32)  # only what is named is written and read
    gather(first, *arrays[4:])
    numbers = [np.float32(x) for x in options]
    threads.over(lambda begin, end: row_update(begin, end, first, *arrays, *numbers), len(named), least=512)


def clip(parameters: Iterable[nn.Parameter], limit: float) -> None:
    """Scales the gradients, dense or sparse, down to a norm of `limit`, all of them together.

    >>> weight = nn.Parameter(torch.zeros(2))
    >>> weight.grad = torch.tensor([3.0, 4.0])
    >>> clip([weight], 1.0)
    >>> weight.grad
    tensor([0.6000, 0.8000])
    """
    values: list[Tensor] = []
    for parameter in parameters:
        if parameter.grad is not None and parameter.grad.is_sparse:
            parameter.grad = parameter.grad.coalesce()
            values.append(parameter.grad.values())
        elif parameter.grad is not None:
            values.append(parameter.grad)
    share = (limit / (nn.utils.get_total_norm(values) + 1e-6)).clamp(max=1.0)
    for value in values:
        value.mul_(share)
