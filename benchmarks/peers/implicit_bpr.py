"""implicit's BPR; run by benchmarks/bpr.py inside the peers' environment.

Reads train.npz and n_items.npy of the folder, leaves vectors.npz there and prints one line of JSON.
"""

import json
import sys
import time
from pathlib import Path

import implicit
import numpy as np
from scipy.sparse import csr_matrix


def main(folder: Path, threads: int, epochs: int, options: dict) -> None:
    train = np.load(folder / "train.npz")
    ones = np.ones(len(train["values"]), np.float32)
    shape = (len(train["offsets"]) - 1, int(np.load(folder / "n_items.npy")))
    model = implicit.cpu.bpr.BayesianPersonalizedRanking(
        iterations=epochs, num_threads=threads, random_state=0, **options
    )
    at = []
    model.fit(
        csr_matrix((ones, train["values"], train["offsets"]), shape=shape),
        show_progress=False,
        callback=lambda *_: at.append(time.perf_counter()),
    )
    np.savez(folder / "vectors.npz", users=model.user_factors, items=model.item_factors)
    print(json.dumps({"seconds": float(np.median(np.diff(at)))}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4]))
