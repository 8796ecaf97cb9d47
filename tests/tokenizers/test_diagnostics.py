import json

import numpy as np
import pytest

from itemic.errors import DataError
from itemic.tokenizers.diagnostics import diagnose, divergence, entropy
from itemic.tokenizers.page import report
from itemic.tokenizers.rqkmeans import RQKMeans


def cloud(n, dim=4, seed=0):
    return np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)


@pytest.fixture
def model(shop, vectors):
    """A function that fits on an array of vectors."""
    options = {"size": 8, "levels": 2, "collisions": "shared", "sample": None}
    return lambda x, **more: RQKMeans(vectors=vectors(), **options | more).fit(shop(x))


def coded(model, items, codes, x=None, **columns):
    """The diagnosis of a model as if its items had these codes."""
    made = model(cloud(len(codes)) if x is None else x, collisions="shared")
    made.tables["codes"] = np.array(codes, np.int32)
    return diagnose(made, items(cloud(len(codes)) if x is None else x, **columns))


def test_levels_are_counted_as_by_hand(model, items):
    codes = [[0, 1], [0, 1], [0, 2], [3, 1], [3, 1], [3, 1], [3, 5], [7, 0], [7, 0], [7, 0]]
    first, second = coded(model, items, codes).levels
    assert (first.size, first.used, first.prefixes, first.most) == (8, 3, 3, 4)
    assert first.entropy == pytest.approx(-(0.3 * np.log2(0.3) * 2 + 0.4 * np.log2(0.4)))
    assert (first.largest, second.largest) == (0.4, 0.5)
    assert (second.used, second.prefixes, second.most) == (4, 5, 3)


def test_purity_is_the_share_of_items_that_are_of_their_prefix_s_commonest_category(model, items):
    codes = [[0, 0], [0, 1], [0, 1], [1, 0], [1, 0], [1, 1], [1, 2], [2, 2]]
    path = ["a > x", "a > y", "b", "b", "b > z", None, "c", "c"]
    found = coded(model, items, codes, category=path)
    assert found.category == "category"
    assert found.levels[0].purity == pytest.approx((2 + 2 + 1) / 7)
    assert found.levels[1].purity == pytest.approx((1 + 1 + 2 + 1 + 1) / 7)
    assert found.levels[0].chance <= found.levels[1].chance <= 1


def test_lists_are_judged_by_their_first_value_and_nothing_by_no_category(model, items):
    codes = [[n % 2, 0] for n in range(8)]
    tagged = coded(model, items, codes, tags=[["x", "y"], ["y"]] * 4)
    assert (tagged.category, tagged.levels[0].purity) == ("tags", 1.0)
    plain = coded(model, items, codes)
    assert plain.category is None
    assert plain.levels[0].purity is None
    assert "purity" not in plain.columns()


def test_what_codes_leave_over_is_measured_against_the_vectors(model, items):
    x = cloud(200)
    made = model(x)
    levels = diagnose(made, items(x)).levels
    variance = np.square(x - x.mean(0)).sum()
    for depth in (1, 2):
        error = np.square(x - made.decode(made.codes[:, :depth])).sum()
        assert levels[depth - 1].unexplained == pytest.approx(error / variance, rel=1e-4)
    assert levels[1].unexplained < levels[0].unexplained < 1


def test_collisions_are_counted_before_items_are_told_apart_and_sharing_after(model, items):
    x = np.repeat(cloud(20), 2, 0)
    told, left = (diagnose(model(x, size=16, collisions=way), items(x)) for way in ("nearest", "shared"))
    assert told.colliding == left.colliding == 1.0
    assert told.groups <= 20
    assert (told.sharing, left.sharing) == (0, 40)
    assert "all codes are unique" in told.notes()


def test_items_without_a_vector_are_said_and_left_out(model, items):
    x = cloud(50)
    x[[1, 2]] = np.nan
    found = diagnose(model(x), items(x))
    assert found.without == 2
    assert found.notes()[0] == "50 items, 2 without a vector"


def test_added_items_of_another_kind_drift_and_those_of_the_same_kind_do_not(model, items):
    x, found = cloud(300), {}
    for name, new in (("same", cloud(100, seed=1)), ("other", 0.2 * cloud(100, seed=1) + 3)):
        made = model(x, collisions="shared").add_items(items(new, first=300))
        found[name] = diagnose(made, items(np.concatenate([x, new]))).drift
    assert found["same"].unexplained < 1.5 * found["same"].unexplained_fitted
    assert found["other"].unexplained > 5 * found["other"].unexplained_fitted
    assert found["same"].divergence[0] < 2 * found["same"].chance[0]
    assert found["other"].divergence[0] > 5 * found["other"].chance[0]
    assert diagnose(model(x), items(x)).drift is None


def test_entropy_and_divergence_of_known_uses():
    assert entropy(np.array([1, 1, 2])) == 1.5
    assert divergence(np.array([1, 0, 3]), np.array([2, 0, 6])) == 0
    half = divergence(np.array([1, 1]), np.array([1, 0]))
    middle = np.array([0.75, 0.25])
    assert half == pytest.approx((0.5 * np.log2(0.5 / middle).sum() + np.log2(1 / 0.75)) / 2)


def test_the_page_has_tables_plots_and_the_titles_of_the_largest_prefixes(model, items, tmp_path):
    x = cloud(120)
    made = model(x, size=16)
    table = items(x, category=["a", "b <i>"] * 60)
    found = diagnose(made, table)
    page = report(found, made, table)
    assert page.count("<svg") == 3
    largest = np.bincount(made.codes[:, 0]).argmax()
    first = np.flatnonzero(made.codes[:, 0] == largest)[0]
    assert f"<details><summary>{largest} <span class=quiet>" in page
    assert f"title {first}" in page
    assert "http" not in page.replace("http://www.w3.org", "")
    found.to_json(tmp_path / "d.json")
    again = json.loads((tmp_path / "d.json").read_text())
    assert again["levels"][0]["used"] == found.levels[0].used
    assert again["category"] == "category"


def test_other_items_than_those_of_the_tokenizer_are_refused(model, items):
    with pytest.raises(DataError) as error:
        diagnose(model(cloud(50)), items(cloud(50), first=1))
    assert str(error.value) == ("rqkmeans knows 50 items, and not these 50 in this order. Take those of its catalogue.")
