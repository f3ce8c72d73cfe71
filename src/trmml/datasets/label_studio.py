"""Read Label Studio's JSON export: choices, taxonomies and rectangles.

Export a project as "JSON" (not JSON-MIN, not CSV; https://labelstud.io/guide/task_format), one file
per split, beside the folder of its images:

    train.json, test.json       a list of tasks, each with `data` and `annotations`
    images/...                  what data.image names: its path, without `/data/upload/1/` or
                                `?d=` before it, and without the prefix that an upload adds
    config.xml                  optional: the labelling interface, with all names there are

What a category is in a task, for each control (a Choices, Taxonomy or RectangleLabels tag):

- the annotator named it: present; they answered the control without naming it: absent;
- they left the control empty: `blank=unknown` or `absent` for choices and taxonomies; rectangles
  and other regions are absent, since drawing none is the answer;
- the task was skipped (`was_cancelled`), or nobody has annotated it: unknown;
- several annotators disagree: unknown. An annotation marked `ground_truth` alone counts.

Predictions are not read. Names come from config.xml, or else are all that occur in both files. Of
a taxonomy's path `taxonomy=all` takes every name on the way; `leaf` takes the last and leaves those
above it unknown.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import torch
from pydantic import Field

from trmml.datasets.base import Boxes, Dataset, Edges
from trmml.datasets.files import below, find_file, read_json, read_xml
from trmml.datasets.image_files import ImageFiles
from trmml.datasets.options import ReaderOptions, Split
from trmml.datasets.tables import clean_name
from trmml.errors import DataError
from trmml.labels import LabelMatrix

_UPLOAD_PREFIX = re.compile(r"^[0-9a-f]{8}-")  # that Label Studio puts before an uploaded name


class LabelStudioOptions(ReaderOptions):
    """Choices of `label-studio`."""

    train: str = Field("train.json", description="the training set's export below the root")
    test: str = Field("test.json", description="the test set's export below the root")
    image_folder: str = Field("images", description="folder of the images below the root")
    image: str = Field("image", description="the key of a task's data that names its image")
    config: str = Field("config.xml", description="the labelling interface, where it is there")
    blank: Literal["unknown", "absent"] = Field(
        "unknown", description="what the names of a choice or taxonomy are that was left empty"
    )
    taxonomy: Literal["all", "leaf"] = Field(
        "all", description="every name on a taxonomy's path, or the last one"
    )


class _Answer(NamedTuple):
    """What one annotator said with one control, and the names above in a taxonomy."""

    control: str
    names: frozenset[str]
    implied: frozenset[str]
    boxes: tuple[tuple[str, Edges], ...]


class _Task(NamedTuple):
    """A task: its place in the file from 1, its image and the answers of each annotator."""

    row: int
    image: str
    annotators: tuple[tuple[_Answer, ...], ...]


def read_label_studio(root: Path, split: Split, options: LabelStudioOptions) -> Dataset:
    """Return the tasks of an export with what annotators answered; see the module.

    Raises:
        DataError: the export or the interface is missing, damaged or of another form.
    """
    files = {"train": options.train, "test": options.test}
    path = find_file(root, [files[split]], f"the {split} export (option {split}=FILE)")
    parts = {
        part: _tasks(root / file, options)
        for part, file in files.items()
        if (root / file).is_file()
    }
    controls = _controls(root, options, [task for part in parts.values() for task in part])
    names = tuple(dict.fromkeys(name for listed in controls.values() for name in listed))
    if not names:
        raise DataError(
            f"{path} holds no choice, taxonomy or rectangle that was answered. Export the project "
            "as JSON after annotating, or add config.xml."
        )
    tasks = parts[split]
    columns = {name: column for column, name in enumerate(names)}
    labels, known = (torch.zeros(len(tasks), len(names), dtype=torch.bool) for _ in range(2))
    boxes = []
    for index, task in enumerate(tasks):
        present, absent = _verdict(task, controls, options, path)
        labels[index, [columns[name] for name in present]] = True
        known[index, [columns[name] for name in present | absent]] = True
        found = (box for answers in task.annotators for a in answers for box in a.boxes)
        boxes += [(index, columns[name], edges) for name, edges in found if name in present]
    images = _locate(root, options.image_folder, [task.image for task in tasks])
    rows = tuple(task.row for task in tasks)
    return Dataset(root, images, names, LabelMatrix(labels, known), rows, Boxes.collect(boxes))


def _verdict(
    task: _Task, controls: Mapping[str, Sequence[str]], options: LabelStudioOptions, path: Path
) -> tuple[set[str], set[str]]:
    """Return what is present and what is absent by the word of all annotators."""
    present: list[set[str]] = []
    absent: list[set[str]] = []
    for answers in task.annotators:
        yes = {name for answer in answers for name in answer.names}
        unlisted = yes - {name for listed in controls.values() for name in listed}
        if unlisted:
            raise DataError(
                f"{path}, task {task.row}: {min(unlisted)!r} is no name of {options.config}. "
                "Export the interface again, remove the file, or take taxonomy=all."
            )
        answered = {answer.control for answer in answers}
        if options.blank == "absent":
            answered |= set(controls)
        else:
            answered |= {control for control in controls if control.startswith(_REGIONS)}
        present.append(yes)
        implied = {name for answer in answers for name in answer.implied}
        asked = {name for control in answered for name in controls.get(control, ())}
        absent.append(asked - yes - implied)
    if not present:
        return set(), set()
    return set.intersection(*present), set.intersection(*absent)


# Controls are kept by kind and name, as in "regions/box" and "choices/tag".
_REGIONS = "regions/"


def _tasks(path: Path, options: LabelStudioOptions) -> list[_Task]:
    tree = read_json(path)
    if not isinstance(tree, list) or not all(
        isinstance(task, dict) and isinstance(task.get("data"), dict) for task in tree
    ):
        raise DataError(
            f"{path} is no list of tasks with 'data'. Export the project as JSON, not as JSON-MIN "
            "or COCO."
        )
    tasks = []
    for row, task in enumerate(tree, start=1):
        where = f"{path}, task {row}"
        source = task["data"].get(options.image)
        if not isinstance(source, str) or not source:
            raise DataError(
                f"{where}: data has no {options.image!r}, but {', '.join(task['data'])}. Name the "
                "key of the image as option image=KEY."
            )
        entries = task.get("annotations", task.get("completions")) or []
        done = [entry for entry in entries if not entry.get("was_cancelled")]
        done = [entry for entry in done if entry.get("ground_truth")] or done
        answers = tuple(tuple(_answers(entry, options, where)) for entry in done)
        tasks.append(_Task(row, _image_name(source, where), answers))
    return tasks


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


def _answers(
    entry: Mapping[str, Any], options: LabelStudioOptions, where: str
) -> Iterator[_Answer]:
    for result in entry.get("result") or []:
        kind, value = str(result.get("type", "")), result.get("value")
        if not isinstance(value, dict):
            continue  # relations and the like
        named = value.get(kind)
        above: list[Any] = []
        if kind == "taxonomy":
            paths = [path for path in named or [] if path]
            above = [name for path in paths for name in path[:-1]]
            listed = [path[-1] for path in paths] + (above if options.taxonomy == "all" else [])
        elif kind == "choices" or kind.endswith("labels"):
            listed = named or []
        else:
            continue  # texts, ratings, numbers
        if not all(isinstance(name, str) for name in [*listed, *above]):
            raise DataError(f"{where}: {kind} holds {listed!r:.60}, not names. Export it again.")
        names = frozenset(clean_name(name) for name in listed)
        family = _REGIONS if kind.endswith("labels") else f"{kind}/"
        boxes: tuple[tuple[str, Edges], ...] = ()
        if kind == "rectanglelabels":
            edges = _edges(result, value, where)
            boxes = tuple((name, edges) for name in sorted(names))
        control = f"{family}{result.get('from_name', '')}"
        yield _Answer(control, names, frozenset(map(clean_name, above)), boxes)


def _edges(result: Mapping[str, Any], value: Mapping[str, Any], where: str) -> Edges:
    """Return the upright box around a rectangle, given in percent and turned about its corner."""
    try:
        x, y, width, height = (float(value[key]) / 100 for key in ("x", "y", "width", "height"))
        angle = math.radians(float(value.get("rotation") or 0))
        across = float(result.get("original_width") or 1)
        down = float(result.get("original_height") or 1)
    except (KeyError, TypeError, ValueError):
        raise DataError(
            f"{where}: a rectangle lacks x, y, width or height. Export it again."
        ) from None
    cosine, sine, shape = math.cos(angle), math.sin(angle), across / down
    corners = [
        (x + u * cosine - v * sine / shape, y + u * sine * shape + v * cosine)
        for u in (0.0, width)
        for v in (0.0, height)
    ]
    lefts, tops = zip(*corners, strict=True)
    return min(lefts), min(tops), max(lefts), max(tops)


def _controls(
    root: Path, options: LabelStudioOptions, tasks: Sequence[_Task]
) -> dict[str, list[str]]:
    """Return the names of each control: of the interface, or all that occur, sorted."""
    path = root / options.config
    if path.is_file():
        return _interface(path, options)
    seen: dict[str, set[str]] = {}
    for task in tasks:
        for answers in task.annotators:
            for answer in answers:
                seen.setdefault(answer.control, set()).update(answer.names)
    return {control: sorted(seen[control]) for control in sorted(seen)}


def _interface(path: Path, options: LabelStudioOptions) -> dict[str, list[str]]:
    controls: dict[str, list[str]] = {}
    for element in read_xml(path).iter():
        kind = element.tag.lower()
        if kind not in ("choices", "taxonomy") and not kind.endswith("labels"):
            continue
        family = _REGIONS if kind.endswith("labels") else f"{kind}/"
        inner = [node for node in element.iter() if node.tag in ("Choice", "Label")]
        if kind == "taxonomy" and options.taxonomy == "leaf":
            inner = [node for node in inner if node.find("Choice") is None]
        names = [clean_name(node.get("alias") or node.get("value") or "") for node in inner]
        controls[f"{family}{element.get('name', '')}"] = list(dict.fromkeys(filter(None, names)))
    return controls


def _locate(root: Path, folder: str, images: Sequence[str]) -> tuple[str, ...]:
    """Return where each image lies: by its path, its name, or its name before it was uploaded."""
    files = ImageFiles(root)
    found = []
    for image in images:
        name = image.rpartition("/")[2]
        tries = (f"{folder}/{image}", image, f"{folder}/{name}",
                 f"{folder}/{_UPLOAD_PREFIX.sub('', name)}")  # fmt: skip
        places = (files.find(place.removeprefix("./")) for place in tries)
        found.append(next((place for place in places if place), tries[0]))
    return tuple(found)
