"""Where networks are trained and answer: on the CPU, or on an accelerator that torch finds here.

A model stands on one device (`Model.device`): its network lies there, while its weights, tables and data are arrays in
memory. ITEMIC_DEVICE=cuda settles it for every model of a process; `fit(device=...)` and `Model.to` do for one.
"""

import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

from itemic.errors import ConfigError

if TYPE_CHECKING:
    from torch import device


def usual() -> str:
    """The device of models that are not told another: ITEMIC_DEVICE, else the CPU."""
    return os.environ.get("ITEMIC_DEVICE") or "cpu"


def described(name: str = "cpu") -> str:
    """The model of the processor or of the accelerator.

    >>> len(described()) > 0
    True
    """
    if name.partition(":")[0] == "cuda":
        import torch

        return torch.cuda.get_device_name(name)
    if name != "cpu":
        return name
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def checked(name: str) -> "device":
    """The device of this name, such as cpu, cuda or cuda:1.

    >>> checked("cpu")
    device(type='cpu')

    Raises:
        ConfigError: torch finds none of this name here; says which there are.
    """
    import torch

    if name == "cpu":
        return torch.device("cpu")
    try:
        torch.zeros((), device=name).item()
    except (RuntimeError, AssertionError) as error:
        found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        listed = "cpu" if found is None else f"cpu or {found.type}"
        raise ConfigError(f"torch {torch.__version__} finds no device {name!r} here. Give {listed}.") from error
    return torch.device(name)


def moved(batch: Any, to: "device | str") -> Any:
    """A tensor, or a tuple of tensors and whatever else, with its tensors on a device.

    >>> import torch
    >>> moved((torch.ones(2), "a"), "cpu")
    (tensor([1., 1.]), 'a')
    """
    import torch

    if isinstance(batch, torch.Tensor):
        return batch.to(to)
    if isinstance(batch, tuple):
        parts = [moved(part, to) for part in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else tuple(parts)
    return batch
