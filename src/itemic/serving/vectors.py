"""Vectors of served models in the store, where that is a PostgreSQL with pgvector."""

from collections.abc import Mapping

import numpy as np

from itemic.errors import ConfigError, ItemicError
from itemic.indexes.choosing import tuned
from itemic.indexes.pgvector import PgVector
from itemic.serving.stores import Store
from itemic.serving.stores.postgres import Postgres
from itemic.systems.base import Recommender, VectorRecommender

SAMPLE = 200
"""Requests by which it is measured how widely a graph must be searched."""


def check_vectors(where: str, store: Store) -> None:
    """Passes if vectors may be kept there.

    Raises:
        ConfigError: they shall be in the store, and that is a file.
    """
    if where == "store" and not isinstance(store.database, Postgres):
        raise ConfigError(
            f"vectors: store needs a store in PostgreSQL; this one is the file {store.database}. Give another, as "
            "postgresql://user:password@host/database, or vectors: memory."
        )


def settled(models: Mapping[str, Recommender], where: str, store: Store) -> list[PgVector]:
    """Makes models ready for many small requests; the indexes that stand in the store, for whoever closes them.

    A graph in the store has the links and finds the share that `itemic index` was told for the model.

    Raises:
        ConfigError: the database has no pgvector, or vectors are too wide for it.
        ItemicError: no effort finds so many, or the database cannot keep them.
    """
    made: list[PgVector] = []
    try:
        for name, model in models.items():
            if isinstance(model, VectorRecommender):
                if where == "store":
                    made.append(_in_store(name, model, store))
                    model.settle(made[-1])
                else:
                    model.settle()
    except BaseException:
        for one in made:
            one.close()
        raise
    return made


def _in_store(name: str, model: VectorRecommender, store: Store) -> PgVector:
    told = model.fitted_on.get("index", {})
    how = {"recall": told.get("recall", 0.95), "links": told.get("links", 16)}
    made = PgVector(store.database, name, np.asarray(model.item_vectors(), np.float32), how["links"])
    try:
        if made.effort is None:
            _tune(name, made, model, how)
            made.keep_effort()
    except BaseException:
        made.close()
        raise
    return made


def _tune(name: str, made: PgVector, model: VectorRecommender, how: dict) -> None:
    try:
        tuned(made, *model.asked(SAMPLE), **how)
    except ItemicError as error:
        raise ConfigError(
            f"{name} in the store: {error} (itemic index --recall, --links; or vectors: memory)"
        ) from None
