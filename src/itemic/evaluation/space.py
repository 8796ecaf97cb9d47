"""What a search may try for an option, written as text: a range such as 1e-4..1e-2:log, or values such as 32,64,128."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import yaml

from itemic.errors import ConfigError
from itemic.evaluation.recipes import merged

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

RANGE = re.compile(r"(.+?)\.\.(.+?)(:log)?")


def own_space(known: Any, settings: Mapping[str, Any]) -> dict[str, str]:
    """What the Config of a system tunes, without the options that are set."""
    return {option: text for option, text in known.Config.tune.items() if _at(settings, option) is None}


def search_space(known: Any, settings: Mapping[str, Any], over: Mapping[str, str]) -> "dict[str, BaseDistribution]":
    """What Optuna draws each option from, as `over` says it.

    Raises:
        ConfigError: an option does not exist, is set already, or cannot have what is to be tried; or there is none.
    """
    name, chosen, space = known.entry.name, known.configured(settings).model_dump(), {}
    if not over:
        raise ConfigError(
            f"{name} searches nothing unless told what. Give options, as in --over dim=32,64,128; "
            f"itemic systems {name} lists them."
        )
    for option, text in over.items():
        if _at(settings, option) is not None:
            raise ConfigError(f"{option} is set to {_at(settings, option)!r} and searched over {text}. Do one of them.")
        try:
            space[option] = distribution(text, _at(chosen, option))
        except ValueError as error:
            raise ConfigError(
                f"cannot search {option}={text}: {error}. Write for example 10..500, 1e-4..1e-2:log or 32,64,128."
            ) from None
        for value in ends(space[option]):
            known.configured(merged(settings, {option: value}))
    return space


def distribution(text: str, default: Any = None) -> "BaseDistribution":
    """What Optuna draws an option from; a range holds whole numbers where the default or both ends are whole.

    >>> distribution("1e-4..1e-2:log", 1e-3)
    FloatDistribution(high=0.01, log=True, low=0.0001, step=None)
    >>> distribution("10..500", 100), distribution("16,32,auto")
    (IntDistribution(high=500, log=False, low=10, step=1), CategoricalDistribution(choices=(16, 32, 'auto')))

    Raises:
        ValueError: the text is neither a range nor several values; the message says why.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    found = RANGE.fullmatch(text)
    if found is None:
        choices = [_value(part) for part in text.split(",")]
        if len(choices) < 2:
            raise ValueError("one value leaves no choice")
        return CategoricalDistribution(choices)
    low, high, log = _value(found[1]), _value(found[2]), found[3] is not None
    if not all(isinstance(end, int | float) for end in (low, high)):
        raise ValueError("a range goes from a number to a number")
    if low >= high:
        raise ValueError("a range goes from the smaller number to the larger one")
    if log and low <= 0:
        raise ValueError("a logarithmic range starts above 0")
    if isinstance(default, int) or (not isinstance(default, float) and isinstance(low, int) and isinstance(high, int)):
        return IntDistribution(int(low), int(high), log=log)
    return FloatDistribution(float(low), float(high), log=log)


def ends(distribution: Any) -> list[Any]:
    """The values of a choice, or the two ends of a range."""
    return list(getattr(distribution, "choices", ())) or [distribution.low, distribution.high]


def rounded(value: Any, distribution: Any) -> Any:
    """A drawn number with three digits, still in its range; anything else as it is.

    >>> rounded(0.00123456, distribution("1e-4..1e-2:log", 1e-3))
    0.00123
    """
    if not isinstance(value, float) or not hasattr(distribution, "low"):
        return value
    return min(max(float(f"{value:.3g}"), distribution.low), distribution.high)


def defaults(config: Any, space: "Mapping[str, BaseDistribution]") -> dict[str, Any]:
    """The options of a config that the space holds, as they are: where a search begins."""
    found = {option: _at(config.model_dump(), option) for option in space}
    return {option: value for option, value in found.items() if _holds(space[option], value)}


def _holds(distribution: Any, value: Any) -> bool:
    if hasattr(distribution, "choices"):
        return value in distribution.choices
    return isinstance(value, int | float) and distribution.low <= value <= distribution.high


def _at(options: Any, path: str) -> Any:
    """The option at a path such as training.lr; None where there is none."""
    for name in path.split("."):
        options = options.get(name) if isinstance(options, Mapping) else None
    return options


def _value(text: str) -> Any:
    """A number, also one such as 1e-4, which YAML takes for a word; else what YAML makes of it."""
    try:
        return float(text) if re.search(r"[.eE]", text) else int(text)
    except ValueError:
        return yaml.safe_load(text)
