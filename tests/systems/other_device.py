"""A device of torch that every machine has: its tensors lie in memory, and mixing them with others is an error.

What runs on it and gives what the CPU gives takes care of devices as a GPU asks for: each operation is checked before
it is handed to the CPU, and NumPy reads nothing there. It says nothing about a GPU's own kernels and rounding.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as tree
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "other"
aten: Any = torch.ops.aten
CROSSES = {aten._to_copy.default, aten.copy_.default}
"""What goes from one device to another."""
INDEXES = {aten.index.Tensor, aten.index_put_.default, aten._index_put_impl_.default}
"""What takes indices from the CPU, as on a GPU."""

GROWN = [aten.arange.default, aten.arange.start, aten.arange.start_step, aten.eye.default, aten.eye.m]


class Other(Tensor):
    """A tensor on the other device; `raw` is where it lies in memory."""

    raw: Tensor

    @staticmethod
    def __new__(cls, raw: Tensor) -> "Other":
        how: dict[str, Any] = {"dtype": raw.dtype, "device": torch.device(NAME, 0)}
        if raw.layout is torch.strided:
            how |= {"strides": raw.stride(), "storage_offset": raw.storage_offset()}
        made = Tensor._make_wrapper_subclass(cls, raw.size(), **how)
        made.raw = raw
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})

    def __repr__(self, **how: Any) -> str:
        return f"Other({self.raw!r})"

    def __deepcopy__(self, memo: Any) -> Tensor:
        return self.detach().clone().requires_grad_(self.requires_grad)

    is_sparse = property(lambda self: self.raw.is_sparse)

    def to_dense(self, *args: Any, **how: Any) -> Tensor:
        return Other(self.raw.to_dense(*args, **how))

    def tolist(self) -> Any:
        return self.raw.tolist()

    def numpy(self, *, force: bool = False) -> Any:
        if not force:
            raise TypeError(f"can't convert {NAME}:0 device type tensor to numpy. Use Tensor.cpu() first.")
        return self.raw.detach().numpy(force=True)


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    _check(func, args, kwargs)
    wanted = kwargs.get("device")
    given, how = tree.tree_map_only(Other, lambda x: x.raw, (args, kwargs))
    if wanted is not None:
        how["device"] = torch.device("cpu")
    how.pop("pin_memory", None)
    made = func(*given, **how)
    to_cpu = wanted is not None and torch.device(wanted).type == "cpu"
    if to_cpu or (func is aten.copy_.default and not isinstance(args[0], Other)):
        return args[0] if func is aten.copy_.default else made
    made = tree.tree_map_only(Tensor, Other, made)
    return (
        made
        if func in CROSSES and func is not aten.copy_.default
        else return_and_correct_aliasing(func, args, kwargs, made)
    )


def _check(func: Any, args: Any, kwargs: Any) -> None:
    tensors = [x for x in tree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    to_cpu = func is aten._to_copy.default and str(kwargs.get("device")).startswith("cpu")
    if to_cpu and kwargs.get("non_blocking"):
        raise RuntimeError("a copy to the CPU that nobody waits for holds nothing yet")
    others = sum(isinstance(x, Other) for x in tensors)
    strangers = [x for x in tensors if not isinstance(x, Other) and x.ndim]
    if others and strangers and func not in CROSSES | INDEXES:
        raise RuntimeError(f"Expected all tensors to be on the same device, but {func} found cpu and {NAME}:0")


def _run_given(op: Any, *args: Any, **kwargs: Any) -> Any:
    return _run(op, args, kwargs)


def _tensor(data: Any, *, device: Any = None, _usual: Any = torch.tensor, **how: Any) -> Tensor:
    return _usual(data, **how) if device is None else _usual(data, **how).to(device)


class Module:
    """What torch asks of a device: its random numbers are those of the CPU, and nothing is rounded."""

    current_device = staticmethod(lambda: 0)
    device_count = staticmethod(lambda: 1)
    is_available = staticmethod(lambda: True)
    is_initialized = staticmethod(lambda: True)
    manual_seed_all = staticmethod(lambda seed: None)
    _is_in_bad_fork = staticmethod(lambda: False)
    get_amp_supported_dtype = staticmethod(lambda: [torch.float16, torch.bfloat16])


def available() -> None:
    """Makes torch know the device in this process."""
    if torch._C._get_privateuse1_backend_name() == NAME:
        return
    _setup_privateuseone_for_python_backend(NAME, backend_module=Module)
    for op in GROWN:  # else made as nothing and grown, which a wrapper does not notice
        _aten.impl(op, partial(_run_given, op), "PrivateUse1")
    torch.tensor = _tensor  # its own way goes around what is written in Python
    _library.fallback(lambda func, *args, **kwargs: _run(func, args, kwargs), "PrivateUse1")


_library, _aten = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
