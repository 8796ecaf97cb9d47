"""Seconds to fit EASE on Gowalla beside potrf + potri alone on the matrix that its form inverts (users x users).

    python benchmarks/ease.py                                        # needs $ITEMIC_DATA/gowalla-ngcf, 5 GB, minutes
    python benchmarks/ease.py --users 6000                           # a try-out in seconds

Fitting counts the pairs, inverts, computes the weights of 40,981 items and keeps the 500 largest of each. Both run in
this process on the same number of threads, in turn; loading is excluded, and the fastest of the repeats counts.
Target: at most 1.5 times potrf + potri.
"""

import argparse
import os
import time
from pathlib import Path
from unittest import mock

import numpy as np
import torch

from evaluation import adjacency
from itemic import threads
from itemic.data import Dataset, Interactions, Table
from itemic.systems.baselines import ease

HERE = Path(__file__).parent
L2 = 80.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, help="only the first so many")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--threads", type=int, default=threads.count())
    given = parser.parse_args()
    data = gowalla(given.users)
    with threads.use(given.threads):
        pairs = [(bare(data), whole(data)) for _ in range(given.repeats)]
    inverse = min(bare for bare, _ in pairs)
    fit, own = min(whole for _, whole in pairs)
    print(f"{data.n_users:,} users, {data.n_items:,} items, lambda {L2:g}, {given.threads} threads")
    print(f"potrf + potri    {inverse:8.1f} s")
    print(f"ease.fit         {fit:8.1f} s    {fit / inverse:.2f} times; target at most 1.50")
    print(f"  of it potrf + potri {own:3.1f} s    {fit / own:.2f} times, from the same minutes")


def bare(data: Dataset) -> float:
    """Seconds of potrf and potri in place, nothing else."""
    matrix = torch.from_numpy(ease.gram(data.interactions.matrix(), L2)).T
    start = time.perf_counter()
    torch.linalg.cholesky(matrix, out=matrix)
    torch.cholesky_inverse(matrix, out=matrix)
    return time.perf_counter() - start


def whole(data: Dataset) -> tuple[float, float]:
    """Seconds of a fit from interactions to weights that can be served, and those of the inverse in it."""
    inside, plain = [], ease.invert

    def invert(matrix: np.ndarray) -> np.ndarray:
        start = time.perf_counter()
        inverted = plain(matrix)
        inside.append(time.perf_counter() - start)
        return inverted

    with mock.patch.object(ease, "invert", invert):
        start = time.perf_counter()
        ease.EASE(l2=L2, form="dual").fit(data)
        return time.perf_counter() - start, sum(inside)


def gowalla(n_users: int | None) -> Dataset:
    root = Path(os.environ.get("ITEMIC_DATA", HERE.parent.parent / "shared" / "data")) / "gowalla-ngcf"
    train, test = (adjacency(root / f"{part}.txt.gz") for part in ("train", "test"))
    n_items = int(max(train.values.max(), test.values.max())) + 1
    train = train.block(0, n_users or len(train))
    log = Interactions(train.row_of_value.astype(np.int32), train.values, len(train), n_items)
    return Dataset(Table.numbered(n_items), Table.numbered(len(train), "user"), log, name="gowalla")


if __name__ == "__main__":
    main()
