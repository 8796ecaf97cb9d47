"""What requests and answers look like: the types of the API, from which its description is made."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

MOMENT = 10**14
"""Milliseconds since 1970, some thousand years on."""
Id = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
"""The id of a user, an item or an event: text without control characters."""
Text = Annotated[str, Field(max_length=10_000)]
Value = str | bool | int | float | None | list[Annotated[str, Field(max_length=1000)]]
"""The value of an attribute."""


class Message(BaseModel):
    """Unknown fields are refused, and nothing is turned into another type."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True, strict=True)


class ForSomebody(Message):
    user: Id | None = None
    """Who asks: what they did is known."""
    history: list[Id] | None = None
    """What somebody did, oldest first, in the place of what is known of the user."""
    model: Id | None = None
    """Which model or pipeline answers; the first unless it is named."""

    @model_validator(mode="after")
    def _of_somebody(self) -> "ForSomebody":
        if self.user is None and self.history is None:
            raise ValueError("give a user, or a history, which may be empty")
        return self


class Recommend(ForSomebody):
    model_config = ConfigDict(json_schema_extra={"examples": [{"user": "42", "k": 10, "where": "price < 20"}]})
    k: int = Field(default=10, ge=1)
    """How many items."""
    where: Annotated[str, Field(max_length=1000)] | None = None
    """An SQL condition on the attributes of items."""
    exclude: list[Id] = []
    """Items that are left out."""


class Rank(ForSomebody):
    model_config = ConfigDict(json_schema_extra={"examples": [{"user": "42", "candidates": ["a", "b"]}]})
    candidates: list[Id] = Field(min_length=1)
    """The items that are put into order."""


class Similar(Message):
    model_config = ConfigDict(json_schema_extra={"examples": [{"item": "a", "k": 10}]})
    item: Id
    k: int = Field(default=10, ge=1)
    model: Id | None = None


class Complete(Message):
    model_config = ConfigDict(json_schema_extra={"examples": [{"basket": ["a", "b"], "k": 5}]})
    basket: list[Id] = Field(min_length=1)
    """Items that go together, in any order."""
    k: int = Field(default=10, ge=1)
    model: Id | None = None


class Search(Message):
    model_config = ConfigDict(json_schema_extra={"examples": [{"text": "red cup", "user": "42"}]})
    text: Annotated[str, Field(min_length=1, max_length=1000)]
    """Words of the items' texts."""
    user: Id | None = None
    """Whose tastes count beside the words."""
    history: list[Id] | None = None
    """The same of somebody never seen."""
    k: int = Field(default=10, ge=1)
    where: Annotated[str, Field(max_length=1000)] | None = None
    model: Id | None = None


class Explain(ForSomebody):
    model_config = ConfigDict(json_schema_extra={"examples": [{"user": "42", "item": "a"}]})
    item: Id
    """The item that is explained."""
    k: int = Field(default=3, ge=1, le=50)
    """How many items of the history are named."""


class Happened(Message):
    model_config = ConfigDict(json_schema_extra={"examples": [{"id": "e1", "user": "42", "item": "a", "kind": "view"}]})
    id: Id
    """Whoever sends it again with the same id changes nothing."""
    user: Id
    item: Id
    time: int | None = Field(default=None, ge=0, le=MOMENT)
    """Milliseconds since 1970; now unless it is given."""
    kind: Annotated[str, Field(max_length=50)] = ""
    """View, cart, purchase, ..."""
    weight: float = 1.0
    impression: Id | None = None
    """The id of the answer that showed the item."""


class Events(Message):
    events: list[Happened] = Field(min_length=1)


class Item(Message):
    model_config = ConfigDict(json_schema_extra={"examples": [{"id": "a", "attributes": {"title": "Cup", "price": 4}}]})
    id: Id
    attributes: dict[Annotated[str, Field(min_length=1, max_length=100)], Value] = Field(default={}, max_length=100)


class Items(Message):
    items: list[Item] = Field(min_length=1)


class Names(Message):
    items: list[Id] = Field(min_length=1)


class Listed(BaseModel):
    item: str
    score: float
    title: str | None = None
    source: str | None = None
    """The stage that named it."""
    propensity: float | None = None
    """How likely it was drawn for its place, where lists are drawn."""


class List(BaseModel):
    id: str | None = None
    """By which events say that they came of this list."""
    model: str
    items: list[Listed]
    reasons: list[str]
    """What to know about the list, such as that a fallback spoke."""


class Because(BaseModel):
    item: str
    title: str | None
    share: float
    """The share in the score, of 1."""


class Explanation(BaseModel):
    model: str
    item: str
    because: list[Because]
    shared: dict[str, Any]
    """Attributes that the item shares with items of the history."""


class Card(BaseModel):
    """What is shown of an item."""

    item: str
    title: str | None
    attributes: dict[str, Any]
    """Long texts are cut."""
    picture: bool
    """Whether `/v1/pictures` has one; it may still be unreadable."""


class Catalogue(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"total": 1, "items": [{"item": "a", "title": "Cup", "attributes": {"price": 4}, "picture": True}]}
            ]
        }
    )
    total: int
    """Items in all, on this page and others."""
    items: list[Card]


class Choice(BaseModel):
    value: str | bool
    items: int


class Column(BaseModel):
    name: str
    kind: Literal["choice", "beginning", "number"]
    """Equal to one of the values, beginning with one (the first level of a category), or from a number to another."""
    values: list[Choice] = []
    lowest: float | None = None
    highest: float | None = None


class Columns(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "pictures": False,
                    "columns": [{"name": "colour", "kind": "choice", "values": [{"value": "red", "items": 3}]}],
                }
            ]
        }
    )
    pictures: bool
    """Whether items may have pictures."""
    columns: list[Column]


class Level(BaseModel):
    size: int
    """Codes that there are."""
    used: int
    entropy: float
    """In bits; the logarithm of the size where all are equally frequent."""
    counts: list[int]
    """Items by code, the most frequent first."""


class Codes(BaseModel):
    tokenizer: str
    items: int
    """Items that have codes."""
    sharing: int
    """Items whose codes are those of another too."""
    levels: list[Level]


class Made(BaseModel):
    """A model that a pipeline is made of."""

    role: str
    system: str
    family: str
    paper: str
    new_items: bool
    """Whether it ranks items that it was not fitted with."""
    fitted_on: dict[str, Any]
    curve: list[dict[str, Any]]
    """Metrics by epoch on the validation part."""
    options: dict[str, Any]
    bytes: int
    codes: list[Codes]


class Served(BaseModel):
    name: str
    sources: list[str]
    ranker: str | None
    answers: list[str]
    chats: bool
    """Whether `/v1/chat` takes it."""
    parts: list[Made]


class Models(BaseModel):
    models: list[Served]
    comparison: dict[str, Any] | None
    """What `itemic compare --json` printed, from comparison.json beside the models."""


class Latency(BaseModel):
    path: str
    requests: int
    failed: int
    """Answered with a status of 400 or more."""
    p50: float | None
    """Milliseconds within which half of the requests were answered."""
    p95: float | None
    p99: float | None


class Clicked(BaseModel):
    model: str
    lists: int
    """Lists that were shown."""
    clicked: int
    """Those of them that led to an event."""
    rate: float
    interval: list[float]
    """95 % (Wilson)."""


class Live(BaseModel):
    seconds: int
    """The window, which ends now."""
    by_second: list[int]
    """Requests in each second of it."""
    all: Latency
    paths: list[Latency]
    models: list[Clicked]
    """Among the newest lists and events."""
    events: int
    """How many of the newest events were looked at."""


class Taken(BaseModel):
    accepted: int
    repeated: int
    """Known before by their ids."""
    unknown_items: int
    """Of items that are not in the catalogue: kept, but in no history."""


class ItemsTaken(BaseModel):
    new: int
    changed: int
    not_ranked_by: list[str]
    """Models that rank only the items that they were fitted with."""


class Refresh(BaseModel):
    running: bool
    """Whether models are being fitted."""
    ended: int | None
    """When that ended the last time, in milliseconds since 1970."""
    error: str | None
    """Why it changed nothing; null where it did."""


class Wrong(BaseModel):
    field: str
    detail: str


class Problem(BaseModel):
    type: str = "about:blank"
    title: str
    status: int
    detail: str
    errors: list[Wrong] = []
