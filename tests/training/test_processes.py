"""Two processes that share each batch take the steps of one; they begin, end and fail together."""

import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from itemic.errors import ConfigError, DataError, ItemicError
from itemic.registry import find
from itemic.training import together
from itemic.training.processes import Group, gathered

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # as the other processes find what they are to do
import in_ranks  # noqa: E402

ROWS = [torch.randn(n, 3, generator=torch.Generator().manual_seed(n)) for n in (8, 5, 2, 3)]


class Runs(NamedTuple):
    alone: tuple
    pair: tuple
    folder: Path


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """What one process and what two make of the same work."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "alone").mkdir()
    (folder / "pair").mkdir()
    alone = in_ranks.everything(folder / "alone", ROWS)
    return Runs(alone, together(2, in_ranks.everything, folder / "pair", ROWS), folder)


@pytest.mark.parametrize("name", in_ranks.RUNS)
def test_two_processes_end_with_the_weights_and_the_losses_of_one(name, runs):
    """float32, 24 steps or more; the last batch of an epoch has fewer rows than two processes can share."""
    (expected, curve), (found, curve_of_two) = runs.alone[0][name], runs.pair[0][name]
    assert curve[-1]["step"] >= 24
    for weight, array in expected.items():
        assert np.abs(found[weight] - array).max() <= 1e-6 * np.abs(array).max()
    for one, two in zip(curve, curve_of_two, strict=True):
        assert {**two, "stage": name} == {
            **one,
            "stage": name,
            **{k: pytest.approx(one[k], rel=1e-5) for k in one if k != "stage"},
        }


@pytest.mark.parametrize("n", range(len(ROWS)))
def test_a_loss_that_compares_rows_sees_those_of_all_processes_and_sends_each_its_gradient(n, runs):
    (value, gradient), (value_of_two, own) = runs.alone[1][n], runs.pair[1][n]
    assert value_of_two == pytest.approx(value, rel=1e-6)
    torch.testing.assert_close(own, gradient[: len(own)], rtol=1e-5, atol=1e-7)
    assert len(own) == len(ROWS[n]) // 2
    if len(own) > 1:
        of_own = in_ranks.uniformity(in_ranks.normalize(ROWS[n][: len(own)])).item()
        assert of_own != pytest.approx(value, rel=0.01)


def test_a_run_of_two_processes_resumes_to_the_same_bits(runs):
    """Dropout, draws in hooks, a part that one process uses in some steps and one that none uses."""
    (whole, log), (again, log_again) = runs.pair[2]
    assert log_again == log
    for name, array in whole.items():
        np.testing.assert_array_equal(again[name], array)


def test_a_part_that_no_process_uses_does_not_decay(runs):
    (alone, _), _ = runs.alone[2]
    (pair, _), _ = runs.pair[2]
    np.testing.assert_array_equal(pair["never.weight"], alone["never.weight"])
    assert (pair["seldom.weight"] != alone["never.weight"]).all()


def test_only_the_first_process_validates_and_writes(runs):
    for run in ("whole", "cut"):
        names = sorted(path.name for path in (runs.folder / "pair" / run).iterdir())
        assert names[0] == "metrics.jsonl"
        assert names[-1] == "validated-0"
        assert all(name.startswith("step-") for name in names[1:-1])
        assert len(names) == 4


class Pairs(NamedTuple):
    user: Tensor
    item: Tensor


@given(st.integers(1, 40), st.integers(2, 5))
def test_a_batch_is_dealt_whole_and_the_shares_add_up(n, size):
    batch = Pairs(torch.arange(n), torch.arange(2 * n).view(n, 2))
    torch.manual_seed(n)
    parts, draws, after = [], [], []
    for rank in range(size):
        with torch.random.fork_rng(devices=[]), Group(rank, size).deal(batch) as (rows, weight):
            parts.append((rows, weight))
            draws.append(torch.rand(()).item())
        with torch.random.fork_rng(devices=[]):
            with Group(rank, size).deal(batch):
                torch.rand(rank)
            after.append(torch.rand(()).item())
    assert sum(weight for _, weight in parts) == pytest.approx(1)
    assert len(set(draws)) == size  # dropout differs between processes
    assert len(set(after)) == 1  # what hooks draw does not
    if n < size:
        assert all(rows is batch and weight == 1 / size for rows, weight in parts)
    else:
        assert all(weight == len(rows.user) / n for rows, weight in parts)
        torch.testing.assert_close(Pairs(*map(torch.cat, zip(*(rows for rows, _ in parts)))), batch)


@pytest.mark.parametrize("batch", [{"user": torch.ones(3)}, (torch.ones(3), torch.ones(2)), (torch.ones(3), 1.0)])
def test_a_batch_that_is_not_rows_is_refused(batch):
    with pytest.raises(ConfigError, match="a batch of type .* cannot be dealt to 2 processes: that takes a tensor, or"):
        Group(0, 2).deal(batch).__enter__()


def test_alone_nothing_is_dealt_or_gathered():
    x = torch.ones(3, 2)
    with Group().deal({"any": x}) as (rows, weight):
        assert rows["any"] is x
    assert weight == 1
    assert gathered(x) is x


def test_the_error_of_another_process_is_the_one_raised():
    with pytest.raises(DataError, match=r"^row 7 is not right. Mend it.$"):
        together(2, in_ranks.fail, "mistaken")
    assert not torch.distributed.is_initialized()


@pytest.mark.slow
def test_a_killed_process_or_a_mistake_of_ours_ends_all_with_the_reason():
    with pytest.raises(ItemicError, match="process 2 of 3 ended with code -9: killed, perhaps for want of memory"):
        together(3, in_ranks.fail, "killed")
    with pytest.raises(RuntimeError, match="(?s)process 2 of 2 failed:\n.*no attribute 'no_such_thing'") as caught:
        together(2, in_ranks.fail, "broken")
    assert not isinstance(caught.value, ItemicError)


@pytest.mark.slow
def test_a_script_fits_in_two_processes_and_one_without_its_guard_is_told(tmp_path):
    def run(path):
        return subprocess.run([sys.executable, path], capture_output=True, text=True, check=False)

    good = run(HERE / "in_ranks.py")
    assert (good.stdout, good.stderr) == ("2 2\n", "")
    unguarded = tmp_path / "script.py"
    text = (HERE / "in_ranks.py").read_text()
    unguarded.write_text(text.replace('if __name__ == "__main__":', "if True:"))
    bad = run(unguarded)
    assert bad.stderr.splitlines()[-1].endswith("or started by a script that calls fit outside of "
                                                "`if __name__ == '__main__':`.")  # fmt: skip


def test_one_device_needs_no_lightning_and_two_say_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "lightning_fabric", None)  # as if it were not installed
    train = in_ranks.data().train
    assert find("bpr")(dim=2, training={"epochs": 1}).fit(train, devices=1).is_fitted
    with pytest.raises(ConfigError, match=r"2 devices need lightning-fabric, .* Run: pip install 'itemic\[scale\]'"):
        find("bpr")().fit(train, devices=2)


def test_a_count_that_cannot_be_and_a_closed_form_are_refused():
    train = in_ranks.data().train
    with pytest.raises(ConfigError, match="devices cannot be 0. Give 1 or more."):
        find("bpr")().fit(train, devices=0)
    with pytest.raises(ConfigError, match="ease is solved in one step, on one device. Leave out devices."):
        find("ease")().fit(train, devices=2)
