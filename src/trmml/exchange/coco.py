"""Write COCO's JSON: https://cocodataset.org/#format-data, with LVIS's field of what is absent."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from trmml.datasets.base import Dataset, Edges
from trmml.exchange.source import Source
from trmml.exchange.writing import (
    as_json,
    refuse_unfit,
    stream,
)
from trmml.images import shown_size


def write_coco(folder: Path, source: Source, boxes: dict[int, dict[int, list[Edges]]]) -> int:
    """Write instances.json; the number of its boxes.

    Absent categories stand in an image's `neg_category_ids`, as in LVIS. Programs that do not know
    the field pass over it. A present pair without a box gets one around the whole image.

    Args:
        folder: to write in.
        source: labels, perhaps with boxes, and a run's tags.
        boxes: of present pairs, by image and category.

    Raises:
        DataError: an image cannot be read.
    """
    data = source.shown
    refuse_unfit(data.images, "image", "JSON")
    sizes = [shown_size(data.root / image) for image in data.images]
    categories = ({"id": c, "name": name} for c, name in enumerate(data.category_names, start=1))
    with (folder / "instances.json").open("w", encoding="utf-8") as file:
        stream(file, '{"images": [', map(as_json, _images(data, sizes)), "],\n")
        stream(file, '"categories": [', map(as_json, categories), "],\n")
        stream(file, '"annotations": [', map(as_json, _annotations(data, boxes, sizes)), "]}\n")
    return sum(len(edges) for own in boxes.values() for edges in own.values())


def _images(data: Dataset, sizes: list[tuple[int, int]]) -> Iterator[dict[str, Any]]:
    for row, (image, (width, height)) in enumerate(zip(data.images, sizes, strict=True)):
        absent = (data.matrix.known[row] & ~data.matrix.labels[row]).numpy()
        yield {"id": row + 1, "file_name": image, "width": width, "height": height,
               "neg_category_ids": (np.flatnonzero(absent) + 1).tolist()}  # fmt: skip


def _annotations(
    data: Dataset, boxes: dict[int, dict[int, list[Edges]]], sizes: list[tuple[int, int]]
) -> Iterator[dict[str, Any]]:
    number = count(1)
    for row, (width, height) in enumerate(sizes):
        for c in np.flatnonzero(data.matrix.labels[row].numpy()).tolist():
            own = boxes.get(row, {}).get(c)
            for left, top, right, bottom in own or [(0.0, 0.0, 1.0, 1.0)]:
                across, down = (right - left) * width, (bottom - top) * height
                box = [round(n, 3) for n in (left * width, top * height, across, down)]
                yield {"id": next(number), "image_id": row + 1, "category_id": c + 1, "bbox": box,
                       "area": round(across * down, 3), "iscrowd": 0,
                       **({} if own else {"attributes": {"image_level": True}})}  # fmt: skip
