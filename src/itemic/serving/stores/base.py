"""The store: its tables, and what is asked of them, in SQL that all its databases understand.

Changes go through one thread that commits them in groups, and give a future that is done when they are on disk. Values
never stand in the text of a statement.
"""

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

from itemic.errors import ConfigError, LoadError, SaveError
from itemic.serving.stores.writer import Writer

MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        "CREATE TABLE events (place {serial}, id TEXT NOT NULL UNIQUE, person TEXT NOT NULL, item TEXT NOT NULL, "
        "time BIGINT NOT NULL, kind TEXT NOT NULL, weight DOUBLE PRECISION NOT NULL, impression TEXT)",
        "CREATE INDEX events_of_person ON events (person)",
        "CREATE INDEX events_of_item ON events (item)",
        "CREATE TABLE items (place {serial}, id TEXT NOT NULL UNIQUE, attributes TEXT NOT NULL, deleted BIGINT)",
        "CREATE TABLE impressions (place {serial}, id TEXT NOT NULL, person TEXT, time BIGINT NOT NULL, "
        "model TEXT NOT NULL, items TEXT NOT NULL, propensities TEXT)",
        "CREATE INDEX impressions_of_person ON impressions (person)",
        "CREATE TABLE forgotten (digest TEXT NOT NULL PRIMARY KEY, time BIGINT NOT NULL)",
        "CREATE TABLE keys (name TEXT NOT NULL PRIMARY KEY, digest TEXT NOT NULL, scope TEXT NOT NULL, "
        "time BIGINT NOT NULL)",
    ),
    (
        "ALTER TABLE forgotten ADD COLUMN place BIGINT NOT NULL DEFAULT 0",
        "CREATE INDEX forgotten_by_place ON forgotten (place)",
        "ALTER TABLE items ADD COLUMN changed BIGINT NOT NULL DEFAULT 0",
        "CREATE INDEX items_by_change ON items (changed)",
    ),
)
"""Statements that bring a store from each version to the next; what was released is never changed, only added to."""


class Event(NamedTuple):
    """Somebody did something with an item. Two events with the same id are one."""

    id: str
    user: str
    item: str
    time: int
    """Milliseconds since 1970."""
    kind: str = ""
    weight: float = 1.0
    impression: str | None = None
    """The answer that showed the item, where one did."""


class Impression(NamedTuple):
    """A list that somebody was shown."""

    id: str
    user: str | None
    time: int
    model: str
    items: Sequence[str | int]
    propensities: Sequence[float] | None = None
    """How likely each place was given to its item; None where nothing was drawn."""


class Key(NamedTuple):
    """A key by which the service is entered; of the secret only a digest is kept."""

    name: str
    digest: str
    scope: str


class Changes(NamedTuple):
    """What was stored between two moments."""

    events: list[Event]
    """Without those of users who were deleted since."""
    items: dict[str, dict[str, Any] | None]
    """Attributes by id as they are now, None for a deleted one, in the order of their last changes."""
    users: set[str]
    """Digests of those who were deleted."""
    places: dict[str, int]
    """Where the store was at the later moment."""


class Database(Protocol):
    """A kind of database: how to reach it, and where its SQL differs."""

    @property
    def serial(self) -> str:
        """The type of a column that numbers rows as they come."""
        ...

    @property
    def begin(self) -> str:
        """The statement that begins a transaction which writes, and waits for others that do: they end in the order in
        which they number rows."""
        ...

    @property
    def errors(self) -> tuple[type[Exception], ...]:
        """What it raises."""
        ...

    def connect(self) -> Any:
        """A connection."""

    def marked(self, statement: str) -> str:
        """The statement with its own marks for values."""
        ...


class Store:
    """Events, items, impressions and keys.

    >>> from itemic.serving.stores import Event, open_store
    >>> store = open_store(getfixture("tmp_path") / "events.db")
    >>> event = Event("e1", "ann", "cup", 1_700_000_000_000)
    >>> store.add_events([event, event]).result(), store.add_events([event]).result()
    ([True, False], [False])
    >>> [(event.user, event.item) for event in store.events()]
    [('ann', 'cup')]
    >>> store.close()
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        first = database.connect()
        self._readers, self._closed = [first], False
        try:
            self.version = self._migrated(first)
        except database.errors as error:
            reason = str(error).splitlines()[0]
            raise LoadError(f"{database} cannot be read as a store: {reason}. Give another place.") from None
        self._writer = Writer(database.connect, database.begin, self._told)

    def close(self) -> None:
        """Writes what waits and lets go of the database."""
        self._writer.close()
        self._closed = True
        while self._readers:
            self._readers.pop().close()

    # Events -----------------------------------------------------------------------------------------------------

    def add_events(self, events: Sequence[Event]) -> "Future[list[bool]]":
        """Which of the events are new; those whose id is known change nothing."""
        statement = (
            "INSERT INTO events (id, person, item, time, kind, weight, impression) VALUES (?, ?, ?, ?, ?, ?, ?) "
            "ON CONFLICT (id) DO NOTHING"
        )
        return self._change(lambda run: [run(statement, event).rowcount == 1 for event in events])

    def events(
        self, *, user: str | None = None, item: str | None = None, after: int = 0, until: int | None = None
    ) -> Iterator[Event]:
        """All events, or those of a user or an item, oldest first; of equal times the one first stored.

        `after` and `until` are places (`last_places`): of what was stored after the one, up to the other and with it.
        """
        asked = {"person = ?": user, "item = ?": item, "place > ?": after or None, "place <= ?": until}
        given = {condition: value for condition, value in asked.items() if value is not None}
        which = f" WHERE {' AND '.join(given)}" if given else ""
        found = f"SELECT id, person, item, time, kind, weight, impression FROM events{which} ORDER BY time, place"
        return (Event(*row) for row in self._read(found, tuple(given.values())))

    def placed(self, until: int) -> tuple[list[int], list[Event]]:
        """All events up to a place in the order in which they were stored, and the place of each."""
        found = (
            "SELECT place, id, person, item, time, kind, weight, impression FROM events WHERE place <= ? ORDER BY place"
        )
        rows = self._read(found, (until,))
        return [row[0] for row in rows], [Event(*row[1:]) for row in rows]

    def last_places(self) -> dict[str, int]:
        """The places of the event stored last, of the last change of an item and of the last deletion of a user, as of
        one moment: the first has 1, later ones have larger ones."""
        last = "(SELECT coalesce(max({}), 0) FROM {})"
        asked = (("place", "events"), ("changed", "items"), ("place", "forgotten"))
        found = self._read("SELECT " + ", ".join(last.format(*one) for one in asked))
        return dict(zip(("events", "items", "deletions"), found[0]))

    def changes(self, after: Mapping[str, int]) -> Changes:
        """What was stored after these places (`last_places`)."""
        places = self.last_places()
        new = {name: place > after[name] for name, place in places.items()}
        users = self.forgotten(after["deletions"]) if new["deletions"] else set()
        events = list(self.events(after=after["events"], until=places["events"])) if new["events"] else []
        found = "SELECT id, attributes, deleted FROM items WHERE changed > ? ORDER BY changed, place"
        rows = self._read(found, (after["items"],)) if new["items"] else []
        return Changes(events, dict(map(_as_put, rows)), users, places)

    # Items ------------------------------------------------------------------------------------------------------

    def put_items(self, items: Mapping[str, Mapping[str, Any]]) -> "Future[None]":
        """Stores items with their attributes; one that is there gets the new attributes, one deleted comes back."""
        rows = [(name, json.dumps(dict(attributes), ensure_ascii=False), None) for name, attributes in items.items()]
        return self._change_items(rows)

    def delete_items(self, names: Sequence[str]) -> "Future[None]":
        """Marks items as deleted, also those that the store never saw, as the model's own."""
        return self._change_items([(name, "{}", now()) for name in names])

    def _change_items(self, rows: Sequence[tuple[str, str, int | None]]) -> "Future[None]":
        """Ids, attributes, and when an item was deleted."""
        statement = (
            "INSERT INTO items (id, attributes, deleted, changed) VALUES (?, ?, ?, ?) ON CONFLICT (id) DO UPDATE "
            "SET attributes = excluded.attributes, deleted = excluded.deleted, changed = excluded.changed"
        )

        def change(run: Any) -> None:
            (place,) = run("SELECT coalesce(max(changed), 0) + 1 FROM items", ()).fetchone()
            for row in rows:
                run(statement, (*row, place))

        return self._change(change)

    def items(self) -> Iterator[tuple[str, dict[str, Any] | None]]:
        """Every item that was put or deleted with its attributes, None for a deleted one, in order of arrival."""
        rows = self._read("SELECT id, attributes, deleted FROM items ORDER BY place")
        return map(_as_put, rows)

    # Impressions ------------------------------------------------------------------------------------------------

    def log(self, impression: Impression) -> "Future[None]":
        """Stores a list that was shown."""
        statement = "INSERT INTO impressions (id, person, time, model, items, propensities) VALUES (?, ?, ?, ?, ?, ?)"
        shown, drawn = json.dumps(list(impression.items)), impression.propensities
        row = (*impression[:4], shown, None if drawn is None else json.dumps(list(drawn)))
        return self._change(lambda run: run(statement, row) and None)

    def impressions(self, *, user: str | None = None) -> Iterator[Impression]:
        """All lists that were shown, or those of a user, in the order in which they were stored."""
        found = "SELECT id, person, time, model, items, propensities FROM impressions"
        which, values = ("", ()) if user is None else (" WHERE person = ?", (user,))
        rows = self._read(f"{found}{which} ORDER BY place", values)
        return (_shown(row) for row in rows)

    def newest(self, n: int) -> tuple[list[Impression], list[Event]]:
        """The last n lists that were shown and the last n events, oldest first."""
        lists = "SELECT id, person, time, model, items, propensities FROM impressions ORDER BY place DESC LIMIT ?"
        events = "SELECT id, person, item, time, kind, weight, impression FROM events ORDER BY place DESC LIMIT ?"
        shown, happened = self._read(lists, (n,)), self._read(events, (n,))
        return [_shown(row) for row in reversed(shown)], [Event(*row) for row in reversed(happened)]

    # Users ------------------------------------------------------------------------------------------------------

    def delete_user(self, user: str) -> "Future[dict[str, int]]":
        """How many events and impressions of a user are gone; a digest stays, so that what models know is not used."""
        forget = (
            "INSERT INTO forgotten (digest, time, place) "
            "SELECT ?, ?, coalesce(max(place), 0) + 1 FROM forgotten WHERE 1 = 1 "  # else SQLite reads ON as a join's
            "ON CONFLICT (digest) DO UPDATE SET time = excluded.time, place = excluded.place"
        )

        def change(run: Any) -> dict[str, int]:
            run(forget, (digest(user), now()))
            return {
                "events": run("DELETE FROM events WHERE person = ?", (user,)).rowcount,
                "impressions": run("DELETE FROM impressions WHERE person = ?", (user,)).rowcount,
            }

        return self._change(change)

    def forgotten(self, after: int = -1) -> set[str]:
        """Digests of the users who were deleted, or of those whose last deletion was stored after this place."""
        return {row[0] for row in self._read("SELECT digest FROM forgotten WHERE place > ?", (after,))}

    # Keys -------------------------------------------------------------------------------------------------------

    def add_key(self, key: Key) -> None:
        """Stores a key.

        Raises:
            ConfigError: there is one of this name.
        """
        statement = "INSERT INTO keys (name, digest, scope, time) VALUES (?, ?, ?, ?) ON CONFLICT (name) DO NOTHING"
        if not self._change(lambda run: run(statement, (*key, now())).rowcount).result():
            raise ConfigError(f"there is a key named '{key.name}' already. Give another name, or remove that one.")

    def remove_key(self, name: str) -> None:
        """Removes a key; who has it is turned away from then on.

        Raises:
            ConfigError: there is none of this name.
        """
        if not self._change(lambda run: run("DELETE FROM keys WHERE name = ?", (name,)).rowcount).result():
            listed = ", ".join(key.name for key in self.keys()) or "none"
            raise ConfigError(f"there is no key named '{name}'. Keys: {listed}.")

    def keys(self) -> list[Key]:
        """All keys, oldest first."""
        return [Key(*row) for row in self._read("SELECT name, digest, scope FROM keys ORDER BY time, name")]

    def flush(self) -> "Future[None]":
        """Done when all that was changed before is on disk."""
        return self._change(lambda run: None)

    # Inside -----------------------------------------------------------------------------------------------------

    def _change(self, change: Any) -> Future:
        """The future of what `change` gives, which is handed a function that runs a statement with its values."""

        mark = self.database.marked
        return self._writer.submit(
            lambda connection: change(lambda words, values: connection.execute(mark(words), values))
        )

    def _told(self, error: Exception, done: str = "written") -> Exception:
        """An error of the database in one line, without the row that it quotes below."""
        if not isinstance(error, self.database.errors):
            return error
        reason = (str(error).splitlines() or ["no reason given"])[0]
        return SaveError(f"{self.database} cannot be {done}: {reason}. Look at the database.")

    def _read(self, statement: str, values: Sequence[Any] = ()) -> list[tuple]:
        with self._reading() as reader:
            try:
                return reader.execute(self.database.marked(statement), values).fetchall()
            except self.database.errors as error:
                raise self._told(error, "read") from error

    @contextmanager
    def _reading(self) -> Iterator[Any]:
        """A connection that nobody else reads by: a long reading holds up no other."""
        if self._closed:
            raise SaveError("the store is closed. Open it again.")
        try:
            reader = self._readers.pop()
        except IndexError:
            reader = self.database.connect()
        try:
            if getattr(reader, "closed", False):  # by a server that was started again
                reader = self.database.connect()
            yield reader
        finally:
            self._readers.append(reader)
            if self._closed:  # meanwhile
                self.close()

    def _migrated(self, connection: Any) -> int:
        run, mark = connection.execute, self.database.marked
        run("CREATE TABLE IF NOT EXISTS versions (version BIGINT NOT NULL PRIMARY KEY, time BIGINT NOT NULL)")
        found = run("SELECT coalesce(max(version), 0) FROM versions").fetchone()[0]
        if found > len(MIGRATIONS):
            raise LoadError(
                f"{self.database} is a store of version {found}; this itemic knows {len(MIGRATIONS)}. Upgrade itemic."
            )
        for version, statements in enumerate(MIGRATIONS[found:], start=found + 1):
            run(self.database.begin)
            try:
                if run(mark("SELECT 1 FROM versions WHERE version = ?"), (version,)).fetchone():
                    run("ROLLBACK")  # another service has just done it
                    continue
                run(mark("INSERT INTO versions (version, time) VALUES (?, ?)"), (version, now()))
                for statement in statements:
                    run(statement.replace("{serial}", self.database.serial))
            except self.database.errors:
                run("ROLLBACK")
                raise
            run("COMMIT")
        return len(MIGRATIONS)


def _as_put(row: Sequence[Any]) -> tuple[str, dict[str, Any] | None]:
    name, attributes, deleted = row
    return name, None if deleted else json.loads(attributes)


def _shown(row: Sequence[Any]) -> Impression:
    name, user, time, model, items, drawn = row
    return Impression(name, user, time, model, json.loads(items), drawn and json.loads(drawn))


def now() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def digest(text: str) -> str:
    """What is kept of something that may not be kept itself."""
    return hashlib.sha256(text.encode()).hexdigest()
