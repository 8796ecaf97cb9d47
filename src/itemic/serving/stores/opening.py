"""The store at a place: what stands before `://` says which database it is."""

from pathlib import Path

from itemic.errors import ConfigError
from itemic.serving.stores.base import Store


def open_store(place: str | Path) -> Store:
    """The store in an SQLite file, which is made where there is none, brought to the newest version.

    Raises:
        ConfigError: the place names a database that is not known.
        LoadError: it cannot be opened, is no store, or was written by a newer itemic.
    """
    scheme, named, _ = str(place).partition("://")
    if named:
        raise ConfigError(f"there is no store of the kind '{scheme}'. Give the name of a file, for SQLite.")
    from itemic.serving.stores.sqlite import SQLite

    return Store(SQLite(Path(place)))
