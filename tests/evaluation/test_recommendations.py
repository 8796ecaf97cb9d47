"""Lists made elsewhere: the forms of their files, ties, missing users, and what is refused."""

import gzip
from dataclasses import replace

import numpy as np
import pytest

import itemic
from itemic.data import Dataset, Query, Ragged
from itemic.errors import DataError, QueryError, UnknownItems
from itemic.evaluation import compare
from itemic.evaluation.recommendations import read_recommendations

TRAIN = {"user": ["a", "b", "c"], "item": [10, 11, 12]}
TEST = {"user": ["a", "b"], "item": [12, 13]}


@pytest.fixture
def data():
    items = {"item": [10, 11, 12, 13, 14]}
    return Dataset.from_frame(TRAIN, items=items, test=TEST, name="three")


def asked(data, **fields):
    return replace(data.test.query, user=data.test.users, **fields)


def lists(path, data, k=3):
    return read_recommendations(path, data).rank(asked(data), k).items.tolist()


def written(path, rows, header, separator=","):
    text = "\n".join(separator.join(map(str, row)) for row in [header, *rows]) + "\n"
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


ROWS = [("a", 14, 0.2), ("a", 13, 0.9), ("b", 12, 0.5), ("a", 12, 0.2), ("c", 14, 1.0)]
BEST_FIRST = [[3, 2, 4], [2, -1, -1]]


def test_scores_rank_the_highest_first_and_ties_go_to_the_lower_code(data, tmp_path):
    assert lists(written(tmp_path / "r.csv", ROWS, ("user", "item", "score")), data) == BEST_FIRST


def test_ranks_rank_the_lowest_first_and_win_over_a_score_beside_them(data, tmp_path):
    rows = [(user, item, -1, rank) for user, item, rank in [("a", 14, 3), ("a", 13, 1), ("a", 12, 2), ("b", 12, 1)]]
    assert lists(written(tmp_path / "r.csv", rows, ("user", "item", "score", "rank")), data) == BEST_FIRST


def test_tsv_gzip_and_parquet_give_the_same_lists(data, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    written(tmp_path / "r.tsv", ROWS, ("user_id", "item_id", "prediction"), "\t")
    written(tmp_path / "r.csv.gz", ROWS, ("userId", "itemId", "score"))
    user, item, score = (list(column) for column in zip(*ROWS))
    pq.write_table(pa.table({"item": item, "score": score, "user": user}), tmp_path / "r.parquet")
    assert [lists(tmp_path / name, data) for name in ("r.tsv", "r.csv.gz", "r.parquet")] == [BEST_FIRST] * 3


def test_a_large_score_is_told_from_a_nearly_equal_one(data, tmp_path):
    rows = [("a", 13, 16777216), ("a", 14, 16777217)]  # one number as float32
    assert lists(written(tmp_path / "r.csv", rows, ("user", "item", "score")), data)[0] == [4, 3, -1]


def test_an_item_twice_in_a_list_counts_where_it_stands_best(data, tmp_path):
    rows = [("a", 13, 0.1), ("a", 14, 0.5), ("a", 13, 0.9)]
    assert lists(written(tmp_path / "r.csv", rows, ("user", "item", "score")), data)[0] == [3, 4, -1]


def test_seen_items_are_passed_over_as_in_any_models_lists(data, tmp_path):
    rows = [("a", 10, 1.0), ("a", 13, 0.9), ("b", 11, 1.0)]
    assert lists(written(tmp_path / "r.csv", rows, ("user", "item", "score")), data) == [[3, -1, -1], [-1, -1, -1]]


def test_only_candidates_are_ranked_where_there_are_some(data, tmp_path):
    given = read_recommendations(written(tmp_path / "r.csv", ROWS, ("user", "item", "score")), data)
    apart, shared = Ragged.from_lists([[4], [3]]), np.array([2], np.int32)
    assert given.rank(asked(data, candidates=apart), 2).items.tolist() == [[4, -1], [-1, -1]]
    assert given.rank(asked(data, candidates=shared), 2).items.tolist() == [[2, -1], [2, -1]]
    with pytest.raises(QueryError, match="this query does not say who asks"):
        given.rank(Query(history=Ragged.from_lists([[1]])), 2)


def test_a_test_set_that_does_not_say_who_asks_cannot_be_met_by_a_file(data, tmp_path):
    path = written(tmp_path / "r.csv", ROWS, ("user", "item", "score"))
    with pytest.raises(DataError, match=r"r.csv names users, and this test set does not say who asks. Give EvalSet\("):
        compare([path], data, "recall@2", test=replace(data.test, users=None))


def test_users_without_a_list_count_as_empty_and_are_noted(data, tmp_path):
    path = written(tmp_path / "r.csv", [("b", 13, 1)], ("user", "item", "rank"))
    found = compare([path], data, "recall@2")
    assert found["r.csv"]["recall@2"] == 0.5
    assert found.notes[0] == f"{path} has no list for 1 of 2 users; theirs count as empty."


def test_a_models_lists_as_a_file_give_the_row_of_the_model(tmp_path):
    rng = np.random.default_rng(0)
    pairs = {(int(u), int(i)) for u, i in zip(rng.integers(0, 40, 500), rng.integers(0, 60, 500) ** 2 // 60)}
    frame = {"user": [f"u{u}" for u, _ in sorted(pairs)], "item": [f"i{i}" for _, i in sorted(pairs)]}
    from itemic.data.splits import split

    data = split(Dataset.from_frame(frame), by="random", test=0.3, valid=0)
    model = itemic.system("itemknn").fit(data.train)
    ranked = model.rank(data.test.query, 10).to_frame(data.users.ids.external(data.test.users))
    ranked.sample(fraction=1.0, shuffle=True, seed=0).write_parquet(tmp_path / "theirs.parquet")
    found = compare([model, tmp_path / "theirs.parquet"], data, ["ndcg@10", "recall@10", "mrr@5"])
    ours, theirs = found["itemknn"], found["theirs.parquet"]
    assert (ours.result.lists == theirs.result.lists).all()
    assert ours.intervals == theirs.intervals
    assert ours.coverage == theirs.coverage
    assert (theirs.fit_seconds, theirs.queries_per_second, theirs.is_baseline) == (None, None, False)


@pytest.mark.parametrize(
    ("rows", "header", "error", "text"),
    [
        ([("z", 12, 1)], ("user", "item", "rank"), UnknownItems, "1 of 1 users are not in the catalogue: 'z'. Take"),
        ([("a", 99, 1)], ("user", "item", "rank"), UnknownItems, "1 of 1 items are not in the catalogue: '99'. Take"),
        ([("a", 12, 1)], ("user", "item", "colour"), DataError, "no rank or score column; its columns are user, item"),
        ([("a", 12, 1)], ("who", "item", "rank"), DataError, "has no user column; its columns are who, item, rank"),
        ([("a", 12, 1), ("a", 13, "nan")], ("user", "item", "score"), DataError, "row 2: the score is missing"),
        ([("a", 12, 1), ("a", 13, "x")], ("user", "item", "score"), DataError, "row 2: .*double.*'x'"),
        ([], ("user", "item", "score"), DataError, "holds no rows"),
    ],
)
def test_files_that_cannot_be_used_are_refused_in_one_line(data, tmp_path, rows, header, error, text):
    with pytest.raises(error, match=text) as caught:
        read_recommendations(written(tmp_path / "r.csv", rows, header), data)
    assert "\n" not in str(caught.value)
