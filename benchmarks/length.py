"""Peak memory and seconds a step of SASRec's training by the length of the histories: memory should grow in proportion.

    python benchmarks/length.py                       # 500, 1,000, 2,000 and 4,000 items, 16 histories a batch

d = 64, 2 layers, 10,000 items, full softmax, dropout 0.2, so that attention makes its weights itself. Each length is
trained for a few steps in a process of its own; memory is the highest the process held, above what it held with torch
loaded, the data made and the network built. A batch holds 16 histories of exactly that length.
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

import numpy as np

HISTORIES, ITEMS, STEPS = 16, 10_000, 3
LENGTHS = (500, 1000, 2000, 4000)


def measure(length: int) -> dict[str, float]:
    from torch import Generator
    from torch.optim import Adam

    from itemic.data import Dataset, Interactions, Table
    from itemic.systems.sequential.sasrec import SASRec

    rng = np.random.default_rng(0)
    user, item = np.repeat(np.arange(HISTORIES), length + 1), rng.integers(ITEMS, size=HISTORIES * (length + 1))
    log = Interactions.of(user, item, HISTORIES, ITEMS, time=np.arange(len(user)))
    data = Dataset(Table.numbered(ITEMS), Table.numbered(HISTORIES, "user"), log)
    model = SASRec(max_length=length, training={"batch_size": HISTORIES, "epochs": 1})
    model._catalogue, model._module = data.catalogue, model.build(data)
    model.prepare(data)
    optimizer = Adam(model.module.parameters())
    before, seconds = peak(), []
    for step in range(STEPS):
        (batch,) = model.batches(data, Generator().manual_seed(step))
        start = time.perf_counter()
        optimizer.zero_grad()
        sum(model.loss(batch).values()).backward()
        optimizer.step()
        seconds.append(time.perf_counter() - start)
    return {"megabytes": (peak() - before) / 1e6, "seconds": min(seconds)}


def peak() -> float:
    """The most memory this process has held, in bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def each(file: str, sizes: Sequence[int]) -> Iterator[tuple[int, dict[str, float]]]:
    """What `measure` of this script finds for each size, in a process of its own."""
    for size in sizes:
        done = subprocess.run([sys.executable, file, str(size)], stdout=subprocess.PIPE, text=True, check=True)
        yield size, json.loads(done.stdout.splitlines()[-1])


def conditions() -> str:
    return f"{os.environ.get('ITEMIC_THREADS', 'all')} threads; load {os.getloadavg()[0]:.1f}"


def main() -> None:
    if len(sys.argv) > 1:
        print(json.dumps(measure(int(sys.argv[1]))))
        return
    print(f"{HISTORIES} histories a batch; {conditions()}")
    print(f"{'length':>8}{'peak, MB':>10}{'KB an item':>12}{'s a step':>10}")
    for length, found in each(__file__, LENGTHS):
        held = found["megabytes"]
        print(
            f"{length:>8,}{held:>10.0f}{1e3 * held / (HISTORIES * length):>12.1f}{found['seconds']:>10.2f}", flush=True
        )


if __name__ == "__main__":
    main()
