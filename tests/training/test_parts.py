"""Parts: built by name, fitted first and on the same train part, refused when they know more, saved inside."""

import numpy as np
import pytest

import itemic
from itemic.data import Dataset
from itemic.data.simulated import planted_groups
from itemic.data.splits import split
from itemic.errors import ConfigError, DataError, LeakError
from itemic.model import part
from itemic.registry import system
from itemic.systems.base import ScoreRecommender, SystemConfig, VectorRecommender
from itemic.systems.baselines.ials import IALS
from itemic.systems.baselines.itemknn import ItemKNN
from itemic.systems.baselines.popularity import Popularity


class Config(SystemConfig):
    share: float = 0.5


@system("toy-mix", family="toys", answers=["user", "history"])
class Mix(ScoreRecommender[Config]):
    """What is popular, with a share of what the teacher's scores added up to in training."""

    popular: ScoreRecommender = part("popularity")
    teacher: ScoreRecommender = part("itemknn", keep=False, k=5)

    def solve(self, train):
        query = train.query_of(np.arange(train.n_users, dtype=np.int32), (0,))
        return {"learnt": self.teacher.scores(query).sum(0).astype(np.float32)}

    def scores(self, query):
        return (1 - self.config.share) * self.popular.scores(query) + self.config.share * self.weights["learnt"]


@pytest.fixture(scope="module")
def data():
    train, _ = planted_groups(n_users=40, n_items=60, n_groups=4, loyalty=0.7, seed=0)
    log = train.interactions
    whole = Dataset.from_frame({"user": log.user, "item": log.item}, name="groups")
    return split(whole, by="random", seed=0)


def test_a_part_that_is_not_given_is_built_by_name_and_fitted_first_on_the_same_train_part(data):
    model = Mix().fit(data.train)
    assert isinstance(model.popular, Popularity)
    assert model.teacher.config.k == 5
    assert {p.fitted_on["train_fingerprint"] for p in (model.popular, model.teacher)} == {data.train.fingerprint}
    query = data.test.query
    alone = Popularity().fit(data.train).scores(query)
    np.testing.assert_array_equal(Mix(share=0.0).fit(data.train).scores(query), alone)


def test_a_part_fitted_on_the_same_train_part_is_used_as_it_is(data):
    mine = ItemKNN(k=2).fit(data.train)
    before = mine.weights
    model = Mix(teacher=mine).fit(data.train)
    assert model.teacher is mine
    assert mine.weights is before
    assert not np.array_equal(model.weights["learnt"], Mix().fit(data.train).weights["learnt"])


@pytest.mark.parametrize("other", ["whole", "another seed", "train and validation"])
def test_a_part_fitted_on_another_split_of_the_same_data_is_refused(data, other):
    seen = {
        "whole": lambda: split(data, by="random", seed=0).part(0, 1, 2),
        "another seed": lambda: split(data, by="random", seed=1).train,
        "train and validation": lambda: data.part(0, 1),
    }[other]()
    with pytest.raises(LeakError) as error:
        Mix(teacher=ItemKNN().fit(seen)).fit(data.train)
    assert str(error.value) == (
        "toy-mix: its part teacher was fitted on another part of groups, so it may know what is tested. "
        "Fit it on the same train part, or leave teacher out to have that done."
    )


def test_a_part_that_knows_other_items_is_refused(data):
    other = Dataset.from_frame({"user": [1, 1, 2], "item": [7, 8, 7]}, name="others")
    with pytest.raises(DataError, match="its part teacher knows other items than groups has. Fit it on the same"):
        Mix(teacher=ItemKNN().fit(other)).fit(data.train)


def test_a_part_fitted_by_us_follows_to_another_train_part(data):
    model, other = Mix(teacher=ItemKNN(k=3)).fit(data.train), split(data, by="random", seed=5)
    model.fit(other.train)
    assert model.teacher.fitted_on["train_fingerprint"] == other.train.fingerprint


def test_a_part_may_be_given_by_name_by_folder_or_by_options_of_the_default(data, tmp_path):
    ItemKNN(k=9).fit(data.train).save(tmp_path / "knn")
    assert Mix(teacher=str(tmp_path / "knn")).fit(data.train).teacher.config.k == 9
    assert Mix(teacher={"shrink": 3.0}).teacher.config.model_dump() == ItemKNN(k=5, shrink=3.0).config.model_dump()
    assert Mix(teacher="ease").fit(data.train).teacher.entry.name == "ease"


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (IALS(), "toy-mix: teacher cannot be ials. Give a ScoreRecommender, its name or its saved folder."),
        (3, "toy-mix: teacher cannot be 3. Give a ScoreRecommender, its name or its saved folder."),
        ("eese", "there is no system 'eese'. Did you mean 'ease'?"),
        ({"kk": 3}, "itemknn has no option 'kk'. Did you mean 'k'?"),
    ],
)
def test_a_part_of_the_wrong_kind_is_refused_with_the_mend(given, text):
    with pytest.raises(ConfigError) as error:
        Mix(teacher=given)
    assert str(error.value).startswith(text)


def test_the_roles_are_named_among_the_options():
    with pytest.raises(ConfigError, match="Did you mean 'teacher'\\? Options: share, popular, teacher\\."):
        Mix(techer=ItemKNN())


def test_parts_are_saved_inside_load_alone_and_teachers_are_left_out(data, tmp_path):
    model = Mix().fit(data.train)
    folder = model.save(tmp_path / "mix")
    assert sorted(path.name for path in (folder / "parts").iterdir()) == ["popular"]
    again, query = itemic.load(folder), data.test.query
    np.testing.assert_array_equal(again.scores(query), model.scores(query))
    np.testing.assert_array_equal(itemic.load(folder / "parts" / "popular").rank(query, 5).items,
                                  model.popular.rank(query, 5).items)  # fmt: skip
    with (folder / "parts" / "popular" / "weights.safetensors").open("ab") as file:
        file.write(b"x")
    with pytest.raises(itemic.errors.LoadError, match="is damaged: weights.safetensors has"):
        itemic.load(folder)


def test_a_part_is_a_role_of_its_class_alone():
    assert list(Mix.declared) == ["popular", "teacher"]
    assert VectorRecommender.declared == Popularity.declared == {}
