"""External ids find their codes and come back; what cannot be an id is refused."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from itemic.data import Ids
from itemic.errors import DataError, UnknownItems

ids = st.one_of(
    st.lists(st.integers(-(2**62), 2**62), unique=True, max_size=20),
    st.lists(st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"])), unique=True, max_size=20),
)


@given(ids)
def test_every_id_finds_its_row_and_every_row_its_id(values):
    table = Ids(values)
    assert table.codes(values).tolist() == list(range(len(values)))
    assert table.external(range(len(values))).tolist() == values


@given(st.lists(st.integers(0, 50), unique=True, min_size=1), st.lists(st.integers(0, 99)))
def test_ids_that_are_not_there_have_the_code_minus_one(values, wanted):
    expected = [values.index(value) if value in values else -1 for value in wanted]
    assert Ids(values).codes(wanted).tolist() == expected


def test_text_finds_integers_and_integers_find_text():
    assert Ids([42, 7]).codes([" 7", "42", "x", "4.2", "-7"]).tolist() == [1, 0, -1, -1, -1]
    assert Ids(["42", "a"]).codes([42, 7]).tolist() == [0, -1]


@pytest.mark.parametrize(
    "values", [np.array([3, 1], np.int16), pa.array([3, 1]), pa.chunked_array([[3], [1]]), (3, 1), iter([3, 1])]
)
def test_any_list_of_integers_becomes_int64(values):
    assert Ids(values).array.equals(pa.array([3, 1], pa.int64()))


def test_repeated_text_of_an_arrow_dictionary_is_unpacked():
    assert Ids(pa.array(["b", "a"]).dictionary_encode()).array.type == pa.string()


def test_equal_ids_have_equal_digests_and_others_do_not():
    same = [Ids(pa.chunked_array([["a"], ["b"]])), Ids(["a", "b"])]
    assert same[0] == same[1]
    assert same[0].digest() == same[1].digest()
    digests = {Ids(values).digest() for values in (["a", "b"], ["b", "a"], ["a"], [1, 2], [2, 1], ["1", "2"], ["ab"])}
    assert len(digests) == 7


def test_unknown_ids_are_counted_and_named_with_the_mend():
    with pytest.raises(UnknownItems, match="^2 of 3 items are not in the catalogue: 'x', 'y'. Leave them out.$"):
        Ids(["a"]).known(["x", "a", "y"], "Leave them out.")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["a", None], "1 item ids are missing, the first in row 2. Fill them in."),
        (["a", "b", "a"], "1 item ids appear more than once: 'a'. Keep one row for each."),
        ([5, 5, 6, 6], "2 item ids appear more than once: 5, 6. Keep one row for each."),
        (["a", "b\nc"], "item id 'b\\\\nc' in row 2 holds a line break. Take it out."),
    ],
)
def test_what_cannot_be_an_id_is_refused(values, message):
    with pytest.raises(DataError, match=f"^{message}$"):
        Ids(values)
