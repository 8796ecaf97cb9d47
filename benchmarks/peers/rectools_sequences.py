"""RecTools' own training and recommending; run by benchmarks/sequences.py inside the environment of RecTools.

Reads train.npz and valid.npy of the folder. An epoch is judged by the NDCG@10 of what `recommend` gives, and the clock
stands still meanwhile. Prints one line of JSON: the seconds and the value after each epoch, and the seconds in which
all users are answered.
"""

import json
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from pytorch_lightning import Callback, Trainer
from rectools.dataset import Dataset
from rectools.models import BERT4RecModel, SASRecModel

MODELS = {"sasrec": SASRecModel, "bert4rec": BERT4RecModel}


def main(folder: Path, threads: int, system: str, options: dict, target: float, limit: float, epochs: int) -> None:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    warnings.filterwarnings("ignore")
    train, wanted = np.load(folder / "train.npz"), np.load(folder / "valid.npy")
    lengths = np.diff(train["offsets"])
    place = np.arange(len(train["values"])) - np.repeat(train["offsets"][:-1], lengths)
    rows = {"user_id": np.repeat(np.arange(len(lengths)), lengths), "item_id": train["values"], "weight": 1.0}
    data = Dataset.construct(pd.DataFrame({**rows, "datetime": pd.Timestamp(2000, 1, 1) + pd.to_timedelta(place, "D")}))
    users = np.arange(len(lengths))

    def recommended() -> pd.DataFrame:
        return model.recommend(users, data, 10, filter_viewed=True)

    class Judge(Callback):
        curve, judging = [], 0.0

        def on_train_epoch_end(self, trainer: Trainer, module: torch.nn.Module) -> None:
            now = time.perf_counter()
            model.is_fitted = True
            lists = recommended()
            hits = lists[lists["item_id"].to_numpy() == wanted[lists["user_id"].to_numpy()]]
            value = float((1 / np.log2(hits["rank"] + 1)).sum() / len(users))
            Judge.curve.append((now - start - Judge.judging, value))
            trainer.should_stop = value >= target or now - start - Judge.judging > limit
            module.train()
            Judge.judging += time.perf_counter() - now

    def trainer() -> Trainer:
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        return Trainer(max_epochs=epochs, callbacks=[Judge()], enable_checkpointing=False, accelerator="cpu", **quiet)

    model = MODELS[system](get_trainer_func=trainer, **options)
    start = time.perf_counter()
    model.fit(data)
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        recommended()
        seconds.append(time.perf_counter() - start)
    print(json.dumps({"curve": Judge.curve, "answering": min(seconds)}))


if __name__ == "__main__":
    folder, threads, system, options, target, limit, epochs = sys.argv[1:]
    main(Path(folder), int(threads), system, json.loads(options), float(target), float(limit), int(epochs))
