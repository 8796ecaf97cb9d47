"""Adam and SGD as everyone knows them, at less cost where a batch looks at few rows of a table."""

import math
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor, nn

from itemic import threads
from itemic.training.rowadam import compiles, named_rows

LONGEST = 30_000
"""Steps after which the moments of a row without a gradient have vanished, for any usual beta."""


class _BySparse(torch.optim.Optimizer):
    """What lies over one of torch's optimisers that takes dense gradients alone: `_move` steps by sparse ones.

    A sparse gradient is made dense where weight decay gives all rows one, and elsewhere than in float32 on a CPU.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        moved = []
        for group in self.param_groups:
            for weight in group["params"]:
                gradient = weight.grad
                if gradient is None or not gradient.is_sparse:
                    continue
                if group["weight_decay"] or not compiles(weight):
                    weight.grad = gradient.to_dense()
                    continue
                self._move(weight, gradient, group)
                moved.append((weight, gradient))
                weight.grad = None
        super().step()
        for weight, gradient in moved:
            weight.grad = gradient

    def _move(self, weight: nn.Parameter, gradient: Tensor, group: dict[str, Any]) -> None:
        raise TypeError(f"{type(self).__name__} defines no _move")


class Adam(_BySparse, torch.optim.Adam):
    """torch's fused Adam, which also takes sparse gradients: rows that they do not name have a gradient of 0.

    Such rows move too, by their moments alone, so a step still visits the whole table. But of those it reads what the
    moments come to and not the moments, it writes the weights alone, and no dense gradient is made: two fifths of the
    time or less (Gowalla, 64 wide). The result is Adam's up to rounding, except where gradients are about as small as
    `eps`: a resting row has the one of its last gradient. With weight decay, which gives all rows a gradient, and
    elsewhere than in float32 on a CPU, a sparse gradient is made dense.

    >>> weight = nn.Parameter(torch.ones(3, 2))
    >>> optimizer = Adam([weight], lr=0.1)
    >>> weight.grad = torch.sparse_coo_tensor(torch.tensor([[1]]), torch.tensor([[0.5, -0.5]]), (3, 2))
    >>> _ = optimizer.step()
    >>> weight.data
    tensor([[1.0000, 1.0000],
            [0.9000, 1.1000],
            [1.0000, 1.0000]])
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float = 1e-3, weight_decay: float = 0.0) -> None:
        super().__init__(params, lr=lr, weight_decay=weight_decay, fused=True)

    def _move(self, weight: nn.Parameter, gradient: Tensor, group: dict[str, Any]) -> None:
        from itemic.training._adam_kernels import gather, table_update

        table, state = weight.detach(), self.state[weight]
        if not state:
            state |= {"pull": torch.zeros_like(table), "root": torch.zeros_like(table)}
            state |= {"last": torch.zeros(len(table), dtype=torch.int32), "least": table.new_zeros(len(table))}
            state["step"] = torch.tensor(0.0)
        state["last"] = state["last"].int()  # loading a state gives its tensors the weight's type
        state["step"] += 1
        (beta1, beta2), step = group["betas"], int(state["step"])
        rows, gradients = named_rows(gradient)
        filled = math.sqrt(1 - beta2**step)
        scale, eps = group["lr"] * filled / (1 - beta1**step), group["eps"] * filled
        sums, first = gradients.contiguous().numpy(), np.full(len(table), -1, np.int32)
        gather(first, rows.numpy(), sums)
        kept = [x.numpy() for x in (table, state["pull"], state["root"], state["last"], state["least"])]
        numbers = [np.float32(x) for x in (scale, beta1, beta2, eps)]
        arguments = first, *kept, sums, _fade(beta1), _fade(beta2), step, *numbers
        threads.over(lambda begin, end: table_update(begin, end, *arguments), len(table), least=2048)


class SGD(_BySparse, torch.optim.SGD):
    """torch's fused SGD, which also takes sparse gradients: a step then costs as much as the rows they name.

    >>> weight = nn.Parameter(torch.ones(3, 1))
    >>> optimizer = SGD([weight], lr=0.5)
    >>> weight.grad = torch.sparse_coo_tensor(torch.tensor([[1, 1]]), torch.tensor([[1.0], [1.0]]), (3, 1))
    >>> _ = optimizer.step()
    >>> weight.data.T
    tensor([[1., 0., 1.]])
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float = 1e-3, weight_decay: float = 0.0) -> None:
        super().__init__(params, lr=lr, weight_decay=weight_decay, fused=True)

    def _move(self, weight: nn.Parameter, gradient: Tensor, group: dict[str, Any]) -> None:
        from itemic.training._adam_kernels import subtract

        rows, gradients = named_rows(gradient)
        subtract(weight.detach().numpy(), rows.numpy(), gradients.contiguous().numpy(), np.float32(group["lr"]))


@cache
def _fade(beta: float) -> Float32[np.ndarray, " ages"]:
    """What is left of a moment after 0, 1, 2, ... steps without a gradient."""
    return (beta ** np.arange(LONGEST)).astype(np.float32)
