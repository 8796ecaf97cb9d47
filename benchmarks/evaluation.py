"""Seconds to evaluate vectors on Gowalla, full ranking, five metrics at 20: itemic beside RecBole 1.2.1 and faiss.

    make peers && python benchmarks/evaluation.py                    # needs $ITEMIC_DATA/gowalla-ngcf

Both get the same vectors (d = 64) and mask the same training items; every run has a process of its own and loading is
excluded. Each library runs on 1 and on 2 threads and is judged at its best; values must agree to 1e-4. faiss's exact
search alone (one thread, no masks, no metrics) is a floor for the ranking part. `--vectors normal` draws vectors of
about equal length, the hard case: no item is spared for having a short vector.
Targets: at least 5 times faster than RecBole, 10 the aim, in under 2 GB.
"""

import argparse
import gzip
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from itemic import threads
from itemic.data import Ragged

HERE = Path(__file__).parent
METRICS = ["recall@20", "mrr@20", "ndcg@20", "hit@20", "precision@20"]
USERS_AT_ONCE = (1, 16, 32, 128)  # its default of 4,096 scores a batch comes to 1 user; blocks near a cache are best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="runs of each; the fastest counts")
    parser.add_argument("--users-at-once", type=int, nargs="*", default=list(USERS_AT_ONCE), help="RecBole's batches")
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2], help="counts to try")
    parser.add_argument("--vectors", choices=["svd", "normal"], default="svd")
    parser.add_argument("--ours", nargs=3, metavar=("FOLDER", "THREADS", "TORCH"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.ours:
        folder, n, torch_loaded = given.ours
        print(json.dumps(ours(Path(folder), int(n), torch_loaded == "True", given.repeats)))
        return
    peers = Path(os.environ.get("ITEMIC_PEERS", HERE.parent / ".peers")) / "bin" / "python"
    if not peers.exists():
        sys.exit(f"error: {peers} is missing. Run make peers, or name the environment: ITEMIC_PEERS=/path/to/it")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        prepare(folder, given.vectors)
        compare(folder, str(peers), given)


def prepare(folder: Path, kind: str) -> None:
    """Writes the vectors and, for each side, the interactions."""
    source = Path(os.environ.get("ITEMIC_DATA", HERE.parent.parent / "shared" / "data")) / "gowalla-ngcf"
    train, test = (adjacency(source / f"{part}.txt.gz") for part in ("train", "test"))
    n_items = int(max(train.values.max(), test.values.max())) + 1
    if kind == "svd":
        users, items = singular_vectors(train, n_items)
    else:
        rng = np.random.default_rng(0)
        users, items = (rng.standard_normal((n, 64), dtype=np.float32) for n in (len(train), n_items))
    np.savez(folder / "vectors.npz", users=users, items=items)
    for name, rows in (("train", train), ("test", test)):
        np.savez(folder / f"{name}.npz", values=rows.values, offsets=rows.offsets)
    (folder / "gowalla").mkdir()
    for part, rows in (("train", train), ("valid", train.block(0, 1)), ("test", test)):  # RecBole wants a valid part
        pairs = np.column_stack([rows.row_of_value, rows.values])
        path = folder / "gowalla" / f"gowalla.{part}.inter"
        np.savetxt(path, pairs, fmt="%d", delimiter="\t", header="user_id:token\titem_id:token", comments="")
    print(f"Gowalla: {len(train):,} users, {n_items:,} items, {kind} vectors of {users.shape[1]}", end="; ")
    print(f"load of the machine {os.getloadavg()[0]:.1f}")


def adjacency(path: Path) -> Ragged:
    """One user a line: the user, then the items."""
    with gzip.open(path, "rt") as lines:
        rows = [np.array(line.split(), dtype=np.int32) for line in lines]
    lists: list[Any] = [[]] * (max(row[0] for row in rows) + 1)
    for row in rows:
        lists[row[0]] = row[1:]
    return Ragged.from_lists(lists)


def singular_vectors(train: Ragged, n_items: int, dim: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Truncated SVD of the interactions over the square root of both counts; items scaled back by that of theirs."""
    from scipy.sparse import csr_array
    from scipy.sparse.linalg import svds

    count = np.maximum(np.bincount(train.values, minlength=n_items), 1)
    weight = (np.repeat(np.maximum(train.lengths, 1), train.lengths) * count[train.values]) ** -0.5
    matrix = csr_array((weight.astype(np.float32), train.values, train.offsets), shape=(len(train), n_items))
    left, values, right = svds(matrix, dim, rng=np.random.default_rng(0))
    users, items = left * values, right.T * count[:, None] ** 0.5
    return np.ascontiguousarray(users, np.float32), np.ascontiguousarray(items, np.float32)


def ours(folder: Path, n: int, torch_loaded: bool, repeats: int) -> dict[str, Any]:
    """Seconds, peak memory and the values of one process of itemic."""
    if torch_loaded:
        import torch  # noqa: F401  its presence lets itemic try bfloat16
    from itemic.metrics import evaluate_lists
    from itemic.nn.topk import fastest_product, top_k_inner

    users, items = (np.load(folder / "vectors.npz")[name] for name in ("users", "items"))
    train, test = (Ragged(**np.load(folder / f"{name}.npz")) for name in ("train", "test"))
    seconds, values = [], {}
    with threads.use(n):
        product = fastest_product().name
        for _ in range(repeats + 1):  # the first loads the compiled loops
            start = time.perf_counter()
            ranked, _ = top_k_inner(users, items, 20, exclude=(train.values, train.offsets))
            by_query = evaluate_lists(ranked, test, metrics=METRICS)
            values = {name: float(np.nanmean(value)) for name, value in by_query.items()}
            seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"seconds": min(seconds[1:]), "peak_gb": peak, "values": values, "product": product}


def compare(folder: Path, peers: str, given: argparse.Namespace) -> None:
    mine, theirs = [], []
    for n in given.threads:
        for torch_loaded in (False, True):
            command = [sys.executable, __file__, "--repeats", given.repeats, "--ours", folder, n, torch_loaded]
            result = run(command, n)
            mine.append(shown(f"itemic, {result['product']}{', torch loaded' * torch_loaded}", n, result))
        for users in given.users_at_once:
            repeats = 1 if users == 1 else given.repeats  # minutes each
            result = run([peers, HERE / "peers" / "recbole_evaluate.py", folder, n, users, repeats], n)
            theirs.append(shown(f"RecBole, {users:,} users at once", n, result))
    shown("faiss flat, search alone", 1, run([peers, HERE / "peers" / "faiss_search.py", folder, given.repeats], 1))

    (seconds, name, best), (other_seconds, other_name, other) = min(mine, key=by_seconds), min(theirs, key=by_seconds)
    apart = max(abs(found["values"][m] - other["values"][m]) for _, _, found in mine for m in METRICS)
    print("   ".join(f"{m} {value:.5f}" for m, value in best["values"].items()) + f"   at most {apart:.0e} apart")
    print(f"{name} is {other_seconds / seconds:.1f} times faster than {other_name}")
    if apart > 1e-4:
        sys.exit("error: the two sides disagree by more than 1e-4")


Row = tuple[float, str, dict[str, Any]]


def by_seconds(row: Row) -> float:
    return row[0]


def shown(name: str, n: int, result: dict[str, Any]) -> Row:
    name = f"{name}, {n} thread{'s' * (n > 1)}"
    print(f"{name:<48} {result['seconds']:7.2f} s   {result['peak_gb']:.2f} GB", flush=True)
    return result["seconds"], name, result


def run(command: list[Any], n: int) -> dict[str, Any]:
    """The last line that a process prints, with every library held to n threads."""
    held = {name: str(n) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ITEMIC_THREADS")}
    done = subprocess.run(
        [str(part) for part in command], env=os.environ | held, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"error: {command[1]} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


if __name__ == "__main__":
    main()
