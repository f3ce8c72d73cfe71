"""What the answers of a session bought."""

import math
import threading
import time
from contextlib import AbstractContextManager
from typing import Any

from trmml.curation.cross_fit import cross_fitted
from trmml.curation.queue import Queue
from trmml.labels.matrix import LabelMatrix
from trmml.metrics.average_precision import average_precisions, mean_defined


class Worth:
    """mAP of linear heads, before a session's answers and with them.

    Both are scored on the pairs that were known at the start, each image by heads that never saw
    it or a near-duplicate of it.

    Args:
        queue: of the session, which begins now.
        asking: held while the queue is read.
    """

    def __init__(self, queue: Queue, asking: AbstractContextManager[Any]) -> None:
        self._queue, self._asking = queue, asking
        self._start = _now(queue)
        self._weighing = threading.Lock()
        self._weighed: LabelMatrix | None = None
        self._found: dict[str, Any] = {"new": 0, "before": None, "now": None, "took": 0.0}

    def now(self) -> dict[str, Any]:
        """Both, None where no category has enough to score.

        The figures before the newest answers, while another request computes those with them.
        """
        if not self._weighing.acquire(blocking=False):
            return self._found
        try:
            return self._weigh()
        finally:
            self._weighing.release()

    def _weigh(self) -> dict[str, Any]:
        with self._asking:
            self._queue.take_new()
            found = _now(self._queue)
        if self._weighed is not None and not _differences(found, self._weighed):
            return self._found
        started, new = time.monotonic(), _differences(found, self._start)
        before = self._mean_ap(self._start, found)
        after = self._mean_ap(found, found) if new else before
        self._weighed, took = found, time.monotonic() - started
        self._found = {"new": new, "before": before, "now": after, "took": round(took, 2)}
        return self._found

    def _mean_ap(self, learned: LabelMatrix, truth: LabelMatrix) -> float | None:
        collection = self._queue.collection
        logits = cross_fitted(collection.inputs, learned, collection.folds)
        scored = self._start.known & truth.known
        found = mean_defined(average_precisions(logits, truth.labels, scored))
        return None if math.isnan(found) else round(found, 4)


def _now(queue: Queue) -> LabelMatrix:
    """What is known of each pair, as it is now."""
    return LabelMatrix(queue.pairs.labels.clone(), queue.pairs.known.clone())


def _differences(one: LabelMatrix, other: LabelMatrix) -> int:
    """Number of pairs that two matrices know different things of."""
    present = (one.labels & one.known) ^ (other.labels & other.known)
    return int((present | (one.known ^ other.known)).sum())
