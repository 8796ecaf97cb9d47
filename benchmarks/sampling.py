"""Negatives a second: uniform and by popularity, with and without rejecting what the user took.

    python benchmarks/sampling.py                     # Gowalla where $ITEMIC_DATA has it, else made of its size

Users come as a training epoch brings them: shuffled interactions, 2,048 a batch. One thread, seconds of CPU, so that
neighbours count for less; the median of the rounds counts. Target: 10 million negatives a second, rejection included.
"""

import os
import time
from pathlib import Path
from statistics import median

os.environ["ITEMIC_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch

from itemic.data import Ragged
from itemic.data.readers.known import known_set
from itemic.training.negatives import Negatives

BATCH, ROUNDS, TARGET = 2048, 5, 10e6


def histories() -> tuple[str, Ragged, int]:
    folder = Path(os.environ.get("ITEMIC_DATA", "../shared/data")) / "gowalla-ngcf"
    if folder.is_dir():
        train = known_set(folder).train
        return "Gowalla", train.interactions.histories(), train.n_items
    rng = np.random.default_rng(0)
    lengths = rng.multinomial(810_128, rng.dirichlet(np.full(29_858, 0.6)))
    items = (40_981 * rng.random(810_128) ** 2).astype(np.int32)
    return "made of Gowalla's size", Ragged.from_lengths(items, lengths), 40_981


def rate(negatives: Negatives, users: torch.Tensor, n: int) -> float:
    rng, rates = torch.Generator().manual_seed(0), []
    batches = users[: max(BATCH, 4_000_000 // n // BATCH * BATCH)].split(BATCH)
    for _ in range(ROUNDS):
        start = time.process_time()
        drawn = sum(negatives.draw(batch, n, rng).numel() for batch in batches)
        rates.append(drawn / (time.process_time() - start))
    return median(rates)


def main() -> None:
    torch.set_num_threads(1)
    name, taken, n_items = histories()
    users = torch.from_numpy(taken.row_of_value.astype(np.int64))
    users = users[torch.randperm(len(users), generator=torch.Generator().manual_seed(0))]
    print(f"{name}: {len(taken):,} users, {n_items:,} items, {len(users):,} pairs; batches of {BATCH:,}; 1 thread")
    print(f"{'drawn by':12}{'reject':>8}{'a user':>8}{'million a second':>18}")
    for how in ("uniform", "popularity"):
        for reject in (False, True):
            negatives = Negatives(taken.offsets, taken.values, n_items, how, reject=reject)
            for n in (1, 10, 100):
                found = rate(negatives, users, n)
                below = "" if found >= TARGET else "  below the target"
                print(f"{how:12}{'yes' if reject else 'no':>8}{n:>8}{found / 1e6:>18.1f}{below}")


if __name__ == "__main__":
    main()
