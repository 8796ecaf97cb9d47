"""tune: a planted optimum, resuming, pruning, the recipe it leaves, and what it refuses."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
from click.testing import CliRunner

from itemic import registry
from itemic.cli import main
from itemic.data import TEST, Dataset
from itemic.data.simulated import planted_groups
from itemic.data.splits import split
from itemic.errors import ConfigError, ItemicError, TrainingDiverged
from itemic.evaluation import evaluate, reproduce, tune
from itemic.evaluation.recipes import read_recipe
from itemic.evaluation.space import defaults, own_space, search_space
from itemic.registry import system
from itemic.systems.base import ScoreRecommender, SystemConfig
from itemic.training import TrainingConfig

BEST = 0.3
NOTHING_TO_SEARCH = ("pipeline", "popularity", "repeatlast")
"""The planted optimum of the option `dial`."""


def tastes(train, noise):
    """Scores of each user for each item: their planted group, under noise of this size."""
    own = np.arange(train.n_users)[:, None] % 4 == np.arange(train.n_items) % 4
    return (own + noise * np.random.default_rng(0).standard_normal(own.shape)).astype(np.float32)


class Config(SystemConfig):
    tune: ClassVar = {"dial": "0..1"}

    dial: float = 0.9
    side: int = 1
    seed: int = 0


@system("toy-dial", family="toys", answers=["user"])
class Dial(ScoreRecommender[Config]):
    """Knows the planted groups, and the less of them the further its dial is from the best place."""

    fits: ClassVar[list[float]] = []
    interrupt_at: ClassVar[int | None] = None

    def solve(self, train):
        self.fits.append(self.config.dial)
        if len(self.fits) == self.interrupt_at:
            raise KeyboardInterrupt
        return {"scores": tastes(train, 4 * abs(self.config.dial - BEST))}

    def scores(self, query):
        return self.weights["scores"][query.user]


class SlowConfig(SystemConfig):
    training: TrainingConfig = TrainingConfig(epochs=12, batch_size=1000)
    dial: float = 0.9
    peak: int = 12
    seed: int = 0


@system("toy-slow", family="toys", answers=["user"])
class Slow(ScoreRecommender[SlowConfig, Any]):
    """The same, learned in steps: after each epoch up to the peak it knows more, after that less."""

    def build(self, catalogue):
        from torch import nn, ones, zeros

        return nn.ParameterDict({"epoch": nn.Parameter(zeros(1), False), "free": nn.Parameter(ones(1))})

    def prepare(self, train):
        self._train = train

    def batches(self, train, rng):
        return [None]

    def loss(self, batch):
        return {"free": self.module["free"].sum() * (float("nan") if self.config.dial > 0.95 else 1)}

    def on_epoch(self, epoch):
        self.module["epoch"].data += 1

    def scores(self, query):
        far = abs(self.weights["epoch"][0] - self.config.peak) / 10
        return tastes(self.catalogue, 4 * abs(self.config.dial - BEST) + far)[query.user]


@pytest.fixture(scope="module")
def data():
    train, _ = planted_groups(n_users=60, n_items=80, n_groups=4, loyalty=0.7, seed=0)
    return split(train, by="random", test=0.2, valid=0.2, seed=0)


@pytest.fixture(autouse=True)
def fresh():
    Dial.fits, Dial.interrupt_at = [], None


def run(*args, code=0):
    done = CliRunner().invoke(main, [str(arg) for arg in args])
    assert done.exit_code == code, f"{done.stdout}\n{done.stderr}\n{done.exception!r}"
    return done


def settled(tuning):
    """What does not depend on the clock."""
    return [replace(trial, seconds=0) for trial in tuning.trials]


def test_it_starts_from_the_defaults_and_finds_the_planted_optimum(data, tmp_path):
    found = tune("toy-dial", data, tmp_path / "study", 20)
    assert found.trials[0].params == {"dial": 0.9}
    assert found.best.params["dial"] == pytest.approx(BEST, abs=0.05)
    assert found.best.value > 1.5 * found.trials[0].value
    assert found.best.value == max(trial.value for trial in found.trials)


def test_a_search_goes_on_as_if_it_had_never_stopped(data, tmp_path):
    whole = tune("toy-dial", data, tmp_path / "whole", 14)
    tune("toy-dial", data, tmp_path / "parts", 5)
    Dial.fits, Dial.interrupt_at = [], 4
    with pytest.raises(KeyboardInterrupt):
        tune("toy-dial", data, tmp_path / "parts", 14)
    Dial.fits, Dial.interrupt_at = [], None
    parts = tune("toy-dial", data, tmp_path / "parts", 14)
    assert len(Dial.fits) == 14 - 5 - 3
    assert settled(parts) == settled(whole)
    assert (tmp_path / "parts/best.yaml").read_text() == (tmp_path / "whole/best.yaml").read_text()
    again = tune("toy-dial", data, tmp_path / "parts", 3)  # has more already
    assert again == parts
    assert settled(tune("toy-dial", data, tmp_path / "other", 14, seed=1)) != settled(whole)


def test_trials_worse_than_most_are_ended_early_and_the_best_one_is_not(data, tmp_path):
    found = tune("toy-slow", data, tmp_path / "study", 16, over={"dial": "0..0.9"})
    pruned = [trial for trial in found.trials if trial.state == "pruned"]
    whole = [trial for trial in found.trials if trial.state == "complete"]
    assert len(pruned) >= 3
    assert all(5 <= len(trial.curve) < 12 for trial in pruned)
    assert all(len(trial.curve) == 12 for trial in whole)
    assert max(trial.value for trial in pruned) < found.best.value
    assert found.best.params["dial"] == pytest.approx(BEST, abs=0.1)


def test_the_recipe_gives_the_metric_again_and_runs_under_reproduce(data, tmp_path, monkeypatch):
    found = tune("toy-slow", data, tmp_path / "study", 4, over={"dial": "0..0.9"}, settings={"peak": 7, "seed": 3})
    assert found.best.epoch == 7
    recipe = read_recipe(found.recipe)
    assert recipe.seeds == [3]
    model = registry.find("toy-slow")(**recipe.config).fit(data.train, data.valid)
    assert evaluate(model, data.valid, "ndcg@20")["ndcg@20"] == found.best.value
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ITEMIC_DATA", str(tmp_path))
    monkeypatch.delenv("ITEMIC_RECIPES", raising=False)
    data.save(tmp_path / data.name)
    (tmp_path / "recipes/toy-slow").mkdir(parents=True)
    shutil.copy(found.recipe, tmp_path / f"recipes/toy-slow/{data.name}.tuned.yaml")
    result = json.loads(reproduce("toy-slow", data.name, "tuned").read_text())
    assert result["metrics"]["ndcg@20"]["value"] == round(evaluate(model, data.test, "ndcg@20")["ndcg@20"], 6)


def test_without_a_validation_part_the_recipe_has_the_best_epoch_on_held_out_train_items(data, tmp_path):
    whole = split(replace(data, split=None), by="random", test=0.2, valid=0, seed=0)
    found = tune("toy-slow", whole, tmp_path / "study", 3, over={"dial": "0..0.9"}, settings={"peak": 7})
    recipe = read_recipe(found.recipe)
    assert (recipe.config["training"]["epochs"], recipe.config["training"]["patience"]) == (7, None)
    assert "10% of each user's train interactions" in recipe.note
    held = split(whole.train, by="random", test=0.1, valid=0, seed=0)
    model = registry.find("toy-slow")(**recipe.config).fit(held.train)
    assert evaluate(model, held.test, "ndcg@20")["ndcg@20"] == found.best.value


def test_the_test_part_is_never_looked_at(data, tmp_path, monkeypatch):
    before = tune("toy-slow", data, tmp_path / "before", 3, over={"dial": "0..0.9"})
    monkeypatch.setattr(Dataset, "test", property(lambda self: pytest.fail("the test part was looked at")))
    part = data.split.part
    without = replace(data, interactions=data.interactions.select(part != TEST))
    without = replace(without, split=replace(data.split, part=part[part != TEST]))
    after = tune("toy-slow", without, tmp_path / "after", 3, over={"dial": "0..0.9"})
    assert settled(after) == settled(before)


def test_a_diverging_trial_is_passed_over_and_only_such_ones_are_an_error(data, tmp_path):
    found = tune("toy-slow", data, tmp_path / "some", 6, over={"dial": "0.3,0.99"})
    assert {trial.state for trial in found.trials} == {"complete", "diverged"}
    assert found.best.params == {"dial": 0.3}
    with pytest.raises(TrainingDiverged, match="all 3 trials of toy-slow diverged. Search lower values of training.lr"):
        tune("toy-slow", data, tmp_path / "all", 3, over={"dial": "0.98,0.99"})
    assert not (tmp_path / "all/best.yaml").exists()


def test_a_setting_that_was_tried_is_not_fitted_again(data, tmp_path):
    found = tune("toy-dial", data, tmp_path / "study", 12, over={"dial": "0.2,0.3,0.9"})
    assert len(found.trials) == 12
    assert len(Dial.fits) == len(set(Dial.fits)) <= 3


def test_options_that_are_set_are_shared_and_not_searched(data, tmp_path):
    assert set(own_space(registry.find("bpr"), {"training": {"lr": 0.01}})) == {"l2", "n_negatives"}
    found = tune("toy-dial", data, tmp_path / "study", 2, over={"side": "1..9"}, settings={"dial": BEST})
    assert all(isinstance(trial.params["side"], int) for trial in found.trials)
    assert read_recipe(found.recipe).config == {"dial": BEST, "side": found.best.params["side"]}


@pytest.mark.parametrize("name", [name for name in registry.entries() if name not in NOTHING_TO_SEARCH])
def test_the_space_of_every_system_holds_its_defaults_and_nothing_that_its_config_refuses(name):
    known = registry.find(name)
    space = search_space(known, {}, own_space(known, {}))
    if "training" in known.Config.model_fields:
        assert "training.lr" in space
    begun = defaults(known.configured({}), space)
    assert set(space) - set(begun) <= {"training.weight_decay"}  # 0 is on no logarithmic scale


ERRORS = {
    "another system": ({"system": "ease"}, "holds a study with another system: 'toy-dial', now 'ease'. Go on"),
    "another space": ({"over": {"dial": "0..0.5"}}, "another space: {'dial': '0..1'}, now {'dial': '0..0.5'}"),
    "other settings": ({"settings": {"side": 2}}, "holds a study with another settings: {}, now {'side': 2}"),
    "another metric": ({"metric": "recall@5"}, "holds a study with another metric: 'ndcg@20', now 'recall@5'"),
    "another seed": ({"seed": 5}, "holds a study with another seed: 0, now 5"),
    "no such option": ({"over": {"dail": "0..1"}}, "toy-dial has no option 'dail'. Did you mean 'dial'?"),
    "no such value": ({"over": {"side": "one,two"}}, "toy-dial: side cannot be 'one'"),
    "one value": ({"over": {"dial": "3"}}, "cannot search dial=3: one value leaves no choice. Write for example 10"),
    "words": ({"over": {"dial": "a..b"}}, "cannot search dial=a..b: a range goes from a number to a number"),
    "upside down": ({"over": {"dial": "1..0"}}, "a range goes from the smaller number to the larger one"),
    "log of nothing": ({"over": {"dial": "0..1:log"}}, "a logarithmic range starts above 0"),
    "set and searched": ({"settings": {"side": 2}, "over": {"side": "1,2"}}, "side is set to 2 and searched over 1,2"),
    "nothing to search": ({"system": "popularity"}, "popularity searches nothing unless told what. Give"),
    "no such metric": ({"metric": "ndgc@5"}, "there is no metric 'ndgc'. Did you mean 'ndcg'"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_what_cannot_be_searched_is_refused_in_one_line(name, data, tmp_path):
    options, text = ERRORS[name]
    tune("toy-dial", data, tmp_path / "study", 1)
    before = (tmp_path / "study/study.json").read_bytes()
    with pytest.raises(ConfigError) as caught:
        tune(**{"system": "toy-dial", "data": data, "folder": tmp_path / "study", "n_trials": 2} | options)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "study/study.json").read_bytes() == before


def test_another_data_set_a_foreign_folder_and_a_damaged_study_are_refused(data, tmp_path):
    tune("toy-dial", data, tmp_path / "study", 1)
    other = split(replace(data, split=None), by="random", test=0.2, valid=0.2, seed=1)
    with pytest.raises(ConfigError, match=f"holds a study with another dataset: '{data.name} \\(\\w{{8}}\\)', now "):
        tune("toy-dial", other, tmp_path / "study", 2)
    (tmp_path / "study/study.json").write_text("{")
    with pytest.raises(ItemicError, match="study.json is damaged: .* Restore it, or give a new folder with --out"):
        tune("toy-dial", data, tmp_path / "study", 2)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.tex").touch()
    with pytest.raises(ItemicError, match="mine holds 'thesis.tex', and no study. Give a new folder with --out"):
        tune("toy-dial", data, tmp_path / "mine", 2)


def test_the_command_prints_the_trials_best_first_and_its_recipe_is_fitted(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data.save("d")
    options = ["--set", "dim=8", "--set", "training.epochs=3", "--set", "training.eval_every=1", "--out", "t"]
    asked = ["tune", "bpr", "d", "--trials", 3, "--over", "training.lr=1e-3..1e-1:log", "--over", "l2=1e-6,1e-4"]
    done = run(*asked, *options)
    header, *rows = [line.split() for line in done.stdout.splitlines()]
    assert header == ["trial", "training.lr", "l2", "ndcg@20", "epoch", "seconds", "state"]
    assert [row[3] for row in rows[:3]] == sorted((row[3] for row in rows[:3]), reverse=True)
    assert "trial 3 of 3: ndcg@20 0." in done.stderr
    document = json.loads(run(*asked, *options, "--json").stdout)
    assert document["recipe"] == "t/best.yaml"
    assert str(document["best"]) == rows[0][0]
    fitted = json.loads(run("fit", "bpr", "d", "--recipe", "t/best.yaml", "--set", "ridge=1", "--json").stdout)
    best = document["trials"][document["best"] - 1]
    assert fitted["config"]["training"]["lr"] == best["params"]["training.lr"]
    assert (fitted["config"]["dim"], fitted["config"]["ridge"]) == (8, 1)
    assert max(line["ndcg@20"] for line in fitted["curve"]) == pytest.approx(best["value"], abs=1e-6)
    assert "is a recipe of bpr, not of ease" in run("fit", "ease", "d", "--recipe", "t/best.yaml", code=1).stderr
    assert "--over 'dim' is not OPTION=RANGE" in run("tune", "bpr", "d", "--over", "dim", code=1).stderr
    assert "no such file" in run("fit", "bpr", "d", "--recipe", "t/none.yaml", code=1).stderr.lower()


def test_a_search_that_is_stopped_says_how_to_go_on(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data.save("d")
    Dial.interrupt_at = 3
    done = run("tune", "toy-dial", "d", "--trials", 5, code=1)
    assert "stopped; the same command goes on from the trials in runs/tune-toy-dial" in done.stderr
    assert len(json.loads((tmp_path / "runs/tune-toy-dial/study.json").read_text())["trials"]) == 2


def test_optuna_is_imported_by_a_search_alone():
    code = "import sys, itemic.evaluation, itemic.cli; sys.exit('optuna' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
