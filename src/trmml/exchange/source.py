"""What is exported: what people know of images, and what a run says of the rest."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from trmml.curation.answers import existing
from trmml.curation.collection import Collection
from trmml.curation.policies import info
from trmml.curation.standing import Applied, apply_answers, places_by_content, standing
from trmml.datasets.base import Dataset
from trmml.errors import DataError
from trmml.image_search import find_images
from trmml.labels.matrix import LabelMatrix

Kind = Literal["run", "journal", "table", "data"]
_SQLITE = b"SQLite format 3\0"


@dataclass(frozen=True, eq=False)
class Source:
    """Labels, and what a run says where there are none.

    Attributes:
        data: what people know.
        tags: pairs that the run calls present, and people left open; none without a run.
        probabilities: of the run, calibrated; None without one.
        doubt: how undecided the run is about the open pair it knows least of, in [0, 1].
        run: first 12 digits of the SHA-256 of its model.json, "" without one.
    """

    data: Dataset
    tags: Bool[Tensor, "N C"]
    probabilities: Float[Tensor, "N C"] | None = None
    doubt: Float[Tensor, " N"] | None = None
    run: str = ""

    @classmethod
    def of_people(cls, data: Dataset) -> "Source":
        """Labels alone."""
        return cls(data, torch.zeros_like(data.matrix.known))

    @classmethod
    def of_run(cls, collection: Collection) -> "Source":
        """What a run says of a collection, from each category's threshold on a tag."""
        probabilities = collection.logits.sigmoid()
        is_open = ~collection.matrix.known
        thresholds = collection.calibration.thresholds.to(probabilities.dtype)
        doubt = (info(collection.logits) * is_open).amax(dim=1)
        return cls(collection.data, (probabilities >= thresholds) & is_open,
                   probabilities, doubt, collection.run[:12])  # fmt: skip

    @property
    def shown(self) -> Dataset:
        """The data with the run's tags as present."""
        matrix = self.data.matrix
        both = LabelMatrix(matrix.labels | self.tags, matrix.known | self.tags)
        return replace(self.data, matrix=both)


def kind_of(path: Path) -> Kind:
    """What a source is: a run's folder, a journal of answers, another folder, or a table.

    Raises:
        DataError: there is nothing of that name.
    """
    if not path.exists():
        raise DataError(
            f"{path} does not exist. Name a run, a table of labels, a data set's folder or a"
            " journal of answers."
        )
    if path.is_dir():
        return "run" if (path / "model.json").is_file() else "data"
    with path.open("rb") as file:
        return "journal" if file.read(len(_SQLITE)) == _SQLITE else "table"


def open_images(images: Path, category_names: tuple[str, ...]) -> Dataset:
    """All images below a folder, of which nothing is known.

    Raises:
        DataError: there are none.
    """
    return unlabelled(images, find_images([images]), category_names)


def unlabelled(root: Path, paths: Iterable[Path], category_names: tuple[str, ...]) -> Dataset:
    """Images of which nothing is known, by their names below a root."""
    names = tuple(Path(os.path.relpath(path, root)).as_posix() for path in paths)
    nothing = torch.zeros(len(names), len(category_names), dtype=torch.bool)
    rows = tuple(range(1, len(names) + 1))
    return Dataset(root, names, category_names, LabelMatrix(nothing, nothing), rows)


def read_journal(path: Path, images: Path) -> Applied:
    """The images that people answered about, with what is settled; an image is known by content.

    The categories are those of settled pairs, by their cleaned names.

    Raises:
        DataError: nothing in the journal is settled about an image below the folder.
    """
    with existing(path) as journal:
        rows = journal.rows()
    places = places_by_content(open_images(images, ()), rows)
    settled = standing(rows, places=places).last
    names = tuple(sorted({category for place, category in settled if isinstance(place, int)}))
    applied = apply_answers(open_images(images, names), rows, places)
    answered = sorted({image for image, _ in applied.pairs})
    if not answered:
        raise DataError(
            f"{path} settles nothing about an image below {images}: it has {len(rows)} rows, and"
            f" {applied.other_images} answers are about other images. Name the folder that the"
            " questions came from."
        )
    return replace(applied, data=applied.data.subset(answered))
