"""Seconds to a stated quality of SASRec and BERT4Rec on Amazon Beauty: itemic beside RecTools 0.19.0 and RecBole 1.2.1.

    make peers && python benchmarks/sequences.py                     # needs $ITEMIC_DATA/amazon-beauty

Width 64, 2 layers, the newest 50 items, leave-last-out: everybody learns from the same train part and is judged by the
NDCG@10 of the validation items among all items but those of the history, after every epoch (RecBole, whose epochs are
long, after every tenth of one). The clock runs from the data in memory on and stands still while a model is judged.
itemic has its recipes. RecTools has its own defaults elsewhere, and once the dropout and the mask share of our recipes;
the better of the two counts. RecBole has its own defaults. Each runs one round on 1 and on 2 threads, then goes on the
better count to the quality, or to the limit, told as "more than"; where one count is given, on that one at once.
Answering: the ten best items not yet taken, for every user, with their ids. Every run has a process of its own.
Targets: SASRec in at most two thirds of the time of RecTools, a third the aim; answering at least 3 times as fast.
"""

import argparse
import json
import math
import os
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bpr import HERE, peers_python
from evaluation import run
from itemic import threads
from itemic.data import Dataset
from itemic.data.readers.known import known_set
from itemic.data.splits import split
from itemic.evaluation.recipes import find_recipe
from itemic.registry import find

SHAPE = {"n_factors": 64, "session_max_len": 50, "n_blocks": 2}
ROUNDS = 1000


class Contender(NamedTuple):
    name: str
    library: str
    options: dict[str, Any]


CONTENDERS = {
    "sasrec": [
        Contender("itemic", "itemic", {}),
        Contender("RecTools", "RecTools", SHAPE),
        Contender("RecTools, dropout 0.5", "RecTools", {**SHAPE, "dropout_rate": 0.5}),
        Contender("RecBole", "RecBole", {"MAX_ITEM_LIST_LENGTH": 50}),
    ],
    "bert4rec": [
        Contender("itemic", "itemic", {}),
        Contender("RecTools", "RecTools", SHAPE),
        Contender("RecTools, as our recipe", "RecTools", {**SHAPE, "dropout_rate": 0.5, "mask_prob": 0.6}),
    ],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", nargs="*", choices=list(CONTENDERS), default=list(CONTENDERS))
    parser.add_argument("--sasrec", type=float, default=0.030, help="validation NDCG@10 that SASRec is to reach")
    parser.add_argument("--bert4rec", type=float, default=0.015, help="the same of BERT4Rec")
    parser.add_argument("--limit", type=float, default=60, help="minutes of training after which a run ends")
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2], help="counts to try")
    parser.add_argument("--without", nargs="*", default=[], help="contenders to leave out")
    parser.add_argument("--ours", nargs=4, metavar=("SYSTEM", "TARGET", "LIMIT", "EPOCHS"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.ours:
        system, target, limit, epochs = given.ours
        print(json.dumps(ours(system, float(target), float(limit), int(epochs))))
        return
    python = peers_python()
    peers = python.parents[1]
    pythons = {"RecBole": python, "RecTools": peers.with_name(f"{peers.name}-rectools") / "bin" / "python"}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        prepare(folder)
        for system in given.systems:
            race = Race(system, getattr(given, system), given.limit, folder, pythons)
            compare(race, [who for who in CONTENDERS[system] if who.name not in given.without], given.threads)
    print(f"load at the end {os.getloadavg()[0]:.1f}")


def beauty() -> Dataset:
    folder = Path(os.environ.get("ITEMIC_DATA", HERE.parent.parent / "shared" / "data"))
    return split(known_set(folder / "amazon-beauty"), by="last")


class Enough(Exception):
    """The quality is reached, or the time is over."""


def ours(system: str, target: float, limit: float, epochs: int) -> dict[str, Any]:
    """The seconds and the NDCG@10 after each epoch of one process of itemic, and the seconds in which it answers."""
    data = beauty()
    threads.count()
    recipe = find_recipe(system, "amazon-beauty").config
    training = recipe["training"] | {"epochs": epochs, "patience": None, "eval_every": 1}
    model = find(system)(**recipe | {"training": training})
    curve, judging, judge = [], 0.0, model.validate

    def validate(valid: Any) -> dict[str, float]:
        nonlocal judging
        now = time.perf_counter()
        metrics = judge(valid)
        curve.append((now - start - judging, metrics["ndcg@10"]))
        if curve[-1][1] >= target or curve[-1][0] > limit:
            raise Enough
        judging += time.perf_counter() - now
        return metrics

    model.validate = validate
    train, valid = data.train, data.valid
    start = time.perf_counter()
    with suppress(Enough):
        model.fit(train, valid)
    users, names = np.arange(data.n_users), data.users.ids.external(np.arange(data.n_users))
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        model.rank(train.query_of(users), 10).to_frame(names)
        seconds.append(time.perf_counter() - start)
    return {"curve": curve, "answering": min(seconds)}


def prepare(folder: Path) -> None:
    """Writes what the peers read: the train part and the validation items, and all of it for RecBole."""
    data = beauty()
    train, wanted, log = data.train.interactions.histories(), data.valid, data.interactions
    assert len(wanted) == data.n_users == len(wanted.relevant.values)  # everybody has one
    np.savez(folder / "train.npz", values=train.values, offsets=train.offsets)
    np.save(folder / "valid.npy", wanted.relevant.values)
    (folder / "beauty").mkdir()
    rows = np.column_stack([log.user, log.item, np.arange(len(log)) - log.offsets[log.user]])
    header = "user_id:token\titem_id:token\ttimestamp:float"
    np.savetxt(folder / "beauty" / "beauty.inter", rows, fmt="%d", delimiter="\t", header=header, comments="")
    print(f"Amazon Beauty: {data.n_users:,} users, {data.n_items:,} items; load {os.getloadavg()[0]:.1f}", flush=True)


class Race(NamedTuple):
    """One system, to one quality, among all that train it."""

    system: str
    target: float
    limit: float
    folder: Path
    pythons: dict[str, Path]

    def trained(self, who: Contender, n: int, rounds: int = ROUNDS) -> dict[str, Any]:
        limits = [self.target, 60 * self.limit, rounds]
        if who.library == "itemic":
            return run([sys.executable, __file__, "--ours", self.system, *limits], n)
        script = HERE / "peers" / f"{who.library.lower()}_sequences.py"
        which = [self.system] if who.library == "RecTools" else []
        return run([self.pythons[who.library], script, self.folder, n, *which, json.dumps(who.options), *limits], n)


def compare(race: Race, contenders: list[Contender], counts: list[int]) -> None:
    print(f"{race.system}, to validation NDCG@10 {race.target:.3f}")
    reached: dict[str, tuple[bool, float]] = {}
    answering: dict[str, float] = {}
    for who in contenders:
        tried = {n: race.trained(who, n, rounds=1) for n in counts} if len(counts) > 1 else {}
        n = min(tried, key=lambda count: tried[count]["curve"][0][0]) if tried else counts[0]
        found = race.trained(who, n)
        (seconds, value), rounds = found["curve"][-1], len(found["curve"])
        short, best = value < race.target, max(value for _, value in found["curve"])
        reached[who.library] = min(reached.get(who.library, (True, math.inf)), (short, seconds))
        if "answering" in found:
            times = [result["answering"] for result in (*tried.values(), found)]
            answering[who.library] = min(answering.get(who.library, math.inf), *times)
        trial = ", ".join(f"{tried[count]['curve'][0][0]:.1f} on {count}" for count in tried)
        trial = f" (the first: {trial})" if trial else ""
        print(f"{who.name:<24} {'more than ' * short}{seconds:.1f} s on {n}", end=", ")
        print(f"{rounds} rounds of {seconds / rounds:.2f} s{trial}; NDCG@10 {best:.4f}", end="; ")
        print(f"answers in {found['answering']:.2f} s" if "answering" in found else "answering not timed", flush=True)
    mine = reached.pop("itemic")[1]
    for library, (short, seconds) in reached.items():
        print(f"itemic takes {'less than ' * short}{mine / seconds:.2f} of the time of {library}")
    mine = answering.pop("itemic")
    for library, seconds in answering.items():
        print(f"answering everybody: {library} {seconds:.2f} s, {seconds / mine:.1f} times itemic's {mine:.2f} s")


if __name__ == "__main__":
    main()
