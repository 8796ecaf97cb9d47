"""Whether a model may be tested on a test set: it must know the same items and must not have learned the answers."""

import numpy as np
from jaxtyping import Int64

from itemic.data import TRAIN, VALID, Dataset, EvalSet
from itemic.errors import DataError, LeakError
from itemic.systems.base import Recommender


def check_catalogue(model: Recommender, dataset: Dataset, name: str) -> None:
    """Passes if the model's items are those of the dataset, in the same order.

    Raises:
        DataError: they are not; the message counts both.
    """
    theirs, ours = model.catalogue.items.ids, dataset.items.ids
    if theirs == ours:
        return
    shared = int((theirs.codes(ours.array) >= 0).sum())
    raise DataError(
        f"{name} knows {len(theirs):,} items and {dataset.name} has {len(ours):,}, {shared:,} of them the same. "
        f"Fit it on this dataset: itemic fit {model.entry.name} {dataset.path or dataset.name}"
    )


def check_fitted_on(model: Recommender, dataset: Dataset, test: EvalSet, name: str, part: str = "test") -> None:
    """Passes if the model was fitted on none of the interactions it is to find.

    What was fitted on the train part passes by its fingerprint. Anything else passes if no pair of its histories is in
    the test set; where there are no histories, or repeats are wishes of their own, it cannot be known and is refused.

    Raises:
        LeakError: it was, or it cannot be known.
    """
    trained_on = model.fitted_on.get("train_fingerprint")
    if trained_on == dataset.train.fingerprint:
        return
    if part == "test" and dataset.split is not None and trained_on == dataset.part(TRAIN, VALID).fingerprint:
        return
    mend = f"Fit it on the train part: itemic fit {model.entry.name} {dataset.path or dataset.name}"
    if model.histories is None or dataset.repeats or test.users is None:
        why = "was saved without histories"
        if model.histories is not None:
            why = "may have the same pairs by right" if dataset.repeats else "the test set does not say who asks"
        raise LeakError(
            f"{name} was not fitted on the train part of {dataset.name} and {why}, so that nobody can tell whether "
            f"it knows the {part} part. {mend}"
        )
    wanted = test.users[test.relevant.row_of_value].astype(np.int64) * dataset.n_items + test.relevant.values
    known = np.isin(wanted, _learned(model, dataset))
    if known.any():
        first = int(np.flatnonzero(known)[0])
        user, item = divmod(int(wanted[first]), dataset.n_items)
        who, what = dataset.users.ids.array[user].as_py(), dataset.items.ids.array[item].as_py()
        raise LeakError(
            f"{name} was fitted on {known.sum():,} of the {len(wanted):,} {part} interactions of {dataset.name}, the "
            f"first of user {who!r} with item {what!r}. {mend}"
        )


def _learned(model: Recommender, dataset: Dataset) -> Int64[np.ndarray, " pairs"]:
    """The model's histories as one number for each pair of user and item, in the codes of the dataset."""
    assert model.histories is not None
    user = dataset.users.ids.codes(model.catalogue.users.ids.array)[model.histories.row_of_value]
    keys = user.astype(np.int64) * dataset.n_items + model.histories.values
    return keys[user >= 0]
