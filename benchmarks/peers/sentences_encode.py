"""SentenceTransformer.encode with its defaults; run by benchmarks/encoding.py inside the peers' environment.

Reads texts.json of the folder, leaves theirs.npy there and prints one line of JSON.
"""

import json
import os
import sys
import time
from pathlib import Path

os.environ["RAYON_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from sentence_transformers import SentenceTransformer


def main(folder: Path, model: str, threads: int, repeats: int) -> None:
    torch.set_num_threads(threads)
    texts, encoder = json.loads((folder / "texts.json").read_text()), SentenceTransformer(model, device="cpu")
    vectors, seconds = encoder.encode(texts[:64]), []
    for _ in range(repeats):
        start = time.perf_counter()
        vectors = encoder.encode(texts)
        seconds.append(time.perf_counter() - start)
    np.save(folder / "theirs.npy", vectors)
    print(json.dumps({"seconds": min(seconds)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
