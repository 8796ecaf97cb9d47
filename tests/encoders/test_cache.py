"""Vectors are kept whole or not at all, whatever happens to the process or to the files."""

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from itemic.encoders import cache as module
from itemic.encoders.cache import Cache, hashes
from itemic.progress import listening


class Making:
    """Makes the length of each text, and counts how many it made; killed at the block `until`."""

    def __init__(self, until=None):
        self.made, self.until = [], until

    def __call__(self, texts):
        if self.until == len(self.made):
            raise KeyboardInterrupt
        self.made.append(texts.to_pylist())
        return np.array([[len(text), 1] for text in self.made[-1]], np.float32)


def vectors(place, texts, make):
    return Cache(place, "lengths").vectors(pa.array(texts), 2, make)[:, 0].tolist()


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 2)
    monkeypatch.setattr(Cache, "memory", {})


@pytest.mark.parametrize("kept", ["in a folder", "in memory"])
def test_what_was_made_is_not_made_again_and_new_contents_are_added(tmp_path, kept):
    place, first, second = (tmp_path if kept == "in a folder" else None), Making(), Making()
    assert vectors(place, ["a", "bb", "a", "", "bb"], first) == [1, 2, 1, 0, 2]
    assert first.made == [["a", "bb"], [""]]
    assert vectors(place, ["dddd", "", "bb", "ccc"], second) == [4, 0, 2, 3]
    assert second.made == [["dddd", "ccc"]]


def test_names_are_kept_apart(tmp_path):
    vectors(tmp_path, ["a"], Making())
    again = Making()
    Cache(tmp_path, "other").vectors(pa.array(["a"]), 2, again)
    assert again.made == [["a"]]


def test_a_killed_run_goes_on_where_it_was(tmp_path):
    texts = ["a", "b", "c", "d", "e", "f"]
    with pytest.raises(KeyboardInterrupt):
        vectors(tmp_path, texts, Making(until=2))
    rest = Making()
    assert vectors(tmp_path, texts, rest) == [1] * 6
    assert rest.made == [["e", "f"]]


def test_a_file_that_holds_nothing_wanted_is_read_once_and_then_no_more(tmp_path, monkeypatch):
    opened, read = [], module._read
    monkeypatch.setattr(module, "_read", lambda path: opened.append(path) or read(path))
    for text in ("a", "bb", "ccc"):
        assert vectors(tmp_path, [text], Making()) == [len(text)]
    assert len(opened) == 2  # the first file for the second text, the second for the third
    del opened[:]
    assert vectors(tmp_path, ["bb"], Making(until=0)) == [2]
    assert len(opened) == 2  # that of "bb", and that of "ccc", which nobody has looked into


@pytest.mark.parametrize("harm", [lambda old: old[:-5], lambda old: old[:-5] + b"junk!", lambda old: b""])
def test_a_damaged_block_is_told_of_dropped_and_made_again(tmp_path, harm):
    vectors(tmp_path, ["a", "b", "c"], Making())
    one, _ = sorted((tmp_path / "lengths").glob("*.safetensors"))
    one.write_bytes(harm(one.read_bytes()))
    again, told = Making(), []
    with listening(lambda description, *_: told.append(description)):
        assert vectors(tmp_path, ["a", "b", "c"], again) == [1, 1, 1]
    assert len(again.made) == 1
    assert f"{one.name} of {tmp_path / 'lengths'} is damaged: what it held is made again" in told
    unharmed = Making()
    vectors(tmp_path, ["a", "b", "c"], unharmed)
    assert unharmed.made == []


def test_what_a_killed_process_was_writing_is_passed_over(tmp_path):
    vectors(tmp_path, ["a"], Making())
    (tmp_path / "lengths" / ".x.safetensors.1.partial").write_bytes(b"half")
    assert vectors(tmp_path, ["a"], Making(until=0)) == [1]


def test_two_processes_that_write_at_once_both_end_with_whole_vectors(tmp_path):
    script = (
        "import numpy as np, pyarrow as pa, sys; from pathlib import Path; from itemic.encoders import cache\n"
        "cache.BLOCK, numbers = 7, np.arange(200, dtype=np.float32)\n"
        "texts, make = pa.array(numbers.astype(int).astype(str)), lambda part: numbers[part.cast('int64'), None]\n"
        "assert (cache.Cache(Path(sys.argv[1]), 'n').vectors(texts, 1, make)[:, 0] == numbers).all()\n"
    )
    both = [subprocess.Popen([sys.executable, "-c", script, tmp_path]) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    texts = pa.array([str(n) for n in range(200)])
    assert Cache(tmp_path, "n").vectors(texts, 1, Making(until=0))[:, 0].tolist() == list(range(200))


def test_a_folder_that_cannot_be_written_is_left_and_memory_serves(tmp_path):
    (tmp_path / "file").write_text("")
    assert vectors(tmp_path / "file", ["a"], Making()) == [1]
    assert vectors(tmp_path / "file", ["a"], Making(until=0)) == [1]


@given(st.lists(st.text(max_size=5), max_size=30), st.integers(1, 40))
def test_texts_have_one_hash_exactly_if_they_are_one_text(texts, block):
    before, module.BYTES = module.BYTES, block
    found = [tuple(pair) for pair in hashes(pa.array(texts, pa.string())).tolist()]
    module.BYTES = before
    assert len(set(zip(texts, found))) == len(set(texts)) == len(set(found))


def test_a_hash_depends_on_the_text_alone():
    here, there = hashes(pa.array(["x", "red cup", "y"]).slice(1)), hashes(pa.array([b"red cup"], pa.binary()))
    assert (here[0] == there[0]).all()
    assert here[0].tolist() == [718929776156743280, 18161472292335159312]  # on any machine
