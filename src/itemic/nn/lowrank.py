"""Matrices that stay as they are, with small ones learned beside them (LoRA: Hu et al., 2022, arXiv:2106.09685)."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


def low_rank_product(
    x: Float[Tensor, "*batch n dim"],
    weight: Float[Tensor, "out dim"],
    down: Float[Tensor, "rank dim"],
    up: Float[Tensor, "out rank"],
    scale: float,
) -> Float[Tensor, "*batch n out"]:
    """x times the transpose of weight + scale * up @ down, for many rows of x; no gradient reaches `weight`.

    The small matrices are added to the large one, not their product with x to its product: the rows of x are read once,
    and those of the result written once. Nothing as large as the weight is kept for the way back or made on it.

    >>> up, down = torch.tensor([[1.0], [2.0]]), torch.tensor([[0.0, 3.0]])
    >>> low_rank_product(torch.tensor([[1.0, 1.0]]), torch.eye(2), down, up, 2.0)
    tensor([[ 7., 13.]])
    """
    kind = x.device.type
    if torch.is_autocast_enabled(kind):
        x = x.to(torch.get_autocast_dtype(kind))
    product: Any = _Product.apply(x.flatten(0, -2), weight, down, up, scale)
    return product.unflatten(0, x.shape[:-1])


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, down: Tensor, up: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(x, weight, down, up)
        ctx.scale = scale
        with torch.autocast(x.device.type, enabled=False):
            return x @ torch.addmm(weight, up, down, alpha=scale).to(x.dtype).T

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,), scale = grads, ctx.scale
        x, weight, down, up = ctx.saved_tensors
        to_x = grad @ torch.addmm(weight, up, down, alpha=scale).to(grad.dtype) if ctx.needs_input_grad[0] else None
        to_down = (scale * (grad @ up.to(grad.dtype))).T @ x
        to_up = grad.T @ (scale * (x @ down.to(x.dtype).T))
        return to_x, None, to_down.to(down.dtype), to_up.to(up.dtype), None
