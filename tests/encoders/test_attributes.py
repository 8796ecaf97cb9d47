"""Hashed attributes: each number of a vector is what its definition says, and what is missing is no silent zero."""

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest

from itemic.data import Dataset, Ids, Interactions, Table
from itemic.encoders.attributes import Attributes
from itemic.encoders.cache import hashes
from itemic.errors import ConfigError, DataError
from itemic.model import load
from itemic.progress import listening

COLUMNS = {
    "title": ["cup", "pot", "pan", "jug", "cup"],
    "brand": ["Noa", "Noa", "Ito", None, None],
    "tags": [["red", "hot"], ["red"], [], ["red", "red", "tin"], None],
    "category": ["home > cups", "home > pots", "home", "home > cups", None],
    "price": [1.0, 2.0, 1000.0, None, None],
    "since": pa.array(
        [datetime(2020, 1, 6, 6), None, datetime(2021, 1, 6), datetime(2022, 1, 6), None], pa.timestamp("s")
    ),
}


def shop(columns, roles=None):
    n = len(next(iter(columns.values())))
    items = Table.of(Ids([f"i{k}" for k in range(n)]), columns, roles)
    return Dataset(items, Table.numbered(0, "user"), Interactions.none(0, n), name="shop")


def placed(column, value, width):
    """Where one value goes, and its sign."""
    first, second = hashes(pa.array([f"{column}\0{value}"]))[0].tolist()
    return first % width, 1 - 2 * (second % 2)


def test_a_vector_is_its_definition_written_as_a_loop():
    data = shop(COLUMNS)
    vectors = Attributes(hashed=32).fit(data).encode(data.items)
    said = [
        {"brand": ["Noa"], "tags": ["red", "hot"], "category": ["home", "home > cups"]},
        {"brand": ["Noa"], "tags": ["red"], "category": ["home", "home > pots"]},
        {"brand": ["Ito"], "tags": [], "category": ["home"]},
        {"brand": [], "tags": ["red", "tin"], "category": ["home", "home > cups"]},
    ]
    for vector, row in zip(vectors, said):
        expected = np.zeros(32)
        for column, values in row.items():
            for value in values:
                place, sign = placed(column, value, 32)
                expected[place] += sign / np.sqrt(len(values))
        np.testing.assert_allclose(vector[:32], expected, atol=1e-6)
    assert vectors[:4, 32:35].tolist() == [[0, 0, 0], [0, 0, 0], [0, 1, 0], [1, 0, 0]]  # brand, tags, category
    robust = (np.array([1, 2]) - 2) / ((501 - 1.5) / 1.3489795)
    np.testing.assert_allclose(vectors[:2, 35], robust, atol=1e-6)
    assert vectors[3, 35] == 0
    assert vectors[:4, 36].tolist() == [0, 0, 0, 1]
    assert np.isnan(vectors[4]).all()


def test_a_date_is_its_time_and_its_place_in_day_week_and_year_whatever_it_is_stored_as():
    data = shop(COLUMNS)
    since = Attributes(fields=["since"], hashed=1).fit(data).encode(data.items)[:, 1:]
    day = 6 / 24
    week = (4 + day) / 7 % 1  # from Thursday, as 1 January 1970 was
    year = (datetime(2020, 1, 6, 6, tzinfo=UTC).timestamp() / 86400 / 365.2425) % 1
    expected = [f(2 * np.pi * share) for share in (day, week, year) for f in (np.sin, np.cos)]
    np.testing.assert_allclose(since[0, 1:7], expected, atol=1e-4)
    np.testing.assert_allclose(since[[0, 2, 3], 0], np.array([-365.75, 0, 365]) / (365.375 / 1.3489795), atol=1e-3)
    assert since[[0, 2, 3], 7].tolist() == [0, 0, 0]
    for kind in (pa.timestamp("us"), pa.timestamp("ns", "UTC"), pa.timestamp("ms", "Asia/Tokyo")):
        other = shop({"since": COLUMNS["since"].cast(pa.timestamp("s", getattr(kind, "tz", None))).cast(kind)})
        np.testing.assert_array_equal(Attributes(hashed=1).fit(other).encode(other.items)[:, 1:], since)


def test_hashed_products_are_those_of_the_values_on_average_and_nearer_the_wider():
    rng = np.random.default_rng(0)
    tags = [[f"tag {n}" for n in rng.choice(400, 10, replace=False)] for _ in range(200)]
    data, plain = shop({"tags": tags}), [set(row) for row in tags]
    exact = np.array([[len(a & b) / 10 for a in plain] for b in plain])[np.triu_indices(200, 1)]
    error = {}
    for width in (32, 512):
        vectors = Attributes(hashed=width).fit(data).encode(data.items)[:, :width]
        error[width] = (vectors @ vectors.T)[np.triu_indices(200, 1)] - exact
    assert abs(error[32].mean()) < 0.02
    assert error[512].std() < 1.2 / np.sqrt(512) < error[32].std() < 1.2 / np.sqrt(32)


def test_the_hash_of_a_value_depends_on_its_column_and_on_nothing_else():
    one, other = (shop({name: ["red"] * 4}) for name in ("colour", "mood"))
    vectors = [Attributes(hashed=4096).fit(data).encode(data.items) for data in (one, other)]
    assert np.flatnonzero(vectors[0][0]).tolist() == [517]  # on any machine
    assert not np.array_equal(*vectors)


def test_rows_have_the_vectors_that_each_has_alone_and_new_values_have_their_place():
    data = shop(COLUMNS)
    model = Attributes(hashed=64).fit(data)
    whole = model.encode(data.items)
    for n in range(5):
        np.testing.assert_array_equal(model.encode(data.items.take(np.array([n]))), whole[[n]])
    new = {"brand": ["Zoe"], "tags": [["tall"]], "category": ["garden > tools > rakes"], "price": [3], "since": [None]}
    vector = model.encode(Table.of(Ids(["new"]), new))[0]
    assert (vector[:64] != 0).sum() >= 4
    assert vector[64:].tolist()[-8:] == [0] * 7 + [1]


def test_one_wild_number_leaves_the_others_apart_and_logarithms_space_powers_of_ten_evenly():
    price = np.append(np.geomspace(1, 1e6, 7), 1e15)
    data = shop({"price": price})
    plain = Attributes(hashed=1).fit(data).encode(data.items)[:, 1]
    logs = Attributes(hashed=1, log=["price"]).fit(data).encode(data.items)[:, 1]
    assert plain[-1] == 4
    steps = np.diff(logs[:7])
    assert steps[2:].std() < 0.01 * steps.mean()
    assert np.diff(plain[:4]).max() < 0.02 * steps.mean()  # without them the small ones are one


def test_what_has_nothing_known_is_nan_and_told_of_once():
    data, told = shop(COLUMNS), []
    model = Attributes().fit(data)
    with listening(lambda description, *_: told.append(description)):
        assert np.isnan(model.encode(data.items)).all(1).tolist() == [False] * 4 + [True]
    assert told == ["1 of 5 items have no attribute: their vectors are nan"]


def test_titles_are_read_when_they_are_named():
    data = shop(COLUMNS)
    vectors = Attributes(fields=["title"], hashed=128).fit(data).encode(data.items)
    assert np.array_equal(vectors[0], vectors[4])
    assert not np.array_equal(vectors[0], vectors[1])


def test_a_saved_encoder_encodes_as_before(tmp_path):
    data = shop(COLUMNS)
    model = Attributes(hashed=16, log=["price"]).fit(data)
    again = load(model.save(tmp_path / "saved"))
    assert again.dim == model.dim == model.encode(data.items).shape[1]
    np.testing.assert_array_equal(again.encode(data.items), model.encode(data.items))


def test_what_cannot_be_read_is_refused_in_one_line():
    with pytest.raises(DataError, match="attributes finds no category, tag, number or date in .* of shop: title."):
        Attributes().fit(shop({"title": ["a", "b"]}))
    with pytest.raises(
        DataError, match="attributes cannot read items.sku: 3 different values of 3 items make it an id."
    ):
        Attributes(fields=["sku"]).fit(shop({"sku": ["a", "b", "c"]}))
    with pytest.raises(DataError, match="attributes cannot read items.v: it holds vectors. Leave it out"):
        Attributes(fields=["v"]).fit(shop({"v": [[0.5, 1.0], [1.5, 2.0]]}))
    with pytest.raises(DataError, match="items have no column 'brend'. Did you mean 'brand'?"):
        Attributes(fields=["brend"]).fit(shop(COLUMNS))
    with pytest.raises(DataError, match="no item of shop has a value in brand. Name others: --set fields=.NAME."):
        Attributes(fields=["brand"]).fit(shop({"brand": pa.nulls(3, pa.string())}))
    with pytest.raises(ConfigError, match="log names 'brand', no number that is read. Numbers: price."):
        Attributes(log=["brand"]).fit(shop(COLUMNS))
    with pytest.raises(DataError, match="items have no column 'brand'"):
        Attributes().fit(shop(COLUMNS)).encode(Table.numbered(2))
