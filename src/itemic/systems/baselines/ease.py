"""EASE: every item predicted from all the others by ridge regression, solved in one step.

Choose it first of all: one option to tune, no randomness, and on many data sets as good as neural models or better.
It needs a matrix of items (or users, if they are fewer) squared: up to about 60,000; beyond, take item-kNN or iALS.
It cannot rank an item nobody took.
Paper: Steck, WWW 2019, arXiv:1905.03375. Published set-ups and numbers: recipes/ease/.
"""

from collections.abc import Iterator
from typing import ClassVar, Literal

import numpy as np
from jaxtyping import Float, Float32
from pydantic import Field, PositiveInt

from itemic import threads
from itemic.data import Dataset, Query
from itemic.errors import ConfigError, DataError
from itemic.progress import stage, track
from itemic.registry import system
from itemic.systems.base import ScoreRecommender, SystemConfig
from itemic.systems.baselines.item_item import Sparse, history_scores, sparse_weights

SERVED_DENSE, SERVED_TOPK = 20_000, 500
"""Up to how many items all weights are kept by default, and how many of each column above that."""
MOST_ITEMS = 60_000
BLOCK = 256
"""Columns of the weights computed at once."""

Form = Literal["primal", "dual"]


class Config(SystemConfig):
    tune: ClassVar = {"l2": "1..1e4:log"}

    l2: float = Field(200.0, gt=0)
    """The paper's lambda, the penalty on the squared weights; tune it first, 10 to 1000, more where items have more
    users. Known to be good: Gowalla 80, Yelp2018 300, Amazon-Book 50 (BARS); ML-1M 500, Last.fm 50 (ours)."""
    topk: PositiveInt | Literal["auto"] | None = "auto"
    """How many weights of each column are kept, the largest; the others count as their mean. None keeps all, auto all
    up to 20,000 items and 500 above. Ours: 500 lose nothing on Gowalla (docs/decisions)."""
    form: Literal["auto", "primal", "dual"] = "auto"
    """Whether the matrix to invert is items x items (primal) or users x users (dual), with equal results; auto takes
    dual where users are fewer than 0.8 times the items."""


def gram(x: Sparse, l2: float, dtype: type = np.float32, block: int = 1024) -> Float[np.ndarray, "n n"]:
    """x xᵀ + l2 on the diagonal: for each pair of rows, how many columns both have. Counted in integers."""
    counts = x.astype(np.int32)
    transposed = counts.T.tocsr()
    out = np.empty((x.shape[0], x.shape[0]), dtype)
    for start in range(0, len(out), block):
        out[start : start + block] = (counts[start : start + block] @ transposed).toarray()
    np.fill_diagonal(out, out.diagonal() + l2)
    return out


def invert(a: Float[np.ndarray, "n n"]) -> Float[np.ndarray, "n n"]:
    """The inverse of a symmetric positive definite matrix, computed by Cholesky in its own memory.

    >>> invert(np.array([[2.0, 1.0], [1.0, 1.0]])).round(6).tolist()
    [[1.0, -1.0], [-1.0, 2.0]]

    Raises:
        numpy.linalg.LinAlgError: the matrix is not positive definite, or not by more than rounding.
    """
    import torch

    threads.apply()
    by_column = torch.from_numpy(a).T  # the same matrix, in the layout in which LAPACK needs no copy
    failed = torch.linalg.cholesky_ex(by_column, out=(by_column, torch.empty((), dtype=torch.int32))).info
    if failed:
        raise np.linalg.LinAlgError(f"row {failed.item()} is not positive definite")
    torch.cholesky_inverse(by_column, out=by_column)
    return a


def smoother(
    x: Sparse, l2: float, dtype: type = np.float32
) -> Iterator[tuple[slice, Float[np.ndarray, "block items"]]]:
    """The symmetric matrix S = xᵀ (x xᵀ + l2)⁻¹ x = Id - l2 P in blocks of rows; it is never held whole."""
    with stage("EASE: inverse, users x users"):
        m = invert(gram(x, l2, dtype))
    of_item = x.T.tocsr().astype(dtype)
    for items in _blocks(x.shape[1]):
        yield items, (of_item @ (of_item[items] @ m).T).T


def precision(x: Sparse, l2: float, dtype: type = np.float32) -> Float[np.ndarray, "items items"]:
    """The paper's P = (xᵀ x + l2)⁻¹."""
    with stage("EASE: inverse, items x items"):
        return invert(gram(x.T.tocsr(), l2, dtype))


def all_weights(x: Sparse, l2: float, form: Form, dtype: type = np.float32) -> Float[np.ndarray, "items items"]:
    """B, whose column j holds the ridge regression of item j on all other items; its diagonal is 0."""
    if form == "primal":
        b = precision(x, l2, dtype)
        scale = -b.diagonal()
    else:
        b = np.empty((x.shape[1], x.shape[1]), dtype)
        for items, rows in smoother(x, l2, dtype):
            b[items] = rows
        scale = 1 - b.diagonal()
    b /= scale  # each column by its own diagonal entry: dividing the rows would be another model
    np.fill_diagonal(b, 0)
    return b


def largest_weights(x: Sparse, l2: float, form: Form, k: int) -> dict[str, np.ndarray]:
    """B with the k largest weights of each column kept and one `rest` for all others of it: their mean over users.

    The sparse arrays hold what a weight has beyond the rest of its column, so a score costs no more than k weights do.
    """
    if form == "primal":
        p = precision(x, l2)
        blocks = ((items, p[items]) for items in _blocks(len(p)))
    else:
        blocks = smoother(x, l2)
    users = x.sum(axis=0, dtype=np.float64)
    beyond, rests = [], []
    for items, rows in blocks:  # of a symmetric matrix: row j is column j
        here = np.arange(len(rows))
        itself = items.start + here
        own = rows[here, itself]
        columns = np.ascontiguousarray(rows) / (-own if form == "primal" else 1 - own)[:, None]
        columns[here, itself] = 0
        total = columns @ users.astype(np.float32)
        columns[here, itself] = np.inf  # kept too, as the 0 it is
        kept = np.argpartition(columns, -k - 1, axis=1)[:, -k - 1 :].astype(np.int32)
        columns[here, itself] = 0
        weights = np.take_along_axis(columns, kept, axis=1)
        total -= (weights * users[kept]).sum(axis=1)
        over = users.sum() - users[kept].sum(axis=1)
        rest = np.divide(total, over, out=np.zeros(len(rows)), where=over > 0).astype(np.float32)
        beyond.append((kept, weights - rest[:, None]))
        rests.append(rest)
    return {**sparse_weights(beyond, x.shape[1]), "rest": np.concatenate(rests)}


def _blocks(n_items: int) -> Iterator[slice]:
    starts = range(0, n_items, BLOCK)
    return (slice(start, start + BLOCK) for start in track(starts, "EASE: weights", len(starts)))


@system("ease", family="baselines", answers=["history"], paper="arXiv:1905.03375")
class EASE(ScoreRecommender[Config]):
    unrelated = 0.0

    def solve(self, train: Dataset) -> dict[str, np.ndarray]:
        n_users, n_items = train.n_users, train.n_items
        form, topk = self.config.form, self.config.topk
        if form == "auto":
            form = "dual" if n_users < 0.8 * n_items else "primal"
        if topk == "auto":
            topk = SERVED_TOPK if n_items > SERVED_DENSE else None
        if n_items > MOST_ITEMS:
            inverse = 4 * (n_items if form == "primal" else n_users) ** 2 / 1e9
            raise DataError(
                f"ease takes up to {MOST_ITEMS:,} items; {train.name} has {n_items:,}, which would need "
                f"{inverse:,.1f} GB for the {form} inverse. Fit itemknn instead, or keep the items with most users."
            )
        x = train.interactions.matrix()
        try:
            if topk is None or topk >= n_items:
                return {"dense": all_weights(x, self.config.l2, form)}
            return largest_weights(x, self.config.l2, form, topk)
        except np.linalg.LinAlgError:
            raise ConfigError(
                f"ease: l2 {self.config.l2:g} is too small to invert in float32. Take 1 or more."
            ) from None

    def scores(self, query: Query) -> Float32[np.ndarray, "queries items"]:
        assert query.history is not None
        return history_scores(query.history, self.weights, self.catalogue.n_items)
