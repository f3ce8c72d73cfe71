"""Nearest rows: an exact scan, or beyond a million images an index of the vectors by Lance."""

from typing import Any

import numpy as np
from jaxtyping import Float

from trmml.search.table import READABLE

FEATURE = "image_feature"
# What an approximate search looks at: lists of vectors, and how many candidates are scored exactly.
PROBES, REFINED = 64, 20
# Of fewer rows the exact scan takes milliseconds, and an index could not learn from them.
FEWEST = 1000
# By what the recall is measured.
QUERIES, FIRST = 200, 50


def nearest(
    table: Any, vector: Float[np.ndarray, " D"], count: int, *, approximate: bool = False
) -> Any:
    """A search for the largest inner products; filters and columns may be added to it.

    Args:
        table: of images.
        vector: to compare with.
        count: rows at most.
        approximate: by the index of the vectors; else every row is compared.
    """
    search = table.search(vector, vector_column_name=FEATURE).metric("dot").limit(count)
    if not approximate:
        return search.bypass_vector_index()
    return search.nprobes(PROBES).refine_factor(REFINED)


def has_vector_index(table: Any) -> bool:
    """Whether an index of the vectors was built."""
    return any(FEATURE in each.columns for each in table.list_indices())


def drop_if_few(table: Any) -> bool:
    """Whether a table has fewer than `FEWEST` rows; an index of its vectors is dropped then."""
    if table.count_rows() >= FEWEST:
        return False
    for each in table.list_indices():
        if FEATURE in each.columns:
            table.drop_index(each.name)
    return True


def index_vectors(table: Any, queries: Float[np.ndarray, "Q D"]) -> float | None:
    """Index the vectors and the lists of names; the recall that it has now.

    Args:
        table: of images; one of fewer than `FEWEST` is searched exactly, and None comes back.
        queries: what the recall is measured by; the first `QUERIES` are used.
    """
    from lancedb.index import IvfPq, LabelList

    if drop_if_few(table):
        return None
    table.create_index(FEATURE, config=IvfPq(distance_type="dot"))
    for column in ("given", "absent", "present"):
        table.create_index(column, config=LabelList())
    return recall(table, queries)


def recall(table: Any, queries: Float[np.ndarray, "Q D"], where: str = READABLE) -> float:
    """Share of the exact search's first `FIRST` rows that the approximate search finds.

    Args:
        table: of images, with an index of the vectors.
        queries: the first `QUERIES` are used.
        where: filter of both searches.
    """
    found, wanted = 0, 0
    for vector in queries[:QUERIES]:
        exact, fast = (
            set(
                nearest(table, vector, FIRST, approximate=approximate)
                .where(where, prefilter=True)
                .select(["image", "_distance"])
                .to_arrow()["image"]
                .to_pylist()
            )
            for approximate in (False, True)
        )
        found, wanted = found + len(exact & fast), wanted + len(exact)
    return found / max(wanted, 1)
