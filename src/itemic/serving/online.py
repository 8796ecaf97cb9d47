"""What became of lists that were shown: click rates of the models that share traffic, with intervals."""

from collections.abc import Iterable
from math import sqrt
from typing import NamedTuple

from itemic.evaluation.offpolicy import NORMAL
from itemic.serving.stores import Event, Impression


class Rate(NamedTuple):
    """How many lists of a model were shown, and how many of them led to an event with an item that they showed."""

    model: str
    lists: int
    clicked: int

    @property
    def rate(self) -> float:
        return self.clicked / self.lists

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the rate.

        >>> [round(bound, 3) for bound in Rate("a", 100, 10).interval]
        [0.055, 0.174]
        """
        n, z2 = self.lists, NORMAL**2
        middle = (self.rate + z2 / (2 * n)) / (1 + z2 / n)
        half = NORMAL / (1 + z2 / n) * sqrt(self.rate * (1 - self.rate) / n + z2 / (4 * n * n))
        return middle - half, middle + half


def click_rates(shown: Iterable[Impression], events: Iterable[Event]) -> list[Rate]:
    """The rate of each model, best first; an event counts for the list that it names, once, if its item was in it."""
    came_of: dict[str, set[str]] = {}
    for event in events:
        if event.impression is not None:
            came_of.setdefault(event.impression, set()).add(event.item)
    counts: dict[str, tuple[int, int]] = {}
    for one in shown:
        lists, clicked = counts.get(one.model, (0, 0))
        hit = not came_of.get(one.id, set()).isdisjoint(map(str, one.items))
        counts[one.model] = lists + 1, clicked + hit
    rates = [Rate(model, *count) for model, count in counts.items()]
    return sorted(rates, key=lambda rate: -rate.rate)
