"""What stands before every request: keys and their scopes, limits of size, rate and time, headers, counts."""

import asyncio
import logging
import math
import time
from typing import Any

from itemic.errors import SaveError
from itemic.serving.config import Config
from itemic.serving.keys import SCOPES, Buckets, Doorkeeper
from itemic.serving.metrics import Metrics
from itemic.serving.problems import KIND, problem

LOG = logging.getLogger("itemic.serving")
OPEN = ("/v1/health", "/v1/ready", "/")
"""What needs no key, beside what lies under `STATIC`: the page asks for one itself."""
STATIC = "/static/"
NEEDED = {"/v1/events": "write", "/v1/users": "admin", "/v1/metrics": "admin", "/v1/admin": "admin"}
"""Scopes by the start of a path; the rest is read, and items are changed by write."""
METHODS = {"GET", "POST", "DELETE", "OPTIONS", "HEAD", "PUT", "PATCH"}
HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
]
"""Of every answer that does not say otherwise itself."""
FAILED = "something went wrong here; the log of the service says what."
PAGES = ("/docs", "/openapi.json")
"""The description of the API; its page loads scripts, so the content policy is not for it."""


class Refused(Exception):
    """A request that is answered by a problem at the door."""

    def __init__(self, status: int, detail: str, *headers: tuple[bytes, bytes]) -> None:
        super().__init__(detail)
        self.status, self.detail, self.headers = status, detail, list(headers)


class Guard:
    """ASGI middleware around the whole application."""

    def __init__(self, app: Any, config: Config, doorkeeper: Doorkeeper, metrics: Metrics) -> None:
        self.app, self.config, self.doorkeeper, self.metrics = app, config, doorkeeper, metrics
        self.buckets = Buckets(config.limits.rate)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status, begun = time.perf_counter(), 500, False

        async def answer(message: Any) -> None:
            nonlocal status, begun
            if message["type"] == "http.response.start":
                status, begun = message["status"], True
                said = message.get("headers", [])
                names = {name for name, _ in said}
                headers = HEADERS[:-1] if scope["path"] in PAGES else HEADERS
                message["headers"] = [*said, *(one for one in headers if one[0] not in names)]
            await send(message)
            if message.get("more_body"):  # an answer that comes piece by piece may take that long for each
                limit.reschedule(asyncio.get_running_loop().time() + self.config.timeout)

        limit = asyncio.timeout(self.config.timeout)
        try:
            async with limit:
                self._enter(scope)
                await self.app(scope, await self._read(scope, receive), answer)
        except Refused as refusal:
            await _refuse(answer, refusal, begun)
        except TimeoutError:
            said = f"it took longer than {self.config.timeout:g} s. Send less, or try again later."
            await _refuse(answer, Refused(503, said, (b"retry-after", b"1")), begun)
        except SaveError as error:
            await _refuse(answer, Refused(503, str(error), (b"retry-after", b"1")), begun)
        except Exception:  # whatever it is, whoever asked is told no more than that
            LOG.exception("%s %s failed", scope["method"], scope["path"])
            await _refuse(answer, Refused(500, FAILED), begun)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            method = scope["method"] if scope["method"] in METHODS else "other"  # else anybody could make counters
            self.metrics.seen(method, route, status, time.perf_counter() - start)

    def _enter(self, scope: Any) -> None:
        """Passes if this request may be made by whoever makes it."""
        path = scope["path"]
        if path in OPEN or path.startswith(STATIC) or (scope["method"] == "OPTIONS" and self.config.cors):
            return
        name = "anyone"
        if self.doorkeeper.keys():
            given = dict(scope["headers"]).get(b"authorization", b"").decode("latin-1")
            kind, _, secret = given.partition(" ")
            key = self.doorkeeper.find(secret.strip()) if kind.lower() == "bearer" else None
            if key is None:
                said = "a key is needed" if not given else "this key is not known"
                raise Refused(401, f"{said}. Send it as Authorization: Bearer KEY.", (b"www-authenticate", b"Bearer"))
            needed = next((scope_ for start, scope_ in NEEDED.items() if path.startswith(start)), "read")
            if path.startswith("/v1/items") and scope["method"] != "GET":
                needed = "write"
            if SCOPES.index(key.scope) < SCOPES.index(needed):
                raise Refused(403, f"the key '{key.name}' may {key.scope}; this needs one that may {needed}.")
            name = key.name
        wait = self.buckets.wait(name)
        if wait:
            said = f"more than {self.config.limits.rate:g} requests a second. Send more slowly."
            raise Refused(429, said, (b"retry-after", str(math.ceil(wait)).encode()))

    async def _read(self, scope: Any, receive: Any) -> Any:
        """The body, read whole and no larger than it may be, as what the application receives."""
        headers, limit = dict(scope["headers"]), self.config.limits.body
        if b"content-length" not in headers and b"transfer-encoding" not in headers:
            return receive
        said = f"the body has more than {limit:,} bytes. Send less at once."
        if int(headers.get(b"content-length", b"0")) > limit:
            raise Refused(413, said)
        parts, size, more = [], 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                break
            parts.append(message.get("body", b""))
            size, more = size + len(parts[-1]), message.get("more_body", False)
            if size > limit:
                raise Refused(413, said)
        waiting = [{"type": "http.request", "body": b"".join(parts), "more_body": False}]

        async def replay() -> Any:
            return waiting.pop() if waiting else await receive()

        return replay


async def _refuse(send: Any, refusal: Refused, begun: bool) -> None:
    if begun:  # too late for another answer
        return
    body = problem(refusal.status, refusal.detail)
    headers = [(b"content-type", KIND.encode()), (b"content-length", str(len(body)).encode()), *refusal.headers]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
