"""Every form a file can have, written by hand here, gives the dataset that it describes."""

import gzip
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from itemic.data.dataset import TEST, TEST_HISTORY, TRAIN, VALID
from itemic.data.importing import import_files
from itemic.data.readers import tables
from itemic.data.readers.known import KNOWN, known_set
from itemic.errors import DataError, LeakError

DATA = Path(os.environ.get("ITEMIC_DATA", Path(__file__).parents[2].parent / "shared" / "data"))


def written(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = text.encode(encoding)
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


def rows(dataset) -> list[tuple]:
    """(user id, item id) of every interaction, in the order of the dataset."""
    log = dataset.interactions
    users, items = dataset.users.ids.external(log.user), dataset.items.ids.external(log.item)
    return list(zip(users.tolist(), items.tolist()))


EVENTS = "userId{0}movieId{0}rating{0}timestamp\n7{0}b{0}4.5{0}20\n9{0}a{0}3{0}5\n7{0}a{0}1{0}10\n"


@pytest.mark.parametrize(
    ("name", "sign"), [("e.csv", ","), ("e.csv.gz", ","), ("e.tsv", "\t"), ("e.csv", ";"), ("e.txt", "|")]
)
def test_delimited_text_is_read_whatever_its_delimiter_and_packing(tmp_path, name, sign):
    data = import_files(written(tmp_path / name, EVENTS.format(sign)))
    assert rows(data) == [(7, "a"), (7, "b"), (9, "a")]
    assert data.interactions.time.tolist() == [10_000, 20_000, 5_000]
    assert data.interactions.rating.tolist() == [1.0, 4.5, 3.0]
    assert data.name == "e"


@pytest.mark.parametrize("name", ["e.jsonl", "e.jsonl.gz", "e.json"])
def test_json_lines_hold_one_interaction_each(tmp_path, name):
    text = '{"user_id": "u", "parent_asin": "B1", "rating": 5}\n{"parent_asin": "B0", "user_id": "u", "rating": 2}\n'
    data = import_files(written(tmp_path / name, text))
    assert rows(data) == [("u", "B1"), ("u", "B0")]
    assert data.interactions.rating.tolist() == [5, 2]


def test_json_whose_numbers_become_fractions_further_down_is_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "BLOCK", 256)
    lines = ['{"user": 1, "item": 5, "rating": 3}'] * 20 + ['{"user": 1, "item": 7, "rating": 2.5}']
    log = import_files(written(tmp_path / "e.jsonl", "\n".join(lines))).interactions
    assert log.rating.tolist() == [3.0] * 20 + [2.5]


def test_a_parquet_file_holds_one_interaction_a_row(tmp_path):
    pq.write_table(pa.table({"uid": [3, 1], "extra": ["x", "y"], "sku": ["q", "p"]}), tmp_path / "e.parquet")
    assert rows(import_files(tmp_path / "e.parquet")) == [(1, "p"), (3, "q")]


def test_lists_in_parquet_are_sequences_in_their_order(tmp_path):
    table = pa.table({"user": [5, 4, 6], "movies": [[9, 8, 9], [7], []], "n": [3, 1, 0]})
    pq.write_table(table, tmp_path / "sequences.parquet")
    data = import_files(tmp_path / "sequences.parquet")
    assert rows(data) == [(4, 7), (5, 9), (5, 8), (5, 9)]
    assert data.ordered
    assert not data.repeats


def test_lists_of_times_run_along_with_lists_of_items(tmp_path):
    table = pa.table({"user": [5, 4], "items": [[9, 8], [7]], "time": [[20, 10], [30]]})
    pq.write_table(table, tmp_path / "e.parquet")
    data = import_files(tmp_path / "e.parquet")
    assert rows(data) == [(4, 7), (5, 8), (5, 9)]
    assert data.interactions.time.tolist() == [30_000, 10_000, 20_000]


def test_lists_without_a_user_are_sessions_that_may_repeat(tmp_path):
    pq.write_table(pa.table({"items": [[9, 9], [7]]}), tmp_path / "sessions.parquet")
    data = import_files(tmp_path / "sessions.parquet")
    assert rows(data) == [(0, 9), (0, 9), (1, 7)]
    assert data.ordered
    assert data.repeats


def test_one_line_a_user_is_a_sequence_in_its_order(tmp_path):
    data = import_files(written(tmp_path / "Beauty.txt", "1 5 3 4\n2 3\n3\n"))
    assert rows(data) == [(1, 5), (1, 3), (1, 4), (2, 3)]
    assert data.n_users == 3
    assert data.ordered


@pytest.mark.parametrize("packed", ["", ".gz"])
def test_lightgcn_lists_keep_their_split_and_users_without_items(tmp_path, packed):
    written(tmp_path / f"train.txt{packed}", "0 2 0\n1 3 \n2\n")
    written(tmp_path / f"test.txt{packed}", "0 1\n1\n2 5\n")
    written(tmp_path / f"valid.txt{packed}", "1 0\n")
    data = import_files(tmp_path)
    assert data.items.ids.array.to_pylist() == [0, 1, 2, 3, 5]
    assert list(zip(rows(data), data.split.part)) == [
        ((0, 2), TRAIN),
        ((0, 0), TRAIN),
        ((0, 1), TEST),
        ((1, 3), TRAIN),
        ((1, 0), VALID),
        ((2, 5), TEST),
    ]
    assert data.split.how == {"by": "official"}
    assert not data.ordered


def test_lightgcn_lists_whose_test_is_in_train_are_refused_unless_repeats_are_declared(tmp_path):
    written(tmp_path / "train.txt", "0 2 0\n")
    written(tmp_path / "test.txt", "0 2\n")
    with pytest.raises(LeakError, match="1 of 1 test"):
        import_files(tmp_path)
    assert import_files(tmp_path, repeats=True).split is not None


def test_movielens_1m_is_read_with_titles_in_latin_1(tmp_path):
    written(tmp_path / "ratings.dat", "1::10::5::978300760\n2::20::3::978300000\n")
    written(tmp_path / "movies.dat", '10::Café "Society" (1995)::Drama|War\n20::Ant::Comedy\n30::Bee::\n', "latin-1")
    written(tmp_path / "users.dat", "1::F::25::10::48067\n2::M::35::7::55117\n")
    for given in (tmp_path, tmp_path / "ratings.dat"):
        data = import_files(given)
        assert rows(data) == [(1, 10), (2, 20)]
        assert data.items.titles([0, 1, 2]) == ['Café "Society" (1995)', "Ant", "Bee"]
        assert data.items.column("genres").to_pylist() == ["Drama|War", "Comedy", None]
        assert data.items.roles == {"title": ["title"], "text": ["title", "genres"]}
        assert data.users.names == ["gender", "age", "occupation"]
        assert data.interactions.time.tolist() == [978300760000, 978300000000]


def test_movielens_100k_is_read_with_its_genre_flags_as_words(tmp_path):
    written(tmp_path / "u.data", "196\t242\t3\t881250949\n186\t302\t3\t891717742\n")
    flags = ["0"] * 19
    flags[1] = flags[6] = "1"
    item = "|".join(["Kolya (1996)", "24-Jan-1997", "", "http://x", *flags])
    written(tmp_path / "u.item", f"242|{item}\n302|{item.replace('Kolya', 'Amélie')}\n", "latin-1")
    written(tmp_path / "u.user", "186|39|F|executive|00000\n196|49|M|writer|55105\n")
    data = import_files(tmp_path)
    assert rows(data) == [(186, 302), (196, 242)]
    assert data.items.titles([1]) == ["Amélie (1996)"]
    assert data.items.column("genres").to_pylist() == ["Action|Crime"] * 2


def test_movielens_csv_is_read_with_items_nobody_rated(tmp_path):
    written(tmp_path / "ratings.csv", "userId,movieId,rating,timestamp\n1,31,2.5,1260759144\n")
    written(tmp_path / "movies.csv", 'movieId,title,genres\n31,"Dangerous Minds, the (1995)",Drama\n5,Bee,Comedy\n')
    written(tmp_path / "tags.csv", "userId,movieId,tag,timestamp\n1,31,a,1\n")
    data = import_files(tmp_path)
    assert data.items.ids.array.to_pylist() == [5, 31]
    assert data.items.titles([1]) == ["Dangerous Minds, the (1995)"]


def test_another_file_beside_movielens_is_read_as_what_it_is(tmp_path):
    for name in ("ratings.csv", "movies.csv"):
        written(tmp_path / name, "userId,movieId\n1,1\n")
    written(tmp_path / "tags.csv", "userId,movieId,tag\n7,8,fun\n")
    assert rows(import_files(tmp_path / "tags.csv")) == [(7, 8)]


@pytest.mark.parametrize("form", ["movielens", "sequences", "lightgcn"])
def test_columns_are_refused_where_the_form_has_its_own(tmp_path, form):
    path = written(tmp_path / "ratings.dat", "1::2::3::4\n")
    with pytest.raises(DataError, match="form whose columns are known. Leave --columns out"):
        import_files(path, form=form, columns=["user", "item", "-", "-"])


def test_recbole_files_are_read_by_their_typed_names(tmp_path):
    written(tmp_path / "ml.inter", "user_id:token\titem_id:token\trating:float\ttimestamp:float\nu\t2\t4\t881250949\n")
    written(
        tmp_path / "ml.item", 'item_id:token\ttitle:token_seq\tv:float_seq\tprice:float\n2\tA "b\t1 2.5\t3\n3\t\t0\t\n'
    )
    written(tmp_path / "ml.user", "user_id:token\tage:float\nu\t30\n")
    for given in (tmp_path, tmp_path / "ml.inter"):
        data = import_files(given)
        assert rows(data) == [("u", 2)]
        assert data.items.column("title").to_pylist() == ['A "b', None]
        assert data.items.column("v").to_pylist() == [[1.0, 2.5], [0.0]]
        assert data.items.column("price").to_pylist() == [3.0, None]
        assert data.users.column("age").to_pylist() == [30.0]
        assert data.interactions.time.tolist() == [881250949000]


def test_recbole_files_of_three_parts_are_an_official_split(tmp_path):
    head = "user_id:token\titem_id:token\n"
    for part, line in (("train", "u\t1\n"), ("valid", "u\t2\n"), ("test", "u\t3\n")):
        written(tmp_path / f"x.{part}.inter", head + line)
    data = import_files(tmp_path)
    assert list(zip(rows(data), data.split.part)) == [(("u", 1), TRAIN), (("u", 2), VALID), (("u", 3), TEST)]


def test_a_folder_with_a_single_table_is_that_table(tmp_path):
    written(tmp_path / "All_Beauty.csv.gz", "user_id,parent_asin,rating,timestamp\nA,B,5.0,1588687728923\n")
    written(tmp_path / "All_Beauty.csv.gz.json", '{"sha256": "what download noted"}')
    written(tmp_path / "README.md", "about")
    data = import_files(tmp_path)
    assert rows(data) == rows(import_files(tmp_path, form="csv")) == [("A", "B")]
    assert data.interactions.time.tolist() == [1588687728923]


def test_a_folder_in_no_known_layout_is_refused_by_what_it_holds(tmp_path):
    written(tmp_path / "a.csv", "x")
    written(tmp_path / "b.csv", "x")
    with pytest.raises(DataError, match="not in a known layout; it holds 'a.csv', 'b.csv'. Give the file"):
        import_files(tmp_path)


def test_a_form_can_be_named_where_the_file_does_not_tell(tmp_path):
    path = written(tmp_path / "log.txt", "u 1 2\nv 3 4\n")
    assert rows(import_files(path, form="sequences")) == [("u", 1), ("u", 2), ("v", 3), ("v", 4)]
    with pytest.raises(DataError, match="there is no form 'sequence'. Did you mean 'sequences'?"):
        import_files(path, form="sequence")


PUBLISHED = {  # users, items, interactions as the README of each folder counts them
    "lastfm-lightgcn": (1892, 4489, 52668),
    "gowalla-ngcf": (29858, 40981, 1027370),
    "ml-1m-lcfn-split": (6022, 3043, 995154),
    "amazon-book-kgat": (70679, 24915, 846434),
    "yelp-sslrec": (42712, 26822, 260510),
    "steam-setrec": (32919, 14330, 1436230),
    "ml-100k": (943, 1682, 100000),
    "ml-latest-small": (671, 9125, 100004),
    "ml-1m": (6040, 3416, 999611),
    "amazon-beauty": (22363, 12101, 198502),
    "amazon-sports": (35598, 18357, 296337),
    "amazon-toys": (19412, 11924, 167597),
    "yelp-s3rec": (30431, 20033, 316354),
    "lastfm-s3rec": (1090, 3646, 52551),
    "citeulike-a": (5551, 16980, 204986),
    "sessions-diginetica": (247528, 43097, 1212544),
    "sessions-tmall": (91184, 40727, 812911),
    "sessions-nowplaying": (217901, 60416, 1541492),
    "bundle-clothing": (965, 4487, 6326),
    "crs-opendialkg": (5170, 2965, 12337),  # of dialogues there is a user each, and what is named is an interaction
    "crs-redial": (2318, 6576, 13629),
    "crs-redial-dialogues": (1000, 2021, 6015),
}


def test_every_known_set_has_its_published_counts_here():
    assert PUBLISHED.keys() == KNOWN.keys()


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_known_set_has_its_published_counts(name):
    if not (DATA / name).is_dir():
        pytest.skip(f"the data set {name} is not on this machine (set ITEMIC_DATA)")
    data = known_set(DATA / name)
    assert (data.n_users, data.n_items, len(data.interactions)) == PUBLISHED[name]
    assert data.name == name


ROLES = {
    "amazon-beauty": {"title": ["title"], "text": ["title", "words"], "attributes": ["attributes"]},
    "amazon-sports": {"text": ["words"], "attributes": ["attributes"]},
    "amazon-toys": {"text": ["words"], "attributes": ["attributes"]},
    "yelp-s3rec": {"title": ["title"], "text": ["title", "categories"], "attributes": ["attributes"]},
    "bundle-clothing": {"title": ["title"], "text": ["title", "categories"], "category": ["category"]},
}


def test_films_of_movielens_have_the_imdb_ids_of_their_links(tmp_path):
    written(tmp_path / "ratings.csv", "userId,movieId,rating,timestamp\n1,31,4,10\n")
    written(tmp_path / "movies.csv", "movieId,title,genres\n31,Heat (1995),Crime\n5,Up (2009),Comedy\n")
    written(tmp_path / "links.csv", "movieId,imdbId,tmdbId\n31,0113277,949\n")
    assert import_files(tmp_path).items.frame.select(["title", "imdb_id"]).to_pylist() == [
        {"title": "Up (2009)", "imdb_id": None},
        {"title": "Heat (1995)", "imdb_id": 113277},
    ]
    if (DATA / "ml-latest-small").is_dir():
        assert known_set(DATA / "ml-latest-small").items.column("imdb_id")[0].as_py() == "0114709"


@pytest.mark.parametrize("name", ROLES)
def test_the_metadata_of_a_known_set_say_what_they_are_for(name):
    if not (DATA / name).is_dir():
        pytest.skip(f"the data set {name} is not on this machine (set ITEMIC_DATA)")
    assert known_set(DATA / name).items.roles == ROLES[name]


def test_the_first_of_the_category_paths_of_a_bundle_item_is_read_name_by_name(tmp_path):
    folder = tmp_path / "bundle-clothing"
    written(folder / "item_titles.csv.gz", "item ID,titles\n7,Cap\n")
    written(folder / "item_categories.csv.gz", 'item ID,categories\n7,"[[Shoes & Hats, All,Men, Boys,Caps],[Hats]]"\n')
    written(folder / "user_item.csv.gz", "user ID,item ID,timestamp\n1,7,1404864000\n")
    items = known_set(folder).items
    assert items.column("category").to_pylist() == ["Shoes & Hats, All > Men, Boys > Caps"]


@pytest.mark.skipif(not (DATA / "sessions-tmall").is_dir(), reason="sessions-tmall is not on this machine")
def test_session_test_cases_are_users_with_a_history_and_one_item_to_find():
    data = known_set(DATA / "sessions-tmall")
    table = pq.read_table(DATA / "sessions-tmall" / "test.parquet").slice(0, 1).to_pylist()[0]
    assert np.bincount(data.split.part)[[TRAIN, TEST, TEST_HISTORY]].tolist() == [416554, 25898, 370459]
    first = data.test.query.take([0]).history[0]
    assert data.items.ids.external(first).tolist() == table["items"]
    assert data.items.ids.external(data.test.relevant[0]).tolist() == [table["target"]]
    assert (data.test.query.user == -1).all()


def test_an_unknown_set_is_refused_with_the_nearest_name(monkeypatch, tmp_path):
    with pytest.raises(DataError, match="no known set 'gowala-ngcf'. Did you mean 'gowalla-ngcf'?"):
        known_set("gowala-ngcf")
    monkeypatch.setenv("ITEMIC_DATA", str(tmp_path))
    with pytest.raises(DataError, match="gowalla-ngcf does not exist. Set ITEMIC_DATA"):
        known_set("gowalla-ngcf")
