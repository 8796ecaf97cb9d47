from itertools import pairwise

import numpy as np
import pytest

from itemic.errors import DataError
from itemic.model import load
from itemic.progress import listening
from itemic.tokenizers.rqkmeans import RQKMeans


def cloud(n, dim=6, seed=0):
    return np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)


def two_scales(n=400, seed=0):
    """Vectors of 4 far groups, each of 4 near ones."""
    rng = np.random.default_rng(seed)
    coarse, fine = np.arange(n) % 4, np.arange(n) // 4 % 4
    corners = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]])
    x = np.concatenate([10 * corners[coarse], corners[fine]], 1) + 0.05 * rng.normal(size=(n, 4))
    return x.astype(np.float32), coarse, fine


@pytest.fixture
def fitted(shop, vectors):
    """A function that fits on an array of vectors."""
    return lambda x, **options: RQKMeans(vectors=vectors(), **{"size": 16, "levels": 2} | options).fit(shop(x))


def test_levels_go_from_coarse_to_fine(fitted):
    x, coarse, fine = two_scales()
    model = fitted(x, size=4, collisions="shared")
    pairs = {(int(g), int(c)) for g, c in zip(coarse, model.codes[:, 0])}
    assert len(pairs) == 4
    assert len({(*map(int, codes), int(f)) for codes, f in zip(model.codes, fine)}) == 16


def test_codes_stand_for_vectors_and_each_level_brings_them_nearer(fitted):
    x = cloud(500)
    model = fitted(x, levels=4, size=16)
    errors = [float(np.square(model.decode(model.codes[:, :depth]) - x).mean()) for depth in range(1, 5)]
    assert all(later < 0.8 * earlier for earlier, later in pairwise(errors))


def test_every_item_has_the_codes_that_its_vector_has_and_one_that_tells_it_apart(fitted):
    x = cloud(300)
    model = fitted(x)
    assert model.codes.dtype == np.int32
    assert model.sizes == (16, 16, 16)
    assert (model.codes[:, :2] == model.encode(x)).all()
    assert len(np.unique(model.codes, axis=0)) == 300


@pytest.mark.parametrize("way", ["suffix", "nearest", "sinkhorn"])
def test_new_items_are_told_apart_without_refitting_and_known_ones_keep_their_codes(fitted, items, way):
    x = cloud(60)
    model = fitted(x, size=16, levels=3, collisions=way)
    before, codebooks = model.codes.copy(), model.weights["codebooks"].copy()
    model.add_items(items(np.concatenate([x[:5], cloud(30, seed=1)]), first=60))
    assert (model.codes[:60] == before).all()
    assert (model.weights["codebooks"] == codebooks).all()
    assert len(np.unique(model.codes, axis=0)) == len(model.codes) == 95
    assert model.catalogue.n_items == 95
    assert (model.codes[60:65, :2] == before[:5, :2]).all()  # the same vectors, the same first codes


def test_shared_codes_are_left_and_the_same_vectors_have_the_same(fitted, items):
    model = fitted(cloud(50), collisions="shared")
    model.add_items(items(cloud(50), first=50))
    assert (model.codes[50:] == model.codes[:50]).all()
    assert model.sizes == (16, 16)


def test_it_survives_save_and_load_with_the_items_that_were_added(fitted, items, tmp_path):
    x = cloud(80)
    model = fitted(x).add_items(items(cloud(20, seed=2), first=80))
    again = load(model.save(tmp_path / "codes"))
    assert (again.codes == model.codes).all()
    assert (again.encode(x) == model.encode(x)).all()
    again.add_items(items(cloud(5, seed=3), first=100))
    assert len(again.codes) == 105


def test_items_without_a_vector_get_no_codes_and_are_counted_once(fitted, items):
    x, said = cloud(50), []
    x[[3, 7], 2] = np.nan
    with listening(lambda description, done, total, note: said.append(description)):
        model = fitted(x)
    assert (model.codes[[3, 7]] == -1).all()
    assert (np.delete(model.codes, [3, 7], axis=0) >= 0).all()
    told = [line for line in said if "no vector" in line]
    assert told == ["2 of 50 items have no vector by test-vectors: rqkmeans gives them no codes"]
    assert np.isnan(model.decode(model.codes)[3]).all()
    assert (model.encode(x)[[3, 7]] == -1).all()


def test_balanced_codes_are_used_more_evenly_where_vectors_crowd(fitted):
    x = cloud(600)
    x[:500] *= 0.05
    shares = [
        np.bincount(fitted(x, size=8, balanced=b, levels=1, collisions="shared").codes[:, 0], minlength=8).max()
        for b in (False, True)
    ]
    assert shares[1] < 0.5 * shares[0]


def test_a_sample_is_enough_to_fit_on_and_none_takes_all(fitted):
    x = cloud(4000)
    by_sample, by_all = (fitted(x, sample=sample, collisions="shared") for sample in (25, None))
    errors = [np.square(m.decode(m.codes) - x).mean() for m in (by_sample, by_all)]
    assert errors[1] < errors[0] < 1.2 * errors[1]


def test_another_seed_draws_otherwise_and_the_same_one_alike(fitted):
    x = cloud(200)
    first, again, other = (fitted(x, seed=seed).codes for seed in (0, 0, 1))
    assert (first == again).all()
    assert (first != other).any()


def test_vectors_on_disk_are_fitted_on_as_those_in_memory(fitted, tmp_path):
    x = cloud(300)
    np.save(tmp_path / "x.npy", x)
    model = fitted(x, sample=None)
    on_disk = model.learn(np.load(tmp_path / "x.npy", mmap_mode="r"))
    np.testing.assert_array_equal(on_disk["codebooks"], model.weights["codebooks"])


# Bad input -------------------------------------------------------------------------------------------------------


def test_fewer_items_than_codes_are_an_error_that_says_which_size_fits(fitted):
    with pytest.raises(DataError) as error:
        fitted(cloud(100), size=256)
    assert str(error.value) == "rqkmeans: 100 items with a vector cannot fill 256 codes. Set size=32."
    fitted(cloud(100), size=32, levels=3)


def test_vectors_for_other_items_are_refused(shop, vectors):
    with pytest.raises(DataError) as error:
        RQKMeans(size=8, vectors=vectors(short=2)).fit(shop(cloud(50)))
    assert str(error.value) == (
        "rqkmeans: test-vectors gave 48 vectors for 50 items. Make them again, one for each item."
    )


def test_a_catalogue_without_vectors_is_refused(fitted):
    with pytest.raises(DataError) as error:
        fitted(np.full((5, 2), np.nan))
    assert str(error.value) == ("rqkmeans: none of the 5 items has a vector by test-vectors. Give them what it reads.")


def test_vectors_of_another_width_are_refused(fitted):
    with pytest.raises(DataError) as error:
        fitted(cloud(50)).encode(cloud(3, dim=4))
    assert str(error.value) == ("rqkmeans was fitted on vectors of width 6; these are 3 x 4. Use the same encoder.")


def test_a_collision_that_cannot_be_resolved_leaves_the_model_as_it_was(fitted, items):
    model = fitted(cloud(50), size=8, levels=3, collisions="nearest")
    before = model.codes.copy()
    with pytest.raises(DataError, match="the last level has 8 codes. Take more levels, a larger size, or shared"):
        model.add_items(items(np.zeros((30, 6)), first=50))
    assert (model.codes == before).all()
    assert model.catalogue.n_items == 50
