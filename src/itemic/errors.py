"""What Itemic raises when something expected goes wrong: one line, the value at fault, and what to do next."""

import difflib
from collections.abc import Iterable


class ItemicError(Exception):
    """Base of every error a user can cause and mend; the command line prints it without a stack trace."""


class ConfigError(ItemicError):
    """An option that does not exist or has a value it cannot have."""


class DataError(ItemicError):
    """A file, row or column that is not what its reader needs."""


class QueryError(ItemicError):
    """A request the model cannot answer."""


class UnknownItems(QueryError):
    """Items or users of a request that the catalogue does not hold."""


class LeakError(ItemicError):
    """A model was fitted on what it is now to be tested with."""


class TrainingDiverged(ItemicError):
    """A loss term became nan or infinite."""


class LoadError(ItemicError):
    """A saved folder that is damaged, foreign or of another version."""


class SaveError(ItemicError):
    """A folder that cannot be written; whatever was there before is unchanged."""


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """The nearest of the options as a hint to append to a message, or nothing when none is near.

    >>> did_you_mean("gama", ["dim", "gamma"])
    " Did you mean 'gamma'?"
    >>> did_you_mean("zzz", ["dim", "gamma"])
    ''
    """
    near = difflib.get_close_matches(word, list(options), n=1, cutoff=0.5)
    return f" Did you mean '{near[0]}'?" if near else ""


def some(values: Iterable[object], limit: int = 3) -> str:
    """The first few values quoted and joined, with a count of the rest, for messages.

    >>> some(["a", "b", "c", "d"])
    "'a', 'b', 'c' and 1 more"
    """
    listed = list(values)
    shown = ", ".join(repr(v) for v in listed[:limit])
    return shown if len(listed) <= limit else f"{shown} and {len(listed) - limit:,} more"
