"""Seconds an epoch of LightGCN on Gowalla, 3 layers, d = 64, batches of 2,048: itemic beside RecBole 1.2.1.

    make peers && python benchmarks/lightgcn.py                      # needs $ITEMIC_DATA/gowalla-ngcf

An epoch visits every training pair once and draws one negative each; every batch spreads all vectors anew. Both have
dense Adam. itemic runs three epochs, of which the first is left out; RecBole a fifth of one, whose time is scaled to
the whole, since its batches cost the same. Each runs on 1 and on 2 threads and is judged at its best.
Target: at least 4 times faster.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

from bpr import BATCH, DIM, HERE, arguments, ours, peers_python, prepare
from evaluation import run

LAYERS, EPOCHS, SHARE = 3, 3, 0.2


def main() -> None:
    given = arguments(__doc__ or "")
    if given.ours:
        training = {"batch_size": BATCH, "epochs": EPOCHS}
        options = {"dim": DIM, "n_layers": LAYERS, "sampling": "edge_uniform", "training": training}
        print(json.dumps(ours(Path(given.ours[0]), "lightgcn", options)))
        return
    python = peers_python()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        prepare(folder)
        options = json.dumps({"embedding_size": DIM, "train_batch_size": BATCH, "n_layers": LAYERS, "reg_weight": 1e-4})
        best = {}
        for name, command in (
            ("itemic", lambda _: [sys.executable, __file__, "--ours", folder, "", EPOCHS]),
            ("RecBole", lambda n: [python, HERE / "peers/recbole_train.py", folder, n, "LightGCN", 1, SHARE, options]),
        ):
            seconds = {n: run(command(n), n)["seconds"] for n in given.threads}
            best[name] = min(seconds.values())
            print(f"{name:<8}", "   ".join(f"{s:6.1f} s an epoch on {n}" for n, s in seconds.items()), flush=True)
    print(f"{best['RecBole'] / best['itemic']:.1f} times faster than RecBole; load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
