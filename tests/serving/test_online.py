"""Click rates of served models: what counts, and that their intervals hold."""

import numpy as np
from click.testing import CliRunner

from itemic.cli import main
from itemic.serving.online import Rate, click_rates
from itemic.serving.stores import Event, Impression, open_store

SHOWN = [
    Impression("1", "u", 0, "a", ["x", "y"]),
    Impression("2", "u", 0, "a", ["x"]),
    Impression("3", "v", 0, "b", ["z"]),
]
EVENTS = [
    Event("e1", "u", "x", 1, impression="1"),
    Event("e2", "u", "y", 1, impression="1"),  # the same list again
    Event("e3", "u", "z", 1, impression="2"),  # not an item of the list
    Event("e4", "v", "z", 1),  # came of no list
]


def test_a_list_counts_once_and_only_for_items_that_it_showed():
    assert click_rates(SHOWN, EVENTS) == [Rate("a", 2, 1), Rate("b", 1, 0)]
    assert click_rates([], EVENTS) == []


def test_intervals_hold_the_rate_as_often_as_they_say():
    rng, truth = np.random.default_rng(0), 0.05
    bounds = [Rate("a", 400, int(clicks)).interval for clicks in rng.binomial(400, truth, 2000)]
    assert 0.93 < np.mean([low <= truth <= high for low, high in bounds]) < 0.97


def test_the_command_tells_them(tmp_path):
    store = open_store(tmp_path / "events.db")
    for one in SHOWN:
        store.log(one)
    store.add_events(EVENTS).result()
    store.close()
    done = CliRunner().invoke(main, ["report", "online", "--store", str(tmp_path / "events.db")])
    assert done.stdout.splitlines()[1].split() == ["a", "2", "1", "0.5000", "0.0945-0.9055"]
    open_store(tmp_path / "other.db").close()
    empty = CliRunner().invoke(main, ["report", "online", "--store", str(tmp_path / "other.db")])
    assert (empty.exit_code, empty.stderr.startswith("error: ")) == (1, True)
    assert "has no list that was shown" in empty.stderr
