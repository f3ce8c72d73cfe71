"""A head that learns from answers in seconds: per category a linear correction of a run's logits.

z'_ic = z_ic + x_i w_c + b_c, with x from `cross_fit.directions_of`; masked logistic loss over known
pairs, w and b drawn to 0, so that a category nobody answered about stays as the run has it.
"""

import threading
from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from trmml.curation.collection import Collection
from trmml.labels.matrix import LabelMatrix

# Of the squared weights and offset, where the inputs' whole variance is 1.
PENALTY = 1.0
# Newton steps; from a warm start two are enough.
STEPS = 4
# Known images that one category learns from at most: all present ones, the rest drawn.
MOST_IMAGES = 4000


class FastHead:
    """Logits of a collection that follow the answers; a thread learns, and nobody waits for it.

    Args:
        collection: its logits are where every category starts.
        start: as if answers had been `start`'s; None starts with the run alone.
    """

    def __init__(self, collection: Collection) -> None:
        ones = torch.ones(len(collection), 1)
        self._inputs = torch.cat([collection.inputs, ones], dim=1)
        self._base = collection.logits
        self._weights = torch.zeros(self._inputs.shape[1], self._base.shape[1])
        self._logits = self._base
        self._matrix = collection.matrix
        self._touched, self._changed = set[int](), threading.Condition()
        self._learning, self._thread = False, threading.Thread(target=self._run, daemon=True)

    @property
    def logits(self) -> Float[Tensor, "N C"]:
        """Of the newest head; this tensor never changes, a new one takes its place."""
        return self._logits

    def tell(self, matrix: LabelMatrix, categories: Iterable[int]) -> None:
        """Say what is known now and which categories changed; learning begins at once.

        Args:
            matrix: all that is known.
            categories: those to learn again.
        """
        with self._changed:
            self._matrix = matrix
            self._touched.update(categories)
            if self._thread.ident is None:
                self._thread.start()
            self._changed.notify_all()

    def wait(self, seconds: float | None = None) -> bool:
        """Whether all that was told is learned, at the latest after so many seconds."""
        with self._changed:
            return self._changed.wait_for(
                lambda: not self._touched and not self._learning, timeout=seconds
            )

    def learn(self, matrix: LabelMatrix, categories: Iterable[int]) -> None:
        """Learn categories again in this thread, and let the new head take the old one's place."""
        weights, logits = self._weights.clone(), self._logits.clone()
        for category in categories:
            weights[:, category] = self._fitted(matrix, category, weights[:, category])
            logits[:, category] = self._base[:, category] + self._inputs @ weights[:, category]
        self._weights, self._logits = weights, logits

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._touched))
                matrix, touched = self._matrix, self._touched
                self._touched, self._learning = set(), True
            try:
                self.learn(matrix, sorted(touched))
            finally:
                with self._changed:
                    self._learning = False
                    self._changed.notify_all()

    def _fitted(self, matrix: LabelMatrix, category: int, start: Tensor) -> Tensor:
        """Weights of one category by damped Newton steps."""
        rows = _some(matrix, category)
        inputs, base = self._inputs[rows], self._base[rows, category]
        labels = matrix.labels[rows, category].float()
        weight = start
        for _ in range(STEPS):
            probability = torch.sigmoid(base + inputs @ weight)
            gradient = inputs.T @ (probability - labels) + PENALTY * weight
            # A floor under p (1 - p) keeps a step from far off from being too long.
            curved = (probability * (1 - probability)).clamp(min=0.01)
            hessian = inputs.T @ (inputs * curved[:, None])
            hessian.diagonal().add_(PENALTY)
            weight = weight - torch.linalg.solve(hessian, gradient)
        return weight


def _some(matrix: LabelMatrix, category: int) -> Tensor:
    """Known images of a category; of many absent ones evenly spaced ones."""
    known, labels = matrix.known[:, category], matrix.labels[:, category]
    absent = (known & ~labels).nonzero()[:, 0]
    present = labels.nonzero()[:, 0]
    present = present[:: max(1, len(present) // MOST_IMAGES)]
    return torch.cat([present, absent[:: max(1, -(-len(absent) // MOST_IMAGES))]])
