"""Files from the web: resumed where they broke off, checked, and moved into place only when whole."""

import hashlib
import http.client
import json
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import TypeVar

from itemic.errors import DataError, SaveError
from itemic.files import write_text
from itemic.progress import report
from itemic.version import VERSION

T = TypeVar("T")

CHUNK = 1 << 18
REPORT_EVERY = 0.1
"""Seconds between two progress reports of one file."""


class _Broken(http.client.HTTPException):
    """The connection ended too early; trying again may help."""


def download(
    address: str,
    target: str | Path,
    checksum: str | None = None,
    *,
    attempts: int = 5,
    pause: float = 1.0,
    timeout: float = 30.0,
) -> Path:
    """The path of the whole, checked file at `target`, fetched from `address` unless it is there already.

    What arrives is kept in `target.part`; a later call, or a retry after a broken connection, goes on from there if the
    server still has the same version. `checksum` is `md5:...`, `sha256:...`, `git:...` (the blob id a repository lists)
    or the address of a checksum file beside the data. Without one the sha256 of the first download is recorded in
    `target.json`, and later downloads must agree with it.

    Args:
        attempts: how often in a row the connection may fail before a single new byte arrives.
        pause: seconds before the second attempt; doubled for each further one.
        timeout: seconds without an answer after which a connection counts as broken.

    Raises:
        DataError: the address does not answer, or the file is not what the checksum says; a wrong file is removed.
        SaveError: the place cannot be written, or the disk is full.
    """
    target = Path(target)
    part, state = _beside(target, ".part"), _beside(target, ".part.json")

    def persist(step: Callable[[], T]) -> T:
        return _persist(step, address, lambda: _size(part), attempts, pause)

    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    if checksum is not None and checksum.startswith(("http://", "https://")):
        published = checksum
        checksum = persist(lambda: _published(published, timeout))
    if target.exists():
        _check(target, target, address, checksum)
    else:
        persist(lambda: _transfer(address, part, state, timeout))
        with writing(target):
            state.unlink(missing_ok=True)
            _check(part, target, address, checksum)
            os.replace(part, target)
    return target


def need_room(place: Path, size: int) -> None:
    """Raises a SaveError when `size` more bytes do not fit where `place` is."""
    existing = next(p for p in (place.absolute(), *place.absolute().parents) if p.exists())
    free = shutil.disk_usage(existing).free
    if size > free:
        raise SaveError(
            f"cannot write {place}: needs {size:,} bytes, {free:,} are free. Give another place with --out."
        )


@contextmanager
def writing(place: Path) -> Iterator[None]:
    """Turns trouble with the disk into a SaveError, so that it is not taken for trouble with the network."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise SaveError(f"cannot write {place}: {reason}. Free the place or give another with --out.") from error


def _persist(step: Callable[[], T], address: str, arrived: Callable[[], int], attempts: int, pause: float) -> T:
    """What `step` gives, called again after a broken connection; only attempts that bring nothing new are counted."""
    failed, reached = 0, arrived()
    while True:
        try:
            return step()
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, urllib.error.HTTPError) and not _may_pass(error.code):
                hint = "It may have moved: fetch it by hand and use itemic data import."
                raise DataError(f"{error.url} answers {error.code} {error.reason}. {hint}") from error
            failed = 1 if arrived() > reached else failed + 1
            reached = max(reached, arrived())
            if failed >= attempts:
                hint = f"{reached:,} bytes are kept; run the command again to go on." if reached else "Try again later."
                raise DataError(f"{address}: {getattr(error, 'reason', error)}. {hint}") from error
            report(_description(address), arrived(), None, f"connection broke, trying again ({failed + 1}/{attempts})")
            time.sleep(min(pause * 2 ** (failed - 1), 60))


def _may_pass(code: int) -> bool:
    return code >= HTTPStatus.INTERNAL_SERVER_ERROR or code == HTTPStatus.TOO_MANY_REQUESTS


def _transfer(address: str, part: Path, state: Path, timeout: float) -> None:
    """Adds to `part` what is missing; starts over where the server has another version or gives no ranges."""
    have, version = _size(part), _version_of(state, address)
    headers = {"User-Agent": f"itemic/{VERSION}", "Accept-Encoding": "identity"}
    if have and version:
        headers |= {"Range": f"bytes={have}-", "If-Range": version}
    try:
        response = urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        if error.headers.get("Content-Range") == f"bytes */{have}":  # nothing is missing but the last rename
            return
        part.unlink()
        raise _Broken("the server has another version of the file") from error
    with response:
        resumed = response.status == HTTPStatus.PARTIAL_CONTENT
        if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            part.unlink()
            raise _Broken("the server sent another part than asked for")
        start = have if resumed else 0
        length = response.headers.get("Content-Length")
        total = start + int(length) if length is not None else None
        need_room(part, (total or 0) - start)
        write_text(state, json.dumps({"address": address, "version": _version(response)}))
        _receive(response, part, start, total, _description(address))


def _receive(response: http.client.HTTPResponse, part: Path, start: int, total: int | None, description: str) -> None:
    note = "resumed" if start else ""
    report(description, start, total, note)
    done, told = start, time.monotonic()
    with writing(part), open(part, "ab" if start else "wb") as file:
        for chunk in _chunks(response):
            file.write(chunk)
            done += len(chunk)
            if time.monotonic() - told >= REPORT_EVERY:
                report(description, done, total, note)
                told = time.monotonic()
    if total is not None and done < total:
        raise _Broken(f"the connection broke after {done:,} of {total:,} bytes")
    report(description, done, done, note)


def _chunks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    try:
        while chunk := response.read1(CHUNK):
            yield chunk
    except OSError as error:
        raise _Broken(str(error)) from error


def _version(response: http.client.HTTPResponse) -> str | None:
    """What names this version of the file byte for byte: a strong ETag, else the time of its last change."""
    etag = response.headers.get("ETag")
    return etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified")


def _version_of(state: Path, address: str) -> str | None:
    """The version that the part file was begun with, if it came from the same address."""
    if not state.exists():
        return None
    known = json.loads(state.read_text())
    return known["version"] if known["address"] == address else None


def _check(file: Path, target: Path, address: str, checksum: str | None) -> None:
    """Compares `file`, which is or becomes `target`, with its published checksum, else with the recorded one."""
    record = _beside(target, ".json")
    if checksum is not None:
        kind, _, expected = checksum.partition(":")
        source, mend = "its publisher prints", "Run the command again."
    elif record.exists():
        first = json.loads(record.read_text())
        kind, expected, source = "sha256", first["sha256"], f"at its first download ({first['downloaded']}) it had"
        mend = f"Run the command again; if you want a version that the publisher changed, delete {record} first."
    else:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        first = {"address": address, "sha256": _digest(file, "sha256"), "bytes": _size(file), "downloaded": now}
        write_text(record, json.dumps(first, indent=1) + "\n")
        return
    got = _digest(file, kind)
    if got != expected.lower():
        file.unlink()
        raise DataError(f"{target} has {kind} {got}, but {source} {expected}. The wrong file was removed. {mend}")


def _digest(file: Path, kind: str) -> str:
    with open(file, "rb") as opened:
        if kind == "git":  # git names a file by the SHA-1 of its size and content
            header = b"blob %d\0" % _size(file)
            return hashlib.file_digest(opened, lambda: hashlib.sha1(header, usedforsecurity=False)).hexdigest()
        return hashlib.file_digest(opened, kind).hexdigest()


def _published(address: str, timeout: float) -> str:
    """`md5:...` or `sha256:...` from a small file that prints `MD5 (x.zip) = 0e33...` or `0e33...  x.zip`."""
    request = urllib.request.Request(address, headers={"User-Agent": f"itemic/{VERSION}"})
    with urllib.request.urlopen(request, timeout=timeout) as response:
        text = response.read(4096).decode("utf-8", "replace")
    found = re.search(r"\b(?:[0-9a-fA-F]{64}|[0-9a-fA-F]{32})\b", text)
    if found is None:
        raise DataError(f"{address} holds no md5 or sha256 but {text[:40]!r}. Try again later.")
    return ("sha256:" if len(found[0]) == 64 else "md5:") + found[0]


def _description(address: str) -> str:
    return "downloading " + address.rsplit("/", 1)[-1]


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
