"""One thread that scores images: what many ask for at once goes through the model together."""

import asyncio
import queue
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from trmml.errors import DataError
from trmml.server.problems import Problem
from trmml.storage.sessions import cores

# Requests that wait; images in a batch, and what its first waits while others are decoded.
MOST_WAITING, MOST_IMAGES, SECONDS = 64, 16, 0.02

Pixels = np.ndarray


@runtime_checkable
class Engine(Protocol):
    """A run that scores images: an ONNX file, or torch."""

    @property
    def category_names(self) -> list[str]:
        """Of the probabilities."""
        ...

    @property
    def thresholds(self) -> Float[np.ndarray, " K"]:
        """Of each category."""
        ...

    def read(self, source: Path | bytes) -> Pixels | DataError:
        """An image as the model takes it, or why it cannot be read."""
        ...

    def probabilities(self, images: Pixels) -> Float[np.ndarray, "B K"]:
        """Calibrated, of several images."""
        ...


class Batcher:
    """Probabilities of images that come one by one.

    Args:
        engine: called by one thread alone.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine, self.waiting = engine, 0
        self._queue = queue.SimpleQueue[tuple[Pixels, Future[np.ndarray]] | None]()
        self._decoding = 0
        self._pool = ThreadPoolExecutor(max(2, cores()), thread_name_prefix="upload")
        self._thread = threading.Thread(target=self._run, name="tag", daemon=True)
        self._thread.start()

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place in the queue, for one request.

        Raises:
            Problem: there is none.
        """
        if self.waiting >= MOST_WAITING:
            told = f"{MOST_WAITING} requests wait already. Send it again in a second."
            raise Problem(503, told, {"Retry-After": "1"})
        self.waiting += 1
        try:
            yield
        finally:
            self.waiting -= 1

    async def probabilities(self, source: Path | bytes) -> Float[np.ndarray, " K"] | DataError:
        """Of one image; an error in its place where it cannot be read."""
        self._decoding += 1
        try:
            loop = asyncio.get_running_loop()
            pixels = await loop.run_in_executor(self._pool, self.engine.read, source)
        finally:
            self._decoding -= 1
        if isinstance(pixels, DataError):
            return pixels
        future: Future[np.ndarray] = Future()
        self._queue.put((pixels, future))
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """End the threads, after what they have in hand."""
        self._pool.shutdown(cancel_futures=True)
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (first := self._queue.get()) is not None:
            taken = [first, *self._more()]
            batch = [each for each in taken if each[1].set_running_or_notify_cancel()]
            if not batch:
                continue
            try:
                found = self.engine.probabilities(np.stack([pixels for pixels, _ in batch]))
            except Exception as error:  # of the model: those who wait must hear of it
                for _, future in batch:
                    future.set_exception(error)
                continue
            for row, (_, future) in zip(found, batch, strict=True):
                future.set_result(row)

    def _more(self) -> Iterator[tuple[Pixels, Future[np.ndarray]]]:
        """What else is ready, or will be soon."""
        until = time.monotonic() + SECONDS
        for _ in range(MOST_IMAGES - 1):
            left = until - time.monotonic() if self._decoding else 0.0
            try:
                found = self._queue.get(timeout=left) if left > 0 else self._queue.get_nowait()
            except queue.Empty:
                return
            if found is None:
                self._queue.put(None)
                return
            yield found
