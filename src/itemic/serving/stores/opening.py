"""The store at a place: what stands before `://` says which database it is."""

from pathlib import Path

from itemic.errors import ConfigError, LoadError
from itemic.serving.stores.base import Store


def open_store(place: str | Path, *, make: bool = True) -> Store:
    """The store in an SQLite file, which is made where there is none unless `make` is False, or in the database
    of a PostgreSQL address.

    It is brought to the newest version.

    Raises:
        ConfigError: the place names a database that is not known.
        LoadError: it is not there and shall not be made, cannot be opened, is no store, or was written by a newer
            itemic.
    """
    scheme, named, _ = str(place).partition("://")
    if not named and not make and not Path(place).exists():
        raise LoadError(f"{place}: there is no store here. Serve first: itemic serve RUN --store {place}")
    if not named:
        from itemic.serving.stores.sqlite import SQLite

        return Store(SQLite(Path(place)))
    if scheme not in ("postgresql", "postgres"):
        raise ConfigError(f"there is no store of the kind '{scheme}'. Give a file, for SQLite, or postgresql://...")
    from itemic.serving.stores.postgres import Postgres

    return Store(Postgres(str(place)))
