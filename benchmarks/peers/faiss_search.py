"""Top lists of exact faiss search on one thread, nothing masked and nothing measured: a floor for the ranking part.

Run by benchmarks/evaluation.py inside the peers' environment; prints one line of JSON.
"""

import json
import resource
import sys
import time
from pathlib import Path

import faiss
import numpy as np


def main(folder: Path, repeats: int) -> None:
    faiss.omp_set_num_threads(1)
    users, items = (np.load(folder / "vectors.npz")[name] for name in ("users", "items"))
    index = faiss.IndexFlatIP(items.shape[1])
    index.add(items)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        index.search(users, 20)
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({"seconds": min(seconds), "peak_gb": peak}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
