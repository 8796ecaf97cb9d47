"""Fusion's geometry is that of NumPy's singular values, and an encoder that lacks an item leaves a mark."""

import numpy as np
import pytest
from numpy.linalg import norm, svd

from itemic.data import Dataset, Ids, Table
from itemic.data.splits import split
from itemic.encoders import fusion as module
from itemic.encoders.features import Features
from itemic.encoders.fusion import Fusion
from itemic.errors import ConfigError, DataError, LeakError
from itemic.model import load
from itemic.progress import listening

RNG = np.random.default_rng(0)
ONE = (RNG.normal(size=(60, 5)) @ RNG.normal(size=(5, 5)) + 3).astype(np.float32)
TWO = (100 * RNG.normal(size=(60, 3)) @ RNG.normal(size=(3, 3))).astype(np.float32)
LACKING = ONE.copy()
LACKING[[1, 4, 7]] = np.nan
SPARSE = TWO.copy()
SPARSE[[4, 9]] = np.nan


def shop(**matrices):
    n = len(next(iter(matrices.values())))
    data = Dataset.from_frame({"user": ["u"] * n, "item": [f"i{k}" for k in range(n)]}, name="shop")
    for name, matrix in matrices.items():
        data = data.with_features(name, matrix)
    return data


def fused(data, **options):
    return Fusion(encoders=dict.fromkeys(data.features, "features"), **_named(data), **options)


def _named(data):
    return {role: {"name": role} for role in data.features}


def encoded(one=ONE, two=TWO, **options):
    data = shop(one=one, two=two)
    return fused(data, **options).fit(data).encode(data.items)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 7)


def whole(x):
    """About its mean, of mean squared length 1."""
    x = x.astype(np.float64) - np.nanmean(x, 0, dtype=np.float64)
    return x / np.sqrt(np.nanmean(np.square(x).sum(1)))


def test_vectors_stand_side_by_side_as_they_are_or_on_one_scale():
    plain = encoded(scale="none", weights={"two": 0.5})
    np.testing.assert_allclose(plain, np.hstack([ONE, TWO / 2, np.zeros((60, 2))]), rtol=1e-6)
    np.testing.assert_allclose(encoded()[:, :8], np.hstack([whole(ONE), whole(TWO)]), atol=1e-5)
    each = encoded(scale="each", weights={"one": 3.0})
    expected = [3 * (ONE - ONE.mean(0)) / ONE.std(0) / np.sqrt(5), (TWO - TWO.mean(0)) / TWO.std(0) / np.sqrt(3)]
    np.testing.assert_allclose(each[:, :8], np.hstack(expected), atol=1e-5)
    for block in (each[:, :5] / 3, each[:, 5:8]):
        assert np.square(block).sum(1).mean() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("scale", ["none", "whole"])
def test_axes_are_the_singular_vectors_up_to_their_signs(scale):
    x = np.hstack([ONE, TWO]).astype(np.float64) if scale == "none" else np.hstack([whole(ONE), whole(TWO)])
    left, size, right = svd(x - x.mean(0), full_matrices=False)
    found = encoded(scale=scale, geometry="pca", dim=4)
    assert found.shape == (60, 4 + 2)
    sign = np.sign((found[:, :4] * (left * size)[:, :4]).sum(0))
    np.testing.assert_allclose(found[:, :4], (left * size)[:, :4] * sign, atol=1e-4 * size[0])
    white = encoded(scale=scale, geometry="whiten")[:, :8]
    np.testing.assert_allclose(white[:, :4] * sign, left[:, :4] * np.sqrt(60), atol=1e-4)
    np.testing.assert_allclose(white.T @ white / 60, np.eye(8), atol=1e-3)
    turned = encoded(scale=scale, geometry="zca")[:, :8]
    np.testing.assert_allclose(turned, left @ right * np.sqrt(60), atol=1e-3)


def test_axes_without_variance_stay_zero_when_whitened():
    white = encoded(one=np.hstack([ONE, ONE]), geometry="whiten")[:, :13]
    np.testing.assert_allclose(np.diag(white.T @ white / 60), [1] * 8 + [0] * 5, atol=1e-3)


def test_what_one_encoder_lacks_is_its_mean_with_a_mark_and_what_all_lack_is_nan():
    found = encoded(LACKING, SPARSE)
    expected = np.hstack([np.nan_to_num(whole(LACKING)), np.nan_to_num(whole(SPARSE))])
    rest = np.delete(np.arange(60), 4)
    np.testing.assert_allclose(found[rest, :8], expected[rest], atol=1e-5)
    assert np.isnan(found[4]).all()
    np.testing.assert_array_equal(found[rest, 8:], np.stack([np.isnan(LACKING[rest, 0]), np.isnan(SPARSE[rest, 0])], 1))
    plain = encoded(LACKING, SPARSE, scale="none")
    np.testing.assert_allclose(plain[1, :5], np.nanmean(LACKING, 0), rtol=1e-5)
    turned = encoded(LACKING, SPARSE, geometry="pca")[rest, :8]
    np.testing.assert_allclose(norm(turned, axis=1), norm(expected[rest] - expected[rest].mean(0), axis=1), atol=1e-5)


def test_with_drop_only_items_that_every_encoder_knows_have_vectors_and_no_marks():
    found = encoded(LACKING, SPARSE, missing="drop", geometry="whiten")
    lacking = [1, 4, 7, 9]
    rest = np.delete(np.arange(60), lacking)
    assert np.isnan(found[lacking]).all()
    assert found.shape[1] == 8
    np.testing.assert_allclose(found[rest].T @ found[rest] / 56, np.eye(8), atol=1e-3)


def test_those_who_lack_a_vector_are_told_of():
    told, data = [], shop(one=LACKING, two=SPARSE)
    model = fused(data).fit(data)
    with listening(lambda description, *_: told.append(description)):
        model.encode(data.items)
        fused(data, missing="drop").fit(data).encode(data.items)
    assert "2 of 60 items have no vector by one: its mean stands in" in told
    assert "1 of 60 items have no vector by two: they get no vector" in told


def test_pairs_of_groups_are_found_only_by_both_on_one_scale():
    rng = np.random.default_rng(0)
    left, right = rng.integers(4, size=(2, 400))
    one = np.eye(4)[left] + 0.2 * rng.normal(size=(400, 4))
    two = 100 * (np.eye(4)[right] + 0.2 * rng.normal(size=(400, 4)))
    data, pair = shop(one=one.astype(np.float32), two=two.astype(np.float32)), 4 * left + right
    found = {}
    for scale in ("whole", "each", "none"):
        x = fused(data, scale=scale, geometry="pca", dim=8).fit(data).encode(data.items)
        distance = np.square(x[:, None] - x[None]).sum(2) + 1e9 * np.eye(400)
        found[scale] = (pair[distance.argmin(1)] == pair).mean()
    assert min(found["whole"], found["each"]) > 0.95
    assert found["none"] < 0.5


def test_rows_have_the_vectors_that_each_has_alone_and_new_items_are_scaled_as_the_old():
    data = shop(one=LACKING, two=SPARSE)
    model = fused(data, geometry="whiten", dim=3).fit(data)
    together = model.encode(data.items)
    for n in (0, 1, 4, 9):
        np.testing.assert_allclose(model.encode(data.items.take(np.array([n]))), together[[n]], atol=1e-6)
    new = Table.of(
        Ids(["x", "y", "z"]), {"one": [ONE[0].tolist(), None, None], "two": [TWO[0].tolist(), None, [0.0] * 3]}
    )
    vectors = model.encode(new)
    np.testing.assert_allclose(vectors[0], together[0], atol=1e-6)
    assert np.isnan(vectors[1]).all()
    assert vectors[2, 3:].tolist() == [1, 0]


def test_the_same_model_is_saved_and_loaded_with_its_parts(tmp_path):
    data = shop(one=LACKING, two=SPARSE)
    mine = Features(name="one").fit(data)
    model = Fusion(encoders=["mine", "two"], mine=mine, two=Features(name="two"), geometry="pca").fit(data)
    assert model.mine is mine
    assert model.config.encoders == {"mine": "features", "two": "features"}
    again = load(model.save(tmp_path / "saved"))
    assert sorted(path.name for path in (tmp_path / "saved" / "parts").iterdir()) == ["mine", "two"]
    assert again.dim == model.dim == 10
    np.testing.assert_array_equal(again.encode(data.items), model.encode(data.items))


def test_kinds_of_content_are_fused_by_name_with_their_options():
    items = {"id": ["a", "b", "c", "d"], "brand": ["x", "x", "y", None], "price": [1.0, 2.0, None, None]}
    data = Dataset.from_frame({"user": ["u"] * 4, "item": ["a", "b", "c", "d"]}, items=items)
    data = data.with_features("clip", ONE[:4])
    model = Fusion(
        encoders={"attributes": "attributes", "clip": "features"}, attributes={"hashed": 16}, clip={"name": "clip"}
    )
    vectors = model.fit(data).encode(data.items)
    assert vectors.shape[1] == (16 + 1 + 2) + 5 + 2
    assert vectors[:, -2:].tolist() == [[0, 0], [0, 0], [0, 0], [1, 0]]


def test_options_that_do_not_fit_are_refused_in_one_line():
    data = shop(one=ONE, two=TWO)
    with pytest.raises(ConfigError, match="fusion: dim is 9, but its encoders give 8 numbers. Lower it."):
        fused(data, geometry="pca", dim=9).fit(data)
    with pytest.raises(ConfigError, match="fusion: dim cuts axes; geometry=zca has none. Set geometry=pca or whiten."):
        fused(data, geometry="zca", dim=3)
    with pytest.raises(ConfigError, match="fusion: weights names 'tow', no encoder here. Did you mean 'two'"):
        fused(data, weights={"tow": 1.0})
    with pytest.raises(ConfigError, match="fusion: weights.two cannot be 0"):
        fused(data, weights={"two": 0})
    with pytest.raises(
        ConfigError, match="there is no encoder 'imag'. Did you mean 'image'. Encoders: attributes, ettin"
    ):
        Fusion(encoders=["imag"])
    with pytest.raises(ConfigError, match="fusion: ease cannot be ease. Give an Encoder, its name or its saved folder"):
        Fusion(encoders=["ease"])
    with pytest.raises(ConfigError, match="fusion: an encoder cannot have the role 'dim'. Give it another name."):
        Fusion(encoders={"dim": "features"})
    with pytest.raises(ConfigError, match="fusion: encoders cannot be {}"):
        Fusion(encoders=[])
    with pytest.raises(ConfigError, match="fusion has no option 'geometri'. Did you mean 'geometry'"):
        Fusion(geometri="pca")


def test_vectors_that_do_not_fit_are_refused_in_one_line(monkeypatch):
    data = shop(one=ONE, two=TWO)
    with pytest.raises(DataError, match="shop has no feature matrix 'three'"):
        Fusion(encoders=["features"], features={"name": "three"}).fit(data)
    monkeypatch.setattr(Features, "encode", lambda self, content: ONE[:59])
    with pytest.raises(DataError, match="fusion: one gave 59 vectors for 60 items. Make them again, one each."):
        fused(data).fit(data)
    monkeypatch.setattr(Features, "encode", lambda self, content: np.full((60, 2), np.nan, np.float32))
    with pytest.raises(DataError, match="fusion: none of the 60 items has a vector by one. Give them what"):
        fused(data).fit(data)


def test_when_no_item_is_known_to_all_drop_is_refused():
    half = [np.where(np.arange(60)[:, None] % 2 == n, np.nan, x) for n, x in enumerate((ONE, TWO))]
    with pytest.raises(DataError, match="fusion: no item of shop has a vector by each of one, two. Set missing=mark."):
        encoded(*half, missing="drop")
    assert np.isfinite(encoded(*half)).all()


def test_a_part_that_saw_what_is_tested_is_refused():
    log = {"user": [f"u{n % 6}" for n in range(60)], "item": [f"i{n}" for n in range(60)], "time": list(range(60))}
    data = split(Dataset.from_frame(log).with_features("one", ONE), "time")
    with pytest.raises(LeakError, match="fusion: its part one was fitted on another part of data"):
        Fusion(encoders=["one"], one=Features(name="one").fit(data)).fit(data.train)


def test_put_on_other_data_each_encoder_reads_these_and_scales_stay():
    data, there = shop(one=ONE, two=TWO), shop(one=5 * ONE[:20], two=TWO[20:40])
    model = fused(data, scale="each").fit(data)
    np.testing.assert_array_equal(model.adopt(data).encode(data.items), model.encode(data.items))
    adopted = model.adopt(there).encode(there.items)
    mean, spread = model.weights["mean.one"], model.weights["spread.one"]
    np.testing.assert_allclose(adopted[:, :5], (5 * ONE[:20] - mean) / spread, rtol=1e-5)
    np.testing.assert_allclose(adopted[:, 5:8], model.encode(data.items)[20:40, 5:8], rtol=1e-5)
