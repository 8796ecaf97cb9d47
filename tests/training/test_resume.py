"""A killed run goes on as if nothing had happened; one that cannot says why."""

import random
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from itemic.errors import LoadError, SaveError
from itemic.training import Stage, Trainer, TrainingConfig
from itemic.training.state import checkpoints, flatten, restore_random_state, unflatten, write_checkpoint

TOY = Path(__file__).parent / "toy.py"


def finished(capsys, folder, resume=False):
    runpy.run_path(str(TOY))["main"](str(folder), resume)
    return capsys.readouterr().out


def killed(folder, at, *options):
    command = [sys.executable, str(TOY), str(folder), f"--kill={at}", *options]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL


def test_a_run_killed_twice_ends_with_the_same_bits_and_the_same_log(capsys, tmp_path):
    """Dropout, batch norm, Adam, clipping, accumulation, schedules, three stages, early stopping, hooks that draw."""
    whole = finished(capsys, tmp_path / "whole")
    killed(tmp_path / "cut", "valid-3")
    assert checkpoints(tmp_path / "cut")[0].name == "step-000000036"  # all batches of the third epoch are over
    killed(tmp_path / "cut", random.Random(0).randrange(73, 150), "--resume")
    assert finished(capsys, tmp_path / "cut", resume=True) == whole
    assert (tmp_path / "cut/metrics.jsonl").read_bytes() == (tmp_path / "whole/metrics.jsonl").read_bytes()


def trainer(folder, epochs=4, about=None, **config):
    torch.manual_seed(0)
    module = nn.Linear(2, 1)
    batches = [torch.ones(1, 2), torch.zeros(1, 2)]
    training = TrainingConfig(epochs=epochs, checkpoint_steps=1, **config)
    stage = Stage("toy", training, lambda rng: batches, lambda x: {"sum": module(x).sum()})
    return Trainer(module, [stage], folder=folder, about={"lr": 0.1, "dataset": "a"} if about is None else about)


def test_the_last_two_checkpoints_are_kept_and_nothing_half_written(tmp_path):
    trainer(tmp_path).fit()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl", "step-000000007", "step-000000008"]
    assert sorted(path.name for path in (tmp_path / "step-000000008").iterdir()) == [
        "state.json",
        "tensors.safetensors",
    ]


@pytest.mark.parametrize(
    ("about", "text"),
    [
        (
            {"lr": 0.2, "dataset": "a"},
            r"step-0+8 was trained with another lr: 0.1, now 0.2. Go on with what it was, or",
        ),
        ({"lr": 0.1, "dataset": "b"}, "was trained with another dataset: 'a', now 'b'"),
        ({"lr": 0.1}, "was trained with another dataset: 'a', now None"),
    ],
)
def test_another_config_or_dataset_is_refused_by_name(tmp_path, about, text):
    trainer(tmp_path).fit()
    with pytest.raises(LoadError, match=text):
        trainer(tmp_path, about=about).fit(resume=True)


def test_nothing_to_resume_from_is_said(tmp_path):
    with pytest.raises(LoadError, match="nowhere holds no checkpoint to resume from. Start without --resume."):
        trainer(tmp_path / "nowhere").fit(resume=True)


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_serves(tmp_path, name):
    whole = trainer(tmp_path / "whole")
    whole.fit()
    trainer(tmp_path / "run").fit()
    newest, before = checkpoints(tmp_path / "run")
    (newest / name).write_bytes((newest / name).read_bytes()[:-30])
    with pytest.raises(LoadError, match="step-0+8 is damaged: .*Remove it to resume from the one before."):
        trainer(tmp_path / "run").fit(resume=True)
    for path in newest.iterdir():
        path.unlink()
    newest.rmdir()
    assert checkpoints(tmp_path / "run") == [before]
    again = trainer(tmp_path / "run")
    assert again.fit(resume=True) == whole.at
    assert torch.equal(again.module.weight, whole.module.weight)


def test_a_run_that_passes_a_damaged_newer_checkpoint_writes_it_anew(tmp_path):
    trainer(tmp_path).fit()
    newest, before = checkpoints(tmp_path)
    before.rename(tmp_path / "step-000000009")  # counts as the newest, so the true step 8 is made again
    trainer(tmp_path).fit(resume=True)
    assert newest.name in [path.name for path in checkpoints(tmp_path)]


def test_a_failed_write_leaves_the_checkpoints_before(tmp_path, monkeypatch):
    trainer(tmp_path).fit()
    before = {path: path.read_bytes() for path in tmp_path.rglob("step-*/*")}

    def full(*_args, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("itemic.training.state.save_file", full)
    with pytest.raises(SaveError, match="cannot write .*step-0+9: No space left on device"):
        write_checkpoint(tmp_path, 9, {"step": 9})
    assert {path: path.read_bytes() for path in tmp_path.rglob("step-*/*")} == before
    assert len(before) == 4
    assert not list(tmp_path.glob(".step*"))


def test_a_fresh_run_removes_what_an_earlier_one_left(tmp_path):
    trainer(tmp_path, epochs=9).fit()
    (tmp_path / ".step-000000019.x.partial").mkdir()
    trainer(tmp_path, epochs=2).fit()
    assert [path.name for path in checkpoints(tmp_path)] == ["step-000000004", "step-000000003"]
    assert not list(tmp_path.glob(".step*"))
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2


def test_state_survives_as_tensors_and_json():
    state = {
        "tensor": torch.ones(2),
        "#": [1, None, {"integers": torch.tensor(3)}],
        "state": {0: {"step": 1.5}},
        "": {},
    }
    tensors = {}
    again = unflatten(flatten(state, "x", tensors), tensors)
    assert torch.equal(again.pop("tensor"), state.pop("tensor"))
    assert again == state


def test_a_run_cut_off_without_a_gpu_goes_on_with_one(monkeypatch):
    put = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: put.append((state.tolist(), device)))
    restore_random_state({"torch": torch.get_rng_state(), "cuda1": torch.tensor([7])})
    assert put == [([7], 1)]
