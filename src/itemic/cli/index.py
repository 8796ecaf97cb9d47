"""The command that makes a graph over the items of a model: index."""

from typing import Literal

import click

from itemic.cli.shell import Output, command, table


@command("index", ["itemic index runs/b", "itemic index runs/b --recall 0.99 --links 32"], progress=True)
@click.argument("model")
@click.option(
    "--recall", type=click.FloatRange(0, 1), default=0.95, show_default=True,
    help="The share of the 10 best items that has to be found.",
)  # fmt: skip
@click.option(
    "--links", type=click.IntRange(2, 512), default=16, show_default=True, metavar="N",
    help="Neighbours of an item in the graph; more find more, and take more memory and time.",
)  # fmt: skip
@click.option(
    "--by", type=click.Choice(["product", "direction"]),
    help="What is linked: the best products, or the same direction. Default: both are tried where that may pay.",
)  # fmt: skip
def index(model: str, recall: float, links: int, by: Literal["product", "direction"] | None) -> Output:
    """Make a graph over the items of MODEL, for a service of hundreds of thousands of items and more.

    It is kept in the folder of the model. `itemic serve` then walks along it in place of comparing all items.
    """
    from itemic import threads
    from itemic.errors import ConfigError
    from itemic.model import load
    from itemic.systems.base import VectorRecommender

    loaded = load(model)
    if not isinstance(loaded, VectorRecommender):
        raise ConfigError(f"{model} holds {loaded.entry.name}, which compares no vectors. Index one that does, as bpr.")
    made = loaded.index(recall=recall, links=links, by=by)
    loaded.save(model, histories=loaded.histories is not None)
    rows = [["exact", "1.0000", f"{made.exact_ms:.2f}"], ["graph", f"{made.recall:.4f}", f"{made.ms:.2f}"]]
    facts = {**made._asdict(), "threads": threads.count(), "saved": model}
    shown = table(rows, ["search", "recall@10", "ms"])
    return Output(
        facts, [*shown, f"made in {made.seconds:.1f} s, {threads.count()} threads; links by {made.by}; saved {model}"]
    )
