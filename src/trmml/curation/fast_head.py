"""A head that learns from answers in seconds: per category a linear correction of a run's logits.

z'_ic = z_ic + x_i w_c + b_c, with x from `cross_fit.directions_of`, and w and b from `learn_on`,
which draws them to 0: a category that nobody answered about stays as the run has it.
"""

import threading
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from trmml.curation.collection import Collection
from trmml.curation.cross_fit import Head
from trmml.curation.warm_head import learn_on
from trmml.labels.matrix import LabelMatrix


class FastHead:
    """Logits of a collection that follow the answers; a thread learns, and nobody waits for it.

    Args:
        collection: its logits are where every category starts.
    """

    def __init__(self, collection: Collection) -> None:
        self._inputs, self._base = collection.inputs, collection.logits
        self._columns = [*self._base.T.contiguous()]
        self._weight = torch.zeros(self._inputs.shape[1], len(self._columns))
        self._bias = torch.zeros(len(self._columns))
        self._waiting: dict[int, tuple[Tensor, Tensor]] = {}
        self._learned, self._changed = set[int](), threading.Condition()
        self._learning = False

    @property
    def logits(self) -> Float[Tensor, "N C"]:
        """Of the newest head, as a copy."""
        return torch.stack(self._columns, dim=1)

    def column(self, category: int) -> Float[Tensor, " N"]:
        """The newest logits of one category; this tensor never changes, another takes its place."""
        column: Tensor = self._columns[category]
        return column

    def rows(self, images: Sequence[int]) -> Float[Tensor, "K C"]:
        """The newest logits of some images."""
        return torch.stack([column[images] for column in self._columns], dim=1)

    def taken(self) -> set[int]:
        """Categories with other logits than when this was asked before."""
        with self._changed:
            learned, self._learned = self._learned, set()
        return learned

    def tell(self, categories: Sequence[int], matrix: LabelMatrix) -> None:
        """Say what is known of some categories now; learning begins at once.

        Args:
            categories: those to learn again.
            matrix: what is known of them, a column each.
        """
        with self._changed:
            columns = zip(matrix.labels.unbind(1), matrix.known.unbind(1), strict=True)
            self._waiting.update(zip(categories, columns, strict=True))
            if self._waiting and not self._learning:
                self._learning = True
                threading.Thread(target=self._run, name="fast head").start()

    def wait(self, seconds: float | None = None) -> bool:
        """Whether all that was told is learned, at the latest after so many seconds."""
        with self._changed:
            return self._changed.wait_for(
                lambda: not self._waiting and not self._learning, timeout=seconds
            )

    def learn(self, categories: Sequence[int], matrix: LabelMatrix, *, anew: bool = False) -> None:
        """Learn categories in this thread; each new head takes its old one's place.

        Args:
            categories: those to learn again.
            matrix: what is known of them, a column each.
            anew: from nothing, with as many steps as that takes; else from where they are.
        """
        if not categories:
            return
        base, here = (
            self._base[:, categories],
            Head(self._weight[:, categories], self._bias[categories]),
        )
        head = learn_on(self._inputs, matrix, None if anew else here, base)
        self._weight[:, categories], self._bias[categories] = head
        logits = (base + self._inputs @ head.weight + head.bias).T.contiguous()
        for category, column in zip(categories, logits, strict=True):
            self._columns[category] = column
        with self._changed:
            self._learned.update(categories)

    def _run(self) -> None:
        """Learn until nothing waits; no daemon, for torch aborts in a thread that Python kills."""
        while waiting := self._take_waiting():
            columns = (torch.stack(each, dim=1) for each in zip(*waiting.values(), strict=True))
            self.learn([*waiting], LabelMatrix(*columns))

    def _take_waiting(self) -> dict[int, tuple[Tensor, Tensor]]:
        """What waits to be learned; where nothing does, learning has ended."""
        with self._changed:
            waiting, self._waiting = self._waiting, {}
            self._learning = bool(waiting)
            self._changed.notify_all()
        return waiting
