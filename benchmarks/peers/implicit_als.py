"""implicit's alternating least squares; run by benchmarks/ials.py inside the peers' environment.

Reads train.npz and n_items.npy of the folder, leaves vectors.npz there and prints one line of JSON.
"""

import json
import os
import sys
from pathlib import Path

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # as implicit asks for: each of its threads calls BLAS

import implicit
import numpy as np
from scipy.sparse import csr_matrix


def main(folder: Path, threads: int, dim: int, iterations: int, alpha: float, regularization: float) -> None:
    train = np.load(folder / "train.npz")
    ones = np.ones(len(train["values"]), np.float32)
    shape = (len(train["offsets"]) - 1, int(np.load(folder / "n_items.npy")))
    model = implicit.cpu.als.AlternatingLeastSquares(
        factors=dim,
        iterations=iterations,
        alpha=alpha,
        regularization=regularization,
        num_threads=threads,
        random_state=0,
    )
    seconds = []
    model.fit(
        csr_matrix((ones, train["values"], train["offsets"]), shape=shape),
        show_progress=False,
        callback=lambda iteration, elapsed, *_: seconds.append(elapsed),
    )
    np.savez(folder / "vectors.npz", users=model.user_factors, items=model.item_factors)
    print(json.dumps({"seconds": float(np.median(seconds))}))


if __name__ == "__main__":
    main(
        Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5]), float(sys.argv[6])
    )
