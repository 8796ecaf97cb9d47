"""A store in one file: SQLite with a write-ahead log, flushed to disk at each commit."""

import sqlite3
from pathlib import Path

from itemic.errors import LoadError, SaveError


class SQLite:
    """Connections to a file, and the few words in which its SQL differs."""

    serial = "INTEGER PRIMARY KEY AUTOINCREMENT"  # the place of an event that was deleted is not given again
    begin = "BEGIN IMMEDIATE"
    errors = (sqlite3.Error,)

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    def connect(self) -> sqlite3.Connection:
        """A connection on which every change is begun and committed by statements.

        Raises:
            LoadError: the file cannot be opened or is no database.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            found = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=10)
            for setting in ("journal_mode = WAL", "synchronous = FULL", "secure_delete = ON"):
                found.execute(f"PRAGMA {setting}")
        except (sqlite3.Error, OSError) as error:
            raise LoadError(f"{self.path} cannot be opened as a store: {error}. Give another file.") from None
        self.path.chmod(0o600)  # it holds what people did
        return found

    def marked(self, statement: str) -> str:
        """The statement with the marks that this database puts where values go."""
        return statement

    def backup(self, target: Path) -> None:
        """Writes a copy as of now beside a service that goes on; the file is there whole or not at all.

        Raises:
            SaveError: something is there, or it cannot be written.
        """
        if target.exists():
            raise SaveError(f"{target} is there already. Give another name.")
        partial = target.with_name(f".{target.name}.partial")
        try:
            source, copy = self.connect(), sqlite3.connect(partial)
            source.backup(copy)
            copy.close()
            source.close()
            partial.chmod(0o600)
            partial.rename(target)
        except (sqlite3.Error, OSError) as error:
            partial.unlink(missing_ok=True)
            raise SaveError(f"{target} cannot be written: {error}. Give another place.") from None
