"""Seconds an iteration of iALS on Gowalla, d = 64: itemic beside implicit 0.7.3, at equal or better Recall@20.

    make peers && python benchmarks/ials.py                          # needs $ITEMIC_DATA/gowalla-ngcf

Both minimise the same loss (that of Hu et al.; implicit's alpha counts the 1 of every cell) by three conjugate gradient
steps from vectors started warm, for 16 iterations; the setting was chosen on 10 % of each user's training items. Every
run has a process of its own; loading, compiling and the solve that ends a fit are excluded, and the median iteration
counts. Each library is shown at 1 and 2 threads and judged at its best. Further rows, for comparison: itemic's plain
twin, a Cholesky factorisation a row, and the loss of Rendle et al., tuned in the same way.
Target: not slower than implicit.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from evaluation import adjacency, run
from itemic import threads
from itemic.data import Interactions, Ragged
from itemic.metrics import evaluate_lists
from itemic.nn.topk import top_k_inner
from itemic.progress import listening
from itemic.systems.baselines.ials import Config, Problem, factorise

HERE = Path(__file__).parent
DIM, ITERATIONS = 64, 16
HU = {"param": "hu", "alpha": 100.0, "l2": 100.0}
OURS = {
    "itemic": HU,
    "itemic, Rendle's loss": {"a0": 0.01, "l2": 0.003},
    "itemic, Cholesky": {**HU, "cg_steps": None},
}
RUNS = [(name, n) for name in ("implicit", *OURS) for n in (1, 2)][:-1]  # the twin knows one thread only


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="runs of each; the fastest counts")
    parser.add_argument("--ours", nargs=3, metavar=("FOLDER", "THREADS", "NAME"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.ours:
        folder, n, name = given.ours
        print(json.dumps(ours(Path(folder), int(n), name)))
        return
    peers = Path(os.environ.get("ITEMIC_PEERS", HERE.parent / ".peers")) / "bin" / "python"
    if not peers.exists():
        sys.exit(f"error: {peers} is missing. Run make peers, or name the environment: ITEMIC_PEERS=/path/to/it")
    with tempfile.TemporaryDirectory() as temporary:
        compare(Path(temporary), peers, given.repeats)


def ours(folder: Path, n: int, name: str) -> dict[str, Any]:
    """The median iteration of one process of itemic, timed by its own progress reports; leaves the vectors."""
    config = Config.model_validate({"dim": DIM, "epochs": ITERATIONS, **OURS[name]})
    train = Ragged(**np.load(folder / "train.npz"))
    log = Interactions.of(train.row_of_value, train.values, len(train), int(np.load(folder / "n_items.npy")))
    tiny = Interactions.of([0], [0], 2, 2)
    at: list[float] = []
    with threads.use(n):
        factorise(Problem.of(tiny.matrix(), config), config)  # loads the compiled loop
        with listening(lambda *_: at.append(time.perf_counter())):
            users, items = factorise(Problem.of(log.matrix(), config), config)
    np.savez(folder / "vectors.npz", users=users, items=items)
    return {"seconds": float(np.median(np.diff(at)))}


def compare(folder: Path, peers: Path, repeats: int) -> None:
    source = Path(os.environ.get("ITEMIC_DATA", HERE.parent.parent / "shared" / "data")) / "gowalla-ngcf"
    train, test = (adjacency(source / f"{part}.txt.gz") for part in ("train", "test"))
    n_items = int(max(train.values.max(), test.values.max())) + 1
    np.savez(folder / "train.npz", values=train.values, offsets=train.offsets)
    np.save(folder / "n_items.npy", n_items)
    print(f"Gowalla: {len(train):,} users, {n_items:,} items, d = {DIM}; load {os.getloadavg()[0]:.1f}")

    # implicit weighs a seen cell alpha in all, itemic (and the paper) 1 + alpha
    settings = [DIM, ITERATIONS, HU["alpha"] + 1, HU["l2"]]
    seconds, found = dict.fromkeys(RUNS, np.inf), {}
    for _ in range(repeats):  # in turn, so that what else the machine does meets all of them
        for name, n in RUNS:
            command = [sys.executable, __file__, "--ours", folder, n, name]
            if name == "implicit":
                command = [peers, HERE / "peers" / "implicit_als.py", folder, n, *settings]
            seconds[name, n] = min(seconds[name, n], run(command, n)["seconds"])
            found[name, n] = recall(folder / "vectors.npz", train, test)
    for name, n in RUNS:
        count = f"{n} thread{'s' if n > 1 else ' '}"
        print(f"{name:<22} {count}  {seconds[name, n]:6.3f} s an iteration   recall@20 {found[name, n]:.4f}")
    mine, theirs = (min(((name, n) for n in (1, 2)), key=lambda row: seconds[row]) for name in ("itemic", "implicit"))
    print(
        f"itemic at {mine[1]}, implicit at {theirs[1]} threads: {seconds[theirs] / seconds[mine]:.1f} times faster, "
        f"recall@20 {found[mine]:.4f} beside {found[theirs]:.4f}"
    )


def recall(file: Path, train: Ragged, test: Ragged) -> float:
    """Recall@20 over all items but those of the train part."""
    vectors = np.load(file)
    lists, _ = top_k_inner(vectors["users"], vectors["items"], 20, exclude=(train.values, train.offsets))
    return float(np.nanmean(evaluate_lists(lists, test, metrics=["recall@20"])["recall@20"]))


if __name__ == "__main__":
    main()
