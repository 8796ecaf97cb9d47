"""Recipes: the set-up of a system on a data set as a small YAML file, with the numbers published for it."""

import itertools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from itemic import metrics as formulas
from itemic.errors import ConfigError, ItemicError, did_you_mean
from itemic.evaluation.protocols import check_protocol


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Target(_Part):
    published: float | None = None
    source: str = ""
    """Where the published value stands: a paper's table, a repository's log."""


class SplitBy(_Part):
    by: str = "official"
    test: float = 0.1
    valid: float = 0.1
    seed: int | list[int] = 0
    """Where the division comes from; with several, the recipe is run on each and their spread is reported."""
    mask_valid: bool | None = None

    def seeds(self) -> list[int]:
        """The seed of each division."""
        return self.seed if isinstance(self.seed, list) else [self.seed]


Carving = Literal["random", "users"]
"""How a share of the train part is held out: of each user's interactions, or whole users, as sessions ask for."""


class Search(_Part):
    """Which settings to try, by what is not the test part, before the chosen one is fitted on the train part."""

    metric: str
    valid: float | None = Field(0.1, gt=0, lt=1)
    """The share of the train part to choose by, trained on again once the choice is made; null: the validation part."""
    by: Carving = "random"
    seed: int = 0
    grid: dict[str, list[Any]] = {}
    """Values by option; all combinations are tried."""
    configs: list[dict[str, Any]] = []
    """Or the settings themselves."""

    @field_validator("metric")
    @classmethod
    def _is_metric(cls, name: str) -> str:
        return _metric(name)

    @model_validator(mode="after")
    def _has_settings(self) -> "Search":
        if bool(self.grid) == bool(self.configs):
            raise ValueError("give a grid or configs, one of the two")
        return self

    def settings(self) -> list[dict[str, Any]]:
        """Every setting to try; an option of a group goes by its path, as in `training.lr: [0.001, 0.01]`.

        >>> Search(metric="ndcg@20", grid={"a0": [0.1, 0.3], "dim": [64]}).settings()
        [{'a0': 0.1, 'dim': 64}, {'a0': 0.3, 'dim': 64}]
        """
        if self.configs:
            return self.configs
        return [dict(zip(self.grid, values)) for values in itertools.product(*self.grid.values())]


class Stop(_Part):
    """After which epoch a trained system stops: the best one on the validation part.

    Where there is none, a share of the train part stands in for it, and then the system is fitted anew on all of it for
    as many epochs. The test part is never looked at.
    """

    metric: str
    holdout: float = Field(default=0.1, gt=0, lt=1)
    """That share."""
    by: Carving = "random"
    seed: int = 0

    @field_validator("metric")
    @classmethod
    def _is_metric(cls, name: str) -> str:
        return _metric(name)


class Before(_Part):
    """A model that is fitted first, for a system that is given its folder."""

    system: str
    data: list[str] = Field(min_length=1)
    """Folders of $ITEMIC_DATA, on all of which together it is fitted; of the recipe's own on the train part alone."""
    config: dict[str, Any] = {}
    export: str | None = None
    """Which folder of what it exports is given, as `decoder`; without it the folder of the saved model."""


class Recipe(_Part):
    system: str
    dataset: str
    """The name of a folder of $ITEMIC_DATA."""
    variant: str | None = None
    pretrain: list[str] = []
    """Other such folders, on all of which together it is fitted; it is then put on its own data without training
    (`adopt`). They are divided in the same way, and validation is on them."""
    lent: list[str] = []
    """Other such folders, whose users are added to the train part with what they took of its items, found by IMDb id or
    by title and year. The result says of how many items somebody knows."""
    before: dict[str, Before] = {}
    """Models fitted first, by the option that takes the folder of each, as in `lm.model`."""
    split: SplitBy = SplitBy()
    """How the data are divided; a name alone is enough, as in `split: official`."""
    fit: Literal["train", "train+valid"] = "train"
    protocol: str = "full"
    also: list[str] = []
    """Other protocols under which the same models are measured."""
    cuts: list[int] = []
    """Widths to which the same models are cut and measured, for a system that is trained for several at once."""
    metrics: dict[str, Target] = Field(min_length=1)
    config: dict[str, Any] = {}
    """Options of the system; what is not named keeps its default."""
    seeds: list[int] = Field([0], min_length=1)
    """One run each, for a system with an option `seed`."""
    search: Search | None = None
    stop: Stop | None = None
    """For a trained system. Without it a run stops by the validation part where there is one, else after all epochs."""
    beside: dict[str, dict[str, Any]] = {}
    """Other settings measured in the same run by name, as changes of `config`: what a choice costs. With the key
    `system` it is another system with options of its own, for which nothing is `lent` unless it says `lent: true`."""
    note: str = ""

    @field_validator("split", mode="before")
    @classmethod
    def _split_by_name(cls, value: Any) -> Any:
        return {"by": value} if isinstance(value, str) else value

    @field_validator("metrics", mode="before")
    @classmethod
    def _known_metrics(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {_metric(str(name)): {} if target is None else target for name, target in value.items()}

    @field_validator("protocol", "also")
    @classmethod
    def _known_protocols(cls, value: Any) -> Any:
        for name in [value] if isinstance(value, str) else value:
            try:
                check_protocol(name)
            except ConfigError as error:
                raise ValueError(str(error)) from None
        return value

    @field_validator("config")
    @classmethod
    def _no_seed(cls, value: dict[str, Any]) -> dict[str, Any]:
        if "seed" in value:
            raise ValueError("a seed belongs under seeds, as in `seeds: [0]`")
        return value

    @model_validator(mode="after")
    def _trains_elsewhere_or_searches(self) -> "Recipe":
        if self.pretrain and self.search is not None:
            raise ValueError("a model of other data has nothing to search on. Leave out search or pretrain")
        if self.lent and (self.pretrain or self.search is not None or self.stop is not None):
            raise ValueError("what is lent belongs to nobody who is held out. Leave out search, stop and pretrain")
        if len(self.split.seeds()) > 1 and any(self.dataset in one.data for one in self.before.values()):
            raise ValueError("what is fitted before on the same data would know all divisions. Give the split one seed")
        return self

    @property
    def name(self) -> str:
        """How messages call it: ease/gowalla-ngcf.bars."""
        return f"{self.system}/{self.dataset}" + (f".{self.variant}" if self.variant else "")


def merged(options: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The options with the changes on top, groups of options merged; an option of a group may go by its path.

    >>> merged({"dim": 8, "training": {"lr": 0.1}}, {"training.epochs": 5})
    {'dim': 8, 'training': {'lr': 0.1, 'epochs': 5}}
    """
    result = dict(options)
    for path, change in changes.items():
        name, dot, rest = path.partition(".")
        value, before = {rest: change} if dot else change, result.get(name, {})
        both = isinstance(value, Mapping) and isinstance(before, Mapping)
        result[name] = merged(before, value) if both else value
    return result


def beside(recipe: Recipe, config: Mapping[str, Any], changes: Mapping[str, Any]) -> tuple[Recipe, dict[str, Any]]:
    """A recipe and its config for one of its settings in `beside`, without what is measured of the recipe alone.

    Another system has the first seed, as it may have no seed at all.
    """
    alone: dict[str, Any] = {"also": [], "cuts": []}
    if "system" not in changes:
        return recipe.model_copy(update=alone), merged(config, changes)
    own = {name: value for name, value in changes.items() if name not in ("system", "lent")}
    alone |= {"system": changes["system"], "stop": None, "seeds": recipe.seeds[:1]}
    alone |= {"lent": recipe.lent if changes.get("lent") else []}
    return recipe.model_copy(update=alone), merged({}, own)


def recipes_folder() -> Path:
    """Where the recipes are: $ITEMIC_RECIPES, else `recipes` here, else that of the source checkout.

    Raises:
        ConfigError: there is none of them.
    """
    named = os.environ.get("ITEMIC_RECIPES")
    places = [Path(named)] if named else [Path("recipes"), Path(__file__).parents[3] / "recipes"]
    for place in places:
        if place.is_dir():
            return place
    raise ConfigError(f"there is no folder {places[0]}. Run in a checkout of itemic, or set ITEMIC_RECIPES.")


def find_recipe(system: str, dataset: str, variant: str | None = None) -> Recipe:
    """The recipe of a system on a data set.

    Raises:
        ConfigError: there is none, or its file is not a recipe.
    """
    folder = recipes_folder()
    path = folder / system / (dataset + (f".{variant}" if variant else "") + ".yaml")
    if path.exists():
        return _filed(path)
    wanted = path.relative_to(folder).with_suffix("").as_posix()
    known = [p.relative_to(folder).with_suffix("").as_posix() for p in sorted(folder.glob("*/*.yaml"))]
    near = did_you_mean(wanted, known)
    raise ConfigError(f"there is no recipe {wanted}.{near} See them all: itemic reproduce --list")


def all_recipes() -> Iterator[Recipe]:
    """Every recipe, by system and data set."""
    return (_filed(path) for path in sorted(recipes_folder().glob("*/*.yaml")))


def read_recipe(path: Path) -> Recipe:
    """The recipe in a file.

    Raises:
        ConfigError: it cannot be read; the message names the file, the key and its value.
    """
    try:
        facts = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read: {' '.join(str(error).split())}.") from error
    if not isinstance(facts, dict):
        raise ConfigError(f"{path} is not a recipe: it should hold keys such as system, dataset and metrics.")
    try:
        return Recipe.model_validate(facts)
    except ValidationError as error:
        raise ConfigError(f"{path}: {_first(error)}") from None


def _filed(path: Path) -> Recipe:
    """The recipe in a file of the recipes' folder, which is named after it."""
    recipe = read_recipe(path)
    if (recipe.name, path.suffix) != (f"{path.parent.name}/{path.stem}", ".yaml"):
        raise ConfigError(f"{path} holds the recipe {recipe.name}. Move it to {recipe.name}.yaml, or mend its keys.")
    return recipe


def _metric(name: str) -> str:
    try:
        return formulas.metric(name).name
    except ItemicError as error:
        raise ValueError(str(error)) from None


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    key = ".".join(map(str, first["loc"]))
    if first["type"] == "extra_forbidden":
        of = {"split": SplitBy, "search": Search, "stop": Stop, "metrics": Target}.get(str(first["loc"][0]), Recipe)
        known = list(of.model_fields)
        return f"there is no key '{key}'.{did_you_mean(str(first['loc'][-1]), known)} Keys: {', '.join(known)}."
    if first["type"] == "missing":
        return f"the key '{key}' is missing."
    return f"{key} cannot be {first['input']!r}: {first['msg'].removeprefix('Value error, ').rstrip('.')}."
