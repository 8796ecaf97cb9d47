"""Descriptions: every number against one computed by hand, and the page that shows them."""

import json
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from itemic.data import Dataset, Ids, Interactions, Table
from itemic.data.describe import Description, describe, gini, popularity
from itemic.data.splits import split

DAY = 86_400_000


@pytest.fixture(scope="module")
def shop() -> Dataset:
    """Four users (one without interactions), five items (one without), two repeats, one of them an exact duplicate."""
    rows = [  # user, item, day, kind, session
        (0, 0, 0, 0, 0),
        (0, 1, 1, 0, 0),
        (0, 0, 2, 0, 1),  # again on another day
        (0, 2, 4, 1, 1),
        (1, 0, 0, 0, 0),
        (1, 3, 2, 1, 0),
        (1, 3, 2, 1, 0),  # an exact duplicate
        (2, 0, 3, 0, 2),
    ]
    user, item, day, kind, session = map(list, zip(*rows, strict=True))
    log = Interactions.of(
        user, item, 4, 5, time=[d * DAY for d in day], kind=kind, session=session, kinds=("view", "purchase")
    )
    items = Table.of(
        Ids(list("abcde")),
        {
            "title": ["A", "B", None, "D", "E"],
            "description": ["long", " ", "", None, "text"],
            "price": [1, 2, 3, 4, None],
        },
    )
    return Dataset(items, Table(Ids(list("uvwx"), "user")), log, name="shop <1>")


@pytest.fixture(scope="module")
def described(shop: Dataset) -> Description:
    return describe(shop)


def test_counts_density_and_repeats_are_those_counted_by_hand(described: Description):
    counted = described.to_dict()
    expected = {
        "n_users": 4,
        "n_items": 5,
        "n_interactions": 8,
        "n_pairs": 6,
        "density": 6 / 20,
        "n_users_without": 1,
        "n_items_without": 1,
        "n_repeats": 2,
        "n_duplicates": 1,
        "repeats": False,
        "n_sessions": 4,
        "kinds": {"view": 5, "purchase": 3},
        "missing": {"title": 1, "description": 3},
        "split": None,
    }
    assert {name: counted[name] for name in expected} == expected


def test_histories_are_measured_over_users_who_have_one(described: Description):
    # lengths 4, 3, 1
    assert described.history == pytest.approx(
        {"mean": 8 / 3, "min": 1, "p5": 1.2, "p25": 2, "median": 3, "p75": 3.5, "p95": 3.9, "max": 4}
    )
    assert described.history_histogram == {"1": 1, "2-3": 1, "4-7": 1}


def test_popularity_is_the_share_of_the_most_popular_and_gini_its_inequality(described: Description):
    # interactions of the items: 4, 1, 1, 2, 0
    assert [described.popularity[p] for p in (0, 10, 20, 40, 100)] == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    differences = sum(abs(a - b) for a in (4, 1, 1, 2, 0) for b in (4, 1, 1, 2, 0))
    assert described.gini == pytest.approx(differences / (2 * 5 * 8))


@given(st.lists(st.integers(0, 50), min_size=1, max_size=30))
def test_gini_is_half_the_relative_mean_difference(counts):
    array = np.array(counts)
    differences = np.abs(array[:, None] - array).sum()
    expected = differences / (2 * len(counts) * array.sum()) if array.sum() else 0
    assert gini(array) == pytest.approx(expected, abs=1e-12)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=30).filter(any))
def test_the_popularity_curve_rises_ever_slower_to_one(counts):
    curve = popularity(np.array(counts))
    assert curve[0] == 0
    assert curve[-1] == pytest.approx(1)
    assert (np.diff(curve) >= -1e-12).all()
    assert (np.diff(curve, 2) <= 1e-12).all()


def test_time_is_spanned_and_counted_in_equal_stretches(described: Description):
    assert described.time is not None
    assert (described.time["first"], described.time["last"], described.time["days"]) == ("1970-01-01", "1970-01-05", 4)
    counts = described.time["counts"]
    assert {n: count for n, count in enumerate(counts) if count} == {0: 2, 10: 1, 20: 3, 30: 1, 39: 1}
    assert described.time["starts"][10] == "1970-01-02T00:00:00"


def test_the_parts_of_a_split_are_counted(shop: Dataset):
    done = describe(split(shop, by="last"))
    assert done.split is not None
    # u's last but one repeats item a and is unused; so is v's last, which repeats its validation item
    assert done.split["parts"] == {
        "train": {"interactions": 4, "users": 3, "items": 2},
        "validation": {"interactions": 1, "users": 1, "items": 1},
        "test": {"interactions": 1, "users": 1, "items": 1},
        "unused": {"interactions": 2, "users": 2, "items": 2},
    }
    assert "  unused" in [name for name, _ in done.facts]


def test_without_time_a_repeat_is_a_duplicate_and_what_is_absent_is_not_spoken_of():
    plain = Dataset(Table.numbered(2), Table.numbered(1, "user"), Interactions.of([0, 0, 0], [1, 1, 1], 1, 2))
    done = describe(plain)
    assert (done.n_repeats, done.n_duplicates, done.time, done.n_sessions) == (2, 2, None, None)
    assert describe(replace(plain, ordered=True)).n_duplicates == 0  # the places in the order differ
    assert [name for name, _ in done.facts] == [
        "users", "items", "interactions", "density", "history", "popularity", "repeats"
    ]  # fmt: skip


def test_an_empty_dataset_can_be_described():
    done = describe(Dataset(Table.numbered(2), Table.numbered(1, "user"), Interactions.none(1, 2)))
    assert (done.n_interactions, done.density, done.gini, done.history["max"]) == (0, 0, 0, 0)
    assert done.to_text()


def test_the_text_is_aligned_and_holds_the_numbers(described: Description):
    assert described.to_text().splitlines() == [
        "shop <1>",
        "  users         4 (1 without interactions)",
        "  items         5 (1 without interactions)",
        "  interactions  8 (6 different pairs)",
        "  density       30 %",
        "  history       median 3, mean 2.7, longest 4",
        "  popularity    Gini 0.450; of the interactions, the top 1 % have 2.5 %, 10 % have 25 %, 50 % have 81.2 %",
        "  repeats       2, not declared as new wishes (exact duplicates: 1)",
        "  time          1970-01-01 to 1970-01-05, 4.0 days",
        "  kinds         view 5, purchase 3",
        "  sessions      4",
        "  missing       title 1, description 3",
    ]


def test_the_json_form_comes_back_unchanged(described: Description, shop: Dataset):
    for one in (described, describe(split(shop, by="last"))):
        assert json.loads(json.dumps(one.to_dict(), allow_nan=False)) == one.to_dict()


def test_the_page_is_well_formed_and_holds_the_numbers_and_three_plots(described: Description, tmp_path):
    described.to_html(tmp_path / "shop.html")
    text = (tmp_path / "shop.html").read_text(encoding="utf-8")
    words = "".join(ElementTree.fromstring(text).itertext())
    for name, fact in described.facts:
        assert name in words
        assert fact in words
    assert "shop <1>" in words
    assert text.count("<svg") == 3


def test_a_dataset_opened_from_its_folder_is_described_alike(shop: Dataset, described: Description, tmp_path):
    opened = shop.save(tmp_path / "shop")
    assert describe(replace(opened, name="shop <1>")) == described


def test_dialogues_are_counted_with_what_was_liked_of_what_somebody_said():
    turns = {"dialogue": [1, 1, 2], "role": ["user", "recommender", "recommender"], "text": ["a", "b", "c"]}
    named = {"items": [[7, 8], [9], []], "liked": [[1, 0], [1], []]}
    found = describe(Dataset.from_dialogues({**turns, **named}))
    assert found.dialogues == {
        "dialogues": 2,
        "turns": 3,
        "mentions": 3,
        "recommendations": 1,
        "liked": 2,
        "not_liked": 1,
    }
    assert dict(found.facts)["dialogues"] == "2 (3 turns, 3 mentions, 1 recommendations; 66.7 % of 3 were liked)"
    silent = describe(Dataset.from_dialogues({**turns, "items": named["items"]}))
    assert dict(silent.facts)["dialogues"] == "2 (3 turns, 3 mentions, 1 recommendations)"
