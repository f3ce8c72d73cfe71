"""Images with the categories they show: what every reader in this package returns."""

import logging
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from trmml.errors import ConfigError, DataError
from trmml.labels.matrix import LabelMatrix

Edges = tuple[float, float, float, float]

_log = logging.getLogger(__name__)

_ROUNDING = 0.01  # what a share may lie outside [0, 1]; Ultralytics' verify_image_label allows it


def is_share(number: float) -> bool:
    """Return whether a number lies in [0, 1], or beside it by no more than rounding; nan does not.

    Example:
        >>> is_share(1.004), is_share(120.0), is_share(float("nan"))
        (True, False, False)
    """
    return -_ROUNDING <= number <= 1 + _ROUNDING


def ordered(edges: Edges, where: str) -> Edges:
    """Return left, top, right, bottom in any unit, checked to be numbers in this order.

    Args:
        edges: they may lie outside the image, and on each other.
        where: for the message, as in `boxes.csv line 7`.

    Raises:
        DataError: an edge is not finite, or right or bottom comes before left or top.
    """
    left, top, right, bottom = edges
    if all(map(math.isfinite, edges)) and left <= right and top <= bottom:
        return edges
    raise DataError(
        f"{where} has a box with left, top, right, bottom {list(edges)}; expected finite numbers "
        "with left <= right and top <= bottom. Correct the box, or remove it."
    )


@dataclass(frozen=True, eq=False)
class Boxes:
    """K boxes around objects in the images of a data set; images without one are common.

    Args:
        image: index of each box's image, not negative.
        category: index of its category, not negative.
        edges: left, top, right, bottom as shares of the image's width and height, in [0, 1].

    Raises:
        DataError: the parts have different lengths, or an edge lies outside or on the wrong side.
    """

    image: Int[Tensor, " K"]
    category: Int[Tensor, " K"]
    edges: Float[Tensor, "K 4"]

    def __post_init__(self) -> None:
        """Check that the parts fit together and every box lies inside its image."""
        count = len(self.image)
        if len(self.category) != count or tuple(self.edges.shape) != (count, 4):
            raise DataError(
                f"boxes need one image, one category and four edges each, but there are {count} "
                f"images, {len(self.category)} categories and edges of shape "
                f"{tuple(self.edges.shape)}."
            )
        left, top, right, bottom = self.edges.unbind(1)
        good = (left >= 0) & (top >= 0) & (right <= 1) & (bottom <= 1)
        good &= (left < right) & (top < bottom)
        if not bool(good.all()):
            first = int((~good).nonzero()[0])
            raise DataError(
                f"box {first} has the edges {self.edges[first].tolist()}; expected shares in "
                "[0, 1] with left < right and top < bottom. Divide pixels by width and height."
            )

    def __len__(self) -> int:
        """Return the number of boxes."""
        return len(self.image)

    @classmethod
    def collect(cls, rows: Iterable[tuple[int, int, Edges]]) -> "Boxes":
        """Return boxes from (image, category, edges), cut at the image's border.

        What has no area after the cut is left out, and of equal boxes one is kept.

        Raises:
            DataError: an edge is not finite, or right or bottom comes before left or top.

        Example:
            >>> boxes = Boxes.collect([(0, 2, (-0.1, 0.0, 0.5, 1.2)), (1, 0, (0.5, 0.5, 0.5, 0.9))])
            >>> boxes.image.tolist(), boxes.category.tolist(), boxes.edges.tolist()
            ([0], [2], [[0.0, 0.0, 0.5, 1.0]])
        """
        kept: dict[tuple[int, int, Edges], None] = {}
        for image, category, edges in rows:
            ordered(edges, f"image {image} (counted from 0)")
            left, top, right, bottom = (min(max(edge, 0.0), 1.0) for edge in edges)
            if left < right and top < bottom:
                kept[image, category, (left, top, right, bottom)] = None
        return cls(
            torch.tensor([image for image, _, _ in kept], dtype=torch.int64),
            torch.tensor([category for _, category, _ in kept], dtype=torch.int64),
            torch.tensor([edges for _, _, edges in kept], dtype=torch.float64).reshape(-1, 4),
        )

    def rows(self) -> Iterator[tuple[int, int, Edges]]:
        """Yield image, category and edges of each box."""
        yield from zip(self.image.tolist(), self.category.tolist(),
                       map(tuple, self.edges.tolist()), strict=True)  # fmt: skip

    def subset(self, images: Sequence[int]) -> "Boxes":
        """Return the boxes of `images`, whose indices are renumbered in that order.

        Args:
            images: indices of images, each not negative; one that comes twice brings its boxes
                twice.
        """
        wanted = torch.as_tensor(images, dtype=torch.int64)
        held, order = self.image.sort(stable=True)
        first = torch.searchsorted(held, wanted)
        counts = torch.searchsorted(held, wanted, right=True) - first
        renumbered = torch.repeat_interleave(torch.arange(len(wanted)), counts)
        before = counts.cumsum(0) - counts  # boxes of the images that come earlier
        index = order[torch.arange(len(renumbered)) - before[renumbered] + first[renumbered]]
        return Boxes(renumbered, self.category[index], self.edges[index])


@dataclass(frozen=True, eq=False)
class Dataset:
    """N images below one folder and what is known about C categories in them.

    Args:
        root: the folder that holds the images.
        images: their names below `root`, with `/` between folders.
        category_names: in the order of the columns of `matrix`.
        matrix: images x categories.
        rows: per image the line (or row) of the table it came from, for messages.
        boxes: where objects are. None: the set has no boxes.
        sources: SHA-256 of what the labels were read from, by role, for the run's card.

    Raises:
        DataError: the parts have different lengths, or a box names an image or category that is
            not there.
    """

    root: Path
    images: tuple[str, ...]
    category_names: tuple[str, ...]
    matrix: LabelMatrix
    rows: tuple[int, ...]
    boxes: Boxes | None = None
    sources: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check that the parts fit together."""
        expected = tuple(self.matrix.known.shape)
        sizes = (len(self.images), len(self.category_names))
        if sizes != expected or len(self.rows) != len(self.images):
            raise DataError(
                f"a dataset of {len(self.images)} images, {len(self.category_names)} categories "
                f"and {len(self.rows)} rows cannot have labels of shape {expected}. "
                "Give one row per image and one column per category."
            )
        if self.boxes is not None and len(self.boxes):
            for name, index, size in (
                ("image", self.boxes.image, sizes[0]),
                ("category", self.boxes.category, sizes[1]),
            ):
                if int(index.min()) < 0 or int(index.max()) >= size:
                    raise DataError(
                        f"a box names {name} {int(index.max())}, but there are {size}, counted "
                        "from 0. Take boxes and labels from the same images and categories."
                    )

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    @property
    def paths(self) -> list[Path]:
        """Where each image lies."""
        return [self.root / name for name in self.images]

    def subset(self, indices: Sequence[int]) -> "Dataset":
        """Return the images at `indices`, in that order, each index in [0, N).

        Raises:
            DataError: an index is no whole number or lies outside.
        """
        matrix = self.matrix.subset(indices)
        return Dataset(
            root=self.root,
            images=tuple(self.images[index] for index in indices),
            category_names=self.category_names,
            matrix=matrix,
            rows=tuple(self.rows[index] for index in indices),
            boxes=None if self.boxes is None else self.boxes.subset(indices),
            sources=self.sources,
        )

    def select(self, category_names: Sequence[str]) -> "Dataset":
        """Return the same images with these categories, in this order, without boxes.

        Raises:
            DataError: one of them is missing.
        """
        missing = [name for name in category_names if name not in self.category_names]
        if missing:
            raise DataError(
                f"the labels lack {len(missing)} of the {len(category_names)} categories that are"
                f" needed, first {missing[0]!r}; give a table with all of them, empty where nothing"
                " is known"
            )
        places = {name: place for place, name in enumerate(self.category_names)}
        columns = self.matrix.columns([places[name] for name in category_names])
        return Dataset(self.root, self.images, tuple(category_names), columns, self.rows)


def without_contradictions(data: Dataset) -> Dataset:
    """Return the data where no pair is present in one row of an image and absent in another.

    Such pairs become unknown in all rows of the image, as where annotators disagree. Images that
    come once stay as they are.
    """
    first: dict[str, int] = {}
    rows = [first.setdefault(name, index) for index, name in enumerate(data.images)]
    if len(first) == len(rows):
        return data
    matrix, order = data.matrix, torch.tensor(rows)
    yes, no = matrix.labels.clone(), matrix.known & ~matrix.labels
    for index, row in enumerate(rows):
        yes[row] |= yes[index]
        no[row] |= no[index]
    open_pairs = (yes & no)[order]
    count = int((open_pairs & matrix.known).sum())
    if not count:
        return data
    _log.warning(
        "%d images are listed more than once; %d labels in which their rows contradict each other"
        " are taken as unknown", len(rows) - len(first), count,
    )  # fmt: skip
    return replace(data, matrix=LabelMatrix(matrix.labels, matrix.known & ~open_pairs))


def in_both(one: Dataset, other: Dataset) -> list[str]:
    """Files that are images of both, under whatever names and links; sorted."""
    return sorted(
        {os.path.realpath(p) for p in one.paths} & set(map(os.path.realpath, other.paths))
    )


def keep_aside(data: Dataset, share: float, seed: int) -> tuple[Dataset, Dataset]:
    """Return the images to train on, and a share of them, drawn at random, to test on.

    Args:
        data: two images at least.
        share: in (0, 1); one image at least is on either side.
        seed: the same seed draws the same images.

    Raises:
        ConfigError: the share is out of its range.
        DataError: there is one image only.
    """
    if not 0 < share < 1:
        raise ConfigError(f"the share of test images must lie between 0 and 1, not {share}.")
    if len(data) < 2:
        raise DataError("one image cannot be both trained and tested on. Give more images.")
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed)).tolist()
    count = min(max(1, round(share * len(data))), len(data) - 1)
    return data.subset(sorted(order[count:])), data.subset(sorted(order[:count]))
