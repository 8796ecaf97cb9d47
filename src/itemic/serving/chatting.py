"""POST /v1/chat: a conversation with a model that talks, answered piece by piece as server-sent events."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from fastapi import FastAPI, Response
from fastapi.responses import StreamingResponse
from pydantic import ConfigDict, Field

from itemic.errors import ItemicError, QueryError, did_you_mean
from itemic.serving import messages as m
from itemic.serving.service import Service

if TYPE_CHECKING:
    from itemic.systems.language.conversation import Shown
    from itemic.systems.language.titles import Titles

STREAM = "text/event-stream"
SAYS = "`text` events with pieces of the answer, and last a `list` event with the items it drew from."


class Turn(m.Message):
    role: Literal["user", "recommender", "assistant"]
    """Who speaks; an assistant is a recommender."""
    text: m.Text


class Chat(m.Message):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"messages": [{"role": "user", "text": "I liked Heat."}]}]}
    )
    messages: list[Turn] = Field(min_length=1)
    """What was said so far, oldest first; the last turn is the user's, and is answered."""
    user: m.Id | None = None
    """Who talks: what they did is known."""
    k: int = Field(default=5, ge=1)
    """How many items are in the list."""
    model: m.Id | None = None
    """Which model answers; the first that talks unless it is named."""


def talking(service: Service) -> dict[str, Any]:
    """The models that talk, by the names of what answers."""
    found: dict[str, Any] = {}
    for name, pipeline in service.pipelines.items():
        for role in pipeline.declared:
            if "text" in pipeline.parts[role].entry.gives:
                found.setdefault(name, pipeline.parts[role])
    return found


def add_chat(app: FastAPI, now: Callable[[], Service]) -> None:
    """Adds the path; `now` gives the service that answers when a request comes."""
    known: dict[str, tuple[Any, int, Titles]] = {}

    def begun(service: Service, model: Any, name: str, body: Chat) -> tuple[Iterator[Any], Any]:
        """What is said after the first piece, and that piece; on the thread of the models."""
        from itemic.systems.language.conversation import Conversation, titles_of

        n_items = model.catalogue.n_items
        if name not in known or known[name][0] is not model or known[name][1] != n_items:
            known[name] = model, n_items, titles_of(model)
        history = service.histories.of(body.user)[1].tolist() if body.user is not None else []
        history = [code for code in history if code < n_items]
        gone = np.flatnonzero(service.items.gone[:n_items]).tolist()
        talk = Conversation(model, history=history, k=body.k, exclude=gone, titles=known[name][2])
        for turn in body.messages[:-1]:
            talk.hear("user" if turn.role == "user" else "recommender", turn.text)
        said = talk.say(body.messages[-1].text)
        return said, next(said)

    async def events(service: Service, said: Iterator[Any], piece: Any) -> AsyncIterator[bytes]:
        try:
            while isinstance(piece, str):
                yield _event("text", {"text": piece})
                piece = await _on(service, next, said)
            yield _event("list", {"items": _listed(piece, service), "reasons": list(piece.notes)})
        except ItemicError as error:
            yield _event("error", {"detail": str(error)})

    @app.post(
        "/v1/chat",
        response_class=StreamingResponse,
        responses={200: {"content": {STREAM: {}}, "description": SAYS}},
        tags=["ask"],
    )
    async def chat(body: Chat) -> Response:
        """What a recommender says next in a conversation, and the items that it drew from, with reasons."""
        service = now()
        limits, able = service.config.limits, talking(service)
        for field, size, limit in (("messages", len(body.messages), limits.history), ("k", body.k, limits.k)):
            if size > limit:
                raise QueryError(f"{field} is {size:,}; at most {limit:,} are taken at once. Give fewer.")
        if body.messages[-1].role != "user":
            raise QueryError(f"messages end with a turn of the {body.messages[-1].role}. End with one of the user.")
        if not able:
            raise QueryError(
                "no model that is served can hold a conversation. Serve one as well: itemic fit ilm DATA --lm NAME "
                "--out runs/talk"
            )
        name = body.model or next(iter(able))
        if name not in able:
            raise QueryError(f"'{name}' does not talk.{did_you_mean(name, able)} Those that do: {', '.join(able)}.")
        said, first = await _on(service, begun, service, able[name], name, body)
        return StreamingResponse(events(service, said, first), media_type=STREAM)


def _listed(shown: "Shown", service: Service) -> list[dict[str, str]]:
    found = zip(shown.items, shown.titles, shown.reasons)
    return [{"item": service.items.names[item], "title": title, "reason": reason} for item, title, reason in found]


def _event(name: str, data: Any) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n".encode()


async def _on(service: Service, work: Any, *values: Any) -> Any:
    return await asyncio.get_running_loop().run_in_executor(service.thread, work, *values)
