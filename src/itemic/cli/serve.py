"""Commands on the service: serve, serve key add | list | remove, serve backup, report online."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from itemic.cli.shell import InOrder, Output, command, note, table
from itemic.errors import ConfigError, DataError


class OrRun(InOrder):
    """A group whose command `run` needs no name."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """The arguments, with `run` before those that begin with no command."""
        asks_for_help = any(arg in ("-h", "--help") for arg in args[:1])
        return super().parse_args(
            ctx, args if asks_for_help or (args[:1] and args[0] in self.commands) else ["run", *args]
        )


@click.group(cls=OrRun, context_settings={"help_option_names": ["-h", "--help"]})
def serve() -> None:
    """Answer over HTTP: recommendations, search, events (itemic serve RUN...)."""


EXAMPLES = [
    "itemic serve runs/e",
    "itemic serve run runs/e runs/i --data my-data --port 8000",
    "itemic serve --config serve.yaml --check",
    "itemic serve key add shop --scope write",
]
STORE = click.option(
    "--store", type=click.Path(), metavar="FILE", help="Where events, items and keys are kept. Default: itemic.db."
)
CONFIG = click.option("--config", "file", type=click.Path(), metavar="FILE", help="Options of the service, as YAML.")


@command("run", EXAMPLES)
@click.argument("models", nargs=-1, type=click.Path())
@click.option("--data", type=click.Path(), metavar="FOLDER", help="The dataset: texts and attributes of the items.")
@CONFIG
@STORE
@click.option(
    "--host", metavar="ADDRESS", help="Where to listen; others than this machine need a key. Default: 127.0.0.1."
)
@click.option("--port", type=click.IntRange(0, 65535), metavar="N", help="Default: 8321.")
@click.option("--check", is_flag=True, help="Load everything, say what would be served, and end.")
def run(
    models: Sequence[str],
    data: str | None,
    file: str | None,
    store: str | None,
    host: str | None,
    port: int | None,
    check: bool,
) -> Output:
    """Serve MODELS, folders of fitted systems, over HTTP."""
    _needs_extra()
    from itemic.serving.config import names_of
    from itemic.serving.run import check_door, serve
    from itemic.serving.service import Service
    from itemic.serving.stores import open_store

    config = read(file, data=data, store=store, host=host, port=port)
    config = config.model_copy(update={"models": {**config.models, **names_of(models)}})
    if not check:
        serve(config, note)
        return Output({"served": True}, [])
    kept = open_store(config.store)
    try:
        check_door(config, bool(kept.keys()))
        service = Service.open(config, kept)
        facts = {
            "pipelines": {name: list(one.config.sources) for name, one in service.pipelines.items()},
            "items": service.items.n_there,
            "users": len(service.histories),
            "address": f"http://{config.host}:{config.port}",
        }
        service.close()
    finally:
        kept.close()
    rows = [[name, ", ".join(sources)] for name, sources in facts["pipelines"].items()]
    end = f"ready: {facts['items']:,} items, {facts['users']:,} users, at {facts['address']}"
    return Output(facts, [*table(rows, ["model", "sources"], left=2), end])


@click.group(cls=InOrder, context_settings={"help_option_names": ["-h", "--help"]})
def key() -> None:
    """Make, list and remove the keys by which a service is entered."""


@command("add", ["itemic serve key add shop --scope write", "itemic serve key add page --store /var/lib/itemic.db"])
@click.argument("name")
@click.option("--scope", default="read", show_default=True, help="read, write (and read) or admin (all).")
@CONFIG
@STORE
def add(name: str, scope: str, file: str | None, store: str | None) -> Output:
    """Make a key called NAME; it is shown this once."""
    from itemic.serving.keys import new_key

    secret = _with_store(file, store, lambda kept: new_key(kept, name, scope), make=True)
    note(f"the key '{name}' may {scope}; keep it, it is not shown again:")
    return Output({"name": name, "scope": scope, "key": secret}, [secret])


@command("list", ["itemic serve key list"])
@CONFIG
@STORE
def list_(file: str | None, store: str | None) -> Output:
    """List the keys by name."""
    keys = _with_store(file, store, lambda kept: kept.keys())
    document = [{"name": one.name, "scope": one.scope} for one in keys]
    return Output(document, table([[one.name, one.scope] for one in keys], ["key", "scope"], left=2))


@command("remove", ["itemic serve key remove shop"])
@click.argument("name")
@CONFIG
@STORE
def remove(name: str, file: str | None, store: str | None) -> Output:
    """Remove the key called NAME; a running service turns it away within a second."""
    _with_store(file, store, lambda kept: kept.remove_key(name))
    return Output({"removed": name}, [f"removed {name}"])


@command("backup", ["itemic serve backup events-monday.db", "itemic serve backup copy.db --store /var/lib/itemic.db"])
@click.argument("out", type=click.Path())
@CONFIG
@STORE
def backup(out: str, file: str | None, store: str | None) -> Output:
    """Copy the store, as it is now, into the file OUT; the service may go on."""
    from itemic.serving.stores.sqlite import SQLite

    def copy(kept: Any) -> None:
        if not isinstance(kept.database, SQLite):
            raise ConfigError(f"{kept.database} is copied by its own tools: pg_dump.")
        kept.database.backup(Path(out))

    _with_store(file, store, copy)
    return Output({"written": out}, [f"wrote {out}"])


@click.group(cls=InOrder, context_settings={"help_option_names": ["-h", "--help"]})
def report() -> None:
    """Say how served models do."""


@command("online", ["itemic report online", "itemic report online --store /var/lib/itemic.db"])
@CONFIG
@STORE
def online(file: str | None, store: str | None) -> Output:
    """Compare the models of a service by the lists that they showed and the events that came of them."""
    from itemic.serving.online import click_rates

    place = read(file, store=store).store
    rates = _with_store(file, store, lambda kept: click_rates(kept.impressions(), kept.events()))
    if not rates:
        raise DataError(f"{place} has no list that was shown. Serve first: itemic serve RUN --store {place}")
    bounds = [one.interval for one in rates]
    document = [{**one._asdict(), "rate": one.rate, "interval": bound} for one, bound in zip(rates, bounds)]
    rows = [
        [one.model, f"{one.lists:,}", f"{one.clicked:,}", f"{one.rate:.4f}", f"{low:.4f}-{high:.4f}"]
        for one, (low, high) in zip(rates, bounds)
    ]
    return Output(document, table(rows, ["model", "lists", "clicked", "rate", "95% interval"]))


report.add_command(online)
for one in (add, list_, remove):
    key.add_command(one)
serve.add_command(run)
serve.add_command(key)
serve.add_command(backup)


def read(file: str | None, **given: Any) -> Any:
    """The configuration of a service: of a file, of the environment, and what the command line gives."""
    from itemic.serving.config import read_config

    return read_config(Path(file) if file is not None else None, os.environ, **given)


def _with_store(file: str | None, store: str | None, work: Any, *, make: bool = False) -> Any:
    from itemic.serving.stores import open_store

    kept = open_store(read(file, store=store).store, make=make)
    try:
        return work(kept)
    finally:
        kept.close()


def _needs_extra() -> None:
    from importlib.util import find_spec

    missing = [name for name in ("fastapi", "uvicorn", "prometheus_client") if find_spec(name) is None]
    if missing:
        raise ConfigError(f"serving needs {', '.join(missing)}. Install it: pip install 'itemic[serve]'")
