"""Read the tasks of Label Studio's exports: each image with what its annotators answered."""

import math
import operator
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

from trmml.datasets.base import Edges
from trmml.datasets.files import below
from trmml.datasets.formats.label_studio_short import read_tree
from trmml.datasets.tables.names import clean_name
from trmml.errors import DataError

Taxonomy = Literal["all", "leaf"]

# Controls are kept by kind and name, as in "regions/box" and "choices/tag".
REGIONS = "regions/"


class Answer(NamedTuple):
    """What one annotator answered with one control, and the names above in a taxonomy."""

    control: str
    names: frozenset[str]
    implied: frozenset[str]
    boxes: tuple[tuple[str, Edges], ...]


class Task(NamedTuple):
    """A task: its place in the file from 1, its image and the answers of each annotator."""

    row: int
    image: str
    annotators: tuple[tuple[Answer, ...], ...]


def control_key(kind: str, name: str) -> str | None:
    """Return a control's kind and name in one, as in `Answer`; None for texts, numbers and such."""
    if kind.endswith("labels"):
        return f"{REGIONS}{name}"
    return f"{kind}/{name}" if kind in ("choices", "taxonomy") else None


def read_tasks(
    path: Path, *, image: str, taxonomy: Taxonomy, kinds: Mapping[str, str]
) -> list[Task]:
    """Return the tasks of an export.

    Args:
        path: the export, of any of the three forms.
        image: the key of a task's data that names its image.
        taxonomy: which names on a taxonomy's path are an answer.
        kinds: see `read_tree`.

    Raises:
        DataError: it is damaged or of another form.
    """
    tree = read_tree(path, kinds)
    if not isinstance(tree, list) or not all(
        isinstance(task, dict) and isinstance(task.get("data"), dict) for task in tree
    ):
        raise DataError(
            f"{path} is no list of tasks. Export the project as JSON, JSON-MIN or CSV; for a COCO "
            "export take the data set 'coco'."
        )
    tasks = []
    for row, task in enumerate(tree, start=1):
        where = f"{path}, task {row}"
        source = task["data"].get(image)
        if not isinstance(source, str) or not source:
            raise DataError(
                f"{where}: data has no {image!r}, but {', '.join(task['data'])}. Name the "
                "key of the image as option image=KEY."
            )
        key = "annotations" if "annotations" in task else "completions"
        entries = _objects(task.get(key), key, where)
        done = [entry for entry in entries if not entry.get("was_cancelled")]
        done = [entry for entry in done if entry.get("ground_truth")] or done
        answers = tuple(tuple(_answers(entry, taxonomy, where)) for entry in done)
        tasks.append(Task(row, _image_name(source, where), answers))
    return tasks


def _objects(value: Any, key: str, where: str) -> list[dict[str, Any]]:
    """Return a list of objects; null is an empty one."""
    entries = [] if value is None else value
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise DataError(
            f"{where}: {key!r} should be a list of objects, but is {value!r:.60}. Export it again "
            "as JSON."
        )
    return entries


def _image_name(source: str, where: str) -> str:
    """Return an image's path below its folder, from a URL, an upload or a local file.

    Example:
        >>> _image_name("/data/local-files/?d=trip%2Fa%20b.jpg", "task 1")
        'trip/a b.jpg'
        >>> _image_name("/data/upload/3/0a1b2c3d-a.jpg", "task 1")
        '0a1b2c3d-a.jpg'
    """
    parts = urlsplit(source)
    local = parse_qs(parts.query).get("d")
    path = local[0] if local else unquote(parts.path)
    path = re.sub(r"^/data/upload/(\d+/)?", "", path)
    return below(path.lstrip("/"), where)


def _answers(entry: Mapping[str, Any], taxonomy: Taxonomy, where: str) -> Iterator[Answer]:
    for result in _objects(entry.get("result"), "result", where):
        kind, value = str(result.get("type", "")), result.get("value")
        if not isinstance(value, dict):
            continue  # relations and the like
        control = control_key(kind, str(result.get("from_name", "")))
        if control is None:
            continue
        paths = _paths(value.get(kind), kind, where)
        above = {clean_name(name) for path in paths for name in path[:-1]}
        names = frozenset(clean_name(path[-1]) for path in paths)
        if taxonomy == "all":
            names |= above
        boxes: tuple[tuple[str, Edges], ...] = ()
        if kind == "rectanglelabels":
            edges = _edges(result, value, where)
            boxes = tuple((name, edges) for name in sorted(names))
        yield Answer(control, names, frozenset(above), boxes)


def _paths(value: Any, kind: str, where: str) -> list[list[str]]:
    """Return the names of an answer, each with those above it before it; null is none."""
    entries = [] if value is None else value
    paths = entries
    if kind != "taxonomy" and isinstance(entries, list):
        paths = [[name] for name in entries]
    if not isinstance(paths, list) or not all(
        isinstance(path, list) and all(isinstance(name, str) for name in path) for path in paths
    ):
        form = '[["animal", "cat"]]' if kind == "taxonomy" else '["cat"]'
        raise DataError(
            f"{where}: {kind} should be a list of names as in {form}, but is {value!r:.60}. Export "
            "it again as JSON."
        )
    return [path for path in paths if path]


def _edges(result: Mapping[str, Any], value: Mapping[str, Any], where: str) -> Edges:
    """Return the upright box around a rectangle, given in percent and turned about its corner."""
    try:
        x, y, width, height = (float(value[key]) / 100 for key in ("x", "y", "width", "height"))
        angle = math.radians(float(value.get("rotation") or 0))
        cosine, sine = math.cos(angle), math.sin(angle)
        sizes = (float(result.get(f"original_{key}") or 1) for key in ("width", "height"))
        shape = operator.truediv(*sizes)
        if not 0 < shape < math.inf:
            raise ValueError
    except (KeyError, TypeError, ValueError, ArithmeticError):
        raise DataError(
            f"{where}: a rectangle lacks x, y, width or height, or its rotation or the size of its "
            "image is no usable number. Export it again."
        ) from None
    corners = [
        (x + u * cosine - v * sine / shape, y + u * sine * shape + v * cosine)
        for u in (0.0, width)
        for v in (0.0, height)
    ]
    lefts, tops = zip(*corners, strict=True)
    return min(lefts), min(tops), max(lefts), max(tops)
