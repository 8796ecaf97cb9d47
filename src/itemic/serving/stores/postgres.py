"""A store in PostgreSQL, for several machines or what outgrows a file; needs psycopg."""

from typing import Any
from urllib.parse import urlsplit

from itemic.errors import ConfigError, LoadError

WRITES = 0x6974656D6963
"""The advisory lock of whoever writes."""
PATIENCE = 5
"""Seconds for which a server that says nothing is waited for, where its address does not say connect_timeout."""


class Postgres:
    """Connections to a server, and the few words in which its SQL differs."""

    serial = "BIGSERIAL PRIMARY KEY"
    begin = f"BEGIN; SELECT pg_advisory_xact_lock({WRITES})"  # numbers of rows are not given in the order of commits

    def __init__(self, address: str) -> None:
        try:
            import psycopg
        except ImportError:
            raise ConfigError("PostgreSQL needs psycopg. Install it: pip install 'itemic[postgres]'") from None
        self._address, self._psycopg = address, psycopg
        self._patience: dict[str, Any] = {} if "connect_timeout=" in address else {"connect_timeout": PATIENCE}
        self.errors: tuple[type[Exception], ...] = (psycopg.Error,)

    def __str__(self) -> str:
        parts = urlsplit(self._address)
        return f"postgresql://{parts.hostname or ''}{parts.path}"  # without the password

    def connect(self) -> Any:
        """A connection on which every change is begun and committed by statements.

        Raises:
            LoadError: the server does not answer, or lets nobody in.
        """
        try:
            return self._psycopg.connect(self._address, autocommit=True, **self._patience)
        except self._psycopg.Error as error:
            reason = " ".join(str(error).split())
            raise LoadError(f"{self} cannot be opened as a store: {reason}. Give another address.") from None

    def marked(self, statement: str) -> str:
        """The statement with the marks that this database puts where values go."""
        return statement.replace("?", "%s")
