"""RecBole's own training of SASRec; run by benchmarks/sequences.py inside the peers' environment.

`folder` holds beauty/beauty.inter: user, item and place. RecBole makes a row of every prefix; it is judged by NDCG@10
after every tenth of an epoch, with the clock standing still. Prints one line of JSON: the seconds and the value after
each tenth.
"""

import json
import os
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.trainer import Trainer
from recbole.utils import get_model, init_seed

TENTH = 0.1


def main(folder: Path, threads: int, options: dict, target: float, limit: float, rounds: int) -> None:
    torch.set_num_threads(threads)
    os.chdir(folder)  # RecBole writes logs where it runs
    config = Config(
        model="SASRec",
        dataset="beauty",
        config_dict={
            "data_path": str(folder),
            "checkpoint_dir": tempfile.mkdtemp(dir=folder),
            "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
            "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"},
            "train_neg_sample_args": None,
            "use_gpu": False,
            "state": "CRITICAL",
            "show_progress": False,
            **options,
        },
    )
    init_seed(0, True)
    dataset = create_dataset(config)
    start = time.perf_counter()
    train, valid, _ = data_preparation(config, dataset)
    model = get_model("SASRec")(config, train.dataset)
    trainer = Trainer(config, model)
    curve, judging, n_batches = [], 0.0, max(1, round(TENTH * len(train)))
    for index in range(rounds):
        trainer._train_epoch(islice(train, n_batches), index)
        now = time.perf_counter()
        curve.append((now - start - judging, ndcg(model, valid)))
        if curve[-1][1] >= target or curve[-1][0] > limit:
            break
        judging += time.perf_counter() - now
    print(json.dumps({"curve": curve}))


@torch.no_grad()
def ndcg(model: torch.nn.Module, valid: object) -> float:
    """At 10, over all items but those of the history."""
    model.eval()
    total = n = 0
    for rows, *_ in valid:
        scores = model.full_sort_predict(rows)
        wanted = scores.gather(1, rows["item_id"][:, None])
        scores.scatter_(1, rows["item_id_list"], -torch.inf)[:, 0] = -torch.inf  # item 0 is the padding
        place = (scores >= wanted).sum(1)
        total += (1 / torch.log2(place + 1.0))[place <= 10].sum().item()
        n += len(place)
    return total / n


if __name__ == "__main__":
    folder, threads, options, target, limit, rounds = sys.argv[1:]
    main(Path(folder), int(threads), json.loads(options), float(target), float(limit), int(rounds))
