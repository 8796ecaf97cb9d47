import numpy as np
import pytest

from itemic.errors import DataError
from itemic.model import load
from itemic.tokenizers.hkmeans import HKMeans


def cloud(n, dim=4, seed=0):
    return np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)


@pytest.fixture
def fitted(shop, vectors):
    """A function that fits on an array of vectors."""
    return lambda x, **more: HKMeans(vectors=vectors(), **{"size": 4, "levels": 3} | more).fit(shop(x))


def within_caps(codes, size):
    """Whether no cluster of any level holds more than fits below it."""
    levels = codes.shape[1]
    return all(
        np.unique(codes[:, :depth], axis=0, return_counts=True)[1].max() <= size ** (levels - depth)
        for depth in range(1, levels)
    )


@pytest.mark.parametrize("n", [1, 3, 20, 50, 64])
def test_codes_are_unique_and_no_cluster_outgrows_its_cap(fitted, n):
    x = cloud(n)
    x[: n // 2] *= 0.01  # half of them crowd into one place
    codes = fitted(x).codes
    assert len(np.unique(codes, axis=0)) == n
    assert codes.min() >= 0
    assert codes.max() < 4
    assert within_caps(codes, 4)


def test_the_last_codes_count_the_items_of_a_cluster(fitted):
    codes = fitted(cloud(40)).codes
    for cluster in np.unique(codes[:, :2], axis=0):
        number = codes[(codes[:, :2] == cluster).all(1), 2]
        assert number.tolist() == list(range(len(number)))


def test_two_communities_share_no_first_code(fitted):
    group = np.arange(60) % 2
    x = cloud(60) * 0.1 + np.where(group, 5, -5)[:, None].astype(np.float32)
    first = fitted(x).codes[:, 0]
    purity = sum(np.bincount(group[first == code]).max() for code in np.unique(first)) / 60
    assert purity > 0.9


def test_the_same_seed_gives_the_same_codes_and_another_one_others(fitted):
    x = cloud(60)
    first, again, other = (fitted(x, seed=seed).codes for seed in (0, 0, 1))
    assert (first == again).all()
    assert (first != other).any()


def test_codes_stand_for_the_centres_on_the_way(fitted):
    x = cloud(60)
    model = fitted(x)
    first = model.decode(model.codes[:, :1])
    np.testing.assert_allclose(first, model.weights["centres_0"][0][model.codes[:, 0]])
    assert np.square(model.decode(model.codes) - x).sum() < np.square(first - x).sum()


def test_encode_gives_the_nearest_clusters_which_items_have_where_no_cap_binds(fitted):
    x = cloud(30)
    model = fitted(x, size=16)
    assert (model.encode(x) == model.codes[:, :2]).all()


@pytest.mark.parametrize("seed", range(5))
def test_new_items_go_where_there_is_room_until_the_tree_is_full(fitted, items, seed):
    x = cloud(30, seed=seed)
    model = fitted(x)
    before = model.codes.copy()
    model.add_items(items(np.zeros((20, 4)), first=30)).add_items(items(cloud(14, seed=9), first=50))
    assert (model.codes[:30] == before).all()
    assert len(np.unique(model.codes, axis=0)) == 64
    assert within_caps(model.codes, 4)
    with pytest.raises(DataError) as error:
        model.add_items(items(cloud(1), first=64))
    assert str(error.value) == ("hkmeans: 65 items do not fit into 3 levels of 4 codes, which hold 64. Set size=5.")


def test_a_new_item_goes_to_the_cluster_of_its_twin_where_that_has_room(fitted, items):
    x = cloud(12)
    model = fitted(x)
    model.add_items(items(x[:1], first=12))
    assert (model.codes[12, :2] == model.codes[0, :2]).all()


def test_it_survives_save_and_load_and_items_without_vectors_get_no_codes(fitted, tmp_path):
    x = cloud(40)
    x[5] = np.nan
    model = fitted(x)
    assert (model.codes[5] == -1).all()
    again = load(model.save(tmp_path / "codes"))
    assert (again.codes == model.codes).all()
    assert again.sizes == (4, 4, 4)
