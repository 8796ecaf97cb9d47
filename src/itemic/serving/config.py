"""How a service is set up: one YAML file, read strictly, and environment variables for what a machine decides."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_origin

import yaml
from pydantic import Field, field_validator, model_validator

from itemic.data.filters import length_of_time
from itemic.errors import ConfigError, DataError
from itemic.options import ModelConfig, configured
from itemic.systems.pipelines.config import Config as PipelineConfig

PREFIX = "ITEMIC_SERVE_"
"""What environment variables begin with: ITEMIC_SERVE_PORT=80 is port: 80."""


class Limits(ModelConfig):
    body: int = Field(default=1_000_000, ge=1000)
    """Bytes of a request."""
    k: int = Field(default=1000, ge=1)
    """Items of an answer."""
    history: int = Field(default=1000, ge=1)
    """Items of a history, a basket or a list of candidates in a request."""
    bulk: int = Field(default=1000, ge=1)
    """Events or items in one request."""
    rate: float = Field(default=2000, gt=0)
    """Requests a second for each key; twice as many may come at once."""


class Refresh(ModelConfig):
    every: str | None = None
    """How often the service fits its models again: 12h, 1d, ... None: when `itemic refresh` or the API says so."""
    tolerance: float = Field(default=0.05, ge=0, le=1)
    """How much worse than the old a new model may be, a share of its ndcg@10 by the newest events."""

    @field_validator("every")
    @classmethod
    def _is_a_time(cls, every: str | None) -> str | None:
        if every is not None:
            try:
                length_of_time(every)
            except DataError as error:
                raise ValueError(str(error).rstrip(".")) from None
        return every

    @property
    def seconds(self) -> float | None:
        """The same in seconds."""
        return None if self.every is None else length_of_time(self.every) / 1000


class Config(ModelConfig):
    host: str = "127.0.0.1"
    """The address that is listened at; on another than this machine's own a key is needed."""
    port: int = Field(default=8321, ge=0, le=65535)
    """The port; 0 takes a free one."""
    store: str = "itemic.db"
    """Where events, items and keys are kept: a file, or postgresql://user:password@host/database."""
    vectors: Literal["memory", "store"] = "memory"
    """Where models that compare vectors search them: each service by itself, or in the store, which then is PostgreSQL
    with the extension pgvector."""
    models: dict[str, str] = Field(default={})
    """Folders of fitted models by name; those of the command line come beside them."""
    data: str | None = None
    """Folder of the dataset: texts and attributes of items, for search and filters."""
    pipelines: dict[str, PipelineConfig] = Field(default={})
    """What answers, by name; the first unless a request names another. None: each model by itself, and where it has
    nothing to go by, what trends."""
    traffic: dict[str, Annotated[float, Field(gt=0)]] = Field(default={})
    """Shares of users by pipeline, where a request names none: {main: 90, new: 10}. A user stays with one. None: all
    go to the first."""
    timeout: float = Field(default=10, gt=0)
    """Seconds after which a request is given up: until its answer begins, and between two pieces where it streams."""
    cors: tuple[str, ...] = ()
    """Web pages that may ask, as https://shop.example; none by default."""
    refresh: Refresh = Refresh()
    """How models are kept fresh; it needs data."""
    limits: Limits = Limits()
    """What a request may be."""

    @model_validator(mode="after")
    def _fits_together(self) -> "Config":
        if self.refresh.every and self.data is None:
            raise ValueError("to refresh, the dataset is needed: name it in data")
        if self.traffic and abs(sum(self.traffic.values()) - 100) > 1e-6:
            raise ValueError(f"the shares of traffic add up to {sum(self.traffic.values()):g}, not to 100")
        return self


def read_config(path: Path | None, environment: Mapping[str, str], **given: Any) -> Config:
    """The config of a file, changed by the environment, and that by what is `given` and not None.

    >>> read_config(None, {"ITEMIC_SERVE_PORT": "80"}, host="0.0.0.0").port
    80

    Raises:
        ConfigError: the file cannot be read, or an option does not exist or has a value it cannot have.
    """
    document: Any = {}
    if path is not None:
        try:
            document = yaml.safe_load(path.read_text()) or {}
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} cannot be read: {error}. Give the file of the service's options.") from None
        except yaml.YAMLError as error:
            raise ConfigError(f"{path} is no YAML: {' '.join(str(error).split())}. Mend it there.") from None
        if not isinstance(document, dict):
            raise ConfigError(f"{path} holds no options by name. Write for example: port: 8321")
    name = str(path) if path is not None else "serve"
    kinds = {key: field.annotation for key, field in Config.model_fields.items()}
    simple = [
        key for key, kind in kinds.items() if kind in (str, int, float, str | None) or get_origin(kind) is Literal
    ]
    for variable, value in environment.items():
        if variable.startswith(PREFIX):
            option = variable.removeprefix(PREFIX).lower()
            if option not in simple:
                listed = ", ".join(PREFIX + key.upper() for key in simple)
                raise ConfigError(f"the environment variable {variable} sets no option. There are: {listed}.")
            document[option] = value
    document |= {option: value for option, value in given.items() if value is not None}
    return configured(name, Config, document)


def names_of(folders: Sequence[str]) -> dict[str, str]:
    """Folders of models by the names under which they are served: the last part of each.

    >>> names_of(["runs/ease", "runs/words/"])
    {'ease': 'runs/ease', 'words': 'runs/words/'}

    Raises:
        ConfigError: two have the same name.
    """
    named: dict[str, str] = {}
    for folder in folders:
        name = Path(folder).resolve().name
        if name in named:
            raise ConfigError(
                f"{named[name]} and {folder} would both be served as '{name}'. Name them in models: of a file."
            )
        named[name] = folder
    return named
