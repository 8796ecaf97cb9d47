"""Tuning: the options of a system searched on validation, trial by trial, in a folder where a search can go on.

A trial fits the system with one setting. Optuna suggests the next setting from those before, and ends a trial whose
validations are worse than the median of the others'. The folder holds `study.json`, the trials that are over, written
anew after each one, and `best.yaml`, the best of them as a recipe. What is suggested depends on the seed and on the
trials before alone, so a search that was cut off ends as it would have.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from itemic import metrics as formulas
from itemic import registry
from itemic.data import VALID, Dataset, EvalSet
from itemic.data.splits import split
from itemic.errors import ConfigError, LoadError, SaveError, TrainingDiverged, some
from itemic.evaluation.protocols import evaluate
from itemic.evaluation.recipes import SplitBy, merged
from itemic.evaluation.space import defaults, own_space, rounded, search_space
from itemic.files import write_text

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.trial import Trial as Asked

FORMAT = "itemic-study"
HOLDOUT = 0.1
"""Share of each user's train interactions to choose by, where the data have no validation part."""

WARMUP = 4
"""Validations that no trial is ended before: the first say little of the last."""


@dataclass(frozen=True)
class Trial:
    """One setting and what became of it."""

    params: dict[str, Any]
    """The options searched over, by path."""
    state: str
    """complete; pruned, when its validations were worse than most; diverged, when a loss became nan."""
    value: float | None
    """The metric on the validation part; for a pruned trial the best before it was ended."""
    curve: list[float]
    """The metric at each validation of a trained system."""
    epoch: int | None
    """The best one, of a trained system."""
    seconds: float


@dataclass(frozen=True)
class Tuning:
    """A search as it stands. The first trial has the defaults of the system, where the space holds them."""

    system: str
    metric: str
    trials: list[Trial]
    recipe: Path
    """The best setting, as `itemic fit --recipe` reads it."""

    @property
    def best(self) -> Trial | None:
        """The complete trial with the best metric, the earliest of equal ones; None where all diverged."""
        complete = [trial for trial in self.trials if trial.state == "complete"]
        return max(complete, key=lambda trial: trial.value or 0.0, default=None)


def tune(
    system: str,
    data: Dataset,
    folder: str | Path,
    n_trials: int = 20,
    *,
    over: Mapping[str, str] | None = None,
    settings: Mapping[str, Any] | None = None,
    metric: str = "ndcg@20",
    seed: int = 0,
    say: Callable[[str], None] = lambda text: None,
) -> Tuning:
    """Runs trials until the study in the folder has so many, and writes the best one as a recipe.

    `over` names options and what to try, as in {"training.lr": "1e-4..1e-2:log", "dim": "32,64"}; without it the
    system's own choice is searched. `settings` are options that all trials share. Trials are judged by the validation
    part of the data, else by 10 % of each user's train interactions; the test part is never looked at.

    Raises:
        ConfigError: an option or metric does not exist, or the folder holds another study.
        TrainingDiverged: no trial came to its end.
    """
    from optuna import logging

    logging.set_verbosity(logging.WARNING)
    known: Any = registry.find(system)
    folder, metric, settings = Path(folder), formulas.metric(metric).name, dict(settings or {})
    if "training" in known.Config.model_fields:
        settings = merged(settings, {"training.metric": metric})
    over = own_space(known, settings) if over is None else dict(over)
    space = search_space(known, settings, over)
    first = defaults(known.configured(settings), space)
    train, valid, held = _divided(data)
    about = {
        "system": system,
        "dataset": f"{data.name} ({train.fingerprint[:8]})",
        "validation part": f"{HOLDOUT:.0%} of each user's train interactions" if held else valid.label,
        "metric": metric,
        "settings": settings,
        "space": over,
        "seed": seed,
    }
    tuning = Tuning(system, metric, _trials(folder / "study.json", about), folder / "best.yaml")
    while len(tuning.trials) < n_trials:
        asked = _study(space, first, tuning.trials, seed).ask(space)
        params = {option: rounded(value, space[option]) for option, value in asked.params.items()}
        same = next((trial for trial in tuning.trials if trial.params == params), None)
        if same is None:
            trial = _run(known(**merged(settings, params)), params, train, valid, metric, asked)
        else:  # a fit is repeatable
            trial = replace(same, seconds=0.0)
        tuning.trials.append(trial)
        document = {"format": FORMAT, "about": about, "trials": [asdict(trial) for trial in tuning.trials]}
        write_text(folder / "study.json", json.dumps(document, indent=1) + "\n")
        if trial is tuning.best:
            write_text(tuning.recipe, _recipe(data, about, trial, held))
        say(f"trial {len(tuning.trials)} of {n_trials}: {_told(trial, tuning)}")
    if tuning.best is None:
        raise TrainingDiverged(
            f"all {len(tuning.trials)} trials of {system} diverged. Search lower values of training.lr."
        )
    return tuning


def _divided(data: Dataset) -> tuple[Dataset, EvalSet, bool]:
    """What to fit on, what to choose by, and whether that was held out of the train part."""
    if data.split is not None and (data.split.part == VALID).any():
        return data.train, data.valid, False
    held = split(data.train, by="random", test=HOLDOUT, valid=0, seed=0)
    return held.train, held.test, True


def _study(space: "dict[str, BaseDistribution]", first: dict[str, Any], trials: list[Trial], seed: int) -> "Study":
    """A study that knows these trials; the next one starts from `first` where there are none."""
    from optuna import create_study
    from optuna.pruners import MedianPruner
    from optuna.samplers import TPESampler
    from optuna.trial import TrialState, create_trial

    drawn = int(np.random.SeedSequence([seed, len(trials)]).generate_state(1)[0])
    study = create_study(
        direction="maximize", sampler=TPESampler(seed=drawn), pruner=MedianPruner(n_warmup_steps=WARMUP)
    )
    for trial in trials:
        complete = trial.state == "complete"
        study.add_trial(
            create_trial(
                state=TrialState.COMPLETE if complete else TrialState.PRUNED,
                value=trial.value if complete else None,
                params=trial.params,
                distributions=space,
                intermediate_values=dict(enumerate(trial.curve)),
            )
        )
    if not trials:
        study.enqueue_trial(first)
    return study


def _run(model: Any, params: dict[str, Any], train: Dataset, valid: EvalSet, metric: str, asked: "Asked") -> Trial:
    from optuna import TrialPruned

    curve: list[float] = []

    def watch(metrics: dict[str, float]) -> None:
        curve.append(metrics[metric])
        asked.report(curve[-1], len(curve) - 1)
        if asked.should_prune():
            raise TrialPruned

    def ended(state: str, value: float | None, epoch: int | None = None) -> Trial:
        return Trial(params, state, value, curve, epoch, round(time.perf_counter() - start, 3))

    start = time.perf_counter()
    try:
        model.fit(train, valid, watch=watch)
    except TrialPruned:
        return ended("pruned", max(curve))
    except TrainingDiverged:
        return ended("diverged", max(curve, default=None))
    return ended("complete", evaluate(model, valid, metric)[metric], model.fitted_on.get("best_epoch"))


def _trials(path: Path, about: Mapping[str, Any]) -> list[Trial]:
    """The trials of the study in a file, none where there is no file."""
    folder = path.parent
    if not path.exists():
        if folder.is_dir() and any(folder.iterdir()):
            held = some(sorted(entry.name for entry in folder.iterdir()))
            raise SaveError(f"{folder} holds {held}, and no study. Give a new folder with --out.")
        return []
    try:
        document = json.loads(path.read_text())
        was, trials = document["about"], [Trial(**trial) for trial in document["trials"]]
    except (ValueError, KeyError, TypeError) as error:
        raise LoadError(f"{path} is damaged: {error}. Restore it, or give a new folder with --out.") from None
    for name, now in json.loads(json.dumps(about)).items():
        if was.get(name) != now:
            raise ConfigError(
                f"{folder} holds a study with another {name}: {was.get(name)!r}, now {now!r}. "
                "Go on with what it was, or give a new folder with --out."
            )
    return trials


def _recipe(data: Dataset, about: Mapping[str, Any], best: Trial, held: bool) -> str:
    """The recipe of a trial. One that stopped by held-out interactions is to be fitted on all for as many epochs."""
    config = merged(about["settings"], best.params)
    seeds = [config.pop("seed", 0)]
    if held and best.epoch is not None:
        config = merged(config, {"training.epochs": best.epoch, "training.patience": None})
    how = data.split.how if data.split is not None else {"by": "auto"}
    recipe = {
        "system": about["system"],
        "dataset": data.name,
        "variant": "tuned",
        "split": {key: how[key] for key in SplitBy.model_fields if key in how},
        "metrics": {about["metric"]: None},
        "config": config,
        "seeds": seeds,
        "note": f"Chosen on the validation part ({about['validation part']}): {about['metric']} {best.value:.4f}.",
    }
    return yaml.safe_dump(recipe, sort_keys=False, width=120, default_flow_style=None)


def _told(trial: Trial, tuning: Tuning) -> str:
    value = "-" if trial.value is None else f"{trial.value:.4f}"
    best = f" (best {tuning.best.value:.4f})" if tuning.best is not None else ""
    state = "" if trial.state == "complete" else f", {trial.state}"
    options = "  ".join(f"{option}={value}" for option, value in trial.params.items())
    return f"{tuning.metric} {value}{best}{state}, {trial.seconds:.1f} s  {options}"
