"""The command that gives items codes: tokenize."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from itemic.cli.shell import Output, command, table

EXAMPLES = [
    "itemic tokenize my-data --with rqkmeans --levels 4 --size 256 --out runs/codes",
    "itemic tokenize my-data --with rqvae --set training.epochs=500 --out runs/codes",
    "itemic tokenize my-data --with pq --set collisions=nearest --category brand",
    "itemic tokenize newer-data --with runs/codes --out runs/codes-2     (its new items; no code changes)",
]


@command("tokenize", EXAMPLES, progress=True)
@click.argument("data")
@click.option(
    "--with", "tokenizer", default="rqkmeans", show_default=True, metavar="NAME|FOLDER",
    help="A tokenizer, or the folder of a fitted one, which takes the items that it does not know.",
)  # fmt: skip
@click.option("--levels", type=click.IntRange(1), metavar="N", help="Codes of an item.")
@click.option("--size", type=click.IntRange(2), metavar="N", help="Codes to choose from at each level.")
@click.option("--set", "settings", multiple=True, metavar="OPTION=VALUE", help="Another option of it; may be repeated.")
@click.option("--category", metavar="COLUMN", help="Judge prefixes by it. Default: the category, or attributes.")
@click.option(
    "--out", type=click.Path(), default="runs/codes", show_default=True, metavar="FOLDER", help="Where to save."
)
@click.option("--resume", is_flag=True, help="Go on from the newest checkpoint of a run that was cut off.")
def tokenize(
    data: str,
    tokenizer: str,
    levels: int | None,
    size: int | None,
    settings: Sequence[str],
    category: str | None,
    out: str,
    resume: bool,
) -> Output:
    """Give the items of DATA codes, and say what these are worth.

    FOLDER then holds the tokenizer, codes.parquet (ids and codes), diagnostics.json and diagnostics.html.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from itemic import registry
    from itemic.cli.models import end_run, open_data, settings_of
    from itemic.errors import ConfigError, did_you_mean
    from itemic.files import check_place, write_text
    from itemic.model import Tokenizer, is_model
    from itemic.tokenizers.diagnostics import diagnose
    from itemic.tokenizers.page import report

    options: dict[str, Any] = {"levels": levels, "size": size}
    options = {name: value for name, value in options.items() if value is not None} | settings_of(settings)
    whole, folder, run = open_data(data), Path(out), Path(f"{out}.run")
    check_place(folder)
    model: Any
    if is_model(tokenizer):
        if options:
            raise ConfigError(
                f"{tokenizer} is fitted: {', '.join(options)} cannot be set. Leave them out, or fit anew."
            )
        model = Tokenizer.load(tokenizer)
        ids = whole.items.ids
        new = np.flatnonzero(model.catalogue.items.ids.codes(ids.array) < 0)
        if len(new):
            model.add_items(whole.items.take(new))
        known = ids.known(model.catalogue.items.ids.array, f"Give data that hold all items of {tokenizer}.")
        items = whole.items.take(known)
    else:
        there = registry.entries("tokenizer")
        tokenizer = tokenizer if tokenizer in there else tokenizer.replace("-", "")
        if tokenizer not in there:
            hint = did_you_mean(tokenizer, there)
            raise ConfigError(f"there is no tokenizer '{tokenizer}'.{hint} Tokenizers: {', '.join(there)}.")
        model, items = registry.find(tokenizer)(**options), whole.items
        model.fit(whole.train, folder=run, resume=resume)
    found = diagnose(model, items, category)
    model.save(folder, histories=False)
    codes = pa.FixedSizeListArray.from_arrays(pa.array(model.codes.ravel()), model.codes.shape[1])
    partial = folder / ".codes.parquet.partial"
    pq.write_table(pa.table({"id": model.catalogue.items.ids.array, "codes": codes}), partial)
    partial.replace(folder / "codes.parquet")
    if run.is_dir():
        end_run(run)
    found.to_json(folder / "diagnostics.json")
    write_text(folder / "diagnostics.html", report(found, model, items))
    document = {"saved": str(folder), "config": model.config.model_dump(mode="json"), **found.to_dict()}
    shown = table(found.cells(), found.columns())
    return Output(document, [*shown, *found.notes(), f"saved {folder}, with codes.parquet and diagnostics.html"])
