"""What every registered tokenizer must show, whatever it is."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from itemic.errors import DataError
from itemic.model import load
from itemic.registry import entries, find
from itemic.tokenizers.collisions import sharing

NAMES = list(entries("tokenizer"))
TRAINING = {"lr": 3e-3, "batch_size": 64, "epochs": 4, "eval_every": 2}
QUICK = {
    "fsq": {"slots": 2, "scalars": (8, 8), "layers": 1, "heads": 2, "training": TRAINING},
    "hkmeans": {"size": 8, "levels": 3},
    "pq": {"size": 32, "levels": 2},
    "rqkmeans": {"size": 32, "levels": 2},
    "rqvae": {"size": 32, "levels": 2, "latent": 4, "hidden": (16,), "training": TRAINING},
}
"""Options with which a tokenizer is done in a second."""
DIM = 8


def cloud(n, seed=0):
    return np.random.default_rng(seed).normal(size=(n, DIM)).astype(np.float32)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A place for fitted tokenizers, by name and way."""
    return tmp_path_factory.mktemp("tokenizers")


@pytest.fixture
def fitted(folders, shop, vectors):
    """A function that gives a tokenizer of 100 items, fitted once and loaded each time."""

    def made(name, way="suffix"):
        folder = folders / f"{name}-{way}"
        if not folder.exists():
            options = QUICK[name] if name == "hkmeans" else {**QUICK[name], "collisions": way}
            find(name)(vectors=vectors(), **options).fit(shop(cloud(100))).save(folder)
        return load(folder)

    return made


def ways(name):
    return ["suffix"] if name == "hkmeans" else ["suffix", "nearest", "sinkhorn", "shared"]


CASES = [(name, way) for name in NAMES for way in ways(name)]


@pytest.mark.parametrize("name", NAMES)
def test_codes_are_within_the_sizes_and_a_batch_is_encoded_as_one_by_one(name, fitted):
    model, x = fitted(name), cloud(40, seed=1)
    codes = model.encode(x)
    assert codes.dtype == np.int32
    assert (codes >= 0).all()
    assert (codes < np.array(model.sizes[: codes.shape[1]])).all()
    assert (model.codes < np.array(model.sizes)).all()
    for row in range(40):
        assert (model.encode(x[row : row + 1]) == codes[row]).all()


@pytest.mark.parametrize(("name", "way"), CASES)
def test_codes_are_unique_or_it_says_who_shares(name, way, fitted):
    codes = fitted(name, way).codes
    shared = {int(item) for group in sharing(codes) for item in group}
    alone = [n for n in range(100) if (codes == codes[n]).all(1).sum() == 1]
    assert shared == set(range(100)) - set(alone)
    assert way == "shared" or not shared


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])  # each gives a function, which holds nothing
@given(st.integers(0, 1000), st.sampled_from(CASES), st.lists(st.integers(1, 12), min_size=1, max_size=3))
def test_new_items_get_codes_of_their_own_and_nobody_s_change(fitted, items, seed, case, batches):
    name, way = case
    model, start = fitted(name, way), 100
    weights = {key: value.copy() for key, value in model.weights.items()}
    for batch, n in enumerate(batches):
        before = model.codes.copy()
        model.add_items(items(cloud(n, seed=seed + batch), first=start))
        start += n
        assert (model.codes[: len(before)] == before).all()
    assert len(model.codes) == start == model.catalogue.n_items
    assert way == "shared" or not sharing(model.codes)
    assert all((model.weights[key] == value).all() for key, value in weights.items())


@pytest.mark.parametrize("name", NAMES)
def test_items_of_other_data_get_the_codes_that_their_vectors_have_here(name, fitted, shop, tmp_path):
    model, before, others = fitted(name), fitted(name).codes, cloud(30, seed=3)
    there = model.adopt(shop(others))
    coded = there.codes[:, : len(model.content_sizes)]
    assert name == "hkmeans" or (coded == model.encode(others)).all()
    assert (there.encode(others) == model.encode(others)).all()
    assert not sharing(there.codes)
    assert (model.codes == before).all()
    assert (load(there.save(tmp_path / "there")).codes == there.codes).all()
    with pytest.raises(DataError, match=f"{name} was fitted on vectors of width 8; these are 5 x 6"):
        model.adopt(shop(cloud(5)[:, :6]))


@pytest.mark.parametrize("name", NAMES)
def test_a_vector_that_is_not_there_has_no_code_and_no_reconstruction(name, fitted, items):
    model, new = fitted(name), cloud(5, seed=2)
    new[3, 4] = np.nan
    model.add_items(items(new, first=100))
    assert (model.codes[103] == -1).all()
    assert (np.delete(model.codes, 103, axis=0) >= 0).all()
    assert np.isnan(model.decode(model.codes)[103]).all()


@pytest.mark.parametrize(("name", "way"), CASES)
def test_no_new_items_and_new_ones_without_vectors_change_nothing(name, way, fitted, items):
    model = fitted(name, way)
    before = model.codes.copy()
    model.add_items(items(np.empty((0, DIM)), first=100)).add_items(items(np.full((2, DIM), np.nan), first=100))
    assert (model.codes[:100] == before).all()
    assert (model.codes[100:] == -1).all()
    assert model.encode(np.empty((0, DIM), np.float32)).shape == (0, len(model.content_sizes))


@pytest.mark.parametrize("name", NAMES)
def test_fitting_twice_gives_the_same_codes(name, fitted, shop, vectors):
    again = find(name)(vectors=vectors(), **QUICK[name]).fit(shop(cloud(100)))
    assert (again.codes == fitted(name).codes).all()
