"""Zip archives from the web, unpacked without trusting what they say about themselves."""

import os
import shutil
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from itemic.data.download import need_room, writing
from itemic.errors import DataError

MOST_UNPACKED = 100
"""An archive that says it grows by more than this factor is refused; the public sets grow by less than 10."""


def unpack(archive: str | Path, folder: str | Path) -> list[Path]:
    """The files of a zip archive, written into `folder`; a top folder that all of them share is dropped.

    Raises:
        DataError: it is not a whole zip file (it is removed with its record), or a member would leave the folder,
            is a link, or the whole grows to an absurd size.
        SaveError: the place cannot be written, or the disk is full.
    """
    archive, folder = Path(archive), Path(folder)
    try:
        with zipfile.ZipFile(archive) as opened:
            members = [m for m in opened.infolist() if not m.is_dir()]
            _refuse_unsafe(archive, members)
            need_room(folder, sum(m.file_size for m in members))
            paths = [PurePosixPath(m.filename) for m in members]
            shared = len({p.parts[0] for p in paths}) == 1 and all(len(p.parts) > 1 for p in paths)
            targets = [folder.joinpath(*p.parts[shared:]) for p in paths]
            for member, target in zip(members, targets):
                _unpack_member(opened, member, target)
            return targets
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        archive.unlink()
        archive.with_name(f"{archive.name}.json").unlink(missing_ok=True)
        raise DataError(
            f"{archive} is not a whole zip file ({error}). It was removed; run the command again."
        ) from error


def _refuse_unsafe(archive: Path, members: list[zipfile.ZipInfo]) -> None:
    for member in members:
        path = PurePosixPath(member.filename)
        leaves = path.is_absolute() or ".." in path.parts or "\\" in member.filename or ":" in member.filename
        if leaves or stat.S_ISLNK(member.external_attr >> 16):
            raise DataError(f"{archive} holds {member.filename!r}, a link or a path outside its folder. Do not use it.")
    size = sum(m.file_size for m in members)
    if size > MOST_UNPACKED * archive.stat().st_size:
        times = f"over {MOST_UNPACKED} times its size"
        raise DataError(f"{archive} says it unpacks to {size:,} bytes, {times}. Do not use it.")


def _unpack_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path) -> None:
    if target.exists() and target.stat().st_size == member.file_size:
        return
    part = target.with_name(f"{target.name}.part")
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(member) as source, open(part, "wb") as file:
            shutil.copyfileobj(source, file)
        os.replace(part, target)
