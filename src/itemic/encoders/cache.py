"""Vectors that were made before: kept in a folder, or in memory, by a hash of what each was made of.

A folder holds blocks, files that are written once, whole, under a name that is the hash of their content. So a killed
run loses the block it was at, two processes cannot damage each other's, and a block that was damaged is known and made
again.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute
from jaxtyping import Float32, UInt64

from itemic.progress import report, track

pc: Any = pyarrow.compute  # its functions are made at import, out of a type checker's sight
BLOCK = 4096
"""Contents that are made and kept together."""
BYTES = 1 << 22
"""Bytes hashed at a time."""


class Block(NamedTuple):
    keys: UInt64[np.ndarray, "rows 2"]
    vectors: Float32[np.ndarray, "rows dim"]


class Cache:
    """Vectors under one name, which says how they are made; in `place`, or without one in this process."""

    memory: dict[str, list[Block]] = {}  # noqa: RUF012 (shared on purpose: by all caches of a process)
    read: dict[Path, UInt64[np.ndarray, "rows 2"]] = {}  # noqa: RUF012 (the same)
    """The keys of files that were found whole: they are read again only for what they hold."""

    def __init__(self, place: Path | None, name: str) -> None:
        self.name, self.folder = name, _writable(place / name) if place is not None else None

    def vectors(
        self, content: pa.Array, dim: int, make: Callable[[pa.Array], Float32[np.ndarray, "rows dim"]]
    ) -> Float32[np.ndarray, "rows dim"]:
        """The vector of each content (texts, or bytes): one that was made before, or by `make`, once for equal ones.

        >>> lengths = lambda texts: np.array([[len(text)] for text in texts.to_pylist()], np.float32)
        >>> Cache(None, "lengths").vectors(pa.array(["cup", "", "cup"]), 1, lengths).tolist()
        [[3.0], [0.0], [3.0]]
        """
        coded = content.dictionary_encode()
        distinct = coded.dictionary
        keys = hashes(distinct)
        found = np.full((len(distinct), dim), np.nan, np.float32)
        lacking = np.ones(len(distinct), bool)
        for block in self._blocks(_binary(keys)):
            at = pc.index_in(_binary(keys), value_set=_binary(block.keys)).to_numpy(zero_copy_only=False)
            here = lacking & ~np.isnan(at)
            found[here] = block.vectors[at[here].astype(np.int64)]
            lacking &= ~here
        rows = np.flatnonzero(lacking)
        parts = np.split(rows, np.arange(BLOCK, len(rows), BLOCK)) if len(rows) else []
        for part in track(parts, f"encoding {len(rows):,} items", len(parts)) if parts else ():
            found[part] = make(distinct.take(pa.array(part)))
            self._keep(Block(keys[part], found[part]))
        return found[coded.indices.to_numpy()]

    def _blocks(self, wanted: pa.Array) -> Iterator[Block]:
        """The blocks that may hold some of the wanted keys."""
        if self.folder is None:
            yield from self.memory.get(self.name, ())
            return
        for path in sorted(self.folder.glob("*.safetensors")):
            keys = self.read.pop(path, None)
            if keys is not None and not pc.any(pc.is_in(wanted, value_set=_binary(keys))).as_py():
                self.read[path] = keys
                continue
            block = _read(path)
            if block is not None:
                self.read[path] = block.keys
                yield block
                continue
            report(f"{path.name} of {self.folder} is damaged: what it held is made again", 1, 1)
            path.unlink(missing_ok=True)

    def _keep(self, block: Block) -> None:
        if self.folder is None:
            self.memory.setdefault(self.name, []).append(block)
            return
        from safetensors.numpy import save

        data = save(block._asdict())
        path = self.folder / f"{_digest(data)}.safetensors"
        partial = self.folder / f".{path.name}.{os.getpid()}.partial"
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)


def hashes(content: pa.Array) -> UInt64[np.ndarray, "rows 2"]:
    """128 bits for each text or bytes, the same on every machine: sums of a random number for each place and byte.

    >>> a, b, c = hashes(pa.array(["cup", "puc", "cup"]))
    >>> (a == c).all(), (a != b).all()
    (np.True_, np.True_)
    """
    content = content.cast(pa.large_binary())
    _, offsets, data = content.buffers()
    bounds = np.frombuffer(offsets, np.int64)[content.offset : content.offset + len(content) + 1]
    bytes_ = np.frombuffer(data, np.uint8) if data is not None else np.empty(0, np.uint8)
    found = np.empty((len(content), 2), np.uint64)
    starts = np.searchsorted(bounds, np.arange(int(bounds[0]), int(bounds[-1]) + 1, BYTES))
    for start, stop in zip(starts, [*starts[1:], len(content)]):
        first, last = int(bounds[start]), int(bounds[stop])
        lengths = np.diff(bounds[start : stop + 1])
        place = np.arange(first, last) - np.repeat(bounds[start:stop], lengths)
        token = (place.astype(np.uint64) << np.uint64(8)) | bytes_[first:last]
        for half in range(2):
            sums = np.concatenate([[np.uint64(0)], np.cumsum(_mixed(token, half + 1), dtype=np.uint64)])
            at = bounds[start : stop + 1] - first
            found[start:stop, half] = _mixed(sums[at[1:]] - sums[at[:-1]] + lengths.astype(np.uint64), half + 3)
    return found


def _mixed(x: UInt64[np.ndarray, " n"], seed: int) -> UInt64[np.ndarray, " n"]:
    """A number that looks random for each (Steele et al., OOPSLA 2014: the finaliser of SplitMix64)."""
    x = x + np.uint64(seed * 0x9E3779B97F4A7C15 % (1 << 64))
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _binary(keys: UInt64[np.ndarray, "rows 2"]) -> pa.Array:
    """Each key as 16 bytes, which Arrow looks up by a hash table."""
    return pa.Array.from_buffers(pa.binary(16), len(keys), [None, pa.py_buffer(np.ascontiguousarray(keys))])


def _read(path: Path) -> Block | None:
    """The block in a file; None where it is damaged, or gone by now."""
    from safetensors.numpy import load

    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    return Block(**load(data)) if _digest(data) == path.stem else None


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _writable(folder: Path) -> Path | None:
    """The folder, made where it is missing; None where nothing can be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None
