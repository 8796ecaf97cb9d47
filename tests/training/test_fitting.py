"""What a model makes of the trainer: options, curves, folders, resume, and what it refuses."""

import json
from dataclasses import replace
from itertools import count

import numpy as np
import pytest
import torch
from torch import nn

from itemic.data import Dataset, Ragged
from itemic.data.simulated import planted_groups
from itemic.data.splits import split
from itemic.errors import ConfigError, DataError, LoadError, TrainingDiverged
from itemic.registry import find, system
from itemic.systems.base import ScoreRecommender, SystemConfig
from itemic.training import TrainingConfig, shuffled


class Config(SystemConfig):
    training: TrainingConfig = TrainingConfig(lr=0.05, batch_size=16, epochs=6, patience=2, checkpoint_steps=5)
    scale: float = 1.0
    seed: int = 0


@system("toy-trained", family="toys", answers=["anyone"])
class Trained(ScoreRecommender[Config, nn.Module]):
    """A score for each item, drawn to 1 for what is taken; noise makes every random draw show."""

    def build(self, catalogue):
        return nn.ParameterDict({"score": nn.Parameter(torch.rand(catalogue.n_items))})

    def batches(self, train, rng):
        items = torch.from_numpy(train.interactions.item.astype(np.int64))
        for rows in shuffled(len(items), self.config.training.batch_size, rng):
            yield items[rows]

    def loss(self, batch):
        noise = torch.randn(()) * self.config.scale
        return {"fit": (self.module["score"][batch] - 1 + 0.1 * noise).square().mean()}

    def scores(self, query):
        return np.tile(self.weights["score"], (len(query), 1))


@pytest.fixture(scope="module")
def data():
    train, _ = planted_groups(n_users=60, n_items=40, n_groups=4, loyalty=0.7, seed=0)
    return split(train, by="random", test=0.2, valid=0.2, seed=0)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"training": {"lr": -0.1}}, "toy-trained: training.lr cannot be -0.1: Input should be greater than 0"),
        (
            {"training": {"epoch": 5}},
            "toy-trained has no option 'training.epoch'. Did you mean 'training.epochs'? Options: training.lr, ",
        ),
        (
            {"trainin": {}},
            "toy-trained has no option 'trainin'. Did you mean 'training'? Options: training, scale, seed.",
        ),
    ],
)
def test_an_option_of_training_that_cannot_be_is_refused_by_its_path(options, text):
    with pytest.raises(ConfigError) as caught:
        Trained(**options)
    assert str(caught.value).startswith(text)


def test_the_validation_part_stops_training_and_its_curve_is_kept(data):
    model = Trained(training={"epochs": 30}).fit(data.train, data.valid)
    facts = model.fitted_on
    assert facts["epochs"] == facts["best_epoch"] + 2 < 30
    assert [point["epoch"] for point in facts["curve"]] == list(range(1, facts["epochs"] + 1))
    best = max(facts["curve"], key=lambda point: point["ndcg@20"])
    assert best["epoch"] == facts["best_epoch"]
    assert model.validate(data.valid)["ndcg@20"] == best["ndcg@20"]  # its weights are those kept


def test_without_a_validation_part_the_last_epoch_counts(data):
    facts = Trained().fit(data.train).fitted_on
    assert (facts["epochs"], facts["curve"]) == (6, [])


def test_fitting_draws_from_its_own_seed_and_leaves_torch_alone(data):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = Trained().fit(data.train).weights["score"]
    assert torch.rand(1) == expected
    np.testing.assert_array_equal(first, Trained().fit(data.train).weights["score"])
    assert (first != Trained(seed=1).fit(data.train).weights["score"]).any()


class Stop(Exception):
    pass


def cut(data, folder, at=12, **options):
    """A run that an error ends at a step."""

    class Cut(Trained):
        def on_step(self, step):
            if step == at:
                raise Stop

    with pytest.raises(Stop):
        Cut(**options).fit(data.train, data.valid, folder=folder)


def test_a_resumed_fit_gives_the_same_model_and_curve_and_all_the_time_taken(data, tmp_path, monkeypatch):
    whole = Trained().fit(data.train, data.valid)
    with monkeypatch.context() as patch:
        patch.setattr("itemic.training.trainer.time.monotonic", count(0, 40).__next__)
        cut(data, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir())[1:] == ["step-000000005", "step-000000010"]
    again = Trained().fit(data.train, data.valid, folder=tmp_path, resume=True)
    np.testing.assert_array_equal(again.weights["score"], whole.weights["score"])
    assert again.fitted_on["curve"] == whole.fitted_on["curve"]
    assert again.fitted_on["seconds"] > 100 > whole.fitted_on["seconds"]
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == whole.fitted_on["curve"]


def test_a_resume_with_another_config_or_dataset_or_without_a_folder_is_refused(data, tmp_path):
    cut(data, tmp_path)
    with pytest.raises(LoadError, match="was trained with another training.lr: 0.05, now 0.1. Go on with what it was"):
        Trained(training={"lr": 0.1}).fit(data.train, data.valid, folder=tmp_path, resume=True)
    other = split(data, by="random", test=0.2, valid=0.2, seed=1)
    with pytest.raises(LoadError, match="was trained with another dataset"):
        Trained().fit(other.train, other.valid, folder=tmp_path, resume=True)
    with pytest.raises(LoadError, match="was trained with another validation part: .*, now None"):
        Trained().fit(data.train, folder=tmp_path, resume=True)
    with pytest.raises(ConfigError, match="toy-trained: to resume, give the folder of the run"):
        Trained().fit(data.train, resume=True)


def test_a_closed_form_has_nothing_to_resume(data, tmp_path):
    with pytest.raises(ConfigError, match="popularity is solved in one step: there is nothing to resume"):
        find("popularity")().fit(data.train, folder=tmp_path, resume=True)


def test_a_loss_that_becomes_nan_is_one_line(data):
    with pytest.raises(TrainingDiverged, match=r"loss term 'fit' is (nan|inf) at step \d+ \(epoch \d; lr 1e\+30\)"):
        Trained(training={"lr": 1e30}).fit(data.train)


def test_one_user_or_one_item_can_be_fitted_and_a_validation_part_with_nothing_to_find_is_refused(data):
    one = Dataset.from_frame({"user": ["u", "u"], "item": ["a", "b"]})
    assert Trained().fit(one).is_fitted
    assert Trained().fit(Dataset.from_frame({"user": ["u", "v"], "item": ["a", "a"]})).is_fitted
    nothing = split(data, by="random", test=0.2, valid=0, seed=0)
    with pytest.raises(DataError, match="the validation part of .* has nothing to be found"):
        Trained().fit(nothing.train, nothing.valid)
    empty = replace(data.valid, relevant=Ragged.from_lists([[]] * len(data.valid)))
    with pytest.raises(DataError, match="the validation part of .* has nothing to be found"):
        Trained().fit(data.train, empty)


def test_a_catalogue_of_fewer_items_than_the_metric_s_depth_is_validated_all_the_same():
    pairs = {"user": [f"u{n % 9}" for n in range(36)], "item": [f"i{n // 9}" for n in range(36)]}
    small = split(Dataset.from_frame(pairs), by="random", test=0.25, valid=0.25, seed=0)
    assert "ndcg@20" in Trained().fit(small.train, small.valid).fitted_on["curve"][0]


def test_the_metric_that_training_is_judged_by_may_be_any(data):
    facts = Trained(training={"metric": "mrr@5"}).fit(data.train, data.valid).fitted_on
    assert facts["best_epoch"] == max(facts["curve"], key=lambda point: point["mrr@5"])["epoch"]
    with pytest.raises(ConfigError, match="there is no metric 'ndgc'. Did you mean 'ndcg'"):
        Trained(training={"metric": "ndgc@5"}).fit(data.train, data.valid)
