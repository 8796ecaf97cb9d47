"""The same film is found under other ids, and another film of that name is not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from itemic.data import Ids, Table
from itemic.data.matching import matched, plain, title_and_year
from itemic.data.readers.known import known_set
from itemic.errors import DataError


def films(titles, **columns):
    return Table.of(Ids(range(len(titles))), {"title": titles, **columns})


SAME = [
    ("The Matrix (1999)", "Matrix, The (1999)"),
    ("Les Misérables (1995)", "Misérables, Les (1995)"),
    ("Mr. & Mrs. Smith (2005)", "Mr and Mrs Smith (2005)"),
    ("Schindler's List (1993)", "SCHINDLERS LIST (1993)"),
    ("Thirteen Ghosts (2001)", "Thirteen Ghosts (a.k.a. Thir13en Ghosts) (2001)"),
    ("Il Postino (1994)", "Postino, Il (The Postman) (1994)"),
    ("Halloween (2018)", "Halloween (2018 film)"),
    ("Wall-E (2008)", "WALL·E (2008)"),
    ("(500) Days of Summer (2009)", "500 Days of Summer (2009)"),
]
OTHER = [
    ("The Mummy (1999)", "Mummy, The (2017)"),
    ("The Matrix", "Matrix, The (1999)"),
    ("Alien (1979)", "Aliens (1979)"),
    ("Heat (1995)", "Theat (1995)"),
]


@pytest.mark.parametrize(("ours", "theirs"), SAME)
def test_titles_that_mean_the_same_film_are_matched(ours, theirs):
    assert matched(films([ours]), films(["Other (1999)", theirs])).codes.tolist() == [1]


@pytest.mark.parametrize(("ours", "theirs"), OTHER)
def test_films_of_other_years_or_names_are_not(ours, theirs):
    assert matched(films([ours]), films([theirs])).codes.tolist() == [-1]


def test_a_year_may_stand_in_a_column_of_its_own():
    ours = films(["Heat", "2012", None], year=["1995", "2009", "1999"])
    found = matched(ours, films(["2012 (2009)", "Heat (1995)", "(1999)"], year=[None] * 3))
    assert found.codes.tolist() == [1, 0, -1]
    assert found.coverage == pytest.approx(2 / 3)


def test_an_imdb_id_in_any_writing_finds_what_the_title_does_not_and_a_wrong_one_does_not_count():
    ours = films(["La Haine", "Heat (1995)", "Ran (1985)"], imdb_id=["tt0113247", "tt0000009", None])
    theirs = films(["Hate (1995)", "Heat (1995)", "Nine (2009)"], imdbId=[113247, 113277, 9])
    found = matched(ours, theirs)
    assert found.codes.tolist() == [0, 1, -1]
    assert found.by_id.tolist() == [True, False, False]


def test_what_several_films_share_names_none_of_them():
    theirs = films(["Emma (1996)", "Emma (1996)", "Emma (1996)"], imdb_id=["tt1", "tt2", "tt2"])
    assert matched(films(["Emma (1996)"], imdb_id=["tt1"]), theirs).codes.tolist() == [0]
    assert matched(films(["Emma (1996)"], imdb_id=["tt2"]), theirs).codes.tolist() == [-1]


@given(st.lists(st.tuples(st.sampled_from(["Heat", "Ronin", "Up"]), st.integers(1990, 1994)), max_size=6, unique=True))
def test_a_catalogue_matches_itself(rows):
    titles = [f"{title} ({year})" for title, year in rows]
    table = films(titles)
    assert matched(table, table).codes.tolist() == list(range(len(titles)))
    assert all(title_and_year(text) == row for text, row in zip(titles, rows))


@given(st.text())
def test_what_titles_are_compared_by_is_the_same_a_second_time(text):
    assert plain(plain(text)) == plain(text)


def test_items_without_titles_and_ids_cannot_be_matched():
    with pytest.raises(DataError) as caught:
        matched(films(["Heat (1995)"]), Table.of(Ids([1]), {"price": [2]}))
    assert str(caught.value) == "items cannot be matched: they have no column imdb_id or title. Columns: price."


def test_most_films_of_redial_are_in_movielens(real_data):
    ours, theirs = (known_set(real_data(name)) for name in ("crs-redial", "ml-latest-small"))
    found = matched(ours.items, theirs.items)
    assert (found.codes >= 0).sum() == 3910
    assert found.by_id.sum() == 482
    assert (found.codes >= 0)[ours.test.relevant.values].mean() == pytest.approx(0.7244, abs=1e-4)
