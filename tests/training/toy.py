"""A run that another process can kill: python toy.py FOLDER [--resume] prints a hash of the weights it ends with."""

import hashlib
import os
import signal
import sys
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import mse_loss

from itemic.training import Hooks, Stage, Trainer, TrainingConfig, shuffled

N = 96


def main(folder: str, resume: bool = False, kill_at: str = "") -> None:
    """`kill_at` is a step, or `valid-3` for the third validation: there the process kills itself as a user would."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    parts = {"body": nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Dropout(0.3)), "head": nn.Linear(16, 1)}
    module = nn.ModuleDict({**parts, "norm": nn.BatchNorm1d(16)})
    x = torch.randn(N, 6)
    y = (x[:, :1] * x[:, 1:2]).sin()
    validations = 0

    def batches(rng):
        for rows in shuffled(N, 8, rng):
            yield rows[torch.randint(len(rows), (len(rows),), generator=rng)], torch.randn(1, generator=rng)

    def loss(batch):
        rows, noise = batch
        found = module["head"](module["norm"](module["body"](x[rows])))
        return {"fit": mse_loss(found, y[rows] + 0.1 * noise), "size": 1e-3 * found.square().mean()}

    def validate():
        nonlocal validations
        validations += 1
        if kill_at == f"valid-{validations}":
            os.kill(os.getpid(), signal.SIGKILL)
        return {"fit@1": -float(mse_loss(module["head"](module["norm"](module["body"](x))), y))}

    def on_step(step):
        if kill_at == str(step):
            os.kill(os.getpid(), signal.SIGKILL)

    def on_epoch(epoch):
        with torch.no_grad():
            module["head"].bias.add_(0.01 * torch.rand(1))

    common = {"batch_size": 8, "epochs": 6, "metric": "fit@1", "patience": 3, "checkpoint_steps": 9, "warmup": 9}
    first = TrainingConfig(lr=0.02, schedule="cosine", clip=1.0, **common)
    second = TrainingConfig(lr=0.01, optimizer="adamw", weight_decay=0.1, accumulate=2, schedule="linear", **common)
    stages = [
        Stage("first", first, batches, loss),
        Stage("second", second, batches, loss, trains=("head",)),
        Stage("first", first, batches, loss),
    ]
    hooks = Hooks(on_epoch=on_epoch, on_step=on_step, validate=validate)
    Trainer(module, stages, hooks, seed=1, folder=Path(folder), about={"x": 1}).fit(resume)
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode() + value.numpy().tobytes())
    print(digest.hexdigest())


if __name__ == "__main__":
    folder, *rest = sys.argv[1:]
    main(folder, "--resume" in rest, next((a.removeprefix("--kill=") for a in rest if a.startswith("--kill=")), ""))
