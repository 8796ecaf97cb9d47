"""iALS: user and item vectors from weighted least squares over every cell, solved for each side in turn.

Choose it when EASE is too large or there is room to tune: with enough dimensions it rivals neural models, fits in
seconds, and answers for somebody new by one exact solve. It reads no content, so it cannot rank an item nobody took.
Tune `a0` and `l2` together, then take `dim` as large as you can afford: 64 is weak, 256 to 1024 strong.
Papers: Hu et al., ICDM 2008; Rendle et al., RecSys 2022, arXiv:2110.14037. Published set-ups: recipes/ials/.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Float32
from pydantic import Field, field_validator

from itemic import threads
from itemic.data import Dataset, Query, Ragged
from itemic.errors import QueryError
from itemic.nn.least_squares import Rows, gram, improve, solve
from itemic.progress import track
from itemic.registry import system
from itemic.systems.base import SystemConfig, VectorRecommender

if TYPE_CHECKING:
    from scipy.sparse import csr_array

CONVERGED = 100
"""Steps after which the last users' half-epoch is exact to the precision of float32, with many to spare."""


class Config(SystemConfig):
    tune: ClassVar = {"dim": "32,64,128,256", "a0": "0.003..1:log", "l2": "1e-4..3e-2:log"}

    dim: int = Field(128, ge=1)
    """Width of the vectors. Rendle et al. use 192 to 2048; known to be good: Gowalla 1024, Last.fm 128 (ours)."""
    a0: float = Field(0.1, gt=0)
    """Weight of every cell, seen or not, against 1 for a seen one (the paper's alpha zero). Tune it from 0.003 to 1."""
    l2: float = Field(0.005, gt=0)
    """The paper's lambda, the penalty on squared lengths. Tune it with a0, from 1e-4 to 3e-2 (hu: 1 to 1000)."""
    nu: float = Field(1.0, ge=0, le=1)
    """How far the penalty grows with the number of interactions: 0 for all alike, 1 in proportion, as tuned by
    Rendle et al."""
    epochs: int = Field(16, ge=1)
    """How often both sides are solved, users first. Rendle et al.: 16."""
    cg_steps: int | None = Field(3, ge=1)
    """Conjugate gradient steps of a half-epoch, 3 as in the library implicit; None solves exactly by Cholesky."""
    alpha: float = Field(40.0, gt=0)
    """Only under param="hu": a seen cell weighs 1 + alpha, any other 1. Hu et al.: 40."""
    param: Literal["rendle", "hu"] = Field("rendle", validate_default=True)
    """How the loss is written. rendle reads a0, l2 and nu; hu, as Hu et al., reads alpha and l2, the same for all."""
    seed: int = 0
    """Where the first vectors come from: normal numbers of variance 0.01 / dim."""

    @field_validator("param")
    @classmethod
    def _reads_its_own(cls, param: str, given: Any) -> str:
        unread, other = (["alpha"], "hu") if param == "rendle" else (["a0", "nu"], "rendle")
        for name in unread:
            if given.data.get(name, default := cls.model_fields[name].default) != default:
                raise ValueError(f'{name} is read under param="{other}" only')
        return param


class Problem(NamedTuple):
    """The loss Σ (w·h - target)² over seen cells + everywhere · Σ (w·h)² over all + ridge · squared lengths."""

    users: Rows
    items: Rows
    everywhere: float
    target: float

    @classmethod
    def of(cls, x: "csr_array", config: Config) -> "Problem":
        """The loss that the config asks for, of a 0/1 matrix [users, items]."""
        by_item = x.T.tocsr()
        n_users, n_items = len(x.indptr) - 1, len(by_item.indptr) - 1
        users = penalised(x.indptr, x.indices, n_items, config)
        items = penalised(by_item.indptr, by_item.indices, n_users, config)
        return cls(users, items, *cells(config))


def cells(config: Config) -> tuple[float, float]:
    """The weight of every cell where a seen one weighs 1 more, and the target of the seen ones.

    Hu et al., who weigh a seen cell alpha more than any other, is divided by alpha; the minimum is the same.

    >>> cells(Config(a0=0.1)), cells(Config(param="hu", alpha=4))
    ((0.1, 1.0), (0.25, 1.25))
    """
    return (config.a0, 1.0) if config.param == "rendle" else (1 / config.alpha, 1 + 1 / config.alpha)


def penalised(offsets: np.ndarray, columns: np.ndarray, n_columns: int, config: Config) -> Rows:
    """The rows with the penalty that the config puts on each: l2 · (n + a0 · n_columns)^nu for n seen cells.

    >>> penalised(np.array([0, 2, 2]), np.array([0, 3]), 10, Config(a0=0.1, l2=0.5)).ridge.tolist()
    [1.5, 0.5]
    """
    if config.param == "rendle":
        ridge = config.l2 * (np.diff(offsets) + config.a0 * n_columns) ** config.nu
    else:
        ridge = np.full(len(offsets) - 1, config.l2 / config.alpha)
    return Rows(offsets, columns, ridge)


def objective(
    problem: Problem, w: Float[np.ndarray, "users dim"], h: Float[np.ndarray, "items dim"], block: int = 1 << 16
) -> float:
    """The loss that both half-epochs lower, at least 0; seen cells are gathered in blocks, the others are in wᵀw, hᵀh.

    >>> one = Rows(np.array([0, 1]), np.array([0]), np.array([0.5]))
    >>> objective(Problem(one, one, everywhere=0.1, target=1.0), np.array([[2.0]]), np.array([[1.0]]))
    3.9
    """
    columns, total = problem.users.columns, 0.0
    rows = np.repeat(np.arange(len(w)), np.diff(problem.users.offsets))
    for start in range(0, len(columns), block):
        here = slice(start, start + block)
        cells = np.einsum("nd,nd->n", w[rows[here]], h[columns[here]], dtype=np.float64)
        total += np.square(cells - problem.target).sum()
    total += problem.everywhere * np.vdot(w.T @ w, h.T @ h)
    for side, vectors in ((problem.users, w), (problem.items, h)):
        total += np.vdot(side.ridge, np.square(vectors).sum(1))
    return float(total)


def factorise(
    problem: Problem, config: Config
) -> tuple[Float32[np.ndarray, "users dim"], Float32[np.ndarray, "items dim"]]:
    """User and item vectors; the users' are solved once more after the last epoch, so they fit the items' exactly.

    Without that the users would answer to the items of the epoch before, and differ from the fold-in of their history.
    """
    rng = np.random.default_rng(config.seed)
    w, h = (
        (0.1 / np.sqrt(config.dim) * rng.standard_normal((len(side.ridge), config.dim))).astype(np.float32)
        for side in (problem.users, problem.items)
    )
    n_threads = threads.count()
    with threads.single(), ThreadPoolExecutor(n_threads) as pool:

        def update(x: np.ndarray, rows: Rows, fixed: np.ndarray, steps: int | None) -> np.ndarray:
            if steps is None:
                return solve(rows, fixed, np.float32(problem.everywhere) * gram(fixed), problem.target)
            return improve(x, rows, fixed, problem.everywhere, problem.target, steps, pool.map)

        for _ in track(range(config.epochs), "iALS", config.epochs):
            w = update(w, problem.users, h, config.cg_steps)
            h = update(h, problem.items, w, config.cg_steps)
        w = update(w, problem.users, h, config.cg_steps and CONVERGED)
    return w, h


@system("ials", family="baselines", answers=["user", "history"], paper="arXiv:2110.14037")
class IALS(VectorRecommender[Config]):
    def solve(self, train: Dataset) -> dict[str, np.ndarray]:
        w, h = factorise(Problem.of(train.interactions.matrix(), self.config), self.config)
        return {"user": w, "item": h}

    def finish(self) -> None:
        self.tables = {"gram": gram(self.weights["item"])}

    def query_vectors(self, query: Query) -> Float32[np.ndarray, "queries dim"]:
        """The fitted vector of each known user; the exact solution for the history of anybody else."""
        user = np.full(len(query), -1, np.int32) if query.user is None else query.user
        vectors, strangers = self.weights["user"][user], np.flatnonzero(user < 0)
        if len(strangers):
            if query.history is None:
                raise QueryError("ials does not know this user. Give what they did: Query(history=...).")
            vectors[strangers] = self.fold_in(query.history.take(strangers))
        return vectors

    def item_vectors(self) -> Float32[np.ndarray, "items dim"]:
        return self.weights["item"]

    def fold_in(self, histories: Ragged) -> Float32[np.ndarray, "histories dim"]:
        """The vectors that these histories would have as users, the items' fixed; all zeros for an empty one."""
        n_items = self.catalogue.n_items
        row, item = np.divmod(np.unique(histories.row_of_value * n_items + histories.values), n_items)  # no repeats
        seen = Ragged.from_pairs(row, item, len(histories))
        everywhere, target = cells(self.config)
        rows = penalised(seen.offsets, seen.values, n_items, self.config)
        return solve(rows, self.weights["item"], np.float32(everywhere) * self.tables["gram"], target)
