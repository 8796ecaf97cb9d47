"""Images: items as vectors of their pictures, by a pretrained model that stays as it is.

Choose it where looks decide and every item has a picture: new items have vectors at once. CLIP and SigLIP know what
pictures show, as words would say it; DINO knows what looks alike. A picture is a file, named in a column of the items
relative to the folder of the dataset, or bytes in that column.
Papers: Radford et al., ICML 2021, arXiv:2103.00020; Zhai et al., ICCV 2023, arXiv:2303.15343; Oquab et al., TMLR 2024,
arXiv:2304.07193.
"""

import hashlib
import os
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute
from jaxtyping import Float32
from pydantic import Field

from itemic.data import Dataset, Table
from itemic.encoders.base import FromPretrained, PretrainedConfig
from itemic.encoders.decoder import Decoder
from itemic.encoders.pixels import manner_of
from itemic.encoders.pretrained import hub_folder
from itemic.errors import DataError, some
from itemic.progress import report
from itemic.registry import encoder

if TYPE_CHECKING:
    from itemic.encoders.vision import Reader

pc: Any = pyarrow.compute  # its functions are made at import, out of a type checker's sight
BATCH = 64
"""Images that are in memory at a time, twice: some are decoded while others are read."""
WORTH = 512
"""Images from which on processes are worth their start."""


class Config(PretrainedConfig):
    model: str = "google/siglip-base-patch16-224"
    """The vision model: a folder, or a name on the Hugging Face hub; of CLIP, SigLIP, DINO, DINOv2, DINOv3 or ViT."""
    column: str | None = None
    """The item column with paths or bytes; None for the first with the role `image`."""
    normalise: bool = True
    """Whether vectors have length 1, as these models are compared."""
    workers: int | None = Field(None, ge=0)
    """Processes that decode images; 0 for none beside this one, None for one less than CPUs where images are many."""


@encoder("image", needs=["items"], paper="arXiv:2103.00020")
class Image(FromPretrained[Config]):
    what = "vision model"

    def survey(self, train: Dataset) -> None:
        items, config = train.items, self.config
        column = config.column or next(iter(items.roles.get("image", ())), None)
        if column is None:
            there = ", ".join(items.names) or "none"
            raise DataError(
                f"no column of the items of {train.name} is known as image: {there}. Name one: --set column=NAME."
            )
        if _contents(items, column).null_count == len(items):
            raise DataError(f"no item of {train.name} has an image in {column}. Name another: --set column=NAME.")
        root = str(train.path.resolve()) if train.path is not None else None
        self.shape = {"column": column, "root": root, "dim": self.reader.dim, "model": self.model_hash}
        self._place = train.path / "features" if train.path is not None else None

    def adopt(self, train: Dataset) -> Self:
        """The same for items of other data, whose pictures lie elsewhere.

        Raises:
            DataError: no item there has an image.
        """
        other = self.moved(train)
        other.survey(train)
        return other

    @property
    def dim(self) -> int:
        return self.reader.dim

    def encode(self, content: Table) -> Float32[np.ndarray, "rows dim"]:
        _ = self.catalogue
        given = _contents(content, self.shape["column"])
        image, n, what = self._image_of(given), len(content), content.ids.what
        there = np.flatnonzero(given.is_valid().to_numpy(zero_copy_only=False))
        keys = [_key(image(row)) for row in there.tolist()]
        vectors = np.full((n, self.dim), np.nan, np.float32)
        vectors[there] = self._vectors(keys, there, image)
        if len(there) < n:
            report(f"{n - len(there):,} of {n:,} {what}s have no image: their vectors are nan", 1, 1)
        broken = there[np.isnan(vectors[there, 0])]
        if len(broken):
            ids = some(content.ids.array.take(pa.array(broken)).to_pylist())
            report(f"{len(broken):,} of {n:,} {what}s have no vector, as their images cannot be read: {ids}", 1, 1)
        return vectors

    def _vectors(
        self, keys: list[bytes], rows: np.ndarray, image: Callable[[int], bytes]
    ) -> Float32[np.ndarray, "rows dim"]:
        """The vectors of rows whose images have these keys; images are read again when they are to be encoded.

        Raises:
            DataError: one is another by then: its vector would be kept as that of the first.
        """
        row_of, reader = dict(zip(keys, rows.tolist())), self.reader

        def same(key: bytes) -> bytes:
            data = image(row_of[key])
            if _key(data) != key:
                raise DataError(f"the image in row {row_of[key] + 1:,} changed while images were read. Encode again.")
            return data

        def make(part: pa.Array) -> Float32[np.ndarray, "part dim"]:
            wanted = part.to_pylist()
            made = np.full((len(wanted), self.dim), np.nan, np.float32)
            workers = self.config.workers
            with Decoder(reader.manner, _spare(len(wanted)) if workers is None else workers) as decoder:
                starts = range(0, len(wanted), BATCH)
                batches = ([same(key) for key in wanted[start : start + BATCH]] for start in starts)
                for start, (frames, whole) in zip(starts, decoder.ahead(batches)):
                    made[start + np.flatnonzero(whole)] = reader.read(frames[whole])
            return made

        found = self.cache(reader.bfloat16).vectors(pa.array(keys, pa.binary()), self.dim, make)
        return found / np.linalg.norm(found, axis=1, keepdims=True) if self.config.normalise else found

    def _image_of(self, given: pa.ChunkedArray) -> Callable[[int], bytes]:
        """What gives the bytes of the image of a row; none where they cannot be had."""
        if pa.types.is_large_binary(given.type):
            return lambda row: given[row].as_buffer()
        root, paths = Path(self.shape["root"] or "."), given.to_pylist()

        def read(row: int) -> bytes:
            try:
                return (root / paths[row]).read_bytes()
            except (OSError, ValueError):
                return b""

        return read

    @cached_property
    def folder(self) -> Path:
        """Where the vision model lies."""
        return hub_folder(self.config.model, "vision model", "the folder of one: --set model=FOLDER")

    @cached_property
    def reader(self) -> "Reader":
        """The vision model, opened when it is first needed.

        Raises:
            ConfigError: it cannot be read.
        """
        from itemic.encoders.vision import Reader

        return Reader(self.folder, manner_of(self.folder), bfloat16=self.bfloat16, device=self.device)


def _contents(items: Table, name: str) -> pa.ChunkedArray:
    """The column of images, as bytes or as paths; null where there is none.

    Raises:
        DataError: it is not there, or holds neither.
    """
    column = items.column(name)
    if pa.types.is_struct(column.type) and column.type.get_field_index("bytes") >= 0:  # as Hugging Face stores them
        column = pc.struct_field(column, "bytes")
    if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
        column = column.cast(pa.large_binary())
        return pc.if_else(pc.equal(pc.binary_length(column), 0), None, column)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type) or pa.types.is_null(column.type):
        column = column.cast(pa.string())
        return pc.if_else(pc.equal(pc.utf8_trim_whitespace(column), ""), None, column)
    raise DataError(f"items.{name} holds {column.type}, neither paths nor bytes of images. Name another column.")


def _key(image: bytes) -> bytes:
    """A hash of an image by which its vector is known again."""
    return hashlib.blake2b(image, digest_size=16).digest()


def _spare(n: int) -> int:
    """How many processes decode n images: one less than there are CPUs, as this one has the network to run."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cpus - 1 if n >= WORTH else 0
