"""What tagging gives: images with their tags."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Tag:
    """One category that an image shows.

    Attributes:
        category: its name.
        probability: calibrated, in [0, 1].
        threshold: the probability from which it counts as present.
    """

    category: str
    probability: float
    threshold: float


@dataclass(frozen=True)
class TaggedImage:
    """An image and its tags, the most probable first.

    Attributes:
        path: as it was given.
        tags: those chosen.
        error: why the image could not be read, or None.
        maps: files of the region maps, where asked for.
    """

    path: Path
    tags: tuple[Tag, ...] = ()
    error: str | None = None
    maps: tuple[Path, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe form; `maps` and `error` are there only where there are any."""
        tags = [
            {
                "category": tag.category,
                "probability": round(tag.probability, 6),
                "threshold": round(tag.threshold, 6),
            }
            for tag in self.tags
        ]
        tree: dict[str, Any] = {"image": str(self.path), "tags": tags}
        if self.maps:
            tree["maps"] = [str(path) for path in self.maps]
        return tree if self.error is None else {**tree, "error": self.error}
