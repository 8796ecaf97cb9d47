"""A recipe run: the system fitted on its data set, measured, and written beside what was published."""

import hashlib
import itertools
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from itemic import devices, registry, threads
from itemic import metrics as formulas
from itemic.data import TRAIN, VALID, Dataset, EvalSet
from itemic.data.readers.known import known_set
from itemic.data.splits import split
from itemic.data.together import lent
from itemic.errors import ConfigError, DataError, LoadError
from itemic.evaluation.analysis import item_counts, of_items
from itemic.evaluation.protocols import AUC, Result, evaluate, under
from itemic.evaluation.recipes import Before, Recipe, Search, Stop, all_recipes, beside, find_recipe, merged
from itemic.evaluation.significance import intervals
from itemic.files import write_text
from itemic.progress import track
from itemic.version import VERSION


class Division(NamedTuple):
    """A data set as a recipe divides it."""

    train: Dataset
    valid: EvalSet | None
    test: EvalSet
    learned: "Division | None" = None
    """The other data that a model is fitted on, where it is put on these afterwards."""
    lent: Dataset | None = None
    """The train part with the users of other data, where a recipe has some lent."""


class Run(NamedTuple):
    """A setting fitted and measured on each division with each seed."""

    results: list[Result]
    users: list[np.ndarray]
    """Who the queries of each result belong to."""
    seconds: float
    """For fitting, on average."""
    config: dict[str, Any]
    stopped: dict[str, Any]
    """For a system trained with validation: by what, after which epoch, and the curve of the first seed."""
    also: dict[str, dict[str, float]]
    """Means over the results of the same models under other protocols, and cut to other widths, by what these are."""

    def per_user(self, metric: str) -> np.ndarray:
        """The metric of each user, averaged over the results that test them."""
        users, values = np.concatenate(self.users), np.concatenate([result.values[metric] for result in self.results])
        _, place, counts = np.unique(users, return_inverse=True, return_counts=True)
        return np.bincount(place, values) / counts

    def mean(self, metric: str) -> float:
        """The metric, averaged over the results."""
        return float(np.mean([result[metric] for result in self.results]))


def reproduce(
    system: str,
    dataset: str,
    variant: str | None = None,
    *,
    results: str | Path = "results",
    folder: str | Path | None = None,
) -> Path:
    """The file with what the recipe gave, `results/<system>__<dataset>[__<variant>].json`.

    The data set is read from $ITEMIC_DATA, ../shared/data where that is not set. Given a `folder`, models and
    checkpoints are kept there, and a run that was cut off goes on from them when it is asked for again.

    Raises:
        ConfigError: there is no such recipe, or it names options that do not exist.
        DataError: the data set is not there.
        LoadError: the folder is of another recipe, or damaged.
        SaveError: the result cannot be written.
    """
    recipe = find_recipe(system, dataset, variant)
    path = result_path(recipe, results)
    place = Path(folder) / path.stem if folder is not None else None
    facts = measure(recipe, data_of(recipe.dataset), place, learned_of(recipe))
    write_text(path, json.dumps(facts, indent=1) + "\n")
    return path


def reproduce_list(results: str | Path = "results") -> list[dict[str, Any]]:
    """A row for every metric of every recipe: published, measured where the recipe was run, and their ratio."""
    rows = []
    for recipe in all_recipes():
        path = result_path(recipe, results)
        found = json.loads(path.read_text())["metrics"] if path.exists() else {}
        for metric, target in recipe.metrics.items():
            measured, published = found.get(metric, {}).get("value"), target.published
            ratio = round(measured / published, 4) if measured is not None and published else None
            numbers = {"published": published, "measured": measured, "ratio": ratio, "source": target.source}
            rows.append({"recipe": recipe.name, "metric": metric, **numbers})
    return rows


def result_path(recipe: Recipe, results: str | Path) -> Path:
    """Where the result of a recipe is kept."""
    names = [recipe.system, recipe.dataset, *([recipe.variant] if recipe.variant else [])]
    return Path(results) / ("__".join(names) + ".json")


def data_of(name: str) -> Dataset:
    """The data set in a folder of $ITEMIC_DATA, as published or as `itemic data import` wrote it.

    Raises:
        DataError: it is not there.
    """
    folder = Path(os.environ.get("ITEMIC_DATA", "../shared/data")) / name
    if not folder.is_dir():
        raise DataError(f"{folder} does not exist. Set ITEMIC_DATA to the folder that holds {name}.")
    return Dataset.open(folder) if (folder / "manifest.json").exists() else known_set(folder)


def learned_of(recipe: Recipe) -> Dataset | None:
    """The other data that a recipe's system is fitted on, as one set; None where it is fitted on its own.

    Raises:
        DataError: one is not there.
    """
    sets = [data_of(name) for name in recipe.pretrain]
    return Dataset.together(sets) if len(sets) > 1 else next(iter(sets), None)


def measure(
    recipe: Recipe, dataset: Dataset, folder: Path | None = None, learned: Dataset | None = None
) -> dict[str, Any]:
    """The result of a recipe on its data, as it is written to its file; `folder` is where unfinished work is kept.

    With other data given it is `learned` on these and put on its own without training.
    """
    divisions = [_divided(recipe, dataset, seed) for seed in recipe.split.seeds()]
    if learned is not None:
        others = [_divided(recipe, learned, seed) for seed in recipe.split.seeds()]
        divisions = [own._replace(learned=other) for own, other in zip(divisions, others)]
    divisions, coverage = _with_lent(divisions, [data_of(name) for name in recipe.lent])
    own = tempfile.TemporaryDirectory()  # for what is fitted first, where no work is kept
    shared = folder.parent / "before" if folder is not None else Path(own.name)
    made = {name: fitted_before(recipe, one, divisions[0].train, shared) for name, one in recipe.before.items()}
    paths = {name: str(path) for name, (path, _) in made.items()}
    recipe = recipe.model_copy(update={"config": merged(recipe.config, paths)})
    config, searched = recipe.config, None
    if recipe.search is not None:
        config, searched = search(recipe, divisions[0], recipe.search)
    metrics = list(recipe.metrics)
    run = _run(recipe, config, divisions, metrics, folder)
    spread = intervals({metric: run.per_user(metric) for metric in metrics})
    first = run.results[0]
    document: dict[str, Any] = {
        "system": recipe.system,
        "dataset": recipe.dataset,
        "variant": recipe.variant,
        "split": "; ".join(dict.fromkeys(result.split for result in run.results)),
        "fit": recipe.fit,
        **({"pretrain": recipe.pretrain} if recipe.pretrain else {}),
        "protocol": first.protocol,
        "metrics": {
            metric: {
                "value": _rounded(run.mean(metric)),
                "values": [_rounded(result[metric]) for result in run.results],
                "interval": [_rounded(spread[metric].low), _rounded(spread[metric].high)],
                "published": target.published,
                "source": target.source,
            }
            for metric, target in recipe.metrics.items()
        },
        "queries": first.n_queries,
        "skipped": first.n_skipped,
        "seconds": round(run.seconds, 3),
        "device": devices.described(devices.usual()),
        "threads": threads.count(),
        "seeds": recipe.seeds,
        "version": VERSION,
        "fingerprint": dataset.fingerprint,
        "config": run.config,
        **_other_precision(run.config),
    }
    if coverage:
        document["lent"] = coverage
    if made:
        document["before"] = {name: facts for name, (_, facts) in made.items()}
    by_interactions = _by_interactions(run.results, [d for d in divisions for _ in recipe.seeds], metrics)
    if len(by_interactions) > 1:
        document["by_interactions"] = by_interactions
    if searched is not None:
        document["search"] = searched
    document |= run.stopped
    if run.also:
        document["also"] = run.also
    if recipe.beside:
        document["beside"] = {}
    for name, changes in recipe.beside.items():
        setting = beside(recipe, config, changes)
        other = _run(*setting, divisions, metrics, folder and folder / name)
        values = {metric: _rounded(other.mean(metric)) for metric in metrics}
        gaps = intervals({metric: run.per_user(metric) - other.per_user(metric) for metric in metrics})
        document["beside"][name] = {
            **({"system": setting[0].system} if "system" in changes else {}),
            "metrics": values,
            "values": {metric: [_rounded(result[metric]) for result in other.results] for metric in metrics},
            "behind": {metric: [_rounded(gap.low), _rounded(gap.high)] for metric, gap in gaps.items()},
            "seconds": round(other.seconds, 3),
            "config": other.config,
        }
    return document | {"note": recipe.note}


def fitted_before(recipe: Recipe, one: Before, train: Dataset, folder: Path) -> tuple[Path, dict[str, Any]]:
    """The folder of a model that a recipe's system is given, and what its result says of it. Recipes that ask for the
    same one share it: it is fitted once in `folder`."""
    asked = one.model_dump() | ({"train": train.fingerprint} if recipe.dataset in one.data else {})
    mark = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:12]
    place = folder / f"{one.system}-{mark}"
    sets = [train if name == recipe.dataset else data_of(name) for name in one.data]
    known: Any = registry.find(one.system)
    model = _fitted(known(**one.config), Dataset.together(sets) if len(sets) > 1 else sets[0], None, place)
    facts = {key: model.fitted_on[key] for key in ("epochs", "seconds", "perplexity") if key in model.fitted_on}
    facts |= {"weights": sum(x.size for x in model.weights.values())}
    if one.export is None:
        return place / "model", one.model_dump(exclude_defaults=True) | facts
    if not (place / "exported").is_dir():
        model.export(place / "exported")
    return place / "exported" / one.export, one.model_dump(exclude_defaults=True) | facts


def search(recipe: Recipe, division: Division, how: Search) -> tuple[dict[str, Any], dict[str, Any]]:
    """The best setting on the validation part, or on one drawn from the train part, and the table of all.

    Of equal settings the first one is taken. The test part is never looked at.
    """
    if how.valid is None:
        if division.valid is None:
            raise ConfigError(f"{recipe.name}: there is no validation part to search on. Give a share: valid: 0.1.")
        tried, on = Division(division.train, division.valid, division.valid), "the validation part"
    else:
        carved = split(division.train, by=how.by, test=how.valid, valid=0, seed=how.seed)
        tried, on = Division(carved.train, carved.test if recipe.stop else None, carved.test), carved.test.label
    table, recipe = [], recipe.model_copy(update={"also": [], "cuts": []})
    for setting in track(how.settings(), f"{recipe.system}: search", len(how.settings())):
        run = _run(recipe, merged(recipe.config, setting), [tried], [how.metric])
        value = run.mean(how.metric)
        table.append({"config": setting, "value": _rounded(value), "seconds": round(run.seconds, 3)})
    best = max(table, key=lambda row: row["value"])
    facts = {"metric": how.metric, "split": on, "table": table, "chosen": best["config"]}
    return merged(recipe.config, best["config"]), facts


def stopping_epoch(
    recipe: Recipe, config: dict[str, Any], train: Dataset, how: Stop, folder: Path | None = None
) -> dict[str, Any]:
    """The best epoch on a validation part drawn from the train part, and the curve that shows it."""
    known: Any = registry.find(recipe.system)
    carved = split(train, by=how.by, test=how.holdout, valid=0, seed=how.seed)
    seed = {"seed": recipe.seeds[0]} if "seed" in known.Config.model_fields else {}
    facts = _fitted(known(**config, **seed), carved.train, carved.test, folder).fitted_on
    what = "of the train users" if how.by == "users" else "of each user's train interactions"
    return _stopped(how.metric, f"{100 * how.holdout:g} % {what}, seed {how.seed}", [facts])


def _other_precision(config: Mapping[str, Any]) -> dict[str, str]:
    """What training computed in, where that is not what was asked for."""
    if (config.get("training") or {}).get("precision") != "bfloat16":
        return {}
    from itemic.nn.products import has_bfloat16

    able = devices.usual() != "cpu" or has_bfloat16()
    return {} if able else {"precision": "float32, as this processor has no bfloat16"}


def _divided(recipe: Recipe, dataset: Dataset, seed: int) -> Division:
    """A model that was also fitted on the validation part has those items as history at test."""
    options: dict[str, Any] = recipe.split.model_dump() | {"seed": seed}
    if recipe.fit == "train+valid" and options["mask_valid"] is None:
        options["mask_valid"] = True
    whole = split(dataset, **options)
    if recipe.fit == "train+valid":
        return Division(whole.part(TRAIN, VALID), None, whole.test)
    valid = whole.valid if whole.split and (whole.split.part == VALID).any() else None
    return Division(whole.train, valid, whole.test)


def _with_lent(
    divisions: Sequence[Division], others: Sequence[Dataset]
) -> tuple[list[Division], dict[str, dict[str, int | float]]]:
    """The divisions with what other data lend each train part; of the first one, what each lends, and the share of the
    items and of what is sought that somebody took."""
    if not others:
        return list(divisions), {}
    found, facts = [], {}
    for division in divisions:
        train = division.train
        for other in others:
            train, counts = lent(train, other)
            facts.setdefault(other.name, counts)
        found.append(division._replace(lent=train))
    first, sought = found[0], found[0].test.relevant.values
    for name, data in (("the train part", first.train), ("both", first.lent)):
        taken = data.interactions.item_counts() > 0
        facts[name] = {
            "share of items": _rounded(taken.mean()),
            "share of what is sought": _rounded(taken[sought].mean()),
        }
    return found, facts


def _run(
    recipe: Recipe,
    config: dict[str, Any],
    divisions: Sequence[Division],
    metrics: Sequence[str],
    folder: Path | None = None,
) -> Run:
    known: Any = registry.find(recipe.system)
    seeded = "seed" in known.Config.model_fields
    if len(recipe.seeds) > 1 and not seeded:
        raise ConfigError(f"{recipe.name}: {recipe.system} has no option 'seed'; {len(recipe.seeds)} seeds are alike.")
    if recipe.cuts and not hasattr(known, "cut"):
        raise ConfigError(f"{recipe.name}: {recipe.system} cannot be cut to other widths. Leave out the key 'cuts'.")
    threads.count()  # settled, and told to the libraries, before anything is timed
    config, stopped = merged({}, config), {}
    if recipe.stop is not None:
        if "training" not in known.Config.model_fields:
            raise ConfigError(f"{recipe.name}: {recipe.system} is not trained in epochs. Leave out the key 'stop'.")
        config = merged(config, {"training.metric": recipe.stop.metric})
        first = divisions[0].learned or divisions[0]
        if first.valid is None:
            stopped = stopping_epoch(recipe, config, first.train, recipe.stop, folder and folder / "stop")
            config = merged(config, {"training": {"epochs": stopped["stop"]["epochs"][0], "patience": None}})
    results, users, facts, dump, also = [], [], [], {}, []
    for n, (division, seed) in enumerate(itertools.product(divisions, recipe.seeds)):
        train, valid, *_ = division.learned or division
        if recipe.lent and division.lent is not None:
            train = division.lent
        if valid is not None and recipe.protocol == "held-out":  # the choice of an epoch is by what is asked at last
            valid = under("held-out", valid, train.n_items)
        model = known(**{**config, **({"seed": seed} if seeded else {})})
        model = _fitted(model, train, valid, folder and folder / str(n))
        facts.append(model.fitted_on)
        if division.learned is not None:
            model = model.adopt(division.train)
        results.append(evaluate(model, division.test, metrics, protocol=recipe.protocol))
        also.append(_otherwise(recipe, model, division.test, metrics))
        users.append(np.arange(len(division.test)) if division.test.users is None else division.test.users)
        dump = model.config.model_dump(mode="json", by_alias=True, exclude={"seed"})
    if facts[0].get("curve"):
        stopped = _stopped(dump["training"]["metric"], "the validation part", facts)
    seconds, others = float(np.mean([fact["seconds"] for fact in facts])), {}
    for name, first in also[0].items():
        means = {metric: _rounded(float(np.mean([found[name][metric] for found in also]))) for metric in metrics}
        others[name] = {"queries": first.n_queries, **means}
    return Run(results, users, seconds, dump, stopped, others)


def _otherwise(recipe: Recipe, model: Any, test: EvalSet, metrics: Sequence[str]) -> dict[str, Result]:
    """What a fitted model does under the other protocols of a recipe, and cut to its other widths."""
    found = [evaluate(model, test, metrics, protocol=protocol) for protocol in recipe.also]
    named = {result.protocol: result for result in found}
    for width in recipe.cuts:
        named[f"width {width}"] = evaluate(model.cut(width), test, metrics, protocol=recipe.protocol)
    return named


def _by_interactions(
    results: Sequence[Result], divisions: Sequence[Division], metrics: Sequence[str]
) -> dict[str, dict[str, float]]:
    """The metrics by how many users of the train part have what is to be found, and how many queries ask for such."""
    listed, found = [metric for metric in metrics if metric != AUC], {}
    for result, division in zip(results, divisions):
        test = division.test
        for name, mask in formulas.by_count(item_counts(division.train)).items():
            queries = int((formulas.only(test.relevant, mask).lengths > 0).sum())
            if queries:
                values = {"queries": queries, **of_items(mask, result.lists, test, listed)}
                found.setdefault(name, []).append(values)
    return {
        name: {key: _rounded(float(np.mean([row[key] for row in rows]))) for key in rows[0]}
        for name, rows in found.items()
    }


def _fitted(model: Any, train: Dataset, valid: EvalSet | None, folder: Path | None) -> Any:
    """The model, fitted; as kept in the folder where it was fitted before, from its checkpoint where it was cut off."""
    if folder is None:
        return model.fit(train, valid)
    if (folder / "model").is_dir():
        kept = type(model).load(folder / "model")
        if kept.config != model.config or kept.fitted_on["train_fingerprint"] != train.fingerprint:
            raise LoadError(f"{folder} holds a model with another config or of other data. Remove it, or name another.")
        return kept
    if "training" in type(model).Config.model_fields:
        model.fit(train, valid, folder=folder, resume=any(folder.glob("step-*")))
    else:
        model.fit(train, valid)
    model.save(folder / "model")
    return model


def _stopped(metric: str, on: str, facts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a result says of the end of training: the best epoch of each run, and the curve of the first."""
    epochs, seconds = [fact["best_epoch"] for fact in facts], round(sum(fact["seconds"] for fact in facts), 3)
    curve = [
        {k: point[k] for k in ("stage", "epoch", "step")} | {k: _rounded(v) for k, v in point.items() if "@" in k}
        for point in facts[0]["curve"]
    ]
    return {"stop": {"metric": metric, "on": on, "epochs": epochs, "seconds": seconds}, "curve": curve}


def _rounded(value: float) -> float:
    return round(float(value), 6)
