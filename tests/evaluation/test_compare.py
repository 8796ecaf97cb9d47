"""compare: the table, the tests in it, the baselines it adds, the models it refuses, and its page."""

import json
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from typing import ClassVar

import numpy as np
import pytest

import itemic
from itemic.data import TEST, TRAIN, VALID, Dataset
from itemic.data.splits import split
from itemic.errors import ConfigError, DataError, LeakError
from itemic.evaluation import compare, evaluate
from itemic.evaluation.analysis import beyond_accuracy, categories, slices
from itemic.evaluation.significance import holm, intervals, paired_test
from itemic.metrics import metric
from itemic.registry import system
from itemic.systems.base import ScoreRecommender, SystemConfig


class Config(SystemConfig):
    noise: float = 1.0


@system("toy-oracle", family="toys", answers=["user"])
class Oracle(ScoreRecommender[Config]):
    """Knows the test part, set aside by the tests, and scores it above noise of the size of its option."""

    answers: ClassVar[Dataset | None] = None

    def solve(self, train):
        noise = np.random.default_rng(0).random((train.n_users, train.n_items)) * self.config.noise
        test = self.answers.test
        noise[test.users[test.relevant.row_of_value], test.relevant.values] += 1
        return {"scores": noise.astype(np.float32)}

    def scores(self, query):
        return self.weights["scores"][query.user]


@system("toy-tastes", family="toys", answers=["user"])
class Tastes(ScoreRecommender[Config]):
    """Scores drawn from a seed that is the user's id, whatever the user's code."""

    def solve(self, train):
        ids = train.users.ids.array.to_pylist()
        rows = [np.random.default_rng(list(user.encode())).random(train.n_items) for user in ids]
        return {"scores": np.array(rows, np.float32)}

    def scores(self, query):
        return self.weights["scores"][query.user]


def planted(n_users=80, n_items=40, seed=0, **kwargs):
    """Users of two groups, each with items of their half; a time for every event; genres."""
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(n_users), 10)
    half = n_items // 2
    item = np.concatenate([rng.choice(half, 10, replace=False) + half * (u % 2) for u in range(n_users)])
    time = rng.permutation(len(user))
    genre = [["Drama", "Comedy|War", "War"][i % 3] for i in range(n_items)]
    items = {"item": np.arange(n_items), "genres": genre}
    frame = {"user": [f"u{u:02d}" for u in user], "item": item, "timestamp": time}
    return split(Dataset.from_frame(frame, items=items, name="planted", **kwargs), by="random", test=0.2, valid=0.1)


@pytest.fixture(scope="module")
def data():
    return planted()


@pytest.fixture(scope="module")
def oracle(data):
    Oracle.answers = data
    return Oracle(noise=2.0).fit(data.train)


@pytest.fixture(scope="module")
def found(data, oracle):
    return compare([itemic.system("itemknn").fit(data.train), oracle], data, ["recall@5", "ndcg@10"])


def test_the_rows_are_what_evaluate_and_intervals_say_best_first(data, oracle, found):
    alone = evaluate(oracle, data.test, ["recall@5", "ndcg@10"])
    row = found["toy-oracle"]
    assert (row["recall@5"], row["ndcg@10"]) == (alone["recall@5"], alone["ndcg@10"])
    assert row.intervals == intervals(alone.values)
    assert [r["recall@5"] for r in found.rows] == sorted((r["recall@5"] for r in found.rows), reverse=True)


def test_every_other_row_is_tested_against_the_best_baseline_with_one_correction_for_all_tests(found):
    best = found[found.baseline]
    assert best["recall@5"] == max(r["recall@5"] for r in found.rows if r.is_baseline)
    assert not best.against
    others = [(row, name) for row in found.rows if row is not best for name in found.metrics]
    raw = [paired_test(row.result.values[name], best.result.values[name]) for row, name in others]
    assert [row.against[name].p for row, name in others] == holm(np.array([d.p for d in raw])).tolist()
    assert [row.against[name].difference for row, name in others] == [d.mean for d in raw]
    assert len(others) == 6
    assert any(row.against[name].p > d.p for (row, name), d in zip(others, raw))


def test_the_table_shows_split_protocol_skipped_users_intervals_and_tests(found):
    header, columns, *lines = found.to_text()
    assert header == "planted: split random, test 20 %, valid 10 %, seed 0; full ranking; 80 users"
    named = "system  recall@5  95% interval  ndcg@10  coverage@10  fit, s  queries/s  against best baseline"
    assert re.split(r" {2,}", columns) == re.split(r" {2,}", named)
    row = found["toy-oracle"]
    first = re.split(r" {2,}", next(line for line in lines if line.startswith("toy-oracle")))
    low, high = row.intervals["recall@5"][1:]
    assert first[1:4] == [f"{row['recall@5']:.4f}", f"{low:.4f}-{high:.4f}", f"{row['ndcg@10']:.4f}"]
    assert first[-1] == "p < 0.001"
    assert first[-2] == f"{100 * (row['recall@5'] / found[found.baseline]['recall@5'] - 1):+.1f} %"
    assert next(line for line in lines if line.startswith(found.baseline)).endswith("best baseline")


def test_users_without_a_test_item_are_counted_in_the_header(data):
    lonely = planted(n_users=10)
    log = lonely.interactions
    part = np.where((log.user < 3) & (lonely.split.part == TEST), TRAIN, lonely.split.part).astype(np.uint8)
    lonely = replace(lonely, split=replace(lonely.split, part=part))
    assert "; 7 users, 3 skipped (nothing to find)" in compare([], lonely, "recall@5").header


def test_sampled_candidates_are_named_in_the_header(data, oracle):
    sampled = compare([oracle], data, "recall@5", protocol="sampled-uniform:9")
    assert "sampled candidates (9, uniform)" in sampled.header
    assert sampled.to_dict()["protocol"] == "sampled candidates (9, uniform)"


def test_popularity_and_ease_are_added_unless_they_are_there_and_a_note_says_so(data, found):
    assert {row.system for row in found.rows} == {"itemknn", "toy-oracle", "popularity", "ease"}
    assert [note.split(" in ")[0] for note in found.notes] == [
        f"{name} added as a baseline, fitted on the train part" for name in ("popularity", "ease")
    ]
    ease = itemic.system("ease", l2=3.0).fit(data.train)
    assert [row.system for row in compare([ease], data, "recall@5").rows].count("ease") == 1
    assert len(compare([ease], data, "recall@5", baselines=False).rows) == 1


def test_large_catalogues_get_item_knn_instead_of_ease(data, monkeypatch):
    monkeypatch.setattr(sys.modules["itemic.evaluation.compare"], "FEW_ITEMS", data.n_items - 1)
    assert {row.system for row in compare([], data, "recall@5").rows} == {"popularity", "itemknn"}


def test_baselines_are_kept_with_a_dataset_in_a_folder_until_its_train_part_changes(data, tmp_path):
    saved = data.save(tmp_path / "d")
    first, second = compare([], saved, "recall@5"), compare([], saved, "recall@5")
    assert all("kept in" in note for note in first.notes)
    assert all("kept from before" in note for note in second.notes)
    assert [r["recall@5"] for r in first.rows] == [r["recall@5"] for r in second.rows]
    kept = sorted(path.name for path in (tmp_path / "d" / "cache").iterdir())
    assert kept == sorted(f"{n}-{saved.train.fingerprint[:16]}" for n in ("ease", "popularity"))
    other = split(saved, by="random", test=0.2, valid=0.1, seed=7)
    assert all("fitted on the train part" in note for note in compare([], other, "recall@5").notes)
    (tmp_path / "d" / "cache" / kept[0] / "system.json").write_text("{")
    assert any("could not be read and is made again" in note for note in compare([], saved, "recall@5").notes)


@pytest.mark.parametrize("parts", [(TRAIN, TEST), (TRAIN, VALID, TEST)])
def test_a_model_fitted_on_test_interactions_is_refused_by_name(data, tmp_path, parts):
    known = itemic.system("popularity").fit(data.part(*parts))
    n = int((data.split.part == TEST).sum())
    with pytest.raises(LeakError, match=rf"^mine was fitted on {n} of the {n} test interactions of planted, the first"):
        compare({"mine": known}, data)
    known.save(tmp_path / "runs" / "p")
    with pytest.raises(LeakError, match=r"runs/p was fitted on \d+ of .*itemic fit popularity planted$"):
        compare([tmp_path / "runs" / "p"], data)


def test_one_known_test_interaction_is_enough_to_be_refused_and_none_passes(data):
    log, part = data.interactions, data.split.part
    leaking = log.select(np.flatnonzero((part == TRAIN) | (np.arange(len(log)) == np.flatnonzero(part == TEST)[4])))
    fewer = log.select(np.flatnonzero(part == TRAIN)[:-20])
    made = [replace(data, interactions=rows, split=None) for rows in (leaking, fewer)]
    with pytest.raises(LeakError, match=r"popularity \(model 1\) was fitted on 1 of the 160 test interactions"):
        compare([itemic.system("popularity").fit(made[0])], data)
    assert compare([itemic.system("popularity").fit(made[1])], data).rows


def test_without_histories_only_the_train_part_passes_by_its_fingerprint(data, tmp_path):
    for name, train in {"all": data.part(TRAIN, TEST), "train": data.train, "both": data.part(TRAIN, VALID)}.items():
        itemic.system("popularity").fit(train).save(tmp_path / name, histories=False)
    assert compare([tmp_path / "train", tmp_path / "both"], data).rows
    with pytest.raises(LeakError, match=r"all was not fitted on the train part of planted and was saved without hist"):
        compare([tmp_path / "all"], data)
    with pytest.raises(LeakError, match="both was not fitted"):
        compare([tmp_path / "both"], data, part="valid")


def test_where_repeats_count_a_shared_pair_is_no_leak_but_another_train_part_is_refused(data):
    frame = {"user": list("aaaabbbb"), "item": list("xyxzxyyx"), "timestamp": range(8)}
    repeating = split(Dataset.from_frame(frame, repeats=True, name="again"), by="last")
    model = itemic.system("popularity")
    assert compare([model.fit(repeating.train)], repeating, "recall@1", baselines=False).rows
    whole = replace(repeating, split=None)
    with pytest.raises(LeakError, match="may have the same pairs by right"):
        compare([itemic.system("popularity").fit(whole)], repeating, "recall@1")


def test_users_of_a_model_are_found_by_their_ids_not_their_codes(data):
    # a model of a catalogue with one more user, who comes first: the codes of all others differ
    ids = data.users.ids.external(data.interactions.user).tolist()
    train = data.split.part == TRAIN
    frame = {"user": ["a-first", *np.array(ids)[train]], "item": [0, *data.interactions.item[train]]}
    items = {"item": np.arange(data.n_items)}
    other = Tastes().fit(Dataset.from_frame(frame, items=items))
    both = compare({"other": other, "mine": Tastes().fit(data.train)}, data, "recall@5", baselines=False)
    assert other.catalogue.n_users == data.n_users + 1
    assert (both["other"].result.lists == both["mine"].result.lists).all()
    leaked = {"user": ["a-first", *ids], "item": [0, *data.interactions.item]}
    with pytest.raises(LeakError, match="was fitted on 160 of the 160"):
        compare([itemic.system("itemknn").fit(Dataset.from_frame(leaked, items=items))], data)


def test_a_model_of_another_catalogue_is_refused_with_counts_and_the_mend(data):
    other = planted(n_items=30)
    with pytest.raises(DataError, match=r"^small knows 30 items and planted has 40, 30 of them the same. Fit it on"):
        compare({"small": itemic.system("popularity").fit(other.train)}, data)


def test_models_of_one_system_are_told_apart_by_their_places(data, tmp_path):
    for l2 in (1, 9):
        itemic.system("ease", l2=l2).fit(data.train).save(tmp_path / f"e{l2}")
    names = {row.name for row in compare([tmp_path / "e1", tmp_path / "e9"], data, "recall@5").rows}
    assert names == {f"ease ({tmp_path}/e1)", f"ease ({tmp_path}/e9)", "popularity"}


def test_the_validation_part_is_compared_on_when_asked(data, oracle):
    valid = compare([], data, "recall@5", part="valid")
    assert len(valid.test) == len(data.valid)
    assert valid["ease"]["recall@5"] != compare([], data, "recall@5")["ease"]["recall@5"]
    with pytest.raises(ConfigError, match="there is no part 'train' to compare on. Parts: test, valid"):
        compare([], data, part="train")


def test_the_document_is_plain_json_with_every_figure(found):
    document = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    oracle = next(s for s in document["systems"] if s["name"] == "toy-oracle")
    assert oracle["metrics"]["recall@5"]["mean"] == found["toy-oracle"]["recall@5"]
    assert oracle["metrics"]["ndcg@10"]["against"]["p"] == found["toy-oracle"].against["ndcg@10"].p
    assert document["baseline"] == found.baseline
    assert (document["queries"], document["skipped"]) == (80, 0)
    assert set(oracle["beyond_accuracy"]) == {
        *("coverage", "gini of exposure", "novelty, bits", "popularity ratio", "diversity", "miscalibration")
    }


def test_slices_of_users_average_to_the_whole_and_those_of_items_are_the_metric_on_them(found):
    parts = {part.name: part for part in slices(found)}
    users = [part for name, part in parts.items() if name.startswith("history")]
    total = sum(part.n * part.values["ease"] for part in users) / sum(part.n for part in users)
    assert total == pytest.approx(found["ease"]["recall@5"])
    counts = found.dataset.train.interactions.item_counts()
    assert parts["warm items"].values["ease"] == pytest.approx(found["ease"]["recall@5"])
    assert "cold items" not in parts
    assert (counts > 0).all()
    assert {"head items", "mid items", "tail items"} <= set(parts)
    assert parts["head items"].values["popularity"] > 0.02 > parts["tail items"].values["popularity"]
    assert parts["head items"].n <= 80


def test_cold_items_have_a_slice_in_which_popularity_finds_nothing(data):
    cold = split(data, by="items", test=0.2, valid=0.1)
    parts = {part.name: part for part in slices(compare([], cold, "recall@5"))}
    assert parts["cold items"].n == len(cold.test)
    assert "warm items" not in parts
    assert parts["cold items"].values["popularity"] == 0


def test_beyond_accuracy_tells_popularity_from_personal_lists(found):
    values = beyond_accuracy(found)
    assert values["popularity"]["coverage"] < values["ease"]["coverage"]
    assert values["popularity"]["gini of exposure"] > values["ease"]["gini of exposure"]
    assert values["popularity"]["popularity ratio"] > values["ease"]["popularity ratio"] > 0


def test_categories_are_read_from_texts_with_several_and_from_lists(data):
    assert categories(data.items).block(0, 3).to_lists() == [[0], [1, 2], [2]]
    assert categories(Dataset.from_frame({"user": [1], "item": [1]}).items) is None


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.seen, self.wrong = [], [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        if tag not in ("meta", "br", "link", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


def test_the_report_is_one_wellformed_page_that_escapes_names_and_loads_nothing(data, oracle, tmp_path):
    mine = itemic.system("popularity").fit(data.train)
    path = compare({"<b>$x$ & co</b>": mine, "o": oracle}, data, "recall@5").to_html(tmp_path / "sub" / "report.html")
    page, tags = path.read_text(), Tags()
    tags.feed(page)
    assert (tags.open, tags.wrong) == ([], [])
    assert tags.seen.count("svg") == 4
    assert "&lt;b&gt;$x$ &amp; co&lt;/b&gt;" in page
    assert "<b>$" not in page
    assert "script" not in tags.seen
    assert not re.search(r'(src|href)="(?!#|data:)', page)
    assert "full ranking" in page
    assert "train part in" in page


def test_only_lists_are_kept_of_each_system(found):
    assert all(row.result.lists.shape == (80, 10) for row in found.rows)
    assert metric("ndcg@10").k == found.depth
