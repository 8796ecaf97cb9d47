"""Encoded images to frames in processes beside this one, as decoding takes a CPU as long as many a network does.

A worker is this file run as a program that reads images from its input and writes frames of a known size to its output:
it starts in a fifth of a second, asks no `if __name__ == "__main__":` of who starts it, and dies of one image alone.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
from jaxtyping import Bool

from itemic.encoders.pixels import Frames, Manner, frame_of
from itemic.errors import ConfigError

WHOLE, BROKEN = b"1", b"0"
"""What a worker answers first."""


class Decoder:
    """Encoded images to frames, in so many processes; 0 for this one. To be used in a `with` block."""

    def __init__(self, manner: Manner, workers: int) -> None:
        """
        Raises:
            ConfigError: Pillow is missing.
        """
        try:
            import PIL.Image  # noqa: F401
        except ImportError:
            raise ConfigError(
                "reading images needs the package pillow. Install it: pip install 'itemic[image]'"
            ) from None
        self.manner, self.workers = manner, workers

    def __enter__(self) -> Self:
        self._threads = ThreadPoolExecutor(max(1, self.workers))
        self._processes = [_started(self.manner) for _ in range(self.workers)]
        try:
            for process in self._processes:
                _wait_for(process)
        except ConfigError:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: type | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._threads.shutdown()
        for process in self._processes:
            _ended(process)

    def ahead(self, batches: Iterable[Sequence[bytes]]) -> Iterator[tuple[Frames, Bool[np.ndarray, " images"]]]:
        """The `frames` of each batch; the next one is decoded while what asked for this one works on it."""
        with ThreadPoolExecutor(1) as one:
            coming: list[Future[tuple[Frames, np.ndarray]]] = []
            for batch in batches:
                coming.append(one.submit(self.frames, batch))
                if len(coming) == 2:
                    yield coming.pop(0).result()
            yield from (last.result() for last in coming)

    def frames(self, images: Sequence[bytes]) -> tuple[Frames, Bool[np.ndarray, " images"]]:
        """The frame of each image, and which of them could be read."""
        frames = np.zeros((len(images), *self.manner.frame, 3), self.manner.dtype)
        whole = np.zeros(len(images), bool)

        def decode(worker: int) -> None:
            for n in range(worker, len(images), max(1, self.workers)):
                made = self._asked(worker, images[n]) if self.workers else _framed(images[n], self.manner)
                if made is not None:
                    frames[n], whole[n] = np.frombuffer(made, self.manner.dtype).reshape(frames.shape[1:]), True

        if self.workers:
            list(self._threads.map(decode, range(self.workers)))
        else:
            decode(0)
        return frames, whole

    def _asked(self, worker: int, image: bytes) -> bytes | None:
        """What a worker makes of an image; one that dies is started again, and after two the image is to blame."""
        for _ in range(2):
            process = self._processes[worker]
            source, sink = _pipes(process)
            try:
                sink.write(len(image).to_bytes(8, "little") + bytes(image))
                sink.flush()
                answer = source.read(1)
                made = source.read(_n_bytes(self.manner)) if answer == WHOLE else b""
            except BrokenPipeError:
                answer, made = b"", b""
            if answer == BROKEN:
                return None
            if len(made) == _n_bytes(self.manner):
                return made
            _ended(process)
            self._processes[worker] = _started(self.manner)
            _wait_for(self._processes[worker])
        return None


def _started(manner: Manner) -> "subprocess.Popen[bytes]":
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-m", "itemic.encoders.decoder", json.dumps(manner)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)


def _wait_for(process: "subprocess.Popen[bytes]") -> None:
    """Returns when it has said that it is ready.

    Raises:
        ConfigError: it ended instead.
    """
    source, _ = _pipes(process)
    if source.read(1) != WHOLE:
        raise ConfigError("a process that decodes images cannot start here. Decode in this one: --set workers=0.")


def _pipes(process: "subprocess.Popen[bytes]") -> tuple[IO[bytes], IO[bytes]]:
    assert process.stdout is not None
    assert process.stdin is not None
    return process.stdout, process.stdin


def _ended(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.communicate()


def _n_bytes(manner: Manner) -> int:
    height, width = manner.frame
    return 3 * height * width * np.dtype(manner.dtype).itemsize


def _framed(data: bytes, manner: Manner) -> bytes | None:
    try:
        return frame_of(data, manner).tobytes()
    except MemoryError:
        raise
    except Exception:  # damage shows as any of them: SyntaxError, struct.error, ValueError, ...
        return None


def _serve(source: IO[bytes], sink: IO[bytes], manner: Manner) -> None:
    """Says that it is ready, then answers each image, which comes behind its number of bytes, by a byte and a frame."""
    from PIL import Image  # noqa: F401

    sink.write(WHOLE)
    sink.flush()
    while head := source.read(8):
        made = _framed(source.read(int.from_bytes(head, "little")), manner)
        sink.write(BROKEN if made is None else WHOLE + made)
        sink.flush()


def _manner_from(text: str) -> Manner:
    """What `json.dumps` made of one."""
    given: Any = [tuple(x) if isinstance(x, list) else x for x in json.loads(text)]
    return Manner(*given)


if __name__ == "__main__":
    _serve(sys.stdin.buffer, sys.stdout.buffer, _manner_from(sys.argv[1]))
