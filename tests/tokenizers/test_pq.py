import numpy as np
import pytest

from itemic.errors import ConfigError
from itemic.model import load
from itemic.nn.kmeans import nearest
from itemic.tokenizers.pq import PQ


def cloud(n, dim=8, seed=0):
    return np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)


@pytest.fixture
def fitted(shop, vectors):
    """A function that fits on an array of vectors."""
    options = {"size": 16, "levels": 2, "collisions": "shared"}
    return lambda x, **more: PQ(vectors=vectors(), **options | more).fit(shop(x))


def test_each_code_is_the_nearest_to_its_part_of_the_vector(fitted):
    import torch

    x = cloud(200)
    model = fitted(x)
    centred = torch.from_numpy(x - model.weights["mean"])
    for level in range(2):
        part = centred[:, 4 * level : 4 * level + 4].contiguous()
        wanted = nearest(part, torch.from_numpy(model.weights["codebooks"][level]))[0]
        assert (model.codes[:, level] == wanted.numpy()).all()


def test_a_part_says_nothing_of_another_and_unknown_ones_are_their_mean(fitted):
    x = cloud(200)
    model = fitted(x)
    whole, first = model.decode(model.codes), model.decode(model.codes[:, :1])
    np.testing.assert_allclose(first[:, :4], whole[:, :4], atol=1e-6)
    np.testing.assert_allclose(first[:, 4:], np.tile(model.weights["mean"][4:], (200, 1)), atol=1e-6)


def test_turning_meets_vectors_better_that_say_the_same_twice(fitted):
    half = cloud(600, 4)
    half[:, 2:] *= 0.05
    x = np.concatenate([half, half], 1)  # both parts hold the same two things, so either code says both
    plain, turned = fitted(x), fitted(x, rotations=20)
    assert turned.unexplained(x, turned.codes) < 0.7 * plain.unexplained(x, plain.codes)
    turn = turned.weights["turn"]
    np.testing.assert_allclose(turn @ turn.T, np.eye(8), atol=1e-5)


def test_it_survives_save_and_load_and_takes_new_items(fitted, items, tmp_path):
    model = fitted(cloud(200), collisions="nearest", size=32, rotations=1)
    again = load(model.save(tmp_path / "codes"))
    again.add_items(items(cloud(50, seed=1), first=200))
    assert (again.codes[:200] == model.codes).all()
    assert len(np.unique(again.codes, axis=0)) == 250


def test_a_width_that_cannot_be_cut_evenly_is_an_error(fitted):
    with pytest.raises(ConfigError) as error:
        fitted(cloud(50), levels=3)
    assert str(error.value) == ("pq: vectors of width 8 cannot be cut into 3 equal parts. Set levels to a divisor.")
