"""Matrix products in float32 by whichever library does them faster here.

On a CPU torch sends float32 products to MKL, which leaves half the speed of an AMD processor with AVX-512 unused, and
offers oneDNN only together with leave to compute in bfloat16. Without AMX oneDNN takes no such leave; then its products
are as exact, and here (EPYC of 2025, one thread) took 0.4 times as long. Where it does take it, this changes nothing.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Generator, Tensor

SETTINGS: Any = torch.backends.mkldnn.matmul  # pyright: ignore[reportAttributeAccessIssue]
_ours = False
"""Whether the setting is that of `fast_products`, not of the user."""


@contextmanager
def fast_products() -> Iterator[None]:
    """Inside, products of float32 matrices go to oneDNN if it is as exact as float32 allows and clearly faster.

    >>> with fast_products():
    ...     torch.ones(2, 3) @ torch.ones(3, 2)
    tensor([[3., 3.],
            [3., 3.]])
    """
    global _ours
    before, ours = SETTINGS.fp32_precision, _ours
    try:
        if before == "none" and torch.backends.mkldnn.is_available() and _faster_and_exact():
            SETTINGS.fp32_precision, _ours = "bf16", True
        yield
    finally:
        SETTINGS.fp32_precision, _ours = before, ours


@contextmanager
def usual_products() -> Iterator[None]:
    """Inside, they go where torch sends them whatever is around: for kernels of many small products, on which oneDNN
    takes three times as long.

    >>> with fast_products(), usual_products():
    ...     torch.ones(2, 3) @ torch.ones(3, 2)
    tensor([[3., 3.],
            [3., 3.]])
    """
    try:
        if _ours:
            SETTINGS.fp32_precision = "none"
        yield
    finally:
        if _ours:  # not what was there before: another thread may have been inside already
            SETTINGS.fp32_precision = "bf16"


def has_bfloat16() -> bool:
    """Whether the processor has instructions for products of bfloat16: AVX-512, AMX and such."""
    able = torch.cpu.get_capabilities()
    return any(able.get(unit, False) for unit in ("avx512_bf16", "amx_bf16", "bf16"))


@cache
def _faster_and_exact() -> bool:
    """Whether it is, by products of 256 by 64 by 2,048, half a millisecond each; decided once a process."""
    rng = Generator().manual_seed(0)
    x, y = torch.randn(256, 64, generator=rng), torch.randn(64, 2048, generator=rng)
    usual = _seconds(x, y)
    try:
        SETTINGS.fp32_precision = "bf16"
        exact = x.double() @ y.double()
        error = ((x @ y - exact).norm() / exact.norm()).item()
        return error < 1e-6 and _seconds(x, y) < 0.8 * usual
    finally:
        SETTINGS.fp32_precision = "none"


def _seconds(x: Tensor, y: Tensor) -> float:
    """The least of nine tries: neighbours can only lengthen one."""
    tries = []
    for _ in range(9):
        start = time.perf_counter()
        torch.mm(x, y)
        tries.append(time.perf_counter() - start)
    return min(tries)
