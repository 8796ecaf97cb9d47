"""A client of the service: its answers as objects, its errors as exceptions; needs nothing but Python.

from itemic.serving.client import Client

shop = Client("http://127.0.0.1:8321")
shop.add_event("ann", "cup")
shop.recommend("ann", k=5).items[0].title
"""

import http.client
import json
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any
from urllib.parse import quote, urlsplit

from itemic.errors import ItemicError


class ServiceError(ItemicError):
    """What the service refused, in its words."""

    def __init__(self, status: int, detail: str, errors: Sequence[Mapping[str, str]] = ()) -> None:
        super().__init__(detail)
        self.status, self.errors = status, list(errors)


@dataclass(frozen=True)
class Listed:
    """One place of an answer."""

    item: str
    score: float
    title: str | None = None
    source: str | None = None
    propensity: float | None = None


@dataclass(frozen=True)
class Answer:
    """A list of items, best first."""

    items: list[Listed]
    model: str
    reasons: list[str]
    id: str | None = None
    """To be given with the events that come of it."""


@dataclass(frozen=True)
class Event:
    """Somebody did something with an item; the id makes that sending it twice changes nothing."""

    user: str
    item: str
    id: str
    time: int | None = None
    kind: str = ""
    weight: float = 1.0
    impression: str | None = None


class Client:
    """The service at an address; may be used from several threads, each of which has a connection of its own."""

    def __init__(self, url: str = "http://127.0.0.1:8321", key: str | None = None, timeout: float = 10) -> None:
        self._url, self._timeout, self._here = urlsplit(url), timeout, threading.local()
        self._headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}

    def recommend(
        self,
        user: str | None = None,
        *,
        history: Sequence[str] | None = None,
        k: int = 10,
        where: str | None = None,
        exclude: Sequence[str] = (),
        model: str | None = None,
    ) -> Answer:
        """The best items for a user, or after a history."""
        told = {"user": user, "history": history, "k": k, "where": where, "exclude": list(exclude), "model": model}
        return _answer(self.call("POST", "/v1/recommend", told))

    def rank(
        self,
        candidates: Sequence[str],
        user: str | None = None,
        *,
        history: Sequence[str] | None = None,
        model: str | None = None,
    ) -> Answer:
        """These items in the order in which somebody would like them."""
        told = {"user": user, "history": history, "candidates": list(candidates), "model": model}
        return _answer(self.call("POST", "/v1/rank", told))

    def similar(self, item: str, *, k: int = 10, model: str | None = None) -> Answer:
        """The items most like an item."""
        return _answer(self.call("POST", "/v1/similar", {"item": item, "k": k, "model": model}))

    def complete(self, basket: Sequence[str], *, k: int = 10, model: str | None = None) -> Answer:
        """Items that go with those of a basket."""
        return _answer(self.call("POST", "/v1/complete", {"basket": list(basket), "k": k, "model": model}))

    def search(
        self,
        text: str,
        user: str | None = None,
        *,
        history: Sequence[str] | None = None,
        k: int = 10,
        where: str | None = None,
        model: str | None = None,
    ) -> Answer:
        """Items by words of their texts."""
        told = {"text": text, "user": user, "history": history, "k": k, "where": where, "model": model}
        return _answer(self.call("POST", "/v1/search", told))

    def explain(
        self, item: str, user: str | None = None, *, history: Sequence[str] | None = None, model: str | None = None
    ) -> dict[str, Any]:
        """Which items of the history an item comes from."""
        return self.call("POST", "/v1/explain", {"item": item, "user": user, "history": history, "model": model})

    def add_event(self, user: str, item: str, *, id: str | None = None, **told: Any) -> dict[str, int]:
        """Tells that somebody did something; returned when it is on the service's disk."""
        return self.add_events([Event(user, item, id or uuid.uuid4().hex, **told)])

    def add_events(self, events: Sequence[Event]) -> dict[str, int]:
        """The same of many at once."""
        return self.call("POST", "/v1/events/bulk", {"events": [_given(vars(event)) for event in events]})

    def put_items(self, items: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """Gives items by id with their attributes: new ones, or new attributes of known ones."""
        told = [{"id": name, "attributes": dict(attributes)} for name, attributes in items.items()]
        return self.call("POST", "/v1/items", {"items": told})

    def delete_items(self, items: Sequence[str]) -> dict[str, int]:
        """Deletes items: no answer names them from then on."""
        return self.call("POST", "/v1/items/delete", {"items": list(items)})

    def item(self, item: str) -> dict[str, Any]:
        """The attributes of an item."""
        return self.call("GET", f"/v1/items/{quote(item, safe='')}")["attributes"]

    def user(self, user: str) -> dict[str, Any]:
        """All that is known of a user."""
        return self.call("GET", f"/v1/users/{quote(user, safe='')}")

    def delete_user(self, user: str) -> dict[str, int]:
        """Forgets a user."""
        return self.call("DELETE", f"/v1/users/{quote(user, safe='')}")

    def refresh(self) -> dict[str, Any]:
        """Begins to fit the models again on all that is known now."""
        return self.call("POST", "/v1/admin/refresh")

    def refreshed(self) -> dict[str, Any]:
        """Whether they are being fitted, and how it ended the last time."""
        return self.call("GET", "/v1/admin/refresh")

    def ready(self, wait: float = 0) -> dict[str, Any]:
        """The models that answer; a service that is starting is given so many seconds."""
        end = time.monotonic() + wait
        while True:
            try:
                return self.call("GET", "/v1/ready")
            except ServiceError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.1)

    def call(self, method: str, path: str, told: Mapping[str, Any] | None = None) -> Any:
        """The answer of any path; what is None is not sent. A connection that was closed meanwhile is made again.

        Raises:
            ServiceError: the service cannot be reached, or refuses.
        """
        body = None if told is None else json.dumps(_given(told)).encode()
        status, said = 0, b""
        for again in (False, True):
            try:
                connection = self._connection()
                connection.request(method, self._url.path.rstrip("/") + path, body, self._headers)
                response = connection.getresponse()
                status, said = response.status, response.read()
                break
            except (OSError, http.client.HTTPException) as error:
                self._here.connection = None
                if again or isinstance(error, TimeoutError | ConnectionRefusedError):
                    raise ServiceError(0, f"{self._url.geturl()} does not answer: {error}. Is it running?") from None
        try:
            answer = json.loads(said)
        except ValueError:
            raise ServiceError(status, f"{self._url.geturl()} answered {status} without JSON.") from None
        if status >= 400:
            raise ServiceError(status, answer.get("detail", f"it answered {status}."), answer.get("errors", ()))
        return answer

    def _connection(self) -> http.client.HTTPConnection:
        connection = getattr(self._here, "connection", None)
        if connection is None:
            kind = http.client.HTTPSConnection if self._url.scheme == "https" else http.client.HTTPConnection
            connection = self._here.connection = kind(self._url.netloc, timeout=self._timeout)
        return connection


def _given(told: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in told.items() if value is not None}


def _answer(said: Mapping[str, Any]) -> Answer:
    known = {field.name for field in fields(Listed)}
    items = [Listed(**{name: value for name, value in one.items() if name in known}) for one in said["items"]]
    return Answer(items, said["model"], said["reasons"], said.get("id"))
