"""One training in several processes: each works on its rows of every batch, and all take the same steps.

The calling process is the first of them: it alone validates, logs and writes, and holds the result. The others are
started beside it, draw the same batches from the same random numbers, and end with it. Why gradients are added up here
and not by torch's wrapper: docs/decisions/006-gradients-added-by-hand.md.
"""

import logging
import os
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from importlib.util import find_spec
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from itemic import threads
from itemic.errors import ConfigError, ItemicError

T = TypeVar("T")
PATIENCE = timedelta(days=7)
"""How long a process waits for another that is alive: the first may take its time to validate."""


class Cut(Exception):
    """Another process ended; what ended it is the error worth showing."""


class Group:
    """The processes that train one module, as one of them sees them; alone unless started by `together`."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size
        self.apart = size == 1
        """Whether each process works on rows that are the whole batch, so that there are none to gather."""

    @contextmanager
    def deal(self, batch: Any) -> Iterator[tuple[Any, float]]:
        """This process's rows of the batch, and their share of it: the weight of a loss that is a mean over rows.

        Fewer rows than processes are not dealt, each works on them all. Random numbers drawn inside, as for dropout,
        differ between the processes; those drawn afterwards are again the same.
        """
        if self.size == 1:
            yield batch, 1.0
            return
        n, seed = _n_rows(batch, self.size), int(torch.randint(1 << 62, ()))
        start, stop = n * self.rank // self.size, n * (self.rank + 1) // self.size
        self.apart = n < self.size
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + self.rank)
            yield (batch, 1 / self.size) if self.apart else (_rows(batch, start, stop), (stop - start) / n)
        self.apart = False

    def add(self, tensor: Tensor) -> Tensor:
        """The sum of the tensors that the processes give, bit for bit the same in all; it is written in place."""
        if self.size > 1:
            with _cut():
                torch.distributed.all_reduce(tensor)
        return tensor

    def add_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Adds up the gradients of the processes; a parameter that none of them used keeps none."""
        if self.size == 1:
            return
        used = torch.tensor([float(p.grad is not None) for p in parameters])
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad.to_dense() for p in parameters]
        *sums, used = self.add(torch.cat([g.flatten() for g in (*gradients, used)])).split(
            [*(p.numel() for p in parameters), len(used)]
        )
        for parameter, total, n in zip(parameters, sums, used.tolist()):
            parameter.grad = total.view_as(parameter) if n else None

    def once(self, function: Callable[[], T]) -> T:
        """What the function gives in the first process, which alone calls it; its random draws leave no trace."""
        if self.size == 1:
            return function()
        with torch.random.fork_rng(devices=[]):
            values: list[Any] = [function() if self.rank == 0 else None]
        with _cut():
            torch.distributed.broadcast_object_list(values)
        return values[0]


@contextmanager
def _cut() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # the connection to another process is closed
        raise Cut from error


_group = Group()


def current() -> Group:
    """The group in which this process trains."""
    return _group


def gathered(x: Float[Tensor, "rows ..."]) -> Float[Tensor, "all_rows ..."]:
    """The rows of all processes, in the order of the batch: for a loss that compares the rows of a batch.

    Gradients flow back to the process that each row came from. Alone, x as it is.

    >>> gathered(torch.ones(2, 3)).shape
    torch.Size([2, 3])
    """
    return x if _group.apart else _Gathered.apply(x, _group)  # pyright: ignore[reportReturnType]


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        counts = torch.zeros(group.size, dtype=torch.int64)
        counts[group.rank] = len(x)
        ends = group.add(counts).cumsum(0)
        ctx.group, ctx.own = group, slice(int(ends[group.rank]) - len(x), int(ends[group.rank]))
        rows = x.new_zeros(int(ends[-1]), *x.shape[1:])
        rows[ctx.own] = x
        return group.add(rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return ctx.group.add(gradients[0].clone(memory_format=torch.contiguous_format))[ctx.own], None


def _n_rows(batch: Any, size: int) -> int:
    parts = batch if isinstance(batch, tuple) else (batch,)
    if not all(isinstance(part, Tensor) and part.ndim for part in parts) or len({len(part) for part in parts}) != 1:
        raise ConfigError(
            f"a batch of type {type(batch).__name__} cannot be dealt to {size} processes: that takes a tensor, or a "
            "tuple of tensors with as many rows each. Fit with one device."
        )
    return len(parts[0])


def _rows(batch: Any, start: int, stop: int) -> Any:
    if isinstance(batch, Tensor):
        return batch[start:stop]
    parts = [part[start:stop] for part in batch]
    return type(batch)(*parts) if hasattr(batch, "_fields") else tuple(parts)


# Starting and ending -------------------------------------------------------------------------------------------------


def together(size: int, work: Callable[..., T], *args: Any, **own: Any) -> T:
    """What `work(*args, **own)` gives in this process, run by `size` processes at once, of which this is the first.

    The others run `work(*args)`. They are told by pickle, so `work` and `args` must be made of what a module defines,
    and a script that gets here, which they import, needs its `if __name__ == "__main__":`.

    Raises:
        ConfigError: `size` is below 1, or lightning-fabric is missing.
        ItemicError: another process raised it, or was killed.
    """
    if size == 1:
        return work(*args, **own)
    if size < 1:
        raise ConfigError(f"devices cannot be {size}. Give 1 or more.")
    if find_spec("lightning_fabric") is None:
        raise ConfigError(f"{size} devices need lightning-fabric, which is not here. Run: pip install 'itemic[scale]'")
    with threads.use(max(1, threads.count() // size)):
        helpers = [_Helper(rank, size) for rank in range(1, size)]
        try:
            for helper in helpers:
                helper.send((work, args))
            from lightning_fabric.plugins.environments.lightning import find_free_network_port

            port = find_free_network_port()
            for helper in helpers:
                helper.hear()
            for helper in helpers:
                helper.send(port)
            with _joined(0, size, port):
                return work(*args, **own)
        except Cut as cut:
            for helper in helpers:
                helper.hear(cut)
            raise
        finally:
            for helper in helpers:
                helper.end()


class _Helper:
    """Another process of the group, as the first one sees it."""

    def __init__(self, rank: int, size: int) -> None:
        context = get_context("spawn")  # a fork would inherit torch's threads in whatever state they are
        self.rank, self.size = rank, size
        self.connection, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(
            target=_help, args=(theirs, rank, size, threads.count()), daemon=True
        )
        self.process.start()
        theirs.close()

    def send(self, message: Any) -> None:
        try:
            self.connection.send(message)
        except OSError:
            self.hear()

    def hear(self, cut: Cut | None = None) -> None:
        """Waits until the process is ready, or, after a cut, until it has ended; raises what it died of."""
        try:
            said = self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            raise ItemicError(
                f"process {self.rank + 1} of {self.size} ended with code {self.process.exitcode}: killed, perhaps for "
                "want of memory, or started by a script that calls fit outside of `if __name__ == '__main__':`."
            ) from cut
        if isinstance(said, Exception) and not isinstance(said, Cut):
            raise said from cut

    def end(self) -> None:
        self.process.terminate()
        self.process.join()
        self.connection.close()


def _help(connection: Connection, rank: int, size: int, n_threads: int) -> None:
    """What another process does: the same work, without a word unless something goes wrong."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process is interrupted, and ends this one
    os.environ["ITEMIC_THREADS"] = str(n_threads)
    said: Any = None
    try:
        work, args = connection.recv()
        import lightning_fabric  # noqa: F401  # before the others wait for it

        connection.send(None)
        with _joined(rank, size, connection.recv()):
            work(*args)
    except Cut:
        said = Cut()
    except ItemicError as error:
        said = error
    except Exception:
        said = RuntimeError(f"process {rank + 1} of {size} failed:\n{traceback.format_exc()}")
    with suppress(OSError):  # the first process was killed
        connection.send(said)


@contextmanager
def _joined(rank: int, size: int, port: int) -> Iterator[None]:
    """Makes this process a member of the group inside: gloo, started by Lightning Fabric."""
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments.lightning import LightningEnvironment
    from lightning_fabric.strategies.ddp import DDPStrategy

    global _group  # noqa: PLW0603
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    place = {"LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    before = {name: os.environ.get(name) for name in place}
    strategy = DDPStrategy(cluster_environment=LightningEnvironment(), process_group_backend="gloo", timeout=PATIENCE)
    fabric = Fabric(accelerator="cpu", devices=size, strategy=strategy)
    try:
        os.environ.update(place)
        fabric.launch()
        _group = Group(rank, size)
        yield
    finally:
        _group = Group()
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
