"""Errors as problem+json: what is wrong with which field, and the mend; never a stack trace."""

import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from itemic.errors import did_you_mean

KIND = "application/problem+json"


def problem(status: int, detail: str, errors: Sequence[Mapping[str, str]] = ()) -> bytes:
    """The body of an error.

    >>> problem(404, "there is no item 'x'.")
    b'{"type":"about:blank","title":"Not Found","status":404,"detail":"there is no item \\'x\\'.","errors":[]}'
    """
    told = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    return json.dumps({**told, "errors": list(errors)}, separators=(",", ":")).encode()


def told(errors: Sequence[Any], fields: Sequence[str]) -> list[dict[str, str]]:
    """What a validation found wrong, a field path and a sentence each; of equal paths only the first.

    >>> told([{"type": "extra_forbidden", "loc": ("body", "usr"), "msg": ""}], ["user", "k"])
    [{'field': 'usr', 'detail': "there is no such field. Did you mean 'user'? Fields: user, k."}]
    """
    found: dict[str, str] = {}
    for error in errors[:20]:
        path = [str(part) for part in error["loc"] if part != "body"]
        field, said = ".".join(path), str(error["msg"]).removeprefix("Value error, ")
        if error["type"] == "extra_forbidden":
            near = did_you_mean(path[-1], fields) if len(path) == 1 else ""
            said = f"there is no such field.{near}" + (f" Fields: {', '.join(fields)}." if len(path) == 1 else "")
        elif error["type"] == "json_invalid":
            field, said = "", f"this is no JSON: {error.get('ctx', {}).get('error', 'it cannot be read')}"
        elif error["type"] == "missing":
            said = "it is missing. Give it."
        found.setdefault(field, said)
    return [{"field": field, "detail": said} for field, said in found.items()]
