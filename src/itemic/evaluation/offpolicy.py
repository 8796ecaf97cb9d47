"""What a model would have earned, from lists that another one drew: by weighing what was seen, with intervals.

Every place of a logged list carries how likely its item was drawn there, given those above it; the same is computed for
the model that is judged. A place is weighed by the product of the ratios down to it, which is right where what happens
at a place depends on nothing below it.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from itemic.errors import DataError

NORMAL = 1.959964
"""Standard errors to either side of a mean that hold 95 %."""


class Estimate(NamedTuple):
    """A mean reward of a list with its 95 % interval."""

    value: float
    low: float
    high: float


def off_policy(
    rewards: Float[np.ndarray, "lists places"],
    logged: Float[np.ndarray, "lists places"],
    target: Float[np.ndarray, "lists places"],
    predicted: Float[np.ndarray, "lists places"] | None = None,
    expected: Float[np.ndarray, "lists places"] | None = None,
) -> dict[str, Estimate]:
    """The mean reward of a list by `ips`, `snips` and, with a model of rewards, `dr` (doubly robust).

    `logged` and `target` say how likely each item was drawn for its place, given those above it, by the model that drew
    the lists and by the one that is judged. A model of rewards says what it `predicted` for the item that was shown at
    a place, and what it `expected` there of the model that is judged; dr is right if either it or the propensities are.

    >>> rewards, logged = np.array([[1.0], [0], [0], [1]]), np.full((4, 1), 0.5)
    >>> same = off_policy(rewards, logged, logged)
    >>> same["ips"].value, same["snips"].value
    (0.5, 0.5)

    Raises:
        DataError: the lists were not drawn, so there is nothing to weigh by.
    """
    if not len(rewards):
        raise DataError("the log holds no list. Judge by a longer one.")
    missing = int((~(logged > 0)).any(1).sum())
    if missing:
        raise DataError(
            f"{missing:,} of {len(logged):,} logged lists have no propensities: they were not drawn, so nothing says "
            "what another model would have earned. Set temperature in the pipeline that is logged."
        )
    ratio = np.cumprod(target / logged, axis=1)
    found = {"ips": _mean((ratio * rewards).sum(1)), "snips": _normalised(ratio, rewards)}
    if predicted is not None and expected is not None:
        before = np.concatenate([np.ones((len(ratio), 1)), ratio[:, :-1]], axis=1)
        found["dr"] = _mean((before * expected + ratio * (rewards - predicted)).sum(1))
    return found


def _mean(values: Float[np.ndarray, " lists"]) -> Estimate:
    mean = float(values.mean())
    error = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else np.inf
    return Estimate(mean, mean - NORMAL * error, mean + NORMAL * error)


def _normalised(ratio: Float[np.ndarray, "lists places"], rewards: Float[np.ndarray, "lists places"]) -> Estimate:
    """Weights made to add up to the number of lists at each place; a little off, but of less variance."""
    weight = ratio / np.maximum(ratio.mean(0), 1e-300)
    means = (weight * rewards).mean(0)
    return _mean((weight * (rewards - means)).sum(1) + means.sum())
