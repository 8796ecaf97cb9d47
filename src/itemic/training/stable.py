"""AdamW with smaller steps where gradients outgrow what is known of them, which takes the place of clipping."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


class StableAdamW(Optimizer):
    """AdamW whose step size is divided, tensor by tensor, by r = sqrt(mean(g² / v)) where that is above 1: by how much
    a gradient g is larger than the ones before it, of which v is the mean square (Wortsman et al., 2023).

    The decay does not depend on the step size but on its share of the peak, which is the `lr` given here: at the peak
    weights lose `weight_decay` of themselves a step. Moments are debiased as they are made (Ettin, arXiv:2507.11412).

    >>> weight = nn.Parameter(torch.tensor([1.0, 1.0]))
    >>> optimizer = StableAdamW([weight], lr=0.1)
    >>> weight.grad = torch.tensor([0.5, -2.0])
    >>> _ = optimizer.step()
    >>> weight.data
    tensor([0.9000, 1.1000])
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.98),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        for group in self.param_groups:
            group["peak"] = group["lr"]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._move(weight, weight.grad, group)

    def _move(self, weight: nn.Parameter, gradient: Tensor, group: dict[str, Any]) -> None:
        state, eps = self.state[weight], group["eps"]
        if not state:
            state |= {"step": 0, "mean": torch.zeros_like(weight), "square": torch.zeros_like(weight)}
        state["step"] += 1
        new, new_square = ((1 - beta) / (1 - beta ** state["step"]) for beta in group["betas"])
        squared = gradient.square()
        mean, square = state["mean"].lerp_(gradient, new), state["square"].lerp_(squared, new_square)
        growth = squared.div_(square.clamp(min=eps**2)).mean().sqrt().item()
        size = group["lr"] / max(1.0, growth)
        weight.mul_(1 - size / group["peak"] * group["weight_decay"])
        weight.addcdiv_(mean, square.sqrt().add_(eps), value=-size)
