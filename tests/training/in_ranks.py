"""What several processes do at once in test_processes.py: other processes import it by name."""

import os
import signal
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import normalize

from itemic.data import Ragged
from itemic.data.simulated import planted_groups
from itemic.data.splits import split
from itemic.errors import DataError
from itemic.registry import find
from itemic.systems.collaborative.directau import uniformity
from itemic.training import Hooks, Stage, Trainer, TrainingConfig, gathered, shuffled
from itemic.training.processes import current

RUNS = {
    "bpr": {"n_negatives": 3, "l2": 0.1, "training": {"clip": 0.01, "accumulate": 2, "schedule": "cosine"}},
    "bpr, rowadam": {"training": {"optimizer": "rowadam", "clip": 0.01}},
    "lightgcn": {"l2": 0.1, "training": {"weight_decay": 0.01}},
    "directau": {"n_layers": 1, "training": {"optimizer": "adamw"}},
    "buir": {"momentum": 0.9},
}


def data():
    train, _ = planted_groups(n_users=60, n_items=40, n_groups=4, loyalty=0.7, seed=0)
    return split(train, by="random", test=0.2, valid=0.2, seed=0)


def fitted(name, train, valid=None, **places):
    """A small system after 24 steps or more; the last batch of each epoch has 1 row, or 2 where it takes as many."""
    n = len(train.interactions.distinct_pairs()[0])
    size = next(size for size in range(20, n) if n % size == (2 if name == "directau" else 1))
    options = RUNS[name] | {"dim": 8}
    config = {"batch_size": size, **options.pop("training", {})}
    config["epochs"] = -(-24 * config.get("accumulate", 1) // (n // size))
    return find(name.partition(",")[0])(**options, training=config).fit(train, valid, **places)


def agreed(arrays):
    """The arrays, which all processes must have to the last bit."""
    for array in arrays.values():
        mine = torch.from_numpy(array)
        assert torch.equal(current().add(mine.clone()), mine * current().size)
    return {name: array.copy() for name, array in arrays.items()}


def fit_all():
    """The weights and the curve of every system."""
    parts = data()
    models = {name: fitted(name, parts.train, parts.valid) for name in RUNS}
    return {name: (agreed(model.weights), model.fitted_on["curve"]) for name, model in models.items()}


def compare_rows(x):
    """Uniformity of the directions of x, of which each process has some of the rows, and its gradient on them."""
    with current().deal(x) as (rows, weight):
        own = rows.clone().requires_grad_()
        value = uniformity(normalize(gathered(own)))
        (weight * value).backward()
    return value.item(), own.grad


class Stop(Exception):
    pass


def toy(folder: Path, resume=False, stop_at=0):
    """The weights of a run with dropout, a part that only some batches use and a hook that draws; and its log."""
    torch.manual_seed(0)
    module = nn.ModuleDict({"body": nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5)), "head": nn.Linear(8, 1)})
    module["never"] = nn.Linear(1, 1)
    module["seldom"] = nn.Linear(8, 1)
    x = torch.randn(41, 4)

    def loss(rows):
        hidden = module["body"](x[rows])
        seldom = module["seldom"](hidden[rows == 7])  # the row of one process
        found = module["head"](hidden).square().mean() + (seldom.square().sum() / len(rows) if len(seldom) else 0)
        return {"fit": found}

    def on_step(step):
        if step == stop_at:
            raise Stop
        with torch.no_grad():
            module["head"].bias.add_(0.01 * torch.rand(1))

    def validate():
        (folder / f"validated-{current().rank}").touch()
        return {"m@1": -float(module["head"].bias.detach().square())}

    config = TrainingConfig(batch_size=8, epochs=4, metric="m@1", checkpoint_steps=5, weight_decay=0.1, patience=2)
    stage = Stage("toy", config, lambda rng: shuffled(len(x), 8, rng), loss)
    trainer = Trainer(module, [stage], Hooks(on_step=on_step, validate=validate), folder=folder)
    at = trainer.fit(resume)
    return agreed({name: value.numpy() for name, value in module.state_dict().items()}), at.history


def resume_toy(folder: Path):
    """A whole run, and one that was cut off and resumed."""
    whole, cut = folder / "whole", folder / "cut"
    for place in (whole, cut):
        place.mkdir(exist_ok=True)
    expected = toy(whole)
    try:
        toy(cut, stop_at=13)
    except Stop:
        return expected, toy(cut, resume=True)
    raise AssertionError("not cut")


def everything(folder: Path, x):
    """All of the above in one start, which takes longer than the work."""
    return fit_all(), [compare_rows(rows) for rows in x], resume_toy(folder)


def fail(how):
    """The second process ends, one way or another, while the others wait for it."""
    if current().rank == 1:
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "mistaken":
            raise DataError("row 7 is not right. Mend it.")
        Ragged.from_lists([[1]]).no_such_thing  # noqa: B018
    current().add(torch.ones(3))


if __name__ == "__main__":
    parts = data()
    curve: list = []
    model = find("bpr")(training={"epochs": 2, "eval_every": 1})
    model.fit(parts.train, parts.valid, devices=2, watch=lambda metrics: curve.append(metrics["ndcg@20"]))
    print(model.fitted_on["epochs"], len(curve))
