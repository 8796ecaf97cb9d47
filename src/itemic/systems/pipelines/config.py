"""The options of a pipeline: its sources, filters, ranker and what is changed about the order."""

import re
from typing import Literal

from pydantic import Field, model_validator

from itemic.options import ModelConfig
from itemic.systems.base import Recommender, SystemConfig

TAKEN = {*dir(Recommender), "config", "parts", "weights", "tables", "shape", "vocabulary", "fitted_on", "histories"}
"""Names that a part cannot have: they are those of a recommender's own."""


class Source(ModelConfig):
    kind: Literal["model", "trending", "recent", "list"] = "model"
    """A model, what many took of late, the newest items, or a list made by hand."""
    n: int = Field(default=200, ge=1)
    """How many items it names for each request."""
    weight: float = Field(default=1.0, gt=0)
    """How much its places count beside those of other sources, where no ranker decides."""
    budget: float | None = Field(default=None, gt=0)
    """Milliseconds after which it is not waited for; None waits."""
    model: str | None = None
    """Of a model: its role among the parts; None is the name of the source."""
    half_life: float | None = Field(default=None, gt=0)
    """Of trending: days after which an interaction counts half. Default: 7."""
    column: str | None = None
    """Of recent: the column of the item table that says how new an item is; None takes those added last."""
    items: tuple[str, ...] | None = None
    """Of a list: ids of its items, best first."""

    @model_validator(mode="after")
    def _fits_its_kind(self) -> "Source":
        owner = {"model": "model", "half_life": "trending", "column": "recent", "items": "list"}
        for option, kind in owner.items():
            if getattr(self, option) is not None and self.kind != kind:
                raise ValueError(f"{option} is an option of sources of the kind '{kind}', not '{self.kind}'")
        if self.kind == "list" and not self.items:
            raise ValueError("a list needs items")
        return self


class Filters(ModelConfig):
    where: str | None = None
    """An SQL condition on the item table that every listed item satisfies, such as "stock > 0"."""
    blocked: tuple[str, ...] = ()
    """Ids of items that are never listed."""
    seen: bool | None = None
    """Whether items of the history are left out; None does as the request says."""


class Diversity(ModelConfig):
    mmr: float = Field(default=0.0, ge=0, lt=1)
    """The share of unlikeness in maximal marginal relevance; 0 is off."""
    vectors: str | None = None
    """The part by whose vectors items are alike; None takes the first that has vectors."""
    caps: dict[str, int] = Field(default={})
    """How many items with the same value of a column a list may have."""
    pin: tuple[str, ...] = ()
    """Ids of items that come first, in this order, wherever they may be listed."""
    boost: dict[str, float] = Field(default={})
    """By an SQL condition on the item table: what the relevance (0 to 1) of items that satisfy it is multiplied by."""

    @property
    def reorders(self) -> bool:
        """Whether the list is made step by step."""
        return self.mmr > 0 or bool(self.caps)


class Config(SystemConfig):
    sources: dict[str, Source] = Field(default={"itemknn": Source(), "trending": Source(kind="trending")})
    """Where candidates come from, by name."""
    fallback: tuple[str, ...] = ("trending",)
    """Sources that are asked only for what is missing, in this order: where the others have nothing or were late."""
    filters: Filters = Filters()
    """What may not be listed."""
    ranker: str | None = None
    """The part by whose scores candidates are ranked; None joins the lists of the sources by places."""
    budget: float | None = Field(default=None, gt=0)
    """Milliseconds that the ranker may take; when it is late the places in the lists decide."""
    diversity: Diversity = Diversity()
    """What is changed about the order."""
    temperature: float | None = Field(default=None, gt=0)
    """Explores: lists are drawn by the model of Plackett and Luce with relevance, from 0 to 1, divided by this. None
    draws nothing."""
    seed: int | None = None
    """Of the draws; None draws anew each time."""

    @model_validator(mode="after")
    def _is_whole(self) -> "Config":
        for name in self.fallback:
            if name not in self.sources:
                raise ValueError(f"the fallback '{name}' is no source; sources: {', '.join(self.sources)}")
        if not [name for name in self.sources if name not in self.fallback]:
            raise ValueError("give a source that is no fallback")
        if self.temperature is not None and (self.diversity.reorders or self.diversity.pin):
            raise ValueError("what is drawn cannot be reordered or pinned: its propensities would be wrong")
        for role in self.roles:
            if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", role) or role in TAKEN:
                raise ValueError(f"'{role}' cannot name a part; take another name")
        return self

    @property
    def roles(self) -> list[str]:
        """The parts that the sources and the ranker name."""
        models = [source.model or name for name, source in self.sources.items() if source.kind == "model"]
        others = [role for role in (self.ranker, self.diversity.vectors) if role is not None]
        return list(dict.fromkeys([*models, *others]))
