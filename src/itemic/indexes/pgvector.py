"""Vectors in PostgreSQL: a table with a graph over it by the extension pgvector, which several services share.

A table holds the vectors of one model, and is known by a digest of them: whoever opens the same vectors finds the table
that is there, whoever opens others makes one of their own, whole or not at all, and the last to let go of vectors that
were opened since in another version drops their table. Who holds which table is told by advisory locks, which end
with the connection. What the table finds is scored here by the vectors of the model, and where it finds too little, or
the server does not answer, all of these are compared: an answer is late or exact, never short.
"""

import hashlib
import json
import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Protocol

import numpy as np
from jaxtyping import Bool, Float32, Int32

from itemic.errors import ConfigError, ItemicError, SaveError
from itemic.indexes.walking import along
from itemic.nn.topk import Exclude, Top

LOG = logging.getLogger("itemic.indexes")
WIDEST = 2000
"""Numbers of a vector over which pgvector makes graphs."""
MOST = 1000
"""Items that pgvector finds along a graph at most."""
SPARE = 1.5
"""How many times as many items are asked for as pass a filter on average."""
BUILD = 80
"""Neighbours looked at for each new item."""
AGAIN = 5.0
"""Seconds after which a server that was lost is looked for again."""
ROWS = 65536
"""Vectors sent at once."""
HELD, WRITING = 0x6974656D, 0x6974656E
"""Kinds of advisory locks: of a table that somebody searches, and of a version that somebody writes."""


class Server(Protocol):
    """A PostgreSQL database."""

    def connect(self) -> Any:
        """A connection of psycopg that commits each statement by itself.

        Raises:
            ItemicError: it cannot be reached.
        """


class PgVector:
    """The vectors of a model in a database, written if they are not there; items with nan in theirs are in no list.

    `effort` is how widely the graph is searched; None until somebody has chosen it for these vectors.

    Raises:
        ConfigError: the database has no pgvector, or the vectors are too wide for it.
        SaveError: the vectors cannot be written.
        ItemicError: the database cannot be reached.
    """

    def __init__(
        self, database: Server, model: str, vectors: Float32[np.ndarray, "items dim"], links: int = 16
    ) -> None:
        """`model` is the name under which older vectors are looked for; `links` is how many items each node of the
        graph is linked with, twice as many at the bottom."""
        dim = vectors.shape[1]
        if not 1 <= dim <= WIDEST:
            raise ConfigError(
                f"{model} has vectors of {dim:,} numbers; pgvector searches 1 to {WIDEST:,}. Serve with "
                "vectors: memory."
            )
        self.vectors, self.effort = vectors, None
        self._database, self._model, self._links = database, model, max(2, min(100, links))
        self._table, self._width, self._again = 0, 0, 0.0
        self._connection: Any = None
        self._is_lost = False
        try:
            with self._told():
                self._connect()
                self._make_ready()
                while not self._found():
                    self._write()
                self._tidy()
        except BaseException:
            self._let_go()
            raise

    def search(
        self,
        queries: Float32[np.ndarray, "queries dim"],
        k: int,
        exclude: Exclude | None = None,
        allowed: Bool[np.ndarray, " items"] | None = None,
    ) -> Top:
        spare = 1.0 if allowed is None else SPARE * len(allowed) / max(1, int(allowed.sum()))
        return along(self._walk, self.vectors, queries, k, exclude, allowed, spare=spare)

    def extend(self, vectors: Float32[np.ndarray, "items dim"]) -> None:
        self.vectors = vectors
        if self._connection is not None:
            self._try(self._find_again)

    def keep_effort(self) -> None:
        """Writes the effort beside the vectors, for whoever opens them next."""
        with self._told():
            self._run("UPDATE vectors SET effort = %s WHERE id = %s", (self.effort, self._table))

    def close(self) -> None:
        """Lets go of the table, which is dropped if others took its place and nobody else holds it."""
        if self._connection is not None:
            with suppress(*self._errors):  # what is left over is dropped by who opens the model next
                self._run("SELECT pg_advisory_unlock_all()")
                self._tidy()
        self._let_go()
        self._again = np.inf

    # Searching --------------------------------------------------------------------------------------------------

    def _walk(self, queries: Float32[np.ndarray, "queries dim"], width: int) -> Int32[np.ndarray, "queries width"]:
        met = np.full((len(queries), width), -1, np.int32)
        rows = np.flatnonzero(np.isfinite(queries).all(1))
        if width <= MOST and len(rows) and self._is_there():
            self._try(lambda: self._ask(queries, rows, met))
        return met

    def _ask(self, queries: np.ndarray, rows: np.ndarray, met: np.ndarray) -> None:
        """Writes into `met` what the table finds for these rows; items that came by other services are left out."""
        from psycopg import sql

        width, effort = met.shape[1], min(MOST, max(self.effort or 0, met.shape[1]))
        if effort != self._width:
            self._run("SELECT set_config('hnsw.ef_search', %s, false)", (str(effort),))
            self._width = effort
        near = sql.SQL(
            "SELECT asked.row, ARRAY(SELECT item FROM {} ORDER BY vector <#> asked.vector LIMIT {}) "
            "FROM unnest(%s::text[]::vector[]) WITH ORDINALITY AS asked (vector, row)"
        ).format(self._named(self._table), sql.Literal(width))
        for row, items in self._run(near, ([_text(queries[row]) for row in rows],)):
            met[rows[row - 1], : len(items)] = items
        met[met >= len(self.vectors)] = -1

    def _is_there(self) -> bool:
        """Whether there is a connection; one that was lost is made again, but not at each request."""
        if self._connection is None and time.monotonic() >= self._again:
            self._try(self._connect_again)
        return self._connection is not None

    def _connect_again(self) -> None:
        self._connect()
        self._find_again()
        self._is_lost = False
        LOG.warning("%s: %s is searched there again", self._database, self._model)

    def _find_again(self) -> None:
        if not self._found():  # to write them all now would hold up everybody who asks
            raise SaveError(f"{self._database} holds other vectors of {self._model}. Start the service again.")

    def _try(self, work: Any) -> None:
        """Does something for which there is another way; if it fails, the server is left alone for a while."""
        try:
            work()
        except (*self._errors, ItemicError) as error:
            reason = _first_line(error)
            if not self._is_lost:
                LOG.warning("%s: %s is searched in memory: %s", self._database, self._model, reason)
            self._is_lost, self._again = True, time.monotonic() + AGAIN
            self._let_go()

    # The tables -------------------------------------------------------------------------------------------------

    def _make_ready(self) -> None:
        """The extension, and the table that knows the others."""
        if not self._run("SELECT 1 FROM pg_extension WHERE extname = 'vector'"):
            try:
                self._run("CREATE EXTENSION IF NOT EXISTS vector")
            except self._errors as error:
                raise ConfigError(
                    f"{self._database} has no pgvector: {_first_line(error)}. Install it and run CREATE EXTENSION "
                    "vector there, or serve with vectors: memory."
                ) from None
        with self._connection.transaction():
            self._run("SELECT pg_advisory_xact_lock(%s, 0)", (HELD,))
            self._run(
                "CREATE TABLE IF NOT EXISTS vectors (id SERIAL PRIMARY KEY, model TEXT NOT NULL, "
                "version TEXT NOT NULL, items INTEGER NOT NULL, links INTEGER NOT NULL, effort INTEGER, "
                "opened TIMESTAMPTZ NOT NULL)"
            )

    def _found(self) -> bool:
        """Whether there is a table of these vectors or of the first of them; then it gets the others, and is ours."""
        with self._connection.transaction():
            rows = self._run(
                "SELECT id, version, items, effort FROM vectors WHERE model = %s AND links = %s AND items <= %s "
                "ORDER BY items DESC, opened DESC FOR UPDATE",
                (self._model, self._links, len(self.vectors)),
            )
            versions = _versions(self.vectors, {len(self.vectors), *(items for _, _, items, _ in rows)})
            for number, version, items, effort in rows:
                if versions[items] == version:
                    self._copy(number, items)
                    self._run(
                        "UPDATE vectors SET version = %s, items = %s, opened = clock_timestamp() WHERE id = %s",
                        (versions[len(self.vectors)], len(self.vectors), number),
                    )
                    self._run("SELECT pg_advisory_lock_shared(%s, %s)", (HELD, number))
                    self._table, self.effort = number, effort
                    return True
        return False

    def _write(self) -> None:
        """Makes the table of these vectors, unless somebody does so at this moment; then waits for it."""
        from psycopg import sql

        n_items, dim = self.vectors.shape
        version = _versions(self.vectors, {n_items})[n_items]
        with self._connection.transaction():
            self._run("SELECT pg_advisory_xact_lock(%s, %s)", (WRITING, int(version[:7], 16)))
            told = (self._model, self._links, version)
            if self._run("SELECT 1 FROM vectors WHERE model = %s AND links = %s AND version = %s", told):
                return
            ((number,),) = self._run(
                "INSERT INTO vectors (model, links, version, items, opened) VALUES (%s, %s, %s, %s, clock_timestamp()) "
                "RETURNING id",
                (*told, n_items),
            )
            table, width = self._named(number), sql.Literal(dim)
            self._run(sql.SQL("CREATE TABLE {} (item INTEGER PRIMARY KEY, vector vector({}))").format(table, width))
            self._copy(number, 0)
            graph = sql.SQL("CREATE INDEX ON {} USING hnsw (vector vector_ip_ops) WITH (m = {}, ef_construction = {})")
            looked = max(BUILD, 2 * self._links)
            self._run(graph.format(table, sql.Literal(self._links), sql.Literal(looked)))
            self._run(sql.SQL("ANALYZE {}").format(table))

    def _copy(self, number: int, first: int) -> None:
        """Sends the vectors from this item on into a table."""
        from psycopg import sql

        items = first + np.flatnonzero(np.isfinite(self.vectors[first:]).all(1))
        if len(items):
            into = sql.SQL("COPY {} (item, vector) FROM STDIN WITH (FORMAT BINARY)").format(self._named(number))
            with self._connection.cursor().copy(into) as copy:
                for part in _binary(self.vectors, items):
                    copy.write(part)

    def _tidy(self) -> None:
        """Drops the tables of this model that nobody holds, but not the one that was opened last."""
        from psycopg import sql

        with self._connection.transaction():
            older = self._run(
                "SELECT id FROM vectors WHERE model = %s AND id <> (SELECT id FROM vectors WHERE model = %s "
                "ORDER BY opened DESC LIMIT 1) FOR UPDATE SKIP LOCKED",
                (self._model, self._model),
            )
            for (number,) in older:
                if self._run("SELECT pg_try_advisory_xact_lock(%s, %s)", (HELD, number))[0][0]:
                    self._run(sql.SQL("DROP TABLE IF EXISTS {}").format(self._named(number)))
                    self._run("DELETE FROM vectors WHERE id = %s", (number,))

    def _named(self, number: int) -> Any:
        from psycopg import sql

        return sql.Identifier(f"vectors_{number}")

    # The connection ---------------------------------------------------------------------------------------------

    def _connect(self) -> None:
        self._connection, self._width = self._database.connect(), 0
        self._run("SET jit = off")  # to compile a search takes longer than to do it

    def _let_go(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def _run(self, statement: Any, values: tuple = ()) -> list[tuple]:
        done = self._connection.execute(statement, values)
        return done.fetchall() if done.description else []

    @property
    def _errors(self) -> tuple[type[Exception], ...]:
        import psycopg

        return (psycopg.Error,)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Says an error of the database in one line."""
        try:
            yield
        except self._errors as error:
            reason = _first_line(error)
            raise SaveError(
                f"{self._database} cannot keep the vectors of {self._model}: {reason}. Look at the database, or serve "
                "with vectors: memory."
            ) from error


def _versions(vectors: Float32[np.ndarray, "items dim"], counts: Iterable[int]) -> dict[int, str]:
    """A digest of the first so many vectors, for each count.

    >>> x = np.ones((3, 2), np.float32)
    >>> found = _versions(x, {2, 3})
    >>> found[2] == _versions(x[:2], {2})[2], found[2] == found[3]
    (True, False)
    """
    state, done, found = hashlib.sha256(f"{vectors.shape[1]}:".encode()), 0, {}
    for count in sorted(counts):
        state.update(np.ascontiguousarray(vectors[done:count], "<f4").reshape(-1).data)
        done, found[count] = count, state.hexdigest()
    return found


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or ["no reason given"])[0]


def _text(vector: Float32[np.ndarray, " dim"]) -> str:
    """A vector as pgvector reads it."""
    return json.dumps(vector.tolist())


def _binary(vectors: Float32[np.ndarray, "items dim"], items: np.ndarray) -> Iterator[bytes]:
    """Items and their vectors as COPY reads them, in parts: each row its fields with their lengths, big end first."""
    dim = vectors.shape[1]
    row = np.dtype(
        [("fields", ">i2"), ("item_bytes", ">i4"), ("item", ">i4"), ("vector_bytes", ">i4"), ("dim", ">i2"),
         ("unused", ">i2"), ("vector", ">f4", (dim,))]
    )  # fmt: skip
    yield b"PGCOPY\n\xff\r\n\0" + bytes(8)
    for start in range(0, len(items), ROWS):
        chosen = items[start : start + ROWS]
        part = np.zeros(len(chosen), row)
        part["fields"], part["item_bytes"], part["vector_bytes"], part["dim"] = 2, 4, 4 + 4 * dim, dim
        part["item"], part["vector"] = chosen, vectors[chosen]
        yield part.tobytes()
    yield b"\xff\xff"
