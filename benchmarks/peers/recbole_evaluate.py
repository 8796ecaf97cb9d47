"""RecBole's own evaluator on given vectors; run by benchmarks/evaluation.py inside the peers' environment.

`folder` holds gowalla/gowalla.{train,valid,test}.inter and vectors.npz; prints one line of JSON. The model is RecBole's
BPR with its weights replaced, so that scoring, masking, top-k, collecting and metrics are all RecBole's.
"""

import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.model.general_recommender import BPR
from recbole.trainer import Trainer
from recbole.utils import init_seed


def main(folder: Path, threads: int, users_at_once: int, repeats: int) -> None:
    torch.set_num_threads(threads)
    os.chdir(folder)  # RecBole writes logs where it runs
    users, items = (np.load(folder / "vectors.npz")[name] for name in ("users", "items"))
    config = Config(
        model="BPR",
        dataset="gowalla",
        config_dict={
            "data_path": str(folder),
            "checkpoint_dir": tempfile.mkdtemp(dir=folder),
            "benchmark_filename": ["train", "valid", "test"],
            "load_col": {"inter": ["user_id", "item_id"]},
            "embedding_size": users.shape[1],
            "eval_args": {"order": "RO", "group_by": "user", "mode": "full"},
            "metrics": ["Recall", "MRR", "NDCG", "Hit", "Precision"],
            "topk": [20],
            "metric_decimal_place": 8,
            "eval_batch_size": users_at_once * (len(items) + 1),
            "use_gpu": False,
            "state": "CRITICAL",
            "show_progress": False,
        },
    )
    init_seed(0, True)
    dataset = create_dataset(config)
    train, _, test = data_preparation(config, dataset)
    model = BPR(config, train.dataset)
    for weight, field, vectors in (
        (model.user_embedding.weight, "user_id", users),
        (model.item_embedding.weight, "item_id", items),
    ):
        own = dataset.field2id_token[field][1:].astype(np.int64)  # RecBole numbers anew; its row 0 is padding
        weight.data[1:] = torch.from_numpy(vectors[own])
    trainer = Trainer(config, model)
    trainer.eval_collector.data_collect(train)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = trainer.evaluate(test, load_best_model=False, show_progress=False)
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({"seconds": min(seconds), "peak_gb": peak, "values": dict(result)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
