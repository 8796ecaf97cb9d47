"""The demonstration: a dataset, seven systems, one table, one report, one user."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np

from itemic import registry, threads
from itemic.data import VALID, Dataset
from itemic.evaluation.compare import compare
from itemic.files import write_text
from itemic.systems.base import Recommender

SYSTEMS: dict[str, dict[str, Any]] = {
    "popularity": {},
    "itemknn": {},
    "ease": {},
    "ials": {},
    "bpr": {"n_negatives": 8, "l2": 0.03, "training": {"lr": 0.01, "epochs": 15, "eval_every": 3, "patience": 1}},
    "lightgcn": {"training": {"lr": 0.01, "batch_size": 4096, "epochs": 40, "eval_every": 4, "patience": 1}},
    "directau": {
        "gamma": 0.3,
        "training": {
            "lr": 0.005,
            "weight_decay": 1e-3,
            "batch_size": 2048,
            "epochs": 5,
            "eval_every": 1,
            "patience": 1,
        },
    },
}
"""The options with which each is fitted. Those of trained systems make for short schedules; they were chosen on the
shop's validation part, which also stops them."""
METRICS = ("ndcg@10", "recall@20")
FEW_ITEMS, FEW_INTERACTIONS = 20_000, 500_000
"""Above the one EASE takes minutes and gigabytes, above the other trained systems take many minutes; the demonstration
leaves them out and says so."""


@dataclass
class Demo:
    """What the demonstration shows: lines for people, a document for --json."""

    lines: list[str]
    document: dict[str, Any]


def run_demo(data: Dataset | None, out: Path, say: Callable[[str], None]) -> Demo:
    """Fits the systems on the data (the simulated shop when none is given), compares them, ranks for one user.

    Writes the dataset, the fitted models, `report.html` and `comparison.json` (for the page of the service) into the
    folder `out`; `say` gets notes while it runs.
    """
    from itemic.data.splits import split

    if data is None:
        data = _shop(out / "shop", say)
    if data.split is None:
        data = split(data)
    if data.path is None:
        data = data.save(out / "data")
    log = data.interactions
    say(f"{data.name}: {data.n_users:,} users, {data.n_items:,} items, {len(log):,} interactions; {threads.describe()}")
    fitted: dict[str, Recommender] = {}
    valid = data.valid if data.split is not None and (data.split.part == VALID).any() else None
    for name, options in SYSTEMS.items():
        too_large = _too_large(name, data)
        if too_large:
            say(f"{name} left out: {too_large} take minutes; fit it with: itemic fit {name} {quote(str(data.path))}")
            continue
        model: Recommender = registry.find(name)(**options)
        model.fit(data.train, valid if "training" in options else None)
        model.save(out / name)
        fitted[name] = model
        say(f"{name} fitted in {model.fitted_on['seconds']:.2f} s, saved in {out / name}")
    found = compare(fitted, data, METRICS)
    found.to_html(out / "report.html")
    measured = found.to_dict()
    write_text(out / "comparison.json", json.dumps(measured, indent=1) + "\n")
    best = max(fitted, key=lambda name: found[name]["ndcg@10"])
    user, beside = _one_user(fitted[best], data)
    lines = [
        *found.to_text(),
        "",
        *beside,
        "",
        "next:",
        f"  open {out / 'report.html'}",
        f"  itemic rank {out / best} --user {quote(str(user))} --k {min(10, data.n_items)}",
        f"  itemic similar {out / best} --item {quote(str(_popular_item(data)))}",
        f"  itemic fit ials {data.path} --set dim=64 --out {out / 'ials64'}",
        f"  itemic compare {out / 'ials64'} {data.path}",
        f"  itemic tune ease {data.path} --trials 20 --out {out / 'tune-ease'}",
        "  itemic data import events.csv --out my-data      (your own: a user,item file is enough)",
    ]
    return Demo(lines, {"report": str(out / "report.html"), **measured})


def _too_large(name: str, data: Dataset) -> str:
    """What there is too much of for a demonstration of this system, or nothing."""
    if name == "ease" and data.n_items > FEW_ITEMS:
        return f"{data.n_items:,} items"
    if "training" in SYSTEMS[name] and len(data.interactions) > FEW_INTERACTIONS:
        return f"{len(data.interactions):,} interactions"
    return ""


def _shop(folder: Path, say: Callable[[str], None]) -> Dataset:
    from itemic.data.simulated import shop
    from itemic.data.splits import split

    say("simulating a shop ...")
    return split(shop()).save(folder)


def _one_user(model: Recommender, data: Dataset) -> tuple[Any, list[str]]:
    """The id of somebody with a middling history, and what they had beside what the model recommends."""
    histories = data.train.interactions.histories()
    long_enough = np.flatnonzero((histories.lengths >= 10) & (histories.lengths <= 40))
    code = int(long_enough[0]) if len(long_enough) else int(np.argmax(histories.lengths))
    user = data.users.ids.external([code])[0]
    ranking = model.rank(model.ask(users=[user]), min(10, data.n_items))
    had, given = histories[code][-10:][::-1], ranking.items[0][ranking.items[0] >= 0]
    left, right = _shown(data, had), _shown(data, given)
    heading = f"user {user} had (latest first)"
    width = max(len(text) for text in [*left, heading])
    lines = [heading.ljust(width + 2) + f"{model.entry.name} recommends"]
    for row in range(max(len(left), len(right))):
        had_one = left[row] if row < len(left) else ""
        lines.append(had_one.ljust(width + 2) + (f"{row + 1:2d}. {right[row]}" if row < len(right) else ""))
    return user, lines


def _shown(data: Dataset, codes: np.ndarray) -> list[str]:
    ids, titles = data.items.ids.external(codes), data.items.titles(codes)
    return [" ".join(str(title).split())[:48] if title else f"item {id_}" for id_, title in zip(ids, titles)]


def _popular_item(data: Dataset) -> Any:
    return data.items.ids.external([int(np.argmax(data.train.interactions.item_counts()))])[0]
