"""One thread that scores images: what many ask for at once goes through the model together."""

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np
from jaxtyping import Float

from trmml.errors import DataError
from trmml.server.problems import Problem
from trmml.storage.sessions import cores
from trmml.tagging.scorer import Scorer, prepared

# Requests that wait; images in a batch, and what its first waits while others are decoded.
MOST_WAITING, MOST_IMAGES, SECONDS = 64, 16, 0.02
P = ParamSpec("P")
T = TypeVar("T")


class Batcher:
    """Probabilities of images that come one by one.

    Args:
        scorer: scores in one thread alone.
    """

    def __init__(self, scorer: Scorer) -> None:
        self.scorer, self.waiting = scorer, 0
        self._queue = queue.SimpleQueue[tuple[Any, Future[np.ndarray]] | None]()
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

    async def in_pool(self, work: Callable[P, T], *given: P.args, **named: P.kwargs) -> T:
        """What some work on an image returns, done by a thread that also decodes."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, partial(work, *given, **named))

    async def probabilities(self, source: Path | bytes) -> Float[np.ndarray, " K"] | DataError:
        """Of one image; an error in its place where it cannot be read."""
        self._decoding += 1
        try:
            pixels = await self.in_pool(prepared, self.scorer, source)
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
                found = self.scorer.score([pixels for pixels, _ in batch]).probabilities
            except Exception as error:  # of the model: those who wait must hear of it
                for _, future in batch:
                    future.set_exception(error)
                continue
            for row, (_, future) in zip(found, batch, strict=True):
                future.set_result(row)

    def _more(self) -> Iterator[tuple[Any, Future[np.ndarray]]]:
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
