"""The paths that are asked hundreds of times a second, answered without the framework's long way to them.

The framework still describes them, and still says what is wrong with a request: only valid ones are answered here.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Response
from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from itemic.errors import ItemicError

Handler = Callable[[Any], Awaitable[Response]]
KINDS = (b"application/json", b"application/json; charset=utf-8")


class Direct:
    """ASGI application of some paths for POST, and of the whole application for all others.

    `said` makes the answer to an error that is expected.
    """

    def __init__(self, app: FastAPI, said: Callable[[Request, Exception], Awaitable[Response]]) -> None:
        self._app, self._said = app, said
        self._known: dict[str, tuple[type[BaseModel], Handler, Any]] = {}

    def add(self, path: str, message: type[BaseModel], handler: Handler) -> None:
        """Answers valid messages at a path that the application has too."""
        route = next(route for route in self._app.routes if getattr(route, "path", None) == path)
        self._known[path] = message, handler, route

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if not (scope["type"] == "http" and scope["method"] == "POST" and scope["path"] in self._known):
            await self._app(scope, receive, send)
            return
        message, handler, route = self._known[scope["path"]]
        first = await receive()
        try:
            if dict(scope["headers"]).get(b"content-type", b"").lower() not in KINDS or first.get("more_body"):
                raise ValueError
            body = message.model_validate_json(first.get("body", b""))
        except (ValueError, ValidationError):
            await self._app(scope, _again(first, receive), send)
            return
        scope["route"] = route
        try:
            answer = await handler(body)
        except ItemicError as error:
            answer = await self._said(Request(scope), error)
        await answer(scope, receive, send)


def _again(first: Any, receive: Any) -> Any:
    """What receives a message that was received already, and then those behind it."""
    waiting = [first]

    async def replay() -> Any:
        return waiting.pop() if waiting else await receive()

    return replay
