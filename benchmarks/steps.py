"""Where the time of a training step goes: SASRec and BERT4Rec with their recipes on Amazon Beauty, by torch's profiler.

    python benchmarks/steps.py                                       # needs $ITEMIC_DATA/amazon-beauty

A step back counts for the part whose step forward it undoes. The profiler itself takes time, most where steps are
short, so trust the shares and not their sum.
"""

import argparse
import functools
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function

from itemic import threads
from itemic.evaluation.recipes import find_recipe
from itemic.nn.attention import Attention
from itemic.nn.dropout import Dropout
from itemic.nn.packing import Packing
from itemic.nn.positions import Positions
from itemic.nn.transformer import Feed
from itemic.registry import find
from itemic.systems.sequential import bert4rec, sasrec
from itemic.training import adam
from sequences import beauty

PARTS = {
    "loss": [(sasrec, "table_cross_entropy"), (bert4rec, "table_cross_entropy")],
    "optimiser": [(adam.Adam, "step")],
    "attention": [(Attention, "_mixed")],
    "projections of attention": [(Attention, "forward")],
    "feed-forward": [(Feed, "forward")],
    "norms": [(nn.LayerNorm, "forward")],
    "dropout": [(Dropout, "forward")],
    "padding and packing": [(Packing, "split"), (Packing, "join"), (Packing, "_layout")],
    "embeddings": [(sasrec, "embedding"), (bert4rec, "embedding")]
    + [(kind, "add") for kind in Positions.__subclasses__() if "add" in vars(kind)],
}
"""What each part consists of; of nested parts the innermost counts."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--systems", nargs="*", default=["sasrec", "bert4rec"])
    given = parser.parse_args()
    for part, places in PARTS.items():
        for owner, name in places:
            mark(owner, name, part)
    data = beauty()
    for system in given.systems:
        print(f"{system}, {given.steps} steps on {threads.count()} threads")
        spent = shares(system, data.train, given.steps)
        for part, seconds in spent.most_common():
            print(f"  {part:<26} {1000 * seconds / given.steps:7.2f} ms   {seconds / spent.total():6.1%}")


def mark(owner: Any, name: str, part: str) -> None:
    """Makes the profiler see calls of a function as this part."""
    called = vars(owner)[name]
    if isinstance(called, functools.cached_property):
        marked = functools.cached_property(_marked(called.func, part))
        marked.__set_name__(owner, name)
    else:
        marked = _marked(called, part)
    setattr(owner, name, marked)


def _marked(called: Callable, part: str) -> Callable:
    @functools.wraps(called)
    def inner(*args: Any, **options: Any) -> Any:
        with record_function(f"part: {part}"):
            return called(*args, **options)

    return inner


def shares(system: str, train: Any, steps: int) -> Counter[str]:
    """Seconds by part."""
    config = find_recipe(system, "amazon-beauty").config
    model = find(system)(**config | {"training": config["training"] | {"epochs": 1}})
    batches = model.batches
    profiler = profile(activities=[ProfilerActivity.CPU])

    def measured(train: Any, rng: torch.Generator) -> Iterator[Any]:
        source = batches(train, rng)
        model.loss(next(source))  # what is compiled at the first step is not measured
        with profiler:
            for _ in range(steps):
                with record_function("part: batching"):
                    batch = next(source)
                yield batch

    model.batches = measured
    model.fit(train)
    return sums(profiler.events())


def sums(events: Any) -> Counter[str]:
    """Seconds by part, each operation without those inside it: forward by the part around, back by its forward's."""
    part_of_forward: dict[int, str] = {}
    spent: Counter[str] = Counter()
    for event in events:
        if event.sequence_nr >= 0 and not event.name.startswith("autograd::") and event.fwd_thread in (None, 0):
            part_of_forward[event.sequence_nr] = part_around(event)
    for event in events:
        inside = sum(child.cpu_time_total for child in event.cpu_children)
        alone = (event.cpu_time_total - inside) / 1e6
        spent[part_of_backward(event, part_of_forward) or part_around(event)] += alone
    return spent


def part_around(event: Any) -> str:
    """The innermost part in which an operation ran."""
    while event is not None:
        if event.name.startswith("part: "):
            return event.name.removeprefix("part: ")
        event = event.cpu_parent
    return "the rest"


def part_of_backward(event: Any, part_of_forward: dict[int, str]) -> str | None:
    """The part whose step forward an operation undoes; None for one that is no step back."""
    while event is not None:
        if event.name.startswith("autograd::engine::evaluate_function"):
            return part_of_forward.get(event.sequence_nr, "the rest")
        event = event.cpu_parent
    return None


if __name__ == "__main__":
    main()
