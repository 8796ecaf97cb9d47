"""Minutes and memory to learn residual codes of a million vectors that lie on disk, and to give all of them codes.

    python benchmarks/quantise.py                                    # 1,000,000 x 384, 1.5 GB of disk, minutes
    python benchmarks/quantise.py --rows 50000                       # a try-out in seconds

Two fits: on 256 vectors a code, drawn at random, which is the default (and faiss's), and on all of them. Vectors are of
2,000 groups with a spectrum that falls as those of text encoders do; making them is not timed. Peak memory is that of
the process, the pages of the file among it. Targets: a fit in 240 s and 4 GB, codes for all in 60 s. Seconds of the
processor stand beside those of the clock: where others work too, they say what the machine could do alone.
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from itemic import threads
from itemic.tokenizers.rqkmeans import RQKMeans


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--levels", type=int, default=3)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--threads", type=int, default=threads.count())
    parser.add_argument("--folder", type=Path, help="where the vectors are kept; a temporary one when not given")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as folder, threads.use(given.threads):
        x = vectors(Path(folder) / "vectors.npy", given.rows, given.dim)
        levels = f"{given.levels} levels of {given.size}"
        print(f"{given.rows:,} x {given.dim} vectors on disk, {levels}, {given.threads} threads")
        for sample in (256, None):
            model = RQKMeans(levels=given.levels, size=given.size, sample=sample)
            model.shape = {"dim": given.dim}
            fit, model.weights = timed(lambda model=model: model.learn(x))
            encode, codes = timed(lambda model=model: model.encode(x))
            name = "all vectors" if sample is None else f"{sample} a code"
            left = model.unexplained(x[:50_000], codes[:50_000])
            used = min(len(np.unique(column)) for column in codes.T)
            print(
                f"fit on {name:12} {fit}    encode {encode}    unexplained {left:.3f}, "
                f"{used} codes used at least    {peak_mib():,} MiB"
            )


def timed(work: Callable[[], Any]) -> tuple[str, Any]:
    """The seconds that it takes by the clock and of the processor, and what it gives."""
    clock, processor = time.perf_counter(), time.process_time()
    made = work()
    return f"{time.perf_counter() - clock:7.1f} s ({time.process_time() - processor:.1f} cpu)", made


def vectors(path: Path, n: int, dim: int) -> np.ndarray:
    """Vectors of length 1 in a file, mapped into memory."""
    rng = np.random.default_rng(0)
    spectrum = (1 + np.arange(dim)) ** -0.5
    centres = rng.normal(size=(2000, dim)).astype(np.float32) * spectrum
    made = np.lib.format.open_memmap(path, "w+", np.float32, (n, dim))
    for start in range(0, n, 10_000):
        rows = min(10_000, n - start)
        block = centres[rng.integers(0, len(centres), rows)]
        block += 0.7 * spectrum * rng.standard_normal((rows, dim), np.float32)
        made[start : start + rows] = block / np.linalg.norm(block, axis=1, keepdims=True)
    made.flush()
    del made
    return np.load(path, mmap_mode="r")


def peak_mib() -> int:
    """The most memory that the process had so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == "__main__":
    main()
