"""The HTTP API: each path a few lines between the types of `messages` and the service."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from itemic.errors import ItemicError, QueryError, SaveError
from itemic.serving import chatting
from itemic.serving import messages as m
from itemic.serving.admin import make_router as make_admin
from itemic.serving.catalogue import UnknownItem
from itemic.serving.current import Current
from itemic.serving.direct import Direct
from itemic.serving.guard import FAILED, Guard
from itemic.serving.keys import Doorkeeper
from itemic.serving.metrics import Metrics
from itemic.serving.page import make_router
from itemic.serving.problems import KIND, problem, told
from itemic.serving.service import Asked, Service
from itemic.serving.stores import Event
from itemic.serving.stores.base import now
from itemic.version import VERSION

ABOUT = """Which items? For a user, after a history, with a basket, like an item, by words.

Ids are text. Errors are `application/problem+json` and name the field at fault and the mend."""
WRONG = {
    status: {"model": m.Problem, "description": said, "content": {KIND: {}}}
    for status, said in ((422, "A field is wrong"), (401, "A key is needed"), (429, "Too many requests"))
}
LOST: dict[int | str, dict[str, Any]] = {404: {"model": m.Problem, "description": "There is no such thing"}}


def make_app(first: Service) -> Guard:
    """The ASGI application that answers by a service, and by those with other models that follow it."""
    service = Current(first)
    app = FastAPI(
        title="Itemic", version=VERSION, description=ABOUT, responses={**WRONG}, redoc_url=None, docs_url="/docs",
        lifespan=service.running,
    )  # fmt: skip
    config, metrics = service.config, Metrics()
    doorkeeper = Doorkeeper(service.store)
    limits = config.limits
    app.include_router(make_router(lambda: service.service, metrics))
    app.include_router(make_admin(service))
    chatting.add_chat(app, lambda: service.service)
    direct = Direct(app, _tell_errors(app))

    def asked(
        body: m.ForSomebody, k: int, exclude: Sequence[str] = (), candidates: Sequence[str] | None = None
    ) -> Asked:
        _within(limits.history, history=body.history, exclude=exclude, candidates=candidates)
        _within(limits.k, k=k)
        return service.asked(body.user, body.history, k, exclude, candidates)

    @app.post("/v1/recommend", response_model=m.List, tags=["ask"])
    async def recommend(body: m.Recommend) -> Response:
        """The best items for a user or after a history, with the stage that named each."""
        one = asked(body, body.k, body.exclude)
        return _json(await service.recommend(body.model, body.user, one, body.where))

    @app.post("/v1/rank", response_model=m.List, tags=["ask"])
    async def rank(body: m.Rank) -> Response:
        """Given items in the order in which somebody would like them; unknown ones are left out."""
        one = asked(body, min(len(body.candidates), len(service.items)), (), body.candidates)
        return _json(await service.recommend(body.model, body.user, one))

    @app.post("/v1/similar", response_model=m.List, responses=LOST, tags=["ask"])
    async def similar(body: m.Similar) -> Response:
        """The items most like an item."""
        _within(limits.k, k=body.k)
        return _json(await service.similar(body.model, body.item, body.k))

    @app.post("/v1/complete", response_model=m.List, tags=["ask"])
    async def complete(body: m.Complete) -> Response:
        """Items that go with those of a basket."""
        _within(limits.history, basket=body.basket)
        _within(limits.k, k=body.k)
        return _json(await service.complete(body.model, body.basket, body.k))

    @app.post("/v1/search", response_model=m.List, tags=["ask"])
    async def search(body: m.Search) -> Response:
        """Items by words of their texts; for a user or a history, in an order that follows their tastes too."""
        _within(limits.history, history=body.history)
        _within(limits.k, k=body.k)
        somebody = body.user is not None or body.history is not None
        one = service.asked(body.user, body.history, 1) if somebody else None
        return _json(await service.search(body.model, body.text, one, body.k, body.where))

    @app.post("/v1/explain", response_model=m.Explanation, responses=LOST, tags=["ask"])
    async def explain(body: m.Explain) -> Response:
        """The items of a history with the largest share in the score of an item, and what it shares with them."""
        return _json(await service.explain(body.model, asked(body, 1), body.item, body.k))

    async def take(events: Sequence[m.Happened]) -> Response:
        _within(limits.bulk, events=events)
        moment = now()
        done = [_event(event, moment) for event in events]
        answer = await service.add_events(done)
        metrics.events.inc(answer["accepted"])
        return _json(answer)

    @app.post("/v1/events", response_model=m.Taken, tags=["tell"])
    async def add_event(body: m.Happened) -> Response:
        """Takes an event; it is on disk, and in the user's next answer, when this is answered."""
        return await take([body])

    @app.post("/v1/events/bulk", response_model=m.Taken, tags=["tell"])
    async def add_events(body: m.Events) -> Response:
        """Takes many events at once, all or none of them."""
        return await take(body.events)

    @app.post("/v1/items", response_model=m.ItemsTaken, tags=["tell"])
    async def put_items(body: m.Items) -> Response:
        """Takes items, new ones or with other attributes; new ones can be listed when this is answered."""
        _within(limits.bulk, items=body.items)
        return _json(await service.put_items({item.id: item.attributes for item in body.items}))

    @app.post("/v1/items/delete", tags=["tell"])
    async def delete_items(body: m.Names) -> Response:
        """Deletes items: no answer names them from then on."""
        _within(limits.bulk, items=body.items)
        return _json(await service.delete_items(body.items))

    @app.get("/v1/items/{item}", responses=LOST, tags=["ask"])
    async def item(item: m.Id) -> Response:
        """The attributes of an item."""
        return _json(service.item(item))

    @app.delete("/v1/items/{item}", responses=LOST, tags=["tell"])
    async def delete_item(item: m.Id) -> Response:
        """Deletes an item."""
        service.items.code(item)
        return _json(await service.delete_items([item]))

    @app.get("/v1/users/{user}", responses=LOST, tags=["users"])
    async def user(user: m.Id) -> Response:
        """All that is known of a user."""
        found = await service.user(user)
        if found is None:
            raise HTTPException(404, f"nothing is known of a user '{user}'.")
        return _json(found)

    @app.delete("/v1/users/{user}", tags=["users"])
    async def delete_user(user: m.Id) -> Response:
        """Forgets a user: gone from events, histories and logs when this is answered."""
        return _json(await service.delete_user(user))

    @app.get("/v1/health", tags=["service"])
    async def health() -> Response:
        """That the service runs."""
        return _json({"status": "ok", "version": VERSION})

    @app.get("/v1/ready", tags=["service"])
    async def ready() -> Response:
        """That it answers, with which models, which of them talk, and since when with these versions of them."""
        about = {"models": list(service.pipelines), "items": len(service.items), "since": service.since}
        return _json({"status": "ready", **about, "chat": list(chatting.talking(service.service))})

    @app.get("/v1/metrics", tags=["service"])
    async def metrics_() -> Response:
        """Counts and latencies, for Prometheus."""
        metrics.items.set(service.items.n_there)
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    for path, message, handler in (
        ("/v1/recommend", m.Recommend, recommend),
        ("/v1/events", m.Happened, add_event),
        ("/v1/events/bulk", m.Events, add_events),
    ):
        direct.add(path, message, handler)
    inner: Any = direct
    if config.cors:
        allowed: dict[str, Any] = {"allow_methods": ["*"], "allow_headers": ["authorization", "content-type"]}
        inner = CORSMiddleware(direct, allow_origins=list(config.cors), **allowed)
    return Guard(inner, config, doorkeeper, metrics)


def _event(told: m.Happened, moment: int) -> Event:
    """The event as it is stored; nothing happens later than now."""
    time = moment if told.time is None else min(told.time, moment)
    return Event(told.id, told.user, told.item, time, told.kind, told.weight, told.impression)


def _json(answer: Any) -> Response:
    return Response(to_json(answer, fallback=str), media_type="application/json")


def _within(limit: int, **fields: Any) -> None:
    """Passes if no field is larger than the limit.

    Raises:
        TooLarge: one is; the message names it.
    """
    for name, value in fields.items():
        size = value if isinstance(value, int) else len(value or ())
        if size > limit:
            raise TooLarge(name, f"{name} is {size:,}; at most {limit:,} are taken at once. Give fewer.")


class TooLarge(QueryError):
    """A field that is larger than the limits allow."""

    def __init__(self, field: str, detail: str) -> None:
        super().__init__(detail)
        self.field = field


def _tell_errors(app: FastAPI) -> Callable[[Request, Exception], Awaitable[Response]]:
    """Has the application answer errors by problems; gives what answers one that is expected."""

    def answer(status: int, detail: str, errors: Sequence[Any] = (), **headers: str) -> Response:
        return Response(problem(status, detail, errors), status, headers, KIND)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        body = getattr(getattr(request.scope.get("route"), "body_field", None), "field_info", None)
        fields = list(getattr(getattr(body, "annotation", None), "model_fields", {}))
        errors = told(error.errors(), fields)
        first = errors[0]
        return answer(422, f"{first['field'] or 'the body'}: {first['detail']}", errors)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        detail = {
            404: f"there is nothing at {request.url.path}. See /docs.",
            405: "this path takes another method. See /docs.",
        }
        generic = error.detail in ("Not Found", "Method Not Allowed")
        return answer(
            error.status_code, detail[error.status_code] if generic else error.detail, **(error.headers or {})
        )

    @app.exception_handler(ItemicError)
    async def expected(request: Request, error: Exception) -> Response:
        if isinstance(error, SaveError):
            return answer(503, str(error), **{"Retry-After": "1"})
        errors = [{"field": error.field, "detail": str(error)}] if isinstance(error, TooLarge) else []
        return answer(404 if isinstance(error, UnknownItem) else 422, str(error), errors)

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> Response:
        return answer(500, FAILED)

    return expected
