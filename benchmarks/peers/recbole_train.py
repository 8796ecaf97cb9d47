"""RecBole's own training of BPR or LightGCN; run by benchmarks/bpr.py and lightgcn.py inside the peers' environment.

`folder` holds gowalla/gowalla.{train,valid,test}.inter. Leaves vectors.npz there, by the ids of the files, and prints
one line of JSON: the median seconds of an epoch, the first left out where there are more. With `share` below 1 an epoch
ends after that share of its batches, and the seconds are those of a whole one.
"""

import json
import os
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.trainer import Trainer
from recbole.utils import get_model, init_seed


def main(folder: Path, threads: int, name: str, epochs: int, share: float, options: dict) -> None:
    torch.set_num_threads(threads)
    os.chdir(folder)  # RecBole writes logs where it runs
    config = Config(
        model=name,
        dataset="gowalla",
        config_dict={
            "data_path": str(folder),
            "checkpoint_dir": tempfile.mkdtemp(dir=folder),
            "benchmark_filename": ["train", "valid", "test"],
            "load_col": {"inter": ["user_id", "item_id"]},
            "eval_args": {"order": "RO", "group_by": "user", "mode": "full"},
            "use_gpu": False,
            "state": "CRITICAL",
            "show_progress": False,
            **options,
        },
    )
    init_seed(0, True)
    dataset = create_dataset(config)
    train, _, _ = data_preparation(config, dataset)
    model = get_model(name)(config, train.dataset)
    trainer = Trainer(config, model)
    n_batches = round(share * len(train))
    seconds = []
    for epoch in range(epochs):
        start = time.perf_counter()
        trainer._train_epoch(islice(train, n_batches), epoch)
        seconds.append((time.perf_counter() - start) * len(train) / n_batches)

    model.eval()
    found = model.forward() if name == "LightGCN" else (model.user_embedding.weight, model.item_embedding.weight)
    vectors = {}
    for what, field, trained in zip(("users", "items"), ("user_id", "item_id"), found):
        own = dataset.field2id_token[field][1:].astype(np.int64)  # RecBole numbers anew; its row 0 is padding
        vectors[what] = np.zeros((own.max() + 1, trained.shape[1]), np.float32)
        vectors[what][own] = trained[1:].detach().numpy()
    np.savez(folder / "vectors.npz", **vectors)
    print(json.dumps({"seconds": float(np.median(seconds[1:] or seconds))}))


if __name__ == "__main__":
    folder, threads, name, epochs, share, options = sys.argv[1:]
    main(Path(folder), int(threads), name, int(epochs), float(share), json.loads(options))
