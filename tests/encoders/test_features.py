"""Features are looked up by id, kept with the model, and refused when they are not those of the items."""

import numpy as np
import pyarrow as pa
import pytest

from itemic.data import Dataset, Ids, Table
from itemic.data.filters import k_core
from itemic.encoders.features import Features
from itemic.errors import DataError
from itemic.model import load
from itemic.progress import listening

MATRIX = np.array([[1, 2], [3, 4], [np.nan, np.nan], [7, 8]], np.float32)


def shop(**items):
    table = {"id": ["a", "b", "c", "d"], **items}
    frame = {"user": ["u", "u", "v", "v"], "item": ["a", "b", "c", "d"]}
    return Dataset.from_frame(frame, items=table, name="shop")


def test_rows_are_looked_up_by_id_and_are_nan_where_there_is_none():
    data = shop().with_features("clip", MATRIX)
    model = Features(name="clip").fit(data)
    np.testing.assert_array_equal(model.encode(data.items), MATRIX)
    some = Table(Ids(["d", "new", "a"]))
    np.testing.assert_array_equal(model.encode(some), [[7, 8], [np.nan] * 2, [1, 2]])
    assert model.dim == 2


def test_a_dataset_keeps_its_features_on_disk_in_its_parts_and_for_the_items_that_are_left(tmp_path):
    data = shop().with_features("clip", MATRIX).save(tmp_path / "shop")
    assert isinstance(data.feature("clip"), np.memmap)
    again = data.save(tmp_path / "copy").save(tmp_path / "copy")
    np.testing.assert_array_equal(again.train.feature("clip"), MATRIX)
    assert dict(again.catalogue.features) == {}
    log = Dataset.from_frame({"user": list("uuvvw"), "item": list("bdbda")}, items={"id": list("abcd")})
    left = k_core(log.with_features("clip", MATRIX), 2, 2)
    assert left.items.ids.array.to_pylist() == ["b", "d"]
    np.testing.assert_array_equal(left.feature("clip"), MATRIX[[1, 3]])


def test_rows_in_another_order_are_put_in_that_of_the_items():
    data = shop().with_features("clip", [[7, 8], [1, 2], [3, 4]], ids=["d", "a", "b"])
    np.testing.assert_array_equal(data.feature("clip"), MATRIX)


@pytest.mark.parametrize("kind", [pa.list_(pa.float32()), pa.list_(pa.float64(), 2), pa.large_list(pa.float16())])
def test_a_column_of_lists_is_a_matrix_and_holds_the_vectors_of_new_items(kind):
    column = pa.array([None if np.isnan(row[0]) else row.tolist() for row in MATRIX], kind)
    data = shop(clip=column)
    model = Features(name="clip").fit(data)
    np.testing.assert_array_equal(model.encode(data.items), MATRIX)
    new = Table.of(Ids(["a", "x", "y"]), {"clip": pa.array([[0, 0], [5, 6], None], kind)})
    np.testing.assert_array_equal(model.encode(new), [[1, 2], [5, 6], [np.nan] * 2])


def test_a_saved_encoder_needs_the_dataset_no_more(tmp_path):
    data = shop().with_features("clip", MATRIX.astype(np.float64)).save(tmp_path / "shop")
    model = Features(name="clip").fit(data.train)
    again = load(model.save(tmp_path / "saved"))
    assert again.weights["vectors"].dtype == np.float32
    np.testing.assert_array_equal(again.encode(data.items), MATRIX)


def test_items_without_a_vector_are_told_of():
    told, data = [], shop().with_features("clip", MATRIX)
    with listening(lambda description, *_: told.append(description)):
        Features(name="clip").fit(data).encode(Table(Ids(["x", "a"])))
    assert told == [
        "1 of 4 items have no vector in 'clip': theirs are nan",
        "1 of 1 new items have no vector in 'clip': theirs are nan",
    ]


def test_what_is_not_a_matrix_of_these_items_is_refused_in_one_line(tmp_path):
    data = shop()

    def fitted(matrix, name="clip"):
        return Features(name=name).fit(data.with_features("clip", matrix))

    with pytest.raises(DataError, match="feature matrix 'clip' has 3 rows for 4 items of shop. Make it again, one row"):
        fitted(MATRIX[:3])
    with pytest.raises(DataError, match="feature matrix 'clip' is 4 of int64, not a row of numbers an item. Mend it."):
        fitted(np.arange(4))
    with pytest.raises(DataError, match="shop has no feature matrix 'clop'. Did you mean 'clip'. Matrices: clip."):
        fitted(MATRIX, "clop")
    broken = MATRIX.copy()
    broken[1, 0], broken[3, 1] = np.inf, np.nan
    with pytest.raises(DataError, match="2 of 4 vectors in 'clip' hold nan or infinite numbers .* 'b', 'd'. Make"):
        fitted(broken)
    with pytest.raises(DataError, match="no row of feature matrix 'clip' of shop holds a vector. Make it again."):
        fitted(np.full((4, 2), np.nan))
    with pytest.raises(DataError, match="1 of 2 rows of .* 'clip' are of items that shop does not have: 'x'"):
        data.with_features("clip", MATRIX[:2], ids=["a", "x"])
    with pytest.raises(DataError, match="'../x' cannot name a feature matrix. Use letters"):
        data.with_features("../x", MATRIX)
    with pytest.raises(DataError, match="items.clip holds string, no vectors. Name a column of lists of numbers."):
        Features(name="clip").fit(shop(clip=list("abcd")))
    with pytest.raises(DataError, match="items.clip holds vectors of 1 to 2 numbers. Make all alike."):
        Features(name="clip").fit(shop(clip=[[1.0], [1.0, 2.0], None, None]))
    with pytest.raises(DataError, match="new items have vectors of width 3 in 'clip', the others 2. Make them by"):
        fitted(MATRIX).encode(Table.of(Ids(["x"]), {"clip": [[1.0, 2.0, 3.0]]}))
    saved = data.with_features("clip", MATRIX).save(tmp_path / "shop")
    (tmp_path / "shop" / "features" / "clip.npy").write_bytes(b"junk")
    with pytest.raises(DataError, match="feature matrix 'clip' of shop is damaged: clip.npy is cut short or no column"):
        Features(name="clip").fit(saved)


def test_put_on_other_data_it_looks_up_their_matrix_of_the_same_name_and_width():
    model = Features(name="clip").fit(shop().with_features("clip", MATRIX))
    there = Dataset.from_frame({"user": ["u"], "item": ["z"]}, name="there")
    adopted = model.adopt(there.with_features("clip", [[5, 6]]))
    np.testing.assert_array_equal(adopted.encode(there.items), [[5, 6]])
    with pytest.raises(DataError, match="vectors in 'clip' of there have width 3, those before 2. Make them"):
        model.adopt(there.with_features("clip", [[5, 6, 7]]))
