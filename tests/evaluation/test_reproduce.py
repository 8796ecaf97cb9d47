"""Recipes and their results: the schema, the search, several seeds, the list, the tables, and the numbers in CI."""

import json
from copy import copy
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
import yaml

from itemic.data import TEST, TRAIN, VALID, Dataset
from itemic.data.splits import split
from itemic.errors import ConfigError, DataError, ItemicError, LoadError
from itemic.evaluation import evaluate, reproduce, reproduce_list
from itemic.evaluation.recipes import Recipe, all_recipes, beside, find_recipe, merged, recipes_folder
from itemic.evaluation.reproduce import data_of, measure
from itemic.evaluation.tables import protocols, results_table, settings, standing, variants, write_tables
from itemic.model import load
from itemic.registry import find, system
from itemic.systems.base import ScoreRecommender, SystemConfig
from itemic.training import TrainingConfig
from itemic.version import VERSION


class Config(SystemConfig):
    sign: float = 1.0
    noise: float = 0.0
    seed: int = 0


@system("toy-counts", family="toys", answers=["anyone"])
class Counts(ScoreRecommender[Config]):
    """How many users each item has, times a sign, plus noise from a seed."""

    fitted: ClassVar[list[tuple[float, int]]] = []

    def solve(self, train):
        self.fitted.append((self.config.sign, len(train.interactions)))
        noise = np.random.default_rng(self.config.seed).random(train.n_items) * self.config.noise
        return {"scores": (self.config.sign * train.interactions.item_counts() + noise).astype(np.float32)}

    def scores(self, query):
        return np.tile(self.weights["scores"], (len(query), 1))

    def cut(self, width):
        small = copy(self)
        small.weights = {"scores": self.weights["scores"] * (np.arange(len(self.weights["scores"])) < width)}
        return small


class ClockConfig(SystemConfig):
    training: TrainingConfig = TrainingConfig(epochs=9, patience=4, batch_size=400)
    good: int = 3
    seed: int = 0


@system("toy-clock", family="toys", answers=["anyone"])
class Clock(ScoreRecommender[ClockConfig, Any]):
    """How many users each item has: after the good epoch as it is, after every other one upside down."""

    fitted: ClassVar[list[tuple[int, int, bool]]] = []

    def fit(self, train, valid=None, **options):
        self.fitted.append((self.config.training.epochs, len(train.interactions), valid is not None))
        return super().fit(train, valid, **options)

    def build(self, catalogue):
        from torch import nn, ones, zeros

        parts = {"clock": nn.Parameter(zeros(1), False), "free": nn.Parameter(ones(1))}
        return nn.ParameterDict(parts | {"counts": nn.Parameter(zeros(catalogue.n_items), False)})

    def prepare(self, train):
        from torch import from_numpy

        self.module["counts"].data = from_numpy(train.interactions.item_counts()).float()

    def batches(self, train, rng):
        return [None]

    def loss(self, batch):
        return {"free": self.module["free"].sum()}

    def on_epoch(self, epoch):
        self.module["clock"].data += 1

    def scores(self, query):
        sign = 1 if self.weights["clock"][0] == self.config.good else -1
        return np.tile(sign * self.weights["counts"], (len(query), 1))


@system("toy-traveller", family="toys", answers=["anyone"])
class Traveller(Counts):
    """Counts the items of data that it was not fitted on, and can be put there."""

    def solve(self, train):
        self.fitted.append((self.config.sign, len(train.interactions)))
        return {"nothing": np.zeros(1, np.float32)}

    def adopt(self, train):
        other = self.moved(train)
        other.tables["scores"] = train.interactions.item_counts().astype(np.float32)
        return other

    def scores(self, query):
        return np.tile(self.tables["scores"], (len(query), 1))


class GivenConfig(SystemConfig):
    folder: str = ""


@system("toy-given", family="toys", answers=["anyone"])
class Given(ScoreRecommender[GivenConfig]):
    """Scores items as the model in a folder does."""

    def solve(self, train):
        return {"scores": load(self.config.folder).weights["scores"]}

    def scores(self, query):
        return np.tile(self.weights["scores"], (len(query), 1))


START, END = "<!-- results -->", "<!-- /results -->"
RECIPE = {
    "system": "toy-counts",
    "dataset": "skewed",
    "split": {"by": "random", "test": 0.2, "valid": 0.2},
    "metrics": {"recall@5": {"published": 0.5, "source": "Table 1"}, "ndcg@5": None},
}


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    pairs = sorted({(int(u), int(i)) for u, i in zip(rng.integers(0, 60, 900), rng.integers(0, 30, 900) ** 2 // 30)})
    return Dataset.from_frame({"user": [u for u, _ in pairs], "item": [i for _, i in pairs]}, name="skewed")


@pytest.fixture
def place(tmp_path, monkeypatch, data):
    """A folder with recipes and data, and a function that writes a recipe."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ITEMIC_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("ITEMIC_RECIPES", raising=False)
    data.save(tmp_path / "data" / "skewed")

    def write(name="toy-counts/skewed", **changes):
        path = tmp_path / "recipes" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump({**RECIPE, **changes}, sort_keys=False))
        return path

    write()
    return write


def recipe(**changes):
    return Recipe.model_validate({**RECIPE, **changes})


def value(facts):
    return facts["metrics"]["recall@5"]["value"]


def test_a_result_says_what_was_run_on_what_and_what_came_out(place):
    path = reproduce("toy-counts", "skewed")
    facts = json.loads(path.read_text())
    assert path.as_posix() == "results/toy-counts__skewed.json"
    assert {"system", "dataset", "variant", "split", "protocol", "metrics", "seconds", "device", "threads"} <= set(
        facts
    )
    assert {"seeds", "version", "config", "note", "queries", "skipped"} <= set(facts)
    assert facts["split"] == "random, test 20 %, valid 20 %, seed 0"
    assert (facts["protocol"], facts["version"], facts["seeds"]) == ("full ranking", VERSION, [0])
    assert facts["config"] == {"sign": 1.0, "noise": 0.0}
    measured = facts["metrics"]["recall@5"]
    assert (measured["published"], measured["source"]) == (0.5, "Table 1")
    assert measured["values"] == [measured["value"]]
    assert measured["interval"][0] < measured["value"] < measured["interval"][1]
    assert facts["metrics"]["ndcg@5"]["published"] is None


@pytest.mark.parametrize("able", [True, False])
def test_a_result_says_so_where_training_was_in_another_precision(data, monkeypatch, able):
    monkeypatch.setattr("itemic.nn.products.has_bfloat16", lambda: able)
    monkeypatch.setattr("itemic.training.trainer.has_bfloat16", lambda: False)
    training = {"epochs": 1, "precision": "bfloat16"}
    document = measure(recipe(system="bpr", config={"dim": 4, "training": training}), data)
    assert document.get("precision", "").startswith("float32") != able


def test_the_value_is_that_of_evaluate_on_the_split_the_recipe_names(data):
    from itemic.data.splits import split

    whole = split(data, by="random", test=0.2, valid=0.2)
    for fit, parts, mask in (("train", (TRAIN,), None), ("train+valid", (TRAIN, VALID), True)):
        tested = split(data, by="random", test=0.2, valid=0.2, mask_valid=mask).test
        alone = evaluate(Counts().fit(whole.part(*parts)), tested, "recall@5")
        assert measure(recipe(fit=fit), data)["metrics"]["recall@5"]["value"] == pytest.approx(
            alone["recall@5"], abs=1e-6
        )
    assert (whole.split.part == TEST).any()


def test_seeds_give_a_value_each_and_their_mean(data):
    many = measure(recipe(seeds=[0, 1, 2], config={"noise": 40.0}), data)
    found = many["metrics"]["recall@5"]
    ones = [
        measure(recipe(seeds=[seed], config={"noise": 40.0}), data)["metrics"]["recall@5"]["value"] for seed in range(3)
    ]
    assert found["values"] == ones
    assert len(set(ones)) > 1
    assert found["value"] == pytest.approx(np.mean(ones), abs=2e-6)
    with pytest.raises(ConfigError, match="popularity has no option 'seed'; 2 seeds are alike"):
        measure(recipe(system="popularity", seeds=[0, 1]), data)


def test_several_divisions_give_a_value_each_their_mean_and_an_interval_over_users(data):
    seeds = [{"by": "random", "test": 0.2, "valid": 0.2, "seed": seed} for seed in (0, 1)]
    one, two = (measure(recipe(split=split), data)["metrics"]["recall@5"] for split in seeds)
    facts = measure(recipe(split={**seeds[0], "seed": [0, 1]}), data)
    both = facts["metrics"]["recall@5"]
    assert both["values"] == [one["value"], two["value"]]
    assert one["value"] != two["value"]
    assert both["value"] == pytest.approx(np.mean(both["values"]), abs=1e-6)
    assert both["interval"][1] - both["interval"][0] < one["interval"][1] - one["interval"][0]
    assert facts["split"] == "random, test 20 %, valid 20 %, seed 0; random, test 20 %, valid 20 %, seed 1"


@pytest.mark.parametrize(
    "settings", [{"grid": {"sign": [-1.0, 1.0, 0.0]}}, {"configs": [{"sign": -1.0}, {"sign": 1.0}]}]
)
def test_a_search_chooses_by_a_part_of_train_and_refits_on_all_of_it(data, settings):
    Counts.fitted.clear()
    facts = measure(recipe(search={"metric": "ndcg@5", "valid": 0.1, **settings}), data)
    table = facts["search"]["table"]
    assert facts["search"]["chosen"] == {"sign": 1.0} == max(table, key=lambda row: row["value"])["config"]
    assert facts["config"]["sign"] == 1.0
    assert facts["metrics"] == measure(recipe(), data)["metrics"]
    *tried, (_, last) = Counts.fitted[: len(table) + 1]
    assert len(tried) == len(table)
    assert len({n for _, n in tried}) == 1
    assert 0.85 * last < tried[0][1] < last


def test_a_search_on_the_validation_part_leaves_the_train_part_whole(data):
    Counts.fitted.clear()
    facts = measure(recipe(search={"metric": "ndcg@5", "valid": None, "grid": {"sign": [-1.0, 1.0]}}), data)
    assert (facts["search"]["chosen"], facts["search"]["split"]) == ({"sign": 1.0}, "the validation part")
    assert len({n for _, n in Counts.fitted}) == 1
    everything = {"split": {"by": "random", "test": 0.2, "valid": 0}}
    with pytest.raises(ConfigError, match="no validation part to search on. Give a share: valid: 0.1."):
        measure(recipe(**everything, search={"metric": "ndcg@5", "valid": None, "grid": {"sign": [1.0]}}), data)


def test_whole_users_are_held_out_where_a_recipe_says_so(data):
    Clock.fitted.clear()
    half = {"metric": "ndcg@5", "by": "users"}
    options = {"system": "toy-clock", "split": {"by": "random", "test": 0.2, "valid": 0}}
    facts = measure(
        recipe(**options, stop={**half, "holdout": 0.5}, search={**half, "valid": 0.5, "grid": {"good": [2, 3]}}), data
    )
    assert facts["search"]["split"] == "users, test 50 %, seed 0"
    assert facts["stop"]["on"] == "50 % of the train users, seed 0"
    *carved, (_, whole, _) = Clock.fitted
    assert all(0.4 * whole < n < 0.6 * whole for _, n, _ in carved[::2])


def test_where_there_is_no_validation_part_the_epoch_comes_from_a_share_of_train_and_one_refit_on_all_of_it(data):
    Clock.fitted.clear()
    options = {"system": "toy-clock", "split": {"by": "random", "test": 0.2, "valid": 0}}
    facts = measure(recipe(**options, stop={"metric": "ndcg@5", "holdout": 0.1}, seeds=[0, 1]), data)
    (first, carved, judged), *refits = Clock.fitted
    assert (first, judged) == (9, True)
    assert refits == [(3, refits[0][1], False)] * 2
    assert 0.85 * refits[0][1] < carved < refits[0][1]
    assert facts["stop"]["epochs"] == [3]
    assert (facts["stop"]["metric"], facts["stop"]["on"]) == (
        "ndcg@5",
        "10 % of each user's train interactions, seed 0",
    )
    assert [point["epoch"] for point in facts["curve"]] == [1, 2, 3, 4, 5, 6, 7]
    assert facts["curve"][2]["ndcg@5"] == max(point["ndcg@5"] for point in facts["curve"])
    assert (facts["config"]["training"]["epochs"], facts["config"]["training"]["patience"]) == (3, None)
    assert facts["config"]["training"]["batch_size"] == 400
    never = measure(recipe(**options, config={"training": {"epochs": 9}}), data)
    assert value(never) < value(facts)  # the last epoch is a bad one
    assert "stop" not in never
    assert facts["metrics"]["recall@5"]["value"] == pytest.approx(
        value(measure(recipe(split=options["split"]), data)), abs=1e-6
    )


def test_where_there_is_a_validation_part_it_stops_training_and_nothing_is_fitted_anew(data):
    Clock.fitted.clear()
    facts = measure(recipe(system="toy-clock", stop={"metric": "mrr@7"}), data)
    assert [(epochs, judged) for epochs, _, judged in Clock.fitted] == [(9, True)]
    assert (facts["stop"]["on"], facts["stop"]["epochs"]) == ("the validation part", [3])
    assert facts["config"]["training"]["metric"] == facts["stop"]["metric"] == "mrr@7"
    assert "mrr@7" in facts["curve"][0]


def test_a_run_that_was_cut_off_goes_on_where_it_was(data, tmp_path, monkeypatch):
    options = {"training": {"epochs": 6, "checkpoint_steps": 1}}
    asked = recipe(system="toy-clock", config=options, stop={"metric": "ndcg@5"}, seeds=[0, 1])
    begun, on_epoch = [], Clock.on_epoch

    def cut(model, epoch):
        begun.append((model.config.seed, epoch))
        if begun[-1] == (1, 4) and begun.count((1, 4)) == 1:
            raise KeyboardInterrupt
        on_epoch(model, epoch)

    monkeypatch.setattr(Clock, "on_epoch", cut)
    with pytest.raises(KeyboardInterrupt):
        measure(asked, data, tmp_path)
    cut_off = len(begun)
    facts = measure(asked, data, tmp_path)
    assert begun[cut_off:] == [(1, 4), (1, 5)]  # the first seed is kept whole
    assert facts["stop"]["epochs"] == [3, 3]
    assert without_seconds(facts) == without_seconds(measure(asked, data))
    other = recipe(system="toy-clock", config={"training": {"epochs": 5}}, stop={"metric": "ndcg@5"})
    with pytest.raises(LoadError, match="0 holds a model with another config or of other data"):
        measure(other, data, tmp_path)


def without_seconds(facts):
    return json.loads(json.dumps(facts), object_hook=lambda o: {k: v for k, v in o.items() if k != "seconds"})


def test_a_result_tells_rare_items_from_well_known_ones(data):
    asked = recipe(split={"by": "items", "test": 0.3, "valid": 0}, metrics={"recall@5": None})
    assert "by_interactions" not in measure(asked, data)  # all are new there
    first, last = [*"ppppp", "s", "s", "q"], [*"qqqqq", "p", "p", "p"]  # v, the validation item, stands between
    items = [item for pair in zip(first, last) for item in (pair[0], "v", pair[1])]
    few = Dataset.from_frame({"user": np.repeat(range(8), 3), "item": items, "time": range(24)}, name="few")
    facts = measure(recipe(split={"by": "last"}, metrics={"recall@1": None, "mrr@3": None}), few)
    assert facts["by_interactions"] == {
        "1 to 4": {"queries": 5, "recall@1": 0.0, "mrr@3": 0.5},  # q stands behind s
        "5 or more": {"queries": 3, "recall@1": 1.0, "mrr@3": 1.0},
    }


def test_where_held_out_items_are_ranked_among_themselves_training_is_judged_by_that_too(data):
    options = {"system": "toy-clock", "split": {"by": "items", "test": 0.3, "valid": 0.3}}
    among, full = (measure(recipe(**options, protocol=protocol), data)["curve"] for protocol in ("held-out", "full"))
    assert all(point["recall@20"] == 1 for point in among)  # there are fewer
    assert min(point["recall@20"] for point in full) < 1


def in_a_page(folder, mark):
    """What is written between two marks."""
    page = folder / "page.md"
    page.write_text(f"<!-- {mark} -->\n<!-- /{mark} -->\n")
    write_tables(page)
    return page.read_text()


def test_one_fit_is_measured_under_several_protocols_and_a_table_has_them_side_by_side(place, tmp_path, data):
    divided = split(replace(data, ordered=True).save(tmp_path / "data" / "ordered"), by="cold", test=0.2)
    asked = {"variant": "cold", "dataset": "ordered", "split": {"by": "cold", "test": 0.2}, "also": ["warm", "cold"]}
    for name in ("popularity", "itemknn"):
        place(f"{name}/ordered.cold", system=name, **asked)
        facts = json.loads(reproduce(name, "ordered", "cold").read_text())
        assert list(facts["also"]) == ["warm items only", "cold items only"]
        found = facts["also"]["cold items only"]
        by_hand = evaluate(find(name)().fit(divided.train), divided.test, "recall@5", protocol="cold")
        assert found["recall@5"] == pytest.approx(by_hand["recall@5"], abs=1e-6)
        assert found["queries"] == by_hand.n_queries < facts["queries"]
    lines = protocols("ordered", "cold").splitlines()
    assert lines[0] == "| system | recall@5, full ranking | recall@5, warm items only | recall@5, cold items only |"
    assert {line.split("|")[1].strip() for line in lines[2:]} == {"`popularity`", "`itemknn`"}
    assert protocols("ordered", "cold") in in_a_page(tmp_path, "protocols ordered cold")
    with pytest.raises(DataError, match="holds no results on ordered, variant new"):
        protocols("ordered", "new")


def test_a_fitted_model_is_measured_at_other_widths_too_but_not_while_settings_are_tried(data):
    facts = measure(recipe(cuts=[30, 1], search={"metric": "ndcg@5", "grid": {"sign": [1.0]}}), data)
    assert list(facts["also"]) == ["width 30", "width 1"]
    assert facts["also"]["width 30"]["recall@5"] == value(facts) != facts["also"]["width 1"]["recall@5"]
    with pytest.raises(ConfigError, match="popularity cannot be cut to other widths. Leave out the key 'cuts'"):
        measure(recipe(system="popularity", cuts=[3]), data)


def test_a_search_over_a_trained_system_stops_each_setting_and_takes_options_by_path(data):
    grid = {"training.epochs": [1, 6], "good": [2]}
    search = {"metric": "ndcg@5", "grid": grid}
    facts = measure(recipe(system="toy-clock", stop={"metric": "ndcg@5"}, search=search), data)
    assert facts["search"]["chosen"] == {"training.epochs": 6, "good": 2}
    assert facts["stop"]["epochs"] == [2]
    assert facts["config"]["training"]["batch_size"] == 400


def test_a_system_is_fitted_on_other_sets_together_and_tested_where_it_was_put_without_training(place, data, tmp_path):
    for name in ("first", "second"):
        replace(data, name=name).save(tmp_path / "data" / name)
    place("toy-traveller/skewed", system="toy-traveller", pretrain=["first", "second"])
    Counts.fitted.clear()
    facts = json.loads(reproduce("toy-traveller", "skewed", folder="kept").read_text())
    (_, learned), at_home = Counts.fitted[0], measure(recipe(), data)
    assert facts["pretrain"] == ["first", "second"]
    assert learned == 2 * Counts.fitted[1][1]
    assert facts["metrics"] == at_home["metrics"]
    assert "pretrain" not in at_home
    reproduce("toy-traveller", "skewed", folder="kept")
    assert len(Counts.fitted) == 2  # the model was kept
    place("toy-traveller/skewed", system="toy-traveller", pretrain=["first"])
    assert json.loads(reproduce("toy-traveller", "skewed").read_text())["metrics"] == at_home["metrics"]
    place(pretrain=["first"])
    with pytest.raises(ItemicError, match="toy-counts knows only the items that it was fitted with. Fit it on skewed."):
        reproduce("toy-counts", "skewed")
    place(pretrain=["first"], search={"metric": "ndcg@5", "grid": {"sign": [1.0]}})
    with pytest.raises(ConfigError, match="has nothing to search on. Leave out search or pretrain"):
        reproduce("toy-counts", "skewed")


def test_a_system_without_epochs_cannot_stop_at_one(data):
    with pytest.raises(ConfigError, match="toy-counts is not trained in epochs. Leave out the key 'stop'."):
        measure(recipe(stop={"metric": "ndcg@5"}), data)


def test_another_system_is_measured_beside_the_main_one_with_options_of_its_own(data):
    asked = {
        "rare first": {"sign": -1.0},
        "neighbours": {"system": "itemknn", "k": 3},
        "noise": {"system": "toy-counts"},
    }
    facts = measure(recipe(config={"noise": 40.0}, seeds=[1, 2], beside=asked), data)
    beside = facts["beside"]
    alone = measure(recipe(system="itemknn", config={"k": 3}), data)
    assert beside["neighbours"]["system"] == "itemknn"
    assert beside["neighbours"]["config"] == alone["config"]
    assert beside["neighbours"]["metrics"]["recall@5"] == value(alone)
    low, high = beside["neighbours"]["behind"]["recall@5"]
    assert low < value(facts) - value(alone) < high
    assert "system" not in beside["rare first"]
    assert beside["noise"]["config"]["noise"] == 0.0  # nothing of the main config
    assert [len(one["values"]["recall@5"]) for one in beside.values()] == [2, 1, 1]


def test_a_train_part_is_lent_users_of_other_data_and_the_result_says_of_how_many_items_somebody_knows(place, tmp_path):
    films = [f"Film {n} (2000)" for n in range(6)]
    talk = {"dialogue": np.repeat(range(4), 2), "role": ["user", "recommender"] * 4, "text": ["?", "!"] * 4}
    talk |= {"items": [[0], [1], [0], [1], [0], [2], [0], [1]], "part": ["train"] * 4 + ["test"] * 4}
    Dataset.from_dialogues(talk, items={"item": range(6), "title": films}, name="talk").save(tmp_path / "data" / "talk")
    loved = {"user": [*range(9), 9], "item": [2] * 9 + [3]}
    others = {"item": [2, 3], "title": ["Film 2 (2000)", "Another (1999)"]}
    Dataset.from_frame(loved, items=others, name="lender").save(tmp_path / "data" / "lender")
    rest = {"dataset": "talk", "split": "dialogues", "metrics": {"recall@1": None}}
    beside = {"bare": {"system": "popularity"}, "full": {"system": "popularity", "lent": True}}
    place("toy-counts/talk", **rest, lent=["lender"], beside=beside)
    facts = json.loads(reproduce("toy-counts", "talk").read_text())
    assert facts["metrics"]["recall@1"]["value"] == 0.5  # film 2: nine lenders took it, and nobody in the train part
    assert facts["lent"] == {
        "lender": {"items": 6, "by title and year": 1, "by IMDb id": 0, "taken": 1, "users": 9, "interactions": 9},
        "the train part": {"share of items": 0.333333, "share of what is sought": 0.5},
        "both": {"share of items": 0.5, "share of what is sought": 1.0},
    }
    counted = {name: facts["queries"] for name, facts in facts["by_interactions"].items()}
    assert list(counted.values()) == [1, 1]  # in the train part alone: nobody took film 2 there, two took film 1
    (bare,), (full,) = (np.array(facts["beside"][name]["values"]["recall@1"]) for name in ("bare", "full"))
    assert full == facts["metrics"]["recall@1"]["value"]
    assert facts["beside"]["bare"]["behind"]["recall@1"] != [0.0, 0.0]
    assert facts["beside"]["full"]["behind"]["recall@1"] == [0.0, 0.0]
    assert bare == 0.0  # films 0 and 1 are taken by two each, and 0 comes first
    with pytest.raises(ValueError, match="Leave out search, stop and pretrain"):
        recipe(lent=["lender"], stop={"metric": "ndcg@5"})


def test_other_settings_are_measured_beside_the_main_one(data):
    facts = measure(recipe(beside={"rare first": {"sign": -1.0}}), data)
    other = measure(recipe(config={"sign": -1.0}), data)
    beside = facts["beside"]["rare first"]
    assert (
        beside["metrics"]["recall@5"] == other["metrics"]["recall@5"]["value"] < facts["metrics"]["recall@5"]["value"]
    )
    assert beside["config"]["sign"] == -1.0


def test_a_setting_beside_says_how_far_it_is_behind_with_an_interval(data):
    facts = measure(recipe(beside={"rare first": {"sign": -1.0}, "the same": {}}), data)
    low, high = facts["beside"]["rare first"]["behind"]["recall@5"]
    gap = facts["metrics"]["recall@5"]["value"] - facts["beside"]["rare first"]["metrics"]["recall@5"]
    assert low < gap < high
    assert facts["beside"]["the same"]["behind"]["recall@5"] == [0, 0]


def test_a_model_is_fitted_first_for_those_that_are_given_its_folder(place, data):
    first = {"system": "toy-counts", "data": ["skewed"], "config": {"sign": -1.0}}
    place("toy-given/skewed", system="toy-given", before={"folder": first}, search=None)
    place("toy-given/skewed.again", system="toy-given", variant="again", before={"folder": first}, search=None)
    Counts.fitted.clear()
    for variant in (None, "again"):
        facts = json.loads(reproduce("toy-given", "skewed", variant, folder="work").read_text())
    assert Counts.fitted == [(-1.0, len(split(data, by="random", test=0.2, valid=0.2).train.interactions))]
    assert facts["before"]["folder"]["data"] == ["skewed"]
    rare = measure(recipe(config={"sign": -1.0}), data)
    assert facts["metrics"]["recall@5"]["value"] == rare["metrics"]["recall@5"]["value"]
    Counts.fitted.clear()
    reproduce("toy-given", "skewed")
    assert len(Counts.fitted) == 1
    place("toy-given/skewed", system="toy-given", before={"folder": first}, split={"by": "random", "seed": [0, 1]})
    with pytest.raises(ConfigError, match="would know all divisions. Give the split one seed"):
        reproduce("toy-given", "skewed")


def test_sampled_candidates_are_named_in_the_result(data):
    assert measure(recipe(protocol="sampled-uniform:5"), data)["protocol"] == "sampled candidates (5, uniform)"


def test_the_list_has_every_recipe_with_published_measured_and_ratio(place):
    place("toy-counts/skewed.rare", variant="rare", config={"sign": -1.0})
    reproduce("toy-counts", "skewed")
    rows = {(row["recipe"], row["metric"]): row for row in reproduce_list()}
    done = rows["toy-counts/skewed", "recall@5"]
    assert done["ratio"] == round(done["measured"] / 0.5, 4)
    assert rows["toy-counts/skewed", "ndcg@5"]["ratio"] is None
    assert rows["toy-counts/skewed.rare", "recall@5"]["measured"] is None
    assert len(rows) == 4


def test_the_table_shows_measured_beside_published_between_its_markers(place, tmp_path):
    place("toy-counts/skewed.rare", variant="rare", config={"sign": -1.0})
    with pytest.raises(DataError, match="results holds no results.* Make one: itemic reproduce ease"):
        results_table()
    measured = value(json.loads(reproduce("toy-counts", "skewed").read_text()))
    reproduce("toy-counts", "skewed", "rare")
    lines = results_table().splitlines()
    assert len(lines) == 4
    assert lines[2].startswith(f"| toy-counts | skewed | recall@5 / ndcg@5 | {measured:.4f} / ")
    assert f"| 0.5000 / – | {measured / 0.5:.3f} / – |" in lines[2]
    assert "| skewed, rare |" in lines[3]
    page = tmp_path / "README.md"
    page.write_text(f"before\n{START}\nold\n{END}\nafter\n")
    write_tables(page)
    once = page.read_text()
    assert once == f"before\n{START}\n{results_table()}{END}\nafter\n"
    write_tables(page)
    assert page.read_text() == once
    page.write_text("nothing")
    with pytest.raises(DataError, match="has no lines <!-- results -->"):
        write_tables(page)


def test_results_whose_metrics_stand_in_another_order_are_compared_by_one_of_them(tmp_path):
    rows = {
        "ease": {"ndcg@10": 0.3, "recall@10": 0.4},
        "ials": {"ndcg@10": 0.2},
        "tiger": {"recall@10": 0.35, "ndcg@10": 0.1},
    }
    for name, values in rows.items():
        metrics = {metric: {"value": value, "published": None} for metric, value in values.items()}
        facts = {"system": name, "dataset": "d", "variant": None, "split": "last", "metrics": metrics, "seconds": 1.0}
        (tmp_path / f"{name}.json").write_text(json.dumps({**facts, "protocol": "full ranking"}))
    assert standing("d", "last", tmp_path).splitlines() == [
        "| system | ndcg@10 | recall@10 | fit, s |",
        "| --- | ---: | ---: | ---: |",
        "| `ease` | 0.3000 | 0.4000 | 1.0 |",
        "| `ials` | 0.2000 | – | 1.0 |",
        "| `tiger` | 0.1000 | 0.3500 | 1.0 |",
    ]


def test_a_table_has_what_each_recipe_was_measured_beside(place, tmp_path):
    place("toy-counts/skewed", beside={"rare first": {"sign": -1.0}})
    place("toy-counts/skewed.rare", variant="rare", config={"sign": -1.0}, beside={"the same": {"sign": -1.0}})
    facts = [json.loads(reproduce("toy-counts", "skewed", variant).read_text()) for variant in (None, "rare")]
    low, high = facts[0]["beside"]["rare first"]["behind"]["recall@5"]
    lines = settings("toy-counts", "skewed").splitlines()
    assert lines[0] == "| setting | recall@5 | ndcg@5 | behind, recall@5 |"
    assert [line.split(" | ")[0] for line in lines[2:]] == [
        "| **`toy-counts`**", "| rare first", "| **`toy-counts`**, rare", "| the same"
    ]  # fmt: skip
    assert lines[3].endswith(f" | {low:.4f} to {high:.4f} |")
    assert f"| {value(facts[1]):.4f} |" in lines[4]
    assert settings("toy-counts", "skewed") in in_a_page(tmp_path, "settings toy-counts skewed")
    with pytest.raises(DataError, match="no results of popularity on skewed beside others. Make one: itemic reproduce"):
        settings("popularity", "skewed")


def test_the_standing_has_each_system_once_at_its_best_on_one_split(place, tmp_path):
    for name, sign in (("toy-counts/skewed", 1.0), ("toy-counts/skewed.rare", -1.0)):
        place(name, config={"sign": sign}, **({"variant": "rare"} if sign < 0 else {}))
    place("popularity/skewed", system="popularity")
    place("itemknn/skewed", system="itemknn", split={"by": "last"})
    for system_, variant in (("toy-counts", None), ("toy-counts", "rare"), ("popularity", None)):
        reproduce(system_, "skewed", variant)
    lines = standing("skewed", "random").splitlines()
    assert lines[0] == "| system | recall@5 | ndcg@5 | fit, s |"
    assert sorted(line.split("|")[1].strip() for line in lines[2:]) == ["`popularity`", "`toy-counts`"]
    values = [float(line.split("|")[2]) for line in lines[2:]]
    assert values == sorted(values, reverse=True)
    with pytest.raises(DataError, match="holds no results on skewed, split last"):
        standing("skewed", "last")
    recipes = variants("toy-counts", "skewed").splitlines()
    assert [line.split("|")[1].strip() for line in recipes] == ["recipe", "---", "the main one", "rare"]
    with pytest.raises(DataError, match="no results of ease on skewed. Make one: itemic reproduce ease skewed"):
        variants("ease", "skewed")
    page = tmp_path / "page.md"
    made = {"skewed random": standing("skewed", "random"), "variants toy-counts skewed": "\n".join([*recipes, ""])}
    page.write_text("".join(f"<!-- {name} -->\nold\n<!-- /{name} -->\n" for name in made))
    write_tables(page)
    assert page.read_text() == "".join(f"<!-- {name} -->\n{table}<!-- /{name} -->\n" for name, table in made.items())


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"metrik": {}}, "there is no key 'metrik'. Did you mean 'metrics'"),
        ({"metrics": {"recal@5": None}}, "there is no metric 'recal'. Did you mean 'recall'"),
        ({"metrics": {}}, "metrics cannot be {}"),
        ({"protocol": "ful"}, "there is no protocol 'ful'"),
        ({"also": ["warm", "cool"]}, "there is no protocol 'cool'. Protocols: full, candidates, held-out, warm, cold"),
        ({"metrics": {"recall@5": {"publishd": 1}}}, "no key 'metrics.recall@5.publishd'. Did you mean 'published'"),
        ({"fit": "all"}, "fit cannot be 'all'"),
        ({"config": {"seed": 3}}, "a seed belongs under seeds"),
        ({"stop": {"metric": "ndcg@5", "holdot": 0.1}}, "no key 'stop.holdot'. Did you mean 'holdout'"),
        ({"stop": {"metric": "ndcg@5", "holdout": 1}}, "stop.holdout cannot be 1: Input should be less than 1"),
        (
            {"stop": {"metric": "ndcg@5", "by": "items"}},
            "stop.by cannot be 'items': Input should be 'random' or 'users'",
        ),
        ({"search": {"metric": "ndcg@5"}}, "give a grid or configs, one of the two"),
        ({"search": {"metric": "ndcg", "grid": {"l2": [1]}}}, "'ndcg' needs a depth"),
        ({"dataset": "other"}, r"holds the recipe toy-counts/other. Move it to toy-counts/other.yaml"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused_in_one_line_that_names_file_and_key(place, changes, text):
    place(**changes)
    with pytest.raises(ConfigError, match=text) as caught:
        list(all_recipes())
    assert str(caught.value).startswith("recipes/toy-counts/skewed.yaml")
    assert "\n" not in str(caught.value)


def test_a_missing_recipe_or_data_set_or_option_is_refused_with_the_mend(place, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="no recipe toy-counts/skewd. Did you mean 'toy-counts/skewed'.*--list"):
        reproduce("toy-counts", "skewd")
    place("toy-counts/nowhere", dataset="nowhere")
    with pytest.raises(DataError, match=r"data/nowhere does not exist. Set ITEMIC_DATA to the folder that holds nowhe"):
        reproduce("toy-counts", "nowhere")
    place(config={"sing": 1})
    with pytest.raises(ConfigError, match="toy-counts has no option 'sing'. Did you mean 'sign'"):
        reproduce("toy-counts", "skewed")
    assert not (tmp_path / "results").exists()
    monkeypatch.setenv("ITEMIC_RECIPES", "elsewhere")
    with pytest.raises(ConfigError, match="there is no folder elsewhere. Run in a checkout"):
        recipes_folder()


def test_every_recipe_here_can_be_read_and_names_a_system_and_its_options(monkeypatch):
    from itemic.registry import find

    monkeypatch.delenv("ITEMIC_RECIPES", raising=False)
    recipes = list(all_recipes())
    assert recipes
    for each in recipes:
        for setting in [{}, *(each.search.settings() if each.search else [])]:
            find(each.system)(**merged(each.config, setting))
        for changes in each.beside.values():
            other, config = beside(each, each.config, changes)
            find(other.system)(**config)


@pytest.mark.parametrize(
    ("name", "tolerance"), [("popularity", 0.0005), ("itemknn", 0.0005), ("ease", 0.0005), ("ials", 0.006)]
)
def test_the_references_on_lastfm_are_met(real_data, monkeypatch, name, tolerance):
    monkeypatch.setenv("ITEMIC_DATA", str(real_data("lastfm-lightgcn").parent))
    monkeypatch.delenv("ITEMIC_RECIPES", raising=False)
    reference = find_recipe(name, "lastfm-lightgcn")
    facts = measure(reference.model_copy(update={"seeds": [0], "beside": {}}), data_of(reference.dataset))
    published = {metric: found["published"] for metric, found in facts["metrics"].items() if found["published"]}
    assert len(published) == 2
    for metric, value in published.items():
        assert facts["metrics"][metric]["value"] == pytest.approx(value, abs=tolerance)
