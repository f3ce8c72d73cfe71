"""The best and the worst images for the report, with tags and region maps as data URIs."""

import base64
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from PIL import Image

from trmml.errors import DataError
from trmml.images import read_image
from trmml.metrics.average_precision import average_precision
from trmml.tagging.region_maps import overlay, region_map, shrink

if TYPE_CHECKING:
    from trmml.tagging.evaluate import Evaluation

# Images from each end, and what is shown of each; together far below the 4 MB of a page.
ENDS, TAGS, MAPS = 4, 12, 3
LARGE_PIXELS, MAP_PIXELS, JPEG_QUALITY = 420, 220, 80
# No more images than this are ranked, evenly spread, so that large sets stay quick.
RANKED_IMAGES = 5000

Verdict = Literal["right", "wrong", "missed", "unknown"]


@dataclass(frozen=True)
class ShownTag:
    """A category of a shown image; `verdict` compares it with the label."""

    name: str
    probability: float
    verdict: Verdict


@dataclass(frozen=True)
class ShownMap:
    """The region map of one category, as a data URI."""

    name: str
    verdict: Verdict
    uri: str


@dataclass(frozen=True)
class ShownImage:
    """An image with its tags."""

    name: str  # of its file
    ap: float  # per-image average precision, over categories, in [0, 1]
    uri: str | None  # a JPEG, or None where the file can no longer be read
    true: tuple[str, ...]  # names of its known present categories, the first few
    more_true: int  # how many of these are not shown
    tags: tuple[ShownTag, ...]  # predicted or missed, the most probable first
    more_tags: int  # how many of these are not shown
    maps: tuple[ShownMap, ...]  # of the first tags


def best_and_worst(
    evaluation: "Evaluation", grid: tuple[int, int]
) -> tuple[list[ShownImage], list[ShownImage]]:
    """Images with the highest and with the lowest per-image average precision.

    Only images with a known positive and a known negative can be ranked; among equals, those
    that show more come first.

    Args:
        evaluation: of the run.
        grid: (rows, columns) of the patches.
    """
    ranked = _ranked(evaluation)
    best = ranked[:ENDS]
    worst = [place for place in reversed(ranked[ENDS:])][:ENDS]
    return (
        [_shown(evaluation, row, ap, grid) for row, ap in best],
        [_shown(evaluation, row, ap, grid) for row, ap in worst],
    )


def _ranked(evaluation: "Evaluation") -> list[tuple[int, float]]:
    """(row, AP) of the images, the best first."""
    matrix = evaluation.data.matrix
    present, absent = matrix.labels.sum(1), (matrix.known & ~matrix.labels).sum(1)
    rows = ((present > 0) & (absent > 0)).nonzero()[:, 0]
    rows = rows[:: max(1, -(-len(rows) // RANKED_IMAGES))]
    ranked = [
        (
            int(row),
            average_precision(evaluation.probabilities[row], matrix.labels[row], matrix.known[row]),
        )
        for row in rows
    ]
    return sorted(ranked, key=lambda pair: (-pair[1], -int(present[pair[0]]), pair[0]))


def _shown(evaluation: "Evaluation", row: int, ap: float, grid: tuple[int, int]) -> ShownImage:
    names, matrix = evaluation.data.category_names, evaluation.data.matrix
    categories = _chosen(evaluation, row)
    tags = [_tag(evaluation, row, c) for c in categories]
    true = [names[int(c)] for c in matrix.labels[row].nonzero()[:, 0]]
    try:
        image = read_image(evaluation.data.paths[row])
    except DataError:
        image = None
    maps: list[ShownMap] = []
    if image is not None:
        small = shrink(image, MAP_PIXELS)
        for category, tag in list(zip(categories, tags, strict=True))[:MAPS]:
            weights = region_map(evaluation.attention([row])[0, category], grid, small.size)
            maps.append(ShownMap(tag.name, tag.verdict, data_uri(overlay(small, weights))))
    return ShownImage(
        name=evaluation.data.images[row],
        ap=ap,
        uri=None if image is None else data_uri(shrink(image, LARGE_PIXELS)),
        true=tuple(true[:TAGS]),
        more_true=max(0, len(true) - TAGS),
        tags=tuple(tags[:TAGS]),
        more_tags=max(0, len(tags) - TAGS),
        maps=tuple(maps),
    )


def _chosen(evaluation: "Evaluation", row: int) -> list[int]:
    """Categories that are predicted or known to be present, the most probable first."""
    scores, labels = evaluation.probabilities[row], evaluation.data.matrix.labels[row]
    listed: list[int] = (_predicted(evaluation, row) | labels).nonzero()[:, 0].tolist()
    return sorted(listed, key=lambda c: -float(scores[c]))


def _predicted(evaluation: "Evaluation", row: int) -> torch.Tensor:
    limits = [c.threshold for c in evaluation.metrics.per_category]
    return evaluation.probabilities[row].double() >= torch.tensor(limits, dtype=torch.float64)


def _tag(evaluation: "Evaluation", row: int, category: int) -> ShownTag:
    matrix = evaluation.data.matrix
    verdict: Verdict = "right" if bool(matrix.labels[row, category]) else "wrong"
    if not bool(matrix.known[row, category]):
        verdict = "unknown"
    elif verdict == "right" and not bool(_predicted(evaluation, row)[category]):
        verdict = "missed"
    name = evaluation.data.category_names[category]
    return ShownTag(name, float(evaluation.probabilities[row, category]), verdict)


def data_uri(image: Image.Image) -> str:
    """An image as a JPEG inside a URI."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
