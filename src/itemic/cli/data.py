"""Commands on data: import, get, describe, split, filter, together, shop."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from itemic.cli.shell import InOrder, Output, command, note, table
from itemic.errors import DataError

if TYPE_CHECKING:
    from itemic.data import Dataset
    from itemic.data.building import Unknown


@click.group(cls=InOrder, context_settings={"help_option_names": ["-h", "--help"]})
def data() -> None:
    """Import, fetch, describe, split and filter data sets."""


IMPORT_EXAMPLES = [
    "itemic data import events.csv --out my-data",
    "itemic data import events.csv.gz --items items.csv --test test.csv --out my-data",
    "itemic data import plays.tsv --columns user,item,weight --out plays      (no header line)",
    "itemic data import log.parquet --columns user=customer,item=sku --min-rating 4 --k-core 5 --out log",
]


@command("import", IMPORT_EXAMPLES, progress=True)
@click.argument("file", type=click.Path())
@click.option("--items", metavar="FILE", help="A table with an id column and anything else about the items.")
@click.option("--users", metavar="FILE", help="The same about the users.")
@click.option("--test", metavar="FILE", help="Interactions to be held out: your own test set.")
@click.option("--valid", metavar="FILE", help="Interactions to choose options by: your own validation set.")
@click.option(
    "--columns", metavar="NAMES", help="user=customer,item=sku to name columns; user,item,weight without header."
)
@click.option(
    "--form", default="auto", show_default=True, help="csv, movielens, recbole, lightgcn, sequences, dialogues, ..."
)
@click.option("--repeats", is_flag=True, help="Taking an item again counts; seen items are then not masked.")
@click.option(
    "--unknown",
    type=click.Choice(["refuse", "drop", "add"]),
    default="refuse",
    show_default=True,
    help="What becomes of interactions whose item or user is not in the table given.",
)
@click.option("--min-rating", type=float, metavar="X", help="Keep interactions with a rating of X or more.")
@click.option(
    "--k-core",
    type=click.IntRange(1),
    metavar="N",
    help="Keep users and items with N interactions or more, repeatedly.",
)
@click.option("--name", help="What to call it. Default: the name of the output folder.")
@click.option("--out", type=click.Path(), required=True, metavar="FOLDER", help="Where to write the dataset.")
def import_(
    file: str,
    items: str | None,
    users: str | None,
    test: str | None,
    valid: str | None,
    columns: str | None,
    form: str,
    repeats: bool,
    unknown: "Unknown",
    min_rating: float | None,
    k_core: int | None,
    name: str | None,
    out: str,
) -> Output:
    """Turn FILE (or a folder in a known layout) into a dataset folder with a default split."""
    from itemic.data import filters
    from itemic.data.importing import import_files
    from itemic.files import check_place

    check_place(Path(out))
    made = import_files(
        Path(file),
        items=items,
        users=users,
        test=test,
        valid=valid,
        columns=_columns(columns),
        form=form,
        name=name or Path(out).name,
        repeats=repeats,
        unknown=unknown,
    )
    if min_rating is not None:
        made = filters.min_rating(made, min_rating)
    if k_core is not None:
        made = filters.k_core(made, k_core, k_core)
    return _saved(made, out)


def _columns(text: str | None) -> "Mapping[str, str] | list[str] | None":
    """`user=customer,item=sku` as a mapping, `user,item,weight` as the names of a table without a header."""
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",") if part.strip()]
    pairs = [part.partition("=") for part in parts]
    if any(equals for _, equals, _ in pairs):
        return {ours: theirs for ours, _, theirs in pairs}
    return parts


def _saved(made: "Dataset", out: str | Path, by: str = "auto") -> Output:
    """Saves the dataset, with a split `by` something where it has none, and says what it holds and what to do next."""
    from itemic.data.splits import split

    if made.split is None:
        try:
            made = split(made, by)
        except DataError as error:
            note(f"saved without a split: {error}")
    saved = made.save(out)
    document = {"saved": str(out), **_facts(saved)}
    how = f"; split: {saved.split.label}" if saved.split else ""
    counts = f"{saved.n_users:,} users, {saved.n_items:,} items, {len(saved.interactions):,} interactions"
    if "dialogues" in saved.extras:
        counts += f", {len(saved.dialogues):,} dialogues of {len(saved.dialogues.turns):,} turns"
    return Output(document, [f"saved {out}: {counts}{how}", f"next: itemic fit ease {out} --out runs/e"])


def _facts(made: "Dataset") -> dict[str, Any]:
    return {
        "name": made.name,
        "users": made.n_users,
        "items": made.n_items,
        "interactions": len(made.interactions),
        **({"dialogues": len(made.dialogues)} if "dialogues" in made.extras else {}),
        "split": dict(made.split.how) if made.split else None,
    }


@command("get", ["itemic data get --list", "itemic data get ml-1m --out ml-1m"], progress=True)
@click.argument("name", required=False)
@click.option("--list", "listing", is_flag=True, help="List the public sets with size and licence.")
@click.option("--out", type=click.Path(), metavar="FOLDER", help="Where to write the dataset. Default: NAME.")
def get(name: str | None, listing: bool, out: str | None) -> Output:
    """Fetch a public data set and import it; $ITEMIC_DATA/NAME is read instead where it exists."""
    from itemic.data.public import public_sets

    if listing or name is None:
        sets = public_sets()
        rows = [[s.name, f"{s.size / 1e6:,.1f} MB", s.terms] for s in sets]
        document = [{"name": s.name, "bytes": s.size, "licence": s.terms} for s in sets]
        return Output(document, table(rows, ["name", "size", "terms"], left=1))
    from itemic.data.importing import import_files
    from itemic.data.public import get as raw_files
    from itemic.data.public import local, public_set
    from itemic.data.readers.known import known_set

    if local(name) is not None:
        note(f"reading {local(name)}")
        made = known_set(name)
    else:
        found = public_set(name)
        note(f"{found.title}. {found.terms}")
        raw = raw_files(name, _download_folder() / name)
        made = import_files(raw, columns=found.columns or None, form=found.reader, name=name)
    return _saved(made, out or name)


def _download_folder() -> Path:
    """Where raw files are kept, so that a download is resumed and never made twice."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "itemic"


@command(
    "describe", ["itemic data describe my-data", "itemic data describe my-data --html my-data.html"], progress=True
)
@click.argument("folder", type=click.Path())
@click.option("--html", type=click.Path(), metavar="FILE", help="Also write a page with plots.")
def describe(folder: str, html: str | None) -> Output:
    """Say what is in a dataset: counts, density, popularity, lengths, times, what is missing."""
    from itemic.cli.models import open_data
    from itemic.data.describe import describe as described

    found = described(open_data(folder))
    if html is not None:
        found.to_html(Path(html))
        note(f"wrote {html}")
    return Output(found.to_dict(), found.to_text().splitlines())


SPLIT_EXAMPLES = [
    "itemic data split my-data --by time --test 0.1 --valid 0.1",
    "itemic data split my-data --by last           (each user's last item; as papers on sequences do)",
    "itemic data split my-data --by items --seed 1 (cold items: held out whole)",
]


@command("split", SPLIT_EXAMPLES)
@click.argument("folder", type=click.Path())
@click.option(
    "--by",
    default="auto",
    show_default=True,
    help="time, last, random, users, sessions, items, cold, dialogues, official or auto.",
)
@click.option("--test", default=0.1, show_default=True, help="Share to test on.")
@click.option("--valid", default=0.1, show_default=True, help="Share to choose options by.")
@click.option("--seed", default=0, show_default=True, help="For the splits that draw.")
def split(folder: str, by: str, test: float, valid: float, seed: int) -> Output:
    """Choose which interactions are for fitting, choosing and testing; saved with the dataset."""
    from itemic.data import Dataset
    from itemic.data import splits as maker

    made = maker.split(Dataset.open(folder), by=by, test=test, valid=valid, seed=seed)
    maker.check_leak(made)
    made.save_split()
    assert made.split is not None
    parts = {name: int((made.split.part == code).sum()) for name, code in (("train", 0), ("valid", 1), ("test", 2))}
    counts = ", ".join(f"{name} {n:,}" for name, n in parts.items())
    return Output({"folder": folder, "how": dict(made.split.how), **parts}, [f"{folder}: {made.split.label}: {counts}"])


FILTER_EXAMPLES = [
    "itemic data filter my-data --k-core 5 --out my-data-5",
    "itemic data filter my-data --min-rating 4 --since 2024-01-01 --out liked",
    "itemic data filter my-data --sessions 30m --out visits",
]


@command("filter", FILTER_EXAMPLES)
@click.argument("folder", type=click.Path())
@click.option(
    "--sessions",
    metavar="PAUSE",
    help="Make each session a user of its own, split by sessions: cut where a pause is longer (90s, 30m, 2h, 1d), or "
    "'column' for those of the session column.",
)
@click.option("--min-rating", type=float, metavar="X", help="Keep interactions with a rating of X or more.")
@click.option("--deduplicate", type=click.Choice(["first", "last", "max"]), help="Keep one of several rows of a pair.")
@click.option("--since", metavar="DATE", help="Keep interactions from this moment on.")
@click.option("--until", metavar="DATE", help="Keep interactions before this moment.")
@click.option(
    "--k-core",
    type=click.IntRange(1),
    metavar="N",
    help="Keep users and items with N interactions or more, repeatedly.",
)
@click.option("--out", type=click.Path(), required=True, metavar="FOLDER", help="Where to write the filtered dataset.")
def filter_(
    folder: str,
    sessions: str | None,
    min_rating: float | None,
    deduplicate: str | None,
    since: str | None,
    until: str | None,
    k_core: int | None,
    out: str,
) -> Output:
    """Keep part of a dataset as a new one, with a fresh default split."""
    from itemic.data import Dataset, filters

    made = Dataset.open(folder)
    if "dialogues" in made.extras:
        note("without the dialogues, which tell of what is filtered out")
    if sessions is not None:
        made = filters.sessions(made, None if sessions == "column" else sessions)
    if since is not None or until is not None:
        made = filters.between(made, since, until)
    if min_rating is not None:
        made = filters.min_rating(made, min_rating)
    if deduplicate is not None:
        made = filters.deduplicate(made, deduplicate)
    if k_core is not None:
        made = filters.k_core(made, k_core, k_core)
    return _saved(replace(made, name=Path(out).name, split=None), out, "auto" if sessions is None else "sessions")


@command("together", ["itemic data together beauty sports yelp --out shops"], progress=True)
@click.argument("folders", nargs=-1, required=True)
@click.option("--out", type=click.Path(), required=True, metavar="FOLDER", help="Where to write the dataset.")
def together(folders: tuple[str, ...], out: str) -> Output:
    """Make one dataset of several FOLDERS, for models that learn from many catalogues at once.

    Ids begin with the name of their folder, which stands in the column source too.
    """
    from itemic.cli.models import open_data
    from itemic.data import Dataset

    named = [replace(open_data(folder), name=Path(folder).name) for folder in folders]
    return _saved(Dataset.together(named, Path(out).name), out)


@command(
    "shop",
    ["itemic data shop --out shop", "itemic data shop --interactions 1000000 --users 20000 --out big"],
    progress=True,
)
@click.option("--users", default=3000, show_default=True)
@click.option("--items", default=2000, show_default=True)
@click.option("--interactions", default=120_000, show_default=True)
@click.option("--seed", default=0, type=click.IntRange(0), show_default=True)
@click.option("--out", type=click.Path(), required=True, metavar="FOLDER", help="Where to write the dataset.")
def shop(users: int, items: int, interactions: int, seed: int, out: str) -> Output:
    """Simulate a shop with planted tastes, drift, sessions, baskets and cold items."""
    from itemic.data.simulated import shop as simulate

    return _saved(simulate(users, items, interactions, seed), out)


for one in (import_, get, describe, split, filter_, together, shop):
    data.add_command(one)
