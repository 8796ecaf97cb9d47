"""A folder is replaced whole or not at all."""

import os
import signal
import subprocess
import sys
import textwrap

import pytest
from safetensors import SafetensorError

from itemic import files
from itemic.errors import SaveError
from itemic.files import replacing, write_text

FACTS = '{"format": "itemic-model"}'
"""What makes a folder one that may be replaced."""


def content(folder):
    found = {path.name: path.read_text() for path in folder.iterdir()}
    return {name: text for name, text in found.items() if text != FACTS}


def write(folder, name, text):
    (folder / "system.json").write_text(FACTS)
    (folder / name).write_text(text)


@pytest.mark.parametrize("exchange", [True, False], ids=["one step", "two renames"])
def test_a_folder_takes_the_place_of_the_old_one(tmp_path, monkeypatch, exchange):
    if not exchange:
        monkeypatch.setattr(files, "_exchange", lambda a, b: False)
    for text in ("old", "new"):
        with replacing(tmp_path / "deep/model") as folder:
            write(folder, text, text)
    assert content(tmp_path / "deep/model") == {"new": "new"}
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["model"]


def test_an_error_inside_leaves_the_old_folder_and_no_other(tmp_path):
    with replacing(tmp_path / "model") as folder:
        write(folder, "a", "old")
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "model") as folder:
        (folder / "a").write_text(str(1 / 0))
    assert content(tmp_path / "model") == {"a": "old"}
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_failed_second_rename_puts_the_old_folder_back(tmp_path, monkeypatch):
    with replacing(tmp_path / "model") as folder:
        write(folder, "a", "old")
    monkeypatch.setattr(files, "_exchange", lambda a, b: False)
    rename = os.rename

    def fails_once(source, target):
        if str(source).endswith(".partial"):
            raise OSError(5, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fails_once)
    with pytest.raises(SaveError, match="Input/output error"), replacing(tmp_path / "model") as folder:
        (folder / "a").write_text("new")
    assert content(tmp_path / "model") == {"a": "old"}


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        OSError("1000 requested and 10 written"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
    ids=["python", "numpy", "safetensors"],
)
def test_a_full_disk_is_one_line_with_the_mend(tmp_path, error):
    with (
        pytest.raises(SaveError, match="cannot write .*model: No space left on device. Free the place or give another"),
        replacing(tmp_path / "model"),
    ):
        raise error
    assert not (tmp_path / "model").exists()


def test_a_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "model").write_text("mine")
    with pytest.raises(SaveError, match="model is a file, not a folder"), replacing(tmp_path / "model"):
        pass
    assert (tmp_path / "model").read_text() == "mine"


@pytest.mark.parametrize("manifest", [None, '{"name": "my web site"}'], ids=["none", "of something else"])
def test_a_folder_that_itemic_did_not_write_is_left_alone(tmp_path, manifest):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter.txt").write_text("precious")
    if manifest:
        (tmp_path / "thesis/manifest.json").write_text(manifest)
    before = content(tmp_path / "thesis")
    with (
        pytest.raises(SaveError, match=r"thesis holds 'chapter.txt'.*, which itemic did not write and would delete\. "),
        replacing(tmp_path / "thesis") as folder,
    ):
        (folder / "a").write_text("new")
    assert content(tmp_path / "thesis") == before
    assert [path.name for path in tmp_path.iterdir()] == ["thesis"]


def test_an_empty_folder_may_be_written(tmp_path):
    (tmp_path / "model").mkdir()
    with replacing(tmp_path / "model") as folder:
        (folder / "a").write_text("new")
    assert content(tmp_path / "model") == {"a": "new"}


def test_a_file_where_a_parent_should_be_is_named(tmp_path):
    (tmp_path / "runs").write_text("mine")
    with pytest.raises(SaveError, match=r"/runs is a file, not a folder\. Give"), replacing(tmp_path / "runs/a/b"):
        pass


def test_a_process_killed_while_it_saves_leaves_the_previous_folder(tmp_path):
    """The writer stops itself in the middle of writing; what it was replacing must still load."""
    code = textwrap.dedent("""
        import os, signal, sys
        from itemic.files import replacing
        with replacing(sys.argv[1]) as folder:
            (folder / "system.json").write_text('{"format": "itemic-model"}')
            (folder / "a").write_text("old")
        with replacing(sys.argv[1]) as folder:
            (folder / "a").write_text("ne")
            os.kill(os.getpid(), signal.SIGKILL)
    """)
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "model")], check=False)
    assert done.returncode == -signal.SIGKILL
    assert content(tmp_path / "model") == {"a": "old"}


def test_text_is_replaced_whole(tmp_path, monkeypatch):
    write_text(tmp_path / "x/manifest.json", "old")
    write_text(tmp_path / "x/manifest.json", "new")
    assert (tmp_path / "x/manifest.json").read_text() == "new"

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SaveError, match="No space left on device"):
        write_text(tmp_path / "x/manifest.json", "half")
    assert content(tmp_path / "x") == {"manifest.json": "new"}
