"""Two versions of every model folder: the one that is served, and the one before it.

`runs/a` is always the model as it is now, for every command. `runs/a.before` is the one it replaced. A new one is made
whole as `runs/a.next`, and then a note of what shall change is written, `runs/a.change`, in one step. From then on the
change is made, even if whoever makes it is killed: `recover` goes on where it stopped. Models that are served together
change together, by one note beside the first of them.
"""

import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from itemic.errors import LoadError, SaveError
from itemic.files import swap, write_text
from itemic.sealed import read_facts, seal_of

PATIENCE = 10.0
"""Seconds for which a change is waited for that somebody else is making; it takes some thousandths of one."""


def beside(folder: str | Path, what: str) -> Path:
    """The folder or file of this name beside a model.

    >>> beside("runs/a/", "before").name
    'a.before'
    """
    whole = Path(folder).resolve()
    return whole.with_name(f"{whole.name}.{what}")


def put_in_place(folders: Sequence[str | Path]) -> None:
    """Each folder's `next` takes its place, and what was there becomes `before`: all of them, or on a kill none."""
    _change(folders, "next")


def roll_back(folders: Sequence[str | Path]) -> None:
    """Each folder changes places with `before`; doing it twice changes nothing.

    Raises:
        LoadError: one has no version before.
    """
    for folder in folders:
        if not beside(folder, "before").is_dir():
            raise LoadError(f"{folder} has no version before. It has one after: itemic refresh {folder}")
    _change(folders, "before")


def _change(folders: Sequence[str | Path], what: str) -> None:
    wanted = {str(Path(folder).resolve()): _seal(beside(folder, what)) for folder in folders}
    note = beside(folders[0], "change")
    write_text(note, json.dumps({"from": what, "to": wanted}))
    _carry_out(note)


def recover(folders: Sequence[str | Path]) -> None:
    """Makes the change that was noted beside any of these folders and not finished; does nothing where there is none.

    Raises:
        SaveError: the folders cannot be changed.
    """
    end = time.monotonic() + PATIENCE
    for note in [beside(folder, "change") for folder in folders]:
        while note.exists():
            try:
                with _held(list(json.loads(note.read_text())["to"])):
                    if note.exists():
                        _carry_out(note)
            except FileNotFoundError:  # whoever began it has finished it
                continue
            except SaveError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)


def _carry_out(note: Path) -> None:
    told = json.loads(note.read_text())
    try:
        _finish(told["from"], told["to"])
        note.unlink()
    except OSError as error:
        raise SaveError(f"{note} says what is to be put in place, and cannot: {error}. Look there.") from error


def _finish(what: str, wanted: Mapping[str, str]) -> None:
    for folder, seal in wanted.items():
        if _seal(Path(folder)) != seal:
            swap(beside(folder, what), Path(folder))
        if what == "next" and beside(folder, "next").is_dir():  # it is what was replaced
            shutil.rmtree(beside(folder, "before"), ignore_errors=True)
            beside(folder, "next").rename(beside(folder, "before"))


def is_changing(folders: Sequence[str | Path]) -> bool:
    """Whether a change of any of these folders is under way."""
    return any(beside(folder, "change").exists() for folder in folders)


def stamps(folders: Sequence[str | Path]) -> list[tuple[int, ...]]:
    """What is in the folders now, some numbers each; other numbers for another model. Looks, but reads nothing."""
    found = []
    for folder in folders:
        with suppress(FileNotFoundError):
            about = (Path(folder) / "system.json").stat()
            found.append((about.st_ino, about.st_size, about.st_mtime_ns))
    return found


def _seal(folder: Path) -> str:
    path = folder / "system.json"
    return seal_of(path)["blake2b"] if path.exists() else ""


@contextmanager
def alone(folders: Sequence[str | Path]) -> Iterator[None]:
    """Nobody else refreshes these models while the block runs; a change that was cut off is made before.

    Raises:
        LoadError: one of the folders holds no model.
        SaveError: somebody does so already.
    """
    recover(folders)
    for folder in folders:
        read_facts(Path(folder))
    with _held(folders):
        yield


@contextmanager
def _held(folders: Sequence[str | Path]) -> Iterator[None]:
    held = []
    try:
        for folder in folders:
            whole = Path(folder).resolve()
            try:
                held.append(os.open(whole.with_name(f".{whole.name}.lock"), os.O_RDWR | os.O_CREAT, 0o644))
            except OSError as error:
                raise SaveError(f"nothing can be written beside {folder}: {error.strerror}. Allow it.") from None
            if not _locked(held[-1]):
                raise SaveError(f"{folder} is being refreshed already. Wait until that has ended.")
        yield
    finally:
        for descriptor in held:
            os.close(descriptor)


def _locked(descriptor: int) -> bool:
    try:
        import fcntl
    except ImportError:  # a system without such locks
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
