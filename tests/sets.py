"""Small data sets in the forms of their publishers, written file by file."""

import io
from collections.abc import Iterable, Mapping
from pathlib import Path

from PIL import Image

from trmml.datasets import Dataset
from trmml.datasets.catalog import read_named
from trmml.datasets.options import Split

State = bool | None
Y, N, U = True, False, None


def write(root: Path, files: Mapping[str, str | bytes]) -> None:
    """Write each file below `root` as it is: no line end is changed."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def write_images(root: Path, names: Iterable[str], size: tuple[int, int] = (8, 4)) -> None:
    """Write a small image for each name, all different."""
    write(root, {name: image_bytes(index, size) for index, name in enumerate(names)})


def image_bytes(number: int, size: tuple[int, int] = (8, 4), form: str = "PNG") -> bytes:
    """Return the bytes of a small image; another number, another image."""
    file = io.BytesIO()
    Image.new("RGB", size, (number % 256, number // 256, 7)).save(file, form)
    return file.getvalue()


def read(name: str, root: Path, split: Split = "train", **options: str) -> Dataset:
    return read_named(name, root, split, options)


def states(data: Dataset) -> list[list[State]]:
    """What is known of each pair."""
    pairs = zip(data.matrix.labels.tolist(), data.matrix.known.tolist(), strict=True)
    return [[yes if there else None for yes, there in zip(*pair, strict=True)] for pair in pairs]


def boxes(data: Dataset) -> list[tuple[str, str, tuple[float, ...]]]:
    """Image, category and edges of each box, edges with four decimals."""
    assert data.boxes is not None
    return [
        (
            data.images[image],
            data.category_names[category],
            tuple(round(float(edge), 4) for edge in edges),
        )
        for image, category, edges in zip(
            data.boxes.image.tolist(),
            data.boxes.category.tolist(),
            data.boxes.edges.tolist(),
            strict=True,
        )
    ]
