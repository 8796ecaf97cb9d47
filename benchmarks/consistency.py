"""What ILM says of items whose text was withheld, beside what is true: how near the two are to a sentence encoder.

    python benchmarks/consistency.py ml-1m --lm FOLDER [--set training.epochs=1 ...]

A fifth of the items lose their texts before ILM is fitted, so that only who took them tells what they are. The language
model may have read all titles, but not whose vector is whose. Each model then describes these items, names similar ones
and says why somebody would like them (ELM's family of tasks, made from templates of any catalogue). The truth comes
from the whole catalogue. Semantic consistency is the cosine of the two texts' vectors by MiniLM, on average; beside it
that of the truth of another item, which is what knowing nothing of the item comes to. Steps of the readers are those
that did best for lists of films (recipes/ilm/ml-1m.yaml). Items stand in prompts as vectors, or by their titles alone.
"""

import argparse
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from itemic import threads
from itemic.data import Dataset, Ragged
from itemic.data.splits import split
from itemic.encoders.fields import written
from itemic.registry import find
from itemic.systems.language.asking import told_apart
from itemic.systems.language.facts import Facts

pc: Any = pyarrow.compute  # its functions are made at import, out of a type checker's sight
ROWS: dict[str, dict[str, Any]] = {
    "ilm": {"write": "soft", "reader_lr": 2e-4},
    "ilm without phase 1": {"write": "soft", "reader_lr": 2e-4, "aligned": []},
    "mlp": {"write": "soft", "reader_lr": 5e-4, "reader": "mlp"},
    "text alone": {"reader": "none", "write": "text"},
}
TASKS = ("describe", "similar", "why")


def main() -> None:
    from itemic.cli.models import open_data, settings_of

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--lm", required=True, help="The folder of a language model.")
    parser.add_argument("--rows", nargs="*", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--set", action="append", default=[], metavar="OPTION=VALUE")
    given = parser.parse_args()
    train = split(open_data(given.data)).train
    popular = np.flatnonzero(train.interactions.item_counts() >= 5)
    silent = np.sort(np.random.default_rng(0).choice(popular, len(popular) // 5, replace=False))
    told, judge = without_texts(train, silent), find("text")(fields=["title"]).fit(train)
    print(f"{len(silent):,} of {train.n_items:,} items without their texts; {threads.count()} threads", flush=True)
    before, true, unit = histories(train, silent), {}, {}
    for name in given.rows:
        start, chosen = time.perf_counter(), {"lm": {"model": given.lm}, "tasks": list(TASKS), "lm_trainable": "lora"}
        model = find("ilm")(**{**chosen, **settings_of(given.set), **ROWS[name]}).fit(told)
        if not true:
            true = truths(train, model, silent, before)
            unit = {task: judge.encode_texts(texts) for task, texts in true.items()}
            shown("another item's truth", {task: (x * np.roll(x, 1, 0)).sum(1) for task, x in unit.items()}, start)
        said = {
            "describe": model.tell("describe", silent),
            "similar": model.tell("similar", silent),
            "why": model.tell("why", silent, before),
        }
        shown(name, {task: (unit[task] * judge.encode_texts(said[task])).sum(1) for task in TASKS}, start)
        for task in TASKS:
            print(f"    {task}: {said[task][0]!r} for {true[task][0]!r}", flush=True)


def without_texts(data: Dataset, items: np.ndarray) -> Dataset:
    """The same data, with no text of these items."""
    frame, blank = data.items.frame, np.zeros(data.n_items, bool)
    blank[items] = True
    for name in frame.column_names:
        kind = frame.schema.field(name).type
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            values = pc.if_else(pa.array(blank), pa.scalar(None, kind), frame.column(name))
            frame = frame.set_column(frame.schema.get_field_index(name), name, values)
    return replace(data, items=replace(data.items, source=frame))


def histories(data: Dataset, items: np.ndarray) -> Ragged:
    """For each item what somebody took who took it, without it: the newest twenty."""
    log, rng = data.interactions, np.random.default_rng(1)
    order = rng.permutation(len(log))
    who = np.zeros(data.n_items, np.int64)
    who[log.item[order]] = log.user[order]
    rows = log.histories().take(who[items])
    return rows.keep(rows.values != np.repeat(items, rows.lengths)).last(20)


def truths(data: Dataset, model: Any, items: np.ndarray, before: Ragged) -> dict[str, list[str]]:
    """What is true of each item, by the whole catalogue, in the words in which the others were taught."""
    vectors = model.behaviour.item_vectors()
    facts = Facts.of(data.items, told_apart(data.items), np.nan_to_num(vectors))
    described = written(data.items.take(items), model.shape["fields"], "{text}").to_pylist()
    return {"describe": described, "similar": facts.similar(items), "why": facts.why(items, before)}


def shown(name: str, cosines: dict[str, np.ndarray], start: float) -> None:
    cells = "   ".join(f"{task} {x.mean():.3f} ± {1.96 * x.std() / len(x) ** 0.5:.3f}" for task, x in cosines.items())
    mean = np.mean([x.mean() for x in cosines.values()])
    print(f"{name:<22} {cells}   all {mean:.3f}   ({(time.perf_counter() - start) / 60:.1f} min)", flush=True)


if __name__ == "__main__":
    main()
