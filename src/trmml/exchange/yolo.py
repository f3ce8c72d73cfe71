"""Write label folders as YOLO's training tools use them: https://docs.ultralytics.com/datasets/detect/."""

from pathlib import Path

from trmml.datasets.base import Edges
from trmml.datasets.convert import place_images
from trmml.datasets.formats.yolo import label_name
from trmml.exchange.source import Source
from trmml.exchange.writing import (
    as_json,
    refuse_same_stems,
    refuse_unfit,
)
from trmml.settings.choices import ImageTransfer


def write_yolo(
    folder: Path,
    source: Source,
    boxes: dict[int, dict[int, list[Edges]]],
    images: ImageTransfer,
) -> int:
    """Write images/train/, labels/train/ and data.yaml; the number of boxes.

    An image of which nothing is known has no label file. YOLO's tools look for labels beside the
    images, so these are linked or copied.

    Raises:
        DataError: two images differ by their suffix alone.
    """
    data = source.shown
    refuse_same_stems(data.images, "YOLO")
    refuse_unfit(data.category_names, "category", "YOLO's list of names")
    place_images(folder / "images", "train", data, images)
    names = "".join(f"  {c}: {as_json(name)}\n" for c, name in enumerate(data.category_names))
    # Without `path` YOLO's tools begin at this file; "." would be the folder they are started in.
    card = f"train: images/train\nval: images/train\nnames:\n{names}"
    (folder / "data.yaml").write_text(card, encoding="utf-8")
    for row, image in enumerate(data.images):
        if not data.matrix.known[row].any():
            continue
        lines = [f"{c} {(left + right) / 2:.6f} {(top + bottom) / 2:.6f} {right - left:.6f}"
                 f" {bottom - top:.6f}\n"
                 for c, edges in boxes.get(row, {}).items()
                 for left, top, right, bottom in edges]  # fmt: skip
        path = folder / label_name(f"images/train/{image}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(lines), encoding="utf-8")
    return sum(len(edges) for own in boxes.values() for edges in own.values())
