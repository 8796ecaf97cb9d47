"""The command that keeps served models fresh."""

from collections.abc import Sequence

import click

from itemic.cli.serve import CONFIG, STORE, read
from itemic.cli.shell import Output, command, note, table
from itemic.errors import ConfigError

EXAMPLES = [
    "itemic refresh runs/a --data my-data --store events.db",
    "itemic refresh --config serve.yaml      (all models that it names)",
    "itemic refresh --rollback runs/a",
]


@command("refresh", EXAMPLES, progress=True)
@click.argument("models", nargs=-1, type=click.Path())
@click.option("--data", type=click.Path(), metavar="FOLDER", help="The dataset that they were fitted on.")
@CONFIG
@STORE
@click.option("--tolerance", type=click.FloatRange(0, 1), metavar="SHARE",
              help="How much worse than the old a new model may be. Default: 0.05, of its ndcg@10.")  # fmt: skip
@click.option("--force", is_flag=True, help="Take the new models, however good they are.")
@click.option("--rollback", is_flag=True, help="Change places with the version before; twice changes nothing.")
def refresh(
    models: Sequence[str],
    data: str | None,
    file: str | None,
    store: str | None,
    tolerance: float | None,
    force: bool,
    rollback: bool,
) -> Output:
    """Fit MODELS again with what the store of their service has learned since, and put them in place.

    Name all that are served together: they know the same items. A service that runs goes over to them within seconds
    and drops no request. They are judged first: by the newest events, which the old ones have not seen either.
    """
    config = read(file, data=data, store=store)
    folders = [*config.models.values(), *models]
    if not folders:
        raise ConfigError("there is no model to refresh. Name its folder: itemic refresh runs/a --data my-data")
    if rollback:
        from itemic.serving.versions import alone, roll_back

        with alone(folders):
            roll_back(folders)
        return Output({"rolled_back": folders}, [f"rolled back {', '.join(folders)}"])
    if config.data is None:
        raise ConfigError("to refresh, the dataset is needed. Name it: --data FOLDER, or data: in the file.")
    from itemic.data import Dataset
    from itemic.serving.refreshing import refresh
    from itemic.serving.stores import open_store

    allowed = config.refresh.tolerance if tolerance is None else tolerance
    kept = open_store(config.store, make=False)
    try:
        done = refresh(folders, Dataset.open(config.data), kept, tolerance=allowed, force=force, say=note)
    finally:
        kept.close()
    figures = [[f"{value:.4f}" if value is not None else "-" for value in (one.before, one.now)] for one in done.models]
    rows = [[one.folder, *both, f"{one.seconds:.2f}"] for one, both in zip(done.models, figures)]
    end = f"refreshed: {done.n_items:,} items, {done.n_users:,} users, {done.n_interactions:,} interactions"
    back = f"back: itemic refresh --rollback {' '.join(folders)}"
    document = {**vars(done), "models": [vars(one) for one in done.models]}
    return Output(document, [*table(rows, ["model", "ndcg@10 before", "now", "fit, s"]), f"{end}      {back}"])
