"""The exact scan in memory: for a process that searches the same index again and again."""

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt64
from torch import Tensor

from trmml.search.approximate import FEATURE
from trmml.search.table import READABLE

ROW = "_rowid"
FILTERS = 16
# How far a half-precision product of two unit vectors may be off. Rounding
# the vector and the result makes 2**-10, and some room is left for how a processor sums.
_ERROR = 2.0**-7


class FeaturesInMemory:
    """All features of an index in half precision, 2 D bytes an image.

    A half-precision product finds the rows that may be among the best, and only those are compared
    in fp32. A million rows of 512 numbers so take a ninth of a second on one core, where Lance's
    scan takes one.

    Args:
        table: of images; rows with an error are left out.
    """

    def __init__(self, table: Any) -> None:
        rows = table.search().where(READABLE).select([FEATURE]).with_row_id(True)
        self._ids = np.empty(table.count_rows(READABLE), np.uint64)
        width = table.schema.field(FEATURE).type.list_size
        self._features = torch.empty(len(self._ids), width, dtype=torch.float16)
        filled = 0
        for batch in rows.limit(None).to_batches():
            part = slice(filled, filled := filled + len(batch))
            self._ids[part] = batch[ROW].to_numpy()
            values = np.asarray(batch[FEATURE].flatten())
            self._features[part] = torch.from_numpy(values.copy()).reshape(-1, width)
        self._table = table
        # A person asks for other texts under the same tags, and for the next page.
        self._that_hold = lru_cache(FILTERS)(self._find)

    def nearest(
        self, vector: Float[np.ndarray, " D"], count: int, filters: str
    ) -> tuple[UInt64[np.ndarray, " K"], Float[np.ndarray, " K"]]:
        """Row ids with the largest inner products, and the products, largest first.

        Args:
            vector: to compare with.
            count: rows at most.
            filters: SQL that rows must hold. But for `READABLE` it costs more than the comparison,
                so what the last `FILTERS` found is kept.
        """
        query = torch.from_numpy(np.asarray(vector, np.float32))
        direction = query / query.norm().clamp(min=1e-12)
        rough = (self._features @ direction.half()).float()
        if filters != READABLE:
            rough = rough.where(self._that_hold(filters), -torch.inf)
        count = min(count, int(rough.isfinite().sum()))
        if not count:
            return self._ids[:0], np.zeros(0, np.float32)
        rows = (rough >= rough.topk(count).values[-1] - 2 * _ERROR).nonzero()[:, 0]
        best = (self._features[rows].float() @ query).topk(count)
        return self._ids[rows[best.indices].numpy()], best.values.numpy()

    def _find(self, filters: str) -> Bool[Tensor, " N"]:
        """Which rows hold a filter."""
        found = self._table.search().where(filters).select(["width"]).with_row_id(True)
        ids = found.limit(None).to_arrow()[ROW].to_numpy()
        return torch.from_numpy(np.isin(self._ids, ids))
