"""The demonstration: all its systems in one table, trained ones honestly good, and what it leaves out of large data."""

import json
import time

import pytest

from itemic.data.simulated import shop
from itemic.data.splits import split
from itemic.evaluation import demo
from itemic.evaluation.demo import SYSTEMS, run_demo
from itemic.model import load

TRAINED = [name for name, options in SYSTEMS.items() if "training" in options]


@pytest.mark.slow
def test_trained_systems_are_far_ahead_of_popularity_within_four_minutes(tmp_path):
    start = time.perf_counter()
    shown = run_demo(None, tmp_path, say=lambda text: None)
    assert time.perf_counter() - start < 240
    values = {row["name"]: row["metrics"]["ndcg@10"]["mean"] for row in shown.document["systems"]}
    assert set(values) == set(SYSTEMS)
    assert all(values[name] > 1.3 * values["popularity"] for name in TRAINED)


def test_trained_systems_stop_by_the_validation_part_and_all_are_saved(tmp_path):
    data = split(shop(n_users=200, n_items=200, n_interactions=4000))
    notes = []
    shown = run_demo(data, tmp_path, say=notes.append)
    assert all(any(line.startswith(name) for line in shown.lines) for name in SYSTEMS)
    measured = json.loads((tmp_path / "comparison.json").read_text())
    assert [row["name"] for row in measured["systems"]] == [row["name"] for row in shown.document["systems"]]
    for name in TRAINED:
        assert f"{name} fitted in " in "\n".join(notes)
        facts = load(tmp_path / name).fitted_on
        assert 1 <= facts["best_epoch"] <= facts["epochs"]


def test_what_takes_minutes_is_left_out_and_said(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "FEW_INTERACTIONS", 1000)
    monkeypatch.setattr(demo, "FEW_ITEMS", 100)
    notes = []
    run_demo(split(shop(n_users=200, n_items=200, n_interactions=4000)), tmp_path, say=notes.append)
    left = [note for note in notes if "left out" in note]
    assert [note.split()[0] for note in left] == ["ease", *TRAINED]
    assert left[0].startswith("ease left out: 200 items take minutes; fit it with: itemic fit ease ")
    assert left[1].startswith("bpr left out: 4,000 interactions take minutes")
