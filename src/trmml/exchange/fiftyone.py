"""Write a folder that FiftyOne reads as a FiftyOneImageClassificationDataset.

Its importer (fiftyone/utils/data/importers.py) cuts the suffix off the keys of data.json, and looks
the keys of labels.json up there as they are.
"""

import os
from pathlib import Path

import numpy as np

from trmml.exchange.source import Source
from trmml.exchange.writing import as_json, refuse_same_stems, refuse_unfit, stem, stream


def write_fiftyone(folder: Path, source: Source) -> None:
    """Write data.json, which says where each image is, and labels.json, what it shows.

    A tag of a run has its probability as confidence.

    Raises:
        DataError: two images differ by their suffix alone, or a name holds no text.
    """
    data = source.shown
    refuse_unfit(data.images, "image", "FiftyOne")
    refuse_same_stems(data.images, "FiftyOne")
    with (folder / "data.json").open("w", encoding="utf-8") as file:
        places = (f"{as_json(image)}: {as_json(os.path.abspath(data.root / image))}"
                  for image in data.images)  # fmt: skip
        stream(file, "{", places, "}\n")
    with (folder / "labels.json").open("w", encoding="utf-8") as file:
        opening = f'{{"classes": {as_json(data.category_names)}, "labels": {{'
        shown = (f"{as_json(stem(image))}: {as_json(_shown(source, row))}"
                 for row, image in enumerate(data.images))  # fmt: skip
        stream(file, opening, shown, "}}\n")


def _shown(source: Source, row: int) -> list[dict[str, object]]:
    """What one image shows."""
    present = source.data.matrix.labels[row] | source.tags[row]
    labels: list[dict[str, object]] = []
    for c in np.flatnonzero(present.numpy()).tolist():
        label: dict[str, object] = {"label": source.data.category_names[c]}
        if source.probabilities is not None and source.tags[row, c]:
            label["confidence"] = round(source.probabilities[row, c].item(), 6)
        labels.append(label)
    return labels
