"""Options of a model: how they are declared, given and refused."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from itemic.errors import ConfigError, did_you_mean


class ModelConfig(BaseModel):
    """The options of a model: values only, frozen, unknown names refused. A docstring under a field is its help."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)
    tune: ClassVar[Mapping[str, str]] = {}
    """What `itemic tune` searches unless told otherwise: options by path, each with a range or values to try."""


def configured(name: str, config: type[ModelConfig], options: Mapping[str, Any], parts: Iterable[str] = ()) -> Any:
    """The config with these options, of a model of this name, which is made of `parts`.

    Raises:
        ConfigError: names the option, its value or its nearest spelling.
    """
    try:
        return config(**{option: _completed(config, option, value) for option, value in options.items()})
    except ValidationError as error:
        first = error.errors()[0]
        option = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            fields = _fields_beside(config, first["loc"])
            fields += parts if len(first["loc"]) == 1 else []
            near, listed = did_you_mean(option, fields), ", ".join(fields) or "none"
            raise ConfigError(f"{name} has no option '{option}'.{near} Options: {listed}.") from None
        told = first["msg"].removeprefix("Value error, ")
        if first["type"] == "value_error" and isinstance(first["input"], Mapping):  # of a group: its text says it all
            raise ConfigError(f"{name}: {option + ': ' if option else ''}{told}.") from None
        raise ConfigError(f"{name}: {option} cannot be {first['input']!r}: {told}.") from None


def _completed(config: type[ModelConfig], option: str, value: Any) -> Any:
    """A group of options given in part, as in training={"epochs": 5}: the others keep the defaults of this system."""
    default = config.model_fields[option].default if option in config.model_fields else None
    if isinstance(default, BaseModel) and isinstance(value, Mapping):
        return {**default.model_dump(), **value}
    return value


def _fields_beside(config: type[BaseModel], path: Sequence[Any]) -> list[str]:
    """The options that could stand where a path of names ends, each with its path."""
    *groups, _ = path
    kind: Any = config
    for group in groups:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            kind = kind.model_fields[group].annotation
        else:  # of dict[str, Group] the key can be anything
            kind = get_args(kind)[-1]
    return [".".join([*map(str, groups), name]) for name in kind.model_fields]


def by_path(options: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Every single option by its path.

    >>> by_path({"dim": 8, "training": {"lr": 0.1}})
    {'dim': 8, 'training.lr': 0.1}
    """
    named: dict[str, Any] = {}
    for name, value in options.items():
        named |= by_path(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return named
