"""Itemic: learns what every item of a catalogue is and answers every question of the form "which items?".

>>> import itemic
>>> data = itemic.Dataset.from_frame({"user": ["ann", "ann", "bob", "bob", "cid"], "item": ["x", "y", "x", "y", "x"]})
>>> model = itemic.system("itemknn").fit(data)
>>> model.rank(model.ask(histories=[["x"]]), k=1).to_frame()["item"].to_list()
['y']
"""

from typing import TYPE_CHECKING, Any

from itemic.version import VERSION as __version__

if TYPE_CHECKING:
    from itemic.data import Dataset, EvalSet, Query, Ragged, Ranking
    from itemic.model import load

__all__ = ["Dataset", "EvalSet", "Query", "Ragged", "Ranking", "__version__", "load", "system"]


def system(name: str, **options: Any) -> Any:
    """A recommender by its name, not fitted yet; options are the fields of its Config.

    Raises:
        ConfigError: there is no such system or option; the message names the nearest.
    """
    from itemic.registry import find

    return find(name)(**options)


def __getattr__(name: str) -> Any:
    """The nouns, imported when first used, so that `import itemic` costs nothing."""
    if name in ("Dataset", "EvalSet", "Query", "Ragged", "Ranking"):
        from itemic import data

        return getattr(data, name)
    if name == "load":
        from itemic.model import load

        return load
    raise AttributeError(f"module 'itemic' has no attribute {name!r}")
