"""Writing folders and files so that a crash leaves the old one or the new one, never half of either."""

import ctypes
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from itemic.errors import SaveError, some

AT_FDCWD, RENAME_EXCHANGE = -100, 2
SHORT_WRITE = re.compile(r"\d+ requested and \d+ written")
"""All that NumPy says of a full disk."""
OS_ERROR = re.compile(r"([^: ][^:]*) \(os error \d+\)")


@contextmanager
def replacing(target: str | Path) -> Iterator[Path]:
    """A fresh folder to write into, which takes the place of `target` when the block ends without an error.

    The new files are flushed to disk before the swap. On an error, a kill or a full disk `target` stays as it was.
    A folder that itemic did not write is never replaced.

    Raises:
        SaveError: the place cannot be written or holds something else, or the disk is full.
    """
    target = Path(target)
    temporary = None
    try:
        check_place(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent))
        temporary.chmod(0o755)
        yield temporary
        _flush(temporary)
        swap(temporary, target)
    except Exception as error:
        reason = _told_by_disk(error)
        if reason is None:
            raise
        raise SaveError(f"cannot write {target}: {reason}. Free the place or give another with --out.") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def write_text(target: str | Path, text: str) -> None:
    """Writes a whole text file atomically: readers see the old text or the new one.

    Raises:
        SaveError: the place cannot be written, or the disk is full.
    """
    target = Path(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=target.parent, prefix=f".{target.name}.", delete=False
        ) as file:
            temporary = Path(file.name)
            try:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
                temporary.chmod(0o644)
                os.replace(temporary, target)
            except OSError:
                temporary.unlink(missing_ok=True)
                raise
    except OSError as error:
        raise SaveError(f"cannot write {target}: {error.strerror or error}. Give another place with --out.") from error


def swap(new: Path, target: Path) -> None:
    """Puts `new` where `target` is, in one step; what was there ends up under the name of `new`."""
    if not target.exists():
        os.rename(new, target)
    elif not _exchange(new, target):  # no atomic exchange on this system: two renames, the old folder back on failure
        aside = new.with_name(f".{new.name}.old")
        os.rename(target, aside)
        try:
            os.rename(new, target)
        except OSError:
            os.rename(aside, target)
            raise
        os.rename(aside, new)
    _flush_entry(target.parent)


def _told_by_disk(error: Exception) -> str | None:
    """Why a file could not be written; None for an error of another kind."""
    if not isinstance(error, OSError):
        told_by_rust = OS_ERROR.search(str(error))  # safetensors raises a class of its own
        return told_by_rust[1] if told_by_rust else None
    reason = error.strerror or str(error).rstrip(".")
    return "No space left on device" if SHORT_WRITE.fullmatch(reason) else reason


def check_place(target: Path) -> None:
    """Passes if a folder may be written there: nothing is there, or a dataset or a model.

    Raises:
        SaveError: a file is there, or a folder that itemic did not write.
    """
    for place in (target, *target.parents):
        if place.exists():
            if not place.is_dir():
                raise SaveError(f"{place} is a file, not a folder. Give another name with --out.")
            break
    if target.is_dir() and any(target.iterdir()) and not _is_ours(target):
        held = some(sorted(path.name for path in target.iterdir()))
        raise SaveError(
            f"{target} holds {held}, which itemic did not write and would delete. Give a new folder with --out."
        )


def _is_ours(folder: Path) -> bool:
    """Whether a dataset or a model is in the folder: what a new one may replace."""
    facts = [folder / name for name in ("manifest.json", "system.json")]
    return any(path.is_file() and b'"itemic' in path.read_bytes() for path in facts)


def _flush(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        _flush_entry(path)


def _flush_entry(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _exchange(a: Path, b: Path) -> bool:
    """Swaps two folders in one step where the kernel can (Linux renameat2); False where it cannot."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if os.name == "posix" else None
    if renameat2 is None:
        return False
    return renameat2(AT_FDCWD, os.fsencode(a), AT_FDCWD, os.fsencode(b), RENAME_EXCHANGE) == 0
