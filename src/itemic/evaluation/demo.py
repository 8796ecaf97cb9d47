"""The demonstration: a dataset, four systems, one table, one report, one user."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np

from itemic import registry, threads
from itemic.data import Dataset
from itemic.evaluation.compare import compare
from itemic.systems.base import Recommender

SYSTEMS = ("popularity", "itemknn", "ease", "ials")
METRICS = ("ndcg@10", "recall@20")
FEW_ITEMS = 20_000
"""Above it EASE takes minutes and gigabytes, so the demonstration leaves it out and says so."""


@dataclass
class Demo:
    """What the demonstration shows: lines for people, a document for --json."""

    lines: list[str]
    document: dict[str, Any]


def run_demo(data: Dataset | None, out: Path, say: Callable[[str], None]) -> Demo:
    """Fits the baselines on the data (the simulated shop when none is given), compares them, ranks for one user.

    Writes the dataset, the fitted models and `report.html` into the folder `out`; `say` gets notes while it runs.
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
    for name in SYSTEMS:
        if name == "ease" and data.n_items > FEW_ITEMS:
            say(f"ease left out: {data.n_items:,} items take minutes; fit it with: itemic fit ease ...")
            continue
        model: Recommender = registry.find(name)().fit(data.train)
        model.save(out / name)
        fitted[name] = model
        say(f"{name} fitted in {model.fitted_on['seconds']:.2f} s, saved in {out / name}")
    found = compare(fitted, data, METRICS)
    found.to_html(out / "report.html")
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
        "  itemic data import events.csv --out my-data      (your own: a user,item file is enough)",
    ]
    return Demo(lines, {"report": str(out / "report.html"), **found.to_dict()})


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
