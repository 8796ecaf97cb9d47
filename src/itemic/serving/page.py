"""The web page: its files, and what it asks beside the rest of the API."""

import asyncio
import gzip
import time
from collections.abc import Callable
from hashlib import blake2b
from importlib.resources import files
from typing import Annotated, Any, NamedTuple

from fastapi import APIRouter, Query, Request, Response
from starlette.exceptions import HTTPException

from itemic.serving import messages as m
from itemic.serving.insight import live_told, models_told
from itemic.serving.metrics import Metrics
from itemic.serving.service import Service
from itemic.serving.shelf import Shelf

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
"""The page runs and shows what the service itself sends, and nothing else; blobs are pictures asked for with a key.
Browsers that know trusted types refuse to make HTML or a script of text."""
HEADERS = {
    "content-security-policy": POLICY,
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "cache-control": "no-cache",
    "vary": "accept-encoding",
}
KINDS = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
LOST: dict[int | str, dict[str, Any]] = {404: {"model": m.Problem, "description": "There is no such thing"}}
PICTURES: dict[int | str, dict[str, Any]] = {
    **LOST,
    200: {"description": "The picture", "content": {"image/*": {"schema": {"type": "string", "format": "binary"}}}},
}


class File(NamedTuple):
    """A file of the page, held in memory."""

    body: bytes
    packed: bytes
    kind: str
    tag: str


def make_router(now: Callable[[], Service], metrics: Metrics) -> APIRouter:
    """The paths of the page, which ask the service that `now` gives when a request comes."""
    router, page = APIRouter(), _files()
    kept = Shelf(now())

    def shelf() -> Shelf:
        nonlocal kept
        if kept.service is not now():
            kept = Shelf(now())
        return kept

    async def on_thread(service: Service, work: Callable[..., Any], *values: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(service.thread, work, *values)

    @router.get("/", include_in_schema=False)
    async def index(request: Request) -> Response:
        return _sent(request, page["index.html"])

    @router.get("/static/{name}", include_in_schema=False)
    async def static(request: Request, name: str) -> Response:
        if name not in page:
            raise HTTPException(404, f"the page has no file '{name}'.")
        return _sent(request, page[name])

    @router.get("/v1/catalogue", response_model=m.Catalogue, tags=["ask"])
    async def catalogue(
        offset: Annotated[int, Query(ge=0, le=10**9)] = 0,
        limit: Annotated[int, Query(ge=1, le=200)] = 48,
        where: Annotated[str | None, Query(max_length=1000, examples=["price < 20"])] = None,
        item: Annotated[list[m.Id] | None, Query(max_length=200)] = None,
    ) -> Any:
        """Items to look through, those taken most often first; or the ones that are named."""
        one = shelf()
        if item is not None:
            return await on_thread(one.service, one.named, item)
        return await on_thread(one.service, one.page, offset, limit, where)

    @router.get("/v1/columns", response_model=m.Columns, tags=["ask"])
    async def columns() -> Any:
        """What items can be filtered by."""
        one = shelf()
        return await on_thread(one.service, one.columns)

    @router.get("/v1/pictures/{item}", response_class=Response, responses=PICTURES, tags=["ask"])
    def picture(item: m.Id) -> Response:
        """The picture of an item."""
        found = shelf().picture(item)
        if found is None:
            raise HTTPException(404, f"there is no picture of '{item}'.")
        return Response(found[0], media_type=found[1], headers={"cache-control": "private, max-age=3600"})

    @router.get("/v1/models", response_model=m.Models, tags=["service"])
    async def models(request: Request) -> Any:
        """The models that answer: what each is made of, and how it was measured."""
        can_chat = any(getattr(route, "path", "") == "/v1/chat" for route in request.app.routes)
        return await on_thread(now(), models_told, now(), can_chat)

    @router.get("/v1/live", response_model=m.Live, tags=["service"])
    def live() -> Any:
        """The traffic of the last minute, and what became of the newest lists."""
        return live_told(metrics.recent.copy(), now().store, time.time())

    return router


def _files() -> dict[str, File]:
    found = {}
    for one in files("itemic.serving").joinpath("static").iterdir():
        body, kind = one.read_bytes(), KINDS[one.name.rpartition(".")[2]]
        found[one.name] = File(body, gzip.compress(body), kind, f'"{blake2b(body, digest_size=8).hexdigest()}"')
    return found


def _sent(request: Request, file: File) -> Response:
    headers = {**HEADERS, "etag": file.tag}
    if request.headers.get("if-none-match") == file.tag:
        return Response(status_code=304, headers=headers)
    if "gzip" in request.headers.get("accept-encoding", ""):
        return Response(file.packed, headers={**headers, "content-encoding": "gzip"}, media_type=file.kind)
    return Response(file.body, headers=headers, media_type=file.kind)
