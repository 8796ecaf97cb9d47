"""Fits served models again on all that is known now, judges them by what happened since, and puts them in place."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from typing import Any

import numpy as np
from jaxtyping import Bool

from itemic import metrics
from itemic.data import Dataset, EvalSet, Ids, Query, Ragged
from itemic.data.splits import held_out
from itemic.errors import ConfigError, DataError, ItemicError
from itemic.files import check_place
from itemic.model import Model
from itemic.serving.merging import Merged, merged
from itemic.serving.service import UNTOLD
from itemic.serving.stores import Store
from itemic.serving.versions import alone, beside, put_in_place
from itemic.systems.base import Recommender, VectorRecommender

METRIC, DEPTH = "ndcg@10", 10
"""By what a new model is compared with the old one."""
FEW = 20
"""Users with something to find, fewer than which judge nothing."""
SHARE = 0.1
"""Of all interactions, how many are held out at most."""


@dataclass(frozen=True)
class Judged:
    """What a model was worth before and is worth now, None where too little happened since."""

    folder: str
    before: float | None
    now: float | None
    seconds: float


@dataclass(frozen=True)
class Refreshed:
    """What was put in place."""

    models: list[Judged]
    n_items: int
    n_users: int
    n_interactions: int
    n_held: int
    """Users by whose newest events the models were judged."""


def refresh(
    folders: Sequence[str],
    data: Dataset,
    store: Store,
    *,
    tolerance: float = 0.05,
    force: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> Refreshed:
    """Fits each model again, by the system and the config of its folder, and replaces all of them in one step.

    They learn the dataset with the events and items of the store. Before that they are judged: the newest of the events
    that the old ones have not seen are held out, and both are asked what these users took. A model that is solved in
    one step then learns the held-out events too; one that is trained stops by them, as by any validation part.

    Raises:
        ConfigError: a new model is worse than the old one by more than the tolerance, a share, and not forced.
        LoadError: a folder holds no model.
        DataError: a model cannot be fitted on this, or cannot answer.
        SaveError: somebody else refreshes these folders, or they cannot be written.
    """
    with alone(folders):
        nexts = [beside(folder, "next") for folder in folders]
        for place in nexts:
            check_place(place)
        old = {folder: Recommender.load(folder) for folder in folders}
        whole = merged(data, store)
        n = whole.dataset
        say(f"{n.n_users:,} users, {n.n_items:,} items, {len(n.interactions):,} interactions")
        exam = _exam(whole, list(old.values()))
        allowed = 1.0 if force else tolerance
        try:
            judged = [_made(folder, model, whole, exam, allowed, say) for folder, model in old.items()]
        except BaseException:
            for place in nexts:
                rmtree(place, ignore_errors=True)
            raise
        put_in_place(folders)
    return Refreshed(judged, n.n_items, n.n_users, len(n.interactions), exam.n_users if exam.is_fair else 0)


def _made(
    folder: str, old: Recommender, whole: Merged, exam: "Exam", tolerance: float, say: Callable[[str], None]
) -> Judged:
    """Makes what is to be put in place of a folder; says what it is worth."""
    new, one = _refitted(folder, old, whole, exam)
    say(_told(one))
    if one.before is not None and one.now is not None and one.now < one.before * (1 - tolerance):
        raise ConfigError(
            f"{folder} would be worse: {METRIC} {one.now:.4f}, and {one.before:.4f} before, by the newest events of "
            f"{exam.n_users:,} users. Nothing is changed. Take it nevertheless: --force"
        )
    _check_answers(new.save(beside(folder, "next")), whole.dataset)
    return one


@dataclass(frozen=True)
class Exam:
    """The dataset with its newest interactions held out, and whether no old model has seen them."""

    dataset: Dataset
    is_fair: bool

    @property
    def n_users(self) -> int:
        return len(self.dataset.valid)


def _exam(whole: Merged, old: Sequence[Recommender]) -> Exam:
    """The newer half of what no old model has seen, a tenth of everything at most; else, unfair, a twentieth of all."""
    log, seen = whole.dataset.interactions, max(one.fitted_on.get("store", UNTOLD)["events"] for one in old)
    unseen = int((whole.place > seen).sum())
    exam = _without_newest(whole, min(-(-unseen // 2), int(SHARE * len(log))))
    if exam is not None and len(exam.valid) >= FEW:
        return Exam(exam, True)
    return Exam(_without_newest(whole, max(1, len(log) // 20)) or whole.dataset, False)


def _without_newest(whole: Merged, n: int) -> Dataset | None:
    """With the n interactions held out that came last; None where nothing would be left to find."""
    log = whole.dataset.interactions
    if not 0 < n < len(log):
        return None
    time = log.time if log.time is not None else np.arange(len(log))
    rows: Bool[np.ndarray, " rows"] = np.zeros(len(log), bool)
    rows[np.lexsort((time, whole.place))[-n:]] = True
    made = held_out(whole.dataset, rows, "newest")
    return made if len(made.valid) and len(made.train.interactions) else None


def _refitted(folder: str, old: Recommender, whole: Merged, exam: Exam) -> tuple[Recommender, Judged]:
    """The new model, knowing all that it may, and what both are worth."""
    data, before, now = whole.dataset, None, None
    new = unfitted(old)
    solved, seconds = _is_solved(new), 0.0
    try:
        if exam.is_fair or not solved:
            valid = exam.dataset.valid if exam.dataset.split is not None else None
            new.fit(exam.dataset.train, valid)
            seconds += new.fitted_on["seconds"]
        if exam.is_fair:
            before, now = worth(old, exam.dataset.valid, data), worth(new, exam.dataset.valid, data)
        if solved:
            new = unfitted(old).fit(data)
            seconds += new.fitted_on["seconds"]
    except ItemicError as error:
        raise DataError(f"{folder} cannot be fitted again: {error}") from error
    new.histories = data.interactions.histories()  # also of what was held out: answers go by it
    if isinstance(new, VectorRecommender) and "index" in old.fitted_on:
        new.index(**old.fitted_on["index"])
    new.fitted_on["store"] = whole.learned
    return new, Judged(folder, before, now, seconds)


def unfitted(model: Any) -> Any:
    """A model of the same system, config and parts that has learned nothing yet."""
    return type(model)(model.config, **{role: unfitted(part) for role, part in model.parts.items()})


def _is_solved(model: Model) -> bool:
    return type(model).build is Model.build and all(_is_solved(getattr(model, role)) for role in model.declared)


def worth(model: Recommender, exam: EvalSet, data: Dataset) -> float:
    """How well a model finds what users took, asked as the service asks: by what they did before.

    Items that it does not know it cannot find; those that are gone from the data it may not name.
    """
    ours, theirs = data.items.ids, model.catalogue.items.ids
    to_model, to_data = codes_in(theirs, ours), codes_in(ours, theirs)
    query = exam.query
    assert query.history is not None
    known = to_model[query.history.values] >= 0
    history = query.history.keep(known)
    aligned = {
        name: getattr(query, name)[known]
        for name in ("history_time", "history_kind", "history_weight")
        if getattr(query, name) is not None
    }
    asked = Query(
        user=np.full(len(query), -1, np.int32),
        history=Ragged(to_model[history.values], history.offsets),
        candidates=np.flatnonzero(to_data >= 0).astype(np.int32),
        repeats=query.repeats,
        **aligned,
    )
    depth = min(DEPTH, model.catalogue.n_items)
    lists = model.rank(asked, depth).items
    lists = np.where(lists >= 0, to_data[lists], -1).astype(np.int32)
    lists = np.pad(lists, ((0, 0), (0, DEPTH - depth)), constant_values=-1)
    return float(np.nanmean(metrics.evaluate_lists(lists, exam.relevant, metrics=[METRIC])[METRIC]))


def codes_in(ids: Ids, of: Ids) -> np.ndarray:
    """The code in `ids` of each of the other ids, which may be text where these are integers; -1 where there is none.

    >>> codes_in(Ids([7, 8]), of=Ids(["8", "x"])).tolist()
    [1, -1]
    """
    return ids.codes(of.array)


def _check_answers(folder: Path, data: Dataset) -> None:
    """Passes if what was saved can be loaded and lists items for somebody.

    Raises:
        DataError: it lists nothing.
    """
    model = Recommender.load(folder)
    some = data.query_of(np.arange(min(data.n_users, 100)))
    listed = model.rank(some, min(DEPTH, data.n_items))
    if not ((listed.items >= 0) & np.isfinite(listed.scores)).any():
        raise DataError(f"{folder} lists nothing for anybody. Nothing is changed. Look at the data it was fitted on.")


def _told(one: Judged) -> str:
    if one.before is None or one.now is None:
        return f"{one.folder}: fitted in {one.seconds:.2f} s; too little happened since to judge it"
    return f"{one.folder}: fitted in {one.seconds:.2f} s; {METRIC} {one.now:.4f}, before {one.before:.4f}"
